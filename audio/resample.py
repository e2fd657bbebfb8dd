"""Sample-rate conversion, by soxr (the only importer): a whole clip at once, or a stream whose edges stay seamless."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from audio.types import Pcm


def resample(samples: Pcm, from_hz: int, to_hz: int) -> Pcm:
    """A clip at another rate, mono s16 in and out; the same array when the rates are equal.

    :raises ValueError: when a rate is not positive.
    """
    _check(from_hz, to_hz)
    if from_hz == to_hz or len(samples) == 0:
        return samples
    return np.asarray(soxr.resample(samples, from_hz, to_hz), dtype=np.int16)


def to_float(samples: Pcm, from_hz: int, to_hz: int) -> npt.NDArray[np.float32]:
    """A clip at another rate as float32 in -1..1, as recognisers eat it; converted first, so that no peak clips."""
    _check(from_hz, to_hz)
    scaled = samples.astype(np.float32) / np.float32(32768)
    if from_hz == to_hz or len(samples) == 0:
        return scaled
    return np.asarray(soxr.resample(scaled, from_hz, to_hz), dtype=np.float32)


class StreamResampler:
    """Resamples consecutive chunks of one stream without a click between them."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        """:raises ValueError: when a rate is not positive."""
        _check(from_hz, to_hz)
        self._stream: Any = soxr.ResampleStream(from_hz, to_hz, 1, dtype="int16")

    def hear(self, samples: Pcm, *, last: bool = False) -> Pcm:
        """Next chunk in, what is ready out (the filter holds a few ms back until ``last``)."""
        return np.asarray(self._stream.resample_chunk(samples, last=last), dtype=np.int16)


def _check(from_hz: int, to_hz: int) -> None:
    if from_hz <= 0 or to_hz <= 0:
        raise ValueError(f"sample rates must be positive, got {from_hz} and {to_hz} Hz")
