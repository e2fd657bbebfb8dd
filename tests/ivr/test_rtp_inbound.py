"""One leg's receiving half, whole: hostile datagrams, codecs, SSRC changes, keys among audio, holds."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.dtmf import KeyPress
from audio.g711 import Law, encode
from audio.types import AudioFrame
from ivr.inbound import Heard, Inbound
from ivr.rtp_packet import pack

PEER = ("192.0.2.1", 4000)
LAWS = {0: Law.PCMU, 8: Law.PCMA}
MS = 1_000_000
TONE = (8000 * np.sin(np.arange(160) / 5)).astype(np.int16)


def inbound(receives: bool = True) -> Inbound:
    made = Inbound()
    made.configure(PEER, LAWS, 101, receives)
    return made


def voice(number: int, ssrc: int = 1, law: Law = Law.PCMU, timestamp: int | None = None) -> bytes:
    payload_type = 0 if law is Law.PCMU else 8
    stamp = number * 160 if timestamp is None else timestamp
    return pack(payload_type, False, number & 0xFFFF, stamp & 0xFFFFFFFF, ssrc, encode(TONE, law))


def frames(heard: list[Heard]) -> list[AudioFrame]:
    return [each for each in heard if isinstance(each, AudioFrame)]


def test_each_law_is_decoded_by_its_payload_type_even_in_mid_call() -> None:
    """A peer may switch between what was agreed, packet by packet."""
    stream = inbound()
    for number, law in enumerate([Law.PCMU, Law.PCMA, Law.PCMU]):
        (frame,) = frames(stream.hear(voice(number, law=law), PEER, (number + 1) * 20 * MS))
        assert np.abs(frame.samples.astype(int) - TONE).max() < 300


@pytest.mark.parametrize(
    ("datagram", "counter"),
    [
        (b"", "malformed"),
        (b"\0", "malformed"),
        (b"\0\0\0\0", "malformed"),
        (voice(1)[:11], "malformed"),
        (b"\x40" + voice(1)[1:], "malformed"),
        (voice(1) + bytes(2000), "malformed"),
        (b"\x90" + voice(1)[1:12] + b"\0\0\xff\xff", "malformed"),
        (b"\xa0" + voice(1)[1:12] + b"\xff", "malformed"),
        (struct.pack("!BBHI", 0x80, 200, 6, 1) + bytes(20), "rtcp"),
        (pack(34, False, 1, 160, 99, bytes(160)), "unknown_payload"),
        (pack(13, False, 1, 160, 99, b"\x40"), "unknown_payload"),
    ],
)
def test_bad_datagram_is_counted_and_changes_nothing(datagram: bytes, counter: str) -> None:
    """The packet after it is heard exactly as without it."""
    plain, stream = inbound(), inbound()
    plain.hear(voice(0), PEER, 20 * MS)
    stream.hear(voice(0), PEER, 20 * MS)
    assert stream.hear(datagram, PEER, 30 * MS) == []
    expected, after = plain.hear(voice(1), PEER, 40 * MS), stream.hear(voice(1), PEER, 40 * MS)
    assert [frame.t_ms for frame in frames(after)] == [frame.t_ms for frame in frames(expected)]
    assert getattr(stream, counter) == 1
    assert (stream.received, stream.resyncs) == (2, 0)


def test_bad_datagram_does_not_latch() -> None:
    """Only a valid packet of an agreed type makes its source the peer."""
    stream = inbound()
    other = ("192.0.2.77", 5)
    stream.hear(b"\0", other, 0)
    stream.hear(pack(34, False, 1, 160, 1, b"x"), other, 0)
    assert stream.latch.source is None


def test_foreign_source_is_counted_and_unheard() -> None:
    """Injected audio does not reach the ears."""
    stream = inbound()
    stream.hear(voice(0), PEER, 20 * MS)
    assert stream.hear(voice(1), ("198.51.100.66", 666), 30 * MS) == []
    assert stream.foreign == 1


def test_comfort_noise_from_the_peer_is_no_loss() -> None:
    """A payload type that was not agreed still takes its place in the sequence."""
    stream = inbound()
    stream.hear(voice(0), PEER, 20 * MS)
    stream.hear(pack(13, False, 1, 160, 1, b"\x40"), PEER, 40 * MS)
    (frame,) = frames(stream.hear(voice(2), PEER, 60 * MS))
    assert not frame.concealed
    assert stream.order.lost == 0


def test_ssrc_change_is_heard_from_its_first_packet() -> None:
    """Another sender on the same address: no wait, no made-up audio, one resync."""
    stream = inbound()
    for number in range(5):
        stream.hear(voice(number), PEER, (number + 1) * 20 * MS)
    heard = frames(stream.hear(voice(60_000, ssrc=2, timestamp=3_000_000_000), PEER, 130 * MS))
    assert [(frame.t_ms, frame.concealed) for frame in heard] == [(110, False)]
    assert stream.resyncs == 1


def test_sender_that_begins_a_new_sequence_is_heard_without_made_up_audio() -> None:
    """A far jump of sequence and time stamp with the same SSRC, confirmed by its second packet."""
    stream = inbound()
    stream.hear(voice(0), PEER, 20 * MS)
    assert stream.hear(voice(30_000), PEER, 40 * MS) == []
    heard = frames(stream.hear(voice(30_001), PEER, 60 * MS))
    assert [(frame.t_ms, frame.concealed) for frame in heard] == [(20, False), (40, False)]
    assert stream.resyncs == 1


def test_loss_right_before_a_key_is_made_up_when_audio_goes_on() -> None:
    """The packet missing was audio, though the one that showed it missing is none."""
    stream = inbound()
    stream.hear(voice(0), PEER, 20 * MS)
    stream.hear(pack(101, True, 2, 320, 1, struct.pack("!BBH", 1, 0x80, 160)), PEER, 60 * MS)
    assert stream.on_deadline(120 * MS) == [KeyPress("1", 60)]
    heard = frames(stream.hear(voice(3), PEER, 80 * MS))
    assert [(frame.t_ms, frame.concealed) for frame in heard] == [(20, True), (40, True), (60, False)]


def test_held_packet_is_released_by_its_deadline_when_the_stream_stops() -> None:
    """A hole at the very end does not swallow the packet after it."""
    stream = inbound()
    stream.hear(voice(0), PEER, 20 * MS)
    assert stream.hear(voice(2), PEER, 60 * MS) == []
    deadline_ns = stream.next_deadline_ns()
    assert deadline_ns == 120 * MS
    heard = frames(stream.on_deadline(deadline_ns))
    assert [(frame.t_ms, frame.concealed) for frame in heard] == [(20, True), (40, False)]
    assert stream.next_deadline_ns() is None


def test_key_among_audio_is_one_press_and_no_audio() -> None:
    """Event packets share the sequence, make no frames, and the pause they leave is not made up."""
    stream = inbound()
    stream.hear(voice(0), PEER, 20 * MS)
    heard: list[Heard] = []
    for number in range(1, 9):
        payload = struct.pack("!BBH", 11, 0x80 if number >= 6 else 0, number * 160)
        heard += stream.hear(pack(101, number == 1, number, 160, 1, payload), PEER, (number + 1) * 20 * MS)
    assert heard == [KeyPress("#", 140)]
    (frame,) = frames(stream.hear(voice(9), PEER, 200 * MS))
    assert (frame.t_ms, frame.concealed) == (180, False)


def test_key_whose_ends_are_lost_is_pressed_by_the_deadline() -> None:
    """The stream's deadline covers keys too."""
    stream = inbound()
    stream.hear(pack(101, True, 1, 160, 1, struct.pack("!BBH", 1, 10, 160)), PEER, 20 * MS)
    deadline_ns = stream.next_deadline_ns()
    assert deadline_ns is not None
    assert stream.on_deadline(deadline_ns) == [KeyPress("1", deadline_ns // MS)]


def test_hold_hears_nothing_and_resume_hears_again() -> None:
    """While our direction forbids it packets are counted and unheard; afterwards the call goes on."""
    stream = inbound()
    stream.hear(voice(0), PEER, 20 * MS)
    stream.configure(PEER, LAWS, 101, receives=False)
    assert stream.hear(voice(1), PEER, 40 * MS) == []
    assert stream.unwanted == 1
    stream.configure(PEER, LAWS, 101, receives=True)
    assert [frame.t_ms for frame in frames(stream.hear(voice(500), PEER, 10_020 * MS))] == [10_000]
    assert (stream.order.lost, stream.resyncs) == (0, 0)


def test_source_is_latched_though_its_packets_are_unwanted() -> None:
    """A peer behind NAT that we only speak to is answered where it sends from."""
    stream = inbound(receives=False)
    stream.hear(voice(0), ("203.0.113.9", 1), 20 * MS)
    assert stream.latch.source == ("203.0.113.9", 1)


def test_hold_by_the_null_address_does_not_move_media() -> None:
    """c=0.0.0.0 names no address: a peer behind NAT stays latched."""
    stream = inbound()
    stream.hear(voice(0), ("203.0.113.9", 1), 20 * MS)
    stream.configure(None, LAWS, 101, receives=True)
    stream.configure(PEER, LAWS, 101, receives=True)
    assert stream.latch.source == ("203.0.113.9", 1)


def test_jitter_is_that_of_rfc_3550() -> None:
    """A steady sender has none; one that alternates by 8 ms tends to 8 ms (each difference counts one sixteenth)."""
    steady, shaky = inbound(), inbound()
    for number in range(400):
        steady.hear(voice(number), PEER, number * 20 * MS)
        shaky.hear(voice(number), PEER, (number * 20 + 8 * (number % 2)) * MS)
    assert steady.jitter_ms == pytest.approx(0)
    assert shaky.jitter_ms == pytest.approx(8, rel=0.01)


@settings(max_examples=60)
@given(st.lists(st.one_of(st.binary(max_size=60), st.binary(min_size=11, max_size=60).map(lambda b: b"\x80\0" + b))))
def test_random_datagrams_never_raise(datagrams: list[bytes]) -> None:
    """Noise, and noise with a valid start: every datagram is counted somewhere, none raises."""
    stream = inbound()
    for number, datagram in enumerate(datagrams):
        stream.hear(datagram, PEER, number * MS)
    assert stream.malformed + stream.rtcp + stream.unknown_payload + stream.received == len(datagrams)


def test_time_stamp_jumps_and_ssrc_changes_allocate_nothing() -> None:
    """Packets made to exhaust memory cost no more than ordinary ones."""
    stream = inbound()
    stream.hear(voice(0), PEER, 0)
    tracemalloc.start()
    for number in range(1, 500):
        stream.hear(voice(number, ssrc=number // 2, timestamp=number * 1_234_567_891), PEER, number * 20 * MS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000
