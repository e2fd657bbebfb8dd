"""What the API answers, described for OpenAPI."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


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
    mode: str = Field(description="What Firmline may do by itself in this call")


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


class ErrorOut(BaseModel):
    """Every refusal has this form."""

    error: str = Field(description="One plain sentence")
