"""Plays a scene of ``scenes.yaml`` on real phones, and keeps what each party heard.

The scene waits for what Firmline and the exchange do by *cues*: names that the owner of Firmline's event feed resolves
(``warning``, ``closing``, ...) and ``transferred``, which the exchange resolves. A cue that does not come within its
ceiling is reported and the scene goes on: a demo must end, and say what was missing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np

from ivr.clock import monotonic_ms
from ivr.demo.exchange import Exchange, ExchangeEvent, ExchangeEventKind
from ivr.demo.phones import SPEECH_DBOV, Phone, Tape
from ivr.demo.speech import Scene, Script, Step, Wait, line_pcm, load_script
from ivr.demo.stack import RATE_HZ, PhoneError, Stack

AGENT = "sam"
SUPERVISOR = "alex"
AGENT_EXT = "201"
SUPERVISOR_EXT = "900"
CUE_TRANSFERRED = "transferred"

_QUIET_MS = 600
_QUIET_CEILING_S = 20.0
_DIAL_S = 10.0
_TAPS_CEILING_S = 6.0
_OVER_CEILING_S = 5.0


class Cues:
    """Named moments of one scene, each resolved at most once."""

    def __init__(self) -> None:
        self._events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._at_ms: dict[str, int] = {}

    def resolve(self, name: str) -> None:
        """It happened, now; later ones of the same name change nothing."""
        if name not in self._at_ms:
            self._at_ms[name] = monotonic_ms()
            self._events[name].set()

    def at_ms(self, name: str) -> int | None:
        """When it happened, on ``ivr.clock.monotonic_ms``'s timeline."""
        return self._at_ms.get(name)

    async def wait_for(self, name: str, ceiling_s: float) -> bool:
        """Wait until it has happened; false at the ceiling."""
        try:
            await asyncio.wait_for(self._events[name].wait(), ceiling_s)
        except TimeoutError:
            return False
        return True


class SceneEventKind(StrEnum):
    """What a scene tells its watcher."""

    SAYS = "says"
    SAID = "said"
    CUE = "cue"
    CUE_MISSING = "cue_missing"


@dataclass(frozen=True, slots=True)
class SceneEvent:
    """One step as it happens. ``who`` is a phone's name (empty for cues); ``text`` the words or the cue's name."""

    kind: SceneEventKind
    t_ms: int
    who: str
    text: str


@dataclass(frozen=True, slots=True)
class Spoken:
    """A line as it was said. ``end_ms`` is the end of its last sound, on the monotonic clock; both are the mouth's."""

    line: str
    who: str
    text: str
    start_ms: int
    end_ms: int
    complete: bool


@dataclass(frozen=True, slots=True)
class SceneResult:
    """How a scene went. ``recordings`` are 8 kHz mono WAVs by name; ``started_ms`` says when each one begins."""

    name: str
    title: str
    call: str
    transferred: bool
    cues: Mapping[str, int | None]
    """When each expected or awaited cue came, monotonic ms; ``None`` when it did not."""
    spoken: tuple[Spoken, ...]
    recordings: Mapping[str, Path]
    started_ms: Mapping[str, int | None]
    as_expected: bool
    """Every expected cue came, every line was said, and the call was transferred if and only if it should be."""


@dataclass(slots=True)
class Cast:
    """The demo's phones at the demo's exchange: agent at 201, supervisor at 900, one phone a caller."""

    stack: Stack
    exchange: Exchange
    number: str
    phones: dict[str, Phone] = field(default_factory=dict)

    @classmethod
    async def create(cls, stack: Stack, exchange: Exchange) -> Cast:
        """Open every phone of the script. Raises :class:`PhoneError`."""
        script = load_script()
        callers = sorted({scene.caller for scene in script.scenes.values()})
        phones = {name: await Phone.create(stack, name) for name in (AGENT, SUPERVISOR, *callers)}
        number = await exchange.add_extension(AGENT_EXT, phones[AGENT].uri)
        await exchange.add_extension(SUPERVISOR_EXT, phones[SUPERVISOR].uri)
        return cls(stack, exchange, number, phones)


async def run_scene(
    cast: Cast,
    name: str,
    out: Path,
    cues: Cues,
    on_event: Callable[[SceneEvent], None] = lambda _event: None,
    script: Script | None = None,
) -> SceneResult:
    """Play scene ``name`` to its end and write its recordings into the folder ``out``.

    ``script`` is another one than the demo's own, with the same people in it. Tap legs go where
    ``cast.exchange.firmline_uri`` points; ``cues`` is resolved by the owner of Firmline's events.

    Raises:
        KeyError: no such scene.
        PhoneError: the call could not be set up.
    """
    script = script or load_script()
    scene = script.scenes[name]
    play = _Play(cast, script, scene, cues, on_event)
    for phone in cast.phones.values():
        phone.rewind()
    unwatch = cast.exchange.watch(play.on_exchange)
    caller = cast.phones[scene.caller]
    try:
        await caller.dial(cast.number, timeout_s=_DIAL_S)
        await play.taps_settled()
        for step in scene.steps:
            await play.step(step)
    finally:
        await caller.hang_up()
        await play.over()
        unwatch()
    return _result(name, scene, play, out)


