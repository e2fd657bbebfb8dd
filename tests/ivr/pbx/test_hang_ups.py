"""Somebody hangs up at each step of the ladder, all in one run beside a real Asterisk: nothing is left over."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from audio.wavio import write_wav
from ivr.demo.phones import Phone
from ivr.demo.service import ServiceProcess
from ivr.demo.stack import RATE_HZ, PhoneError
from ivr.prompts import load_catalogue
from tests.ivr.pbx.beside import World
from tests.ivr.pbx.pbx_server import MANY
from tests.ivr.service import named_files, udp_ports

pytestmark = [pytest.mark.sip, pytest.mark.model, pytest.mark.slow]

PROMPT_MS = 2_500
COUNTDOWN_MS = 5_000
"""Longer than a prompt: there is a time after the closing prompt in which the countdown still runs."""


class Run:
    """One service and the calls of one test."""

    def __init__(self, world: World, service: ServiceProcess) -> None:
        self.world, self.service = world, service

    async def call(self, ext: str) -> tuple[Phone, Phone, str]:
        """Caller, agent and the call's id, tapped on both sides."""
        caller, agent = await Phone.create(self.world.stack, "pat"), await self.world.phone(ext)
        await caller.dial(self.world.at_pbx(ext))
        return caller, agent, await self.tapped(ext)

    async def tapped(self, ext: str) -> str:
        async with asyncio.timeout(8):
            while True:
                listed = (await self.service.get("/api/calls")).json()
                for call in listed:
                    if call["agent_ext"] == ext and len(call["legs"]) == 2:
                        return str(call["id"])
                await self.world.stack.clock.pause(50)

    async def row(self, call_id: str, event: str, **data: object) -> None:
        """Wait for a row of one call."""
        async with asyncio.timeout(20):
            while not [row for row in self.world.rows.of(event, **data) if row["call_id"] == call_id]:
                await self.world.rows.changed()

    async def press(self, ext: str, key: str) -> None:
        await self.service.press(ext, key)

    # --- the steps; each ends with somebody hanging up ----------------------------------------------------------------

    async def before_any_warning(self, ext: str) -> None:
        caller, _, _ = await self.call(ext)
        await caller.hang_up()

    async def during_the_warning(self, ext: str) -> None:
        caller, _, call_id = await self.call(ext)
        await self.press(ext, "warn")
        await self.row(call_id, "action_done", prompt="warning")
        await caller.hang_up()
        await self.row(call_id, "action_failed", prompt="warning")

    async def after_the_warning(self, ext: str) -> None:
        caller, _, call_id = await self.call(ext)
        await self.press(ext, "warn")
        await self.row(call_id, "rung", to="warned")
        await caller.hang_up()

    async def during_the_closing_prompt(self, ext: str) -> None:
        caller, _, call_id = await self.call(ext)
        await self.press(ext, "end")
        await self.row(call_id, "action_done", prompt="closing_hangup")
        await caller.hang_up()

    async def in_the_countdown(self, ext: str) -> None:
        caller, _, call_id = await self.call(ext)
        await self.press(ext, "transfer")
        await self.row(call_id, "action_done", prompt="closing_transfer")
        await caller.wait_quiet(600, 8)
        await caller.hang_up()
        await self.row(call_id, "call_ended")
        assert not [r for r in self.world.rows.of("action_requested", action="transfer") if r["call_id"] == call_id]

    async def while_the_supervisor_rings(self, ext: str) -> None:
        caller, _, call_id = await self.call(ext)
        supervisor = await Phone.create(self.world.stack, "299", auto_answer=False)
        await self.press(ext, "transfer")
        await self.row(call_id, "signal", action="waiting", of="transfer", stage="sent")
        await asyncio.wait_for(supervisor.ringing.wait(), 3)
        await caller.hang_up()
        await self.row(call_id, "action_failed", action="transfer")

    async def agent_in_the_middle_of_a_prompt(self, ext: str) -> None:
        caller, agent, call_id = await self.call(ext)
        await self.press(ext, "warn")
        await self.row(call_id, "action_done", prompt="warning")
        await agent.hang_up()
        await asyncio.wait_for(caller.over.wait(), 3)

    async def second_caller_of_a_busy_agent(self, ext: str) -> None:
        caller, _, call_id = await self.call(ext)
        with pytest.raises(PhoneError):
            await (await Phone.create(self.world.stack, "pat")).dial(self.world.at_pbx(ext))
        await self.press(ext, "warn")
        await self.row(call_id, "rung", to="warned")
        await caller.hang_up()

    async def whom_the_agent_has_called(self, ext: str) -> None:
        agent, customer = await self.world.phone(ext), await self.world.phone("202")  # no agent in this test
        await agent.dial(self.world.at_pbx("202"))
        call_id = await self.tapped(ext)
        await self.press(ext, "warn")
        await self.row(call_id, "action_done", prompt="warning")
        await customer.hang_up()
        await asyncio.wait_for(agent.over.wait(), 3)


