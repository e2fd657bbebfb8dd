"""What a bench must know of the machine: CPU, memory and sockets of processes, and how busy everything else was."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from ivr.clock import monotonic_ms

_TICKS_S = os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory of a process; 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_s(pid: int) -> float:
    """User and system CPU of a process so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


def children_of(pid: int) -> list[int]:
    """Direct children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def sockets_of(pid: int) -> int:
    """Sockets that a process holds; 0 when it is gone."""
    count = 0
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                count += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    return count


def threads_of(pid: int) -> int:
    """Threads of a process; 0 when it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


@dataclass(frozen=True, slots=True)
class Busy:
    """The whole machine at one moment: ``busy_s`` is CPU time that all its processes, and other guests of its host,
    have taken so far."""

    at_ms: int
    busy_s: float

    @classmethod
    def now(cls) -> Busy:
        """As the kernel counts it (``/proc/stat``)."""
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        return cls(monotonic_ms(), (user + nice + system + irq + softirq + steal) / _TICKS_S)

    def cores_since(self) -> float:
        """Cores that were busy on average between then and now."""
        now = Busy.now()
        return (now.busy_s - self.busy_s) / max(0.001, (now.at_ms - self.at_ms) / 1000)


def load_average() -> float:
    """Processes that ran or waited, over the last minute."""
    return round(os.getloadavg()[0], 2)
