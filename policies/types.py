"""The types that flow through the judgement: what was heard goes in, what to do about it comes out.

All times are integer milliseconds on the caller-supplied clock (``now_ms``). Everything here is frozen: an engine's
whole output can be compared, logged and replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Side(StrEnum):
    """Whose leg something was heard on. The caller is judged; the agent never is."""

    CALLER = "caller"
    AGENT = "agent"


class Category(StrEnum):
    """What one utterance is, from harmless to worst; ``SAFEGUARD`` stands outside the order and wins over all."""

    CIVIL = "civil"
    VENTING = "venting"
    OBSCENITY = "obscenity"
    INSULT = "insult"
    THREAT = "threat"
    SLUR = "slur"
    SEXUAL = "sexual"
    SAFEGUARD = "safeguard"


class EndKind(StrEnum):
    """What ending a call means."""

    TRANSFER = "transfer"
    MENU = "menu"
    HANGUP = "hangup"


# --- in ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Utterance:
    """Words heard on one leg.

    ``final`` is false for a revisable partial hypothesis: partials never end a call,
    and warn only where the pack says so. ``speech_confirmed`` says that
    the ears' guards agree that this was speech. ``over_prompt`` says that our own prompt was playing to this party:
    such words are recorded, never counted.
    """

    text: str
    side: Side
    start_ms: int
    end_ms: int
    final: bool = True
    speech_confirmed: bool = True
    over_prompt: bool = False
    avg_logprob: float = 0.0
    id: str = ""


class ConductKind(StrEnum):
    """Ways of speaking that are measured, never felt: levels in dB and overlap in ms."""

    SHOUTING = "shouting"
    TALKING_OVER = "talking_over"
    INTERRUPTING = "interrupting"


@dataclass(frozen=True, slots=True)
class Conduct:
    """One measured episode of loud or overlapping speech by the caller."""

    kind: ConductKind
    start_ms: int
    end_ms: int
    value: float
    """Level in dB over the caller's baseline, or overlap ratio 0..1, or a count: by kind."""


class Key(StrEnum):
    """What a human may ask for at any time; it bypasses every guard that protects against machines."""

    WARN = "warn"
    PARDON = "pardon"
    END = "end"
    TRANSFER = "transfer"
    DISARM = "disarm"
    ARM = "arm"
    MINUTE = "minute"


@dataclass(frozen=True, slots=True)
class Hotkey:
    """A key press by a person: ``by`` says who (``agent:201``, ``supervisor``, ``ops``).

    ``target`` is where a transfer goes; ``None``: where transfers usually go.
    """

    key: Key
    by: str
    target: str | None = None


@dataclass(frozen=True, slots=True)
class PromptStarted:
    """The first RTP packet of a prompt left for the caller at ``t_ms``."""

    prompt: str
    t_ms: int


@dataclass(frozen=True, slots=True)
class PromptDone:
    """A prompt is over. ``heard`` is false when it was stopped or could not be played: then it warned nobody."""

    prompt: str
    t_ms: int
    heard: bool


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The human call is over; nothing more may happen."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class EndingFailed:
    """The PBX could not carry out an ``EndCall``, nor any fallback: the human call goes on."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class CarriedOn:
    """The ending gave the caller a choice, and they are with the agent again."""

    why: str = "the caller chose to carry on"


Event = Utterance | Conduct | Hotkey | PromptStarted | PromptDone | EndingFailed | CarriedOn | CallEnded

# --- between ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Match:
    """A lexicon entry found in a text: ``start``/``end`` are character offsets into the text as given."""

    entry: str
    category: Category
    severity: int
    needs_target: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one utterance is. ``strike`` says whether it counts toward a person track under the pack that judged it.

    ``why`` is evidence in reading order, each item one short plain clause.
    """

    text: str
    category: Category
    severity: int
    directed: bool
    strike: bool
    confidence: float
    why: tuple[str, ...] = ()
    matches: tuple[Match, ...] = ()


# --- out --------------------------------------------------------------------------------------------------------------


class Audience(StrEnum):
    """Who is told."""

    AGENT = "agent"
    SUPERVISOR = "supervisor"


@dataclass(frozen=True, slots=True)
class PlayPrompt:
    """Play a catalogue prompt to the caller (and to nobody else), now, in place of what is playing."""

    prompt: str
    why: str
    heard_ms: int | None = None
    """End of the words that caused it; ``None`` when a person asked."""


@dataclass(frozen=True, slots=True)
class StopPrompt:
    """Stop whatever prompt is playing."""

    why: str


@dataclass(frozen=True, slots=True)
class StartCountdown:
    """The ending is decided and can be pardoned until ``deadline_ms``; the engine asks for time by itself."""

    deadline_ms: int
    kind: EndKind
    why: str


@dataclass(frozen=True, slots=True)
class StopCountdown:
    """The ending is off."""

    why: str


@dataclass(frozen=True, slots=True)
class EndCall:
    """Do it now: closing prompt played and countdown over. ``target``: where a person wants the transfer to go."""

    kind: EndKind
    why: str
    heard_ms: int | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class PauseAgent:
    """Give the agent a minute after this call (queue pause where the PBX has one)."""

    why: str


@dataclass(frozen=True, slots=True)
class Suggest:
    """What the policy would do and a person may: ``key`` carries ``step`` out until ``until_ms``.

    ``kind`` is that of an ending. ``step`` is ``None`` when nothing is offered any more.
    """

    step: str | None
    key: Key | None
    kind: EndKind | None
    why: str
    until_ms: int


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell a person. ``page`` asks for attention now (safeguard)."""

    audience: Audience
    text: str
    page: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """For the journal: ``event`` is ``signal``, ``strike`` or ``rung``; ``data`` is JSON-able."""

    event: str
    data: Mapping[str, object] = field(default_factory=dict)


Action = PlayPrompt | StopPrompt | StartCountdown | StopCountdown | EndCall | PauseAgent | Suggest | Notify | Record
