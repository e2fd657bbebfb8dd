"""Live calls and the keys that people press in them."""

from __future__ import annotations

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Body, Depends, Path
from starlette.exceptions import HTTPException

from ivr.api.access import Principal, may_see, principal_of
from ivr.api.base import CallDirectory
from ivr.api.models import CallOut, ErrorOut, MeOut, TransferIn
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
Where = Annotated[TransferIn | None, Body()]
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorOut, "description": "No such live call"}}

_log = structlog.get_logger("firmline.api")


class Keys:
    """Keys on their way into calls."""

    def __init__(self, calls: CallDirectory, metrics: Metrics) -> None:
        self._calls, self._metrics = calls, metrics

    def press(self, call_id: str, hotkey: Hotkey, otherwise: str) -> CallOut:
        """The call as it stands afterwards; a plain 404 with the words ``otherwise`` when there is none."""
        try:
            summary = self._calls.press(call_id, hotkey)
        except KeyError:
            raise HTTPException(404, otherwise) from None
        self._metrics.hotkey(hotkey.key.value)
        _log.info("key pressed", call=call_id, key=hotkey.key.value, by=hotkey.by)
        return CallOut.model_validate(summary)

    def of_agent(self, ext: str, who: Principal) -> str:
        """Id of the agent's current call; a plain 403 or 404."""
        may_see(who, ext)
        call_id = self._calls.call_of_agent(ext)
        if call_id is None:
            raise HTTPException(404, _nothing(ext))
        return call_id


def call_routes(calls: CallDirectory, metrics: Metrics) -> APIRouter:
    """``/api/me`` and ``/api/calls``."""
    router, keys = APIRouter(prefix="/api", tags=["calls"]), Keys(calls, metrics)

    @router.get("/me", summary="Who this token is")
    async def me(who: Who) -> MeOut:
        return MeOut(role=who.role.value, ext=who.ext, name=who.name)

    @router.get("/calls", summary="Every live call that is yours to see, oldest first")
    async def list_calls(who: Who) -> list[CallOut]:
        seen = (call for call in calls.summaries() if who.may_see(call.agent_ext))
        return [CallOut.model_validate(call).model_copy(update={"cues": {}}) for call in seen]

    @router.get("/calls/{call_id}", summary="One live call", responses=NOT_FOUND)
    async def one_call(call_id: CallId, who: Who) -> CallOut:
        return CallOut.model_validate(find_call(calls, call_id, who))

    @router.post("/calls/{call_id}/transfer", summary="Transfer a call, or take it over", responses=NOT_FOUND)
    async def transfer_call(call_id: CallId, who: Who, where: Where = None) -> CallOut:
        """As the key, and where to: supervisors may name an extension, their own to take the call over."""
        find_call(calls, call_id, who)
        return keys.press(call_id, Hotkey(Key.TRANSFER, who.by, target(where, who)), _no_call(call_id))

    @router.post("/calls/{call_id}/{key}", summary="Press a key in a call", responses=NOT_FOUND)
    async def press_in_call(call_id: CallId, key: Pressed, who: Who) -> CallOut:
        find_call(calls, call_id, who)
        return keys.press(call_id, Hotkey(key, who.by), _no_call(call_id))

    return router


def agent_routes(calls: CallDirectory, metrics: Metrics) -> APIRouter:
    """``/api/agents``: the same by extension, for keys that know no call."""
    router, keys = APIRouter(prefix="/api", tags=["agents"]), Keys(calls, metrics)

    @router.get("/agents/{ext}/call", summary="An agent's current call", responses=NOT_FOUND)
    async def call_of_agent(ext: Extension, who: Who) -> CallOut:
        return CallOut.model_validate(find_call(calls, keys.of_agent(ext, who), who))

    @router.post("/agents/{ext}/transfer", summary="Transfer an agent's current call", responses=NOT_FOUND)
    async def transfer_for_agent(ext: Extension, who: Who, where: Where = None) -> CallOut:
        """As the key, and where to, for those who may say so."""
        hotkey = Hotkey(Key.TRANSFER, presser(ext, who), target(where, who))
        return keys.press(keys.of_agent(ext, who), hotkey, _nothing(ext))

    @router.post("/agents/{ext}/{key}", summary="Press a key in an agent's current call", responses=NOT_FOUND)
    async def press_for_agent(ext: Extension, key: Pressed, who: Who) -> CallOut:
        return keys.press(keys.of_agent(ext, who), Hotkey(key, presser(ext, who)), _nothing(ext))

    return router


def presser(ext: str, who: Principal) -> str:
    """Without tokens nobody can tell who presses; the address says for whom."""
    return f"agent:{ext}" if who.role is Role.OPEN else who.by


def target(where: TransferIn | None, who: Principal) -> str | None:
    """Where a person wants the call to go; an agent sends it where calls usually go."""
    to = None if where is None else where.to
    if to is not None and who.role is Role.AGENT:
        raise HTTPException(403, "only a supervisor says where a call goes")
    return to


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
