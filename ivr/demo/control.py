"""The stand-in exchange's HTTP door: ``POST /control``, the contract that a real PBX's control hook would offer.

Request: JSON ``{"id", "call", "action", "target", "agent", "reason"}``, ``action`` being ``transfer``, ``hangup``,
``pause_agent`` or ``unpause_agent``.
Answer: ``200 {"ok": true}`` once it is really done; ``404``/``409 {"ok": false, "error": ...}`` when it cannot be;
``400`` for what is not such a request; ``401`` when a signature is asked for and does not fit. A repeated ``id`` gets
the first one's answer and is not done again, so a client may retry after a lost answer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from types import TracebackType
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ivr.api.server import ApiServer
from ivr.clock import wall_s
from ivr.demo.exchange import ControlError, Exchange
from ivr.demo.stack import LOOPBACK
from ivr.webhooks import WebhookError, verify

_MAX_REMEMBERED = 1000
_MAX_BODY_BYTES = 64 * 1024

Answer = tuple[int, dict[str, Any]]


class ControlRequest(BaseModel):
    """One order to the exchange."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(min_length=1, max_length=200)
    call: str = ""
    action: Literal["transfer", "hangup", "pause_agent", "unpause_agent"]
    target: str | None = None
    agent: str | None = None
    reason: str = ""


class ControlDoor:
    """Carries out control requests on an :class:`Exchange`, once for each id."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._answers: OrderedDict[str, asyncio.Task[Answer]] = OrderedDict()

    async def obey(self, order: ControlRequest) -> Answer:
        """HTTP status and body for ``order``; a repeated id waits for, and gets, the first one's."""
        task = self._answers.get(order.id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._once(order))
            self._answers[order.id] = task
            while len(self._answers) > _MAX_REMEMBERED:
                self._answers.popitem(last=False)
        return await asyncio.shield(task)  # a client that gives up must not undo half a transfer

    async def _once(self, order: ControlRequest) -> Answer:
        try:
            if order.action == "transfer":
                await self._exchange.transfer(order.call, order.target or "")
            elif order.action == "hangup":
                await self._exchange.hang_up(order.call)
            elif order.action == "pause_agent":
                await self._exchange.pause_agent(order.agent or "")
            else:
                self._exchange.resume_agent(order.agent or "")
        except ControlError as exc:
            return exc.status, {"ok": False, "error": str(exc)}
        return 200, {"ok": True}


def control_app(exchange: Exchange, secret: str | None = None) -> FastAPI:
    """The ASGI app. With ``secret`` (``whsec_...``) every request must be signed (Standard Webhooks)."""
    app = FastAPI(title="Firmline demo exchange", docs_url=None, redoc_url=None, openapi_url=None)
    door = ControlDoor(exchange)

    @app.post("/control")
    async def control(request: Request) -> JSONResponse:
        body = await request.body()
        if len(body) > _MAX_BODY_BYTES:
            return _refusal(413, "request too large")
        if secret is not None:
            try:
                verify(secret, request.headers, body, wall_s())
            except WebhookError as exc:
                return _refusal(401, str(exc))
        try:
            order = ControlRequest.model_validate_json(body)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            return _refusal(400, f"{where}: {first['msg']}")
        status, answer = await door.obey(order)
        return JSONResponse(answer, status_code=status)

    return app


def _refusal(status: int, error: str) -> JSONResponse:
    return JSONResponse({"ok": False, "error": error}, status_code=status)


class ControlServer:
    """Serves ``control_app`` on 127.0.0.1. Use as ``async with ControlServer(exchange) as server: server.url``."""

    def __init__(self, exchange: Exchange, secret: str | None = None, port: int = 0) -> None:
        self._server = ApiServer(control_app(exchange, secret), LOOPBACK, port)
        self.url = ""

    async def __aenter__(self) -> ControlServer:
        await self._server.start()
        self.url = f"http://{LOOPBACK}:{self._server.address[1]}/control"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop()
