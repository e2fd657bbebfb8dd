"""What one leg says and when: an absolute 20 ms schedule for prompts, a keepalive between them. Sans-IO.

Sequence numbers run on across prompts; the time stamp moves with the wall clock between them and the first packet of
each carries the marker bit (RFC 3551 section 4.1), so that the peer's jitter buffer plays every prompt from its start.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

import numpy as np

from audio.g711 import RATE_HZ, SILENCE, Law, encode
from audio.types import PTIME_MS, Pcm
from ivr.rtp_packet import pack

FRAME_SAMPLES = RATE_HZ * PTIME_MS // 1000
PTIME_NS = PTIME_MS * 1_000_000

KEEPALIVE_NS = 5_000_000_000
"""RFC 6263 section 7 says 15 s at most; home routers and session border controllers forget UDP sooner."""

LATE_MAX_NS = 3 * PTIME_NS
"""Later than this (suspended host) the schedule starts afresh instead of sending a burst."""


class Departure(NamedTuple):
    """A datagram to send now. ``prompt`` is false for keepalives, ``last`` true for the end of a prompt."""

    datagram: bytes
    prompt: bool
    last: bool


class Outbound:
    """The sending half of one stream."""

    def __init__(self) -> None:
        self.ssrc = secrets.randbits(32)
        self._sequence = secrets.randbits(16)
        self._timestamp = secrets.randbits(32)
        self._stamped_ns: int | None = None
        self._payload_type = 0
        self._law: Law | None = None
        self._prompt: Pcm | None = None
        self._at = 0
        self._due_ns: int | None = None
        self._spurt_begins = False

    def configure(self, codec: tuple[int, Law] | None, announce: bool, now_ns: int) -> None:
        """Take the agreed codec (``None``: not allowed to send). ``announce`` sends silence at once to a new remote,
        so that a peer that waits for our source (symmetric RTP) learns it before the first prompt."""
        if codec is None:
            self._law = self._due_ns = self._prompt = None
            return
        resumed = self._law is None
        self._payload_type, self._law = codec
        if self._prompt is None and (announce or resumed or self._due_ns is None):
            self._due_ns = now_ns

    def begin(self, samples: Pcm, now_ns: int) -> None:
        """Start a prompt; its first packet is due now. The tail is padded with silence to a whole frame."""
        padded = np.zeros(-(-len(samples) // FRAME_SAMPLES) * FRAME_SAMPLES, np.int16)
        padded[: len(samples)] = samples
        self._prompt, self._at, self._due_ns, self._spurt_begins = padded, 0, now_ns, True

    def cancel(self, now_ns: int) -> None:
        """Stop the prompt; only keepalives go on."""
        if self._prompt is not None:
            self._prompt = None
            self._due_ns = now_ns + KEEPALIVE_NS

    def next_due_ns(self) -> int | None:
        """When the next packet must leave; ``None`` while nothing may be sent."""
        return self._due_ns

    def depart(self, now_ns: int) -> Departure | None:
        """The packet that is due at ``now_ns``, if any; call until it returns ``None``."""
        due_ns, law = self._due_ns, self._law
        if due_ns is None or law is None or now_ns < due_ns:
            return None
        if self._prompt is None:
            self._due_ns = now_ns + KEEPALIVE_NS
            silence = bytes([SILENCE[law]]) * FRAME_SAMPLES
            return Departure(self._packet(silence, False, now_ns), False, False)
        if now_ns - due_ns > LATE_MAX_NS:
            due_ns, self._spurt_begins = now_ns, True
        samples = self._prompt[self._at : self._at + FRAME_SAMPLES]
        self._at += FRAME_SAMPLES
        last = self._at >= len(self._prompt)
        marker, self._spurt_begins = self._spurt_begins, False
        datagram = self._packet(encode(samples, law), marker, due_ns)
        if last:
            self._prompt, self._due_ns = None, due_ns + KEEPALIVE_NS
        else:
            self._due_ns = due_ns + PTIME_NS
        return Departure(datagram, True, last)

    def _packet(self, payload: bytes, marker: bool, stamp_ns: int) -> bytes:
        if self._stamped_ns is not None:
            elapsed = (stamp_ns - self._stamped_ns) * RATE_HZ // 1_000_000_000
            self._timestamp = (self._timestamp + max(FRAME_SAMPLES, elapsed)) & 0xFFFFFFFF
        self._stamped_ns = stamp_ns
        self._sequence = (self._sequence + 1) & 0xFFFF
        return pack(self._payload_type, marker, self._sequence, self._timestamp, self.ssrc, payload)
