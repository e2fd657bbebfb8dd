"""Two Firmlines on one real Asterisk: each call is one's alone; when one is killed the other goes on where it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from audio.wavio import write_wav
from ivr.clock import monotonic_ms
from ivr.demo.phones import Phone
from ivr.demo.recordings import find_prompt
from ivr.demo.service import ServiceProcess
from ivr.demo.speech import line_pcm
from ivr.demo.stack import RATE_HZ
from ivr.prompts import load_catalogue
from tests.ivr.pbx.beside import Rows, World
from tests.ivr.pbx.pbx_server import MANY

pytestmark = [pytest.mark.sip, pytest.mark.model, pytest.mark.slow]

TAKEN_OVER_MS = 5_500
"""A lease of three seconds, the beat that notices, and the taps; on a machine that does other things as well."""


class Pair:
    """Two services with nothing in common but the PBX."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows = {name: Rows() for name in ("firmline", "firmline2")}
        self.services: dict[str, ServiceProcess] = {}
        self.pack: Path | None = None
        self.prompts = Path()

    def shorten_prompts(self) -> None:
        """Every prompt by its first words: what is said is not what is looked at."""
        self.prompts, catalogue = self.world.folder / "prompts", load_catalogue()
        self.prompts.mkdir()
        for name in catalogue:
            (self.prompts / f"{name}.wav").write_bytes(write_wav(catalogue.samples(name, RATE_HZ)[:RATE_HZ], RATE_HZ))

    async def start(self, name: str) -> None:
        overrides = self.world.overrides(agents=["2??"])
        overrides["line"]["username"] = name
        if self.pack is not None:
            overrides["policy"]["pack"] = str(self.pack)
            overrides["prompts"] = {"directory": str(self.prompts)}
        folder = self.world.folder / name
        self.services[name] = ServiceProcess(folder, overrides=overrides, on_row=self.rows[name].take)
        await self.services[name].start()

    async def owners(self, calls: int) -> dict[str, str]:
        """Agent's extension to service, once every call is tapped on both sides."""
        async with asyncio.timeout(8):
            while True:
                shown = {name: await self.calls(name) for name in self.services}
                whole = {c["agent_ext"]: name for name, them in shown.items() for c in them if len(c["legs"]) == 2}
                if len(whole) == calls and sum(map(len, shown.values())) == calls:
                    return whole
                await self.world.stack.clock.pause(50)

    async def calls(self, name: str) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = (await self.services[name].get("/api/calls")).json()
        return listed


