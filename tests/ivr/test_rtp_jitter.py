"""Sequence order: in order at once, out of order by the window, never twice, never without bound."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr.jitter import CAPACITY, MAX_DROPOUT, RESTART_RUN, WINDOW_NS, Released, ReorderBuffer

PTIME_NS = 20_000_000


def feed(order: ReorderBuffer[int], numbers: list[int]) -> list[Released[int]]:
    """Push sequence numbers one ptime apart, deadlines kept, and return everything released."""
    out: list[Released[int]] = []
    for step, number in enumerate(numbers):
        now_ns = step * PTIME_NS
        out += order.on_deadline(now_ns)
        out += order.push(number & 0xFFFF, number, now_ns)
    return out


def items(released: list[Released[int]]) -> list[int]:
    return [each.item for each in released]


def test_packets_in_order_pass_at_once_across_the_wrap() -> None:
    """No packet waits when nothing is missing, and 65535 is followed by 0."""
    order: ReorderBuffer[int] = ReorderBuffer()
    for number in range(65530, 65545):
        assert items(order.push(number & 0xFFFF, number, 0)) == [number]
    assert order.lost == order.resyncs == 0


def test_swapped_packets_come_out_in_order() -> None:
    """A packet that overtook another waits for it."""
    order: ReorderBuffer[int] = ReorderBuffer()
    assert items(feed(order, [1, 3, 2, 4])) == [1, 2, 3, 4]
    assert order.reordered == 1
    assert order.lost == 0


def test_missing_packet_is_given_up_after_the_window() -> None:
    """The packet after a hole goes on when the window has passed, and says how many are missing."""
    order: ReorderBuffer[int] = ReorderBuffer()
    order.push(1, 1, 0)
    assert order.push(4, 4, 10) == []
    assert order.next_deadline_ns() == 10 + WINDOW_NS
    assert order.on_deadline(9 + WINDOW_NS) == []
    assert order.on_deadline(10 + WINDOW_NS) == [Released(4, 2, False)]
    assert order.lost == 2
    assert order.next_deadline_ns() is None


def test_second_hole_waits_its_own_time() -> None:
    """Giving up one hole does not give up the next early."""
    order: ReorderBuffer[int] = ReorderBuffer()
    order.push(1, 1, 0)
    order.push(3, 3, 0)
    order.push(5, 5, 1000)
    assert items(order.on_deadline(WINDOW_NS)) == [3]
    assert items(order.on_deadline(WINDOW_NS + 1000)) == [5]


def test_hole_at_a_burst_is_given_up_when_the_buffer_is_full() -> None:
    """Memory is bounded even when packets come faster than time passes."""
    order: ReorderBuffer[int] = ReorderBuffer()
    order.push(0, 0, 0)
    out: list[Released[int]] = []
    for number in range(2, 2 + CAPACITY + 1):
        out += order.push(number, number, 0)
    assert items(out) == list(range(2, 2 + CAPACITY + 1))
    assert out[0].lost == 1


@pytest.mark.parametrize("copies", [2, 3])
def test_duplicates_are_dropped_and_counted(copies: int) -> None:
    """A path that doubles packets changes nothing."""
    order: ReorderBuffer[int] = ReorderBuffer()
    numbers = [number for number in range(20) for _ in range(copies)]
    assert items(feed(order, numbers)) == list(range(20))
    assert order.duplicates == 20 * (copies - 1)
    assert order.late == order.resyncs == 0


def test_late_packet_is_dropped_and_counted() -> None:
    """What comes after its turn was given up is too late, not a duplicate."""
    order: ReorderBuffer[int] = ReorderBuffer()
    assert items(feed(order, [1, 3, 4, 5, 6, 2, 7])) == [1, 3, 4, 5, 6, 7]
    assert (order.late, order.duplicates, order.lost) == (1, 0, 1)


def test_far_jump_is_a_new_sequence_once_confirmed_and_loses_nothing() -> None:
    """RFC 3550 appendix A.1: two consecutive packets far away are a restarted sender."""
    order: ReorderBuffer[int] = ReorderBuffer()
    out = feed(order, [10, 11, 30000, 30001, 30002])
    assert items(out) == [10, 11, 30000, 30001, 30002]
    assert [each.resynced for each in out] == [False, False, True, False, False]
    assert (order.resyncs, order.late, order.lost) == (1, 0, 0)


def test_single_stray_number_does_not_disturb_the_sequence() -> None:
    """One damaged packet is dropped; the sequence goes on."""
    order: ReorderBuffer[int] = ReorderBuffer()
    assert items(feed(order, [10, 11, 40000, 12, 13])) == [10, 11, 12, 13]
    assert order.resyncs == 0


def test_sender_that_restarts_a_little_further_back_is_heard_again() -> None:
    """A small step back looks late at first; a run of it is a restart."""
    order: ReorderBuffer[int] = ReorderBuffer()
    first = list(range(1000, 1010))
    second = list(range(950, 970))
    heard = items(feed(order, first + second))
    assert heard == first + second[RESTART_RUN - 1 :]
    assert order.resyncs == 1


def test_restart_releases_what_is_held_and_forgets_the_sequence() -> None:
    """A change of SSRC plays what waited and starts from any number."""
    order: ReorderBuffer[int] = ReorderBuffer()
    order.push(1, 1, 0)
    order.push(3, 3, 0)
    assert items(order.restart()) == [3]
    assert items(order.push(777, 777, 0)) == [777]
    assert order.next_deadline_ns() is None


@given(st.integers(0, 0xFFFF), st.integers(1, 60), st.integers(0, 2**32))
def test_any_shuffle_within_the_window_comes_out_in_order_once(first: int, count: int, seed: int) -> None:
    """Whatever order up to 60 ms of packets arrive in, with duplicates, they leave in order, each once."""
    source = random.Random(seed)
    sent = [number for number in range(first, first + count) for _ in range(source.choice((1, 1, 2)))]
    delay_ns = [source.randrange(WINDOW_NS // 2) for _ in sent]
    arrivals = sorted((number * PTIME_NS + late, number) for number, late in zip(sent[1:], delay_ns[1:], strict=True))
    order: ReorderBuffer[int] = ReorderBuffer()
    out = order.push(first & 0xFFFF, first, first * PTIME_NS)
    for now_ns, number in arrivals:
        out += order.on_deadline(now_ns)
        out += order.push(number & 0xFFFF, number, now_ns)
    assert items(out) == list(range(first, first + count))
    assert order.duplicates == len(sent) - count


@given(st.lists(st.integers(0, 0xFFFF), max_size=200))
def test_random_numbers_never_raise_never_hold_much_and_never_repeat_a_packet(numbers: list[int]) -> None:
    """Hostile sequence numbers: bounded memory, each packet released at most once, counters that add up."""
    order: ReorderBuffer[int] = ReorderBuffer()
    out: list[Released[int]] = []
    for index, number in enumerate(numbers):
        out += order.push(number, index, index)
        assert len(order._held) <= CAPACITY
    while (due_ns := order.next_deadline_ns()) is not None:
        out += order.on_deadline(due_ns)
    released = items(out)
    assert len(set(released)) == len(released)
    assert len(released) + order.duplicates + order.late >= len(numbers) - 1
    assert all(each.lost <= MAX_DROPOUT for each in out)
