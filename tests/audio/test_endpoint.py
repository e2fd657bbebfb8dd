"""Endpointing: the table, its edges in time, and what comes out of them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.endpoint import TABLE, Cue, Endpointer, EndpointOptions, State
from audio.types import AudioFrame, Segment, SegmentKind, SpeechEvent, SpeechKind

OPTIONS = EndpointOptions(
    onset_ms=60, hangover_ms=300, pre_roll_ms=100, min_speech_ms=100, max_utterance_ms=4000, cut_search_ms=1000
)


def frame(t_ms: int, value: int = 1000, *, concealed: bool = False) -> AudioFrame:
    return AudioFrame(t_ms, 8000, np.full(160, value, np.int16), concealed)


def run(endpointer: Endpointer, pattern: str, start_ms: int = 0) -> list[SpeechEvent | Segment]:
    """``v`` voiced, ``.`` unvoiced, ``x`` missing, ``c`` concealed yet called voiced."""
    found: list[SpeechEvent | Segment] = []
    for at, mark in enumerate(pattern):
        if mark != "x":
            concealed = mark == "c"
            found += endpointer.hear(frame(start_ms + at * 20, concealed=concealed), mark in "vc")
    return found


def kinds(found: list[SpeechEvent | Segment]) -> list[str]:
    return [each.kind.value if isinstance(each, SpeechEvent) else "segment" for each in found]


def segments(found: list[SpeechEvent | Segment]) -> list[Segment]:
    return [each for each in found if isinstance(each, Segment)]


def test_table_every_state_is_reached_and_can_end() -> None:
    """From QUIET every state can be reached, and from every state QUIET."""
    for start, goal in itertools.product(State, State):
        reached = {start}
        while (more := {to for (of, _), (to, _) in TABLE.items() if of in reached} - reached) != set():
            reached |= more
        assert goal in reached, (start, goal)


def test_table_answers_what_a_frame_or_the_owner_can_cause() -> None:
    """Every state has a cell for every cue that can happen in it."""
    impossible = {(state, Cue.ONSET) for state in State if state is not State.STARTING}
    impossible |= {(state, cue) for state in (State.QUIET, State.STARTING) for cue in (Cue.FULL, Cue.HUSH)}
    assert set(TABLE) == set(itertools.product(State, Cue)) - impossible


def test_speech_then_pause_gives_onset_segment_offset_with_exact_times() -> None:
    """Speech bounds exclude pre-roll and pause; the audio includes both, of the pause only the tail."""
    found = run(Endpointer(OPTIONS), "." * 10 + "v" * 20 + "." * 15)
    assert kinds(found) == ["onset", "segment", "offset"]
    onset, segment, offset = found
    assert onset == SpeechEvent(SpeechKind.ONSET, 200)
    assert offset == SpeechEvent(SpeechKind.OFFSET, 600)
    assert isinstance(segment, Segment)
    assert (segment.start_ms, segment.end_ms, segment.audio_start_ms) == (200, 600, 100)
    assert len(segment.samples) == (100 + 400 + 160) * 8
    assert not segment.cut


def test_pause_shorter_than_hangover_stays_one_segment() -> None:
    """Fourteen unvoiced frames (280 ms) do not end an utterance, fifteen do."""
    assert len(segments(run(Endpointer(OPTIONS), "v" * 10 + "." * 14 + "v" * 10 + "." * 15))) == 1
    assert len(segments(run(Endpointer(OPTIONS), "v" * 10 + "." * 15 + "v" * 10 + "." * 15))) == 2


def test_click_shorter_than_onset_gives_nothing() -> None:
    """Two voiced frames are no speech, however often they come."""
    assert run(Endpointer(OPTIONS), "vv....." * 20) == []


def test_speech_shorter_than_minimum_gives_edges_but_no_segment() -> None:
    """Sixty milliseconds make an onset; there is nothing in them to recognise."""
    assert kinds(run(Endpointer(OPTIONS), "...vvv" + "." * 20)) == ["onset", "offset"]


def test_concealed_frames_are_no_evidence_of_speech() -> None:
    """A made-up frame never starts speech, whatever the detector says of it."""
    assert run(Endpointer(OPTIONS), "c" * 50) == []


def test_missing_frames_count_as_silence() -> None:
    """A gap as long as the hangover ends speech; a shorter one is filled and speech goes on."""
    ended = run(Endpointer(OPTIONS), "v" * 20 + "x" * 20 + "v" * 20 + "." * 15)
    assert kinds(ended) == ["onset", "segment", "offset", "onset", "segment", "offset"]
    bridged = segments(run(Endpointer(OPTIONS), "v" * 20 + "x" * 5 + "v" * 20 + "." * 15))
    assert [len(each.samples) for each in bridged] == [(45 + 8) * 160]


def test_huge_jump_of_the_timeline_costs_no_memory_and_ends_speech() -> None:
    """A frame hours later is bridged by no more silence than ends the segment."""
    endpointer = Endpointer(OPTIONS)
    run(endpointer, "v" * 20)
    found = endpointer.hear(frame(10_000_000_000), False)
    assert kinds(found) == ["segment", "offset"]
    assert len(segments(found)[0].samples) == (20 + 8) * 160


def test_old_frames_are_ignored() -> None:
    """A frame that lies before what was heard changes nothing."""
    endpointer = Endpointer(OPTIONS)
    run(endpointer, "v" * 20)
    assert endpointer.hear(frame(0), False) == []
    assert segments(run(endpointer, "." * 15, start_ms=400))[0].end_ms == 400


def test_deadline_ends_speech_when_frames_stop() -> None:
    """With nothing more coming, the hangover and the lateness allowance bound the wait."""
    endpointer = Endpointer(OPTIONS)
    assert endpointer.next_deadline_ms() is None
    run(endpointer, "v" * 20 + "." * 5)
    assert endpointer.next_deadline_ms() == 500 + 200 + OPTIONS.late_ms
    assert endpointer.on_deadline(759) == []
    assert kinds(endpointer.on_deadline(760)) == ["segment", "offset"]
    assert endpointer.next_deadline_ms() is None
    assert endpointer.on_deadline(99_999) == []


def test_long_speech_is_cut_at_the_quietest_recent_frame() -> None:
    """The cut falls into the dip, both pieces are whole and there is one onset."""
    endpointer = Endpointer(OPTIONS)
    found: list[SpeechEvent | Segment] = []
    for at in range(300):
        found += endpointer.hear(frame(at * 20, 50 if 180 <= at < 184 else 8000), True)
    found += run(endpointer, "." * 15, start_ms=6000)
    assert kinds(found) == ["onset", "segment", "segment", "offset"]
    first, second = segments(found)
    assert first.cut and not second.cut
    assert 180 * 20 <= first.end_ms <= 184 * 20
    assert second.start_ms == first.end_ms
    assert len(first.samples) + len(second.samples) == (300 + 8) * 160


def test_split_while_speaking_cuts_and_goes_on_without_second_onset() -> None:
    """Our own prompt's edge divides the audio; the speaker has not stopped."""
    endpointer = Endpointer(OPTIONS)
    found = run(endpointer, "v" * 20) + endpointer.split(400) + run(endpointer, "v" * 20 + "." * 15, start_ms=400)
    assert kinds(found) == ["onset", "segment", "segment", "offset"]
    first, second = segments(found)
    assert first.cut and (first.start_ms, first.end_ms) == (0, 400)
    assert second.audio_start_ms == 400


