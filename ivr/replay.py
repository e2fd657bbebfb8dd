"""A recording through the very pipeline of a live call, on a simulated clock.

Owns: the clock, the heap of things that will have happened, and the pretence that prompts play and the PBX obeys. The
call itself is :class:`ivr.call.CallCore`, unchanged. Output is deterministic: the same recording, pack and model give
the same lines, so a pack can be tuned on last month's calls.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from audio.prompts import Catalogue
from audio.types import PTIME_MS, AudioFrame, Segment, Transcript
from audio.wavio import Recording, frames
from ivr import effects as fx
from ivr.call import CallCore, CallOptions
from ivr.listener import Listener
from ivr.types import JournalEvent
from policies.engine import Engine
from policies.types import Side

DECODE_MS = 250
"""Simulated time from endpoint to transcript: about what one call measures live on a small server."""
PROMPT_LEAD_MS = 20
"""Simulated time from decision to the first prompt packet."""
CONFIRM_MS = 50
"""Simulated time until the PBX confirms an ending."""
TAIL_MS = 1_500
"""Silence after the last sample, so that the last words are heard out."""
MAX_TAIL_MS = 60_000
"""Most silence added while a closing prompt and its countdown run out."""

_NAMES = {
    JournalEvent.UTTERANCE: "utterance",
    JournalEvent.SIGNAL: "signal",
    JournalEvent.STRIKE: "strike",
    JournalEvent.RUNG: "rung",
    JournalEvent.ACTION_REQUESTED: "action",
    JournalEvent.ACTION_FAILED: "action",
    JournalEvent.CALL_ENDED: "end",
}


class Decoder(Protocol):
    """What a replay needs of the recogniser."""

    def decode(self, segment: Segment) -> Transcript:
        """Decode one segment now."""


@dataclass(order=True, slots=True)
class _Due:
    at_ms: int
    order: int
    do: Callable[[int], list[fx.Effect]] = field(compare=False)


class Replay:
    """One recording, once. ``lines()`` yields the JSON lines of the contract in time order."""

    def __init__(
        self,
        recording: Recording,
        engine: Engine,
        make_listener: Callable[[Side], Listener],
        decoder: Decoder,
        catalogue: Catalogue,
        options: CallOptions,
    ) -> None:
        self._core = CallCore("replay", None, engine, make_listener, options, 0)
        self._decoder, self._catalogue = decoder, catalogue
        self._channels = recording.channels
        self._rate_hz = recording.rate_hz
        self._due: list[_Due] = []
        self._order = itertools.count()
        self._lines: list[dict[str, Any]] = []
        self._play: fx.Play | None = None

    def lines(self) -> Iterator[dict[str, Any]]:
        """Run the recording; lines come as soon as they are known."""
        sides = [Side.CALLER, Side.AGENT][: len(self._channels)]
        streams = [frames(channel, self._rate_hz) for channel in self._channels]
        for side in sides:
            self._carry_out(self._core.leg_up(side.value, side, 0), 0)
        now_ms = 0
        for step in itertools.zip_longest(*streams):
            now_ms += PTIME_MS
            self._tick(now_ms, [(side, frame) for side, frame in zip(sides, step, strict=True) if frame is not None])
            yield from self._take()
        last_ms = now_ms
        while now_ms < last_ms + TAIL_MS or (self._busy() and now_ms < last_ms + MAX_TAIL_MS):
            now_ms += PTIME_MS
            self._tick(now_ms, [])
            yield from self._take()
        self._carry_out(self._core.close("end of the recording", now_ms), now_ms)
        yield from self._take()

    def _busy(self) -> bool:
        return bool(self._due) or self._core.engine.countdown_deadline_ms is not None

    def _tick(self, now_ms: int, heard: Sequence[tuple[Side, AudioFrame]]) -> None:
        while True:
            deadline = self._core.next_deadline_ms()
            due_ms = self._due[0].at_ms if self._due else None
            first = min((t for t in (deadline, due_ms) if t is not None), default=now_ms + 1)
            if first > now_ms:
                break
            if due_ms == first:
                due = heapq.heappop(self._due)
                self._carry_out(due.do(due.at_ms), due.at_ms)
            else:
                self._carry_out(self._core.on_deadline(now_ms), now_ms)
                if self._core.next_deadline_ms() == deadline:
                    break
        for side, frame in heard:
            self._carry_out(self._core.frames(side.value, [frame], now_ms), now_ms)

    def _later(self, at_ms: int, do: Callable[[int], list[fx.Effect]]) -> None:
        heapq.heappush(self._due, _Due(at_ms, next(self._order), do))

    def _carry_out(self, effects: Sequence[fx.Effect], now_ms: int) -> None:
        core = self._core
        for effect in effects:
            match effect:
                case fx.Transcribe():
                    transcript = self._decoder.decode(effect.segment)
                    self._later(now_ms + DECODE_MS, partial(core.transcribed, effect.token, transcript))
                case fx.Promote() | fx.Forget() | fx.Live():
                    pass  # every segment is decoded when it is asked for, and only what counts is printed
                case fx.Play():
                    self._start(effect, now_ms)
                case fx.StopPlaying() if self._play is not None:
                    play, self._play = self._play, None
                    self._later(now_ms, partial(core.prompt_done, play.token, False, "stopped"))
                case fx.End():
                    self._later(now_ms + CONFIRM_MS, partial(core.ended, effect.attempts[0], "simulated"))
                    self._line(now_ms, "action", self._ending(effect))
                case fx.PauseAgent():
                    self._line(now_ms, "action", {"action": "pause_agent", "why": effect.why})
                case fx.Tell():
                    data = {"action": "tell", "to": effect.audience.value, "why": effect.text, "page": effect.page}
                    self._line(now_ms, "signal", data)
                case fx.Journal() if effect.event in _NAMES:
                    self._line(effect.t_ms, _NAMES[effect.event], dict(effect.data))
                case _:
                    pass

    def _start(self, play: fx.Play, now_ms: int) -> None:
        core, starts_ms = self._core, now_ms + PROMPT_LEAD_MS
        self._play = play
        self._later(starts_ms, lambda t: core.prompt_started(play.token, t, t))
        self._later(starts_ms + self._catalogue.duration_ms(play.prompt), partial(self._played, play))

    def _played(self, play: fx.Play, now_ms: int) -> list[fx.Effect]:
        if self._play is not play:
            return []
        self._play = None
        return self._core.prompt_done(play.token, True, "", now_ms)

    def _ending(self, effect: fx.End) -> dict[str, Any]:
        return {
            "action": effect.attempts[0].value,
            "why": effect.why,
            "pack": self._core.engine.pack.version,
            "heard_ms": effect.heard_ms,
            "decided_ms": effect.decided_ms,
        }

    def _line(self, t_ms: int, event: str, data: dict[str, Any]) -> None:
        self._lines.append({"t_ms": t_ms, "event": event, **data})

    def _take(self) -> list[dict[str, Any]]:
        lines, self._lines = self._lines, []
        return lines
