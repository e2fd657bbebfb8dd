"""Is this frame speech? webrtcvad (the only importer) finds candidates, two gates of ours take away what it lets pass.

webrtcvad was made for talk against noise and calls most tones of the telephone network speech: dialling, ringing,
busy, hum. So a frame counts only if, besides,

* its level in the telephone band lies over an absolute floor and over this line's own noise floor (level gate), and
* its energy is not held by one or two steady lines (tone gate): every signalling tone is one or two sines (ITU-T
  E.180, Q.23), while a vowel has a dozen harmonics that never stand still.

What passes all three is a candidate, no more: music and babble do. The recogniser's own guards have the last word.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import webrtcvad

from audio.level import SILENCE_DBOV
from audio.types import PTIME_MS, AudioFrame, Pcm

RATES_HZ = (8_000, 16_000)
_BAND_HZ = (200, 3_400)
"""Below lies mains hum and its first harmonics, above nothing of a telephone call."""
_LOBE = 2
"""Bins each side that a Hann-windowed sine spreads over."""
_SILENCE_POWER = 10 ** (SILENCE_DBOV / 10)

_Spectrum = npt.NDArray[np.complexfloating[Any, Any]]


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
        spectrum, power = analysis.hear(frame.samples)
        level = 10 * math.log10(power + _SILENCE_POWER)
        floor = self._noise.hear(level)
        self._tone.hear(spectrum, sounds=level > SILENCE_DBOV + 1)
        loud = level > self._options.floor_dbov and level > floor + self._options.over_noise_db
        # Two frames in three are no candidate: only the others are worth the search for lines.
        return candidate and loud and not self._tone.steady()


class _Analysis:
    """Spectrum of the last two frames in the telephone band, and its power (1 = 0 dBov). Two, because 20 ms cannot tell
    a low-pitched vowel's harmonics from two tones."""

    def __init__(self, rate_hz: int) -> None:
        length = 2 * rate_hz * PTIME_MS // 1000
        self._half = length // 2
        self._both = np.zeros(length, dtype=np.int16)
        self._window = np.hanning(length).astype(np.float32)
        self._windowed = np.empty(length, dtype=np.float32)
        spacing_hz = rate_hz / length
        self._band = slice(round(_BAND_HZ[0] / spacing_hz), round(_BAND_HZ[1] / spacing_hz) + 1)
        self._scale = 2 / (length * float(np.square(self._window).sum()) * 32768**2)

    def hear(self, samples: Pcm) -> tuple[_Spectrum, float]:
        self._both[: self._half] = self._both[self._half :]
        self._both[self._half :] = samples
        np.multiply(self._both, self._window, out=self._windowed)
        spectrum = np.fft.rfft(self._windowed)[self._band]
        return spectrum, float(np.vdot(spectrum, spectrum).real) * self._scale


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
        self._floor = SILENCE_DBOV

    def hear(self, level: float) -> float:
        self._current.append(level)
        if len(self._current) == self._BLOCK_FRAMES:
            self._blocks.append(sum(self._current) / self._BLOCK_FRAMES)
            self._current.clear()
            self._floor = min(self._blocks)
        return self._floor


class _Look:
    """One frame's spectrum; what is asked of it is found out when it is asked, and once."""

    __slots__ = ("_first", "_held", "before", "spectrum")

    def __init__(self, spectrum: _Spectrum | None, before: _Look | None) -> None:
        self.spectrum = spectrum
        self.before = before
        """The last frame before it that was not silent."""
        self._first = -1
        self._held: float | None = None

    @property
    def first(self) -> int:
        """Bin of the strongest line; -1 in silence."""
        self._search()
        return self._first

    def pure(self, share: float) -> bool:
        """Two lines hold nearly all energy, and the stronger is where it was. A sweep moves one bin a frame at most; a
        voice's strongest harmonic jumps."""
        if self.spectrum is None:
            return False
        return self._search() > share and abs(self.first - (self.before.first if self.before else -1)) <= 1

    def _search(self) -> float:
        if self._held is None:
            self._held = 0.0
            if self.spectrum is not None:
                rest = self.spectrum.real**2 + self.spectrum.imag**2
                total = float(rest.sum())
                self._first = int(rest.argmax())
                held = _take(rest, self._first) + _take(rest, int(rest.argmax()))
                self._held = held / total if total > 0 else 0.0
        return self._held


class _ToneGate:
    """Two spectral lines that hold nearly all energy and stay where they are, in two frames of the last three."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._recent: deque[_Look] = deque([_Look(None, None)] * 3, maxlen=3)
        self._sounding: _Look | None = None

    def hear(self, spectrum: _Spectrum, *, sounds: bool) -> None:
        """The next frame."""
        look = _Look(spectrum if sounds else None, self._sounding)
        if sounds:
            self._sounding = look
        self._recent[0].before = None  # nobody asks it again: the chain stays short
        self._recent.append(look)

    def steady(self) -> bool:
        """Whether a tone is heard now."""
        return sum(look.pure(self._share) for look in self._recent) >= 2


def _take(rest: npt.NDArray[np.floating[Any]], peak: int) -> float:
    """Energy of the line at ``peak``, which is taken out of ``rest``."""
    lobe = slice(max(0, peak - _LOBE), peak + _LOBE + 1)
    held = float(rest[lobe].sum())
    rest[lobe] = 0
    return held


def _check(frame: AudioFrame) -> None:
    if frame.rate_hz not in RATES_HZ:
        raise ValueError(f"voice activity detection takes 8000 or 16000 Hz, got {frame.rate_hz}")
    if len(frame.samples) != frame.rate_hz * PTIME_MS // 1000:
        raise ValueError(f"a frame at {frame.rate_hz} Hz has {frame.rate_hz // 50} samples, got {len(frame.samples)}")
