"""The line against sipp, an independent SIP stack that checks every message against its scenario."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ivr.lines.transactions import Timers

pytestmark = pytest.mark.sip
NEVER = lambda leg: None  # noqa: E731


@pytest.mark.parametrize("scenario", ["call.xml", "hold.xml"])
async def test_sipp_calls_and_hangs_up(started: Any, sipp: Any, scenario: str) -> None:
    """A plain call; and one with hold, resume, offerless re-INVITE and UPDATE."""
    line, events = await started()
    async with sipp(scenario, line.local_address):
        leg = await events.wait("up")
        assert (leg.call_ref, leg.side) == ("sipp-1", "caller")
    assert await events.wait("down") == "hung up by the peer"
    assert [events.count(name) for name in ("offered", "up", "down")] == [1, 1, 1]


async def test_sipp_cancels_while_it_rings(started: Any, sipp: Any) -> None:
    """200 to the CANCEL, 487 to the INVITE."""
    line, events = await started(NEVER)
    async with sipp("cancel.xml", line.local_address):
        assert "cancelled" in await events.wait("down")
    assert events.count("up") == 0


async def test_sipp_repeats_its_invite_and_acks_late(started: Any, sipp: Any) -> None:
    """One leg, the same answer each time, and our BYE at the end."""
    line, events = await started(timers=Timers(t1_ms=150, t2_ms=600, stop_ms=100))
    # sipp calls a 200 that is repeated while it pauses unexpected; the scenario wants exactly that.
    async with sipp("repeat.xml", line.local_address, "-default_behaviors", "all,-abortunexp"):
        (await events.wait("up")).hang_up()
    assert await events.wait("down") == "hung up by us"
    # Two for the repeated INVITEs, at least one by timer because the ACK was late.
    assert events.count("offered") == 1 and line.counters["responses_repeated"] >= 3


async def test_sipp_calls_twenty_at_once(started: Any, sipp: Any) -> None:
    """Every leg comes up and goes down once."""
    line, events = await started()
    async with sipp("call.xml", line.local_address, "-m", "20", "-r", "200", "-l", "20"):
        await events.wait("down", 20)
    assert events.count("up") == 20 and line.status().legs == 0 and len({leg.id for leg in events.legs}) == 20


async def test_sipp_as_registrar_accepts_our_digest(
    engine: Any, options_of: Any, events_of: Any, sipp: Any, free_port: int
) -> None:
    """sipp checks the digest of the registration and of the removal by its own code."""
    async with sipp("registrar.xml", None, "-p", str(free_port)) as process:
        line, events = engine(options_of(server="127.0.0.1", server_port=free_port)), events_of()
        await line.start(events)
        await events.wait("registration:registered")
        await line.stop()
        await asyncio.wait_for(process.wait(), 10)
