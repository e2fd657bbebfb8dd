"""Telephone-event reception (RFC 4733): one key press for each run of event packets, however many were lost.

A sans-IO core: time is an argument. It never allocates by packet content and never raises on a bad payload.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

KEYS = "0123456789*#ABCD"
"""Events 0 to 15 (RFC 4733 section 3.2, table 3); other events are no keys."""

END_LOST_MS = 200
"""Silence after which a key without an end packet counts as released: four times the usual 50 ms update interval
(RFC 4733 section 2.6.3.1.1 lets the receiver choose)."""

MIN_PAUSE_MS = 40
"""Keys are at least this far apart (ITU-T Q.24); a nearer "new" event of the same key is the old one with a
time stamp that its sender wrongly moved on."""

_EVENT = struct.Struct("!BBH")
_HALF_RANGE = 1 << 31


@dataclass(frozen=True, slots=True)
class KeyPress:
    """One key, reported when it is released."""

    digit: str
    t_ms: int


@dataclass(slots=True)
class _Event:
    code: int
    timestamp: int
    heard_ms: int
    ended: bool = False


class DtmfReceiver:
    """Turns telephone-event payloads, in sequence order, into key presses."""

    def __init__(self) -> None:
        self._event: _Event | None = None

    def hear(self, payload: bytes, timestamp: int, marker: bool, now_ms: int) -> list[KeyPress]:
        """Take one event packet; ``timestamp`` is that of its RTP header, the start of the event."""
        if len(payload) < _EVENT.size:
            return []
        code, flags, _duration = _EVENT.unpack_from(payload)
        pressed: list[KeyPress] = []
        event = self._event
        if event is None or not self._same(event, code, timestamp, marker, now_ms):
            if event is not None and ((timestamp - event.timestamp) & 0xFFFFFFFF) >= _HALF_RANGE:
                return []  # older than the key we know: a straggler
            pressed = self._finish(now_ms)
            event = self._event = _Event(code, timestamp, now_ms)
        event.heard_ms = now_ms
        if flags & 0x80:
            pressed += self._finish(now_ms)
        return pressed

    def next_deadline_ms(self) -> int | None:
        """When a key whose end packets were lost counts as released."""
        event = self._event
        return None if event is None or event.ended else event.heard_ms + END_LOST_MS

    def on_deadline(self, now_ms: int) -> list[KeyPress]:
        """Report the key under way if its sender fell silent."""
        deadline = self.next_deadline_ms()
        return [] if deadline is None or now_ms < deadline else self._finish(now_ms)

    def reset(self, now_ms: int) -> list[KeyPress]:
        """A new SSRC began: what was pressed is over, and its time stamps mean nothing any more."""
        pressed = self._finish(now_ms)
        self._event = None
        return pressed

    @staticmethod
    def _same(event: _Event, code: int, timestamp: int, marker: bool, now_ms: int) -> bool:
        if timestamp == event.timestamp:
            return True
        if code != event.code or marker:
            return False
        # A key held past 8 s goes on as a new segment with a new time stamp and no marker (section 2.5.1.3); some
        # gateways move the time stamp with every packet. Both are the same press.
        limit_ms = MIN_PAUSE_MS if event.ended else END_LOST_MS
        return now_ms - event.heard_ms < limit_ms

    def _finish(self, now_ms: int) -> list[KeyPress]:
        event = self._event
        if event is None or event.ended:
            return []
        event.ended = True
        return [KeyPress(KEYS[event.code], now_ms)] if event.code < len(KEYS) else []