@pytest.fixture
async def pair(world: World, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """Both up; under the quick pack, or what a test adds to it (``indirect``)."""
    both = Pair(world)
    if hasattr(request, "param"):
        both.pack = world.folder / "pair.yaml"
        both.pack.write_text(yaml.safe_dump({"name": "pair", "extends": "standard", **request.param}))
        both.shorten_prompts()
    try:
        await asyncio.gather(*(both.start(name) for name in both.rows))
        yield both
    finally:
        for service in both.services.values():
            await service.stop()


async def talk(caller: Phone, agent: Phone) -> None:
    """The two hear each other."""
    agent.rewind()
    caller.rewind()
    await asyncio.gather(caller.say(line_pcm("pat_calmer")), agent.say(line_pcm("sam_sorry")))
    assert find_prompt(agent.heard.pcm(), line_pcm("pat_calmer"), RATE_HZ)
    assert find_prompt(caller.heard.pcm(), line_pcm("sam_sorry"), RATE_HZ)


async def test_two_services_share_calls_and_one_takes_over_the_warned_call_of_the_killed_other(
    world: World, pair: Pair
) -> None:
    """No call is tapped twice; after kill -9 of its owner a warned call goes on as warned, and is not warned again."""
    agents = {name: await world.phone(name) for name in ("201", *MANY[:5])}
    callers = {}
    for ext in agents:
        callers[ext] = await Phone.create(world.stack, "pat")
        await callers[ext].dial(world.at_pbx(ext))
    owners = await pair.owners(len(agents))
    taps = await world.channels_settle(lambda names: len(names) == 4 * len(agents))
    assert sum(name.startswith("PJSIP/firmline") for name in taps) == 2 * len(agents)
    first = owners["201"]
    other = next(name for name in pair.rows if name != first)
    await pair.services[first].press("201", "warn")
    await pair.rows[first].wait("rung", to="warned")
    await pair.services[first].press("210", "disarm") if owners["210"] == first else None
    await world.stack.clock.pause(100)

    pair.services[first].kill()
    killed_ms = monotonic_ms()
    await pair.rows[other].wait("signal", action="resumed", rung="warned", ceiling_s=TAKEN_OVER_MS / 1000)
    print(f"\ntaken over after {monotonic_ms() - killed_ms} ms")
    del pair.services[first]
    assert set((await pair.owners(len(agents))).values()) == {other}
    await talk(callers["201"], agents["201"])
    rungs = {call["agent_ext"]: call["rung"] for call in await pair.calls(other)}
    assert rungs["201"] == "warned" and rungs["210"] == ("disarmed" if owners["210"] == first else "clear")
    assert pair.rows[other].of("action_requested") == []

    await pair.start(first)  # back again: the calls stay where they are
    await world.stack.clock.pause(2_500)
    assert await pair.calls(first) == [] and len(await pair.calls(other)) == len(agents)
    await pair.services[other].press("201", "warn")  # the next one up
    await pair.rows[other].wait("action_done", prompt="final_warning")

    await pair.services.pop(other).stop()  # an orderly stop hands over as well, and sooner than a lease
    await pair.rows[first].wait("signal", action="resumed", ceiling_s=TAKEN_OVER_MS / 1000)
    assert set((await pair.owners(len(agents))).values()) == {first}
    assert {c["agent_ext"]: c["rung"] for c in await pair.calls(first)}["201"] == "warned"
    for caller in callers.values():
        await caller.hang_up()
    await world.channels_settle(lambda names: not names)
    async with asyncio.timeout(3):
        while await pair.calls(first):
            await world.stack.clock.pause(50)


MENU = {
    "timing": {"grace_ms": 200, "countdown_ms": 1000, "hotkey_countdown_ms": 0},
    "ending": {"kind": "menu", "fallbacks": [], "end_key": "menu"},
}


@pytest.mark.parametrize("pair", [MENU], indirect=True)
async def test_caller_in_the_menu_of_the_killed_one_is_with_the_agent_again_and_not_warned_anew(
    world: World, pair: Pair
) -> None:
    """Silence lasts no longer than a lease; then the agent's phone rings, and the other is beside them as warned."""
    agent, caller = await world.phone("201"), await Phone.create(world.stack, "pat")
    await caller.dial(world.at_pbx("201"))
    first = (await pair.owners(1))["201"]
    other = next(name for name in pair.rows if name != first)
    await pair.services[first].press("201", "warn")
    await pair.rows[first].wait("rung", to="warned")
    await caller.wait_quiet(400, 10)
    await pair.services[first].press("201", "end")
    await asyncio.wait_for(agent.over.wait(), 15)
    await pair.rows[first].wait("action_requested", action="menu")
    assert caller.in_call.is_set()

    pair.services[first].kill()
    killed_ms = monotonic_ms()
    await asyncio.wait_for(agent.in_call.wait(), TAKEN_OVER_MS / 1000)
    print(f"\nback with the agent after {monotonic_ms() - killed_ms} ms")
    del pair.services[first]
    assert (await pair.owners(1)) == {"201": other} and caller.in_call.is_set()
    assert [call["rung"] for call in await pair.calls(other)] == ["warned"]
    await talk(caller, agent)
    assert pair.rows[other].of("action_requested") == [] and pair.rows[other].of("action_done") == []
    await caller.hang_up()
    await world.channels_settle(lambda names: not names)
