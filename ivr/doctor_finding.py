"""What ``firmline doctor`` says of one thing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad."""

    OK = "ok"
    WARN = "warn"
    """Works, but somebody should look."""
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what is the case, and when it is not well, what to do next."""

    level: Level
    name: str
    what: str
    next_step: str = ""

    def as_json(self) -> dict[str, Any]:
        """Keys level, name, what, next_step."""
        return asdict(self)


def ok(name: str, what: str) -> Finding:
    """Nothing wrong."""
    return Finding(Level.OK, name, what)


def fault(name: str, what: str, step: str) -> Finding:
    """Does not work."""
    return Finding(Level.FAULT, name, what, step)