def files(service: ServiceProcess) -> Counter[str]:
    """What it has open, but the database: while one connection holds a lock, SQLite keeps the descriptors of closed
    ones for those to come, as many as there ever were at once."""
    return Counter({name: n for name, n in named_files(service.pid).items() if not name.endswith("journal.db")})


async def test_whoever_hangs_up_at_whatever_step_leaves_nothing(world: World) -> None:
    """No channel, call, leg, port or descriptor stays, and no fault was caught inside the service."""
    overrides = world.overrides(agents=["21?", "22?"], answer_timeout_ms=8_000)
    pack = world.folder / "quick.yaml"
    pack.write_text(pack.read_text().replace("hotkey_countdown_ms: 2000", f"hotkey_countdown_ms: {COUNTDOWN_MS}"))
    assert f"hotkey_countdown_ms: {COUNTDOWN_MS}" in pack.read_text()
    catalogue, folder = load_catalogue(), world.folder / "prompts"
    folder.mkdir()
    for name in catalogue:
        samples = catalogue.samples(name, RATE_HZ)[: RATE_HZ * PROMPT_MS // 1000]
        (folder / f"{name}.wav").write_bytes(write_wav(samples, RATE_HZ))
    overrides["prompts"] = {"directory": str(folder)}
    service = await world.firmline(overrides)
    run = Run(world, service)
    await asyncio.gather(*(run.after_the_warning(ext) for ext in MANY[9:]))  # what is opened at first use
    await world.channels_settle(lambda names: not names)
    before, ports = files(service), len(udp_ports(service.pid))
    steps: list[Callable[[str], Awaitable[None]]] = [
        run.before_any_warning,
        run.during_the_warning,
        run.after_the_warning,
        run.during_the_closing_prompt,
        run.in_the_countdown,
        run.while_the_supervisor_rings,
        run.agent_in_the_middle_of_a_prompt,
        run.second_caller_of_a_busy_agent,
    ]
    await asyncio.gather(*(step(ext) for step, ext in zip(steps, MANY, strict=False)))
    await run.whom_the_agent_has_called(MANY[8])
    await world.rows.wait("call_ended", times=3 + len(steps) + 1)
    await world.channels_settle(lambda names: not names)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(25):  # a closed leg's port is free after a moment, an idle HTTP connection later
            while files(service).total() > before.total() or len(udp_ports(service.pid)) > ports:
                await world.stack.clock.pause(100)
    after = files(service)
    assert after.total() <= before.total() and len(udp_ports(service.pid)) <= ports, after - before
    assert (await service.get("/api/calls")).json() == []
    metrics = (await service.get("/metrics")).text
    assert "firmline_legs_live 0.0" in metrics and "firmline_calls_live 0.0" in metrics
    assert "firmline_internal_errors_total{" not in metrics
