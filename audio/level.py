"""How loud a leg is, in dBov, and how that compares with how this party usually speaks.

Levels are RMS relative to the overload point: 0 dBov is a full-scale square wave, a full-scale sine is -3.01 dBov
(ITU-T G.100.1), and -127 dBov stands for digital silence (RFC 6464 section 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from audio.types import PTIME_MS, AudioFrame, Pcm

SILENCE_DBOV = -127.0


def dbov(samples: Pcm) -> float:
    """RMS level in dBov, -127 (nothing at all) to 0; empty input is silence."""
    if len(samples) == 0:
        return SILENCE_DBOV
    wide = samples.astype(np.float32)
    mean_square = float(np.dot(wide, wide)) / len(wide)
    if mean_square <= 0:
        return SILENCE_DBOV
    return min(0.0, max(SILENCE_DBOV, 10 * math.log10(mean_square) - 20 * math.log10(32768)))


@dataclass(frozen=True, slots=True)
class Level:
    """``dbov`` of one frame; ``over_baseline_db`` is how far the last bit of speech lies above this party's own usual
    level, ``None`` until enough speech was heard to know it, and while nobody speaks."""

    dbov: float
    over_baseline_db: float | None


@dataclass(frozen=True, slots=True)
class LevelOptions:
    """``smooth_ms``: speech is averaged over this long (a syllable or two). ``learn_ms``: speech needed before there is
    a baseline. ``memory_ms``: speech after which old evidence has half its weight, long against one outburst."""

    smooth_ms: int = 300
    learn_ms: int = 2_000
    memory_ms: int = 60_000

    def __post_init__(self) -> None:
        """:raises ValueError: when a duration is shorter than one frame."""
        for name in ("smooth_ms", "learn_ms", "memory_ms"):
            if getattr(self, name) < PTIME_MS:
                raise ValueError(f"{name} must be at least {PTIME_MS} ms, got {getattr(self, name)}")


class LevelMeter:
    """Level per frame and the running baseline: the median of this party's smoothed speech level.

    A median over a histogram of whole decibels: a fixed 128 numbers whatever the length of the call, and minutes of
    normal speech are not moved by seconds of shouting.
    """

    def __init__(self, options: LevelOptions | None = None) -> None:
        self._options = options or LevelOptions()
        self._alpha = PTIME_MS / self._options.smooth_ms
        self._decay = 0.5 ** (PTIME_MS / self._options.memory_ms)
        self._counts = np.zeros(128, dtype=np.float64)
        self._voiced_ms = 0
        self._power: float | None = None

    @property
    def baseline_dbov(self) -> float | None:
        """This party's usual speech level, ``None`` until ``learn_ms`` of speech was heard."""
        if self._voiced_ms < self._options.learn_ms:
            return None
        half = float(self._counts.sum()) / 2
        return -float(np.searchsorted(np.cumsum(self._counts), half))

    def hear(self, frame: AudioFrame, voiced: bool) -> Level:
        """Next frame. Concealed frames are no evidence: they have a level, and teach nothing."""
        now = dbov(frame.samples)
        if frame.concealed or not voiced:
            return Level(now, None)
        power = 10 ** (now / 10)
        self._power = power if self._power is None else self._power + self._alpha * (power - self._power)
        smoothed = 10 * math.log10(max(self._power, 1e-13))
        baseline = self.baseline_dbov
        self._counts *= self._decay
        self._counts[min(127, round(-smoothed))] += 1
        self._voiced_ms += PTIME_MS
        return Level(now, None if baseline is None else smoothed - baseline)
