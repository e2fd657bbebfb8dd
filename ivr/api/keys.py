"""Live calls and the keys that people press in them."""

from __future__ import annotations

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Path
from starlette.exceptions import HTTPException

from ivr.api.access import Principal, may_see, principal_of
from ivr.api.base import CallDirectory
from ivr.api.models import CallOut, ErrorOut, MeOut
from ivr.metrics import Metrics
from ivr.tokens import EXTENSION, Role
from policies.types import Hotkey, Key

_KEYS = """What each key does: `warn` plays the warning now; `pardon` takes one strike back and stops a countdown; `end`
and `transfer` end the call that way, closing prompt first; `disarm` and `arm` switch automatic endings off and on;
`minute` asks the caller to hold and gives the agent a pause."""

CallId = Annotated[str, Path(min_length=1, max_length=255, description="`id` of a live call")]
Extension = Annotated[str, Path(pattern=EXTENSION, description="The agent's extension")]
Pressed = Annotated[Key, Path(description=_KEYS)]
Who = Annotated[Principal, Depends(principal_of)]
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorOut, "description": "No such live call"}}

_log = structlog.get_logger("firmline.api")


def call_routes(calls: CallDirectory, metrics: Metrics) -> APIRouter:
    """``/api/me``, ``/api/calls`` and ``/api/agents``."""
    router = APIRouter(prefix="/api", tags=["calls"])

    def press(call_id: str, hotkey: Hotkey, otherwise: str) -> CallOut:
        try:
            summary = calls.press(call_id, hotkey)
        except KeyError:
            raise HTTPException(404, otherwise) from None
        metrics.hotkey(hotkey.key.value)
        _log.info("key pressed", call=call_id, key=hotkey.key.value, by=hotkey.by)
        return CallOut.model_validate(summary)

    def current(ext: str, who: Principal) -> str:
        may_see(who, ext)
        call_id = calls.call_of_agent(ext)
        if call_id is None:
            raise HTTPException(404, _nothing(ext))
        return call_id

    @router.get("/me", summary="Who this token is")
    async def me(who: Who) -> MeOut:
        return MeOut(role=who.role.value, ext=who.ext, name=who.name)

    @router.get("/calls", summary="Every live call that is yours to see, oldest first")
    async def list_calls(who: Who) -> list[CallOut]:
        return [CallOut.model_validate(call) for call in calls.summaries() if who.may_see(call.agent_ext)]

    @router.get("/calls/{call_id}", summary="One live call", responses=NOT_FOUND)
    async def one_call(call_id: CallId, who: Who) -> CallOut:
        return CallOut.model_validate(find_call(calls, call_id, who))

    @router.post("/calls/{call_id}/{key}", summary="Press a key in a call", responses=NOT_FOUND)
    async def press_in_call(call_id: CallId, key: Pressed, who: Who) -> CallOut:
        find_call(calls, call_id, who)
        return press(call_id, Hotkey(key, who.by), _no_call(call_id))

    @router.get("/agents/{ext}/call", summary="An agent's current call", responses=NOT_FOUND)
    async def call_of_agent(ext: Extension, who: Who) -> CallOut:
        return CallOut.model_validate(find_call(calls, current(ext, who), who))

    @router.post("/agents/{ext}/{key}", summary="Press a key in an agent's current call", responses=NOT_FOUND)
    async def press_for_agent(ext: Extension, key: Pressed, who: Who) -> CallOut:
        # Without tokens nobody can tell who presses; the address says for whom.
        by = f"agent:{ext}" if who.role is Role.OPEN else who.by
        return press(current(ext, who), Hotkey(key, by), _nothing(ext))

    return router


def find_call(calls: CallDirectory, call_id: str, who: Principal) -> Any:
    """The live call, for somebody who may see it; a plain 404 or 403 otherwise."""
    summary = calls.summary(call_id)
    if summary is None:
        raise HTTPException(404, _no_call(call_id))
    may_see(who, summary.agent_ext)
    return summary


def _no_call(call_id: str) -> str:
    return f"there is no live call {call_id!r}"


def _nothing(ext: str) -> str:
    return f"agent {ext} is not on a call that Firmline hears"
