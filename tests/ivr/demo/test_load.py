"""The bench's load (SIPp and the light RTP sender) against softphones that answer every leg and speak to the caller."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from audio.g711 import Law, encode
from audio.types import Pcm
from ivr.bench_load import LoadLeg, run_load
from ivr.demo.phones import Phone
from ivr.demo.speech import line_pcm
from ivr.demo.stack import RATE_HZ, Dialog, Stack

pytestmark = pytest.mark.sip
PROMPT = "sam_bye"
NOISE = {"noise": bytes([0xFE, 0x7E]) * 4_000}


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
    return [pid for pid in children if "ivr.bench_load" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")]


def pair(call_ref: str, *clips: tuple[int, str]) -> list[LoadLeg]:
    """Both legs of a call; the caller says ``clips``."""
    return [LoadLeg(call_ref, "caller", "301", clips), LoadLeg(call_ref, "agent", "301")]


async def test_load_three_calls_say_and_hear_on_their_own_legs(stack: Stack) -> None:
    """Six legs: each call's caller leg hears the prompt where it was said, agent legs hear nothing, all end cleanly."""
    uri, phones = await answer_all(stack)
    said = cut(line_pcm("pat_billing"), 1000)
    legs = [leg for n in range(3) for leg in pair(f"c{n}", (10 + 5 * n, "billing"))]
    clips = {**NOISE, "billing": encode(said, Law.PCMU)}
    prompts = {PROMPT: line_pcm(PROMPT), "other": line_pcm("sam_sorry")}
    async with asyncio.timeout(40):
        report = await run_load(uri, legs, clips, 4.4, prompts)
        await asyncio.gather(*(phone.over.wait() for phone in phones))
    assert report.errors == "" and all(leg.hung_up for leg in report.legs)
    assert all(200 <= leg.packets <= 235 for leg in report.legs)
    for leg in report.legs:
        assert leg.start_ms is not None
        if leg.side == "agent":
            assert leg.heard == ()
            continue
        (sound,) = leg.heard
        assert sound.prompt == PROMPT and 300 <= sound.first_ms - leg.start_ms <= 1_200
    callers = [p for p in phones if p.headers["x-firmline-side"] == "caller"]
    assert sorted(p.headers["x-firmline-call"] for p in callers) == ["c0", "c1", "c2"]
    assert all(int(abs(p.heard.pcm()[: RATE_HZ * 3].astype(int)).max()) > 3000 for p in callers)
    assert 0 < report.cpu_s < report.calls_s


async def test_load_nobody_answers_is_told_for_each_leg(stack: Stack) -> None:
    """A target that refuses: no leg began, SIPp says why, and nothing hangs."""
    async with asyncio.timeout(30):
        report = await run_load(stack.uri("nobody"), pair("c"), NOISE, 1.0, {})
    assert [(leg.start_ms, leg.packets, leg.hung_up) for leg in report.legs] == [(None, 0, False)] * 2
    assert "404" in report.errors


async def test_load_leg_lost_in_mid_call_is_not_called_hung_up(stack: Stack) -> None:
    """The target hangs up: the leg says that it was not we who ended it, and its audio stops."""
    uri, phones = await answer_all(stack)
    load = asyncio.ensure_future(run_load(uri, pair("c"), NOISE, 8.0, {}))
    async with asyncio.timeout(30):
        while len(phones) < 2:
            await stack.clock.pause(20)
        for phone in phones:
            await phone.in_call.wait()
            await phone.hang_up()
        report = await load
    assert not any(leg.hung_up for leg in report.legs)


async def test_load_cancelled_leaves_no_process_and_no_leg(stack: Stack) -> None:
    """Giving up in mid-load hangs up every leg at the target, and no worker stays behind."""
    uri, phones = await answer_all(stack)
    load = asyncio.ensure_future(run_load(uri, pair("c"), NOISE, 20.0, {}))
    async with asyncio.timeout(15):
        while len(phones) < 2:
            await stack.clock.pause(20)
        await asyncio.gather(*(phone.in_call.wait() for phone in phones))
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        await asyncio.gather(*(phone.over.wait() for phone in phones))
    assert workers() == []
