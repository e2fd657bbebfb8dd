"""What pages need besides the live calls: how the service stands, what a call's page missed, the day's incidents."""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException

from ivr.api.access import may_see
from ivr.api.base import CallDirectory, Desk
from ivr.api.feed import as_json
from ivr.api.keys import NOT_FOUND, CallId, Extension, Who, find_call
from ivr.api.models import CallOut, EventOut, IncidentOut, IncidentsOut, PausedOut, StatusOut, TranscriptOut
from ivr.clock import wall_s
from ivr.errors import PbxError, StoreError
from ivr.tokens import Role

_FOR_THOSE_WHO_MEND = ("config_error", "config_error_at", "config_restart_wanted", "tokens_problem")

_log = structlog.get_logger("firmline.api")


def read_routes(calls: CallDirectory, desk: Desk) -> APIRouter:
    """``/api/status``, transcripts, incidents; and the queue pause, which needs no call."""
    router = APIRouter(prefix="/api", tags=["pages"])

    @router.get("/status", summary="How the service stands")
    async def status(who: Who) -> StatusOut:
        """Faults of the configuration are told to supervisors and ops."""
        found = desk.status()
        if who.role is Role.AGENT:
            found = {key: value for key, value in found.items() if key not in _FOR_THOSE_WHO_MEND}
        return StatusOut.model_validate(found)

    @router.get("/calls/{call_id}/transcript", summary="The latest events of a live call", responses=NOT_FOUND)
    async def transcript(call_id: CallId, who: Who) -> TranscriptOut:
        """In the form of `WS /api/events?words=1`, so that a page which opens mid-call draws them the same way."""
        call = find_call(calls, call_id, who)
        own = [row for row in desk.recent(call.id) if who.own_ext is None or row.data.get("audience") != "supervisor"]
        events = [EventOut.model_validate(json.loads(as_json(row, words=True))) for row in own]
        return TranscriptOut(call=CallOut.model_validate(call), events=events)

    @router.get("/incidents", summary="A day's incidents, newest first")
    async def incidents(
        who: Who, day: Annotated[date | None, Query(description="YYYY-MM-DD, this server's time; default today")] = None
    ) -> IncidentsOut:
        """Calls in which a step was taken or somebody may have been in danger; words as the journal has them."""
        wanted = day or datetime.fromtimestamp(wall_s()).date()
        try:
            found = await desk.incidents(wanted)
        except StoreError as exc:
            _log.warning("incidents cannot be read", error=str(exc))
            raise HTTPException(503, "the journal cannot be read now; /readyz says more") from None
        own = [IncidentOut.model_validate(each) for each in found if who.may_see(each["agent_ext"])]
        return IncidentsOut(day=wanted, incidents=own)

    async def pause(ext: str, who: Any, *, paused: bool) -> PausedOut:
        may_see(who, ext)
        try:
            await desk.pause(ext, paused=paused, by=who.by)
        except PbxError as exc:
            raise HTTPException(502, str(exc)) from None
        return PausedOut(ext=ext, paused=paused)

    answers: dict[int | str, dict[str, Any]] = {502: {"description": "The PBX did not do it"}}

    @router.post("/agents/{ext}/pause", summary="Keep an agent free of queue calls", responses=answers)
    async def pause_agent(ext: Extension, who: Who) -> PausedOut:
        """For as long as the key `minute` does (`pbx.asterisk.pause_s`), or until `unpause`; needs no live call."""
        return await pause(ext, who, paused=True)

    @router.post("/agents/{ext}/unpause", summary="Give an agent back to their queues", responses=answers)
    async def unpause_agent(ext: Extension, who: Who) -> PausedOut:
        return await pause(ext, who, paused=False)

    return router
