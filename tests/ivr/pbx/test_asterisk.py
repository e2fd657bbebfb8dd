"""Calls of a real Asterisk: tapped by themselves, on the right sides, anew after each move, left alone otherwise."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from ivr.clock import monotonic_ms
from ivr.pbx.base import CallRef
from ivr.pbx.guarded import MarkOptions
from tests.ivr.pbx.beside import Beside, World, mute_phone, say, share_of, talking, tone
from tests.ivr.pbx.pbx_server import MANY

pytestmark = pytest.mark.sip


async def test_call_of_a_guarded_agent_is_tapped_on_both_sides_and_leaves_nothing(world: World) -> None:
    """Each leg hears its own side from the first tenths of a second on; with the call its legs are gone."""
    async with Beside(world) as beside:
        caller, agent = await talking(world, "pat", "201")
        bridged_ms = monotonic_ms()
        for phone, hz in ((caller, 440), (agent, 1000)):
            world.stack.spawn(say(phone, hz))
        await beside.ears.both()
        ears = beside.ears
        await ears.until(lambda: all(len(ears.heard[side]) > 60 for side in ("caller", "agent")))
        assert abs(ears.loudest_hz("caller") - 440) < 8 and abs(ears.loudest_hz("agent") - 1000) < 8
        assert all(ears.heard[side][0].t_ms - bridged_ms < 600 for side in ("caller", "agent"))
        assert {leg.call_ref for leg in ears.ever} == {beside.call.call_ref}
        assert beside.call.agent_ext == "201"
        await caller.hang_up()
        await ears.until(lambda: not ears.legs)
        await world.channels_settle(lambda names: not names)
        assert len(ears.ever) == 2 and beside.over == [ears.ever[0].call_ref]


async def test_prompt_on_the_callers_leg_is_heard_by_the_caller_only(world: World) -> None:
    """What is played into a tap leg reaches the ear it taps and no other."""
    async with Beside(world) as beside:
        caller, agent = await talking(world, "pat", "201")
        await beside.ears.both()
        for phone in (caller, agent):
            world.stack.spawn(say(phone, 300))  # both phones send: a whisper needs the other side's packets
        await world.stack.clock.pause(300)
        playback = beside.ears.legs["caller"].play(tone(1300, 0.6))
        assert (await playback.done).completed
        await world.stack.clock.pause(300)
        assert share_of(caller, 1300) > 0.2 and share_of(agent, 1300) < 0.01
        await caller.hang_up()


async def test_call_moved_to_another_agent_is_tapped_anew_and_prompts_are_heard(world: World) -> None:
    """After an agent's blind transfer new legs replace the old ones under the same reference."""
    async with Beside(world) as beside:
        caller, agent, second = await talking(world, "pat", "201", "202")
        await beside.ears.both()
        ref = beside.call.call_ref
        assert agent._dialog is not None
        await agent._dialog._call.transfer(world.at_pbx("202"))
        await beside.ears.until(lambda: len(beside.ears.ever) == 4 and set(beside.ears.legs) == {"caller", "agent"})
        assert second.in_call.is_set() and not agent.in_call.is_set()
        assert beside.call.call_ref == ref and beside.call.agent_ext == "202" and beside.over == []
        for phone in (caller, second):
            world.stack.spawn(say(phone, 300))
        await world.stack.clock.pause(300)
        caller.rewind()
        assert (await beside.ears.legs["caller"].play(tone(1300, 0.6)).done).completed
        await world.stack.clock.pause(300)
        assert share_of(caller, 1300) > 0.2
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)


async def test_call_without_a_guarded_agent_is_not_touched(world: World) -> None:
    """A colleague who calls an agent is no caller, and two outsiders are nobody's business."""
    async with Beside(world) as beside:
        caller, supervisor = await talking(world, "pat", "299", target="299")
        await world.stack.clock.pause(200)
        await caller.hang_up()
        agent = await world.phone("201")
        await supervisor.over.wait()
        await supervisor.dial(world.at_pbx("201"))
        await world.stack.clock.pause(200)
        assert agent.in_call.is_set() and beside.ears.ever == []
        await supervisor.hang_up()
        await world.channels_settle(lambda names: not names)