def test_split_in_a_pause_ends_speech_at_once() -> None:
    """In the hangover nothing is gained by waiting."""
    endpointer = Endpointer(OPTIONS)
    found = run(endpointer, "v" * 20 + "." * 5) + endpointer.split(500)
    assert kinds(found) == ["onset", "segment", "offset"]
    assert segments(found)[0].cut
    assert endpointer.split(520) == []


def test_split_keeps_earlier_audio_out_of_the_next_segment() -> None:
    """What lies before the cut is not the next segment's pre-roll."""
    endpointer = Endpointer(OPTIONS)
    run(endpointer, "." * 20)
    endpointer.split(400)
    found = run(endpointer, "v" * 20 + "." * 15, start_ms=400)
    assert segments(found)[0].audio_start_ms == 400


def test_finish_emits_what_was_being_said() -> None:
    """A leg that goes down in mid-word loses nothing heard so far."""
    endpointer = Endpointer(OPTIONS)
    found = run(endpointer, "v" * 20) + endpointer.finish(400)
    assert kinds(found) == ["onset", "segment", "offset"]
    assert endpointer.finish(400) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"hangover_ms": 10},
        {"tail_ms": 0},
        {"onset_ms": 0},
        {"pre_roll_ms": -1},
        {"min_speech_ms": -20},
        {"max_utterance_ms": 1000},
        {"cut_search_ms": 0},
        {"late_ms": -1},
    ],
)
def test_options_out_of_range_are_refused_by_name(wrong: dict[str, int]) -> None:
    """The message names the option."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EndpointOptions(**wrong)


OFFERING = replace(OPTIONS, offers=True)


def test_offer_comes_as_soon_as_the_tail_is_there_and_is_the_final_to_the_sample() -> None:
    """What is decoded during the pause is exactly what would be decoded after it."""
    endpointer = Endpointer(OFFERING)
    early = run(endpointer, "." * 10 + "v" * 20 + "." * 8)
    late = run(endpointer, "." * 7, start_ms=760)
    assert kinds(early) == ["onset", "segment"] and kinds(late) == ["segment", "offset"]
    (offer,), (final,) = segments(early), segments(late)
    assert (offer.kind, final.kind) == (SegmentKind.OFFER, SegmentKind.FINAL)
    assert (offer.samples == final.samples).all()
    assert replace(offer, samples=final.samples, kind=SegmentKind.FINAL) == final


def test_offer_is_made_again_for_each_pause_and_never_without_speech_enough() -> None:
    """Speech that goes on takes the offer back; a click has none."""
    found = segments(run(Endpointer(OFFERING), "v" * 10 + "." * 10 + "v" * 10 + "." * 15))
    assert [each.kind.value for each in found] == ["offer", "offer", "final"]
    assert found[0].end_ms == 200 and found[1].end_ms == found[2].end_ms == 600
    assert segments(run(Endpointer(OFFERING), "vvv" + "." * 20)) == []


def test_complete_sentence_ends_the_pause_at_once_unless_something_was_said_since() -> None:
    """The owner's answer may come late: then it is about other words."""
    endpointer = Endpointer(OFFERING)
    run(endpointer, "v" * 10 + "." * 9)
    assert kinds(endpointer.complete(180)) == []
    assert kinds(endpointer.complete(200)) == ["segment", "offset"]
    assert endpointer.complete(200) == []
    run(endpointer, "v" * 20, start_ms=400)
    assert endpointer.complete(800) == []


