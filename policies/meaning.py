"""What a sentence means: what a sentence model trained for it says, and the pack's own examples.

Owns: how the model's scores and the rules' findings become probabilities, nearest examples, long texts cut into
windows. Never: the model (the embed function is passed in), files, thresholds (the pack has them).

Two readings of one sentence. The model's *scores*, with what the rules found, are a trained judgement; it generalises.
The *examples* of the pack are looked up by nearness; they are how ops teach: a line of YAML close enough to what was
said decides, without any training, and is quoted as the reason.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from policies.types import Category, Verdict

Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]
"""Sentences -> shape ``(n, width + len(CLASSES))``: a vector of unit length whose cosines say how alike sentences are
in topic and wording, then the model's score of each class (a logit, without what the rules add)."""

CLASSES = (
    Category.CIVIL,
    Category.INSULT,
    Category.THREAT,
    Category.SLUR,
    Category.SEXUAL,
    Category.SAFEGUARD,
)
"""What the head tells apart. Venting and swearing at a thing are civil to it: the rules name those."""
ATTACKS = CLASSES[1:5]

WINDOW_WORDS = 40
"""Longer texts are read in windows of this many words, as far as ``MAX_WINDOWS`` goes: the cost is bounded."""
MAX_WINDOWS = 6
CACHED = 512

_KINDS = tuple(Category)
RULE_WIDTH = 2 * len(_KINDS) + 3


@dataclass(frozen=True, slots=True)
class Head:
    """What turns the model's scores into probabilities.

    ``rules`` has shape ``(RULE_WIDTH, 6)``: what each finding of the rules adds to each class's score; learnt together
    with the model. ``temperature`` divides the scores (Guo et al. 2017), fitted on lines held back.
    """

    rules: Vectors
    temperature: float = 1.0

    def probabilities(self, scores: Vectors, ruled: Verdict) -> Vectors:
        """One probability a class, in the order of ``CLASSES``."""
        both = scores + rule_features(ruled) @ self.rules
        raised = np.exp((both - both.max()) / self.temperature)
        return np.asarray(raised / raised.sum(), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Near:
    """The pack's example closest to what was said; ``similarity`` is the cosine, -1 to 1."""

    text: str
    category: Category
    similarity: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What one text means.

    ``attack`` is the probability that it attacks the listener, ``category`` the likeliest kind of attack, ``danger``
    the probability that somebody is in danger. ``near_bad`` and ``near_civil`` are the nearest examples of each side,
    ``near_kind`` the nearest of ``category``: what that probability is best explained by.
    """

    attack: float
    category: Category
    danger: float
    near_bad: Near | None
    near_civil: Near | None
    near_kind: Near | None = None


def rule_features(ruled: Verdict) -> Vectors:
    """What the rules found, as numbers: category by direction, severity, confidence and whether it would strike."""
    out = np.zeros(RULE_WIDTH, dtype=np.float32)
    out[2 * _KINDS.index(ruled.category) + int(ruled.directed)] = 1.0
    out[-3] = ruled.severity / 3
    out[-2] = ruled.confidence if ruled.strike else 0.0
    out[-1] = float(ruled.strike)
    return out


class Meaning:
    """The reader of one pack: the head and the pack's examples. Safe to share between calls.

    ``known`` holds examples' unit vectors computed before, so that only lines that ops added cost time at start.
    """

    def __init__(
        self,
        embed: Embed,
        head: Head,
        examples: Sequence[tuple[str, Category]],
        known: Mapping[str, Vectors] | None = None,
    ) -> None:
        self._embed, self._head = embed, head
        self._texts = [text for text, _ in examples]
        self._kinds = [kind for _, kind in examples]
        self._matrix = self._example_vectors(known or {})
        civil = np.array([kind is Category.CIVIL for kind in self._kinds], dtype=bool)
        self._bad, self._civil = np.flatnonzero(~civil), np.flatnonzero(civil)
        self._of = {kind: np.flatnonzero([each is kind for each in self._kinds]) for kind in ATTACKS}
        self._cache: OrderedDict[str, Vectors] = OrderedDict()

    def prepare(self, text: str) -> None:
        """Do the slow part of ``read`` now, for a thread that may take its time; the result is kept for a while."""
        for window in windows(text):
            self._vector(window)

    def read(self, text: str, judged: Callable[[str], Verdict]) -> Reading:
        """What ``text`` means; of a long one, its worst window. ``judged`` gives a window's ruling."""
        readings = [self._read(window, judged(window)) for window in windows(text)]
        worst = max(readings, key=lambda r: r.attack)
        danger = max(readings, key=lambda r: r.danger)
        if danger.danger > worst.attack:
            worst = danger
        return replace(worst, danger=danger.danger)

    def _read(self, text: str, ruled: Verdict) -> Reading:
        vector = self._vector(text)
        alike, scores = vector[: -len(CLASSES)], vector[-len(CLASSES) :]
        chances = self._head.probabilities(scores, ruled)
        attacks = chances[1:5]
        similar = self._matrix @ alike if len(self._texts) else np.zeros(0, dtype=np.float32)
        likeliest = ATTACKS[int(attacks.argmax())]
        return Reading(
            float(attacks.sum()),
            likeliest,
            float(chances[5]),
            self._nearest(similar, self._bad),
            self._nearest(similar, self._civil),
            self._nearest(similar, self._of[likeliest]),
        )

    def _nearest(self, similar: Vectors, among: npt.NDArray[np.intp]) -> Near | None:
        if not len(among):
            return None
        at = int(among[int(similar[among].argmax())])
        return Near(self._texts[at], self._kinds[at], float(similar[at]))

    def _vector(self, text: str) -> Vectors:
        found = self._cache.get(text)
        if found is None:
            found = self._embed([text])[0]
            self._cache[text] = found
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return found

    def _example_vectors(self, known: Mapping[str, Vectors]) -> Vectors:
        missing = [text for text in self._texts if text not in known]
        fresh = self._embed(missing)[:, : -len(CLASSES)] if missing else ()
        found = {**known, **dict(zip(missing, fresh, strict=True))}
        return np.array([found[text] for text in self._texts], dtype=np.float32)


def windows(text: str) -> list[str]:
    """The text itself, or its first windows of ``WINDOW_WORDS`` words when it is long."""
    words = text.split(None, WINDOW_WORDS * MAX_WINDOWS)[: WINDOW_WORDS * MAX_WINDOWS]
    if len(words) <= WINDOW_WORDS:
        return [" ".join(words)[: WINDOW_WORDS * 30]]
    starts = range(0, len(words), WINDOW_WORDS)
    return [" ".join(words[at : at + WINDOW_WORDS])[: WINDOW_WORDS * 30] for at in starts]
