"""Measures how late the event loop runs things: the one number that says whether audio keeps its pace.

A tick is asked for every 20 ms (one ptime); how late it comes is the stall. A stall of 500 ms would count as a single
late tick among thousands, so the ring also gets the ticks that did not happen (480, 460, ... ms late): the percentile
is then that of a frame arriving at any moment (Tene's correction for coordinated omission).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from audio.types import PTIME_MS
from ivr import clock

RING_TICKS = 3_000
"""One minute of ticks."""


class StallSink(Protocol):
    """Where each tick's lateness goes; ``ivr.metrics.Metrics`` is one."""

    def loop_stall(self, late_ms: float) -> None:
        """One tick came ``late_ms`` late."""


class StallMeter:
    """Lateness of ticks, without a clock or a loop of its own."""

    def __init__(self, period_ms: float = PTIME_MS, ring_ticks: int = RING_TICKS) -> None:
        self._period_ms = period_ms
        self._ring: deque[float] = deque(maxlen=ring_ticks)
        self.worst_ms = 0.0

    def tick(self, due_ms: float, now_ms: float) -> float:
        """A tick due at ``due_ms`` ran at ``now_ms``; returns how late it was, in ms, never negative."""
        late_ms = max(0.0, now_ms - due_ms)
        self.worst_ms = max(self.worst_ms, late_ms)
        missing_ms, room = late_ms, self._ring.maxlen or 0
        while missing_ms >= 0.0 and room > 0:
            self._ring.append(missing_ms)
            missing_ms -= self._period_ms
            room -= 1
        return late_ms

    def percentile_ms(self, percent: float) -> float:
        """Lateness that ``percent`` of the ring's ticks do not exceed (nearest rank); 0 before the first tick."""
        if not self._ring:
            return 0.0
        ordered = sorted(self._ring)
        rank = max(1, -(-len(ordered) * percent // 100))
        return ordered[min(len(ordered), int(rank)) - 1]


class StallMonitor:
    """Runs a :class:`StallMeter` on the current loop.

    ``now_ns`` is the clock, ``call_later`` the loop's scheduler; both are for tests to replace.
    """

    def __init__(
        self,
        sink: StallSink,
        *,
        now_ns: Callable[[], int] = clock.monotonic_ns,
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle] | None = None,
    ) -> None:
        self.meter = StallMeter()
        self._sink = sink
        self._now_ns = now_ns
        self._call_later = call_later
        self._timer: asyncio.TimerHandle | None = None
        self._due_ms = 0.0

    def start(self) -> None:
        """Begin ticking; call it on the loop that is to be measured."""
        self._arm()

    def stop(self) -> None:
        """Stop ticking; nothing is left on the loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def p99_ms(self) -> float:
        """The stall that 99 of 100 moments of the last minute did not exceed."""
        return self.meter.percentile_ms(99)

    def _arm(self) -> None:
        call_later = self._call_later or asyncio.get_running_loop().call_later
        self._due_ms = self._now_ns() / 1e6 + PTIME_MS
        self._timer = call_later(PTIME_MS / 1000, self._tick)

    def _tick(self) -> None:
        self._sink.loop_stall(self.meter.tick(self._due_ms, self._now_ns() / 1e6))
        self._arm()
