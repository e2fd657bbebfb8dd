"""What the PBX sends, packet by packet, as the kernel saw it pass on loopback. Needs root, as the PBX itself does.

A phone of these tests plays what it receives through two buffers of its own; for when a packet was there, only the
wire is a witness: an AF_PACKET socket (packet(7)) with the kernel's own time stamps (socket(7), SO_TIMESTAMPNS).
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from audio.g711 import Law, decode
from audio.types import Pcm
from ivr.clock import monotonic_ns, wall_s
from ivr.demo.recordings import find_prompt
from ivr.rtp_packet import RtpPacket, parse

RATE_HZ = 8000
_IPV4, _UDP = 0x0800, 17
_OUTGOING = 4
"""PACKET_OUTGOING: each packet on loopback is seen once going out and once coming in."""
_SO_TIMESTAMPNS, _SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 35, 26, 33
_LOOK_S = 0.1
"""The kernel has noted when each packet passed, so nobody need wake for each."""
LATE_MS = 5_000
"""A prompt that has not begun by then is not that decision's; generous, because tests share their machine."""
_FIRST_MS = 600
_SEARCH_MS = 120
_LAWS = {0: Law.PCMU, 8: Law.PCMA}


@dataclass(slots=True)
class TapLeg:
    """One tap leg, by the clock of the wire (monotonic ms)."""

    call_ref: str
    side: str
    invited_ms: float
    answered_ms: float | None = None
    heard_ms: float | None = None
    """The first packet of sound that the PBX sent us."""
    port: int = 0


