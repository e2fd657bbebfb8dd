"""The manager interface of a real Asterisk when it is not as it should be: away, unknown, deaf, cut off."""

from __future__ import annotations

import asyncio
import socket

import pytest
from structlog.testing import capture_logs

from tests.ivr.pbx.beside import Beside, Forwarder, World, ami_options, talking
from tests.ivr.service import free_tcp_port

pytestmark = pytest.mark.sip


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
        async with Forwarder(port, world.server.ami_port, b"Asterisk Call Manager/99.9.9\r\n"):
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


async def test_rights_taken_away_while_it_runs_are_named_and_used_again_when_given_back(world: World) -> None:
    """Asterisk looks at them at the next login: then the class that lacks is said, and login is tried less and less."""
    port, config = free_tcp_port(), world.server.folder / "manager.conf"
    before = config.read_text()
    async with Forwarder(port, world.server.ami_port) as manager:
        async with Beside(world, ami=ami_options(world.server, port=port)) as beside:
            await _told(world, beside, "")
            try:
                config.write_text(before.replace("write=call,originate,agent", "write=call"))
                world.server.cli("manager reload")
                with capture_logs() as lines:
                    await manager.cut()
                    await manager.mend()
                    await _told(world, beside, "firmline may not do all that is needed: add originate to its write=")
                    await world.stack.clock.pause(2_000)
                    assert beside.pbx.problem() is not None
                assert 2 <= sum(line["event"] == "manager connected" for line in lines) <= 5
            finally:
                config.write_text(before)
                world.server.cli("manager reload")
            await _told(world, beside, "")
            caller, _agent = await talking(world, "pat", "201")
            await beside.ears.both()
            await caller.hang_up()
            await beside.ears.until(lambda: not beside.ears.legs)


async def _told(world: World, beside: Beside, said: str) -> None:
    async with asyncio.timeout(8):
        while said not in (told := beside.pbx.problem() or "") or bool(told) is not bool(said):
            await world.stack.clock.pause(50)
