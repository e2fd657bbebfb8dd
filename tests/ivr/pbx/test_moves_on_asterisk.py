"""Transfers and hang-ups on a real Asterisk: done when the PBX shows it, and no caller is ever dropped on the way."""

from __future__ import annotations

import asyncio

import pytest

from ivr.demo.phones import Phone
from ivr.errors import PbxError
from ivr.pbx.guarded import MarkOptions
from tests.ivr.pbx.beside import Beside, Forwarder, World, ami_options, talking
from tests.ivr.service import free_tcp_port

pytestmark = pytest.mark.sip


async def test_transfer_is_done_when_the_supervisor_has_answered(world: World) -> None:
    """The caller speaks with 299, the agent is free, our legs are dropped and the call is not tapped again."""
    async with Beside(world) as beside:
        caller, agent, supervisor = await talking(world, "pat", "201", "299")
        await beside.ears.both()
        await beside.pbx.transfer(beside.call, "299", "test")
        await asyncio.wait_for(supervisor.in_call.wait(), 2)
        assert caller.in_call.is_set()
        await asyncio.wait_for(agent.over.wait(), 2)
        await beside.ears.until(lambda: not beside.ears.legs)
        assert len(await world.channels_settle(lambda names: len(names) == 2)) == 2
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)
        assert len(beside.ears.ever) == 2 and len(beside.over) == 1


@pytest.mark.parametrize(
    ("target", "gone", "said"),
    [("299", {"299"}, "no phone is registered at 299"), ("298x", set(), "extension 298x does not exist")],
)
async def test_transfer_without_anybody_there_leaves_the_caller_with_the_agent(
    world: World, target: str, gone: set[str], said: str
) -> None:
    """A target that cannot be reached is found out before the caller is moved; a reachable fallback takes over."""
    world.server.phones_at(world.stack.port, unregistered=gone)
    async with Beside(world) as beside:
        caller, agent = await talking(world, "pat", "201")
        await beside.ears.both()
        with pytest.raises(PbxError, match=f"{said}.*; the caller stays with the agent"):
            await beside.pbx.transfer(beside.call, target, "test")
        assert caller.in_call.is_set() and agent.in_call.is_set() and set(beside.ears.legs) == {"caller", "agent"}
        await caller.hang_up()
        await beside.ears.until(lambda: not beside.ears.legs)


async def test_transfer_to_a_missing_phone_takes_the_fallback(world: World) -> None:
    """The next of the list is tried when the first cannot be reached."""
    world.server.phones_at(world.stack.port, unregistered={"299"})
    async with Beside(world, fallbacks=("202",)) as beside:
        caller, agent, second = await talking(world, "pat", "201", "202")
        await beside.ears.both()
        await beside.pbx.transfer(beside.call, "299", "test")
        await asyncio.wait_for(second.in_call.wait(), 2)
        await asyncio.wait_for(agent.over.wait(), 2)
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)
        assert len(beside.ears.ever) == 2


async def test_transfer_that_nobody_answers_brings_the_caller_back_to_the_agent(world: World) -> None:
    """After the time for an answer the agent's phone rings again, the call goes on there and is tapped again."""
    async with Beside(world) as beside:
        caller, agent = await talking(world, "pat", "201")
        silent = await Phone.create(world.stack, "299", auto_answer=False)
        await beside.ears.both()
        said: list[str] = []
        beside.pbx.on_progress = lambda _ref, text: said.append(text)
        with pytest.raises(PbxError, match="nobody answered at 299 .*; the caller is back with agent 201"):
            await beside.pbx.transfer(beside.call, "299", "test")
        assert said[0] == "299 is ringing; the caller waits" and "brought back to 201" in said[1] and len(said) == 2
        await asyncio.wait_for(agent.in_call.wait(), 2)
        assert caller.in_call.is_set() and not silent.in_call.is_set()
        await beside.ears.until(lambda: len(beside.ears.ever) == 4 and set(beside.ears.legs) == {"caller", "agent"})
        assert len({leg.call_ref for leg in beside.ears.ever}) == 1
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)


async def test_caller_whose_agent_has_no_extension_is_not_dropped_when_nobody_answers(world: World) -> None:
    """There is no way back: a Redirect to 7001 would end the call. The supervisor's phone rings once more instead."""
    async with Beside(world, agents=(), marks=MarkOptions(variable="FIRMLINE")) as beside:
        caller, _agent = await talking(world, "pat", "202", target="610")
        supervisor = await Phone.create(world.stack, "299", auto_answer=False)
        await beside.ears.both()
        assert beside.call.agent_ext == "7001"
        moving = asyncio.create_task(beside.pbx.transfer(beside.call, "299", "test"))
        await asyncio.wait_for(supervisor.ringing.wait(), 3)
        supervisor.auto_answer = True  # from the next time on
        await asyncio.wait_for(moving, 6)
        await asyncio.wait_for(supervisor.in_call.wait(), 2)
        assert caller.in_call.is_set()
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)


