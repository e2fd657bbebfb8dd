"""The sending half on an injected clock, and the deadline queue that drives it."""

from __future__ import annotations

import numpy as np
import pytest

from audio.g711 import SILENCE, Law, decode
from ivr.outbound import KEEPALIVE_NS, LATE_MAX_NS, PTIME_NS, Departure, Outbound
from ivr.pacer import Pacer
from ivr.rtp_packet import RtpPacket, parse, seq_delta, timestamp_delta

MS = 1_000_000
SECOND_NS = 1_000 * MS


def outbound(law: Law = Law.PCMU) -> Outbound:
    """A stream that has just announced itself at time 0."""
    made = Outbound()
    made.configure((0 if law is Law.PCMU else 8, law), True, 0)
    assert made.depart(0) is not None
    return made


def packet(departure: Departure | None) -> RtpPacket:
    assert departure is not None
    parsed = parse(departure.datagram)
    assert isinstance(parsed, RtpPacket)
    return parsed


def play_out(stream: Outbound) -> list[tuple[int, RtpPacket]]:
    """Send a prompt to its end exactly on time; returns (time, packet)."""
    sent = []
    while True:
        due_ns = stream.next_due_ns()
        assert due_ns is not None
        departure = stream.depart(due_ns)
        assert departure is not None
        if not departure.prompt:
            return sent
        sent.append((due_ns, packet(departure)))


def test_new_remote_gets_one_packet_of_silence_at_once() -> None:
    """A peer that learns our address from our packets learns it before the first prompt."""
    stream = Outbound()
    assert stream.next_due_ns() is None
    stream.configure((8, Law.PCMA), True, 5)
    sent = packet(stream.depart(5))
    assert sent.payload == bytes([SILENCE[Law.PCMA]]) * 160
    assert sent.payload_type == 8
    assert stream.depart(5) is None
    assert stream.next_due_ns() == 5 + KEEPALIVE_NS


def test_keepalives_go_on_while_nothing_plays_and_stop_when_sending_is_forbidden() -> None:
    """RFC 6263: silence now and then; on hold nothing."""
    stream = outbound()
    for number in range(1, 4):
        departure = stream.depart(number * KEEPALIVE_NS)
        assert departure is not None
        assert not departure.prompt
    stream.configure(None, False, 4 * SECOND_NS)
    assert stream.next_due_ns() is None
    assert stream.depart(100 * SECOND_NS) is None


def test_first_packet_leaves_at_once_and_the_rest_every_20_ms() -> None:
    """The phase is the prompt's own."""
    stream = outbound()
    stream.begin(np.ones(1600, np.int16), 1_234_567)
    sent = play_out(stream)
    assert [at_ns for at_ns, _ in sent] == [1_234_567 + number * PTIME_NS for number in range(10)]


def test_sequence_and_time_stamp_run_on_across_prompts_and_the_clock() -> None:
    """Sequence by one; time stamps by 160 within a prompt and with the wall clock between; marker on first packets."""
    stream = outbound()
    stream.begin(np.ones(480, np.int16), SECOND_NS)
    first = play_out(stream)
    stream.begin(np.ones(480, np.int16), 10 * SECOND_NS)
    second = play_out(stream)
    packets = [each for _, each in first + second]
    assert [each.marker for each in packets] == [True, False, False] * 2
    assert [timestamp_delta(b.timestamp, a.timestamp) for a, b in zip(packets, packets[1:], strict=False)][:2] == [
        160,
        160,
    ]
    assert timestamp_delta(packets[3].timestamp, packets[0].timestamp) == 72_000
    assert {each.ssrc for each in packets} == {stream.ssrc}
    assert seq_delta(packets[3].sequence, packets[2].sequence) == 2  # a keepalive went between them
    assert seq_delta(packets[5].sequence, packets[3].sequence) == 2


def test_prompt_right_after_another_never_repeats_a_time_stamp() -> None:
    """A replaced prompt: the next one starts at once, 160 samples on."""
    stream = outbound()
    stream.begin(np.ones(1600, np.int16), SECOND_NS)
    one = packet(stream.depart(SECOND_NS))
    stream.begin(np.ones(1600, np.int16), SECOND_NS + MS)
    two = packet(stream.depart(SECOND_NS + MS))
    assert timestamp_delta(two.timestamp, one.timestamp) == 160
    assert two.marker


