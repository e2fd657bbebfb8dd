"""What the API answers, described for OpenAPI."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

TARGET = r"^[0-9A-Za-z*#+_.-]{1,80}$"
"""As ``pbx.transfer_to``."""


LADDER = ("clear", "cautioned", "warned", "final", "ending")


class SuggestionOut(BaseModel):
    """A step that the policy would take; the key carries it out."""

    model_config = ConfigDict(from_attributes=True)

    step: str = Field(description="gentle_request, warning, final_warning or end")
    key: str = Field(description="The key that does it")
    kind: str | None = Field(description="Of an ending: transfer, menu or hangup")
    why: str
    until_ms: int = Field(description="Milliseconds since the start of the call")


class TransferIn(BaseModel):
    """Where a transfer goes; without it, where transfers usually go (`pbx.transfer_to`)."""

    model_config = ConfigDict(extra="forbid")

    to: Annotated[str, Field(pattern=TARGET)] | None = Field(default=None, description="An extension of the PBX")


class CallOut(BaseModel):
    """One live call; holds no words of anybody."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(description="Firmline's id of the call, for the other paths")
    call_ref: str = Field(description="The PBX's own id of the call (header X-Firmline-Call)")
    agent_ext: str | None = Field(description="The agent's extension, when the PBX told it")
    queue: str | None = Field(description="The queue by which the call came, when the PBX told it")
    caller_number: str | None = Field(description="The caller's number in full, when the PBX told it; not stored here")
    state: str = Field(description="Where the call stands")
    rung: str = Field(description="Where the boundary ladder stands")
    armed: bool = Field(description="False while automatic endings are off")
    strikes: int = Field(description="Strikes that count now")
    started_at: str = Field(description="UTC, ISO 8601")
    duration_ms: int = Field(description="Since the start, in milliseconds")
    legs: tuple[str, ...] = Field(description="Sides that are heard now")
    playing: str | None = Field(description="The prompt being played to the caller, if any")
    countdown_ms: int | None = Field(description="Milliseconds in which the ending can still be pardoned, if decided")
    mode: str = Field(description="What Firmline may do by itself in this call: shadow, suggest, warn or full")
    rungs: tuple[str, ...] = Field(default=LADDER, description="The ladder from bottom to top; `rung` is one of them,")
    disarmed: bool = Field(default=False, description="`rung` is disarmed: nothing is automatic any more")
    pack: str = Field(description="Name and version of the policy in force here")
    countdown_ends_ms: int | None = Field(description="When, in milliseconds since the start")
    countdown_kind: str | None = Field(description="transfer, menu or hangup")
    countdown_why: str | None = Field(description="One plain clause")
    suggestion: SuggestionOut | None = Field(description="What the policy would do and leaves to a person")
    speaking: tuple[str, ...] = Field(description="Sides that are speaking now")
    lag_ms: int | None = Field(description="From the end of the latest words to their transcript")
    cues: dict[str, tuple[str, ...]] = Field(
        default={},
        description="De-escalation cues by category or conduct; in answers about one call, empty in the list",
    )

    @model_validator(mode="after")
    def _off_the_ladder(self) -> Self:
        self.disarmed = self.rung == "disarmed"
        return self


class MeOut(BaseModel):
    """Who a token is."""

    role: str = Field(description="open (no tokens are defined), agent, supervisor or ops")
    ext: str | None = Field(description="The extension: an agent's own; a supervisor's, if they gave one")
    name: str = Field(description="As given when the token was made")


class CheckOut(BaseModel):
    """One line of readiness."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    ok: bool
    detail: str = Field(description="One plain sentence; with the fix when not ok")


class ReadyOut(BaseModel):
    """Whether new calls are heard, judged and acted on."""

    ready: bool
    checks: list[CheckOut] = Field(description="For supervisors and ops; empty for others")


class AliveOut(BaseModel):
    """The process runs and its loop turns."""

    alive: bool = True
    version: str


class EventOut(BaseModel):
    """One row as the event stream has it."""

    call_id: str
    event: str
    at: str = Field(description="UTC, ISO 8601")
    t_ms: int = Field(description="Since the start of the call")
    data: dict[str, Any]


class TranscriptOut(BaseModel):
    """A live call, and what happened in it lately."""

    call: CallOut
    events: list[EventOut] = Field(description="Oldest first")


class IncidentOut(BaseModel):
    """One call in which a step was taken, or somebody may have been in danger."""

    call_id: str
    call_ref: str | None
    agent_ext: str | None
    queue: str | None
    pack: str | None
    mode: str | None
    started_at: str | None
    duration_ms: int | None
    highest_rung: str = Field(description="How far up the ladder it went")
    strikes: dict[str, int] = Field(description="By category; `key` = by a person's key")
    conduct: dict[str, int]
    warnings: int = Field(description="Warnings that were heard")
    pardons: int
    safeguard: bool = Field(description="Somebody may have been in danger")
    ended_by: str | None
    failed_actions: int
    why: str | None
    outcome: str = Field(description="transfer, menu, hangup, went on, or live")
    words: list[str] = Field(description="What was said that counted; numbers masked; empty when words are not stored")
    actions: list[dict[str, Any]] = Field(description="What was done: time, action, done or not, mode, why")
    keys: list[dict[str, Any]] = Field(description="Who pressed what, when")


class IncidentsOut(BaseModel):
    """A day's incidents."""

    day: date
    incidents: list[IncidentOut]


class QueueOut(BaseModel):
    """The rule of one queue."""

    pack: str
    mode: str


class StatusOut(BaseModel):
    """How the service stands."""

    version: str
    ready: bool
    calls: int = Field(description="Live now")
    pack: str = Field(description="Name and version, for queues without a rule of their own")
    mode: str
    queues: dict[str, QueueOut] = Field(description="Queues with a rule of their own")
    lag_ms: int = Field(description="How long the oldest speech waits to be decoded")
    config_loaded_at: str | None = None
    config_error: str | None = Field(default=None, description="Why the settings on disk are refused, if they are")
    config_error_at: str | None = None
    config_restart_wanted: list[str] = Field(default=[], description="Changed keys that wait for a restart")
    tokens_problem: str | None = None


class PausedOut(BaseModel):
    """An agent's queue pause, as the PBX confirmed it."""

    ext: str
    paused: bool


class ErrorOut(BaseModel):
    """Every refusal has this form."""

    error: str = Field(description="One plain sentence")
