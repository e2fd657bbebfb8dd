"""Levels in dBov and the party's own baseline."""

from __future__ import annotations

import numpy as np
import pytest

from audio.level import SILENCE_DBOV, LevelMeter, LevelOptions, dbov
from audio.types import AudioFrame


def tone(level_dbov: float, t_ms: int = 0, *, concealed: bool = False) -> AudioFrame:
    wave = np.sin(2 * np.pi * 400 * np.arange(160) / 8000) * 32767 * 10 ** ((level_dbov + 3.01) / 20)
    return AudioFrame(t_ms, 8000, wave.astype(np.int16), concealed)


def test_dbov_full_scale_sine_is_three_below_full_scale_square() -> None:
    """The overload point is a full-scale square wave (ITU-T G.100.1)."""
    assert dbov(np.full(160, -32768, np.int16)) == pytest.approx(0, abs=1e-6)
    assert dbov(tone(-3.01).samples) == pytest.approx(-3.01, abs=0.05)


def test_dbov_silence_and_nothing_are_the_lowest_level() -> None:
    """Digital silence is -127 (RFC 6464), and so is an empty frame."""
    assert dbov(np.zeros(160, np.int16)) == dbov(np.zeros(0, np.int16)) == SILENCE_DBOV


def test_meter_gives_no_comparison_until_it_knows_the_speaker() -> None:
    """Two seconds of speech come first."""
    meter = LevelMeter()
    assert [meter.hear(tone(-26), True).over_baseline_db for _ in range(100)] == [None] * 100
    assert meter.hear(tone(-26), True).over_baseline_db == pytest.approx(0, abs=1)


def test_meter_shouting_stands_out_and_does_not_become_the_baseline() -> None:
    """Ten seconds of shouting after a minute of talk leave the baseline where it was."""
    meter = LevelMeter()
    for _ in range(3000):
        meter.hear(tone(-26), True)
    shouted = [meter.hear(tone(-12), True).over_baseline_db for _ in range(500)]
    assert shouted[30] == pytest.approx(14, abs=2)
    assert shouted[-1] == pytest.approx(14, abs=2)
    assert meter.baseline_dbov == pytest.approx(-26, abs=1)


def test_meter_pauses_and_concealed_frames_teach_nothing() -> None:
    """Only real voiced frames move the baseline."""
    meter = LevelMeter()
    for _ in range(200):
        meter.hear(tone(-26), True)
        meter.hear(tone(-60), False)
        meter.hear(tone(-1, concealed=True), True)
    assert meter.baseline_dbov == pytest.approx(-26, abs=1)
    assert meter.hear(tone(-60), False).over_baseline_db is None


def test_options_shorter_than_a_frame_are_refused() -> None:
    """The message names the option."""
    with pytest.raises(ValueError, match="smooth_ms"):
        LevelOptions(smooth_ms=0)
