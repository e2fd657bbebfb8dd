"""The menu on a real Asterisk, whole service: each choice, no choice, nobody to speak with, a caller who hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
import yaml

from audio.wavio import write_wav
from ivr.demo.phones import Phone
from ivr.demo.service import Row
from ivr.demo.stack import RATE_HZ, Stack
from ivr.prompts import load_catalogue
from tests.ivr.pbx.beside import World, mute_phone, tone
from tests.ivr.pbx.pbx_server import PbxServer

pytestmark = [pytest.mark.sip, pytest.mark.model, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PROMPT_MS = 600
WINDOW = RATE_HZ // 10


class Menus(World):
    """One service for the module, whose calls end in the menu when the agent presses `end`."""

    prompts = {name: 300 + 100 * at for at, name in enumerate(load_catalogue())}
    """Each prompt is a tone of its own: short, and told apart in any tape."""
    phones: dict[str, Phone]

    def prepare(self) -> dict[str, dict[str, object]]:
        folder = self.folder / "prompts"
        folder.mkdir()
        for name, hz in self.prompts.items():
            (folder / f"{name}.wav").write_bytes(write_wav(tone(hz, PROMPT_MS / 1000), RATE_HZ))
        timing = {"grace_ms": 200, "countdown_ms": 1000, "hotkey_countdown_ms": 0}
        ending = {"kind": "menu", "fallbacks": [], "end_key": "menu"}
        pack = self.folder / "menu.yaml"
        pack.write_text(yaml.safe_dump({"name": "menu", "extends": "standard", "timing": timing, "ending": ending}))
        return {
            **self.overrides(agents=["201", "202", "203"]),
            "policy": {"pack": str(pack)},
            "prompts": {"directory": str(folder)},
            "menu": {"wait_ms": 1000, "repeats": 1, "max_invalid": 2},
            "journal": {"caller_number": "last4"},
        }

    async def in_menu(self) -> tuple[Phone, Phone, str]:
        """A call whose caller is in the menu: caller, agent, and the call's id."""
        caller, agent = self.phones["pat"], self.phones["201"]
        for phone in self.phones.values():
            await phone.hang_up()
            phone.rewind()
        before = len(self.rows.of("call_started"))
        await caller.dial(self.at_pbx("201"))
        call_id = (await self.rows.wait("call_started", before + 1))["call_id"]
        await self.of(call_id, "leg_up", 2)
        assert self.service is not None
        await self.service.press("201", "end")
        await asyncio.wait_for(agent.over.wait(), 10)
        assert caller.in_call.is_set()
        await self.stack.clock.pause(400)  # nobody is quicker than that at a key
        return caller, agent, call_id

    async def of(self, call_id: str, event: str, times: int = 1, **data: object) -> Row:
        """A row of that call."""
        async with asyncio.timeout(15):
            while True:
                found = [row for row in self.rows.of(event, **data) if row["call_id"] == call_id]
                if len(found) >= times:
                    return found[times - 1]
                self.rows._changed.clear()
                await self.rows._changed.wait()

    def heard(self, phone: Phone) -> list[str]:
        """Prompts that the phone has heard for at least 200 ms."""
        wave = phone.heard.pcm().astype(float)
        windows = wave[: len(wave) // WINDOW * WINDOW].reshape(-1, WINDOW)
        power = np.abs(np.fft.rfft(windows, axis=1)) ** 2
        loud = power[(windows**2).mean(axis=1) > 1e6]
        peaks = loud.argmax(axis=1) * RATE_HZ // WINDOW
        return sorted(name for name, hz in self.prompts.items() if (peaks == hz).sum() >= 2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def menus(asterisk: PbxServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Menus]:
    async with Stack() as stack:
        await asyncio.to_thread(asterisk.phones_at, stack.port)
        made = Menus(asterisk, stack, tmp_path_factory.mktemp("menus"))
        made.phones = {name: await made.phone(name) for name in ("pat", "201", "299")}
        try:
            await made.firmline(made.prepare())  # type: ignore[arg-type]
            yield made
        finally:
            if made.service is not None:
                await made.service.stop()
    assert asterisk.channels() == []


async def press(phone: Phone, digit: str) -> None:
    """A key on the phone, as RFC 4733 events."""
    assert phone._dialog is not None
    await phone._dialog._call.send_dtmf(digit)


async def test_caller_who_carries_on_is_back_with_the_agent_and_heard_again(menus: Menus) -> None:
    """1: the agent's phone rings and answers; the same call goes on one rung under the ending, tapped anew."""
    caller, agent, call_id = await menus.in_menu()
    await press(caller, "1")
    await menus.of(call_id, "action_done", action="menu", choice="carry_on", reached="201")
    await menus.of(call_id, "leg_up", 4)
    assert agent.in_call.is_set() and caller.in_call.is_set()
    rung = await menus.of(call_id, "rung", cause="carried_on")
    assert rung["data"]["to"] == "clear"
    assert {"closing_menu", "menu_carry_on"} <= set(menus.heard(caller)) and menus.heard(agent) == []
    assert menus.service is not None
    assert (await menus.service.press("201", "warn"))["rung"] == "clear"
    await menus.of(call_id, "rung", to="warned")
    await caller.hang_up()
    assert (await menus.of(call_id, "call_ended"))["data"]["why"] == "the call is over"
    await menus.channels_settle(lambda names: not names)


async def test_caller_who_wants_a_call_back_is_told_noted_and_free(menus: Menus) -> None:
    """2: the request is in the journal with the number whole, then the PBX ends the call."""
    caller, _agent, call_id = await menus.in_menu()
    await press(caller, "2")
    asked = await menus.of(call_id, "signal", action="callback_asked")
    assert (asked["data"]["caller_number"], asked["data"]["agent"]) == ("pat", "201")
    assert (await menus.of(call_id, "call_ended"))["data"]["why"] == "firmline: menu"
    await asyncio.wait_for(caller.over.wait(), 2)
    assert "menu_call_back" in menus.heard(caller)
    await menus.channels_settle(lambda names: not names)


async def test_wrong_keys_are_told_and_a_complaint_is_noted(menus: Menus) -> None:
    """9 is no choice; 4 is."""
    caller, _agent, call_id = await menus.in_menu()
    await press(caller, "9")
    await caller.wait_quiet(400, 5)
    await press(caller, "4")
    chosen = await menus.of(call_id, "signal", action="menu_choice", choice="complaint")
    assert chosen["data"]["invalid"] == 1
    await menus.of(call_id, "signal", action="complaint_asked")
    await menus.of(call_id, "call_ended")
    assert {"menu_invalid", "menu_complaint"} <= set(menus.heard(caller))
    await menus.channels_settle(lambda names: not names)


async def test_caller_who_presses_nothing_is_asked_again_and_then_with_the_supervisor(menus: Menus) -> None:
    """The default after the last repeat; the supervisor speaks with them, we are out of it."""
    caller, _agent, call_id = await menus.in_menu()
    supervisor = menus.phones["299"]
    done = await menus.of(call_id, "action_done", action="menu", choice="supervisor", reached="299")
    assert supervisor.in_call.is_set() and caller.in_call.is_set()
    chosen = await menus.of(call_id, "signal", action="menu_choice")
    assert (chosen["data"]["by"], chosen["data"]["rounds"]) == ("nothing was pressed", 2)
    assert done["data"]["confirmed_ms"] > 0
    assert (await menus.of(call_id, "call_ended"))["data"]["why"] == "firmline: menu"
    assert len(await menus.channels_settle(lambda names: len(names) == 2)) == 2
    await caller.hang_up()
    await menus.channels_settle(lambda names: not names)


async def test_supervisor_who_is_not_registered_sends_the_caller_back_to_the_agent(menus: Menus) -> None:
    """3 with nobody there: never dropped, the agent has them again and the ladder goes on."""
    menus.server.phones_at(menus.stack.port, unregistered={"299"})
    try:
        caller, agent, call_id = await menus.in_menu()
        await press(caller, "3")
        await menus.of(call_id, "action_done", action="menu", choice="supervisor", reached="201")
        await menus.of(call_id, "rung", cause="carried_on")
        assert agent.in_call.is_set() and caller.in_call.is_set()
        await caller.hang_up()
        await menus.of(call_id, "call_ended")
    finally:
        menus.server.phones_at(menus.stack.port)
    await menus.channels_settle(lambda names: not names)


async def test_supervisor_who_does_not_answer_rings_again_when_the_agent_is_gone(menus: Menus) -> None:
    """3, nobody picks up, and the agent has logged out meanwhile: sent to their phone, the caller would be dropped."""
    supervisor = menus.phones["299"]
    caller, _agent, call_id = await menus.in_menu()
    supervisor.auto_answer = False
    supervisor.ringing.clear()
    try:
        menus.server.phones_at(menus.stack.port, unregistered={"201"})
        await press(caller, "3")
        await asyncio.wait_for(supervisor.ringing.wait(), 5)
        supervisor.auto_answer = True  # from the next time on
        await menus.of(call_id, "action_done", action="menu", choice="supervisor", reached="299")
        await asyncio.wait_for(supervisor.in_call.wait(), 2)
        assert caller.in_call.is_set()
        await caller.hang_up()
        await menus.of(call_id, "call_ended")
    finally:
        supervisor.auto_answer = True
        menus.server.phones_at(menus.stack.port)
    await menus.channels_settle(lambda names: not names)


async def test_caller_who_hangs_up_in_the_menu_leaves_nothing(menus: Menus) -> None:
    """No leg, no channel; the journal says that they left."""
    caller, _agent, call_id = await menus.in_menu()
    await caller.hang_up()
    await menus.of(call_id, "signal", action="menu_choice", choice="left")
    await menus.of(call_id, "call_ended")
    await menus.channels_settle(lambda names: not names)
    assert menus.service is not None
    assert call_id not in (await menus.service.get("/api/calls")).text


async def test_warning_is_heard_beside_an_agent_whose_phone_sends_nothing(menus: Menus) -> None:
    """Muted, or saving bandwidth: a leg of ours comes into the call for the time of the prompt, and goes again."""
    caller = menus.phones["pat"]
    caller.rewind()
    async with mute_phone(menus):
        await caller.dial(menus.at_pbx("203"))
        began = await menus.rows.wait("call_started", agent="203")
        await menus.of(began["call_id"], "leg_up", 2)
        await menus.stack.clock.pause(600)  # so long without a packet, that none is coming
        assert menus.service is not None
        await menus.service.press("203", "warn")
        await menus.of(began["call_id"], "rung", to="warned")
        assert menus.heard(caller) == ["warning"]
        await menus.channels_settle(lambda names: len(names) == 4)
        await caller.hang_up()
        await menus.channels_settle(lambda names: not names)


async def test_firmline_killed_in_the_menu_gives_the_caller_back_to_the_agent(menus: Menus) -> None:
    """With our leg the PBX itself rings the agent for the caller; nothing of ours is needed for that."""
    caller, agent, _call_id = await menus.in_menu()
    assert menus.service is not None
    menus.service.kill()
    ours = [name for name in menus.server.channels() if name.startswith("PJSIP/firmline")]
    assert len(ours) == 1
    menus.server.cli(f"channel request hangup {ours[0]}")  # as its time runs out, or as the next process finds it
    await asyncio.wait_for(agent.in_call.wait(), 5)
    assert caller.in_call.is_set()
    await caller.hang_up()
    await menus.channels_settle(lambda names: not names)
