"""A real SIP stack, an exchange and phones on loopback, closed after each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from ivr.demo.exchange import Exchange, ExchangeEvent, ExchangeEventKind
from ivr.demo.phones import Phone
from ivr.demo.stack import Dialog, Stack

OpenTaps = Callable[[], Awaitable[dict[str, Phone]]]
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


@pytest.fixture
def open_taps(stack: Stack, exchange: Exchange) -> OpenTaps:
    """Stand-ins for Firmline behind one address: a phone for each leg, by side once it has been offered."""
    taps: dict[str, Phone] = {}

    async def open_taps() -> dict[str, Phone]:
        extension = await stack.extension("firmline")

        def offer(dialog: Dialog) -> None:
            taps[dialog.headers["x-firmline-side"]] = phone = Phone(stack, extension, auto_answer=True, keep=True)
            phone.take(dialog)

        extension.on_incoming(offer)
        exchange.firmline_uri = extension.uri
        return taps

    return open_taps