async def test_transfer_whose_caller_hangs_up_while_it_rings_fails_and_leaves_nothing(world: World) -> None:
    """No waiting for an answer that nobody needs any more."""
    async with Beside(world) as beside:
        caller, _agent = await talking(world, "pat", "201")
        await Phone.create(world.stack, "299", auto_answer=False)
        await beside.ears.both()
        moving = asyncio.create_task(beside.pbx.transfer(beside.call, "299", "test"))
        await world.channels_settle(lambda names: any(name.startswith("PJSIP/299") for name in names))
        await caller.hang_up()
        with pytest.raises(PbxError, match="the caller was gone before 299 answered"):
            await asyncio.wait_for(moving, 1)
        await world.channels_settle(lambda names: not names)


async def test_hang_up_ends_the_call_for_both_and_is_confirmed(world: World) -> None:
    """Done means that the caller's channel is gone; a second time there is no such call."""
    async with Beside(world) as beside:
        caller, agent = await talking(world, "pat", "201")
        await beside.ears.both()
        call = beside.call
        await beside.pbx.hang_up(call, "test")
        await asyncio.wait_for(asyncio.gather(caller.over.wait(), agent.over.wait()), 2)
        await beside.ears.until(lambda: not beside.ears.legs)
        with pytest.raises(PbxError, match="knows no such call"):
            await beside.pbx.hang_up(call, "test")


async def test_call_made_by_the_agent_is_tapped_and_can_be_transferred(world: World) -> None:
    """Who is called by a guarded agent is the caller too, and reaches the supervisor although they never dialled."""
    async with Beside(world) as beside:
        agent, customer, supervisor = await talking(world, "201", "pat", "299", target="pat")
        await beside.ears.both()
        assert beside.call.agent_ext == "201"
        await beside.pbx.transfer(beside.call, "299", "test")
        await asyncio.wait_for(supervisor.in_call.wait(), 2)
        await asyncio.wait_for(agent.over.wait(), 2)
        assert customer.in_call.is_set()
        await beside.ears.until(lambda: not beside.ears.legs)
        await world.channels_settle(lambda names: len(names) == 2)
        await customer.hang_up()
        await world.channels_settle(lambda names: not names)
        assert len(beside.ears.ever) == 2 and len(beside.over) == 1


async def test_call_made_by_the_agent_can_be_ended(world: World) -> None:
    """Both are free, and the PBX has confirmed it."""
    async with Beside(world) as beside:
        agent, customer = await talking(world, "201", "pat", target="pat")
        await beside.ears.both()
        await beside.pbx.hang_up(beside.call, "test")
        await asyncio.wait_for(asyncio.gather(agent.over.wait(), customer.over.wait()), 2)
        await world.channels_settle(lambda names: not names)


@pytest.mark.parametrize("answered", [True, False])
async def test_connection_that_drops_in_a_transfer_loses_no_caller(world: World, answered: bool) -> None:
    """Cut while the supervisor's phone rings, back after the time for an answer: whoever answered meanwhile keeps the
    caller and is left alone; else the caller is with the agent again and heard. Nothing is done to them twice."""
    port = free_tcp_port()
    async with Forwarder(port, world.server.ami_port) as manager:
        async with Beside(world, ami=ami_options(world.server, port=port)) as beside:
            caller, agent = await talking(world, "pat", "201")
            supervisor = await Phone.create(world.stack, "299", auto_answer=False)
            await beside.ears.both()
            call = beside.call
            moving = asyncio.create_task(beside.pbx.transfer(call, "299", "test"))
            await asyncio.wait_for(supervisor.ringing.wait(), 3)
            await manager.cut()
            if answered:
                assert supervisor._dialog is not None
                await supervisor._pick_up(supervisor._dialog)
            with pytest.raises(PbxError, match="manager connection"):
                await asyncio.wait_for(moving, 5)
            with pytest.raises(PbxError):
                await beside.pbx.hang_up(call, "the next ending of the pack")
            await manager.mend()
            if answered:
                async with asyncio.timeout(8):
                    while "done" not in await asyncio.to_thread(_move_of, world):
                        await world.stack.clock.pause(50)
                with pytest.raises(PbxError):
                    await beside.pbx.hang_up(call, "the next ending of the pack")
                await beside.ears.until(lambda: not beside.ears.legs)
                assert supervisor.in_call.is_set() and not agent.in_call.is_set()
            else:
                await asyncio.wait_for(agent.in_call.wait(), 8)
                await beside.ears.until(lambda: set(beside.ears.legs) == {"caller", "agent"})
                assert beside.call == call and not supervisor.in_call.is_set()
            assert caller.in_call.is_set()
            await caller.hang_up()
            await world.channels_settle(lambda names: not names)


def _move_of(world: World) -> str:
    """What is written of a move on the caller's channel."""
    caller = next(name for name in world.server.channels() if name.startswith("PJSIP/pat"))
    told = world.server.cli(f"core show channel {caller}")
    return next((line for line in told.splitlines() if line.startswith("FIRMLINE_MOVE=")), "")
