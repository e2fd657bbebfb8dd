"""What an attacker or a broken PBX sends to the real service; a healthy call beside it notices nothing."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
import pytest_asyncio

from policies.types import Key
from tests.ivr.lines.conftest import OFFER, Peer
from tests.ivr.service import LiveCall, Site, eventually, first_free_file, open_files, resident_kb, threads, udp_ports

pytestmark = [pytest.mark.sip, pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

PeerOf = Callable[..., Awaitable[Peer]]
CHANCE = random.Random(11)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One service for the module; its pack hangs up, and only this machine's own address is trusted."""
    line = {"trusted_peers": ["127.0.0.1/32"]}
    folder = tmp_path_factory.mktemp("site")
    async with Site(folder, ending={"kind": "hangup"}, overrides={"line": line}) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def peer_of(site: Site) -> AsyncIterator[PeerOf]:
    """``await peer_of(ip)``: a SIP peer of plain bytes that talks to the service."""
    peers: list[Peer] = []

    async def make(ip: str = "127.0.0.1") -> Peer:
        loop = asyncio.get_running_loop()
        _, peer = await loop.create_datagram_endpoint(lambda: Peer(target(site)), local_addr=(ip, 0))
        peers.append(peer)
        return peer

    yield make
    for peer in peers:
        peer.transport.close()


def target(site: Site) -> tuple[str, int]:
    """Where the service listens for SIP."""
    host, _, port = site.service.uri.partition("@")[2].partition(":")
    return host, int(port)


def tapping(ref: str, side: str, ext: str = "") -> tuple[str, ...]:
    """The headers of a tap leg."""
    return (f"X-Firmline-Call: {ref}", f"X-Firmline-Side: {side}", *([f"X-Firmline-Agent: {ext}"] if ext else []))


def rtp(sequence: int, timestamp: int, ssrc: int = 7, first: int = 0x80, payload: bytes = b"\xff" * 160) -> bytes:
    """One packet of PCMU."""
    return struct.pack("!BBHII", first, 0, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc) + payload


def hostile_rtp() -> list[bytes]:
    """Truncated, wrong version, huge, bad extension, bad padding, too many CSRCs, jumps, SSRC changes, DTMF floods."""
    good = rtp(1, 160)
    packets = [good[:n] for n in range(0, 14)] + [rtp(2, 320, first=v) for v in (0x00, 0x40, 0xC0, 0xFF)]
    packets += [rtp(3, 480, payload=b"\x55" * 60_000), rtp(4, 640, payload=b"")]
    packets += [rtp(5, 800, first=0x90, payload=b"\xbe\xde\xff\xff" + b"x" * 8), rtp(6, 960, first=0x90, payload=b"")]
    packets += [rtp(7, 1120, first=0xA0, payload=b"\x00" * 10), rtp(8, 1280, first=0xA0, payload=b"\xff" * 10)]
    packets += [rtp(9, 1440, first=0x8F, payload=b"\x01" * 20)]
    packets += [rtp(10 + i, jump) for i, jump in enumerate((2**31, 0, 2**32 - 1, 5, 2**30))]
    packets += [rtp(i, i * 160, ssrc=CHANCE.randrange(2**32)) for i in range(60)]
    packets += [rtp(CHANCE.randrange(65536), CHANCE.randrange(2**32), ssrc=9) for _ in range(60)]
    packets += [struct.pack("!BBHIIBBH", 0x80, 101, i, i, 7, CHANCE.randrange(256), 0x8A, 800) for i in range(60)]
    return packets + [CHANCE.randbytes(CHANCE.randrange(1, 400)) for _ in range(200)]


def hostile_sip(whole: bytes) -> list[bytes]:
    """Truncated, wrong version, huge, random, bad headers; ``whole`` is an INVITE that would be good."""
    out = [whole[: CHANCE.randrange(len(whole))] for _ in range(60)]
    out += [whole.replace(b"SIP/2.0\r\nVia", b"SIP/9.9\r\nVia"), whole.replace(b"Call-ID:", b"Call-ID"), b"A" * 65_000]
    out += [whole.replace(b"Max-Forwards: 70", b"X: " + b"y" * 60_000), whole.replace(b"CSeq: 1", b"CSeq: -1")]
    out += [whole.replace(b"Content-Length: ", b"Content-Length: 99999"), b"\x00" * 500, b"\r\n\r\n", b""]
    return out + [CHANCE.randbytes(CHANCE.randrange(1, 1_400)) for _ in range(150)]


