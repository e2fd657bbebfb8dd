"""The HTTP API: probes, live calls, keys, and a stream of what happens.

Handlers are coroutines that only look things up, so that no worker thread is ever started and nothing waits. Who may
reach this is settled by ``ivr.api.guard`` and by listening on loopback; access tokens come with the operators' pages.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, FastAPI, Path, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ivr.api.base import CallDirectory
from ivr.api.feed import EventFeed, FeedFull, Watcher
from ivr.api.guard import OriginGuard
from ivr.api.models import AliveOut, CallOut, CheckOut, ErrorOut, ReadyOut
from ivr.metrics import CONTENT_TYPE, Metrics
from policies.types import Hotkey, Key

DESCRIPTION = """Firmline sits beside live calls. This API tells what it sees and takes the keys that people press.

Every error answer is `{"error": "one plain sentence"}`. `WS /api/events` streams one JSON object for each journal row
(`call_id`, `event`, `at`, `t_ms`, `data`), without anybody's words unless asked with `?words=1`; a client that falls
behind is closed with code 1013. Two events are for watchers only and never journalled: `partial` (words that may still
change, until the `utterance` of the same side replaces them) and `partial_signal` (what the policy sees in them; it
counts nothing before the utterance).
"""
TRY_LATER = 1013
CLOSE_WITHIN_S = 1.0
OPS = "ops"

_KEYS = """What each key does: `warn` plays the warning now; `pardon` takes one strike back and stops a countdown; `end`
and `transfer` end the call that way, closing prompt first; `disarm` and `arm` switch automatic endings off and on;
`minute` asks the caller to hold and gives the agent a pause."""

CallId = Annotated[str, Path(min_length=1, max_length=255, description="`id` of a live call")]
Extension = Annotated[str, Path(pattern=r"^[0-9A-Za-z*#+_.-]{1,64}$", description="The agent's extension")]
Pressed = Annotated[Key, Path(description=_KEYS)]
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorOut, "description": "No such live call"}}

_log = structlog.get_logger("firmline.api")


def create_app(calls: CallDirectory, metrics: Metrics, events: EventFeed) -> FastAPI:
    """The ASGI application over the running service."""
    app = FastAPI(
        title="Firmline",
        version=_version(),
        description=DESCRIPTION,
        # The stock pages load scripts from a public CDN: not into an operator's browser.
        docs_url=None,
        redoc_url=None,
        responses={403: {"model": ErrorOut, "description": "Foreign host or origin"}, 422: {"model": ErrorOut}},
    )
    app.add_middleware(OriginGuard)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _our_fault)
    app.include_router(_probes(calls, metrics))
    app.include_router(_calls(calls, metrics))
    app.include_router(_stream(events))
    return app


def _probes(calls: CallDirectory, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["probes"])

    @router.get("/healthz", summary="Is the process alive?")
    async def healthz() -> AliveOut:
        return AliveOut(version=_version())

    @router.get("/readyz", summary="Would a call be heard and acted on?", responses={503: {"model": ReadyOut}})
    async def readyz(response: Response) -> ReadyOut:
        checks = [CheckOut.model_validate(check) for check in calls.checks()]
        ready = all(check.ok for check in checks)
        response.status_code = 200 if ready else 503
        return ReadyOut(ready=ready, checks=checks)

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def read_metrics() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return router


def _calls(calls: CallDirectory, metrics: Metrics) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["calls"])

    def press(call_id: str, hotkey: Hotkey, otherwise: str) -> CallOut:
        try:
            summary = calls.press(call_id, hotkey)
        except KeyError:
            raise HTTPException(404, otherwise) from None
        metrics.hotkey(hotkey.key.value)
        _log.info("key pressed", call=call_id, key=hotkey.key.value, by=hotkey.by)
        return CallOut.model_validate(summary)

    @router.get("/calls", summary="Every live call, oldest first")
    async def list_calls() -> list[CallOut]:
        return [CallOut.model_validate(summary) for summary in calls.summaries()]

    @router.get("/calls/{call_id}", summary="One live call", responses=_NOT_FOUND)
    async def one_call(call_id: CallId) -> CallOut:
        for summary in calls.summaries():
            if summary.id == call_id:
                return CallOut.model_validate(summary)
        raise HTTPException(404, f"there is no live call {call_id!r}")

    @router.post("/calls/{call_id}/{key}", summary="Press a key in a call", responses=_NOT_FOUND)
    async def press_in_call(call_id: CallId, key: Pressed) -> CallOut:
        return press(call_id, Hotkey(key, OPS), f"there is no live call {call_id!r}")

    @router.post("/agents/{ext}/{key}", summary="Press a key in an agent's current call", responses=_NOT_FOUND)
    async def press_for_agent(ext: Extension, key: Pressed) -> CallOut:
        nothing = f"agent {ext} is not on a call that Firmline hears"
        call_id = calls.call_of_agent(ext)
        if call_id is None:
            raise HTTPException(404, nothing)
        return press(call_id, Hotkey(key, f"agent:{ext}"), nothing)

    return router


def _stream(events: EventFeed) -> APIRouter:
    router = APIRouter()

    @router.websocket("/api/events")
    async def stream(socket: WebSocket, words: Annotated[bool, Query()] = False) -> None:
        try:
            with events.watching(words=words) as watcher:
                await socket.accept()
                await _until_first(_send(socket, watcher), _read(socket), watcher.dropped.wait())
                behind = watcher.dropped.is_set()
        except FeedFull:
            await socket.accept()
            await _close(socket, "too many clients are watching")
            return
        if behind:
            _log.warning("event client dropped", detail="it did not read fast enough")
            await _close(socket, "too slow")

    return router


async def _send(socket: WebSocket, watcher: Watcher) -> None:
    while True:
        await socket.send_text(await watcher.next())


async def _read(socket: WebSocket) -> None:
    """Clients have nothing to say here; reading is how their leaving is noticed."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def _until_first(*waits: Awaitable[Any]) -> None:
    """Run all until one ends; cancel and collect the rest. A peer that went away is an end like any other."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    gone = (WebSocketDisconnect, asyncio.CancelledError, RuntimeError)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, gone):
            raise result


async def _close(socket: WebSocket, why: str) -> None:
    """Say goodbye, but not for long: a client that does not read cannot take it either."""
    try:
        async with asyncio.timeout(CLOSE_WITHIN_S):
            await socket.close(TRY_LATER, why)
    except (TimeoutError, RuntimeError, WebSocketDisconnect):
        pass


# --- errors: always one plain sentence ---

ErrorHandler = Callable[[Request, Exception], Awaitable[Response]]


async def _http_error(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    return JSONResponse({"error": str(exc.detail)}, exc.status_code, headers=exc.headers)


async def _invalid(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    problems = [f"{error['loc'][-1]}: {error['msg']}" for error in exc.errors()]
    return JSONResponse({"error": "; ".join(problems)}, 422)


async def _our_fault(_request: Request, exc: Exception) -> Response:
    _log.error("request failed", error=type(exc).__name__)
    return JSONResponse({"error": "something went wrong here; the log says more"}, 500)


def _version() -> str:
    try:
        return importlib.metadata.version("firmline")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
