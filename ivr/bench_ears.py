"""``firmline bench ears``: how well, how soon and at what cost words are heard; ours and peers in one interleaved run.

Everything is measured on the core of a live call (:mod:`ivr.bench_sim`), with speech and noises that any machine can
make again (:mod:`ivr.bench_speech`). Costs are CPU time, so that a busy machine does not falsify them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from audio.level import dbov
from audio.types import Pcm, Segment
from ivr.asr import SyncAsr
from ivr.bench import percentile
from ivr.bench_sim import Outcome, Seen
from ivr.bench_speech import RATE_HZ, Line, stretch_of_talk


@dataclass(frozen=True, slots=True)
class Truth:
    """One line as it lies in a leg: its words, its bounds, and when each word ends, where that is known."""

    words: tuple[str, ...]
    start_ms: int
    end_ms: int
    word_ends_ms: tuple[int | None, ...]

    def later(self, by_ms: int) -> Truth:
        """The same, moved."""
        ends = tuple(None if end is None else end + by_ms for end in self.word_ends_ms)
        return Truth(self.words, self.start_ms + by_ms, self.end_ms + by_ms, ends)

    def said_between(self, from_ms: int, to_ms: int, slack_ms: int = 300) -> range:
        """Which words were said then: who says "it was" nine times is not shown the ninth when the first appears."""
        ends = self.word_ends_ms
        first = next((at for at, end in enumerate(ends) if end is not None and end >= from_ms - slack_ms), len(ends))
        after = (at for at, end in enumerate(ends) if at >= first and end is not None and end > to_ms + slack_ms)
        # A word whose end is not known stands between two that are.
        while first and ends[first - 1] is None:
            first -= 1
        return range(first, next(after, len(ends)))


@dataclass(frozen=True, slots=True)
class Talk:
    """One leg's audio and what is said in it."""

    samples: Pcm
    truths: tuple[Truth, ...]

    @property
    def speech_ms(self) -> int:
        """Time in which somebody speaks."""
        return sum(truth.end_ms - truth.start_ms for truth in self.truths)

    def later(self, by_ms: int) -> Talk:
        """The same, begun later: calls do not begin together."""
        quiet = np.zeros(RATE_HZ * by_ms // 1000, np.int16)
        return Talk(np.concatenate([quiet, self.samples]), tuple(truth.later(by_ms) for truth in self.truths))


class Aligner:
    """Knows when each word of a line ends, by the model's own alignment of that line alone; each line is done once."""

    def __init__(self, asr: SyncAsr) -> None:
        self._asr = asr
        self._known: dict[tuple[str, str], Truth] = {}

    def truth(self, line: Line) -> Truth:
        """Of the line as it stands: its audio begins at 0."""
        key = line.text, line.voice
        if key not in self._known:
            self._known[key] = _truth(line, self._asr)
        return self._known[key]


def talk_of(lines: list[Line], aligner: Aligner, pause_ms: tuple[int, ...] = (900, 1_300, 700)) -> Talk:
    """A leg that says ``lines``, one after the other."""
    samples, starts = stretch_of_talk(lines, pause_ms)
    return Talk(samples, tuple(aligner.truth(line).later(start) for line, start in zip(lines, starts, strict=True)))


def _truth(line: Line, aligner: SyncAsr) -> Truth:
    first_ms, last_ms = _sounding_ms(line.samples)
    segment = Segment(line.samples, RATE_HZ, first_ms, last_ms, 0, word_times=True)
    heard = aligner.decode(segment).words
    expected = bare_words(line.text)
    ends: list[int | None] = [None] * len(expected)
    matcher = SequenceMatcher(None, expected, [_bare(word.text) for word in heard], autojunk=False)
    for block in matcher.get_matching_blocks():
        for at in range(block.size):
            ends[block.a + at] = min(last_ms, heard[block.b + at].end_ms)
    return Truth(tuple(expected), first_ms, last_ms, tuple(ends))


def _sounding_ms(samples: Pcm) -> tuple[int, int]:
    """First and last 10 ms that are no more than 30 dB under the loudest."""
    step = RATE_HZ // 100
    levels = np.array([dbov(samples[at : at + step]) for at in range(0, len(samples) - step, step)])
    loud = np.flatnonzero(levels > levels.max() - 30)
    return int(loud[0]) * 10, (int(loud[-1]) + 1) * 10


# --- measures ---------------------------------------------------------------------------------------------------------


def bare_words(text: str) -> list[str]:
    """Lower case words without punctuation."""
    return [word for word in (_bare(each) for each in text.replace("-", " ").split()) if word]


def _bare(word: str) -> str:
    return re.sub(r"[^\w']", "", word.lower())


def word_errors(expected: Sequence[str], heard: Sequence[str]) -> int:
    """Least number of words to replace, add or remove."""
    row = list(range(len(heard) + 1))
    for at, want in enumerate(expected, 1):
        before, row[0] = row[0], at
        for to, got in enumerate(heard, 1):
            before, row[to] = row[to], min(row[to] + 1, row[to - 1] + 1, before + (want != got))
    return row[-1]


SATURATED = 0.95
"""Decoding that takes so much of a call's own length leaves a core no rest."""


@dataclass(slots=True)
class Measured:
    """Sums over the runs of one variant."""

    words: int = 0
    errors: int = 0
    visible_ms: list[float] = field(default_factory=list)
    never_visible: int = 0
    final_ms: list[float] = field(default_factory=list)
    decode_cpu_ms: float = 0.0
    other_cpu_ms: float = 0.0
    speech_ms: int = 0
    audio_ms: int = 0
    decoded: int = 0
    passes: int = 0
    stale: int = 0

    def add(self, talks: Sequence[Talk], outcome: Outcome) -> None:
        """One more run."""
        for talk, seen in zip(talks, outcome.seen, strict=True):
            finals = [each for each in seen if each.final]
            expected = [word for truth in talk.truths for word in truth.words]
            self.words += len(expected)
            self.errors += word_errors(expected, bare_words(" ".join(each.text for each in finals)))
            for truth in talk.truths:
                self._lateness(truth, [each for each in seen if each.meets(truth.start_ms, truth.end_ms)])
            self.speech_ms += talk.speech_ms
            self.audio_ms += len(talk.samples) * 1000 // RATE_HZ
        self.decode_cpu_ms += outcome.decode_cpu_ms
        self.other_cpu_ms += outcome.other_cpu_ms
        self.decoded += outcome.decoded
        self.passes += outcome.passes
        self.stale += outcome.stale

    def _lateness(self, truth: Truth, seen: Sequence[Seen]) -> None:
        first: dict[int, float] = {}
        for each in sorted(seen, key=lambda each: each.t_ms):
            here = truth.said_between(each.start_ms, each.end_ms)
            said = truth.words[here.start : here.stop]
            matcher = SequenceMatcher(None, said, bare_words(each.text), autojunk=False)
            for block in matcher.get_matching_blocks():
                for at in range(block.a, block.a + block.size):
                    first.setdefault(here.start + at, each.t_ms)
        for at, end_ms in enumerate(truth.word_ends_ms):
            if end_ms is None:
                continue
            if at in first:
                self.visible_ms.append(max(0.0, first[at] - end_ms))
            else:
                self.never_visible += 1
        finals = [each.t_ms for each in seen if each.final and each.text]
        if finals:
            self.final_ms.append(max(finals) - truth.end_ms)

    def row(self, name: str) -> dict[str, Any]:
        """One line of the table."""
        return {
            "how": name,
            "WER %": round(100 * self.errors / max(1, self.words), 1),
            "CPU s per s of speech": round(self.decode_cpu_ms / max(1, self.speech_ms), 4),
            "keeps up on a core": "yes" if self.decode_cpu_ms < SATURATED * self.audio_ms else "no, saturated",
            "any word visible p50 / p95 s": pair_s(self.visible_ms),
            "last word final p50 / p95 s": pair_s(self.final_ms),
            "segments a pass": round(self.decoded / max(1, self.passes), 2),
            "drafts not decoded": self.stale,
        }


def pair_s(values_ms: Sequence[float]) -> str:
    """Median and 95th percentile in seconds, for a table."""
    return f"{percentile(values_ms, 50) / 1000:.2f} / {percentile(values_ms, 95) / 1000:.2f}"
