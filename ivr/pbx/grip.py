"""What the parts of the Asterisk attachment share: connection, watch, settings, and the ways back into it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from ivr.pbx.ami import AmiClient
from ivr.pbx.inquiry import AsteriskOptions
from ivr.pbx.watch import CallWatch
from ivr.pbx.watched import Command


@dataclass(frozen=True, slots=True)
class Grip:
    """What the attachment lends to its parts. ``until``: see :meth:`Patience.until`."""

    ami: AmiClient
    watch: CallWatch
    options: AsteriskOptions
    run_id: str
    until: Callable[[Callable[[], bool], int], Awaitable[bool]]
    carry_out: Callable[[list[Command]], None]
    spawn: Callable[[Coroutine[Any, Any, None]], None]


class Patience:
    """Waits for what only the PBX's events can bring."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def event(self) -> None:
        """Something has happened at the PBX: everybody looks again."""
        for future in list(self._waiting):
            if not future.done():
                future.set_result(None)

    async def until(self, condition: Callable[[], bool], timeout_ms: int) -> bool:
        """Wait for ``condition``, asked again after each event of the PBX; false when the time is over."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while not condition():
                    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiting.add(future)
                    try:
                        await future
                    finally:
                        self._waiting.discard(future)
        except TimeoutError:
            return condition()
        return True
