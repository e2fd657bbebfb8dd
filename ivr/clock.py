"""The only place in Firmline that reads a clock, so that everything else takes time as an argument."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def monotonic_ms() -> int:
    """Milliseconds on the monotonic clock: for every deadline and duration."""
    return time.monotonic_ns() // 1_000_000


def monotonic_ns() -> int:
    """Nanoseconds on the monotonic clock: for the RTP pacer."""
    return time.monotonic_ns()


def wall_iso() -> str:
    """UTC wall time, ISO 8601 with milliseconds: for journals and people, never for arithmetic."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def wall_s() -> float:
    """UTC seconds since the epoch: for retention and webhook signatures."""
    return time.time()


def wait_until_ms(due_ms: int) -> None:
    """Block the thread until ``monotonic_ms() >= due_ms``: for playing a recording at the speed of speech."""
    while (left_ms := due_ms - monotonic_ms()) > 0:
        time.sleep(left_ms / 1000)


def cpu_ms() -> float:
    """CPU time of this process so far, all threads: for benches, where the machine may be busy elsewhere."""
    return time.process_time_ns() / 1e6
