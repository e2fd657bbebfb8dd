"""What ``firmline doctor`` asks over SIP and RTP: a registrar that does not answer, an address that is not ours, a
call from this machine to itself.

Harmless beside a running service: the REGISTER has no Contact, so it only *asks* for bindings and changes none (RFC
3261 section 10.2.3), and the self-call uses ports of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from audio.g711 import Law, encode
from audio.types import PTIME_MS, AudioFrame
from ivr.errors import FirmlineError
from ivr.lines.base import Leg, LineOptions, LineStatus, Playback
from ivr.lines.digest import UnsupportedChallenge, read_challenge
from ivr.lines.pyvoip import PyvoipLine
from ivr.lines.sipmessage import BadRequest, SipMessage, Unparseable, build_request, parse
from ivr.rtp_packet import pack

RETRANSMIT_MS = (500, 1_000, 2_000)
"""RFC 3261 timer E, for three and a half seconds: a person is waiting."""
CALL_CEILING_S = 6.0
PACKETS = 25


@dataclass(frozen=True, slots=True)
class RegistrarAnswer:
    """``status`` 0: none came. ``refused``: the machine said that nobody listens there (ICMP)."""

    status: int = 0
    refused: bool = False
    asked_for_password: bool = False
    problem: str = ""
    """Why nothing could be asked, or what in the answer we cannot do."""
    ours: str = ""
    """The address we sent from."""
    seen: str = ""
    """The address the registrar saw (RFC 3581)."""
    date: str = ""


class _Datagrams(asyncio.DatagramProtocol):
    """Datagrams as a queue; ``None`` for an ICMP refusal."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.count = 0

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.count += 1
        if self.queue.qsize() < 100:
            self.queue.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self.queue.put_nowait(None)


async def _message(datagrams: _Datagrams, within_ms: int) -> SipMessage | None | bool:
    """The next final response; ``False`` after an ICMP refusal, ``None`` when none came in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_ms / 1000):
            while True:
                data = await datagrams.queue.get()
                if data is None:
                    return False
                with contextlib.suppress(Unparseable, BadRequest):
                    message = parse(data)
                    if message.status >= 200:
                        return message
    return None


async def ask_registrar(options: LineOptions) -> RegistrarAnswer:
    """Ask for our bindings, with the password if it wants one. Never raises for what the network does."""
    loop = asyncio.get_running_loop()
    local = None if options.local_ip == "0.0.0.0" else (options.local_ip, 0)
    try:
        found = await loop.getaddrinfo(
            options.server, options.server_port, family=socket.AF_INET, type=socket.SOCK_DGRAM
        )
    except (OSError, UnicodeError):
        return RegistrarAnswer(problem=f"the name {options.server} cannot be resolved to an IPv4 address")
    try:
        transport, datagrams = await loop.create_datagram_endpoint(
            _Datagrams, local_addr=local, remote_addr=(str(found[0][4][0]), options.server_port)
        )
    except OSError as exc:
        return RegistrarAnswer(problem=f"cannot send from line.local_ip {options.local_ip}: {exc.strerror}")
    ours = transport.get_extra_info("sockname")[:2]
    try:
        return await _dialogue(options, transport, datagrams, ours)
    finally:
        transport.close()


async def _dialogue(
    options: LineOptions, transport: asyncio.DatagramTransport, datagrams: _Datagrams, ours: tuple[str, int]
) -> RegistrarAnswer:
    uri = f"sip:{options.server}" if options.server_port == 5060 else f"sip:{options.server}:{options.server_port}"
    call_id, tag = secrets.token_hex(12), secrets.token_hex(6)
    extra: list[tuple[str, str]] = []
    answer: SipMessage | None | bool = None
    for sequence in (1, 2, 3):  # plain, with the password, and once more for a nonce that had aged
        aor = f"<sip:{options.username}@{options.server}>"
        headers = [("From", f"{aor};tag={tag}"), ("To", aor), ("Call-ID", call_id), ("CSeq", f"{sequence} REGISTER")]
        via = f"SIP/2.0/UDP {ours[0]}:{ours[1]};branch=z9hG4bK{secrets.token_hex(8)};rport"
        data = build_request("REGISTER", uri, via, [*headers, ("User-Agent", "Firmline doctor"), *extra])
        for wait_ms in RETRANSMIT_MS:
            transport.sendto(data)
            if (answer := await _message(datagrams, wait_ms)) is not None:
                break
        if not isinstance(answer, SipMessage):
            return RegistrarAnswer(refused=answer is False, ours=ours[0], asked_for_password=bool(extra))
        if answer.status not in (401, 407):
            break
        try:
            challenge = read_challenge(answer)
        except UnsupportedChallenge as exc:
            return RegistrarAnswer(answer.status, problem=str(exc), ours=ours[0])
        if extra and not challenge.stale:
            break
        extra = [
            challenge.authorization(
                username=options.auth_user or options.username,
                password=options.password,
                method="REGISTER",
                uri=uri,
                cnonce=secrets.token_hex(8),
            )
        ]
    assert isinstance(answer, SipMessage)
    seen = answer.vias[0].get("received") or ""
    return RegistrarAnswer(answer.status, False, bool(extra), "", ours[0], seen, answer.first("date") or "")


def address_towards(server: str, port: int) -> str:
    """The address of ours that the kernel would send from; ``""`` when there is no route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((server, port or 5060))  # sends nothing: it only asks for a route
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def is_private(ip: str) -> bool:
    """Whether an address cannot be reached from the internet (RFC 1918 and the like)."""
    try:
        return ipaddress.ip_address(ip).is_private
    except ValueError:
        return False