class _Play:
    """One scene under way."""

    def __init__(
        self, cast: Cast, script: Script, scene: Scene, cues: Cues, on_event: Callable[[SceneEvent], None]
    ) -> None:
        self.cast = cast
        self.script = script
        self.cues = cues
        self.spoken: list[Spoken] = []
        self.awaited: list[str] = [*scene.expect.cues]
        self.call = ""
        self._on_event = on_event
        self._taps = 0
        self._taps_settled = asyncio.Event()
        self._over = asyncio.Event()

    def on_exchange(self, event: ExchangeEvent) -> None:
        """Follow our call at the exchange."""
        if event.kind is ExchangeEventKind.CALL_RINGING:
            self.call = event.call
        if event.call != self.call:
            return
        if event.kind is ExchangeEventKind.TRANSFERRED:
            self.cues.resolve(CUE_TRANSFERRED)
        elif event.kind in (ExchangeEventKind.TAP_UP, ExchangeEventKind.TAP_DOWN):
            self._taps += 1
            if self._taps >= 2:
                self._taps_settled.set()
        elif event.kind is ExchangeEventKind.CALL_OVER:
            self._over.set()

    async def taps_settled(self) -> None:
        """Until both tap legs are up or have failed: the first words of a scene should not be missed by chance."""
        if self.cast.exchange.firmline_uri is not None:
            await _within(self._taps_settled, _TAPS_CEILING_S)

    async def over(self) -> None:
        """Until the exchange has let go of the call."""
        await _within(self._over, _OVER_CEILING_S)

    async def step(self, step: Step) -> None:
        """Do one step."""
        if step.say is not None:
            await self._say(step.say)
        elif step.wait is not None:
            await self._wait(step.wait)
        elif step.wait_quiet is not None:
            await self.cast.phones[step.wait_quiet].wait_quiet(_QUIET_MS, _QUIET_CEILING_S)
        elif step.pause_ms is not None:
            await self.cast.stack.clock.pause(step.pause_ms)

    async def _say(self, name: str) -> None:
        line = self.script.lines[name]
        samples = line_pcm(name)
        start_ms = monotonic_ms()
        self._tell(SceneEventKind.SAYS, line.voice, line.text)
        complete = await self.cast.phones[line.voice].say(samples)
        loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 32768 * 10 ** (SPEECH_DBOV / 20))
        end_ms = start_ms + int(loud[-1]) * 1000 // RATE_HZ if complete and len(loud) else monotonic_ms()
        self.spoken.append(Spoken(name, line.voice, line.text, start_ms, end_ms, complete))
        self._tell(SceneEventKind.SAID, line.voice, line.text)

    async def _wait(self, wait: Wait) -> None:
        if wait.cue not in self.awaited:
            self.awaited.append(wait.cue)
        came = await self.cues.wait_for(wait.cue, wait.ceiling_ms / 1000)
        self._tell(SceneEventKind.CUE if came else SceneEventKind.CUE_MISSING, "", wait.cue)

    def _tell(self, kind: SceneEventKind, who: str, text: str) -> None:
        self._on_event(SceneEvent(kind, monotonic_ms(), who, text))


async def _within(event: asyncio.Event, ceiling_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), ceiling_s)
    except TimeoutError:
        return


def _result(name: str, scene: Scene, play: _Play, out: Path) -> SceneResult:
    out.mkdir(parents=True, exist_ok=True)
    phones = play.cast.phones
    tapes: dict[str, Tape] = {
        "caller_heard": phones[scene.caller].heard,
        "caller_said": phones[scene.caller].said,
        "agent_heard": phones[AGENT].heard,
        "agent_said": phones[AGENT].said,
        "supervisor_heard": phones[SUPERVISOR].heard,
    }
    cues = {cue: play.cues.at_ms(cue) for cue in play.awaited}
    transferred = play.cues.at_ms(CUE_TRANSFERRED) is not None
    as_expected = (
        all(cues[cue] is not None for cue in scene.expect.cues)
        and all(spoken.complete for spoken in play.spoken)
        and transferred is scene.expect.transferred
    )
    return SceneResult(
        name=name,
        title=scene.title,
        call=play.call,
        transferred=transferred,
        cues=cues,
        spoken=tuple(play.spoken),
        recordings={key: tape.save(out / f"{key}.wav") for key, tape in tapes.items()},
        started_ms={key: tape.started_ms for key, tape in tapes.items()},
        as_expected=as_expected,
    )


__all__ = ["AGENT_EXT", "SUPERVISOR_EXT", "Cast", "Cues", "PhoneError", "SceneEvent", "SceneResult", "run_scene"]
