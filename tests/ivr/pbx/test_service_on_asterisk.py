"""The whole service beside a real Asterisk: registered, attached, heard, warned, transferred; killed and restarted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ivr.demo.phones import Phone
from ivr.demo.recordings import find_prompt
from ivr.demo.speech import line_pcm
from ivr.demo.stack import RATE_HZ
from ivr.prompts import load_catalogue
from tests.ivr.pbx.conftest import World

pytestmark = [pytest.mark.sip, pytest.mark.model, pytest.mark.slow]

PACKS = Path(__file__).parents[3] / "policies" / "packs"


def heard(phone: Phone, prompt: str) -> bool:
    """Whether a prompt of the catalogue is in what the phone heard."""
    return bool(find_prompt(phone.heard.pcm(), load_catalogue().samples(prompt, RATE_HZ), RATE_HZ))


async def test_service_on_asterisk_warns_the_caller_only_then_transfers_to_the_supervisor(world: World) -> None:
    """An abusive caller hears the warning, the agent does not; after the closing prompt the supervisor is speaking."""
    await world.firmline()
    agent, caller, supervisor = [await world.phone(name) for name in ("201", "pat", "299")]
    await caller.dial(world.at_pbx("201"))
    await world.rows.wait("leg_up", times=2)
    await world.stack.clock.pause(500)  # nobody insults before the other has said a word
    await caller.say(line_pcm("pat_insult"))
    warned = await world.rows.wait("action_done", prompt="warning")
    await caller.wait_quiet(600, 15)
    await world.stack.clock.pause(600)  # the pack's grace
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