async def test_hostile_sip_and_rtp_beside_a_live_call_cost_it_nothing(site: Site, peer_of: PeerOf) -> None:
    """All of it at once while the caller speaks: the insult is warned in the usual time, and no fault is counted."""
    call = await site.call()
    live_ports = udp_ports(site.service.pid) - {target(site)[1]}
    peer, stranger = await peer_of(), await peer_of("127.0.0.2")
    second = await peer.call(headers=tapping("second", "caller"))
    speaking = asyncio.create_task(call.insulted())

    for data in hostile_sip(peer.dialog().text("INVITE", body=OFFER, headers=tapping("x", "caller")).encode()):
        peer.send(data)
        stranger.send(data)
    for row in [row for row in call.rows if row["event"] == "leg_up"]:
        for attacker, method in itertools.product((peer, stranger), ("BYE", "CANCEL", "INFO", "UPDATE", "INVITE")):
            forged = attacker.dialog(call_id=row["data"]["leg"], to_tag="guessed", cseq=CHANCE.randrange(2, 2**30))
            forged.send(method)
    stranger.dialog().send("INVITE", body=OFFER, headers=tapping("stolen", "caller"))
    own_port = int(re.search(r"m=audio (\d+)", second.answer.body)[1])  # type: ignore[union-attr, index]
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own,
    ):
        foreign.bind(("127.0.0.3", 0))
        for packet in hostile_rtp():
            for port in live_ports:
                foreign.sendto(packet, ("127.0.0.1", port))
            own.sendto(packet, ("127.0.0.1", own_port))
    await peer.settle()

    await speaking
    warned = await call.until("action_done", action="play")
    data = warned["data"]
    assert data["first_rtp_ms"] - data["heard_ms"] < 2_500, "much later than usual"
    await call.until("rung", to="warned")
    assert await call.in_ear(call.caller) == ["warning"] and await call.in_ear(call.agent) == []
    assert await call.parties_hear_each_other()
    assert (await site.get("/healthz")).status_code == 200 and await site.well()
    assert await site.counter("sip", "untrusted") > 50 and await site.counter("sip", "unparseable") > 100
    assert "stolen" not in (await site.get("/api/calls")).text
    await call.caller.hang_up()
    await second.ask("BYE", 200)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("X-Firmline-Call: a",),
        ("X-Firmline-Side: caller",),
        tapping("a", "both"),
        tapping("", "caller"),
        tapping("a" * 129, "caller"),
        tapping("a\u202eb", "caller"),
    ],
    ids=["none", "no side", "no call", "wrong side", "empty call", "long call", "unprintable call"],
)
async def test_tap_leg_that_does_not_say_whose_it_is_is_refused(
    site: Site, peer_of: PeerOf, headers: tuple[str, ...]
) -> None:
    """403, counted, and no call begun."""
    peer = await peer_of()
    before, calls = await site.metric("firmline_legs_refused_total"), await site.metric("firmline_calls_total")
    dialog = peer.dialog(headers=headers)
    await dialog.ask("INVITE", 403, body=OFFER)
    dialog.ack(branch=dialog.branch)
    assert await site.metric("firmline_legs_refused_total") == before + 1
    assert await site.metric("firmline_calls_total") == calls


async def test_call_refs_with_odd_characters_are_just_names(site: Site, peer_of: PeerOf) -> None:
    """Whatever a PBX calls its calls: shown, journalled and ended like any other. A tab is no part of a name."""
    refs = ["a/b?c=%00&d", "'; DROP TABLE calls;--", "наш звонок", "../x", "{0}%s$(id)"]
    peers = {ref: await peer_of() for ref in refs}
    legs = {ref: await peers[ref].call(headers=tapping(ref, "caller", f"e{n}")) for n, ref in enumerate(refs)}
    refused = (await peer_of()).dialog(headers=tapping("a\tb", "caller"))
    await refused.ask("INVITE", 403, body=OFFER)
    refused.ack(branch=refused.branch)
    assert [each["call_ref"] for each in await listed(site)][-len(refs) :] == refs
    for number in range(len(refs)):
        assert (await site.post(f"/api/agents/e{number}/warn")).json()["call_ref"] == refs[number]
    for leg in legs.values():
        await leg.ask("BYE", 200)
    for ref in refs:
        await eventually(partial(stored_end, site, ref))


