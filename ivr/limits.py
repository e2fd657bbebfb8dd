"""Room for as many open files as the legs need: each leg is a socket, and the usual soft limit is 1024."""

from __future__ import annotations

import resource

BESIDES_LEGS = 512
"""API clients, the journal, the decoding processes' pipes."""


def allow_open_files(legs: int) -> str:
    """Raise our soft limit so that ``legs`` and the rest fit; one sentence when the hard limit forbids it."""
    needed = legs + BESIDES_LEGS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return ""
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed >= needed:
        return ""
    return (
        f"this process may open {allowed} files, line.max_legs {legs} may need {needed}: raise the limit "
        "(LimitNOFILE= in the systemd unit, or ulimit -Hn) or lower line.max_legs"
    )
