"""Trains the head of ``policies.meaning``: run by whoever changes it, never in service.

    pip install 'firmline[train]'
    python -m ivr.train_head --data FOLDER [--unseen] [--out ivr/data/meaning/head.npz]

FOLDER holds ``convabuse_train.csv`` (ConvAbuse, Cercas Curry et al., EMNLP 2021, CC BY 4.0: columns text, mean_rating,
abusive, types) and ``ordinary_tune.csv`` (src, text: banking77 CC BY 4.0, CLINC150 CC BY 3.0, Taskmaster CC BY 4.0,
Schema-Guided Dialogue CC BY-SA 4.0). Their lines are read, never stored: what is kept are
weights. The rest of the training text is our own: the examples of the pack ``standard``, the lines of ``phone.csv`` and
the sentences that ``patterns.yaml`` makes. Deterministic: same input, same weights.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
import yaml
from sklearn.linear_model import LogisticRegression

from ivr.embedding import WIDTH, sentence_model
from ivr.judge import load_pack
from ivr.meaning import HEAD_FILE
from policies import meaning as m
from policies.pack import Pack
from policies.types import Category
from policies.verdict import by_words

PER_PATTERN = 6
FREEDOM = 0.2
STEPS = 150
FOLDS = 3
OWN, DANGER, PATTERN, SURE, UNSURE, ORDINARY = 2.0, 5.0, 0.8, 1.2, 0.4, 0.7
"""Weights: our own sentences, those of them where somebody is in danger (they are few), those made from patterns,
ConvAbuse where its annotators agree and where not, the rest."""
BARS = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Line:
    """One training sentence; ``weight`` says how far to trust it, ``natural`` that a person wrote the whole of it.

    ``source`` is its set, ``kind`` the kind of line within it (both only for the table that training prints).
    """

    text: str
    category: Category
    weight: float
    source: str
    kind: str = ""

    @property
    def natural(self) -> bool:
        """Whether a person wrote the whole of it."""
        return self.source != "patterns"


def lines_of(data: Path, pack: Pack) -> list[Line]:
    """Everything there is to learn from."""
    lines = [_own(text, kind, "pack") for text, kind in pack.taught()]
    lines += phone_lines({line.text for line in lines})
    lines += [Line(text, kind, PATTERN, "patterns") for text, kind in pattern_lines()]
    with (data / "convabuse_train.csv").open(encoding="utf-8") as file:
        lines += [_convabuse(row) for row in csv.DictReader(file)]
    with (data / "ordinary_tune.csv").open(encoding="utf-8") as file:
        lines += [Line(row["text"], Category.CIVIL, ORDINARY, row["src"]) for row in csv.DictReader(file)]
    return lines


def phone_lines(taken: set[str]) -> list[Line]:
    """Our own lines as callers say them (``phone.csv``), less those that a pack teaches in the same words."""
    text = (resources.files("ivr") / "data" / "meaning" / "phone.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["text"] not in taken]
    return [_own(row["text"], Category(row["category"]), "phone", row["kind"]) for row in rows]


def _own(text: str, category: Category, source: str, kind: str = "") -> Line:
    return Line(text, category, DANGER if category is Category.SAFEGUARD else OWN, source, kind)


def _convabuse(row: dict[str, str]) -> Line:
    """Where the annotators were in two minds, so are we: such lines weigh less."""
    sure = abs(float(row["mean_rating"]) + 0.3) > 0.35
    kind = Category.CIVIL
    if row["abusive"] == "1":
        kinds = row["types"]
        kind = Category.INSULT
        if "sex_harassment" in kinds:
            kind = Category.SEXUAL
        elif "sexist" not in kinds and re.search("racist|homophobic|transphobic", kinds):
            kind = Category.SLUR
    return Line(row["text"], kind, SURE if sure else UNSURE, "convabuse")


def pattern_lines() -> Iterator[tuple[str, Category]]:
    """Sentences made from ``patterns.yaml``: every pattern with a few fillings, the same ones each time."""
    text = (resources.files("ivr") / "data" / "meaning" / "patterns.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    slots = data.pop("slots")
    rng = random.Random(20)
    for kind, patterns in data.items():
        for pattern in patterns:
            made = {
                re.sub(r"\{(\w+)\}", lambda hole: str(rng.choice(slots[hole[1]])), pattern) for _ in range(PER_PATTERN)
            }
            yield from ((sentence, Category(kind)) for sentence in sorted(made))


@dataclass(frozen=True, slots=True)
class Features:
    """What the head sees of every line, as one matrix block a kind, and how lines are weighed and labelled."""

    vectors: m.Vectors
    rules: m.Vectors
    labels: np.ndarray[tuple[int], np.dtype[np.int64]]
    weights: m.Vectors


def features_of(lines: Sequence[Line], pack: Pack) -> Features:
    """Embed and rule on every line (about a minute on one core)."""
    return Features(
        sentence_model()([line.text for line in lines]),
        np.stack([m.rule_features(by_words(line.text, pack)[1]) for line in lines]),
        np.array([m.CLASSES.index(line.category) for line in lines]),
        np.array([line.weight for line in lines], dtype=np.float32),
    )


Rows = np.ndarray[tuple[int], np.dtype[np.int64]]


def inputs(f: Features, rows: Rows) -> m.Vectors:
    """One row a line, scaled as ``policies.meaning.Head`` scales it."""
    return np.concatenate([f.vectors[rows] * m.VECTOR_SCALE, f.rules[rows]], axis=1)


def fit(f: Features, rows: Rows) -> m.Head:
    """Multinomial logistic regression with an L2 penalty, on the lines ``rows``."""
    model = LogisticRegression(C=FREEDOM, max_iter=STEPS, tol=1e-3)
    model.fit(inputs(f, rows), f.labels[rows], sample_weight=f.weights[rows])
    w = np.asarray(model.coef_.T, dtype=np.float32)
    wide = m.PARTS * WIDTH
    return m.Head(w[:wide], w[wide:], np.asarray(model.intercept_, dtype=np.float32))


def scored(f: Features, rows: Rows, head: m.Head) -> m.Vectors:
    """Log-probabilities of the lines ``rows``, one column a class."""
    scores = inputs(f, rows) @ np.concatenate([head.vectors, head.rules]) + head.bias
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(np.log(raised / raised.sum(axis=1, keepdims=True) + 1e-9), dtype=np.float32)


def held_back(f: Features, lines: Sequence[Line], fold: Rows) -> m.Vectors:
    """Scores (log-probabilities) of every line by a head that never saw its fold."""
    out = np.zeros((len(lines), len(m.CLASSES)), dtype=np.float32)
    for number in sorted(set(fold.tolist())):
        unseen = np.flatnonzero(fold == number)
        out[unseen] = scored(f, unseen, fit(f, np.flatnonzero(fold != number)))
    return out


def table_of(lines: Sequence[Line], scores: m.Vectors) -> Iterator[str]:
    """Of each kind of line, held back: the share whose probability of an attack is at least each of ``BARS``."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for line, row in zip(lines, np.exp(scores[:, 1:5]).sum(axis=1).tolist(), strict=True):
        if line.natural:
            what = "attack" if line.category in m.ATTACKS else line.category.value
            groups.setdefault((what, line.source, line.kind), []).append(row)
    yield f"{'held back':44}{'lines':>6}" + "".join(f"{bar:8.2f}" for bar in BARS)
    for key, chances in sorted(groups.items()):
        shares = "".join(f"{sum(c >= bar for c in chances) / len(chances):8.3f}" for bar in BARS)
        yield f"{' '.join(key):44}{len(chances):6}{shares}"


