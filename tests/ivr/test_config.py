"""Settings: every wrong key is named with file, line and what is allowed; the shipped file and the models agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from ivr.config import Config, load_config, parse_config, resolve_secret
from ivr.errors import ConfigError
from ivr.parts import asterisk_options, call_options

SHIPPED = Path(__file__).parents[2] / "config.yaml"


def _keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    out: set[str] = set()
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            out |= _keys(nested, f"{prefix}{name}.")
        else:
            out.add(prefix + name)
    return out


def _flat(data: dict[str, object], prefix: str = "") -> set[str]:
    out: set[str] = set()
    for name, value in data.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name}
    return out


def test_config_yaml_as_shipped_shows_every_key_with_its_default() -> None:
    """The shipped file names every key there is, and each stands at its default."""
    assert load_config(SHIPPED) == Config()
    assert _flat(yaml.safe_load(SHIPPED.read_text())) == _keys(Config)


def test_config_yaml_comments_every_key() -> None:
    """Each key of the shipped file has a comment of its own above it."""
    lines = SHIPPED.read_text().splitlines()
    for number, line in enumerate(lines):
        if ":" in line and not line.lstrip().startswith("#") and line.startswith("  "):
            above = lines[number - 1].lstrip()
            assert above.startswith("#") or "#" in line, f"line {number + 1} has no comment: {line}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("line:\n  sever: pbx\n", "c.yaml:2: line.sever: unknown key; did you mean `server`?"),
        ("policy:\n  zzz: 1\n", "c.yaml:2: policy.zzz: unknown key; known keys here: mode, pack, queues"),
        ("ears:\n  workers: two\n", "c.yaml:2: ears.workers: input should be a valid integer, found 'two'"),
        ("ears:\n  workers: 0\n", "c.yaml:2: ears.workers: input should be greater than or equal to 1, found 0"),
        ("line: 3\n", "c.yaml:1: line: "),
        ("line:\n  local_ip: pbx.example\n", "c.yaml:2: line.local_ip: expected an IPv4 address"),
        ("line:\n  trusted_peers: [10.0.0.1/8]\n", "c.yaml:2: line.trusted_peers: expected networks"),
        ("line:\n  max_legs: 900\n", "max_legs is 900: widen the range or lower max_legs"),
        ("ears:\n  endpointing:\n    max_utterance_ms: 2000\n", "must be at least twice"),
        ("api:\n  host: 0.0.0.0\n", "host is 0.0.0.0, which others can reach, so either tls_cert and tls_key or"),
        ("api:\n  tls_cert: a.pem\n", "tls_cert and tls_key belong together"),
        ("api:\n  public_hosts: ['https://x']\n", "c.yaml:2: api.public_hosts"),
        ("api:\n  trusted_proxies: [proxy]\n", "c.yaml:2: api.trusted_proxies: expected networks"),
        ("api:\n  port: 1\n  port: 2\n", "c.yaml:3: api.port: key given twice; first on line 2"),
        (
            "pbx:\n  kind: asterisk\n",
            "so asterisk.secret and asterisk.agents (or queues, or variable) must be set",
        ),
        ("pbx:\n  asterisk:\n    agents: ['2 1']\n", "c.yaml:3: pbx.asterisk.agents"),
        ("pbx:\n  asterisk:\n    context: 'a,b'\n", "c.yaml:3: pbx.asterisk.context"),
        ("a: [1\n", "c.yaml:2: not valid YAML"),
        ("- a\n", "c.yaml:1: expected a mapping of keys, found list"),
        ("a: &x {b: 1}\nc: *x\n", "YAML aliases (*name) are not supported"),
        ("[" * 60 + "]" * 60, "nested too deeply"),
        ("- " * 500_000, "nested too deeply"),  # a parser in C must not run out of stack
    ],
)
def test_parse_config_with_a_mistake_names_line_key_and_remedy(text: str, said: str) -> None:
    """A mistake is told as file:line: key: found, allowed."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml")
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_parse_config_with_three_mistakes_names_all_of_them() -> None:
    """Nobody has to mend a file one run at a time."""
    with pytest.raises(ConfigError) as caught:
        parse_config("line:\n  x: 1\nears:\n  y: 2\n  workers: 0\n", "c.yaml")
    assert len(str(caught.value).splitlines()) == 3


def test_load_config_without_the_file_says_what_to_do(tmp_path: Path) -> None:
    """A missing file is named."""
    with pytest.raises(ConfigError, match="no such file; name one with -c"):
        load_config(tmp_path / "none.yaml")


def test_load_config_that_is_not_text_names_the_file(tmp_path: Path) -> None:
    """Bytes that are no text are an error of that file."""
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)


def test_secret_from_environment_and_file_is_read_and_missing_ones_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``env:`` and ``file:`` keep secrets out of the YAML."""
    monkeypatch.setenv("FIRMLINE_TEST_SECRET", "s3cret")
    (tmp_path / "pw").write_text("other\n")
    assert resolve_secret("env:FIRMLINE_TEST_SECRET", "line.password") == "s3cret"
    assert resolve_secret(f"file:{tmp_path}/pw", "line.password") == "other"
    assert resolve_secret("plain", "line.password") == "plain"
    with pytest.raises(ConfigError, match="line.password: environment variable NOT_SET_HERE is not set"):
        resolve_secret("env:NOT_SET_HERE", "line.password")
    with pytest.raises(ConfigError, match="cannot read the secret"):
        resolve_secret("file:/does/not/exist", "line.password")


def test_call_options_keep_the_rung_of_a_waiting_caller_where_the_pbx_tells_the_end() -> None:
    """Between two agents of an Asterisk a caller may wait for a while; a `direct` PBX gets the short default."""
    asterisk = parse_config("pbx: {kind: asterisk, asterisk: {secret: s, agents: ['201']}}", "c.yaml")
    assert call_options(asterisk).linger_ms == 60_000 and call_options(Config()).linger_ms == 2_000
    options = asterisk_options(asterisk)
    assert options.tap_endpoint == "firmline" and options.ami.secret == "s" and options.pause_ms == 60_000
