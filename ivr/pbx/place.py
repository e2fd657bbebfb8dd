"""Where a process runs, told to those of the same machine: the next one knows at once that the last is dead."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PROCESSES = Path("/proc/self/ns/pid")


def _here() -> str:
    """Of this machine since it was started, and of this container; empty where the system does not tell."""
    try:
        told = f"{socket.gethostname()} {_BOOT.read_text()} {_PROCESSES.readlink()}"
    except OSError:
        return ""
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _began(pid: int) -> str:
    """When that process was started, in the kernel's ticks; empty for one that is no more (proc(5), stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def place() -> str:
    """Of this process: no ``/`` in it; empty where nothing can be told."""
    here = _here()
    return here and f"{here}-{os.getpid()}-{_began(os.getpid())}"


def surely_dead(where: str) -> bool:
    """Whether the process of that :func:`place` is known to be no more; of those on other machines nothing is."""
    match = re.fullmatch(r"([0-9a-f]{12})-(\d{1,10})-(\d+)", where)
    if match is None or match[1] != _here():
        return False
    return _began(int(match[2])) != match[3]  # another process may have got its number: in a container, always