async def test_new_process_finds_the_live_call_and_clears_away_the_legs_of_the_old(world: World) -> None:
    """What an earlier run left behind is hung up; the call it tapped is tapped again within three seconds."""
    old = Beside(world)
    await old.__aenter__()
    caller, agent = await talking(world, "pat", "201")
    await old.ears.both()
    await old.pbx._ami.stop()  # as a kill does: no hang-up, no de-registration
    async with Beside(world) as beside:
        started_ms = monotonic_ms()
        await beside.ears.both()
        assert monotonic_ms() - started_ms < 3000
        names = await world.channels_settle(lambda names: len(names) == 4)
        assert len([name for name in names if name.startswith("PJSIP/firmline")]) == 2
        assert caller.in_call.is_set() and agent.in_call.is_set()
        await caller.hang_up()
        await beside.ears.until(lambda: not beside.ears.legs)
    await old.__aexit__()


async def test_call_that_begins_while_the_channels_are_read_is_tapped_once(world: World) -> None:
    """The list of channels may be older than the events that came before it: neither may undo the other."""
    caller, _agent = await world.phone("pat"), await world.phone("201")
    for _ in range(6):
        async with Beside(world) as beside:
            await caller.dial(world.at_pbx("201"))
            await beside.ears.both()
            await world.stack.clock.pause(100)
            assert len(beside.ears.ever) == 2
            await caller.hang_up()
            await beside.ears.until(lambda ears=beside.ears: not ears.legs)  # type: ignore[misc]
            await world.channels_settle(lambda names: not names)


async def test_call_that_ends_while_its_taps_ring_leaves_nothing(world: World) -> None:
    """The worst moment to hang up: the taps are asked for and not yet there."""
    async with Beside(world) as beside:
        caller = await world.phone("pat")
        await world.phone("201")
        for _ in range(4):
            await caller.dial(world.at_pbx("201"))
            await caller.hang_up()
            await world.channels_settle(lambda names: not names)
        await beside.ears.until(lambda: not beside.ears.legs)


async def test_twelve_calls_at_once_are_each_tapped_twice_and_leave_nothing(world: World) -> None:
    """Every call has its own two legs; half are ended by us, half by the callers; no leg, task or descriptor stays."""
    agents = [await world.phone(name) for name in MANY]
    callers = await world.stack.extension("pat")
    before = _open_things()
    async with Beside(world, agents=("2??",)) as beside:
        dialogs = [await callers.dial(world.at_pbx(agent.name)) for agent in agents]
        await asyncio.gather(*(dialog.wait_up(5) for dialog in dialogs))
        await beside.ears.until(lambda: len(beside.ears.ever) == 2 * len(MANY), 10)
        sides = Counter((leg.call_ref, leg.headers["x-firmline-agent"]) for leg in beside.ears.ever)
        assert len(sides) == len(MANY) and set(sides.values()) == {2} and {ext for _, ext in sides} == set(MANY)
        ours = [CallRef(ref or "", ext) for ref, ext in list(sides)[::2]]
        await asyncio.gather(*(beside.pbx.hang_up(call, "test") for call in ours))
        await asyncio.gather(*(dialog.hang_up() for dialog in dialogs))
        await world.channels_settle(lambda names: not names)
        assert len(beside.ears.ever) == 2 * len(MANY) and len(beside.over) == len(MANY)
        assert beside.line.status().legs == 0 and beside.pbx.problem() is None
    async with asyncio.timeout(5):
        while _open_things() != before:  # the phones' own stack keeps its media sockets for a second
            await world.stack.clock.pause(100)


def _open_things() -> tuple[int, int]:
    """File descriptors and tasks of this process."""
    return len(list(Path("/proc/self/fd").iterdir())), len(asyncio.all_tasks())


