"""The RTP header against RFC 3550, and against anything else a network can send."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ivr.rtp_packet import MAX_DATAGRAM, Refused, RtpPacket, pack, parse, seq_delta, timestamp_delta


def header(first: int = 0x80, second: int = 0, sequence: int = 1, timestamp: int = 2, ssrc: int = 3) -> bytes:
    return struct.pack("!BBHII", first, second, sequence, timestamp, ssrc)


def test_parse_of_a_packed_packet_gives_it_back() -> None:
    """Packing and parsing are inverse."""
    packet = RtpPacket(8, True, 65535, 0xFFFFFFFF, 0xDEADBEEF, b"abc")
    assert parse(pack(*packet)) == packet


@pytest.mark.parametrize("size", [0, 1, 4, 11])
def test_short_datagram_is_refused(size: int) -> None:
    """Keepalives of 0, 1 or 4 octets and cut headers are no packets."""
    assert parse(header()[:size]) is Refused.TRUNCATED


@pytest.mark.parametrize("version", [0, 1, 3])
def test_other_version_is_refused(version: int) -> None:
    """Only version 2 is RTP; STUN and DTLS look like others."""
    assert parse(header(first=version << 6) + bytes(160)) is Refused.VERSION


@pytest.mark.parametrize("packet_type", [192, 200, 201, 202, 203, 204, 205, 206, 223])
def test_rtcp_on_the_rtp_port_is_told_apart(packet_type: int) -> None:
    """RFC 5761 section 4: second octets 192 to 223 are RTCP."""
    assert parse(header(second=packet_type) + bytes(16)) is Refused.RTCP


def test_huge_datagram_is_refused() -> None:
    """Nothing larger than an Ethernet MTU is telephone audio."""
    assert parse(header() + bytes(MAX_DATAGRAM)) is Refused.HUGE
    assert isinstance(parse(header() + bytes(MAX_DATAGRAM - 12)), RtpPacket)


def test_csrc_extension_and_padding_are_not_payload() -> None:
    """All optional parts at once: two contributors, an eight-octet extension, three octets of padding."""
    datagram = header(first=0xB2) + bytes(8) + struct.pack("!HH", 0xBEDE, 2) + bytes(8) + b"voice" + b"\0\0\3"
    packet = parse(datagram)
    assert isinstance(packet, RtpPacket)
    assert packet.payload == b"voice"


@pytest.mark.parametrize(
    ("datagram", "why"),
    [
        (header(first=0x8F) + bytes(59), Refused.CSRC),
        (header(first=0x90), Refused.EXTENSION),
        (header(first=0x90) + struct.pack("!HH", 0, 2) + bytes(7), Refused.EXTENSION),
        (header(first=0x90) + struct.pack("!HH", 0, 0xFFFF) + bytes(160), Refused.EXTENSION),
        (header(first=0xA0), Refused.PADDING),
        (header(first=0xA0) + b"\0", Refused.PADDING),
        (header(first=0xA0) + b"abc\5", Refused.PADDING),
    ],
)
def test_lengths_that_point_outside_the_datagram_are_refused(datagram: bytes, why: Refused) -> None:
    """A length the sender claims is never trusted beyond what arrived."""
    assert parse(datagram) is why


def test_packet_that_is_all_padding_has_no_payload() -> None:
    """An empty payload is valid: some senders keep NAT open that way."""
    packet = parse(header(first=0xA0) + b"\0\0\0\4")
    assert isinstance(packet, RtpPacket)
    assert packet.payload == b""


@given(st.binary(max_size=2048))
@example(b"\x80" * 12)
@example(b"\xbf" * 1500)
def test_random_bytes_never_raise_nor_yield_more_than_arrived(datagram: bytes) -> None:
    """Any datagram is either refused or a packet whose payload is part of it."""
    packet = parse(memoryview(datagram))
    if isinstance(packet, RtpPacket):
        assert len(packet.payload) <= len(datagram) - 12
        assert packet.payload in datagram


@given(st.integers(0, 0xFFFF), st.integers(-0x8000, 0x7FFF))
def test_sequence_difference_wraps(start: int, step: int) -> None:
    """The shorter way round a 16-bit circle."""
    assert seq_delta((start + step) & 0xFFFF, start) == step


@given(st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1))
def test_time_stamp_difference_wraps(start: int, step: int) -> None:
    """The shorter way round a 32-bit circle."""
    assert timestamp_delta((start + step) & 0xFFFFFFFF, start) == step