class Wire:
    """``with Wire((low, high), sip_port) as wire``: takes down all UDP on loopback that is sent from these ports."""

    def __init__(self, *ports: int | tuple[int, int]) -> None:
        self._packets: list[tuple[float, bytes]] = []
        self._sorted: dict[int, list[tuple[float, RtpPacket]]] | None = None
        self._stop = threading.Event()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 25)
        self._socket.setblocking(False)
        self._keep_only([(each, each) if isinstance(each, int) else each for each in ports])
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)

    def __enter__(self) -> Wire:
        self.wall_minus_monotonic_ms = wall_s() * 1000 - monotonic_ns() / 1e6
        self._socket.bind(("lo", _IPV4))
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._socket.close()

    def dialled(self, sip_port: int) -> dict[str, int]:
        """Where a caller's phone wants its sound, by the extension that it dialled at the PBX on that port."""
        ports: dict[str, int] = {}
        for _, to, data in self._datagrams():
            found = re.match(rb"INVITE sip:([^@]+)@", data)
            port = re.search(rb"m=audio (\d+)", data)
            if found and port and to == sip_port:
                ports[found[1].decode()] = int(port[1])
        return ports

    def first_packet_ms(self, prompt: Pcm, port: int, after_ms: float) -> float | None:
        """When (monotonic ms) the packet passed that took the first sample of ``prompt`` (8 kHz) to that port; ``None``
        when that prompt did not begin within ``LATE_MS`` of ``after_ms``."""
        until_ms = after_ms + LATE_MS + len(prompt) * 1000 / RATE_HZ
        packets = [each for each in self._streams().get(port, ()) if after_ms <= each[0] <= until_ms]
        if not packets:
            return None
        heard = np.concatenate([decode(p.payload, _LAWS[p.payload_type]) for _, p in packets])
        starts = np.cumsum([0, *(len(p.payload) for _, p in packets)])
        hits = find_prompt(heard, prompt, RATE_HZ)
        if not hits:
            return None
        first = _first_sample(heard, prompt, hits[0].offset_ms * RATE_HZ // 1000)
        at_ms = packets[max(0, int(np.searchsorted(starts, first, "right")) - 1)][0]
        return at_ms if at_ms - after_ms < LATE_MS else None

    def packets(self, port: int, after_ms: float, for_ms: float) -> int:
        """How many packets of sound went to that port in a span of time: 50 a second when all is well."""
        return sum(after_ms <= at_ms < after_ms + for_ms for at_ms, _ in self._streams().get(port, ()))

    def tap_legs(self) -> list[TapLeg]:
        """Every leg that the PBX offered us with our headers, and what became of it."""
        legs: dict[str, TapLeg] = {}
        for at_ms, _, data in self._datagrams():
            found = re.match(rb"(INVITE |SIP/2.0 200).*?\r\n\r\n", data, re.DOTALL)
            if found is None:
                continue
            call_id, cseq = _header(data, "Call-ID"), _header(data, "CSeq")
            if found[1] == b"INVITE " and _header(data, "X-Firmline-Side"):
                call_ref, side = _header(data, "X-Firmline-Call"), _header(data, "X-Firmline-Side")
                legs.setdefault(call_id, TapLeg(call_ref, side, at_ms))
            elif cseq.endswith("INVITE") and call_id in legs and (port := re.search(rb"m=audio (\d+)", data)):
                leg = legs[call_id]
                leg.answered_ms, leg.port = leg.answered_ms or at_ms, int(port[1])
        streams = self._streams()
        for leg in legs.values():
            answered_ms = leg.answered_ms or 0
            leg.heard_ms = next((at_ms for at_ms, _ in streams.get(leg.port, ()) if at_ms >= answered_ms), None)
        return list(legs.values())

    def _datagrams(self) -> Iterator[tuple[float, int, bytes]]:
        """Time, port they went to, what was in them."""
        for at_ms, packet in list(self._packets):
            header = (packet[0] & 0x0F) * 4
            (port,) = struct.unpack_from("!H", packet, header + 2)
            yield at_ms, port, packet[header + 8 :]

    def _streams(self) -> dict[int, list[tuple[float, RtpPacket]]]:
        """Packets with sound by the port they went to, in their order; read once, when all is taken down."""
        if self._stop.is_set() and self._sorted is not None:
            return self._sorted
        streams: dict[int, list[tuple[float, RtpPacket]]] = defaultdict(list)
        for at_ms, port, data in self._datagrams():
            packet = parse(data)
            if isinstance(packet, RtpPacket) and packet.payload_type in _LAWS and packet.payload:
                streams[port].append((at_ms, packet))
        self._sorted = streams
        return streams

    def _keep_only(self, ranges: list[tuple[int, int]]) -> None:
        """A filter in the kernel (BPF): UDP from these ports. Thirty calls are thousands of packets a second."""
        program = [
            (0x30, 0, 0, 9),  # ldb [9]: protocol
            (0x15, 1, 0, _UDP),  # jeq UDP, else drop
            (0x06, 0, 0, 0),  # drop
            (0xB1, 0, 0, 0),  # ldxb 4*([0]&0xf): header length
            (0x48, 0, 0, 0),  # ldh [x]: source port
        ]
        for low, high in ranges:
            program += [(0x35, 0, 2, low), (0x25, 1, 0, high), (0x06, 0, 0, 0xFFFF)]  # jge low, jgt high, keep
        program.append((0x06, 0, 0, 0))
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
        fprog = struct.pack("HL", len(program), ctypes.addressof(code))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)

    def _run(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(_LOOK_S)
            with contextlib.suppress(OSError):  # nothing more for now; or closed, when we could not keep up
                while True:
                    self._take(*self._socket.recvmsg(4096, 64))

    def _take(self, data: bytes, notes: list[tuple[int, int, bytes]], _flags: int, sender: tuple[Any, ...]) -> None:
        if sender[2] != _OUTGOING:
            seconds, nanos = struct.unpack("ll", notes[0][2][:16])
            self._packets.append((seconds * 1000 + nanos / 1e6 - self.wall_minus_monotonic_ms, data))


def _first_sample(heard: Pcm, prompt: Pcm, near: int) -> int:
    """Where the prompt's beginning is, to the sample: a hit's own offset is by all of it, slipped frames included."""
    piece = prompt[: _FIRST_MS * RATE_HZ // 1000].astype(float)
    reach = _SEARCH_MS * RATE_HZ // 1000
    begin = max(0, near - reach)
    part = heard[begin : near + reach + len(piece)].astype(float)
    if len(part) <= len(piece):
        return near
    return begin + int(np.argmax(np.correlate(part, piece, "valid")))


def _header(data: bytes, name: str) -> str:
    found = re.search(rf"^{name}: *(.*?)\r$".encode(), data, re.MULTILINE | re.IGNORECASE)
    return found[1].decode() if found else ""