@pytest.mark.parametrize("law", Law)
@pytest.mark.parametrize("samples", [1, 159, 160, 161, 1234])
def test_tail_is_padded_with_silence_and_never_lost(law: Law, samples: int) -> None:
    """Every sample leaves, the last packet is whole."""
    stream = outbound(law)
    prompt = np.full(samples, 8031, np.int16)
    stream.begin(prompt, 0)
    sent = [each.payload for _, each in play_out(stream)]
    assert {len(payload) for payload in sent} == {160}
    heard = decode(b"".join(sent), law)
    assert np.abs(heard[:samples].astype(int) - prompt).max() < 300
    assert np.abs(heard[samples:]).max(initial=0) <= 8


def test_drift_over_an_hour_of_late_wakes_is_nil() -> None:
    """Wake-ups that are always late by up to 5 ms do not add up: the deadlines are absolute."""
    stream = outbound()
    seconds = 3600
    stream.begin(np.zeros(8000 * seconds, np.int16), 0)
    late = np.random.default_rng(1).integers(0, 5 * MS, seconds * 50)
    last_due_ns = 0
    for delay_ns in late:
        due_ns = stream.next_due_ns()
        assert due_ns is not None
        last_due_ns = due_ns
        assert stream.depart(due_ns + int(delay_ns)) is not None
    assert last_due_ns == (seconds * 50 - 1) * PTIME_NS


def test_a_little_late_catches_up_and_very_late_starts_afresh_without_a_burst() -> None:
    """Up to three ptimes are made good; after a suspended host one packet leaves, marked as a new talk spurt."""
    stream = outbound()
    stream.begin(np.zeros(16_000, np.int16), 0)
    stream.depart(0)
    caught_up = [stream.depart(3 * PTIME_NS) for _ in range(4)]
    assert [each is not None for each in caught_up] == [True, True, True, False]
    before = packet(caught_up[2])
    wake_ns = 4 * PTIME_NS + LATE_MAX_NS + SECOND_NS
    after = packet(stream.depart(wake_ns))
    assert stream.depart(wake_ns) is None
    assert stream.next_due_ns() == wake_ns + PTIME_NS
    assert after.marker
    assert timestamp_delta(after.timestamp, before.timestamp) == (wake_ns - 3 * PTIME_NS) * 8 // MS


def test_codec_change_in_mid_prompt_is_taken_by_the_next_packet() -> None:
    """A re-INVITE may change the law; the prompt goes on in it with the same SSRC."""
    stream = outbound()
    stream.begin(np.zeros(800, np.int16), 0)
    one = packet(stream.depart(0))
    stream.configure((8, Law.PCMA), False, MS)
    assert stream.depart(MS) is None
    two = packet(stream.depart(PTIME_NS))
    assert (one.payload_type, two.payload_type) == (0, 8)
    assert two.payload == bytes([SILENCE[Law.PCMA]]) * 160
    assert seq_delta(two.sequence, one.sequence) == 1


class Item:
    """Something paced that notes when it was served."""

    def __init__(self) -> None:
        self.served: list[int] = []

    def service(self, now_ns: int) -> int | None:
        self.served.append(now_ns)
        return None


def test_pacer_queue_keeps_the_earliest_deadline_of_each_item() -> None:
    """A later wish does not postpone an earlier one, and nobody is served twice for one deadline."""
    pacer, one, two = Pacer(), Item(), Item()
    pacer.schedule(one, 50)
    pacer.schedule(two, 30)
    pacer.schedule(one, 20)
    pacer.schedule(one, 90)
    pacer.schedule(two, None)
    assert pacer.take_due(19) == []
    assert pacer.take_due(60) == [one, two]
    assert pacer.take_due(10_000) == []


def test_pacer_forgets_closed_items_and_their_memory() -> None:
    """Ten thousand legs that came and went leave no queue behind."""
    pacer = Pacer()
    for number in range(10_000):
        item = Item()
        pacer.schedule(item, number)
        pacer.forget(item)
    assert pacer.take_due(10**12) == []
    assert len(pacer._heap) < 100
