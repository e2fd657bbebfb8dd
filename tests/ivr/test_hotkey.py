"""The desktop companion: a real key on a real X display, pressed by xdotool, against a live API."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr.api.server import ApiServer
from ivr.companion.client import ApiClient
from ivr.companion.keys import DEBOUNCE_MS, DEFAULTS, Debounce, combinations, spoken
from ivr.companion.run import listen
from ivr.errors import ConfigError, FirmlineError
from ivr.hotkey_command import read_token
from policies.types import Hotkey, Key
from tests.ivr.test_access import Guarded

ROOT = Path(__file__).parents[2]
CEILING_S = 30.0


class Companion:
    """``firmline hotkey --json`` as a process on a display of its own, and what it said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next thing it says that is wanted."""
        assert self.process.stdout is not None
        async with asyncio.timeout(CEILING_S):
            while True:
                line = await self.process.stdout.readline()
                assert line, f"it ended after {self.said}"
                self.said.append(json.loads(line))
                if wanted(self.said[-1]):
                    return self.said[-1]

    async def state(self, state: str) -> dict[str, Any]:
        """Until it says that it is in ``state``."""
        return await self.until(lambda row: row.get("state") == state)


async def _run(*command: str, display: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "DISPLAY": display})
    assert await process.wait() == 0


@pytest.fixture
async def display() -> AsyncIterator[str]:
    """An X server without a screen, on a display number that is free."""
    if importlib.util.find_spec("pynput") is None:
        pytest.skip("the extra `hotkey` is not installed: its library needs a C compiler")
    reading, writing = os.pipe()
    server = await asyncio.create_subprocess_exec(
        "Xvfb", "-displayfd", str(writing), "-screen", "0", "640x480x24", "-nolisten", "tcp",
        pass_fds=(writing,), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading, "rb") as said:  # a whole line: the server dies of a pipe that is closed before its end
        number = (await asyncio.to_thread(said.readline)).decode().strip()
    yield f":{number}"
    server.terminate()
    await server.wait()


async def start(display: str, folder: Path, *args: str) -> Companion:
    """The companion with what it says on a pipe."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ivr", "hotkey", "--json", "--sound", "none", "--no-notify", *args),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DISPLAY": display},
        stdout=asyncio.subprocess.PIPE,
    )
    return Companion(process)


async def test_key_on_the_desktop_reaches_the_agents_call_and_it_connects_again(display: str, tmp_path: Path) -> None:
    """Pressed: delivered once, told. The service gone: a key says so, and it shows. Back: armed, the next key works."""
    service = Guarded(tmp_path)
    await service.server.start()
    host, port = service.server.address
    (tmp_path / "token").write_text(service.token["agent"] + "\n")
    given = (
        "--ext",
        "201",
        "--url",
        service.origin,
        "--token-file",
        str(tmp_path / "token"),
        "--pardon",
        "<ctrl>+<alt>+p",
    )
    companion = await start(display, tmp_path, *given)
    assert (await companion.state("armed"))["detail"] == "on a call, clear"
    await _run("xdotool", "key", "ctrl+shift+F9", display=display)
    pressed = await companion.until(lambda row: row.get("event") == "pressed")
    assert pressed["key"] == "warn" and pressed["ok"] is True
    await _run("xdotool", "key", "ctrl+alt+p", display=display)
    assert (await companion.until(lambda row: row.get("event") == "pressed"))["key"] == "pardon"
    assert service.directory.pressed == [("c1", Hotkey(Key.WARN, "agent:201")), ("c1", Hotkey(Key.PARDON, "agent:201"))]

    await service.server.stop()
    await _run("xdotool", "key", "ctrl+shift+F12", display=display)
    failed = await companion.until(lambda row: row.get("event") == "pressed")
    await companion.state("not connected")
    assert failed["key"] == "end" and failed["ok"] is False and failed["detail"]
    again = ApiServer(service.app, host, port)
    await again.start()
    await companion.state("armed")
    await _run("xdotool", "key", "ctrl+shift+F8", display=display)
    assert (await companion.until(lambda row: row.get("event") == "pressed"))["key"] == "minute"
    assert service.directory.pressed[-1] == ("c1", Hotkey(Key.MINUTE, "agent:201"))

    service.file.remove(service.file.read()[0].id)
    await _run("xdotool", "key", "ctrl+shift+F9", display=display)
    assert "not known" in (await companion.state("refused"))["detail"]
    companion.process.terminate()
    assert await asyncio.wait_for(companion.process.wait(), 10) == 0
    await again.stop()


def test_session_without_a_display_is_told_what_to_do_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Wayland and on servers: the curl line."""
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(FirmlineError, match="there is no X display .* curl line"):
        listen({"<f9>": Key.WARN}, lambda _key: None)


async def test_desktop_that_is_not_there_is_told_in_one_sentence(tmp_path: Path) -> None:
    """No traceback; what to do instead."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ivr", "hotkey", "--ext", "201"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DISPLAY": ":4242"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1 and "cannot be listened to" in err.decode() and "Traceback" not in err.decode()


def test_combinations_are_the_usual_ones_where_none_are_given() -> None:
    """One given, one left out, the rest as shipped; two alike are an error."""
    found = combinations({Key.WARN: "<cmd>+w", Key.END: "none"})
    assert found["<cmd>+w"] is Key.WARN and Key.END not in found.values() and len(found) == 4
    with pytest.raises(ConfigError, match="--pardon and --warn are both"):
        combinations({Key.WARN: "<f1>", Key.PARDON: "<f1>"})
    with pytest.raises(ConfigError, match="nothing to press"):
        combinations(dict.fromkeys(DEFAULTS, "none"))
    assert spoken(DEFAULTS[Key.PARDON]) == "Ctrl+Shift+F10" and spoken("<cmd>+w") == "Cmd+W"


@given(st.lists(st.tuples(st.sampled_from(list(Key)), st.integers(0, 2_000)), max_size=40))
def test_debounce_takes_a_key_again_only_after_it_rested(presses: list[tuple[Key, int]]) -> None:
    """However hammered: two fresh presses of a key lie at least that far apart, and another key is not held up."""
    debounce, now_ms, last_ms = Debounce(), 0, dict[Key, int]()
    for key, wait_ms in presses:
        now_ms += wait_ms
        rested = key not in last_ms or now_ms - last_ms[key] >= DEBOUNCE_MS
        assert debounce.fresh(key, now_ms) is rested
        last_ms[key] = now_ms


def test_token_never_crosses_a_network_in_the_clear(tmp_path: Path) -> None:
    """http only to this machine; a file without a token is told."""
    with pytest.raises(ConfigError, match="in the clear: use https"):
        ApiClient("http://firmline.example", "201", "firmline_x")
    for url in ("127.0.0.1:8080", "ftp://127.0.0.1", "https://"):
        with pytest.raises(ConfigError, match="--url: expected http"):
            ApiClient(url, "201", "")
    for url in ("http://127.0.0.1:8080", "https://firmline.example"):
        ApiClient(url, "201", "firmline_x").close()
    file = tmp_path / "token"
    with pytest.raises(ConfigError, match="token cannot be read"):
        read_token(file)
    for text in ("", "two words"):
        file.write_text(text)
        file.chmod(stat.S_IRUSR)
        with pytest.raises(ConfigError, match="holds no token"):
            read_token(file)
        file.chmod(0o600)
