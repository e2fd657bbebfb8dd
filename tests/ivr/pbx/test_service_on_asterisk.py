"""The whole service beside a real Asterisk: registered, attached, heard, warned, transferred; killed and restarted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivr.demo.phones import Phone, is_sound
from ivr.demo.recordings import find_prompt
from ivr.demo.service import Row, ServiceProcess, monotonic_of
from ivr.demo.speech import line_pcm
from ivr.demo.stack import RATE_HZ
from ivr.prompts import load_catalogue
from tests.ivr.pbx.beside import World
from tests.ivr.pbx.wire import Wire

pytestmark = [pytest.mark.sip, pytest.mark.model, pytest.mark.slow]

PACKS = Path(__file__).parents[3] / "policies" / "packs"


def heard(phone: Phone, prompt: str) -> bool:
    """Whether a prompt of the catalogue is in what the phone heard."""
    return bool(find_prompt(phone.heard.pcm(), load_catalogue().samples(prompt, RATE_HZ), RATE_HZ))


def assert_first_packet_reached_the_caller(world: World, wire: Wire, row: Row) -> None:
    """The PBX sent the prompt from its first sample on, after it was decided; how soon is for the bench to say."""
    data = row["data"]
    decided_ms = monotonic_of(row["at"]) - (row["t_ms"] - data["decided_ms"])
    prompt = load_catalogue().samples(data["prompt"], RATE_HZ)
    first_ms = wire.first_packet_ms(prompt, wire.dialled(world.server.sip_port)["201"], decided_ms)
    assert first_ms is not None and first_ms >= decided_ms


async def test_service_on_asterisk_warns_the_caller_only_then_transfers_to_the_supervisor(world: World) -> None:
    """An abusive caller hears the warning, the agent does not; after the closing prompt the supervisor is speaking."""
    await world.firmline()
    agent, caller, supervisor = [await world.phone(name) for name in ("201", "pat", "299")]
    rtp_low = world.server.rtp_low
    with Wire((rtp_low, rtp_low + 399), world.stack.port) as wire:
        await caller.dial(world.at_pbx("201"))
        await world.rows.wait("leg_up", times=2)
        await world.stack.clock.pause(500)  # nobody insults before the other has said a word
        await caller.say(line_pcm("pat_insult"))
        warned = await world.rows.wait("action_done", prompt="warning")
        await caller.wait_quiet(600, 15)
        await world.stack.clock.pause(600)  # the pack's grace
    assert_first_packet_reached_the_caller(world, wire, warned)
    await caller.say(line_pcm("pat_insult_again"))
    await world.rows.wait("action_done", action="transfer", ceiling_s=30)
    assert supervisor.in_call.is_set() and caller.in_call.is_set()
    async with asyncio.timeout(2):
        await agent.over.wait()
    supervisor.rewind()
    await caller.say(line_pcm("pat_calmer"))
    assert find_prompt(supervisor.heard.pcm(), line_pcm("pat_calmer"), RATE_HZ)
    assert heard(caller, "warning") and heard(caller, "closing_transfer")
    for prompt in ("warning", "closing_transfer"):
        assert not heard(agent, prompt) and not heard(supervisor, prompt)
    assert warned["data"]["first_rtp_ms"] - warned["data"]["decided_ms"] < 200
    await world.channels_settle(lambda names: len(names) == 2)
    assert (await world.rows.wait("call_ended"))["data"]["why"] == "firmline: transfer"
    await caller.hang_up()


async def test_polite_and_upset_callers_hear_nothing_of_ours_and_nothing_of_their_calls_changes(world: World) -> None:
    """A bill paid twice, then fury at a cold house: heard and written down, and not answered by us."""
    await world.firmline()
    await world.phone("201")
    caller = await world.phone("pat")
    await caller.dial(world.at_pbx("201"))
    await world.rows.wait("leg_up", times=2)
    before = sorted(await asyncio.to_thread(world.server.channels))
    for line in ("pat_billing", "kim_disgrace"):
        await caller.say(line_pcm(line))
        await world.stack.clock.pause(600)  # the end of an utterance
    async with asyncio.timeout(15):
        while "disgrace" not in (words := str([row["data"] for row in world.rows.of("utterance")])):
            await world.rows.changed()
    assert "bill" in words
    seen = {row["event"] for row in world.rows.rows}
    assert seen <= {"call_started", "leg_up", "utterance", "partial", "speaking"}
    ear = caller.heard.pcm()
    assert len(ear) > 5 * RATE_HZ and not any(is_sound(frame.tobytes()) for frame in np.split(ear, len(ear) // 160))
    assert caller.in_call.is_set() and sorted(await asyncio.to_thread(world.server.channels)) == before
    await caller.hang_up()
    await world.channels_settle(lambda names: not names)


async def test_agent_with_a_second_call_waiting_has_both_callers_heard_and_the_right_one_warned(world: World) -> None:
    """The first caller is on hold while the second is abusive, and has a ladder of their own when they come back."""
    await world.firmline()
    extension = await world.stack.extension("201")
    agents = [Phone(world.stack, extension, auto_answer=True, keep=True) for _ in range(2)]
    free = iter(agents)
    extension.on_incoming(lambda dialog: next(free).take(dialog))
    held, abusive = [await world.phone(name) for name in ("203", "pat")]
    await held.dial(world.at_pbx("201"))
    await world.rows.wait("leg_up", times=2)
    assert agents[0]._dialog is not None
    await agents[0]._dialog._call.hold()
    await abusive.dial(world.at_pbx("201"))
    second = (await world.rows.wait("leg_up", times=4))["call_id"]
    await world.stack.clock.pause(500)
    await abusive.say(line_pcm("pat_insult"))
    assert (await world.rows.wait("action_done", prompt="warning"))["call_id"] == second
    await abusive.wait_quiet(600, 15)
    assert heard(abusive, "warning") and not any(heard(phone, "warning") for phone in (held, *agents))
    await abusive.hang_up()
    await world.rows.wait("call_ended")
    await agents[0]._dialog._call.resume()
    await world.stack.clock.pause(500)
    await held.say(line_pcm("pat_insult_again"))
    first = await world.rows.wait("action_done", times=2, prompt="warning")
    await held.wait_quiet(600, 15)
    assert first["call_id"] != second and heard(held, "warning")
    await held.hang_up()
    await world.rows.wait("call_ended", times=2)
    await world.channels_settle(lambda names: not names)


async def test_service_ends_the_call_on_the_agents_key_after_the_closing_prompt(world: World) -> None:
    """The agent presses end: the caller hears why, then both are free; the journal has it in that order."""
    service = await world.firmline()
    agent, caller = [await world.phone(name) for name in ("201", "pat")]
    await caller.dial(world.at_pbx("201"))
    await world.rows.wait("leg_up", times=2)
    await service.press("201", "end")
    await world.rows.wait("call_ended", ceiling_s=25)
    await asyncio.wait_for(asyncio.gather(agent.over.wait(), caller.over.wait()), 2)
    ends = [(row["event"], row["data"].get("why")) for row in world.rows.rows if row["event"] != "utterance"][-2:]
    assert ends[0][0] == "action_done" and ends[1] == ("call_ended", "firmline: hangup")
    assert heard(caller, "closing_hangup") and not heard(agent, "closing_hangup")
    await world.channels_settle(lambda names: not names)


async def test_service_killed_leaves_the_call_talking_and_taps_it_again_after_a_restart(world: World) -> None:
    """SIGKILL in the middle of a prompt: both go on talking; the next process is beside the call within seconds."""
    service = await world.firmline()
    agent, caller = [await world.phone(name) for name in ("201", "pat")]
    await caller.dial(world.at_pbx("201"))
    await world.rows.wait("leg_up", times=2)
    await service.press("201", "warn")
    await world.rows.wait("action_done", prompt="warning")
    service.kill()
    agent.rewind()
    caller.rewind()
    await asyncio.gather(caller.say(line_pcm("pat_calmer")), agent.say(line_pcm("sam_sorry")))
    assert find_prompt(agent.heard.pcm(), line_pcm("pat_calmer"), RATE_HZ)
    assert find_prompt(caller.heard.pcm(), line_pcm("sam_sorry"), RATE_HZ)
    await service.stop()
    service = await world.firmline()
    # Asked, not watched: the taps may be up before the feed of the new process is.
    async with asyncio.timeout(3):
        while [call["legs"] for call in (await service.get("/api/calls")).json()] != [["agent", "caller"]]:
            await world.stack.clock.pause(50)
    names = await world.channels_settle(lambda names: len(names) == 4)
    assert sum(name.startswith("PJSIP/firmline") for name in names) == 2
    assert (await service.get("/readyz")).status_code == 200
    await caller.hang_up()
    assert (await world.rows.wait("call_ended"))["data"]["why"] == "the call is over"
    await world.channels_settle(lambda names: not names)
    assert (await service.get("/api/calls")).json() == []


async def test_service_with_a_wrong_manager_secret_says_so_stays_up_and_check_says_the_same(world: World) -> None:
    """The service runs and registers; `/readyz` and `firmline check` name the keys to look at."""
    service = await world.firmline(world.overrides(secret="wrong"))
    async with asyncio.timeout(5):
        while "refused" not in (told := await _pbx_check(service))["detail"]:
            await world.stack.clock.pause(100)
    assert not told["ok"] and "check pbx.asterisk.username and secret" in told["detail"]
    await service.stop()
    command = (sys.executable, "-m", "ivr", "check", "-c", str(service.folder / "config.yaml"))
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "check pbx.asterisk.username and secret" in done.stdout
    assert f"registered firmline at the registrar 127.0.0.1:{world.server.sip_port}" in done.stdout


async def _pbx_check(service: ServiceProcess) -> dict[str, Any]:
    answer = await service.get("/readyz")
    return next(check for check in answer.json()["checks"] if check["name"] == "pbx")
