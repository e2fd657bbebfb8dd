"""The HTTP API: probes, live calls, keys, and a stream of what happens.

Handlers are coroutines that only look things up, so that nothing waits. Who may reach this is settled before any of
them runs: by ``ivr.api.guard`` (whose pages) and ``ivr.api.access`` (whose token).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from ivr.api.access import Access, AccessGuard, known, principal_of
from ivr.api.base import CallDirectory, Desk
from ivr.api.feed import EventFeed
from ivr.api.guard import OriginGuard
from ivr.api.keys import agent_routes, call_routes
from ivr.api.models import AliveOut, CheckOut, ErrorOut, ReadyOut
from ivr.api.pages import pages
from ivr.api.reads import read_routes
from ivr.api.stream import stream_routes
from ivr.metrics import CONTENT_TYPE, Metrics
from ivr.tokens import Role

DESCRIPTION = """Firmline sits beside live calls. This API tells what it sees and takes the keys that people press.

While tokens are defined (`firmline token add`), everything under `/api` and `/metrics` needs one, as
`Authorization: Bearer <token>`: an agent's sees and touches the calls of one extension, a supervisor's all calls, one
of ops everything. Browsers, which cannot set headers on a WebSocket, offer the subprotocols `firmline` and
`bearer.<token>`; the answer is `firmline`. Tokens never stand in an address.

Every error answer is `{"error": "one plain sentence"}`: 401 no or a wrong token, 403 not yours, 404 no such thing, 422
not valid, 429 too often (`Retry-After` says when again).

`WS /api/events` streams one JSON object for each journal row (`call_id`, `event`, `at`, `t_ms`, `data`), without
anybody's words unless asked with `?words=1`; a client that falls behind is closed with code 1013, one whose token ends
with 1008. Some events are for watchers only and never journalled: `partial` (words that may still change, until the
`utterance` of the same side replaces them), `partial_signal` (what the policy sees in them; it counts nothing before
the utterance), `speaking` (a side began or ceased to speak), `suggestion` (what the policy would do, the key that does
it and until when; in the modes suggest and warn) and `suggestion_gone`, `told` (a sentence to the agent or the
supervisor; `page` when it asks for attention now).
"""
REFUSALS = {401: "No token, or a wrong one", 403: "Not yours, or a foreign host or origin", 429: "Too often"}

_bearer = HTTPBearer(auto_error=False, description="Made by `firmline token add`; needed once tokens are defined")
_log = structlog.get_logger("firmline.api")


def create_app(
    calls: CallDirectory,
    metrics: Metrics,
    events: EventFeed,
    *,
    access: Access | None = None,
    desk: Desk | None = None,
    hosts: Sequence[str] = (),
) -> FastAPI:
    """The ASGI application over the running service.

    Without ``access`` it is open to whoever can reach it; without ``desk`` it knows live calls only.
    """
    access = access or Access(None)
    app = FastAPI(
        title="Firmline",
        version=_version(),
        description=DESCRIPTION,
        # The stock pages load scripts from a public CDN: not into an operator's browser.
        docs_url=None,
        redoc_url=None,
        responses={403: {"model": ErrorOut, "description": REFUSALS[403]}, 422: {"model": ErrorOut}},
    )
    app.add_middleware(AccessGuard, access=access)
    app.add_middleware(OriginGuard, hosts=hosts)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _our_fault)
    app.include_router(_probes(calls))
    answers: dict[int | str, dict[str, Any]] = {s: {"model": ErrorOut, "description": w} for s, w in REFUSALS.items()}
    reads = [] if desk is None else [read_routes(calls, desk)]
    for guarded in (_metrics(metrics), *reads, call_routes(calls, metrics), agent_routes(calls, metrics)):
        app.include_router(guarded, dependencies=[Security(_bearer)], responses=answers)
    app.include_router(stream_routes(events, access))
    app.include_router(pages())
    return app


def _probes(calls: CallDirectory) -> APIRouter:
    router = APIRouter(tags=["probes"])

    @router.get("/healthz", summary="Is the process alive?")
    async def healthz() -> AliveOut:
        return AliveOut(version=_version())

    @router.get("/readyz", summary="Would a call be heard and acted on?", responses={503: {"model": ReadyOut}})
    async def readyz(request: Request, response: Response) -> ReadyOut:
        """Anybody may ask whether; what is wrong is told to those who look after it."""
        checks = [CheckOut.model_validate(check) for check in calls.checks()]
        ready = all(check.ok for check in checks)
        response.status_code = 200 if ready else 503
        who = known(request)
        return ReadyOut(ready=ready, checks=checks if who is not None and who.role is not Role.AGENT else [])

    return router


def _metrics(metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["probes"])

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def read_metrics(request: Request) -> Response:
        if not principal_of(request).operates:
            raise HTTPException(403, "metrics need a token of role ops")
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return router


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
