"""One leg from frames to segments, with real speech and real line noises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from audio.types import AudioFrame, Pcm, Segment, SpeechEvent, SpeechKind
from ivr.asr import SyncAsr
from ivr.listener import Heard, LevelSample, Listener

Frames = Callable[..., list[AudioFrame]]
QUIET = np.zeros(8000, np.int16)


def listen(listener: Listener, frames: list[AudioFrame]) -> list[Heard]:
    return [heard for frame in frames for heard in listener.hear(frame, frame.end_ms)]


def segments(found: list[Heard]) -> list[Segment]:
    return [each for each in found if isinstance(each, Segment)]


def test_sentence_between_pauses_gives_one_whole_segment(say: Callable[..., Pcm], framed: Frames) -> None:
    """Its bounds hold the speech, and its end is known one hangover after it."""
    speech = say("You people are completely useless.")
    found = listen(Listener(), framed(np.concatenate([QUIET, speech, QUIET])))
    (segment,) = segments(found)
    assert 950 <= segment.start_ms <= 1200
    assert 1000 + len(speech) / 8 - 400 <= segment.end_ms <= 1000 + len(speech) / 8 + 60
    edges = [each.kind for each in found if isinstance(each, SpeechEvent)]
    assert edges == [SpeechKind.ONSET, SpeechKind.OFFSET]


def test_line_noises_give_no_segment(line_noises: Callable[[float], dict[str, Pcm]], framed: Frames) -> None:
    """Nothing goes to the recogniser for silence, steady noise, tones and clicks.

    Breath and the first frames of quick keying still do: that no words come of them is shown where the guards are.
    """
    made = {
        name: len(segments(listen(Listener(), framed(np.concatenate([sound, QUIET])))))
        for name, sound in line_noises(6.0).items()
        if name not in ("breath", "dtmf")
    }
    assert {name: count for name, count in made.items() if count} == {}


def test_level_samples_come_regularly_with_level_of_the_line(say: Callable[..., Pcm], framed: Frames) -> None:
    """Five a second, silence at -127 dBov."""
    samples = [
        each
        for each in listen(Listener(), framed(np.concatenate([QUIET, say("Stop it now.")])))
        if isinstance(each, LevelSample)
    ]
    assert [each.t_ms for each in samples[:5]] == [0, 200, 400, 600, 800]
    assert {each.dbov for each in samples[:5]} == {-127.0}
    assert max(each.dbov for each in samples) > -30


def test_prompt_edges_split_and_mark_what_is_heard_over_the_prompt(say: Callable[..., Pcm], framed: Frames) -> None:
    """Only what is heard while the prompt plays carries the mark; nothing of it reaches the next segment."""
    frames = framed(np.concatenate([QUIET, say("I have been waiting for forty minutes and nobody called."), QUIET]))
    listener = Listener()
    first, second = frames[: len(frames) // 3], frames[len(frames) // 3 : len(frames) // 3 * 2]
    third = frames[len(frames) // 3 * 2 :]
    before = listen(listener, first) + listener.set_over_prompt(True, first[-1].end_ms)
    during = listen(listener, second) + listener.set_over_prompt(False, second[-1].end_ms)
    after = listen(listener, third)
    assert [each.over_prompt for each in segments(before)] == [False] * len(segments(before))
    assert segments(during) and all(each.over_prompt for each in segments(during))
    assert segments(after) and not any(each.over_prompt for each in segments(after))
    assert segments(after)[0].audio_start_ms >= second[-1].end_ms
    assert listener.set_over_prompt(False, 9999) == []


def test_frames_that_stop_end_speech_by_deadline(say: Callable[..., Pcm], framed: Frames) -> None:
    """A leg that falls silent by losing its packets is not waited for."""
    frames = framed(np.concatenate([QUIET, say("You people are completely useless.")]))[:-20]
    listener = Listener()
    listen(listener, frames)
    deadline = listener.next_deadline_ms()
    assert deadline is not None and deadline <= frames[-1].end_ms + 400
    assert len(segments(listener.on_deadline(deadline))) == 1
    assert listener.next_deadline_ms() is None


def test_rate_change_in_mid_speech_ends_the_segment_and_goes_on(say: Callable[..., Pcm], framed: Frames) -> None:
    """A re-INVITE to a wideband codec costs no words."""
    narrow = framed(np.concatenate([QUIET, say("You people are completely useless.")]))[:-25]
    wide_samples = np.concatenate([say("I want a manager.", rate_hz=16_000), np.zeros(16_000, np.int16)])
    listener = Listener()
    found = listen(listener, narrow + framed(wide_samples, 16_000, narrow[-1].end_ms))
    assert [each.rate_hz for each in segments(found)] == [8000, 16_000]
    edges = [each.kind for each in found if isinstance(each, SpeechEvent)]
    assert edges == [SpeechKind.ONSET, SpeechKind.OFFSET] * 2


@pytest.mark.parametrize("rate_hz", [0, 11_025, 44_100, 48_000])
def test_other_rates_are_refused_and_change_nothing(rate_hz: int, say: Callable[..., Pcm], framed: Frames) -> None:
    """The message says which rates are heard."""
    listener = Listener()
    with pytest.raises(ValueError, match="8000 or 16000"):
        listener.hear(AudioFrame(0, rate_hz, np.zeros(160, np.int16)), 0)
    assert len(segments(listen(listener, framed(np.concatenate([QUIET, say("Stop it now."), QUIET]))))) == 1


def test_finish_gives_what_was_being_said(say: Callable[..., Pcm], framed: Frames) -> None:
    """A caller who hangs up in mid-word has still said it."""
    listener = Listener()
    frames = framed(np.concatenate([QUIET, say("You people are completely useless.")]))[:-25]
    listen(listener, frames)
    assert len(segments(listener.finish(frames[-1].end_ms))) == 1


@pytest.mark.model
def test_real_ears_hear_two_sentences_of_a_call(ears: SyncAsr, say: Callable[..., Pcm], framed: Frames) -> None:
    """Frames in, words out, times on the call's clock."""
    first, second = say("Please check my order again.", "flite:slt"), say("I want to speak to a manager.", "flite:slt")
    found = segments(listen(Listener(), framed(np.concatenate([QUIET, first, QUIET, second, QUIET]), start_ms=50_000)))
    heard = [ears.decode(each) for each in found]
    text = " ".join(each.text for each in heard).lower()
    assert "check my order again" in text and "i want to speak to a manager" in text
    assert 50_900 <= heard[0].start_ms <= 51_300
