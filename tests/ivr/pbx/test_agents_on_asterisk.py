"""Agents of a real Asterisk: pauses in their queues, and keys on their own phones."""

from __future__ import annotations

import asyncio

import pytest

from ivr.errors import PbxError
from ivr.pbx.pauses import PAUSE_REASON
from ivr.pbx.phone_keys import PhoneKey, PhoneKeyOptions
from policies.types import Key
from tests.ivr.pbx.beside import Beside, World, talking

pytestmark = pytest.mark.sip


async def test_queue_call_to_a_local_member_is_tapped_and_its_agent_can_be_paused(world: World) -> None:
    """Local channels do not hide who speaks with whom; the pause is seen in the queue, and taken back at the end."""
    async with Beside(world) as beside:
        caller, _agent = await talking(world, "pat", "201", target="600")
        await beside.ears.both()
        assert beside.call.agent_ext == "201"
        for leg in beside.ears.ever:
            assert (leg.headers["x-firmline-queue"], leg.headers["x-firmline-number"]) == ("support", "pat")
        await beside.pbx.pause_agent(beside.call, "test")
        assert "paused" in world.server.cli("queue show support")
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)
    assert "paused" not in world.server.cli("queue show support")


async def test_pause_of_a_process_that_died_is_given_back_by_the_next(world: World) -> None:
    """A crash must not keep an agent out of the queue for ever."""
    world.server.cli(f'queue pause member Local/201@members/n queue support reason "{PAUSE_REASON}"')
    assert "paused" in world.server.cli("queue show support")
    async with Beside(world, pause_ms=200):
        async with asyncio.timeout(3):
            while "paused" in await asyncio.to_thread(world.server.cli, "queue show support"):
                await world.stack.clock.pause(100)


async def test_pause_takes_itself_back_and_who_is_in_no_queue_is_named(world: World) -> None:
    """The minute is over by itself; an agent without a queue cannot be paused."""
    async with Beside(world, pause_ms=300) as beside:
        caller, _agent = await talking(world, "pat", "201", target="600")
        await beside.ears.both()
        await beside.pbx.pause_agent(beside.call, "test")
        with pytest.raises(PbxError, match="202 is a member of no queue"):
            await beside.pbx.pause_agent(type(beside.call)("x", "202"), "test")
        async with asyncio.timeout(3):
            while "paused" in await asyncio.to_thread(world.server.cli, "queue show support"):
                await world.stack.clock.pause(100)
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)


async def test_key_on_the_agents_phone_counts_and_the_callers_does_not(world: World) -> None:
    """Plain digits: typed by the agent they mean their key; typed by the caller nothing, whatever else is going on."""
    keys = PhoneKeyOptions({"*91": PhoneKey.WARN}, {"202": {"*91": PhoneKey.END}})
    async with Beside(world, keys=keys) as beside:
        caller, agent = await talking(world, "pat", "201")
        await beside.ears.both()
        assert caller._dialog is not None and agent._dialog is not None
        await caller._dialog._call.send_dtmf("*91")
        await agent._dialog._call.send_dtmf("*91")
        await asyncio.wait_for(beside.key_pressed.wait(), 3)
        await world.stack.clock.pause(300)
        assert beside.keys == [(beside.call.call_ref, "201", Key.WARN)]
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)


async def test_key_by_a_feature_of_the_pbx_is_hidden_from_the_caller(world: World) -> None:
    """applicationmap and UserEvent: the key arrives, the caller's phone gets no digit; theirs mean nothing."""
    async with Beside(world) as beside:
        caller, agent = await talking(world, "pat", "202", target="202")
        await beside.ears.both()
        assert caller._dialog is not None and agent._dialog is not None
        digits: list[object] = []
        caller._dialog._call.on_dtmf(digits.append)
        await caller._dialog._call.send_dtmf("*91")
        await agent._dialog._call.send_dtmf("*91")
        await asyncio.wait_for(beside.key_pressed.wait(), 3)
        await world.stack.clock.pause(300)
        assert beside.keys == [(beside.call.call_ref, "202", Key.WARN)] and digits == []
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)


async def test_agent_leaves_and_joins_their_queue_by_key(world: World) -> None:
    """*97 pauses the member behind a Local channel, *98 puts them back."""
    keys = PhoneKeyOptions({"*97": PhoneKey.PAUSE, "*98": PhoneKey.UNPAUSE})
    async with Beside(world, keys=keys) as beside:
        caller, agent = await talking(world, "pat", "201", target="600")
        await beside.ears.both()
        assert agent._dialog is not None
        for digits, paused in (("*97", True), ("*98", False)):
            await agent._dialog._call.send_dtmf(digits)
            async with asyncio.timeout(3):
                while ("paused" in await asyncio.to_thread(world.server.cli, "queue show support")) is not paused:
                    await world.stack.clock.pause(50)
        assert beside.keys == []
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)
