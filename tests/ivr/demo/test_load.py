"""The load peer against a stand-in that answers every leg and speaks into the caller's."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from audio.types import Pcm
from ivr.demo.load import LoadCall, TimedLine, run_load, standard_calls
from ivr.demo.phones import Phone
from ivr.demo.speech import line_pcm
from ivr.demo.stack import RATE_HZ, Dialog, Stack

pytestmark = pytest.mark.sip
PROMPT = "sam_bye"


def cut(samples: Pcm, ms: int) -> Pcm:
    """The first ``ms``."""
    return samples[: RATE_HZ * ms // 1000]


async def answer_all(stack: Stack) -> tuple[str, list[Phone]]:
    """An address that answers any number of legs and says the prompt to callers once they have begun to talk."""
    extension = await stack.extension("firmline")
    phones: list[Phone] = []

    async def prompt(phone: Phone) -> None:
        await phone.in_call.wait()
        await stack.clock.pause(500)
        await phone.say(line_pcm(PROMPT))

    def offer(dialog: Dialog) -> None:
        phone = Phone(stack, extension, auto_answer=True, keep=True)
        phones.append(phone)
        phone.take(dialog)
        if phone.headers["x-firmline-side"] == "caller":
            stack.spawn(prompt(phone))

    extension.on_incoming(offer)
    return extension.uri, phones


def workers() -> list[str]:
    """Load workers among this process's children."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    return [pid for pid in children if "ivr.demo.load" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")]


async def test_load_three_calls_say_and_hear_on_their_own_legs(stack: Stack) -> None:
    """Six legs: each call's caller leg hears the prompt where it was said, agent legs hear nothing, all end cleanly."""
    uri, phones = await answer_all(stack)
    said = cut(line_pcm("pat_billing"), 1000)
    calls = [LoadCall(f"c{n}", (TimedLine(200 + 100 * n, "billing", said),)) for n in range(3)]
    prompts = {PROMPT: line_pcm(PROMPT), "other": line_pcm("sam_sorry")}
    async with asyncio.timeout(40):
        report = await run_load(uri, calls, 4.4, prompts)
        await asyncio.gather(*(phone.over.wait() for phone in phones))
    legs = {(leg.call_ref, leg.side): leg for leg in report.legs}
    assert set(legs) == {(f"c{n}", side) for n in range(3) for side in ("caller", "agent")}
    assert [leg.error for leg in report.legs if leg.error or leg.ended_early] == []
    assert all(4_300 <= leg.lasted_ms <= 5_400 for leg in report.legs)
    for n in range(3):
        (sound,) = legs[f"c{n}", "caller"].heard
        assert sound.prompt == PROMPT and 300 <= sound.start_ms <= 1_200
        (line,) = legs[f"c{n}", "caller"].said
        assert line.line == "billing" and -20 <= line.start_ms - (200 + 100 * n) <= 150
        assert legs[f"c{n}", "agent"].heard == legs[f"c{n}", "agent"].said == ()
    spoken_to = [p for p in phones if p.headers["x-firmline-side"] == "caller"]
    assert all(int(abs(p.heard.pcm()[: RATE_HZ * 3].astype(int)).max()) > 3000 for p in spoken_to)
    assert 0 < report.peer_cpu_s < report.calls_s


async def test_load_nobody_answers_says_so_for_each_leg(stack: Stack) -> None:
    """A target that refuses: every leg's result tells it, and nothing hangs."""
    async with asyncio.timeout(30):
        report = await run_load(stack.uri("nobody"), [LoadCall("c", ())], 1.0)
    assert [(leg.up_ms, leg.lasted_ms) for leg in report.legs] == [(None, 0)] * 2
    assert all("404" in leg.error for leg in report.legs)


async def test_load_peer_gone_is_told_as_early_end(stack: Stack) -> None:
    """The target hangs up in mid-call: the leg says that it ended early."""
    uri, phones = await answer_all(stack)
    load = asyncio.ensure_future(run_load(uri, [LoadCall("c", ())], 20.0))
    async with asyncio.timeout(30):
        while len(phones) < 2:
            await stack.clock.pause(20)
        for phone in phones:
            await phone.in_call.wait()
            await phone.hang_up()
        report = await load
    assert all(leg.ended_early and leg.lasted_ms < 10_000 for leg in report.legs)


async def test_load_cancelled_leaves_no_process(stack: Stack) -> None:
    """Giving up in mid-load hangs up every leg at the target, and no worker stays behind."""
    uri, phones = await answer_all(stack)
    load = asyncio.ensure_future(run_load(uri, [LoadCall("c", ())], 20.0))
    async with asyncio.timeout(30):
        while len(phones) < 2:
            await stack.clock.pause(20)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        await asyncio.gather(*(phone.over.wait() for phone in phones))
    assert workers() == []


def test_standard_calls_have_one_insult_in_each_fourth() -> None:
    """Twenty calls of three minutes: five with one insult, which stands alone; lines never overlap on a leg."""
    calls = standard_calls(20, 180)
    assert [bool(call.expect_ms) for call in calls] == [n % 4 == 0 for n in range(20)]
    for call in calls:
        for side in (call.caller, call.agent):
            ends = [line.at_ms + len(line.samples) * 1000 // RATE_HZ for line in side]
            assert all(end < later.at_ms for end, later in zip(ends, side[1:], strict=False))
            assert all(end < 180_000 for end in ends)
        insults = [line for line in call.caller if line.line == "pat_insult"]
        assert tuple(line.at_ms for line in insults) == call.expect_ms
