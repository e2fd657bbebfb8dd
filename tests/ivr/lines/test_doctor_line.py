"""What the doctor says of a registrar and of our own address: each failure provoked on real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ivr import doctor_sip
from ivr.config import Config, LineConfig
from ivr.doctor_finding import Finding, Level
from ivr.doctor_line import line, ports
from tests.ivr.service import Registrar, eventually

pytestmark = pytest.mark.sip


@asynccontextmanager
async def registrar(kind: type[Registrar] = Registrar, password: str = "right") -> AsyncIterator[Registrar]:
    transport, made = await asyncio.get_running_loop().create_datagram_endpoint(kind, local_addr=("127.0.0.1", 0))
    made.silent, made.password = False, password
    try:
        yield made
    finally:
        transport.close()


async def findings(**settings: Any) -> dict[str, Finding]:
    low = {"rtp_port_low": 23_000, "rtp_port_high": 23_499, "max_legs": 20}
    config = Config(line=LineConfig(**{"server": "127.0.0.1", "password": "right", **low, **settings}))
    return {found.name: found for found in await line(config)}


async def test_doctor_good_registrar_and_own_address_are_well() -> None:
    """The password is right; the bindings are only asked for; a call to ourselves has audio both ways."""
    async with registrar() as pbx:
        found = await findings(server_port=pbx.port)
    assert {each.level for each in found.values()} == {Level.OK}, found
    assert pbx.asked == 2 and "both ways" in found["self-call"].what


async def test_doctor_wrong_password_is_told_with_where_to_look() -> None:
    """Challenged, answered, challenged again: the password it is."""
    async with registrar(password="other") as pbx:
        found = await findings(server_port=pbx.port)
    told = found["registrar"]
    assert told.level is Level.FAULT and "refused the password of firmline (401)" in told.what
    assert "pjsip show auth" in told.next_step


async def test_doctor_forbidden_by_sipp_names_the_acl(sipp: Any, free_port: int) -> None:
    """403 of an independent SIP stack."""
    async with sipp("forbidden.xml", None, "-p", str(free_port)):
        told = await eventually(lambda: _answered(free_port))
    assert told.level is Level.FAULT and "(403)" in told.what and "permit=" in told.next_step


async def _answered(port: int) -> Finding | None:
    """What is said once sipp listens."""
    told = (await findings(server_port=port))["registrar"]
    return None if "nothing listens" in told.what else told


async def test_doctor_closed_port_and_silence_are_told_apart(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    """Nobody listening is said by the machine itself; silence means a firewall or a ban."""
    told = (await findings(server_port=free_port))["registrar"]
    assert "nothing listens on UDP port" in told.what and "pjsip show transports" in told.next_step
    monkeypatch.setattr(doctor_sip, "RETRANSMIT_MS", (20, 20))
    async with registrar() as pbx:
        pbx.silent = True
        told = (await findings(server_port=pbx.port))["registrar"]
        assert pbx.asked == 2
    assert "does not answer" in told.what and "fail2ban" in told.next_step
    assert "cannot be resolved" in (await findings(server="no.such.host.invalid"))["registrar"].what


class Natted(Registrar):
    """Sees us at another address, as behind a NAT, and lives in another year."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        send = transport.sendto
        date = b"Date: Sat, 01 Jan 2022 00:00:00 GMT\r\nContent-Length"
        outer = self

        class Out:
            def sendto(self, data: bytes, addr: Any) -> None:
                send(
                    data.replace(b";rport", b";received=203.0.113.9;rport=4242").replace(b"Content-Length", date), addr
                )

        outer.transport = Out()


async def test_doctor_translated_address_and_clocks_apart_are_seen_in_the_answer() -> None:
    """RFC 3581 tells what the PBX saw; its Date header what time it has."""
    async with registrar(Natted) as pbx:
        found = await findings(server_port=pbx.port)
    assert found["registrar"].level is Level.OK
    assert found["nat"].level is Level.FAULT and "203.0.113.9" in found["nat"].what
    assert "s apart" in found["clock"].what


async def test_doctor_loopback_address_towards_another_machine_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic of no audio at all: local_ip left at its default; and an address that is not this machine's."""
    monkeypatch.setattr(doctor_sip, "RETRANSMIT_MS", (20,))
    found = await findings(server="192.0.2.77")
    assert found["line"].level is Level.FAULT and "no sound at all" in found["line"].what
    strange = await findings(server="192.0.2.77", local_ip="192.0.2.78")
    assert strange["self-call"].level is Level.FAULT and "not an address of this machine" in strange["self-call"].what
    assert "cannot send from line.local_ip" in strange["registrar"].what


async def test_doctor_taken_ports_name_the_command_that_finds_the_holder() -> None:
    """SIP and API port held by somebody else."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        for each in (tcp, udp):
            each.bind(("127.0.0.1", 0))
        tcp.listen()
        sip, api = udp.getsockname()[1], tcp.getsockname()[1]
        config = Config.model_validate({"line": {"local_port": sip}, "api": {"port": api}})
        found = {each.name: each for each in await ports(config)}
    assert found["sip port"].level is found["api port"].level is Level.FAULT
    assert f"ss -lunp sport = :{sip}" in found["sip port"].next_step
    assert f"ss -ltnp sport = :{api}" in found["api port"].next_step
