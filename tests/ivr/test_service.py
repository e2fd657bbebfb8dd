"""A live call beside the real service, end to end: phones, exchange, SIP, RTP, Whisper, policy, control, journal."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.ivr.service import Site, alive, children, eventually

pytestmark = [pytest.mark.sip, pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One service for the module; its pack transfers and has no other ending."""
    async with Site(tmp_path_factory.mktemp("site")) as opened:
        yield opened


async def test_insults_are_warned_then_refused_by_the_pbx_then_transferred(site: Site) -> None:
    """Warned; the next finds no supervisor: the call goes on and the agent is told; the one after is transferred."""
    call = await site.call()
    await call.insulted()
    await call.until("rung", to="warned")
    assert await call.in_ear(call.caller) == ["warning"]

    await call.insulted(again=True)
    refused = await call.until("action_failed", action="transfer")
    assert "no extension" in refused["data"]["error"]
    back = await call.until("rung", cause="ending_failed")
    assert back["data"]["to"] == "warned"
    told = await eventually(lambda: site.metric("firmline_notices_total", audience="agent"))
    assert told >= 1 and await call.parties_hear_each_other()

    supervisor = await site.phone("supervisor")
    await site.exchange.add_extension("900", supervisor.uri)
    await call.insulted(again=True)
    await call.until("action_done", action="transfer")
    assert (await call.until("call_ended"))["data"]["why"] == "firmline: transfer"
    await asyncio.wait_for(call.agent.over.wait(), 5)
    call.agent = supervisor
    assert await call.parties_hear_each_other()
    await call.caller.hang_up()
    assert await call.in_ear(call.caller) == ["closing_transfer", "warning"]
    assert await site.well()


async def test_keys_reach_the_right_call_and_pardon_stops_a_countdown(site: Site) -> None:
    """Two calls at once: warn, end, pardon and end again for one agent; nothing happens in the other's call."""
    call, other = await asyncio.gather(site.call(), site.call())
    await call.warned()

    assert (await site.service.press(call.ext, "end"))["rung"] == "ending"
    await call.until("action_done", action="play", prompt="closing_hangup")
    assert (await site.service.press(call.ext, "pardon"))["rung"] == "warned"
    await call.until("signal", action="countdown_stopped")
    stopped = await call.until("action_failed", prompt="closing_hangup")
    assert "stop" in stopped["data"]["error"] and call.count("action_requested", action="hangup") == 0
    assert await call.parties_hear_each_other()

    await site.service.press(call.ext, "end")
    await call.until("call_ended")
    await call.over()
    assert await call.in_ear(call.caller) == ["closing_hangup", "warning"]

    assert await other.parties_hear_each_other()
    assert await other.in_ear(other.caller) == [] and other.count("hotkey") == 0
    assert (await site.post(f"/api/agents/{call.ext}/warn")).status_code == 404
    await other.caller.hang_up()


async def test_keys_from_strangers_are_refused(site: Site) -> None:
    """No such agent 404, another site's page 403, no such key 422; the call does not notice."""
    call = await site.call()
    unknown = await site.post("/api/agents/7777/warn")
    assert unknown.status_code == 404 and "7777" in unknown.json()["error"]
    assert (await site.post(f"/api/agents/{call.ext}/warn", origin="https://evil.example")).status_code == 403
    assert (await site.post(f"/api/agents/{call.ext}/warn", host="evil.example")).status_code == 403
    assert (await site.post(f"/api/agents/{call.ext}/explode")).status_code == 422
    assert call.count("hotkey") == 0
    await call.caller.hang_up()


async def test_recogniser_killed_in_mid_call_is_replaced_and_hears_the_next_words(site: Site) -> None:
    """kill -9 of the decoding process while the caller speaks: the warning comes all the same."""
    call = await site.call()
    (worker,) = children(site.service.pid)
    speaking = asyncio.create_task(call.insulted())
    await call.caller.wait_quiet(100, 1)
    os.kill(worker, signal.SIGKILL)
    await speaking
    await call.until("rung", to="warned")
    assert await call.in_ear(call.caller) == ["warning"]
    assert not alive(worker) and await site.counter("asr", "restarts") == 1
    assert (await site.get("/readyz")).status_code == 200
    await call.caller.hang_up()


async def test_prompt_playing_when_the_caller_hangs_up_leaves_nothing_behind(site: Site) -> None:
    """The leg drops under the warning; the journal says that it was not heard, and the call ends in order."""
    call = await site.call()
    await site.service.press(call.ext, "warn")
    await call.until("action_done", action="play")
    await call.caller.hang_up()
    await call.until("call_ended")
    assert call.count("rung", to="warned") == 0 and call.count("action_failed", action="play") == 1
    assert await site.well() and await site.metric("firmline_calls_live") == 0


async def test_two_hundred_keys_pressed_at_once_harm_nobody(site: Site) -> None:
    """A stuck key is one press: all are answered, one warning is heard, and the other call's insult is warned."""
    call, other = await asyncio.gather(site.call(), site.call())
    speaking = asyncio.create_task(other.insulted())
    answers = await asyncio.gather(*(site.post(f"/api/agents/{call.ext}/warn") for _ in range(200)))
    answered = {answer.status_code for answer in answers}
    assert 200 in answered and answered <= {200, 429}  # the API takes so many keys a second and no more
    await speaking
    await other.until("rung", to="warned")
    await call.until("rung", to="warned")
    await call.caller.wait_quiet(200, 5)
    assert call.count("hotkey") == 1 and await call.in_ear(call.caller) == ["warning"]
    assert call.count("action_failed") == 0 and call.count("rung", to="ending") == 0 and await site.well()
    await asyncio.gather(call.caller.hang_up(), other.caller.hang_up())
