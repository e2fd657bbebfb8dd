"""A real SIP stack, an exchange and phones on loopback, closed after each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from ivr.demo.exchange import Exchange, ExchangeEvent, ExchangeEventKind
from ivr.demo.stack import Stack

WaitFor = Callable[[ExchangeEventKind], Awaitable[ExchangeEvent]]


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    """One open SIP stack."""
    async with Stack() as opened:
        yield opened


@pytest.fixture
async def exchange(stack: Stack) -> AsyncIterator[Exchange]:
    """A started exchange without tap legs (tests set ``firmline_uri``)."""
    opened = Exchange(stack)
    await opened.start()
    yield opened
    await opened.stop()


@pytest.fixture
def wait_for(exchange: Exchange) -> WaitFor:
    """Wait for an exchange event, past ones included, under a five-second ceiling."""
    seen: asyncio.Queue[ExchangeEvent] = asyncio.Queue()
    exchange.watch(seen.put_nowait)

    async def wait(kind: ExchangeEventKind) -> ExchangeEvent:
        async with asyncio.timeout(5):
            while (event := await seen.get()).kind is not kind:
                pass
        return event

    return wait