async def test_call_with_direct_media_is_heard_and_a_hold_is_survived(world: World) -> None:
    """Phones that would send to each other are still heard; hold and resume leave both taps working."""
    world.server.phones_at(world.stack.port, direct_media=True)
    async with Beside(world) as beside:
        caller, agent = await talking(world, "pat", "201")
        await beside.ears.both()
        for phone, hz in ((caller, 440), (agent, 1000)):
            world.stack.spawn(say(phone, hz))
        ears = beside.ears
        await ears.until(lambda: all(len(ears.heard[side]) > 50 for side in ("caller", "agent")))
        assert abs(ears.loudest_hz("caller") - 440) < 8 and abs(ears.loudest_hz("agent") - 1000) < 8
        assert agent._dialog is not None
        await agent._dialog._call.hold()
        await world.stack.clock.pause(200)
        await agent._dialog._call.resume()
        await world.stack.clock.pause(300)
        await ears.both()
        for phone, hz in ((caller, 600), (agent, 1400)):
            world.stack.spawn(say(phone, hz))
        before = {side: len(ears.heard[side]) for side in ears.heard}
        await ears.until(lambda: all(len(ears.heard[side]) > before[side] + 75 for side in ("caller", "agent")))
        assert abs(ears.loudest_hz("caller") - 600) < 8 and abs(ears.loudest_hz("agent") - 1400) < 8
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)


async def test_call_handed_over_after_a_consultation_is_tapped_at_the_new_agent(world: World) -> None:
    """Attended transfer: the consultation between agents is not tapped, the call afterwards is, as the same call."""
    async with Beside(world) as beside:
        caller, agent, second = await talking(world, "pat", "201", "202")
        await beside.ears.both()
        ref = beside.call.call_ref
        assert agent._dialog is not None
        await agent._dialog._call.hold()
        consultation = await agent._extension.dial(world.at_pbx("202"))
        await consultation.wait_up(3)
        await world.stack.clock.pause(200)
        assert len(beside.ears.ever) == 2
        await agent._dialog._call.attended_transfer(consultation._call)
        await beside.ears.until(lambda: len(beside.ears.ever) == 4 and set(beside.ears.legs) == {"caller", "agent"})
        assert beside.call.call_ref == ref and beside.call.agent_ext == "202" and beside.over == []
        await asyncio.wait_for(agent.over.wait(), 2)
        for phone, hz in ((caller, 440), (second, 1000)):
            world.stack.spawn(say(phone, hz))
        ears = beside.ears
        await ears.until(lambda: all(len(ears.heard[side]) > 50 for side in ("caller", "agent")))
        assert abs(ears.loudest_hz("caller") - 440) < 8 and abs(ears.loudest_hz("agent") - 1000) < 8
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)


async def test_call_parked_and_retrieved_is_tapped_again_as_the_same_call(world: World) -> None:
    """While parked it is left alone; whoever of the agents takes it is beside Firmline again."""
    async with Beside(world) as beside:
        caller, agent, second = await talking(world, "pat", "201", "202")
        await beside.ears.both()
        ref = beside.call.call_ref
        assert agent._dialog is not None
        await agent._dialog._call.transfer(world.at_pbx("700"))
        await asyncio.wait_for(agent.over.wait(), 2)
        await beside.ears.until(lambda: not beside.ears.legs)
        assert caller.in_call.is_set() and beside.over == []
        await second.dial(world.at_pbx("701"))
        await beside.ears.both()
        assert beside.call.call_ref == ref and beside.call.agent_ext == "202"
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)
        assert beside.over == [ref]


