"""Is this frame speech? webrtcvad (the only importer) finds candidates, two gates of ours take away what it lets pass.

webrtcvad was made for talk against noise and calls most tones of the telephone network speech: dialling, ringing,
busy, hum. So a frame counts only if, besides,

* its level in the telephone band lies over an absolute floor and over this line's own noise floor (level gate), and
* its energy is not held by one or two steady lines (tone gate): every signalling tone is one or two sines (ITU-T
  E.180, Q.23), while a vowel has a dozen harmonics that never stand still.

What passes all three is a candidate, no more: music and babble do. The recogniser's own guards have the last word.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import webrtcvad

from audio.level import SILENCE_DBOV
from audio.types import PTIME_MS, AudioFrame, Pcm

RATES_HZ = (8_000, 16_000)
_BAND_HZ = (200, 3_400)
"""Below lies mains hum and its first harmonics, above nothing of a telephone call."""


class Vad(Protocol):
    """Anything that says of each 20 ms, in order, whether it is speech."""

    def is_speech(self, frame: AudioFrame) -> bool:
        """:raises ValueError: when the frame's rate is not one of 8,000 and 16,000 Hz or it is not 20 ms long."""


@dataclass(frozen=True, slots=True)
class VadOptions:
    """``aggressiveness``: webrtcvad's mode 0..3. ``floor_dbov``: below it nothing is speech. ``over_noise_db``: how far
    over the line's noise floor speech must lie. ``noise_window_ms``: the floor is the quietest 100 ms of this long.
    ``tone_share``: a frame with more of its energy than this in two spectral lines is a tone if they stand still."""

    aggressiveness: int = 2
    floor_dbov: float = -55.0
    over_noise_db: float = 4.0
    noise_window_ms: int = 3_000
    tone_share: float = 0.98

    def __post_init__(self) -> None:
        """:raises ValueError: when a value is out of range."""
        if self.aggressiveness not in (0, 1, 2, 3):
            raise ValueError(f"aggressiveness must be 0, 1, 2 or 3, got {self.aggressiveness}")
        if not SILENCE_DBOV <= self.floor_dbov <= 0:
            raise ValueError(f"floor_dbov must be between -127 and 0, got {self.floor_dbov}")
        if self.noise_window_ms < 200:
            raise ValueError(f"noise_window_ms must be at least 200, got {self.noise_window_ms}")


class TelephoneVad:
    """webrtcvad behind the level gate and the tone gate. One a leg: it remembers the line's noise."""

    def __init__(self, options: VadOptions | None = None) -> None:
        self._options = options or VadOptions()
        self._webrtc = webrtcvad.Vad(self._options.aggressiveness)
        self._noise = _NoiseFloor(self._options.noise_window_ms)
        self._tone = _ToneGate(self._options.tone_share)
        self._analysis: dict[int, _Analysis] = {}

    def is_speech(self, frame: AudioFrame) -> bool:
        """See :class:`Vad`. A concealed frame is never speech and teaches nothing about the line."""
        _check(frame)
        if frame.concealed:
            return False
        candidate = bool(self._webrtc.is_speech(frame.samples.tobytes(), frame.rate_hz))
        analysis = self._analysis.get(frame.rate_hz)
        if analysis is None:
            analysis = self._analysis[frame.rate_hz] = _Analysis(frame.rate_hz)
        power = analysis.power(frame.samples)
        level = 10 * float(np.log10(power.sum() + 10 ** (SILENCE_DBOV / 10)))
        floor = self._noise.hear(level)
        tone = self._tone.hear(power, level)
        loud = level > self._options.floor_dbov and level > floor + self._options.over_noise_db
        return candidate and loud and not tone


class _Analysis:
    """Power spectrum of the last two frames in the telephone band, scaled so that its sum is the band's level
    (1 = 0 dBov). Two, because 20 ms cannot tell a low-pitched vowel's harmonics from two tones."""

    def __init__(self, rate_hz: int) -> None:
        length = 2 * rate_hz * PTIME_MS // 1000
        self._last = np.zeros(length // 2, dtype=np.int16)
        self._window = np.hanning(length).astype(np.float32)
        spacing_hz = rate_hz / length
        self._band = slice(round(_BAND_HZ[0] / spacing_hz), round(_BAND_HZ[1] / spacing_hz) + 1)
        self._scale = 2 / (length * float(np.square(self._window).sum()) * 32768**2)

    def power(self, samples: Pcm) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        both = np.concatenate([self._last, samples])
        self._last = samples
        spectrum = np.fft.rfft(both * self._window)[self._band]
        return np.asarray((spectrum.real**2 + spectrum.imag**2) * self._scale, dtype=np.float64)


class _NoiseFloor:
    """Quietest 100 ms of the last seconds (minimum statistics, R. Martin 2001, without its bias correction).

    Talk has a quieter 100 ms in every few seconds, steady noise has not: so the floor follows a noise that comes up
    within one window and never follows a voice.
    """

    _BLOCK_FRAMES = 5

    def __init__(self, window_ms: int) -> None:
        blocks = window_ms // (self._BLOCK_FRAMES * PTIME_MS)
        self._blocks: deque[float] = deque(maxlen=blocks)
        self._current: list[float] = []

    def hear(self, level: float) -> float:
        self._current.append(level)
        if len(self._current) == self._BLOCK_FRAMES:
            self._blocks.append(sum(self._current) / self._BLOCK_FRAMES)
            self._current.clear()
        return min(self._blocks, default=SILENCE_DBOV)


class _ToneGate:
    """Two spectral lines that hold nearly all energy and stay where they are, in two frames of the last three."""

    _LOBE = 2
    """Bins each side that a Hann-windowed sine spreads over."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._recent: deque[bool] = deque([False] * 3, maxlen=3)
        self._peak = -1

    def hear(self, power: np.ndarray[tuple[int], np.dtype[np.float64]], level: float) -> bool:
        total = float(power.sum())
        pure = False
        if level > SILENCE_DBOV + 1 and total > 0:
            rest = power.copy()
            first = int(rest.argmax())
            held = self._take(rest, first)
            held += self._take(rest, int(rest.argmax()))
            # A sweep moves one bin a frame at most; a voice's strongest harmonic jumps.
            pure = held > self._share * total and abs(first - self._peak) <= 1
            self._peak = first
        self._recent.append(pure)
        return sum(self._recent) >= 2

    def _take(self, rest: np.ndarray[tuple[int], np.dtype[np.float64]], peak: int) -> float:
        lobe = slice(max(0, peak - self._LOBE), peak + self._LOBE + 1)
        held = float(rest[lobe].sum())
        rest[lobe] = 0
        return held


def _check(frame: AudioFrame) -> None:
    if frame.rate_hz not in RATES_HZ:
        raise ValueError(f"voice activity detection takes 8000 or 16000 Hz, got {frame.rate_hz}")
    if len(frame.samples) != frame.rate_hz * PTIME_MS // 1000:
        raise ValueError(f"a frame at {frame.rate_hz} Hz has {frame.rate_hz // 50} samples, got {len(frame.samples)}")