async def test_queue_and_number_told_by_headers_are_shown_and_kept_in_part(site: Site, peer_of: PeerOf) -> None:
    """The API has them whole while the call lasts, the journal the last digits; unusable ones are left out."""
    told = ("X-Firmline-Queue: support", "X-Firmline-Number: +44 1632 960011")
    leg = await (await peer_of()).call(headers=(*tapping("facts", "caller"), *told))
    odd = ("X-Firmline-Queue: a,b\tc", "X-Firmline-Number: sip:1;drop")
    other = await (await peer_of()).call(headers=(*tapping("odd", "caller"), *odd))
    shown = {each["call_ref"]: (each["queue"], each["caller_number"]) for each in await listed(site)}
    assert shown["facts"] == ("support", "+441632960011") and shown["odd"] == (None, None)
    began = next(r for r in site.rows if r["event"] == "call_started" and r["data"]["call_ref"] == "facts")
    assert (began["data"]["queue"], began["data"]["caller_number"]) == ("support", "***0011")
    for each in (leg, other):
        await each.ask("BYE", 200)


async def stored_end(site: Site, ref: str) -> bool:
    """The journal file has the call's end."""
    return [event for event, _ in site.stored(ref)][-1:] == ["call_ended"]


async def listed(site: Site) -> list[dict[str, object]]:
    """What ``/api/calls`` tells."""
    calls: list[dict[str, object]] = json.loads((await site.get("/api/calls")).text)
    return calls


async def idle(site: Site) -> bool:
    """No call and no leg is left."""
    return await site.metric("firmline_calls_live") == 0 and await site.metric("firmline_legs_live") == 0


async def test_two_legs_for_one_side_and_the_agent_first_make_one_call(site: Site, peer_of: PeerOf) -> None:
    """The agent's leg begins the call; of two caller's legs the newer one stays and the older gets a BYE."""
    agent, old, new = await peer_of(), await peer_of(), await peer_of()
    first = await agent.call(headers=tapping("twice", "agent", "e2"))
    await old.call(headers=tapping("twice", "caller"))
    second = await new.call(headers=tapping("twice", "caller"))
    bye = await old.request("BYE")
    assert bye.method == "BYE"
    (only,) = [each for each in await listed(site) if each["call_ref"] == "twice"]
    assert only["legs"] == ["agent", "caller"] and only["agent_ext"] == "e2" and only["state"] == "live"
    await second.ask("BYE", 200)
    await first.ask("BYE", 200)


async def test_agent_leg_alone_answers_a_key_with_the_reason_that_nothing_can_play(site: Site, peer_of: PeerOf) -> None:
    """No caller's leg: the warning fails in the journal, and nothing raises."""
    peer = await peer_of()
    dialog = await peer.call(headers=tapping("lonely", "agent", "e3"))
    assert (await site.post("/api/agents/e3/warn")).status_code == 200
    call = LiveCall(site, "lonely", "e3", None, None)  # type: ignore[arg-type]
    failed = await call.until("action_failed", action="play")
    assert "no leg" in failed["data"]["error"] and await site.well()
    await dialog.ask("BYE", 200)


async def test_watcher_that_never_reads_is_waited_for_by_nobody(site: Site, peer_of: PeerOf) -> None:
    """A client of the event feed that reads nothing costs the others nothing."""
    host, _, port = site.service.ready["api"].removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1)
    request = "GET /api/events?words=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    writer.write(f"{request}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode())
    dialogs = [await (await peer_of()).call(headers=tapping(f"watched-{n}", "caller", f"w{n}")) for n in range(4)]

    async def busy(number: int) -> None:
        for _ in range(10):
            for key in ("disarm", "arm"):
                assert (await site.post(f"/api/agents/w{number}/{key}")).status_code == 200
        call = LiveCall(site, f"watched-{number}", f"w{number}", None, None)  # type: ignore[arg-type]
        await call.until("hotkey", times=20)

    await asyncio.gather(*(busy(number) for number in range(4)))
    for dialog in dialogs:
        await dialog.ask("BYE", 200)
    writer.transport.abort()
    assert await site.well()


