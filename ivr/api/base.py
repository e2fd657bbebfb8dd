"""What the HTTP API needs from the running service; ``ivr.calls`` provides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from policies.types import Hotkey


@dataclass(frozen=True, slots=True)
class CallSummary:
    """One live call as people see it: no words of the caller in here."""

    id: str
    call_ref: str
    agent_ext: str | None
    state: str
    rung: str
    armed: bool
    strikes: int
    started_at: str
    duration_ms: int
    legs: tuple[str, ...]
    playing: str | None
    countdown_ms: int | None
    mode: str = "full"
    queue: str | None = None
    caller_number: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``/readyz``: ``detail`` is a plain sentence, with the fix when not ok."""

    name: str
    ok: bool
    detail: str


class CallDirectory(Protocol):
    """The live calls."""

    def summaries(self) -> list[CallSummary]:
        """Every live call, oldest first."""

    def summary(self, call_id: str) -> CallSummary | None:
        """One live call, by our id or the PBX's own."""

    def agent_of(self, call_id: str) -> str | None:
        """The extension of a call that is live or was lately."""

    def call_of_agent(self, ext: str) -> str | None:
        """Id of the agent's current call; the newest when there are several."""

    def press(self, call_id: str, hotkey: Hotkey) -> CallSummary:
        """Deliver a key press and return the call as it stands afterwards.

        Raises:
            KeyError: no live call of that id.
        """

    def checks(self) -> list[Check]:
        """What ``/readyz`` reports."""