async def test_call_of_a_guarded_queue_is_tapped_whoever_answers_and_other_calls_are_not(world: World) -> None:
    """No agent is named: the queue says that it matters, on 600 and not on a call to the same phone."""
    async with Beside(world, agents=(), marks=MarkOptions(queues=("supp*",))) as beside:
        caller, agent = await talking(world, "pat", "201", target="201")
        await world.stack.clock.pause(300)
        assert beside.ears.ever == []
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)
        await caller.dial(world.at_pbx("600"))
        await asyncio.wait_for(agent.in_call.wait(), 3)
        await beside.ears.both()
        heads = [leg.headers for leg in beside.ears.ever]
        assert [(h["x-firmline-agent"], h["x-firmline-queue"]) for h in heads] == [("201", "support")] * 2
        assert {h["x-firmline-side"]: h["x-firmline-number"] for h in heads} == {"caller": "pat", "agent": "pat"}
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)


async def test_call_marked_by_the_dialplan_is_tapped_with_the_right_side_for_each_party(world: World) -> None:
    """FIRMLINE=1 on the caller, inherited by the agent's channel; FIRMLINE=agent where the agent dials; live ones."""
    customer, agent = await world.phone("pat"), await world.phone("202")
    await customer.dial(world.at_pbx("610"))
    async with Beside(world, agents=(), marks=MarkOptions(variable="FIRMLINE")) as beside:
        ears = beside.ears
        await ears.both()  # found live: the call was there before us
        await customer.hang_up()
        await ears.until(lambda: not ears.legs)
        for dialler, target, ext in ((customer, "610", "7001"), (agent, "611", "202")):
            await asyncio.wait_for(asyncio.gather(customer.over.wait(), agent.over.wait()), 2)
            ears.ever.clear()
            await dialler.dial(world.at_pbx(target))
            await ears.both()
            for phone, hz in ((customer, 440), (agent, 1000)):
                world.stack.spawn(say(phone, hz))
            await ears.until(lambda: all(len(ears.heard[side]) > 60 for side in ("caller", "agent")))
            assert abs(ears.loudest_hz("caller") - 440) < 8 and abs(ears.loudest_hz("agent") - 1000) < 8
            assert [leg.headers["x-firmline-agent"] for leg in ears.ever] == [ext] * 2
            await dialler.hang_up()
            await ears.until(lambda: not ears.legs)
    await world.channels_settle(lambda names: not names)


async def test_agent_whose_extension_has_odd_characters_is_told_whole(world: World) -> None:
    """Commas, quotes and brackets part or vanish in what the manager takes as a list: they are kept from it."""
    async with Beside(world, agents=(), marks=MarkOptions(variable="FIRMLINE")) as beside:
        caller, _agent = await talking(world, "pat", "202", target="612")
        await beside.ears.both()
        assert [leg.headers["x-firmline-agent"] for leg in beside.ears.ever] == ['anna, (west) "2" [x'] * 2
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)


async def test_prompt_is_heard_although_the_agents_phone_sends_nothing(world: World) -> None:
    """Beside a phone without packets a prompt is lost; with a silent leg of ours in the call it is heard by the caller.

    The call stays where it is, and is as before when the leg is gone.
    """
    async with mute_phone(world), Beside(world, agents=("203",)) as beside:
        caller = await world.phone("pat")
        await caller.dial(world.at_pbx("203"))
        await beside.ears.both()
        leg = beside.ears.legs["caller"]
        assert (await leg.play(tone(1300, 0.4)).done).completed
        await world.stack.clock.pause(300)
        assert share_of(caller, 1300) < 0.01 and beside.ears.heard["agent"] == []
        await beside.pbx.guests.wake(beside.call, "firmline-menu-test", {})
        caller.rewind()
        assert (await leg.play(tone(1300, 0.4)).done).completed
        await world.stack.clock.pause(300)
        assert share_of(caller, 1300) > 0.2
        beside.ears.legs[""].hang_up()
        await world.channels_settle(lambda names: len(names) == 4)
        beside.pbx.guests.let_go(beside.call, "firmline-menu-test")
        assert len(beside.ears.ever) == 3 and caller.in_call.is_set(), "no tap was replaced"
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)
