"""Frames on our clock: spacing by RTP time stamps, anchor by arrival, short losses made up, long ones left as gaps."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.types import AudioFrame, Pcm
from ivr.assembler import CONCEAL_MAX_SAMPLES, FrameAssembler

MS = 1_000_000
START_NS = 5_000 * MS


def tone(count: int, first: int = 0) -> Pcm:
    """Samples that say which they are."""
    return (np.arange(first, first + count) % 30_000).astype(np.int16)


def run(
    assembler: FrameAssembler, packets: int, ptime_ms: int = 20, first: int = 0, start_ns: int = START_NS
) -> list[AudioFrame]:
    """Packets ``first``.. of a steady sender, each arriving when its last sample was spoken."""
    frames: list[AudioFrame] = []
    size = ptime_ms * 8
    for number in range(first, first + packets):
        arrival_ns = start_ns + (number + 1) * ptime_ms * MS
        frames += assembler.add(number * size & 0xFFFFFFFF, tone(size, number * size), arrival_ns, 0)
    return frames


@pytest.mark.parametrize("ptime_ms", [10, 20, 30, 40, 60])
def test_any_ptime_becomes_20_ms_frames_with_every_sample(ptime_ms: int) -> None:
    """Packet size does not show: whole frames, 20 ms apart, sample for sample what was sent."""
    frames = run(FrameAssembler(), 600 // ptime_ms, ptime_ms)
    assert [frame.t_ms for frame in frames] == [5_000 + 20 * number for number in range(30)]
    assert {len(frame.samples) for frame in frames} == {160}
    assert np.array_equal(np.concatenate([frame.samples for frame in frames]), tone(4800))
    assert not any(frame.concealed for frame in frames)


def test_first_frame_ends_at_its_arrival() -> None:
    """No frame ends in the future of the clock that the consumer reads."""
    frames = FrameAssembler().add(77, tone(160), START_NS, 0)
    assert frames[0].end_ms == START_NS // MS


@pytest.mark.parametrize("lost", [1, 3, 5])
def test_short_loss_is_made_up_and_marked(lost: int) -> None:
    """The timeline stays whole, the made-up frames fade and carry the mark."""
    assembler = FrameAssembler()
    run(assembler, 5)
    arrival_ns = START_NS + (6 + lost) * 20 * MS
    frames = assembler.add((5 + lost) * 160, tone(160), arrival_ns, lost)
    assert [frame.concealed for frame in frames] == [True] * lost + [False]
    assert [frame.t_ms for frame in frames] == [5_100 + 20 * number for number in range(lost + 1)]
    peaks = [int(np.abs(frame.samples).max()) for frame in frames[:lost]]
    assert peaks == sorted(peaks, reverse=True)
    assert assembler.concealed == lost


def test_long_loss_is_a_gap() -> None:
    """More than 100 ms is not made up: the next frame stands where its time stamp says."""
    assembler = FrameAssembler()
    run(assembler, 5)
    frames = assembler.add(15 * 160, tone(160), START_NS + 16 * 20 * MS, 10)
    assert [(frame.t_ms, frame.concealed) for frame in frames] == [(5_300, False)]


def test_pause_of_the_sender_is_a_gap_not_a_loss() -> None:
    """Silence suppression skips time stamps without losing packets: nothing is made up."""
    assembler = FrameAssembler()
    run(assembler, 5)
    frames = run(assembler, 2, first=8)
    assert [(frame.t_ms, frame.concealed) for frame in frames] == [(5_160, False), (5_180, False)]
    assert assembler.resyncs == 0


def test_pause_in_mid_frame_completes_the_frame_with_silence() -> None:
    """Half a frame of a 10 ms sender is not lost when it pauses."""
    assembler = FrameAssembler()
    run(assembler, 3, ptime_ms=10)
    frames = assembler.add(1600, tone(160), START_NS + 220 * MS, 0)
    assert [frame.t_ms for frame in frames] == [5_020, 5_200]
    assert np.array_equal(frames[0].samples[:80], tone(80, 160))
    assert not frames[0].samples[80:].any()


def test_loss_before_a_key_press_is_remembered_for_the_next_audio() -> None:
    """A hole followed by a packet without audio is still a hole for the audio after it."""
    assembler = FrameAssembler()
    run(assembler, 5)
    assembler.note_lost(1)
    frames = assembler.add(7 * 160, tone(160), START_NS + 8 * 20 * MS, 0)
    assert [frame.concealed for frame in frames] == [True, True, False]


@pytest.mark.parametrize("jump", [1_000_000_000, -1_000_000_000, 2**31 - 1, -(2**31), 50_000, -1, -160])
def test_time_stamp_jump_starts_anew_at_arrival_and_makes_nothing_up(jump: int) -> None:
    """A jump of any size and direction: counted, one frame for one packet, no time before the last frame."""
    assembler = FrameAssembler()
    run(assembler, 10)
    frames = assembler.add((10 * 160 + jump) & 0xFFFFFFFF, tone(160), START_NS + 11 * 20 * MS, 1)
    assert [(frame.t_ms, frame.concealed) for frame in frames] == [(5_200, False)]
    assert assembler.resyncs == 1
    assert run(assembler, 1, first=11)[0].t_ms >= 5_200


def test_restart_takes_any_time_stamp_as_the_first() -> None:
    """After a new SSRC the anchor is the arrival."""
    assembler = FrameAssembler()
    run(assembler, 3)
    assembler.restart_at_next()
    assert assembler.add(4_000_000_000, tone(160), START_NS + 500 * MS, 0)[0].t_ms == 5_480
    assert assembler.resyncs == 0


def test_sender_that_stops_its_time_stamps_during_a_hold_is_caught_up_with() -> None:
    """30 s of silence without time stamps passing is a jump of the anchor, not half a minute of lag."""
    assembler = FrameAssembler()
    run(assembler, 10)
    frames = run(assembler, 2, first=10, start_ns=START_NS + 30_000 * MS)
    assert frames[0].t_ms == 35_200
    assert assembler.resyncs == 1


def test_pause_of_a_second_without_time_stamps_is_caught_up_with_within_a_second() -> None:
    """Too short to tell from a network stall at first; a window of steady lateness shows that it was none."""
    assembler = FrameAssembler()
    run(assembler, 10)
    frames = run(assembler, 60, first=10, start_ns=START_NS + 1_000 * MS)
    assert frames[0].t_ms == 5_200
    assert frames[-1].t_ms == 5_000 + 69 * 20 + 1_000
    assert assembler.resyncs == 1


def test_network_stall_keeps_its_spacing() -> None:
    """A burst after 300 ms of stall is 300 ms of speech, not a resync."""
    assembler = FrameAssembler()
    frames = run(assembler, 10)
    for number in range(10, 25):
        arrival_ns = START_NS + max((number + 1) * 20, 500) * MS
        frames += assembler.add(number * 160, tone(160), arrival_ns, 0)
    assert [frame.t_ms for frame in frames] == [5_000 + 20 * number for number in range(25)]
    assert assembler.resyncs == 0


@pytest.mark.parametrize("ppm", [-300, -50, 50, 300, 7500, -7500])
@pytest.mark.parametrize("jitter_ms", [0, 30])
def test_an_hour_of_clock_drift_never_moves_a_frame_far_from_its_arrival(ppm: int, jitter_ms: int) -> None:
    """Sender clocks from good to terrible, with jitter: within 60 ms of arrival (and jitter), never backwards."""
    assembler, source = FrameAssembler(), random.Random(ppm)
    samples = tone(480)
    last_ms, furthest_ms = 0, 0.0
    for number in range(60_000):  # an hour of 60 ms packets
        due_ns = START_NS + int((number + 1) * 60 * MS * (1 + ppm / 1e6))
        arrival_ns = due_ns + int(source.random() * jitter_ms * MS)
        for frame in assembler.add(number * 480 & 0xFFFFFFFF, samples, arrival_ns, 0):
            assert frame.t_ms >= last_ms
            last_ms = frame.t_ms
        furthest_ms = max(furthest_ms, abs(arrival_ns / MS - last_ms - 20))
    assert furthest_ms < 60
    assert assembler.resyncs == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 1488), st.integers(0, 3000), st.integers(0, 5)), max_size=60
    )
)
def test_hostile_time_stamps_never_allocate_beyond_the_packet(packets: list[tuple[int, int, int, int]]) -> None:
    """Any time stamps: at most the packet, 100 ms made up and one completed frame come out; time never runs back."""
    assembler = FrameAssembler()
    now_ns, last_ms = START_NS, 0
    for timestamp, size, pause_ms, lost in packets:
        now_ns += pause_ms * MS
        frames = assembler.add(timestamp, np.zeros(size, np.int16), now_ns, lost)
        assert sum(len(frame.samples) for frame in frames) <= size + CONCEAL_MAX_SAMPLES + 320
        for frame in frames:
            assert frame.t_ms >= last_ms
            last_ms = frame.t_ms