async def test_no_file_left_to_open_refuses_new_legs_for_a_while_and_keeps_the_old(site: Site, peer_of: PeerOf) -> None:
    """Every file descriptor in use: a new leg gets 503 and a time to come back, the live one plays as ever."""
    old, new = await peer_of(), await peer_of()
    live = await old.call(headers=tapping("old", "caller", "e5"))
    pid = site.service.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    await site.get("/healthz")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free_file(pid), hard))
    try:
        refused = new.dialog(headers=tapping("new", "caller"))
        assert (await refused.ask("INVITE", 503, body=OFFER)).get("Retry-After")
        refused.ack(branch=refused.branch)
        assert (await site.post("/api/agents/e5/warn")).status_code == 200
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    call = LiveCall(site, "old", "e5", None, None)  # type: ignore[arg-type]
    await call.until("rung", to="warned")
    again = await new.call(headers=tapping("new", "caller"))
    await again.ask("BYE", 200)
    await live.ask("BYE", 200)
    assert await site.well()


async def test_any_key_at_any_rung_is_answered_and_harms_nothing(site: Site, peer_of: PeerOf) -> None:
    """Two hundred random keys in four calls at once, whatever the ladder does meanwhile."""
    legs = [await (await peer_of()).call(headers=tapping(f"any-{n}", "caller", f"a{n}")) for n in range(4)]
    for _ in range(10):
        pressed = [f"/api/agents/a{CHANCE.randrange(4)}/{CHANCE.choice(list(Key))}" for _ in range(20)]
        answers = await asyncio.gather(*(site.post(path) for path in pressed))
        assert {answer.status_code for answer in answers} - {429} == {200}  # too fast for a person is told so
        await site.stack.clock.pause(150)
    assert await site.well() and (await site.get("/healthz")).status_code == 200
    for leg in legs:
        leg.send("BYE")


async def test_hanging_up_is_done_by_the_exchange_after_the_closing_prompt(site: Site) -> None:
    """A pack that hangs up: warned, then told, then both parties' legs are ended by the PBX."""
    call = await site.call()
    await call.warned()
    await call.insulted(again=True)
    await call.until("action_done", action="hangup")
    await call.over()
    assert await call.in_ear(call.caller) == ["closing_hangup", "warning"]
    assert await call.in_ear(call.agent) == []
    assert call.ref not in site.exchange.calls and await site.well()


async def short_calls(site: Site, peers: list[tuple[Peer, Peer]], rounds: int, name: str) -> None:
    """On each pair of peers ``rounds`` calls, one after the other; all pairs at once."""

    async def pair(number: int, caller: Peer, agent: Peer) -> None:
        for turn in range(rounds):
            ref, ext = f"{name}-{number}-{turn}", f"x{number}"
            legs = [await caller.call(headers=tapping(ref, "caller", ext))]
            legs.append(await agent.call(headers=tapping(ref, "agent", ext)))
            await site.post(f"/api/agents/{ext}/warn")
            if turn % 2:
                legs.reverse()
            for leg in legs:
                await leg.ask("BYE", 200)

    await asyncio.gather(*(pair(number, *both) for number, both in enumerate(peers)))


async def test_sixty_short_calls_leave_nothing_behind(site: Site, peer_of: PeerOf) -> None:
    """Begun, warned and ended, ten at once: no leg, port, thread or file is left, and memory is flat."""
    peers = [(await peer_of(), await peer_of()) for _ in range(10)]
    pid = site.service.pid
    await short_calls(site, peers, 2, "warm")
    await eventually(lambda: idle(site))
    files, ports, running, kilobytes = open_files(pid), udp_ports(pid), threads(pid), resident_kb(pid)
    await short_calls(site, peers, 6, "short")
    await eventually(lambda: idle(site))
    assert await listed(site) == [] and await site.well()

    async def as_before() -> bool:
        pool = (os.cpu_count() or 1) + 4  # asyncio's own, which grows to its size with what is asked of it at once
        return open_files(pid) <= files and udp_ports(pid) == ports and threads(pid) <= running + pool

    await eventually(as_before)
    assert resident_kb(pid) - kilobytes < 6_000
