"""What one call comes to, from its journal rows: pure, so that webhooks (live) and reports (later) say the same.

Words are not kept here; categories, rungs, counts and times are. The agent's extension is carried for whoever must
find the call, never counted by.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ivr.types import JournalEvent, JournalRow

LADDER = ("clear", "cautioned", "warned", "final", "ending")
"""Rungs from bottom to top; ``disarmed`` and ``ended`` say something else."""
ENDINGS = frozenset({"transfer", "menu", "hangup"})
WARNINGS = frozenset({"warned", "final"})


def is_safeguard(row: JournalRow) -> bool:
    """Somebody may be in danger: heard for certain, not held back by a guard."""
    return row.event is JournalEvent.SIGNAL and row.data.get("category") == "safeguard" and row.data.get("held") is None


@dataclass(slots=True)
class CallStory:
    """One call as it goes; feed its rows in order."""

    call_id: str
    call_ref: str | None = None
    agent_ext: str | None = None
    queue: str | None = None
    pack: str | None = None
    mode: str | None = None
    started_at: str | None = None
    duration_ms: int | None = None
    ended_by: str | None = None
    """The ending that the PBX confirmed, if any."""
    ended_why: str | None = None
    highest: str = "clear"
    warnings: int = 0
    pardons: int = 0
    failed: int = 0
    safeguard: bool = False
    strikes: Counter[str] = field(default_factory=Counter)
    """By category; ``key`` = by a person's key."""
    conduct: Counter[str] = field(default_factory=Counter)

    def hear(self, row: JournalRow) -> None:
        """Take in one row; rows of no interest change nothing."""
        data = row.data
        match row.event:
            case JournalEvent.CALL_STARTED:
                self.started_at = row.at
                self.call_ref, self.pack = _text(data.get("call_ref")), _text(data.get("pack"))
                self.agent_ext = _text(data.get("agent_ext") or data.get("agent"))
                self.queue, self.mode = _text(data.get("queue")), _text(data.get("mode"))
            case JournalEvent.STRIKE:
                self.strikes[str(data.get("category") or "key")] += 1
            case JournalEvent.RUNG:
                self._rung(str(data.get("to")), str(data.get("cause")))
            case JournalEvent.SIGNAL:
                self.safeguard |= is_safeguard(row)
                if data.get("conduct"):
                    self.conduct[str(data["conduct"])] += 1
            case JournalEvent.HOTKEY:
                self.pardons += data.get("key") == "pardon"
            case JournalEvent.ACTION_DONE:
                if data.get("action") in ENDINGS:
                    self.ended_by = str(data["action"])
            case JournalEvent.ACTION_FAILED:
                self.failed += 1
            case JournalEvent.CALL_ENDED:
                self.duration_ms, self.ended_why = row.t_ms, _text(data.get("why"))

    def _rung(self, to: str, cause: str) -> None:
        if to in LADDER and LADDER.index(to) > LADDER.index(self.highest):
            self.highest = to
        self.warnings += to in WARNINGS and cause == "prompt_heard"

    @property
    def is_incident(self) -> bool:
        """Whether somebody should read about this call: a step of the ladder, an ending, or a danger."""
        return self.highest != "clear" or self.safeguard or self.ended_by is not None or bool(self.strikes)

    def summary(self) -> dict[str, Any]:
        """JSON-able, without anybody's words."""
        return {
            "call_id": self.call_id,
            "call_ref": self.call_ref,
            "agent_ext": self.agent_ext,
            "queue": self.queue,
            "pack": self.pack,
            "mode": self.mode,
            "started_at": self.started_at,
            "duration_ms": self.duration_ms,
            "highest_rung": self.highest,
            "strikes": dict(self.strikes),
            "conduct": dict(self.conduct),
            "warnings": self.warnings,
            "pardons": self.pardons,
            "safeguard": self.safeguard,
            "ended_by": self.ended_by,
            "failed_actions": self.failed,
            "why": self.ended_why,
        }


def _text(value: object) -> str | None:
    return None if value is None else str(value)