def test_draft_is_the_running_speech_from_a_given_time_and_disturbs_nothing() -> None:
    """A look has no effect on what the final will be."""
    endpointer = Endpointer(OPTIONS)
    assert endpointer.draft(0) is None
    run(endpointer, "v" * 50)
    whole, rest = endpointer.draft(0), endpointer.draft(610)
    assert whole is not None and rest is not None
    assert (whole.kind, len(whole.samples)) == (SegmentKind.DRAFT, 50 * 160)
    assert (rest.audio_start_ms, rest.end_ms, len(rest.samples)) == (600, 1000, 20 * 160)
    assert endpointer.draft(960) is None
    assert len(segments(run(endpointer, "." * 15, start_ms=1000))[0].samples) == 58 * 160


def test_draft_is_not_given_while_a_pause_lasts() -> None:
    """Nothing new is said in it; the offer at its end shows all, and a gap between two words is no pause."""
    endpointer = Endpointer(OPTIONS)
    run(endpointer, "v" * 50 + "..")
    assert endpointer.draft(0) is not None
    run(endpointer, ".", start_ms=1040)
    assert endpointer.draft(0) is None
    run(endpointer, "v", start_ms=1060)
    assert endpointer.draft(0) is not None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("v.xcs"), st.integers(1, 60)), max_size=30))
def test_any_stream_keeps_edges_paired_and_segments_ordered(runs: list[tuple[str, int]]) -> None:
    """Onset and offset alternate, segments never overlap in speech and are bounded in length."""
    endpointer, found, now = Endpointer(OPTIONS), [], 0
    for mark, count in runs:
        if mark == "s":
            found += endpointer.split(now)
        else:
            found += run(endpointer, mark * count, start_ms=now)
            now += count * 20
    found += endpointer.finish(now)
    edges = [each for each in kinds(found) if each != "segment"]
    assert edges == ["onset", "offset"] * (len(edges) // 2)
    pieces = segments(found)
    for before, after in itertools.pairwise(pieces):
        assert before.end_ms <= after.start_ms
    assert all(len(each.samples) <= OPTIONS.max_utterance_ms * 8 for each in pieces)
    assert all(each.audio_start_ms <= each.start_ms < each.end_ms for each in pieces)
