"""kill -9 beside a real Asterisk, with one call at each of the moments that matter; then a restart.

One scene for all: five calls are brought to their moments, the process is killed once, and each test looks at what
became of one of them. Nothing is timed: a moment is reached when journal or phone say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
import pytest_asyncio

from audio.wavio import write_wav
from ivr.clock import monotonic_ms
from ivr.demo.phones import Phone
from ivr.demo.service import Row, ServiceProcess
from ivr.demo.speech import line_pcm
from ivr.demo.stack import RATE_HZ, Stack
from ivr.errors import FirmlineError
from ivr.prompts import load_catalogue
from tests.ivr.pbx.beside import Rows, World
from tests.ivr.pbx.pbx_server import MANY, PbxServer
from tests.ivr.service import AGENT_HZ, CALLER_HZ, HEARD_MS, eventually, tone, tone_ms

T = TypeVar("T")

pytestmark = [
    pytest.mark.sip,
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]

PROMPT_MS = 3_000
"""Long enough to be killed in, short enough to wait for."""
QUIET_MS = 4_000
"""Longer than any countdown or prompt that was under way."""
MOMENTS = ("attach", "listening", "prompt", "countdown", "transfer")
RUNGS = {"attach": "clear", "listening": "disarmed", "prompt": "warned", "countdown": "warned", "transfer": "clear"}
CUT_OFF = {"prompt": "the prompt final_warning", "countdown": "the ending (hangup)", "transfer": "the ending, asked"}


@dataclass
class Call:
    """One call and what became of it."""

    ext: str
    caller: Phone
    agent: Phone
    id: str = ""
    """Of the restarted process, in its journal."""
    intact: bool = False
    """Right after the kill, and before any restart, the two heard each other."""
    rung: str = ""
    rows: list[Row] = field(default_factory=list)
    """What the restarted process wrote of it."""
    talking: bool = False
    """And they did at the end."""


async def hear_each_other(call: Call) -> bool:
    """Both speak now; each is heard at the other end."""
    before = len(call.caller.heard.pcm()), len(call.agent.heard.pcm())
    said = await asyncio.gather(call.caller.say(tone(CALLER_HZ)), call.agent.say(tone(AGENT_HZ)))
    await asyncio.gather(call.caller.wait_quiet(200, 5), call.agent.wait_quiet(200, 5))
    at_caller = tone_ms(call.caller.heard.pcm()[before[0] :], AGENT_HZ)
    at_agent = tone_ms(call.agent.heard.pcm()[before[1] :], CALLER_HZ)
    return all(said) and min(at_caller, at_agent) >= HEARD_MS


def free_port() -> int:
    """A TCP port that is free now: the API's must be known before it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def decoders(service: ServiceProcess) -> list[int]:
    """Process ids of its children; none while it is not there."""
    try:
        pid = service.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FirmlineError, FileNotFoundError):
        return []


