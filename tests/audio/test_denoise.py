"""The noise filter of second looks: what it takes off, what it leaves, and what it does not touch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from audio.denoise import without_noise
from audio.level import dbov
from audio.types import Pcm

RATE_HZ = 8_000
LEAD = np.zeros(RATE_HZ // 4, np.int16)


def noise(count: int, level_dbov: float, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count) * 32768 * 10 ** (level_dbov / 20)


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """How far the speech lies over what differs from it, in dB."""
    return float(10 * np.log10(np.square(one, dtype=float).mean() / np.square(one - other, dtype=float).mean()))


@pytest.fixture
def speech(say: Callable[..., Pcm]) -> Pcm:
    """A sentence at -26 dBov with a quarter of a second of nothing before and after it."""
    return np.concatenate([LEAD, say("You people are completely useless.", "flite:rms"), LEAD])


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
def test_steady_noise_in_the_pauses_falls_by_the_floor_and_no_further(speech: Pcm, rate_hz: int) -> None:
    """About 10 dB, before and after the words, at either rate of a call."""
    leg = np.repeat(speech, rate_hz // RATE_HZ)
    noisy = (leg + noise(len(leg), -36)).astype(np.int16)
    found = without_noise(noisy, rate_hz)
    quiet = slice(0, rate_hz // 5)
    assert 7 < dbov(noisy[quiet]) - dbov(found[quiet]) < 10.5


@pytest.mark.parametrize("under_db", [5, 10])
def test_speech_comes_out_more_like_itself(speech: Pcm, under_db: int) -> None:
    """The words keep their level and lie further over what does not belong to them."""
    noisy = (speech + noise(len(speech), -26.0 - under_db)).astype(np.int16)
    found = without_noise(noisy, RATE_HZ)
    assert likeness(speech, found) > likeness(speech, noisy) + 2
    words = slice(len(LEAD), -len(LEAD))
    assert dbov(found[words]) == pytest.approx(dbov(speech[words]), abs=2.5)


def test_clear_line_is_not_touched(speech: Pcm) -> None:
    """There is nothing to take off: the very same array comes back."""
    leg = (speech + noise(len(speech), -62)).astype(np.int16)
    assert without_noise(leg, RATE_HZ) is leg


@pytest.mark.parametrize("count", [0, 1, 160, 1_023])
def test_too_short_to_know_its_noise_is_not_touched(count: int) -> None:
    """Four windows are the least."""
    leg = noise(count, -30).astype(np.int16)
    assert without_noise(leg, RATE_HZ) is leg


@pytest.mark.parametrize("level", [0, 1, 32_767])
def test_silence_and_full_scale_are_no_trouble(level: int) -> None:
    """No warning of a division, no overflow, as many samples as before."""
    leg = (np.random.default_rng(3).integers(-1, 2, 4_001) * level).astype(np.int16)
    found = without_noise(leg, RATE_HZ)
    assert found.dtype == np.int16 and len(found) == len(leg)
