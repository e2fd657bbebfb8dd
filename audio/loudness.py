"""Loudness of recorded speech and bringing a clip to a chosen level: for prompts, before any call.

The level is the active speech level of ITU-T P.56 method B: power over the time that somebody speaks, so that pauses do
not make a calm prompt seem quiet. dBov is relative to a full-scale square wave (ITU-T G.100.1), so a full-scale sine
has -3.01 dBov. Peaks are given in dB under full scale.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from audio.types import Pcm

FULL_SCALE = 32768.0
PROMPT_LEVEL_DBOV = -22.0
"""Above the nominal -26 dBov of telephone speech, because a prompt must be heard over a caller who is shouting."""
PROMPT_PEAK_DB = -3.2
"""Limit before rounding and the coding law, so that nothing on the wire passes -3 dB."""

LEAD_MS = 10
"""Kept before the first sound: the first packet of a prompt is already voice, and no plosive loses its edge."""
TAIL_MS = 100
_EDGE_MS = 5
_SOUND_UNDER_LEVEL_DB = 30.0
"""A 5 ms stretch counts as sound down to this far under the active level: lower than any voiced onset, above the
breath noise that a voice model puts around a sentence."""

# ITU-T P.56 (12/2011) method B: time constant, hangover and margin.
_TIME_CONSTANT_S = 0.03
_HANGOVER_S = 0.2
_MARGIN_DB = 15.9
_THRESHOLDS = 15
_LIMITER_MS = 5
_LEVEL_ROUNDS = 6
_LEVEL_TOLERANCE_DB = 0.05
"""The limiter takes a little off the level, and more where more is asked: the gain is found in a few rounds."""

Floats = npt.NDArray[np.float64]


def active_speech_level_dbov(samples: Pcm, rate_hz: int) -> float:
    """Active speech level of a clip by ITU-T P.56 method B; ``-inf`` for silence.

    Args:
        samples: shape ``(n,)``.
        rate_hz: their rate.
    """
    signal = samples.astype(np.float64) / FULL_SCALE
    energy = float(signal @ signal)
    if energy == 0.0:
        return -math.inf
    envelope = _envelope(signal, rate_hz)
    levels = []
    for bit in range(_THRESHOLDS):
        threshold = 2.0 ** -(bit + 1)
        active = _active_samples(envelope >= threshold, round(_HANGOVER_S * rate_hz))
        if active:
            level = 10 * math.log10(energy / active)
            levels.append((level, level - 20 * math.log10(threshold)))
    return _at_margin(levels, 10 * math.log10(energy / len(signal)))


def peak_db(samples: Pcm) -> float:
    """Largest sample in dB under full scale (0 = clipped); ``-inf`` for silence."""
    if len(samples) == 0:
        return -math.inf
    peak = int(np.max(np.abs(samples.astype(np.int32))))
    return 20 * math.log10(peak / FULL_SCALE) if peak else -math.inf


def levelled(
    samples: Pcm, rate_hz: int, level_dbov: float = PROMPT_LEVEL_DBOV, limit_db: float = PROMPT_PEAK_DB
) -> Pcm:
    """The clip at ``level_dbov`` with no sample over ``limit_db``, by a look-ahead limiter rather than clipping.

    Raises:
        ValueError: the clip is silent, so no gain can be right.
    """
    level = active_speech_level_dbov(samples, rate_hz)
    if math.isinf(level):
        raise ValueError("the sound is silent")
    signal = samples.astype(np.float64) / FULL_SCALE
    gain_db = level_dbov - level
    for _ in range(_LEVEL_ROUNDS):
        limited = _limited(signal * 10 ** (gain_db / 20), rate_hz, 10 ** (limit_db / 20))
        out: Pcm = np.rint(limited * FULL_SCALE).astype(np.int16)
        short_db = level_dbov - active_speech_level_dbov(out, rate_hz)
        if abs(short_db) < _LEVEL_TOLERANCE_DB:
            break
        gain_db += short_db
    return out


def voice_span_ms(samples: Pcm, rate_hz: int) -> tuple[int, int]:
    """Where the first sound begins and the last one ends, in whole 5 ms.

    Raises:
        ValueError: the clip is silent.
    """
    level = active_speech_level_dbov(samples, rate_hz)
    if math.isinf(level):
        raise ValueError("the sound is silent")
    size = rate_hz * _EDGE_MS // 1000
    whole = np.pad(samples, (0, -len(samples) % size)).astype(np.float64) / FULL_SCALE
    power = np.mean(whole.reshape(-1, size) ** 2, axis=1)
    loud = np.flatnonzero(power > 10 ** ((level - _SOUND_UNDER_LEVEL_DB) / 10))
    return int(loud[0]) * _EDGE_MS, (int(loud[-1]) + 1) * _EDGE_MS


def trimmed(samples: Pcm, rate_hz: int, span_ms: tuple[int, int] | None = None) -> Pcm:
    """The clip from 10 ms before its first sound to 100 ms after its last (silence is added where it is short).

    Args:
        samples: shape ``(n,)``.
        rate_hz: their rate.
        span_ms: what ``voice_span_ms`` said of the same clip at another rate, so that both come out alike.

    Raises:
        ValueError: the clip is silent.
    """
    first_ms, last_ms = span_ms or voice_span_ms(samples, rate_hz)
    first, last = first_ms * rate_hz // 1000, last_ms * rate_hz // 1000
    lead, tail = rate_hz * LEAD_MS // 1000, rate_hz * TAIL_MS // 1000
    start, end = max(0, first - lead), min(len(samples), last + tail)
    out = samples[start:end].astype(np.float64)
    # Shorter than the lead, so the onset itself is untouched.
    fade = min(rate_hz * _EDGE_MS // 1000, len(out))
    out[:fade] *= np.linspace(0.0, 1.0, fade)
    out[len(out) - fade :] *= np.linspace(1.0, 0.0, fade)
    padded = np.pad(out, (max(0, lead - first), max(0, last + tail - len(samples))))
    return np.asarray(np.rint(padded), dtype=np.int16)


def _envelope(signal: Floats, rate_hz: int) -> Floats:
    """P.56: rectified signal through two one-pole filters."""
    keep = math.exp(-1.0 / (rate_hz * _TIME_CONSTANT_S))
    take = 1.0 - keep
    p = q = 0.0
    out = []
    for x in np.abs(signal).tolist():
        p = keep * p + take * x
        q = keep * q + take * p
        out.append(q)
    return np.array(out)


def _active_samples(over: npt.NDArray[np.bool_], hangover: int) -> int:
    """Samples at or above the threshold, or at most ``hangover`` samples after one that was."""
    indices = np.flatnonzero(over)
    if len(indices) == 0:
        return 0
    gaps = np.diff(indices, append=len(over))
    return int(np.minimum(gaps, hangover + 1).sum())


def _at_margin(levels: list[tuple[float, float]], long_term: float) -> float:
    """The level where it stands ``_MARGIN_DB`` above its threshold, between the two thresholds that bracket that."""
    for (level_a, margin_a), (level_b, margin_b) in zip(levels, levels[1:], strict=False):
        if margin_a <= _MARGIN_DB <= margin_b:
            share = (_MARGIN_DB - margin_a) / (margin_b - margin_a)
            return level_a + share * (level_b - level_a)
    return long_term


def _limited(signal: Floats, rate_hz: int, limit: float) -> Floats:
    """Gain falls before a peak and recovers after it, over 5 ms each way, so that no sample passes ``limit``."""
    reach = rate_hz * _LIMITER_MS // 1000
    need = np.minimum(1.0, limit / np.maximum(np.abs(signal), 1e-9))
    if need.min() >= 1.0:
        return signal
    lowest = np.lib.stride_tricks.sliding_window_view(np.pad(need, 2 * reach, constant_values=1.0), 2 * reach + 1).min(
        1
    )
    window = np.hanning(2 * reach + 3)[1:-1]
    gain = np.convolve(lowest, window / window.sum(), mode="valid")
    return signal * gain
