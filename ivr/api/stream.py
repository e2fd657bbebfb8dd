"""``WS /api/events``: what happens, as it happens, to whoever may see it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect

from ivr.api.access import SUBPROTOCOL, Access, Principal, principal_of, secret_of
from ivr.api.feed import EventFeed, FeedFull, Watcher

TRY_LATER = 1013
NOT_ALLOWED = 1008
CLOSE_WITHIN_S = 1.0
RECHECK_S = 2.0
"""How long a removed or expired token still sees."""

_log = structlog.get_logger("firmline.api")


def stream_routes(events: EventFeed, access: Access) -> APIRouter:
    """The one WebSocket."""
    router = APIRouter()

    @router.websocket("/api/events")
    async def stream(socket: WebSocket, words: Annotated[bool, Query()] = False) -> None:
        who, secret = principal_of(socket), secret_of(socket.scope)
        spoken = SUBPROTOCOL if SUBPROTOCOL in socket.scope.get("subprotocols", ()) else None
        try:
            with events.watching(words=words, ext=who.own_ext) as watcher:
                await socket.accept(subprotocol=spoken)
                revoked = asyncio.Event()
                await _until_first(
                    _send(socket, watcher), _read(socket), watcher.dropped.wait(), _watch(access, who, secret, revoked)
                )
                behind = watcher.dropped.is_set()
        except FeedFull:
            await socket.accept(subprotocol=spoken)
            await _close(socket, TRY_LATER, "too many clients are watching")
            return
        if behind:
            _log.warning("event client dropped", detail="it did not read fast enough")
            await _close(socket, TRY_LATER, "too slow")
        elif revoked.is_set():
            await _close(socket, NOT_ALLOWED, "this token was removed or has expired")

    return router


async def _watch(access: Access, who: Principal, secret: str | None, revoked: asyncio.Event) -> None:
    """Until the client may no longer watch."""
    while access.still(who, secret):
        try:
            await asyncio.wait_for(revoked.wait(), RECHECK_S)
        except TimeoutError:
            continue
    revoked.set()


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


async def _close(socket: WebSocket, code: int, why: str) -> None:
    """Say goodbye, but not for long: a client that does not read cannot take it either."""
    try:
        async with asyncio.timeout(CLOSE_WITHIN_S):
            await socket.close(code, why)
    except (TimeoutError, RuntimeError, WebSocketDisconnect):
        pass
