"""Calls of a real Asterisk: tapped by themselves, transferred, ended, and left alone when something is missing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ivr.clock import monotonic_ms
from ivr.demo.phones import Phone
from ivr.errors import PbxError
from ivr.pbx.base import CallRef
from ivr.pbx.guarded import MarkOptions
from ivr.pbx.pauses import PAUSE_REASON
from ivr.pbx.phone_keys import PhoneKey, PhoneKeyOptions
from policies.types import Key
from tests.ivr.pbx.beside import Beside, World, ami_options, mute_phone, share_of, tone
from tests.ivr.pbx.pbx_server import MANY

pytestmark = pytest.mark.sip


async def talking(world: World, *names: str, target: str = "201") -> list[Phone]:
    """Phones; the first one has called ``target``, and the second one has answered."""
    phones = [await world.phone(name) for name in names]
    await phones[0].dial(world.at_pbx(target))
    await asyncio.wait_for(phones[1].in_call.wait(), 3)
    return phones


async def test_call_of_a_guarded_agent_is_tapped_on_both_sides_and_leaves_nothing(world: World) -> None:
    """Each leg hears its own side from the first tenths of a second on; with the call its legs are gone."""
    async with Beside(world) as beside:
        caller, agent = await talking(world, "pat", "201")
        bridged_ms = monotonic_ms()
        for phone, hz in ((caller, 440), (agent, 1000)):
            world.stack.spawn(_say(phone, hz))
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


async def _say(phone: Phone, hz: int) -> None:
    await phone.say(tone(hz, 2))


async def test_prompt_on_the_callers_leg_is_heard_by_the_caller_only(world: World) -> None:
    """What is played into a tap leg reaches the ear it taps and no other."""
    async with Beside(world) as beside:
        caller, agent = await talking(world, "pat", "201")
        await beside.ears.both()
        for phone in (caller, agent):
            world.stack.spawn(_say(phone, 300))  # both phones send: a whisper needs the other side's packets
        await world.stack.clock.pause(300)
        playback = beside.ears.legs["caller"].play(tone(1300, 0.6))
        assert (await playback.done).completed
        await world.stack.clock.pause(300)
        assert share_of(caller, 1300) > 0.2 and share_of(agent, 1300) < 0.01
        await caller.hang_up()


async def test_transfer_is_done_when_thesupervisor_has_answered(world: World) -> None:
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
            world.stack.spawn(_say(phone, 300))
        await world.stack.clock.pause(300)
        caller.rewind()
        assert (await beside.ears.legs["caller"].play(tone(1300, 0.6)).done).completed
        await world.stack.clock.pause(300)
        assert share_of(caller, 1300) > 0.2
        await caller.hang_up()
        await world.channels_settle(lambda names: not names)


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


async def test_call_with_direct_media_is_heard_and_a_hold_is_survived(world: World) -> None:
    """Phones that would send to each other are still heard; hold and resume leave both taps working."""
    world.server.phones_at(world.stack.port, direct_media=True)
    async with Beside(world) as beside:
        caller, agent = await talking(world, "pat", "201")
        await beside.ears.both()
        for phone, hz in ((caller, 440), (agent, 1000)):
            world.stack.spawn(_say(phone, hz))
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
            world.stack.spawn(_say(phone, hz))
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
            world.stack.spawn(_say(phone, hz))
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
                world.stack.spawn(_say(phone, hz))
            await ears.until(lambda: all(len(ears.heard[side]) > 60 for side in ("caller", "agent")))
            assert abs(ears.loudest_hz("caller") - 440) < 8 and abs(ears.loudest_hz("agent") - 1000) < 8
            assert [leg.headers["x-firmline-agent"] for leg in ears.ever] == [ext] * 2
            await dialler.hang_up()
            await ears.until(lambda: not ears.legs)
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


@contextlib.asynccontextmanager
async def forwarder(port: int, to_port: int, banner: bytes) -> AsyncIterator[None]:
    """The manager interface at another port, under another banner."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_pbx, to_pbx = await asyncio.open_connection("127.0.0.1", to_port)
        await from_pbx.readline()
        writer.write(banner)
        await asyncio.gather(pump(reader, to_pbx), pump(from_pbx, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


async def test_pbx_that_is_down_at_start_and_of_unknown_version_is_waited_for_and_used(world: World) -> None:
    """While nothing listens the problem says so; then it comes up, calling itself what nobody knows, and is used.

    The log names the version, or says that it is not told.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world.server.cli("module unload func_version.so")
    try:
        with capture_logs() as lines:
            await _waited_for_and_used(world, port)
    finally:
        world.server.cli("module load func_version.so")
    [told] = [line for line in lines if line["event"] == "version of the PBX"]
    assert told["log_level"] == "warning" and told["found"] == "Asterisk of unknown version (manager protocol 99.9.9)"
    assert "tested are 16.28 and 22" in told["next_step"]


async def _waited_for_and_used(world: World, port: int) -> None:
    async with Beside(world, ami=ami_options(world.server, port=port)) as beside:
        await _told(world, beside, f"127.0.0.1:{port} cannot be reached")
        async with forwarder(port, world.server.ami_port, b"Asterisk Call Manager/99.9.9\r\n"):
            await _told(world, beside, "")
            caller, _agent = await talking(world, "pat", "201")
            await beside.ears.both()
            await caller.hang_up()
            await beside.ears.until(lambda: not beside.ears.legs)
            await beside.pbx.stop()


async def test_manager_user_without_events_is_told_while_it_goes_on(world: World) -> None:
    """Which line of manager.conf lacks what; it is asked again at each login."""
    async with Beside(world, ami=ami_options(world.server, username="deaf", timeout_ms=700)) as beside:
        async with asyncio.timeout(5):
            while "add call to its read=" not in (beside.pbx.problem() or ""):
                await world.stack.clock.pause(50)


async def _told(world: World, beside: Beside, said: str) -> None:
    async with asyncio.timeout(8):
        while said not in (told := beside.pbx.problem() or "") or bool(told) is not bool(said):
            await world.stack.clock.pause(50)