def temperature_of(scores: m.Vectors, labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    """The divisor of the scores that makes the probabilities most honest (least log loss)."""
    best = (np.inf, 1.0)
    for candidate in np.arange(0.5, 3.01, 0.05):
        raised = np.exp(scores / candidate)
        chance = raised[np.arange(len(labels)), labels] / raised.sum(axis=1)
        best = min(best, (float(-np.log(chance + 1e-9).mean()), float(candidate)))
    return best[1]


def save(head: m.Head, f: Features, pack: Pack, out: Path) -> None:
    """Half-precision weights, and the vectors of the pack's examples."""
    texts = [text for text, _ in pack.taught()]
    half = np.float16
    np.savez_compressed(
        out,
        vectors=head.vectors.astype(half),
        rules=head.rules.astype(half),
        bias=head.bias,
        temperature=np.float32(head.temperature),
        texts=np.frombuffer("\n".join(texts).encode(), dtype=np.uint8),
        known=f.vectors[: len(texts), :WIDTH].astype(half),
    )


def main() -> None:
    """Train on everything, calibrate on held-back folds, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data" / "meaning" / HEAD_FILE)
    parser.add_argument("--unseen", action="store_true", help="also score each source by a head that never saw it")
    given = parser.parse_args()
    pack = load_pack("standard", meaning=False)
    lines = lines_of(given.data, pack)
    features = features_of(lines, pack)
    scores = held_back(features, lines, np.random.default_rng(7).integers(0, FOLDS, len(lines)))
    natural = np.array([i for i, line in enumerate(lines) if line.natural and line.weight != UNSURE])
    temperature = temperature_of(scores[natural], features.labels[natural])
    head = fit(features, np.arange(len(lines)))
    save(replace(head, temperature=temperature), features, pack, given.out)
    print("\n".join(table_of(lines, scores)))
    if given.unseen:
        print("\nthe same with the whole source left out of the training")
        sources = sorted({line.source for line in lines})
        numbers = np.array([sources.index(line.source) for line in lines])
        print("\n".join(table_of(lines, held_back(features, lines, numbers))))
    right = (scores.argmax(axis=1) == features.labels)[natural].mean()
    print(f"{len(lines)} lines, temperature {temperature:.2f}; {right:.3f} of the lines held back are right")


if __name__ == "__main__":
    main()
