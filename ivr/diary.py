"""What one call leaves behind and asks for, in the order in which it is to be carried out. Sans-I/O.

Everything that a call's parts want of the world passes through here, so that there is one order, and one place where
clock time becomes time since the call's start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ivr import effects as fx
from ivr.types import JournalEvent, LiveEvent
from policies.engine import Engine
from policies.types import Audience

CLOCK_KEYS = frozenset({"heard_ms", "decided_ms", "start_ms", "end_ms"})
"""Keys of the engine's records that hold times on the clock."""


class Diary:
    """The effects of one call. ``started_ms``: what its rows count from, on our clock."""

    def __init__(self, engine: Engine, started_ms: int) -> None:
        self.started_ms = started_ms
        self._engine = engine
        self._out: list[fx.Effect] = []

    def add(self, effect: fx.Effect) -> None:
        """To be carried out after all that was added before."""
        self._out.append(effect)

    def journal(self, event: JournalEvent, now_ms: int, data: Mapping[str, Any]) -> None:
        """A row that is kept."""
        self.add(fx.Journal(event, now_ms - self.started_ms, data))

    def live(self, event: LiveEvent, now_ms: int, data: Mapping[str, Any]) -> None:
        """A row for those who watch now."""
        self.add(fx.Live(event, now_ms - self.started_ms, data))

    def tell(self, audience: Audience, text: str) -> None:
        """A plain sentence to a person."""
        self.add(fx.Tell(audience, text))

    def signal(self, now_ms: int, what: str, text: str) -> None:
        """Something about the call itself that a supervisor should know: kept and told."""
        self.journal(JournalEvent.SIGNAL, now_ms, {"action": what, "why": text})
        self.tell(Audience.SUPERVISOR, text)

    def since_start(self, record: Mapping[str, object]) -> dict[str, object]:
        """The engine speaks in clock time; the journal counts from the call's start."""
        return {
            key: value - self.started_ms if key in CLOCK_KEYS and isinstance(value, int) else value
            for key, value in record.items()
        }

    def by_pack(self) -> dict[str, str]:
        """Which rule, in which mode, is behind a row."""
        return {"pack": self._engine.pack.version, "mode": self._engine.pack.mode.value}

    def flush(self) -> list[fx.Effect]:
        """What was added since the last time."""
        out, self._out = self._out, []
        return out
