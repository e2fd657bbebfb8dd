"""The second opinion with the real network: what a telephone line carries besides speech, and speech at its worst."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

from audio.resample import to_float
from audio.silero import FIRST_PART, Audio, SecondOpinion
from audio.transcribe import prepare
from audio.types import Pcm, Segment
from audio.wavio import read_wav
from ivr.bench_speech import RATE_HZ, mu_law, non_speech, white


@pytest.fixture(scope="module")
def opinion() -> SecondOpinion:
    return SecondOpinion()


def spoken() -> Pcm:
    raw = (resources.files("audio") / "catalogue" / "en" / "8000" / "notice.wav").read_bytes()
    return read_wav(raw, "notice").channels[0]


def prepared(samples: Pcm) -> Audio:
    return prepare(Segment(samples, RATE_HZ, 0, len(samples) * 1000 // RATE_HZ, 0))


@pytest.mark.parametrize(
    "name", ["dtmf", "hold music", "breaths", "busy tone", "ringback us", "mains hum", "noise -30 dBov", "silence"]
)
def test_what_is_no_speech_is_told_from_it(opinion: SecondOpinion, name: str) -> None:
    """Four seconds of each sound that webrtcvad may pass."""
    assert not opinion.is_speech(prepared(dict(non_speech(4))[name]))


@pytest.mark.parametrize(
    "change",
    [
        lambda wave: wave,
        lambda wave: wave * 0.05,
        lambda wave: np.clip(wave * 10.0, -32768, 32767),
        lambda wave: wave + white(len(wave), -31),
        lambda wave: np.where(np.arange(len(wave)) // 160 % 8 == 0, 0, wave),
    ],
    ids=["clean", "26 dB quieter", "clipped", "noise 5 dB below", "each eighth packet lost"],
)
def test_speech_is_speech_on_any_line(opinion: SecondOpinion, change: object) -> None:
    """Words lost here would be lost for good: nothing asks again."""
    assert callable(change)
    assert opinion.is_speech(prepared(mu_law(change(spoken().astype(np.float64)))))


def test_speech_that_begins_late_in_a_segment_is_found(opinion: SecondOpinion) -> None:
    """The first part alone says no."""
    late = np.concatenate([np.zeros(2 * FIRST_PART, np.float32), to_float(spoken(), RATE_HZ, 16_000)])
    assert not opinion.is_speech(late[:FIRST_PART])
    assert opinion.is_speech(late)


def test_audio_of_any_length_is_answered(opinion: SecondOpinion) -> None:
    """Nothing is left to the guards; a sample, and either side of a chunk, are silence."""
    assert opinion.is_speech(np.zeros(0, np.float32))
    for count in (1, 511, 512, 513, FIRST_PART, FIRST_PART + 1):
        assert not opinion.is_speech(np.zeros(count, np.float32))


def test_probe_that_is_not_heard_as_speech_is_a_failed_self_test() -> None:
    """Another network than the one we know could answer anything."""
    with pytest.raises(ValueError, match="the shipped notice is no speech"):
        SecondOpinion(np.zeros(16_000, np.float32))
