"""The RTP header (RFC 3550 section 5.1) and arithmetic on its wrapping numbers. No state, no sockets.

Libraries looked at: pyVoIP's own reads padding and extensions wrong; aiortc's brings FFmpeg and an SRTP stack along;
twelve octets need neither.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import NamedTuple

HEADER_OCTETS = 12
MAX_DATAGRAM = 1500
"""An Ethernet MTU. 60 ms of G.711 with every optional header is under 700 octets."""

_HEADER = struct.Struct("!BBHII")
_EXTENSION = struct.Struct("!HH")


class RtpPacket(NamedTuple):
    """One parsed packet; ``payload`` is without CSRC list, header extension and padding."""

    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes


class Refused(StrEnum):
    """Why a datagram is not an RTP packet for us."""

    TRUNCATED = "truncated"
    HUGE = "huge"
    VERSION = "version"
    RTCP = "rtcp"
    CSRC = "csrc"
    EXTENSION = "extension"
    PADDING = "padding"


def parse(datagram: bytes | bytearray | memoryview) -> RtpPacket | Refused:
    """Parse a datagram of any length and content; never raises, copies at most the payload."""
    size = len(datagram)
    if size < HEADER_OCTETS:
        return Refused.TRUNCATED
    if size > MAX_DATAGRAM:
        return Refused.HUGE
    first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(datagram)
    if first >> 6 != 2:
        return Refused.VERSION
    if 192 <= second <= 223:  # RTCP packet types as they look in an RTP header (RFC 5761 section 4)
        return Refused.RTCP
    start, end = HEADER_OCTETS, size
    if first & 0x3F:
        bounds = _payload_bounds(datagram, first, size)
        if isinstance(bounds, Refused):
            return bounds
        start, end = bounds
    return RtpPacket(second & 0x7F, second >= 0x80, sequence, timestamp, ssrc, bytes(datagram[start:end]))


def _payload_bounds(datagram: bytes | bytearray | memoryview, first: int, size: int) -> tuple[int, int] | Refused:
    start, end = HEADER_OCTETS + 4 * (first & 0x0F), size
    if start > end:
        return Refused.CSRC
    if first & 0x10:
        if start + _EXTENSION.size > end:
            return Refused.EXTENSION
        _profile, words = _EXTENSION.unpack_from(datagram, start)
        start += _EXTENSION.size + 4 * words
        if start > end:
            return Refused.EXTENSION
    if first & 0x20:
        padding = datagram[end - 1] if end > start else 0
        if not 0 < padding <= end - start:
            return Refused.PADDING
        end -= padding
    return start, end


def pack(payload_type: int, marker: bool, sequence: int, timestamp: int, ssrc: int, payload: bytes) -> bytes:
    """A packet without padding, extension or CSRC."""
    return _HEADER.pack(0x80, payload_type | (0x80 if marker else 0), sequence, timestamp, ssrc) + payload


def seq_delta(later: int, earlier: int) -> int:
    """``later - earlier`` of 16-bit sequence numbers by the shorter way round, -32768..32767."""
    return ((later - earlier + 0x8000) & 0xFFFF) - 0x8000


def timestamp_delta(later: int, earlier: int) -> int:
    """``later - earlier`` of 32-bit time stamps by the shorter way round."""
    return ((later - earlier + 0x80000000) & 0xFFFFFFFF) - 0x80000000
