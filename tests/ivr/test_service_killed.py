"""The service dies or is stopped in the middle of a call: the human call goes on, and the next process takes over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from ivr.clock import monotonic_ms, wall_s
from ivr.demo.exchange import CallState
from ivr.types import JournalEvent
from policies.types import Side
from tests.ivr.service import LiveCall, Site, alive, children, eventually

pytestmark = [pytest.mark.sip, pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]


LATER_MS = 1_200
"""Rows from before this pause are older than the second that a kill may cost; a prompt lasts longer."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A site whose service each test ends, and which each test leaves with a new one."""
    async with Site(tmp_path_factory.mktemp("site")) as opened:
        yield opened


async def listening(call: LiveCall) -> None:
    """The caller is in the middle of a sentence."""
    call.site.stack.spawn(call.insulted())
    await call.site.stack.clock.pause(LATER_MS)


async def during_a_prompt(call: LiveCall) -> None:
    """The warning is on its way into the caller's ear."""
    await call.site.service.press(call.ext, "warn")
    await call.until("action_done", action="play")
    await call.site.stack.clock.pause(LATER_MS)


async def during_the_countdown(call: LiveCall) -> None:
    """The ending is decided; the countdown runs."""
    await call.site.service.press(call.ext, "transfer")
    await call.until("signal", action="countdown")
    await call.until("action_done", action="play")
    await call.site.stack.clock.pause(LATER_MS)


@pytest.mark.parametrize("moment", [listening, during_a_prompt, during_the_countdown], ids=lambda f: f.__name__)
async def test_killed_service_leaves_the_call_alone_and_the_next_one_reads_its_journal(
    site: Site, moment: Callable[[LiveCall], Awaitable[None]]
) -> None:
    """kill -9: the parties go on hearing each other, the exchange keeps the call, rows over a second old are there."""
    await site.ensure_service()
    call = await site.call()
    await moment(call)
    pid, workers = site.service.pid, children(site.service.pid)
    killed_at = datetime.fromtimestamp(wall_s(), UTC) - timedelta(seconds=1)
    os.kill(pid, signal.SIGKILL)
    kept = [row for row in call.rows if row["event"] in set(JournalEvent)]  # the feed tells more than is kept
    safe = [row["event"] for row in kept if datetime.fromisoformat(row["at"]) < killed_at]
    assert len(safe) >= 3

    await site.stack.clock.pause(300)
    assert await call.parties_hear_each_other()
    assert site.exchange.calls[call.ref].state is CallState.BRIDGED
    await eventually(lambda: _ended(workers))

    await site.restart()
    assert [event for event, _ in site.stored(call.ref)][: len(safe)] == safe
    assert await call.parties_hear_each_other()
    again = await site.call()
    await again.until("leg_up", times=2)
    assert (await site.get("/readyz")).status_code == 200
    await asyncio.gather(call.caller.hang_up(), again.caller.hang_up())
    await again.until("call_ended")


async def _ended(pids: list[int]) -> bool:
    return not any(alive(pid) for pid in pids)


async def test_killed_service_is_followed_by_one_that_knows_every_rung(site: Site) -> None:
    """Warned, counting down and disarmed are found again when the exchange taps again; nothing fires, nothing plays."""
    await site.ensure_service()
    warned, counting, disarmed = [await site.call() for _ in range(3)]
    await warned.warned()
    await counting.warned()
    await during_the_countdown(counting)
    await site.service.press(disarmed.ext, "disarm")
    await disarmed.until("rung", to="disarmed")
    await site.stack.clock.pause(100)
    os.kill(site.service.pid, signal.SIGKILL)
    await site.restart()
    calls = (warned, counting, disarmed)
    for call in calls:
        for side in Side:
            site.stack.spawn(site.exchange._tap(site.exchange.calls[call.ref], side, site.service.uri))
    for call, rung in zip(calls, ("warned", "warned", "disarmed"), strict=True):
        found = await call.until("signal", action="resumed")
        assert found["data"]["rung"] == rung and found["data"]["continues"] != found["call_id"]
        assert not found["data"]["pack_changed"]
    assert "the ending (transfer)" in (await counting.until("signal", action="resumed"))["data"]["under_way"]
    await site.stack.clock.pause(3_000)  # longer than the countdown that was under way
    now = {c["call_ref"]: c["rung"] for c in (await site.get("/api/calls")).json()}
    assert [now[call.ref] for call in calls] == ["warned", "warned", "disarmed"]
    for call in calls:
        restarted = [i for i, row in enumerate(call.rows) if row["event"] == "call_started"][-1]
        assert not [row for row in call.rows[restarted:] if row["event"].startswith("action")]
        assert site.exchange.calls[call.ref].state is CallState.BRIDGED
    await asyncio.gather(*(call.caller.hang_up() for call in calls))
    for call in calls:
        await call.until("call_ended")
    with contextlib.closing(sqlite3.connect(site.folder / "service" / "journal.db", timeout=5)) as db:
        await eventually(lambda: _forgotten(db, {call.ref for call in calls}))


async def _forgotten(db: sqlite3.Connection, refs: set[str]) -> bool:
    return not refs & {ref for (ref,) in db.execute("SELECT call_ref FROM ladders")}


async def test_stopped_service_hangs_up_its_legs_and_leaves_the_call_alone(site: Site) -> None:
    """SIGTERM in mid-call: out within three seconds with 0, legs ended by BYE, no process left, the call goes on."""
    await site.ensure_service()
    call = await site.call()
    await site.service.press(call.ext, "warn")
    await call.until("action_done", action="play")
    pid, workers = site.service.pid, children(site.service.pid)
    process = site.service._process
    assert process is not None and len(workers) == 1
    started_ms = monotonic_ms()
    os.kill(pid, signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 3) == 0
    assert monotonic_ms() - started_ms < 3_000
    assert not any(alive(each) for each in [pid, *workers])
    await eventually(lambda: _untapped(call))
    assert site.exchange.calls[call.ref].state is CallState.BRIDGED
    assert await call.parties_hear_each_other()
    assert [event for event, _ in site.stored(call.ref)][-1] == "call_ended"
    await call.caller.hang_up()


async def _untapped(call: LiveCall) -> bool:
    return not call.site.exchange.calls[call.ref].taps
