"""Waiting for an event, but not for ever."""

from __future__ import annotations

import asyncio


async def within(event: asyncio.Event, wait_ms: float) -> bool:
    """Whether ``event`` is set before ``wait_ms`` milliseconds are over; returns as soon as it is."""
    try:
        async with asyncio.timeout(wait_ms / 1000):
            return await event.wait()
    except TimeoutError:
        return event.is_set()
