"""The SIP line against a real registrar: digest, refresh, a wrong password, a PBX that freezes or is killed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ivr.demo.phones import Phone
from ivr.demo.stack import Stack
from ivr.doctor_sip import ask_registrar
from ivr.errors import PbxError
from ivr.lines.base import RegistrationState
from ivr.lines.pyvoip import PyvoipLine
from ivr.lines.transactions import Timers
from tests.ivr.pbx.beside import Beside, Ears, World, line_options, tone
from tests.ivr.pbx.pbx_server import PbxServer

pytestmark = pytest.mark.sip
QUICK = Timers(t1_ms=20, t2_ms=80, t4_ms=100, retry_min_ms=50, retry_max_ms=200, stop_ms=500)


@pytest.fixture
def own_asterisk(asterisk: PbxServer) -> Iterator[PbxServer]:
    """The Asterisk of the session, which this test may freeze or kill: it runs again afterwards."""
    try:
        yield asterisk
    finally:
        asterisk.signal(signal.SIGCONT)
        if not asterisk.running:
            asterisk.start()


def contacts(server: PbxServer) -> int:
    """How many contacts the registrar has for us."""
    return server.cli("pjsip show contacts").count("firmline/sip:firmline@")


def state(line: PyvoipLine) -> RegistrationState:
    return line.status().registration


async def test_line_registers_with_digest_refreshes_and_takes_itself_off(asterisk: PbxServer) -> None:
    """Challenged, accepted, refreshed before it runs out, gone after stop."""
    ears, line = Ears(), PyvoipLine(line_options(asterisk, expires_s=2))
    await line.start(ears)
    try:
        await ears.until(lambda: state(line) is RegistrationState.REGISTERED)
        assert contacts(asterisk) == 1
        asked = await ask_registrar(line_options(asterisk))
        wrong = await ask_registrar(line_options(asterisk, password="wrong"))
        assert (asked.status, asked.asked_for_password, wrong.status) == (200, True, 401)
        assert contacts(asterisk) == 1  # the doctor only asks
        with contextlib.suppress(TimeoutError):  # two of its lives: the registrar looks for expired ones every second
            await asyncio.wait_for(asyncio.Event().wait(), 4)
        assert contacts(asterisk) == 1
        assert [s.registration for s in ears.states] == [RegistrationState.REGISTERING, RegistrationState.REGISTERED]
    finally:
        await line.stop()
    assert contacts(asterisk) == 0


async def test_line_with_a_wrong_password_says_so_and_registers_once_it_is_right(asterisk: PbxServer) -> None:
    """A refusal names the keys to look at, and is tried again quietly."""
    ears, line = Ears(), PyvoipLine(line_options(asterisk, password="wrong"), timers=replace(QUICK, retry_max_ms=50))
    await line.start(ears)
    try:
        await ears.until(lambda: state(line) is RegistrationState.FAILED)
        assert "refused the password of firmline (401); check line.username" in line.status().detail
        assert contacts(asterisk) == 0
    finally:
        await line.stop()


async def test_second_line_replaces_the_contact_of_one_that_died(asterisk: PbxServer) -> None:
    """A restarted process is reachable at once: one contact, the new one."""
    first, second = PyvoipLine(line_options(asterisk)), PyvoipLine(line_options(asterisk))
    for line in (first, second):
        ears = Ears()
        await line.start(ears)
        await ears.until(lambda line=line: state(line) is RegistrationState.REGISTERED)  # type: ignore[misc]
    try:
        assert contacts(asterisk) == 1
        assert f"@127.0.0.1:{second.local_address[1]}" in asterisk.cli("pjsip show contacts")
    finally:
        await second.stop()
        await first.stop()


async def test_line_outlives_a_registrar_that_stops_answering(own_asterisk: PbxServer) -> None:
    """Frozen, the PBX is reported as silent; thawed, the line is registered again without being asked."""
    ears, line = Ears(), PyvoipLine(line_options(own_asterisk, expires_s=2), timers=QUICK)
    await line.start(ears)
    try:
        await ears.until(lambda: state(line) is RegistrationState.REGISTERED)
        own_asterisk.signal(signal.SIGSTOP)
        await ears.until(lambda: state(line) is RegistrationState.FAILED, 8)
        assert "did not answer within" in line.status().detail
        own_asterisk.signal(signal.SIGCONT)
        await ears.until(lambda: state(line) is RegistrationState.REGISTERED, 8)
        assert contacts(own_asterisk) == 1
    finally:
        own_asterisk.signal(signal.SIGCONT)
        await line.stop()


async def test_asterisk_killed_and_restarted_is_found_again_and_calls_are_tapped(
    own_asterisk: PbxServer, tmp_path: Path
) -> None:
    """Nobody restarts Firmline after the PBX: within seconds it is logged in, registered and taps the next call.

    Killed while a prompt plays and a supervisor's phone rings: both end, and what is said of them is true.
    """
    async with Stack() as stack:
        own_asterisk.phones_at(stack.port)
        world = World(own_asterisk, stack, tmp_path)
        async with Beside(world) as beside:
            assert await _settled(beside) is None
            caller, _agent = await world.phone("pat"), await world.phone("201")
            await caller.dial(world.at_pbx("201"))
            await beside.ears.both()
            ref = beside.call.call_ref
            supervisor = await Phone.create(stack, "299", auto_answer=False)
            playback = beside.ears.legs["caller"].play(tone(1300, 2))
            moving = asyncio.create_task(beside.pbx.transfer(beside.call, "299", "test"))
            await asyncio.wait_for(supervisor.ringing.wait(), 3)
            own_asterisk.kill()
            with pytest.raises(PbxError, match="manager connection was lost while 299 was ringing"):
                await asyncio.wait_for(moving, 5)
            await asyncio.wait_for(playback.done, 5)
            async with asyncio.timeout(5):
                while beside.pbx.problem() is None:
                    await stack.clock.pause(40)
            own_asterisk.forget()
            await asyncio.to_thread(own_asterisk.start)
            assert await _settled(beside) is None
            async with asyncio.timeout(5):
                while not contacts(own_asterisk):
                    await stack.clock.pause(100)
            assert beside.over == [ref], "the call died with the PBX"
            for leg in list(beside.ears.legs.values()):
                leg.hang_up()
            await beside.ears.until(lambda: not beside.ears.legs)
            await asyncio.gather(caller.hang_up(), _agent.hang_up())
            await caller.dial(world.at_pbx("201"))
            await beside.ears.both()
            await caller.hang_up()
            await beside.ears.until(lambda: not beside.ears.legs)


async def _settled(beside: Beside) -> str | None:
    """The PBX's problem once it has none, or what it still is after five seconds."""
    try:
        async with asyncio.timeout(5):
            while beside.pbx.problem() is not None:
                await beside.world.stack.clock.pause(40)
    except TimeoutError:
        pass
    return beside.pbx.problem()
