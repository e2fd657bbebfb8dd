"""The real API over real calls whose callers are a script: for pictures, for the wall's measurement, for axe-core.

Engine, pack, call logic, ears' voice detection, API and feed are the shipped ones; what is made up is what cannot be
scripted by the second: the recogniser's words, the phone line and the PBX.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np

from audio.types import Pcm, Segment, SegmentKind, Transcript
from audio.wavio import frames
from ivr.api.app import create_app
from ivr.api.base import Check
from ivr.api.feed import EventFeed
from ivr.api.server import ApiServer
from ivr.call import CallOptions
from ivr.calls import Calls
from ivr.clock import monotonic_ms, wall_iso
from ivr.desk import ServiceDesk
from ivr.drafts import DraftOptions
from ivr.errors import PbxError
from ivr.judge import load_pack
from ivr.lines.base import HEADER_AGENT, HEADER_NUMBER, HEADER_QUEUE, PlaybackResult
from ivr.listener import Listener, ListenerOptions
from ivr.metrics import Metrics
from ivr.pbx.base import CallRef
from ivr.prompts import load_catalogue
from ivr.session import CallSession, World
from ivr.store import Journal
from ivr.types import JournalRow, LiveEvent, LiveRow
from policies.engine import Engine
from policies.pack import Pack
from policies.types import Conduct, ConductKind, Side
from tests.ivr.calls import silence, speech

_LISTENER = ListenerOptions()
PAUSE_MS = 6_000
"""By so much the call grows older with each thing said, which the script does not wait for."""


class ScriptedPlayback:
    """A prompt that begins at once and ends when the script says so."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[int] = loop.create_future()
        self.done: asyncio.Future[PlaybackResult] = loop.create_future()
        self.started.set_result(monotonic_ms())

    def stop(self) -> None:
        if not self.done.done():
            self.done.set_result(PlaybackResult(False, 500, None, "stopped"))

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(PlaybackResult(True, 2_000, monotonic_ms()))


@dataclass
class ScriptedLeg:
    """A tap leg without a phone."""

    id: str
    call_ref: str
    side: str
    headers: Mapping[str, str]
    remote_uri: str = "sip:pbx@127.0.0.1"
    rate_hz: int = 8_000
    playbacks: list[ScriptedPlayback] = field(default_factory=list)

    def answer(self) -> None: ...
    def reject(self, status: int, reason: str) -> None: ...
    def hang_up(self) -> None: ...

    def play(self, samples: Pcm) -> ScriptedPlayback:
        for playback in self.playbacks:
            playback.stop()
        self.playbacks.append(ScriptedPlayback())
        return self.playbacks[-1]


class ScriptedEars:
    """Hands out the words that the script put there, in order."""

    def __init__(self) -> None:
        self.words: deque[str] = deque()

    def submit(self, segment: Segment) -> asyncio.Future[Transcript]:
        future: asyncio.Future[Transcript] = asyncio.get_running_loop().create_future()
        text = self.words.popleft() if self.words and segment.kind is SegmentKind.FINAL else ""
        future.set_result(Transcript(text, segment.start_ms, segment.end_ms, avg_logprob=-0.2))
        return future

    def promote(self, future: asyncio.Future[Transcript]) -> None: ...


class ScriptedPbx:
    """Does what it is told, or refuses with ``fails``."""

    def __init__(self) -> None:
        self.fails = ""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def transfer(self, call: CallRef, target: str, why: str) -> None:
        self._answer()

    async def hang_up(self, call: CallRef, why: str) -> None:
        self._answer()

    async def pause_agent(self, call: CallRef, why: str) -> None:
        self._answer()

    async def set_paused(self, agent_ext: str, *, paused: bool, why: str) -> None:
        self._answer()

    def problem(self) -> str | None:
        return None

    def _answer(self) -> None:
        if self.fails:
            raise PbxError(self.fails)


