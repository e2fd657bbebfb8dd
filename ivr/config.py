"""``config.yaml`` as validated, frozen models. Nothing here opens a socket or loads a model.

Every key has a meaning, a unit in its name, a default and a range; the shipped ``config.yaml`` shows them all and a
test keeps the two in step. Reading fails whole: either every key is right, or nothing starts and every problem is
listed with file, line and key.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from audio.endpoint import EndpointOptions
from audio.types import PTIME_MS
from ivr.errors import ConfigError
from ivr.facts import NumberKept
from ivr.lines.base import LineOptions
from ivr.menu import Choice
from ivr.pbx.phone_keys import PhoneKey
from ivr.webhook_events import HookEvent
from policies import yamltext

Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """A block of ``config.yaml``: unknown keys refused, values frozen, strings not coerced into numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def resolve_secret(value: str, key: str) -> str:
    """A secret as given, or read from ``env:NAME`` or ``file:PATH`` so that it need not stand in the YAML.

    Raises:
        ConfigError: the variable is not set or the file cannot be read.
    """
    if value.startswith("env:"):
        name = value[4:]
        if name not in os.environ:
            raise ConfigError(f"{key}: environment variable {name} is not set")
        return os.environ[name]
    if value.startswith("file:"):
        try:
            return Path(value[5:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{key}: cannot read the secret from {value[5:]}: {exc}") from exc
    return value


def _ip(value: str) -> str:
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        raise ValueError(f"expected an IPv4 address such as 192.0.2.10, found {value!r}") from None
    return value


def _networks(value: list[str]) -> list[str]:
    for item in value:
        try:
            ipaddress.IPv4Network(item)
        except ValueError as exc:
            raise ValueError(f"expected networks such as 192.0.2.0/24, found {item!r} ({exc})") from None
    return value


class LineConfig(Section):
    """How we appear to the PBX."""

    engine: Literal["pyvoip"] = "pyvoip"
    server: str = ""
    server_port: Annotated[int, Field(ge=1, le=65535)] = 5060
    username: Annotated[str, Field(min_length=1, pattern=r"^[A-Za-z0-9_.+*#-]+$")] = "firmline"
    password: str = ""
    auth_user: str = ""
    local_ip: str = "127.0.0.1"
    local_port: Port = 5070
    rtp_port_low: Annotated[int, Field(ge=1024, le=65534)] = 12000
    rtp_port_high: Annotated[int, Field(ge=1025, le=65535)] = 12999
    expires_s: Annotated[int, Field(ge=30, le=3600)] = 120
    trusted_peers: list[str] = Field(default=["127.0.0.0/8"])
    max_legs: Annotated[int, Field(ge=2, le=2000)] = 200

    @field_validator("local_ip")
    @classmethod
    def _local_ip_is_ipv4(cls, value: str) -> str:
        return _ip(value)

    @field_validator("trusted_peers")
    @classmethod
    def _peers_are_networks(cls, value: list[str]) -> list[str]:
        return _networks(value)

    @model_validator(mode="after")
    def _ports_hold_the_legs(self) -> Self:
        room = (self.rtp_port_high - self.rtp_port_low + 1) // 2
        if room < self.max_legs:
            raise ValueError(
                f"rtp_port_low {self.rtp_port_low} to rtp_port_high {self.rtp_port_high} holds {max(room, 0)} legs "
                f"(two ports each), max_legs is {self.max_legs}: widen the range or lower max_legs"
            )
        return self

    def options(self) -> LineOptions:
        """What the engine gets, with the secret resolved."""
        return LineOptions(
            server=self.server,
            server_port=self.server_port,
            username=self.username,
            password=resolve_secret(self.password, "line.password"),
            auth_user=self.auth_user or self.username,
            local_ip=self.local_ip,
            local_port=self.local_port,
            rtp_port_low=self.rtp_port_low,
            rtp_port_high=self.rtp_port_high,
            expires_s=self.expires_s,
            trusted_peers=tuple(self.trusted_peers),
            max_legs=self.max_legs,
        )


Pattern = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[0-9A-Za-z_.+*?!\[\]-]+$")]
"""A shell pattern of PJSIP endpoint names."""
Extension = Annotated[str, Field(max_length=80, pattern=r"^[0-9A-Za-z*#+_.-]+$")]


KeyDigits = Annotated[str, Field(pattern=r"^[*#][0-9*#]{1,7}$")]
KeyMap = dict[KeyDigits, Annotated[PhoneKey, Field(strict=False)]]


class PhoneKeysConfig(Section):
    """Keys that agents press on their own phones."""

    digits: KeyMap = Field(default={})
    agents: dict[Extension, KeyMap] = Field(default={})
    timeout_ms: Annotated[int, Field(ge=300, le=10_000)] = 2_000

    @model_validator(mode="after")
    def _no_sequence_holds_another(self) -> Self:
        for where, digits in (("digits", self.digits), *((f"agents.{ext}", each) for ext, each in self.agents.items())):
            for one, other in itertools.permutations(digits, 2):
                if one in other:
                    raise ValueError(f"{where}: {one} is part of {other}, which could never be typed to its end")
        return self


class ManagerTlsConfig(Section):
    """Encryption of the manager connection."""

    enabled: bool = False
    ca_file: str = ""
    verify: bool = True
    server_name: Annotated[str, Field(max_length=253)] = ""


class AsteriskConfig(Section):
    """An Asterisk or FreePBX, over its manager interface; used when ``pbx.kind`` is ``asterisk``."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 5038
    username: Annotated[str, Field(min_length=1, pattern=r"^[\x21-\x7e]+$")] = "firmline"
    secret: str = ""
    tls: ManagerTlsConfig = Field(default_factory=ManagerTlsConfig)
    agents: list[Pattern] = Field(default=[])
    queues: list[Pattern] = Field(default=[])
    variable: Annotated[str, Field(max_length=40, pattern=r"^([A-Za-z][A-Za-z0-9_]*)?$")] = ""
    colleagues: list[Pattern] = Field(default=[])
    tap_endpoint: Annotated[str, Field(pattern=r"^[0-9A-Za-z_.+-]*$")] = ""
    context: Annotated[str, Field(pattern=r"^[0-9A-Za-z_.-]+$")] = "from-internal"
    fallbacks: list[Extension] = Field(default=[])
    answer_timeout_ms: Annotated[int, Field(ge=1_000, le=120_000)] = 20_000
    pause_s: Annotated[int, Field(ge=5, le=3_600)] = 60
    keys: PhoneKeysConfig = Field(default_factory=PhoneKeysConfig)


class PbxConfig(Section):
    """How we act on the human call."""

    kind: Literal["direct", "asterisk"] = "direct"
    control_url: Annotated[str, Field(pattern=r"^(https?://.+)?$")] = ""
    control_secret: str = ""
    timeout_ms: Annotated[int, Field(ge=200, le=120_000)] = 20_000
    transfer_to: Annotated[str, Field(pattern=r"^[0-9A-Za-z*#+_.-]+$")] = "299"
    asterisk: AsteriskConfig = Field(default_factory=AsteriskConfig)

    @model_validator(mode="after")
    def _asterisk_is_whole(self) -> Self:
        if self.kind == "asterisk":
            asterisk = self.asterisk
            missing = [] if asterisk.secret else ["asterisk.secret"]
            if not (asterisk.agents or asterisk.queues or asterisk.variable):
                missing.append("asterisk.agents (or queues, or variable)")
            if missing:
                raise ValueError(f"kind is asterisk, so {' and '.join(missing)} must be set")
        return self


class EndpointingConfig(Section):
    """When speech begins and ends on a telephone line."""

    vad_aggressiveness: Annotated[int, Field(ge=0, le=3)] = 2
    onset_ms: Annotated[int, Field(ge=PTIME_MS, le=500)] = 60
    hangover_ms: Annotated[int, Field(ge=PTIME_MS, le=2_000)] = 300
    tail_ms: Annotated[int, Field(ge=PTIME_MS, le=1_000)] = 200
    end_at_sentence: bool = False
    pre_roll_ms: Annotated[int, Field(ge=0, le=1_000)] = 240
    min_speech_ms: Annotated[int, Field(ge=PTIME_MS, le=1_000)] = 120
    max_utterance_ms: Annotated[int, Field(ge=2_000, le=28_000)] = 12_000

    @model_validator(mode="after")
    def _durations_fit_each_other(self) -> Self:
        EndpointOptions(
            onset_ms=self.onset_ms,
            hangover_ms=self.hangover_ms,
            pre_roll_ms=self.pre_roll_ms,
            min_speech_ms=self.min_speech_ms,
            max_utterance_ms=self.max_utterance_ms,
        )
        return self


class EarsConfig(Section):
    """Speech recognition."""

    model: Annotated[str, Field(min_length=1)] = "tiny.en"
    offline: bool = False
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    compute_type: Literal["auto", "default", "int8", "int8_float16", "float16", "float32"] = "auto"
    vocabulary: Literal["spoken", "full"] = "spoken"
    second_opinion: bool = True
    second_look: bool = True
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    batch: Annotated[int, Field(ge=1, le=64)] = 8
    partial_every_ms: Annotated[int, Field(ge=0, le=6_000)] = 700
    initial_prompt: Annotated[str, Field(max_length=600)] = ""
    transcribe_agent: bool = False
    no_audio_ms: Annotated[int, Field(ge=1_000, le=120_000)] = 8_000
    endpointing: EndpointingConfig = Field(default_factory=EndpointingConfig)


ModeName = Literal["pack", "shadow", "suggest", "warn", "full"]
"""``pack``: as the pack says."""


class QueueRule(Section):
    """The rule of one queue, where it is not everybody's."""

    pack: str = ""
    mode: ModeName | None = None


class PolicyConfig(Section):
    """Which rule is kept, and how far it goes by itself."""

    pack: Annotated[str, Field(min_length=1)] = "standard"
    mode: ModeName = "pack"
    queues: dict[Annotated[str, Field(min_length=1, max_length=80)], QueueRule] = Field(default={}, max_length=500)


class PromptsConfig(Section):
    """What is said, and in whose name."""

    directory: str = ""
    agent: Annotated[str, Field(max_length=80)] = ""
    company: Annotated[str, Field(max_length=80)] = ""
    followup: Annotated[str, Field(max_length=200)] = ""
    echo_tail_ms: Annotated[int, Field(ge=0, le=2_000)] = 200


class MenuConfig(Section):
    """The menu of a caller whose call ended that way (``ending.kind: menu`` of the pack)."""

    wait_ms: Annotated[int, Field(ge=1_000, le=30_000)] = 6_000
    repeats: Annotated[int, Field(ge=0, le=5)] = 2
    max_invalid: Annotated[int, Field(ge=1, le=9)] = 3
    default: Annotated[Choice, Field(strict=False)] = Choice.SUPERVISOR


class JournalConfig(Section):
    """What is remembered, where and for how long."""

    path: Annotated[str, Field(min_length=1)] = "firmline.db"
    store_words: bool = True
    retention_days: Annotated[int, Field(ge=0, le=3650)] = 90
    caller_number: Annotated[NumberKept, Field(strict=False)] = NumberKept.LAST4


class ApiConfig(Section):
    """HTTP for keys, pages and probes, and how others than this machine reach it."""

    host: str = "127.0.0.1"
    port: Port = 8080
    tokens: Annotated[str, Field(min_length=1)] = "firmline-tokens.json"
    public_hosts: list[Annotated[str, Field(pattern=r"^[0-9A-Za-z.-]+(:[0-9]{1,5})?$", max_length=255)]] = Field(
        default=[]
    )
    trusted_proxies: list[str] = Field(default=[])
    tls_cert: str = ""
    tls_key: str = ""

    @field_validator("host")
    @classmethod
    def _host_is_ipv4(cls, value: str) -> str:
        return _ip(value)

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, value: list[str]) -> list[str]:
        return _networks(value)

    @model_validator(mode="after")
    def _others_come_safely(self) -> Self:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key belong together: set both, or neither")
        if not self.loopback and not self.tls_cert and not self.trusted_proxies:
            raise ValueError(
                f"host is {self.host}, which others can reach, so either tls_cert and tls_key or trusted_proxies must "
                "be set (and tokens made: firmline token add); or keep host 127.0.0.1"
            )
        return self

    @property
    def loopback(self) -> bool:
        """Whether we listen for this machine alone."""
        return ipaddress.IPv4Address(self.host).is_loopback

    @property
    def only_here(self) -> bool:
        """Whether nobody but this machine can reach us: then, without tokens, the API is open."""
        return self.loopback and not self.trusted_proxies and not self.public_hosts


class WebhookConfig(Section):
    """One receiver of webhooks."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2_000)]
    secret: Annotated[str, Field(min_length=1)]
    events: Annotated[list[HookEvent], Field(min_length=1)] = Field(default=["safeguard", "incident", "action_failed"])
    words: bool = False


class WebhooksConfig(Section):
    """Who is told what happens in calls."""

    endpoints: list[WebhookConfig] = Field(default=[])
    timeout_ms: Annotated[int, Field(ge=500, le=30_000)] = 10_000
    retry_first_ms: Annotated[int, Field(ge=100, le=600_000)] = 5_000
    retry_max_ms: Annotated[int, Field(ge=1_000, le=7_200_000)] = 1_800_000
    max_age_hours: Annotated[int, Field(ge=1, le=168)] = 24
    max_waiting: Annotated[int, Field(ge=10, le=100_000)] = 10_000

    @field_validator("endpoints")
    @classmethod
    def _names_differ(cls, value: list[WebhookConfig]) -> list[WebhookConfig]:
        names = [each.name for each in value]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"each endpoint needs a name of its own; found twice: {', '.join(doubled)}")
        return value


class LogConfig(Section):
    """Logs go to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    pii: bool = False


class Config(Section):
    """The whole of ``config.yaml``."""

    line: LineConfig = Field(default_factory=LineConfig)
    pbx: PbxConfig = Field(default_factory=PbxConfig)
    ears: EarsConfig = Field(default_factory=EarsConfig)
    policy: PolicyConfig = Field(default_factory=PolicyConfig)
    prompts: PromptsConfig = Field(default_factory=PromptsConfig)
    menu: MenuConfig = Field(default_factory=MenuConfig)
    journal: JournalConfig = Field(default_factory=JournalConfig)
    api: ApiConfig = Field(default_factory=ApiConfig)
    webhooks: WebhooksConfig = Field(default_factory=WebhooksConfig)
    log: LogConfig = Field(default_factory=LogConfig)


def parse_config(text: str, source: str) -> Config:
    """Validate the text of a ``config.yaml``.

    Raises:
        ConfigError: with one ``file:line: key: what was found, what is allowed`` line a problem.
    """
    try:
        return yamltext.load(text, source, Config)
    except yamltext.YamlError as exc:
        raise ConfigError(str(exc)) from exc


def load_config(path: Path) -> Config:
    """Read and validate ``path``.

    Raises:
        ConfigError: not there, not readable, or not valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; name one with -c, or start from the config.yaml in the repo"
        ) from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    return parse_config(text, str(path))
