"""Words while they are being said: when to look at a leg's running speech, and what to show of what came back.

Sans-IO, one a leg. A draft is a look at the audio from the last settled word to now. Words that two looks in a row
agree on, and that lie well back, are settled: they are not decoded again, so that the cost of a second of speech stays
the same however long somebody talks. Settled or not, none of it counts: the final is decoded from the whole utterance.

At most one look is under way. The interval follows the recogniser: an answer that is slow, or a look that was thrown
away undecoded, makes the next ones rarer; prompt answers bring the interval back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile

from audio.types import Transcript, Word

LOST = ("stale", "overload", "asr_failed")
"""Reasons that say nothing about what was heard: the recogniser did not come to it."""


@dataclass(frozen=True, slots=True)
class DraftOptions:
    """``every_ms``: time between looks when the recogniser is idle; 0 looks at nothing. ``tense_every_ms``: the same in
    a call whose ladder has moved. ``slowest_ms``: the longest interval under load. ``settle_from_ms``: a window this
    long is asked for word times, so that it can be cut. ``keep_ms``: the last so many are never
    settled."""

    every_ms: int = 0
    tense_every_ms: int = 400
    slowest_ms: int = 6_000
    settle_from_ms: int = 3_500
    keep_ms: int = 1_200

    def __post_init__(self) -> None:
        """:raises ValueError: when a value is out of range."""
        if self.every_ms < 0 or self.tense_every_ms <= 0 or self.slowest_ms < max(self.every_ms, self.tense_every_ms):
            raise ValueError("every_ms must not be negative, nor slowest_ms shorter than the intervals")


class Drafts:
    """See the module."""

    def __init__(self, options: DraftOptions) -> None:
        self.options = options
        self.token: int | None = None
        """Of the look that is under way."""
        self.from_ms = 0
        """Where the next look begins: all before it is settled."""
        self._settled: list[str] = []
        self._last: list[str] = []
        self._asked_ms: int | None = None
        self._window_ms = 0
        self._spread = 1.0

    def due(self, now_ms: int, *, tense: bool) -> bool:
        """Whether to look again now."""
        if not self.options.every_ms or self.token is not None:
            return False
        if self._asked_ms is None:
            return True
        return now_ms - self._asked_ms >= self._interval_ms(tense)

    def wants_word_times(self, window_ms: int) -> bool:
        """Whether a look this long should bring the times by which the window is cut."""
        return window_ms >= self.options.settle_from_ms

    def asked(self, token: int, end_ms: int, now_ms: int) -> None:
        """A look at the audio up to ``end_ms`` was asked for."""
        self.token, self._asked_ms, self._window_ms = token, now_ms, end_ms - self.from_ms
        self._end_ms = end_ms

    def heard(self, transcript: Transcript, now_ms: int) -> str | None:
        """The look is back; returns the words to show, ``None`` when there is nothing new to be shown."""
        self.token = None
        if self._asked_ms is not None:
            self._follow(now_ms - self._asked_ms, lost=transcript.dropped in LOST)
        if transcript.dropped in LOST:
            return None
        words = transcript.text.split()
        shown = " ".join([*self._settled, *words])
        if transcript.words:
            self._settle(transcript.words)
        else:
            self._last = words
            if self._window_ms > 2 * self.options.settle_from_ms:
                # Nothing to settle by, and a window that grows: what lies far back is left to the final.
                self.from_ms, self._last = self._end_ms - self.options.keep_ms, []
        return shown or None

    def over(self) -> int | None:
        """The utterance is over, or its end is being decoded: returns the look to be forgotten, if any."""
        token, self.token = self.token, None
        self.from_ms, self._settled, self._last, self._asked_ms = 0, [], [], None
        return token

    def forget(self) -> int | None:
        """The look under way is not wanted any more; what was settled stays."""
        token, self.token = self.token, None
        return token

    def offered(self, now_ms: int) -> None:
        """An offer, which shows all words so far, was asked for: the next look comes one interval later."""
        self._asked_ms = now_ms

    def began(self, now_ms: int) -> None:
        """Speech began: the first look comes one interval later."""
        if self._asked_ms is None:
            self._asked_ms = now_ms

    # --- inside -------------------------------------------------------------------------------------------------------

    def _interval_ms(self, tense: bool) -> float:
        options = self.options
        base_ms = min(options.every_ms, options.tense_every_ms) if tense else options.every_ms
        return min(options.slowest_ms, base_ms * self._spread)

    def _follow(self, took_ms: int, *, lost: bool) -> None:
        """Rarer at once, denser little by little: as networks do it (RFC 5681), for the same reason."""
        if lost or took_ms > 2 * self.options.every_ms:
            self._spread = min(self._spread * 2, self.options.slowest_ms / self.options.every_ms)
        elif took_ms < self.options.every_ms:
            self._spread = max(1.0, self._spread * 0.8)

    def _settle(self, words: tuple[Word, ...]) -> None:
        texts = [word.text for word in words]
        limit_ms = self._end_ms - self.options.keep_ms
        pairs = zip(texts, self._last, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: _bare(pair[0]) == _bare(pair[1]), pairs))
        if self._window_ms > 2 * self.options.settle_from_ms:
            # Two looks that cannot agree must not let the window grow: time decides.
            same = len(words)
        count = sum(1 for _ in takewhile(lambda word: word.end_ms <= limit_ms, words[:same]))
        if count:
            following = words[count].start_ms if count < len(words) else words[count - 1].end_ms
            self.from_ms = (words[count - 1].end_ms + following) // 2
            self._settled += texts[:count]
        self._last = texts[count:]


def _bare(word: str) -> str:
    return re.sub(r"[^\w']", "", word.lower())
