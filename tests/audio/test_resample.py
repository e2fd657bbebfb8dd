"""Resampling keeps length, pitch and continuity."""

from __future__ import annotations

import numpy as np
import pytest

from audio.resample import StreamResampler, resample, to_float


def sine(rate_hz: int, seconds: float = 1.0, hz: float = 1000) -> np.ndarray:
    return (np.sin(2 * np.pi * hz * np.arange(int(rate_hz * seconds)) / rate_hz) * 16000).astype(np.int16)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(8000, 16000), (16000, 8000), (44100, 8000), (48000, 16000)])
def test_resample_keeps_duration_and_pitch(from_hz: int, to_hz: int) -> None:
    """One second stays one second, and 1 kHz stays 1 kHz."""
    found = resample(sine(from_hz), from_hz, to_hz)
    assert abs(len(found) - to_hz) <= 1
    assert found.dtype == np.int16
    assert abs(int(np.abs(np.fft.rfft(found[:to_hz])).argmax()) - 1000) <= 1


def test_resample_same_rate_and_nothing_come_back_untouched() -> None:
    """There is nothing to do."""
    samples = sine(8000)
    assert resample(samples, 8000, 8000) is samples
    assert len(resample(np.zeros(0, np.int16), 8000, 16000)) == 0


def test_stream_in_frames_equals_one_pass() -> None:
    """Frame edges leave no trace."""
    samples = sine(8000)
    stream = StreamResampler(8000, 16000)
    parts = [stream.hear(samples[at : at + 160], last=at + 160 >= len(samples)) for at in range(0, len(samples), 160)]
    whole = resample(samples, 8000, 16000)
    joined = np.concatenate(parts)
    assert len(joined) == len(whole)
    assert np.abs(joined.astype(int) - whole.astype(int)).max() <= 2


def test_to_float_is_scaled_and_never_clips_a_peak() -> None:
    """A full-scale square overshoots in the filter; as float nothing is lost."""
    square = np.tile(np.r_[np.full(8, 32767), np.full(8, -32768)], 200).astype(np.int16)
    found = to_float(square, 8000, 16000)
    assert found.dtype == np.float32
    assert float(np.abs(found).max()) > 1.0


def test_impossible_rate_is_refused() -> None:
    """Zero hertz is an error, not a division."""
    with pytest.raises(ValueError, match="positive"):
        resample(sine(8000), 0, 8000)
