"""What a call's core asks of the world: plain frozen data, so a live session and a replay carry out the same list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from audio.types import Segment
from ivr.types import JournalEvent, LiveEvent
from policies.types import Audience, EndKind, Side


@dataclass(frozen=True, slots=True)
class Transcribe:
    """Decode ``segment`` and hand the transcript back under the same ``token``; its kind says how urgent it is."""

    token: int
    side: Side
    segment: Segment


@dataclass(frozen=True, slots=True)
class Promote:
    """What was asked under ``token`` as an offer is the final now: no less urgent than any other."""

    token: int


@dataclass(frozen=True, slots=True)
class Forget:
    """What was asked under ``token`` is of no use any more; an answer that comes all the same is ignored."""

    token: int


@dataclass(frozen=True, slots=True)
class Play:
    """Play a catalogue prompt to the caller now, in place of what is playing; report under ``token``."""

    token: int
    prompt: str
    why: str
    heard_ms: int | None
    decided_ms: int


@dataclass(frozen=True, slots=True)
class StopPlaying:
    """Stop the prompt that is playing; its end is still reported under its token."""

    why: str


@dataclass(frozen=True, slots=True)
class End:
    """End the call as ``attempts`` says: in order, until one is confirmed by the PBX; report once.

    ``target``: where a person wants the transfer to go; ``None``: where transfers usually go.
    """

    attempts: tuple[EndKind, ...]
    why: str
    heard_ms: int | None
    decided_ms: int
    target: str | None = None


@dataclass(frozen=True, slots=True)
class PauseAgent:
    """Ask the PBX to keep the agent free for a moment."""

    why: str


@dataclass(frozen=True, slots=True)
class DropLeg:
    """Hang up one tap leg of ours (never the human call)."""

    leg_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Journal:
    """One journal row; ``t_ms`` counts from the call's start."""

    event: JournalEvent
    t_ms: int
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Live:
    """For those who watch, and never for the journal: words that may still change. ``t_ms`` as in a journal row."""

    event: LiveEvent
    t_ms: int
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tell:
    """Say something to a person, in one plain sentence."""

    audience: Audience
    text: str
    page: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """The call is over and everything of it may be forgotten."""

    why: str


ForRecogniser = Transcribe | Promote | Forget
Effect = ForRecogniser | Play | StopPlaying | End | PauseAgent | DropLeg | Journal | Live | Tell | Finished
