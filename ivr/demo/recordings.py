"""Proof of what was in whose ear: finds a known prompt in a recording of a call.

The prompt is cut into pieces of about a second and each piece is looked for by normalised cross-correlation; a hit is
where enough pieces agree on where the prompt began. Pieces make it robust to what a telephone call does: G.711, the
other party talking at the same time, and a frame lost or repeated on the way, which would break one long correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audio.types import Pcm

_PIECE_MS = 800
_PIECE_FLOOR = 0.35
"""A piece counts from here. Under another voice as loud as itself it scores about 0.7; one unrelated piece may reach
that by chance, so it takes several that agree."""
_AGREE_MS = 100
"""Pieces agree when the prompt's beginning by each differs by no more: five frames slipped on the way."""
_HIT_SCORE = 0.42
"""Measured on all prompts and lines that we ship, each looked for in a minute of the others: at most 0.33; under
another voice 3.5 dB louder than itself: at least 0.50."""
_QUIET_PIECE_DB = -30.0
"""Pieces this far under the prompt's own level are its pauses and prove nothing."""

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Hit:
    """A prompt found in a recording: where it began and how sure, 0..1 (mean correlation over all its pieces)."""

    offset_ms: int
    score: float
    heard_share: float
    """Share of the prompt's pieces that were found: under 1 when it was cut short or drowned."""


def find_prompt(recording: Pcm, prompt: Pcm, rate_hz: int) -> list[Hit]:
    """Every place where ``prompt`` was heard in ``recording``, in order of time; both at ``rate_hz``.

    A prompt that was stopped part of the way is found when at least about half of it was heard.
    """
    pieces = _pieces(prompt, rate_hz)
    if not pieces or len(recording) == 0:
        return []
    scores = _Correlator(recording, max(len(piece) for _, piece in pieces))
    votes = [
        (position - start, number, score)
        for number, (start, piece) in enumerate(pieces)
        for position, score in scores.peaks(piece)
    ]
    hits = []
    agree = rate_hz * _AGREE_MS // 1000
    while (best := _best_cluster(votes, len(pieces), agree)) is not None:
        begin, score, share = best
        hits.append(Hit(round(begin * 1000 / rate_hz), round(score, 3), round(share, 3)))
        votes = [vote for vote in votes if abs(vote[0] - begin) > 2 * agree]
    return sorted(hits, key=lambda hit: hit.offset_ms)


def _pieces(prompt: Pcm, rate_hz: int) -> list[tuple[int, _Floats]]:
    signal = prompt.astype(np.float64)
    size = rate_hz * _PIECE_MS // 1000
    if not len(signal) or not np.any(signal):
        return []
    count = max(1, round(len(signal) / size))
    bounds = np.linspace(0, len(signal), count + 1).astype(int)
    floor = np.mean(signal**2) * 10 ** (_QUIET_PIECE_DB / 10)
    cut = [(int(a), signal[a:b] - signal[a:b].mean()) for a, b in zip(bounds, bounds[1:], strict=False)]
    return [(start, piece) for start, piece in cut if np.mean(piece**2) > floor]


class _Correlator:
    """Normalised cross-correlation of one recording with many short pieces; the recording is transformed once."""

    def __init__(self, recording: Pcm, longest: int) -> None:
        self._signal = recording.astype(np.float64)
        self._size = 1 << (len(self._signal) + longest - 1).bit_length()
        self._spectrum = np.fft.rfft(self._signal, self._size)
        self._energy = np.concatenate([[0.0], np.cumsum(self._signal**2)])

    def peaks(self, piece: _Floats) -> list[tuple[int, float]]:
        """Positions (sample of the piece's beginning) and scores of local maxima above the floor, best first."""
        places = len(self._signal) - len(piece) + 1
        if places <= 0:
            return []
        product = np.fft.irfft(self._spectrum * np.conj(np.fft.rfft(piece, self._size)), self._size)[:places]
        local = self._energy[len(piece) :] - self._energy[: -len(piece)]
        # Under a thousandth of full scale there is only codec idle noise, which correlates with anything by chance.
        heard = local > len(piece) * 32.0**2
        score = np.where(heard, product / np.sqrt(np.maximum(local, 1.0) * float(piece @ piece)), 0.0)
        found = []
        while (at := int(np.argmax(score))) >= 0 and score[at] >= _PIECE_FLOOR:
            found.append((at, float(score[at])))
            score[max(0, at - len(piece) // 2) : at + len(piece) // 2] = 0.0
        return found


def _best_cluster(votes: Sequence[tuple[int, int, float]], pieces: int, agree: int) -> tuple[int, float, float] | None:
    """The beginning that most pieces agree on: (sample, mean score over all pieces, share of pieces), if a hit."""
    best: tuple[int, float, float] | None = None
    for begin, _, _ in votes:
        by_piece: dict[int, float] = {}
        for other, number, score in votes:
            if abs(other - begin) <= agree:
                by_piece[number] = max(score, by_piece.get(number, 0.0))
        total = sum(by_piece.values()) / pieces
        if best is None or total > best[1]:
            best = (begin, total, len(by_piece) / pieces)
    return best if best is not None and best[1] >= _HIT_SCORE else None