class Stage:
    """``async with Stage() as stage``: pages, API and feed at ``stage.url``; ``port`` 0 chooses one."""

    def __init__(self, pack: Pack | None = None, *, port: int = 0) -> None:
        self.pack = pack or load_pack("standard")
        self.ears, self.pbx = ScriptedEars(), ScriptedPbx()
        self.feed = EventFeed(max_waiting=20_000)
        self.hears = True
        self.config_error: str | None = None
        self._metrics = Metrics("stage")
        self._port = port
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> Stage:
        world = World(
            asyncio.get_running_loop(),
            self.ears,
            load_catalogue(None),
            self.pbx,
            self,
            self._metrics,
            transfer_to="900",
        )
        options = CallOptions(echo_tail_ms=0, no_audio_ms=3_600_000, deaf_ms=500, drafts=DraftOptions(every_ms=0))
        self.calls = Calls(world, self._engine, lambda side: Listener(_LISTENER, side), options, self._checks)
        self._folder = TemporaryDirectory(prefix="firmline-stage-")
        self.journal = Journal(f"{self._folder.name}/journal.db", store_words=True, retention_s=None)
        self.journal.start()
        self.desk = ServiceDesk(self.journal.database, self.pbx, self._status)
        await self.come_back()
        self._port = self.api.address[1]
        self.url = f"http://127.0.0.1:{self._port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.calls.close_all("the stage is struck")
        await self.api.stop()
        await asyncio.to_thread(self.journal.stop)
        self._folder.cleanup()

    async def go_dark(self) -> None:
        """The service is gone: what a page sees of a crash."""
        await self.api.stop()

    async def come_back(self) -> None:
        """The same address answers again."""
        app = create_app(self.calls, self._metrics, self.feed, desk=self.desk)
        self.api = ApiServer(app, "127.0.0.1", self._port)
        await self.api.start()

    def write(self, row: JournalRow) -> None:
        self.journal.write(row)
        self.desk.hear(row)
        self.feed.publish(row)

    def live(self, row: LiveRow) -> None:
        self.desk.hear(row)
        self.feed.publish(row)

    def _status(self) -> dict[str, Any]:
        spec = self.pack.spec
        known = {"version": "1", "ready": True, "calls": 0, "pack": self.pack.version, "mode": spec.mode.value}
        return {**known, "queues": {}, "lag_ms": 0, "config_error": self.config_error}

    def _engine(self, agent_ext: str | None, queue: str | None) -> Engine:
        return Engine(self.pack, agent_ext=agent_ext)

    def _checks(self) -> list[Check]:
        lost = "no decoding process is alive; calls go on unheard until one is back"
        return [Check("ears", self.hears, "2 decoding processes, no backlog" if self.hears else lost)]

    def call(self, ext: str, *, seconds_ago: int = 0, queue: str = "", number: str = "") -> StagedCall:
        """A call of agent ``ext``, both sides tapped, that began ``seconds_ago``."""
        ref = f"pbx-{next(self._numbers)}"
        headers = {HEADER_AGENT.lower(): ext, HEADER_QUEUE.lower(): queue, HEADER_NUMBER.lower(): number}
        legs = {side: ScriptedLeg(f"{ref}-{side}", ref, side, headers) for side in Side}
        self.calls.on_leg_up(legs[Side.CALLER])
        self.calls.on_leg_up(legs[Side.AGENT])
        session = self.calls._by_ref[ref]
        session.core._diary.started_ms -= seconds_ago * 1_000
        return StagedCall(self, session, legs)


class StagedCall:
    """One call of the stage and what the script lets happen in it."""

    def __init__(self, stage: Stage, session: CallSession, legs: dict[Side, ScriptedLeg]) -> None:
        self.stage, self.session, self.legs = stage, session, legs
        self._said_ms = monotonic_ms()

    @property
    def rung(self) -> str:
        return self.session.core.engine.rung.value

    async def says(self, text: str, *, prompt_ends: bool = True) -> None:
        """The caller says it, a moment after what was last said: sound to the voice detector, words from the script."""
        self.session.core._diary.started_ms -= PAUSE_MS
        self.stage.ears.words.append(text)
        sound = np.concatenate([silence(200), speech("pat_insult"), silence(900)])
        made = list(frames(sound, 8_000, start_ms=self._said_ms))
        self._said_ms = made[-1].end_ms
        for frame in made:
            self.session.frames(self.legs[Side.CALLER], [frame])
        await self.settle(lambda: not self.stage.ears.words)
        if prompt_ends:
            await self.prompt_ends()

    async def prompt_ends(self) -> None:
        """What is playing to the caller has been heard."""
        for playback in self.legs[Side.CALLER].playbacks:
            playback.end()
        await self.settle(
            lambda: self.session.core.playing is None and self.session.core._prompting.echo_until_ms is None
        )
        self.session.core.engine._set(quiet_until_ms=0)  # the script does not wait for the grace time

    async def settle(self, done: Callable[[], bool] = lambda: True) -> None:
        """Let callbacks and threads of the service come to rest."""
        async with asyncio.timeout(5):
            await self.session.settle()
            while not done():
                await asyncio.to_thread(lambda: None)
            for _ in range(5):
                await self.session.settle()
                await asyncio.to_thread(lambda: None)

    async def shouts(self) -> None:
        """The caller is measured as shouting; the calming prompt is heard."""
        self.session._do(self._shouting)
        await self.prompt_ends()

    def _shouting(self, now_ms: int) -> list[Any]:
        core = self.session.core
        core._act(core.engine.hear(Conduct(ConductKind.SHOUTING, now_ms - 3_000, now_ms, 11.0), now_ms), now_ms)
        return core._flush()

    def half_said(self, text: str, side: Side = Side.CALLER) -> None:
        """Words on their way."""
        self.speaks(side)
        start_ms = self._t_ms() - 900
        self._live(LiveEvent.PARTIAL, side=side.value, words=text, start_ms=start_ms, over_prompt=False)

    def speaks(self, side: Side, on: bool = True) -> None:
        """Somebody has the floor."""
        self.session.core._legs[side].talking = on
        self._live(LiveEvent.SPEAKING, side=side.value, speaking=on)

    def ends(self, why: str = "the call's legs are gone") -> None:
        """The human call is over."""
        self.session.close(why)

    def _t_ms(self) -> int:
        return monotonic_ms() - self.session.core.started_ms

    def _live(self, event: LiveEvent, **data: Any) -> None:
        self.stage.live(LiveRow(self.session.id, event, wall_iso(), self._t_ms(), data))