# --- a call to ourselves ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SelfCall:
    """What came through of ``PACKETS`` each way; ``problem`` says at which step it stopped."""

    heard: int = 0
    spoken: int = 0
    problem: str = ""


class _Answers:
    """Line events of the self-call: takes the leg, counts what it hears, speaks at once."""

    def __init__(self) -> None:
        self.heard = 0
        self.enough, self.down = asyncio.Event(), asyncio.Event()
        self.playback: Playback | None = None

    def on_leg_offered(self, leg: Leg) -> None:
        leg.answer()

    def on_leg_up(self, leg: Leg) -> None:
        self.playback = leg.play(np.zeros(leg.rate_hz * PACKETS * PTIME_MS // 1000, np.int16))

    def on_frames(self, leg: Leg, frames: Sequence[AudioFrame]) -> None:
        self.heard += len(frames)
        if self.heard >= PACKETS // 2:
            self.enough.set()

    def on_dtmf(self, leg: Leg, digit: str, t_ms: int) -> None: ...

    def on_leg_down(self, leg: Leg, reason: str) -> None:
        self.down.set()

    def on_registration(self, status: LineStatus) -> None: ...


async def call_ourselves(options: LineOptions) -> SelfCall:
    """Our line with its address and RTP ports, called from this machine: SIP, then audio both ways."""
    ip = options.local_ip if options.local_ip != "0.0.0.0" else address_towards(options.server or "192.0.2.1", 5060)
    mine = replace(options, server="", local_port=0, trusted_peers=(f"{ip or '127.0.0.1'}/32",))
    line, events = PyvoipLine(mine), _Answers()
    try:
        await line.start(events)
    except FirmlineError as exc:
        return SelfCall(problem=str(exc))
    try:
        async with asyncio.timeout(CALL_CEILING_S):
            return await _call(line.local_address, ip or "127.0.0.1", events)
    except TimeoutError:
        return SelfCall(events.heard, 0, "the call was not answered: something on this machine drops SIP to itself")
    except OSError as exc:
        return SelfCall(problem=f"{ip}: {exc.strerror or exc}")
    finally:
        await line.stop()


async def _call(target: tuple[str, int], ip: str, events: _Answers) -> SelfCall:
    loop = asyncio.get_running_loop()
    sip, replies = await loop.create_datagram_endpoint(_Datagrams, local_addr=(ip, 0), remote_addr=target)
    rtp, audio = await loop.create_datagram_endpoint(_Datagrams, local_addr=(ip, 0))
    try:
        me, media_port = sip.get_extra_info("sockname")[:2], rtp.get_extra_info("sockname")[1]
        sdp = f"v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {media_port} RTP/AVP 0\r\n"
        uri, tag, call_id = f"sip:doctor@{target[0]}:{target[1]}", secrets.token_hex(4), secrets.token_hex(12)

        def request(method: str, sequence: int, to: str, body: bytes = b"") -> bytes:
            via = f"SIP/2.0/UDP {me[0]}:{me[1]};branch=z9hG4bK{secrets.token_hex(8)};rport"
            headers = [
                ("From", f"<sip:doctor@{ip}>;tag={tag}"),
                ("To", to),
                ("Call-ID", call_id),
                ("CSeq", f"{sequence} {method}"),
                ("Contact", f"<sip:doctor@{me[0]}:{me[1]}>"),
                ("X-Firmline-Call", "doctor"),
                ("X-Firmline-Side", "caller"),
            ]
            return build_request(
                method, uri, via, [*headers, ("Content-Type", "application/sdp")] if body else headers, body
            )

        sip.sendto(request("INVITE", 1, f"<{uri}>", sdp.encode()))
        answer = await _message(replies, int(CALL_CEILING_S * 1000))
        if not isinstance(answer, SipMessage) or answer.status != 200:
            status = answer.status if isinstance(answer, SipMessage) else "no answer"
            return SelfCall(problem=f"our own line answered {status}")
        to = answer.first("to") or f"<{uri}>"
        sip.sendto(request("ACK", 1, to))
        port = int(answer.body.partition(b"m=audio ")[2].split()[0])
        await _speak(rtp, (ip, port))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await events.enough.wait()
                if events.playback is not None:
                    await events.playback.done
        sip.sendto(request("BYE", 2, to))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await events.down.wait()
        return SelfCall(events.heard, audio.count)
    finally:
        sip.close()
        rtp.close()


async def _speak(rtp: asyncio.DatagramTransport, to: tuple[str, int]) -> None:
    loop, never = asyncio.get_running_loop(), asyncio.Event()
    silence = encode(np.zeros(160, np.int16), Law.PCMU)
    started = loop.time()
    for number in range(PACKETS):
        rtp.sendto(pack(0, number == 0, number, 160 * number, 0x0D0C, bytes(silence)), to)
        due_s = started + (number + 1) * PTIME_MS / 1000 - loop.time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due_s)):
                await never.wait()
