"""What the HTTP API needs from the running service; ``ivr.calls`` provides it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol

from ivr.types import JournalRow, LiveRow
from policies.types import Hotkey


@dataclass(frozen=True, slots=True)
class Suggested:
    """What the policy would do in a call and leaves to a person; times in ms since the call's start."""

    step: str
    key: str
    kind: str | None
    why: str
    until_ms: int


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
    pack: str = ""
    countdown_ends_ms: int | None = None
    countdown_kind: str | None = None
    countdown_why: str | None = None
    suggestion: Suggested | None = None
    speaking: tuple[str, ...] = ()
    lag_ms: int | None = None
    cues: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``/readyz``: ``detail`` is a plain sentence, with the fix when not ok."""

    name: str
    ok: bool
    detail: str


class Desk(Protocol):
    """What the API asks of the service besides its calls."""

    def status(self) -> dict[str, Any]:
        """How the service stands: see ``StatusOut``."""

    def recent(self, call_id: str) -> list[JournalRow | LiveRow]:
        """The latest rows of a live call, oldest first."""

    async def incidents(self, day: date) -> list[dict[str, Any]]:
        """What happened on that day, newest first.

        Raises:
            StoreError: the journal cannot be read.
        """

    async def pause(self, ext: str, *, paused: bool, by: str) -> None:
        """Keep an agent free of calls, or give them back to their queues.

        Raises:
            PbxError: the PBX did not do it.
        """


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
