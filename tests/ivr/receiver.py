"""A webhook receiver as a customer would write it: a real HTTP server, verifying with the standardwebhooks library."""

from __future__ import annotations

import asyncio
import base64
from types import TracebackType
from typing import Any

from standardwebhooks.webhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ivr.api.server import ApiServer

SECRET = "whsec_" + base64.b64encode(b"firmline tests' own secret, 32 by").decode()


class Receiver:
    """``async with Receiver() as receiver``; ``answers`` are given in turn, the last one for ever.

    An answer of 0 never comes. ``got`` holds verified messages with their id; ``tries`` every request's headers.
    """

    def __init__(self, *answers: int, port: int = 0) -> None:
        self.answers = list(answers) or [200]
        self.got: list[dict[str, Any]] = []
        self.tries: list[dict[str, str]] = []
        self.more = asyncio.Event()
        self._server = ApiServer(
            Starlette(routes=[Route("/{path:path}", self._take, methods=["POST"])]), "127.0.0.1", port
        )

    async def __aenter__(self) -> Receiver:
        await self._server.start()
        host, port = self._server.address
        self.port, self.url = port, f"http://{host}:{port}/hook"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop()

    async def _take(self, request: Request) -> Response:
        body, headers = await request.body(), dict(request.headers)
        self.tries.append({**headers, "path": request.url.path})
        message = Webhook(SECRET).verify(body, headers)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer == 0:
            self.more.set()
            await asyncio.Event().wait()
        if 200 <= answer < 300:
            self.got.append({"id": headers["webhook-id"], **message})
        self.more.set()
        return Response(status_code=answer, headers={"location": "/elsewhere"} if 300 <= answer < 400 else None)

    async def until(self, count: int, *, tries: bool = False, ceiling_s: float = 8.0) -> None:
        """Until so many messages were taken, or requests seen."""
        async with asyncio.timeout(ceiling_s):
            while len(self.tries if tries else self.got) < count:
                self.more.clear()
                await self.more.wait()
