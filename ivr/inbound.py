"""What one leg hears: datagrams in, 20 ms frames and key presses out. Sans-IO; time is an argument.

Order of the gates: is it RTP at all, is its payload type ours, is its source our peer, is it in order. Each refusal is
counted and costs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from audio.dtmf import DtmfReceiver, KeyPress
from audio.g711 import RATE_HZ, Law, decode
from audio.types import AudioFrame
from ivr.assembler import FrameAssembler
from ivr.jitter import Released, ReorderBuffer
from ivr.latch import Address, SourceLatch
from ivr.rtp_packet import Refused, RtpPacket, parse, timestamp_delta

Heard = AudioFrame | KeyPress


class _Arrival(NamedTuple):
    packet: RtpPacket
    arrival_ns: int


class Inbound:
    """The receiving half of one stream. Counters only grow."""

    def __init__(self) -> None:
        self.latch = SourceLatch()
        self.order: ReorderBuffer[_Arrival] = ReorderBuffer()
        self.assembler = FrameAssembler()
        self.received = self.malformed = self.rtcp = self.foreign = 0
        self.unknown_payload = self.unwanted = self.ssrc_changes = 0
        self.jitter_ms = 0.0
        self._dtmf = DtmfReceiver()
        self._laws: dict[int, Law] = {}
        self._event_payload_type: int | None = None
        self._receives = False
        self._ssrc: int | None = None
        self._transit_samples: int | None = None

    @property
    def resyncs(self) -> int:
        """How often sequence, time stamps or SSRC began anew."""
        return self.order.resyncs + self.assembler.resyncs + self.ssrc_changes

    def configure(
        self, signalled: Address | None, laws: Mapping[int, Law], event_payload_type: int | None, receives: bool
    ) -> None:
        """Take what signalling agreed; called again after each re-INVITE. State survives, so that a hold is a pause.

        ``signalled`` is ``None`` when the SDP named no usable address (a hold by 0.0.0.0): media has not moved then.
        """
        if signalled is not None:
            self.latch.expect(signalled)
        self._laws = dict(laws)
        self._event_payload_type = event_payload_type
        if receives and not self._receives:  # what went by meanwhile was not lost
            self.order.restart()
            self.assembler.restart_at_next()
        self._receives = receives

    def hear(self, datagram: bytes | bytearray | memoryview, source: Address, now_ns: int) -> list[Heard]:
        """Take one datagram; return what it completes, in playout order."""
        packet = parse(datagram)
        if not isinstance(packet, RtpPacket):
            if packet is Refused.RTCP:
                self.rtcp += 1
            else:
                self.malformed += 1
            return []
        known = packet.payload_type in self._laws or packet.payload_type == self._event_payload_type
        if not known:
            self.unknown_payload += 1
            # From our own peer it still takes a place in the sequence (comfort noise, say), so it is no loss.
            if source != self.latch.source or packet.ssrc != self._ssrc:
                return []
        if not self.latch.accept(source, now_ns // 1_000_000):
            self.foreign += 1
            return []
        if not self._receives:
            self.unwanted += 1
            return []
        return self._in_order(packet, now_ns, known)

    def next_deadline_ns(self) -> int | None:
        """When :meth:`on_deadline` must be called even if nothing arrives."""
        held = self.order.next_deadline_ns()
        key_ms = self._dtmf.next_deadline_ms()
        if key_ms is None:
            return held
        return key_ms * 1_000_000 if held is None else min(held, key_ms * 1_000_000)

    def on_deadline(self, now_ns: int) -> list[Heard]:
        """Release what waited long enough."""
        heard = self._play_out(self.order.on_deadline(now_ns))
        heard += self._dtmf.on_deadline(now_ns // 1_000_000)
        return heard

    def _in_order(self, packet: RtpPacket, now_ns: int, known: bool) -> list[Heard]:
        heard: list[Heard] = []
        if packet.ssrc != self._ssrc:
            heard = self._change_ssrc(packet.ssrc, now_ns)
        if known:
            self.received += 1
            if packet.payload_type in self._laws:
                self._measure_jitter(packet.timestamp, now_ns)
        heard += self._play_out(self.order.push(packet.sequence, _Arrival(packet, now_ns), now_ns))
        return heard

    def _change_ssrc(self, ssrc: int, now_ns: int) -> list[Heard]:
        heard: list[Heard] = []
        if self._ssrc is not None:
            heard = self._play_out(self.order.restart())
            heard += self._dtmf.reset(now_ns // 1_000_000)
            self.ssrc_changes += 1
        self._ssrc = ssrc
        self._transit_samples = None
        self.assembler.restart_at_next()
        return heard

    def _play_out(self, released: list[Released[_Arrival]]) -> list[Heard]:
        heard: list[Heard] = []
        for (packet, arrival_ns), lost, resynced in released:
            if resynced:
                self.assembler.restart_at_next()
            law = self._laws.get(packet.payload_type)
            if law is not None and packet.payload:
                samples = decode(packet.payload, law)
                heard += self.assembler.add(packet.timestamp, samples, arrival_ns, lost)
                continue
            if lost:
                self.assembler.note_lost(lost)
            if packet.payload_type == self._event_payload_type:
                heard += self._dtmf.hear(packet.payload, packet.timestamp, packet.marker, arrival_ns // 1_000_000)
        return heard

    def _measure_jitter(self, timestamp: int, now_ns: int) -> None:
        """Interarrival jitter of RFC 3550 section 6.4.1 and appendix A.8."""
        transit = now_ns * RATE_HZ // 1_000_000_000 - timestamp
        if self._transit_samples is not None:
            difference = abs(timestamp_delta(transit & 0xFFFFFFFF, self._transit_samples & 0xFFFFFFFF))
            if difference < RATE_HZ:  # a jump of a second is a pause or a resync, no jitter
                self.jitter_ms += (difference * 1000 / RATE_HZ - self.jitter_ms) / 16
        self._transit_samples = transit