class Scene:
    """The world, five calls, one kill."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls: dict[str, Call] = {}
        self.api_port = free_port()
        self.left_over: list[str] = []
        self.unready: httpx.Response | None = None
        """What ``/readyz`` said while the calls were tapped and the model was not loaded."""
        self.heard_late = ""
        """What the caller of one call was found to have said in that time."""

    def short_prompts(self) -> Path:
        folder = self.world.folder / "prompts"
        folder.mkdir()
        catalogue = load_catalogue()
        for name in catalogue:
            samples = catalogue.samples(name, RATE_HZ)[: RATE_HZ * PROMPT_MS // 1000]
            (folder / f"{name}.wav").write_bytes(write_wav(samples, RATE_HZ))
        return folder

    async def call(self, moment: str) -> Call:
        ext = MANY[MOMENTS.index(moment)]
        agent, caller = await self.world.phone(ext), await Phone.create(self.world.stack, "pat")
        call = self.calls[moment] = Call(ext, caller, agent)
        await caller.dial(self.world.at_pbx(ext))
        await asyncio.wait_for(agent.in_call.wait(), 3)
        return call

    async def press(self, moment: str, key: str) -> str:
        """Press a key for the agent of that call; the call's id."""
        assert self.world.service is not None
        return str((await self.world.service.press(self.calls[moment].ext, key))["id"])

    async def row(self, call_id: str, event: str, rows: Rows | None = None, **data: object) -> Row:
        """A row of one call."""
        rows = rows or self.world.rows
        async with asyncio.timeout(20):
            while True:
                found = [row for row in rows.of(event, **data) if row["call_id"] == call_id]
                if found:
                    return found[0]
                await rows.changed()

    async def play(self) -> None:
        """Up to the kill."""
        overrides = self.world.overrides(agents=["21?"], answer_timeout_ms=8_000)
        overrides["prompts"] = {"directory": str(self.short_prompts())}
        overrides["api"] = {"port": self.api_port}
        service = await self.world.firmline(overrides)
        supervisor = await Phone.create(self.world.stack, "299", auto_answer=False)
        for moment in MOMENTS[1:]:
            await self.call(moment)
        await self.world.rows.wait("leg_up", times=8)
        await self.press("listening", "disarm")
        moved = await self.press("transfer", "transfer")
        warned = [await self.press(moment, "warn") for moment in ("prompt", "countdown")]
        for call_id in warned:
            await self.row(call_id, "rung", to="warned")
        await self.row(moved, "action_requested", action="transfer")
        await asyncio.wait_for(supervisor.ringing.wait(), 5)
        self.world.stack.spawn(self._speak("listening"))
        await asyncio.gather(self.press("prompt", "warn"), self.press("countdown", "end"))
        await self.row(warned[0], "action_done", prompt="final_warning")
        await self.row(warned[1], "action_done", prompt="closing_hangup")
        await self.call("attach")
        service.kill()

    async def _speak(self, moment: str) -> None:
        await self.calls[moment].caller.say(line_pcm("pat_insult"))

    async def aftermath(self) -> None:
        """From the kill on."""
        apart = {"transfer"}
        for moment, call in self.calls.items():
            call.intact = moment in apart or await hear_each_other(call)
        assert self.world.service is not None
        old = self.world.service
        await old.stop()
        before = self._journalled()
        await self._restart_with_a_slow_model(old, before)
        await self.world.stack.clock.pause(QUIET_MS)
        for call in self.calls.values():
            found = await self._shown(call.ext)
            assert found is not None
            call.rung = found["rung"]
            call.id = str(found["id"])
            call.talking = await hear_each_other(call)
            await call.caller.hang_up()
        await self.world.channels_settle(lambda names: not names)
        async with asyncio.timeout(5):
            while left := (await old.get("/api/calls")).json():
                await self.world.stack.clock.pause(50)
        self.left_over = left
        await old.stop()  # the journal is whole; its feed's watcher may have come later than the first rows
        for row in self._since(before):
            for call in self.calls.values():
                if row["call_id"] == call.id:
                    call.rows.append(row)

    async def _restart_with_a_slow_model(self, service: ServiceProcess, before: list[Row]) -> None:
        """The decoding process stands still until every call is tapped and one caller has spoken."""
        began_ms = monotonic_ms()
        starting = asyncio.create_task(service.start())
        ears = (await self._until(lambda: decoders(service)))[0]
        os.kill(ears, signal.SIGSTOP)
        try:
            await self._until(lambda: self._tapped(before) == len(MOMENTS) - 1, 30)  # the one that is moved comes later
            tapped_ms = monotonic_ms() - began_ms
            async with httpx.AsyncClient(trust_env=False) as client:
                self.unready = await client.get(f"http://127.0.0.1:{self.api_port}/readyz")
            await self.calls["attach"].caller.say(line_pcm("pat_calmer"))
        finally:
            os.kill(ears, signal.SIGCONT)
        await starting
        print(f"\ntapped {tapped_ms} ms after exec, without ears; ready {monotonic_ms() - began_ms} ms after exec")
        for call in self.calls.values():
            await eventually(lambda call=call: self._shown(call.ext), 15)
        self.heard_late = (await self._until(lambda: self._words(before), 15))[0]

    async def _until(self, look: Callable[[], T], ceiling_s: float = 10) -> T:
        """What another process shows, once it is true."""

        async def looked() -> T:
            return look()

        return await eventually(looked, ceiling_s)

    def _tapped(self, before: list[Row]) -> int:
        """Calls that the restarted process has both legs of."""
        legs = Counter(row["call_id"] for row in self._since(before) if row["event"] == "leg_up")
        return sum(count > 1 for count in legs.values())

    def _words(self, before: list[Row]) -> list[str]:
        rows = (row["data"] for row in self._since(before) if row["event"] == "utterance")
        return [data["words"] for data in rows if data.get("words")]

    def _since(self, before: list[Row]) -> list[Row]:
        return self._journalled()[len(before) :]

    def _journalled(self) -> list[Row]:
        """All rows of the journal file, in order; read by SQLite itself."""
        with contextlib.closing(sqlite3.connect(self.world.folder / "journal.db", timeout=5)) as db:
            found = db.execute("SELECT call_id, event, data FROM events ORDER BY id")
            return [{"call_id": str(c), "event": e, "data": json.loads(d)} for c, e, d in found]

    async def _shown(self, ext: str) -> Row | None:
        assert self.world.service is not None
        listed = (await self.world.service.get("/api/calls")).json()
        return next((c for c in listed if c["agent_ext"] == ext and len(c["legs"]) == 2), None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(asterisk: PbxServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """Played once."""
    async with Stack() as stack:
        await asyncio.to_thread(asterisk.phones_at, stack.port)
        played = Scene(World(asterisk, stack, tmp_path_factory.mktemp("killed")))
        try:
            await played.play()
            await played.aftermath()
            yield played
        finally:
            if played.world.service is not None:
                await played.world.service.stop()
            await asyncio.to_thread(asterisk.cli, "channel request hangup all")


@pytest.mark.parametrize("moment", MOMENTS)
async def test_killed_service_leaves_the_call_and_the_next_one_knows_where_it_stood(scene: Scene, moment: str) -> None:
    """Nobody noticed anything; the rung is right, nothing plays or fires by itself, and nobody is warned twice."""
    call = scene.calls[moment]
    assert call.intact and call.talking
    assert call.rung == RUNGS[moment]
    resumed = [row["data"] for row in call.rows if row["event"] == "signal" and row["data"]["action"] == "resumed"]
    assert [data["rung"] for data in resumed] == ([RUNGS[moment]] if moment != "attach" else [])
    assert all(data["under_way"].startswith(CUT_OFF.get(moment, "")) for data in resumed)
    assert [row for row in call.rows if row["event"].startswith("action") or row["event"] == "strike"] == []


async def test_restarted_service_is_beside_its_calls_before_it_has_ears_and_hears_what_was_said(scene: Scene) -> None:
    """Nobody is told that it is ready before it is; the words wait for the model."""
    assert scene.unready is not None and scene.unready.status_code == 503
    ears = next(check for check in scene.unready.json()["checks"] if check["name"] == "ears")
    assert not ears["ok"] and "being loaded" in ears["detail"]
    assert "money" in scene.heard_late.lower()
    assert scene.left_over == []
