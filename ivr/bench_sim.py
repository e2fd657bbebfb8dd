"""Legs on a simulated clock through the very core of a live call, with decoding that takes the CPU time it takes.

A worker that decodes for 130 ms of CPU is busy for 130 ms of simulated time: so queueing, batching and lag come out as
on an idle core of this machine, whatever else runs on it, and an hour of calls is measured in minutes.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from audio.types import PTIME_MS, Pcm, Segment, Transcript
from audio.wavio import frames
from ivr import clock
from ivr import effects as fx
from ivr.asr_queue import PRIORITY_OF, AsrQueue, Job, Priority, QueueOptions
from ivr.bench_speech import RATE_HZ
from ivr.call import CallCore, CallOptions
from ivr.listener import Listener, ListenerOptions
from ivr.types import JournalEvent, LiveEvent
from policies.engine import Engine
from policies.pack import Pack
from policies.types import Side

TAIL_MS = 3_000


class Decoder(Protocol):
    """What decodes: :class:`ivr.asr.SyncAsr` or a peer."""

    def decode_batch(self, segments: list[Segment]) -> list[Transcript]:
        """One transcript a segment, in order."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Words as a watcher sees them at ``t_ms``; ``final`` ones replace those shown before."""

    t_ms: float
    start_ms: int
    end_ms: int
    text: str
    final: bool
    over_prompt: bool = False

    def meets(self, start_ms: int, end_ms: int) -> bool:
        """Whether they were spoken then, or nearly."""
        return self.end_ms > start_ms - 100 and self.start_ms < end_ms + 100


@dataclass(slots=True)
class Outcome:
    """What one run gave: what was seen on each leg, and what it cost."""

    seen: list[list[Seen]]
    decode_cpu_ms: float = 0.0
    other_cpu_ms: float = 0.0
    decoded: int = 0
    passes: int = 0
    stale: int = 0
    passes_ms: list[tuple[float, float]] = field(default_factory=list)
    """Simulated time and CPU of each pass."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How one run listens."""

    listener: ListenerOptions = field(default_factory=ListenerOptions)
    call: CallOptions = field(default_factory=CallOptions)
    queue: QueueOptions = field(default_factory=QueueOptions)
    workers: int = 1


class Simulation:
    """One run. ``legs``: audio at 8 kHz, one call each. ``over_prompt``: our own prompts play all the while."""

    def __init__(
        self, setup: Setup, decoder: Decoder, legs: Sequence[Pcm], pack: Pack, *, over_prompt: bool = False
    ) -> None:
        self._setup, self._decoder, self._legs = setup, decoder, legs
        self._cores = [
            CallCore(str(at), None, Engine(pack), partial(_listener, setup.listener, over_prompt), setup.call, 0)
            for at in range(len(legs))
        ]
        self._queue = AsrQueue(setup.queue)
        self._jobs: dict[tuple[int, int], Job] = {}
        self._owner: dict[int, tuple[int, int]] = {}
        self._dropped: set[int] = set()
        self._done: list[tuple[float, int, list[tuple[Job, Transcript]]]] = []
        self._number = itertools.count()
        self._idle = setup.workers
        self.outcome = Outcome([[] for _ in legs])

    def run(self) -> Outcome:
        """All of the audio, and the time it takes until the last words are there."""
        began_ms = clock.cpu_ms()
        for at, core in enumerate(self._cores):
            self._carry_out(at, core.leg_up(str(at), Side.CALLER, 0), 0)
        streams = [frames(leg, RATE_HZ) for leg in self._legs]
        last_ms = max(len(leg) for leg in self._legs) * 1000 // RATE_HZ + TAIL_MS
        for now_ms in range(PTIME_MS, last_ms, PTIME_MS):
            self._catch_up(now_ms)
            for at, stream in enumerate(streams):
                core = self._cores[at]
                frame = next(stream, None)
                if frame is not None:
                    self._carry_out(at, core.frames(str(at), [frame], now_ms), now_ms)
                due_ms = core.next_deadline_ms()
                if due_ms is not None and due_ms <= now_ms:
                    self._carry_out(at, core.on_deadline(now_ms), now_ms)
            self._serve(now_ms)
        while self._done:
            self._catch_up(self._done[0][0])
        self.outcome.other_cpu_ms = clock.cpu_ms() - began_ms - self.outcome.decode_cpu_ms
        return self.outcome

    # --- the recogniser -----------------------------------------------------------------------------------------------

    def _catch_up(self, now_ms: float) -> None:
        while self._done and self._done[0][0] <= now_ms:
            at_ms, _, answers = heapq.heappop(self._done)
            self._idle += 1
            for job, transcript in answers:
                self._answer(job, transcript, at_ms)
            self._serve(at_ms)

    def _serve(self, now_ms: float) -> None:
        while self._idle:
            for job in self._queue.stale(round(now_ms)):
                self.outcome.stale += 1
                segment = job.segment
                self._answer(
                    job, Transcript("", segment.start_ms, segment.end_ms, final=False, dropped="stale"), now_ms
                )
            jobs = self._queue.take(round(now_ms), self._idle)
            if not jobs:
                return
            self._idle -= 1
            began_ms = clock.cpu_ms()
            found = self._decoder.decode_batch([job.segment for job in jobs])
            took_ms = clock.cpu_ms() - began_ms
            self._queue.measured(jobs, took_ms)
            self.outcome.decode_cpu_ms += took_ms
            self.outcome.decoded += len(jobs)
            self.outcome.passes += 1
            self.outcome.passes_ms.append((now_ms, took_ms))
            done = (now_ms + took_ms, next(self._number), list(zip(jobs, found, strict=True)))
            heapq.heappush(self._done, done)

    def _answer(self, job: Job, transcript: Transcript, at_ms: float) -> None:
        at, token = self._owner.pop(job.number)
        self._jobs.pop((at, token), None)
        if job.number not in self._dropped:
            self._carry_out(at, self._cores[at].transcribed(token, transcript, round(at_ms)), at_ms)

    def _carry_out(self, at: int, effects: Sequence[fx.Effect], now_ms: float) -> None:
        for effect in effects:
            match effect:
                case fx.Transcribe():
                    number = next(self._number)
                    job = Job(
                        number,
                        effect.segment,
                        PRIORITY_OF[effect.segment.kind],
                        round(now_ms),
                        wanted=partial(self._wanted, number),
                    )
                    self._jobs[at, effect.token], self._owner[number] = job, (at, effect.token)
                    self._queue.add(job)
                case fx.Promote() if (at, effect.token) in self._jobs:
                    self._jobs[at, effect.token].priority = Priority.FINAL
                case fx.Forget() if (at, effect.token) in self._jobs:
                    self._dropped.add(self._jobs[at, effect.token].number)
                case fx.Live() if effect.event is LiveEvent.PARTIAL:
                    self._see(at, now_ms, dict(effect.data), final=False)
                case fx.Journal() if effect.event is JournalEvent.UTTERANCE:
                    self._see(at, now_ms, dict(effect.data), final=True)
                case _:
                    pass

    def _wanted(self, number: int) -> bool:
        return number not in self._dropped

    def _see(self, at: int, now_ms: float, data: dict[str, object], *, final: bool) -> None:
        start_ms, end_ms = int(str(data["start_ms"])), int(str(data["end_ms"]))
        seen = Seen(now_ms, start_ms, end_ms, str(data["words"]), final, bool(data["over_prompt"]))
        self.outcome.seen[at].append(seen)


def _listener(options: ListenerOptions, over_prompt: bool, side: Side) -> Listener:
    listener = Listener(options, side)
    listener.set_over_prompt(over_prompt, 0)
    return listener
