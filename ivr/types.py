"""Types shared inside ``ivr``: journal events and what a PBX can do for us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class JournalEvent(StrEnum):
    """Every kind of row in the journal (design contract; names are fixed)."""

    CALL_STARTED = "call_started"
    LEG_UP = "leg_up"
    UTTERANCE = "utterance"
    SIGNAL = "signal"
    STRIKE = "strike"
    RUNG = "rung"
    ACTION_REQUESTED = "action_requested"
    ACTION_DONE = "action_done"
    ACTION_FAILED = "action_failed"
    HOTKEY = "hotkey"
    CALL_ENDED = "call_ended"


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One journal row. ``t_ms`` counts from the call's start; ``data`` is JSON-able."""

    call_id: str
    event: JournalEvent
    at: str
    """UTC wall time, ISO 8601 with milliseconds."""
    t_ms: int
    data: Mapping[str, Any] = field(default_factory=dict)


class LiveEvent(StrEnum):
    """What watchers are told besides the journal's rows; none of it is kept."""

    PARTIAL = "partial"
    """Words that may still change, until the ``utterance`` of the same start replaces them."""
    PARTIAL_SIGNAL = "partial_signal"
    """What the policy sees in such words; it counts nothing before the final."""
    SUGGESTION = "suggestion"
    """What the policy would do and leaves to a person: ``step``, ``key``, ``kind``, ``why``, ``until_ms``."""
    SUGGESTION_GONE = "suggestion_gone"
    """Nothing is suggested any more."""
    TOLD = "told"
    """A plain sentence to a person (``audience``, ``detail``); ``page`` when it asks for attention now."""
    SPEAKING = "speaking"
    """A side begins or stops speaking (``side``, ``speaking``): who has the floor, before any word is known."""


@dataclass(frozen=True, slots=True)
class LiveRow:
    """One live event, in the form of a journal row."""

    call_id: str
    event: LiveEvent
    at: str
    t_ms: int
    data: Mapping[str, Any] = field(default_factory=dict)
