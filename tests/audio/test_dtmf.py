"""RFC 4733 reception: one report a key, whatever the network did to its packets."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from audio.dtmf import END_LOST_MS, KEYS, DtmfReceiver, KeyPress


def event(code: int, end: bool = False, duration: int = 400) -> bytes:
    return struct.pack("!BBH", code, (0x80 if end else 0) | 10, duration)


def test_key_with_three_ends_is_reported_once_at_the_first_end() -> None:
    """Ends are retransmitted (section 2.5.1.4) and are one key."""
    receiver = DtmfReceiver()
    assert receiver.hear(event(5), 1000, True, 0) == []
    assert receiver.hear(event(5), 1000, False, 50) == []
    assert receiver.hear(event(5, end=True), 1000, False, 100) == [KeyPress("5", 100)]
    assert receiver.hear(event(5, end=True), 1000, False, 101) == []
    assert receiver.hear(event(5, end=True), 1000, False, 102) == []
    assert receiver.next_deadline_ms() is None


def test_every_event_code_is_its_key() -> None:
    """Codes 0 to 15 are the keys of table 3."""
    for code, key in enumerate(KEYS):
        assert DtmfReceiver().hear(event(code, end=True), 0, True, 7) == [KeyPress(key, 7)]


def test_events_that_are_no_keys_are_not_reported() -> None:
    """Flash, tones and unknown codes say nothing."""
    for code in (16, 32, 66, 255):
        assert DtmfReceiver().hear(event(code, end=True), 0, True, 7) == []


def test_same_key_twice_is_two_reports() -> None:
    """A new time stamp with a marker is a new press of the same key."""
    receiver = DtmfReceiver()
    assert len(receiver.hear(event(9, end=True), 1000, False, 0)) == 1
    assert receiver.hear(event(9), 2000, True, 100) == []
    assert receiver.hear(event(9, end=True), 2000, False, 150) == [KeyPress("9", 150)]


def test_lost_end_is_made_up_by_the_deadline_and_late_ends_are_ignored() -> None:
    """A key is reported even when every end packet was lost, and not again when one comes very late."""
    receiver = DtmfReceiver()
    receiver.hear(event(1), 1000, True, 0)
    assert receiver.next_deadline_ms() == END_LOST_MS
    assert receiver.on_deadline(END_LOST_MS - 1) == []
    assert receiver.on_deadline(END_LOST_MS) == [KeyPress("1", END_LOST_MS)]
    assert receiver.hear(event(1, end=True), 1000, False, 300) == []
    assert receiver.on_deadline(1000) == []


def test_next_key_reports_the_one_whose_end_was_lost() -> None:
    """Fast dialling over a lossy path loses no key."""
    receiver = DtmfReceiver()
    receiver.hear(event(1), 1000, True, 0)
    assert receiver.hear(event(2), 2000, True, 100) == [KeyPress("1", 100)]


def test_key_held_past_the_longest_duration_is_one_press() -> None:
    """A segmented long event (section 2.5.1.3) goes on with a new time stamp and no marker."""
    receiver = DtmfReceiver()
    receiver.hear(event(0, duration=0xFFFF), 0, True, 8100)
    assert receiver.hear(event(0), 0xFFFF, False, 8150) == []
    assert receiver.hear(event(0, end=True), 0xFFFF, False, 8200) == [KeyPress("0", 8200)]


def test_sender_that_moves_the_time_stamp_with_every_packet_makes_one_press() -> None:
    """Gateways that break the constant time stamp rule do not multiply keys."""
    receiver = DtmfReceiver()
    pressed = []
    for number in range(8):
        pressed += receiver.hear(event(3, end=number >= 5), 160 * number, number == 0, 20 * number)
    assert pressed == [KeyPress("3", 100)]


def test_straggler_of_an_earlier_key_is_ignored() -> None:
    """A packet older than the key under way neither ends it nor reports anything."""
    receiver = DtmfReceiver()
    receiver.hear(event(1, end=True), 1000, True, 0)
    receiver.hear(event(2), 2000, True, 100)
    assert receiver.hear(event(1, end=True), 1000, False, 110) == []
    assert receiver.hear(event(2, end=True), 2000, False, 150) == [KeyPress("2", 150)]


def test_reset_reports_the_key_under_way_and_forgets_time_stamps() -> None:
    """After a change of SSRC a lower time stamp is no straggler."""
    receiver = DtmfReceiver()
    receiver.hear(event(7), 4_000_000_000, True, 0)
    assert receiver.reset(20) == [KeyPress("7", 20)]
    assert receiver.hear(event(8, end=True), 5, True, 30) == [KeyPress("8", 30)]


@given(st.lists(st.tuples(st.binary(max_size=12), st.integers(0, 2**32 - 1), st.booleans()), max_size=40))
def test_random_payloads_never_raise_and_never_report_more_than_packets(
    packets: list[tuple[bytes, int, bool]],
) -> None:
    """Any bytes at all: no exception, at most one report a packet and one at the end."""
    receiver = DtmfReceiver()
    pressed = []
    for now_ms, (payload, timestamp, marker) in enumerate(packets):
        pressed += receiver.hear(payload, timestamp, marker, now_ms)
    pressed += receiver.on_deadline(10_000)
    assert len(pressed) <= len(packets) + 1
