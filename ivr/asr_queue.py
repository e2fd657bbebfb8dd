"""What the recogniser decodes next, for all legs together. Sans-IO: owns the order, never a process or a clock.

* Finals go before offers, offers before drafts; inside one kind, the oldest first.
* Segments of similar length share a pass. Measured (tiny.en, int8, one thread), n together cost (n + 1) / 2 times one
  alone: so the last of them is ready long before it would be one by one, and the mean is no later.
* Less urgent company may not make the most urgent late, and a pass of drafts is kept short, because a final that
  arrives meanwhile waits for its end.
* A draft that has waited too long shows what nobody looks at any more: it is given back undecoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from audio.types import Segment, SegmentKind


class Priority(IntEnum):
    """Lower goes first; inside one priority, the oldest."""

    FINAL = 0
    OFFER = 5
    DRAFT = 10


PRIORITY_OF = {
    SegmentKind.FINAL: Priority.FINAL,
    SegmentKind.OFFER: Priority.OFFER,
    SegmentKind.DRAFT: Priority.DRAFT,
}


@dataclass(frozen=True, slots=True)
class Context:
    """How long a window the model encodes for a segment: ``max(least, speech + margin)``, in seconds."""

    least_s: float = 5.0
    margin_s: float = 1.0
    draft_least_s: float = 3.0
    draft_margin_s: float = 0.5

    def encoded_s(self, segment: Segment) -> float:
        """Seconds that will be encoded for this one."""
        speech_s = len(segment.samples) / max(1, segment.rate_hz)
        if segment.kind is SegmentKind.DRAFT:
            return min(30.0, max(self.draft_least_s, speech_s + self.draft_margin_s))
        return min(30.0, max(self.least_s, speech_s + self.margin_s))


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """``max_waiting``: beyond it the least urgent and newest is given up. ``batch``: most segments in one pass.
    ``padding``: longest context over shortest in one pass. ``due_ms``: when a final should be ready, counted from its
    arrival. ``draft_pass_ms``: longest pass of drafts. ``stale_ms``: a draft that waited longer is not decoded."""

    max_waiting: int = 256
    batch: int = 8
    padding: float = 1.25
    due_ms: int = 400
    draft_pass_ms: int = 300
    stale_ms: int = 1_500

    def __post_init__(self) -> None:
        """:raises ValueError: when a number is out of range."""
        if self.max_waiting < 1 or self.batch < 1 or self.padding < 1:
            raise ValueError("max_waiting, batch and padding must be at least 1")


@dataclass(slots=True)
class Job:
    """One segment that waits. ``wanted()`` is false once nobody asks for it any more."""

    number: int
    segment: Segment
    priority: Priority
    submitted_ms: int
    wanted: Callable[[], bool]
    attempts: int = 0

    @property
    def order(self) -> tuple[int, int]:
        """Sorts the most urgent first."""
        return self.priority, self.number


class AsrQueue:
    """See the module. Methods that give jobs up return them; the owner answers for them."""

    def __init__(self, options: QueueOptions | None = None, context: Context | None = None) -> None:
        self.options = options or QueueOptions()
        self.context = context or Context()
        self._waiting: list[Job] = []
        self._pace_ms = 25.0
        """Decoding time for each encoded second of one segment alone; learnt from every pass."""

    @property
    def waiting(self) -> list[Job]:
        """Jobs that are still wanted, in no order."""
        return [job for job in self._waiting if job.wanted()]

    def add(self, job: Job) -> list[Job]:
        """Take one in; returns what has to be given up for it, the least urgent and newest first."""
        self._waiting.append(job)
        live = self.waiting
        if len(live) <= self.options.max_waiting:
            return []
        live.sort(key=lambda each: each.order)
        self._waiting = live[: self.options.max_waiting]
        return live[self.options.max_waiting :]

    def stale(self, now_ms: int) -> list[Job]:
        """Drafts that waited too long; they are out of the queue."""
        late = [
            job
            for job in self._waiting
            if job.priority is Priority.DRAFT and now_ms - job.submitted_ms > self.options.stale_ms
        ]
        gone = {job.number for job in late}
        self._waiting = [job for job in self._waiting if job.number not in gone]
        return [job for job in late if job.wanted()]

    def take(self, now_ms: int, idle_workers: int = 1) -> list[Job]:
        """The next pass, most urgent first; empty when nothing waits.

        :param idle_workers: how many could begin now, this one included: what waits is shared out among them.
        """
        waiting = sorted(self.waiting, key=lambda job: job.order)
        if not waiting:
            self._waiting = []
            return []
        chosen: list[Job] = []
        shortest = longest = self.context.encoded_s(waiting[0].segment)
        most = min(self.options.batch, -(-len(waiting) // max(1, idle_workers)))
        for job in waiting:
            encoded_s = self.context.encoded_s(job.segment)
            low, high = min(shortest, encoded_s), max(longest, encoded_s)
            if len(chosen) >= most:
                break
            if high > low * self.options.padding:
                continue
            if chosen and not self._fits(chosen[0], job, self.predicted_ms(len(chosen) + 1, high), now_ms):
                continue
            chosen.append(job)
            shortest, longest = low, high
        gone = {job.number for job in chosen}
        self._waiting = [job for job in waiting if job.number not in gone]
        return chosen

    def _fits(self, first: Job, job: Job, pass_ms: float, now_ms: int) -> bool:
        if first.priority is Priority.DRAFT:
            return pass_ms <= self.options.draft_pass_ms
        # Equals share the wait fairly; the less urgent may come along only while the most urgent is early enough.
        return job.priority <= first.priority or now_ms + pass_ms <= first.submitted_ms + self.options.due_ms

    def predicted_ms(self, count: int, encoded_s: float) -> float:
        """How long a pass of ``count`` segments will take."""
        return self._pace_ms * encoded_s * (count + 1) / 2

    def measured(self, jobs: list[Job], took_ms: float) -> None:
        """A pass is done: the prediction follows."""
        longest = max(self.context.encoded_s(job.segment) for job in jobs)
        pace_ms = took_ms / (longest * (len(jobs) + 1) / 2)
        # One pass in which the machine was busy elsewhere must not stop all company for the next.
        self._pace_ms += 0.2 * (min(pace_ms, 4 * self._pace_ms) - self._pace_ms)

    def take_all(self) -> list[Job]:
        """Everything that waits, to be given up."""
        waiting, self._waiting = self.waiting, []
        return waiting
