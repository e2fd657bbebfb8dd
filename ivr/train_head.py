"""Trains the head of ``policies.meaning``: run by whoever changes it, never in service.

    python -m ivr.train_head --data FOLDER [--out ivr/data/meaning/head.npz]

FOLDER holds ``convabuse_train.csv`` (ConvAbuse, Cercas Curry et al., EMNLP 2021, CC BY 4.0: columns text, mean_rating,
abusive, types) and ``ordinary_tune.csv`` (src, text: banking77 CC BY 4.0, CLINC150 CC BY 3.0, Taskmaster CC BY 4.0,
Schema-Guided Dialogue CC BY-SA 4.0). Their lines are read, never stored: what is kept are weights, and the runs of
words that several lines share. The rest of the training text is our own: the examples of the pack ``standard`` and the
sentences that ``patterns.yaml`` makes. Deterministic: same input, same weights.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import yaml

from ivr.embedding import WIDTH, sentence_model
from ivr.judge import load_pack
from ivr.meaning import HEAD_FILE
from policies import meaning as m
from policies.pack import Pack
from policies.types import Category
from policies.verdict import by_words

PER_PATTERN = 14
MIN_GRAM = 6
MAX_GRAMS = 6_000
PENALTY = 1e-4
STEPS = 300
FOLDS = 2
OWN, PATTERN, SURE, UNSURE = 2.5, 1.2, 1.2, 0.4
"""Weights: our own sentences, those made from patterns, ConvAbuse where its annotators agree and where not."""


@dataclass(frozen=True, slots=True)
class Line:
    """One training sentence; ``weight`` says how far to trust it, ``natural`` that a person wrote the whole of it."""

    text: str
    category: Category
    weight: float
    natural: bool = True


def lines_of(data: Path, pack: Pack) -> list[Line]:
    """Everything there is to learn from."""
    lines = [Line(text, kind, OWN, natural=True) for text, kind in pack.taught()]
    lines += [Line(text, kind, PATTERN, natural=False) for text, kind in pattern_lines()]
    with (data / "convabuse_train.csv").open(encoding="utf-8") as file:
        lines += [_convabuse(row) for row in csv.DictReader(file)]
    with (data / "ordinary_tune.csv").open(encoding="utf-8") as file:
        lines += [Line(row["text"], Category.CIVIL, 1.0) for row in csv.DictReader(file)]
    return lines


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
    return Line(row["text"], kind, SURE if sure else UNSURE)


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
    grams: list[set[str]]
    labels: np.ndarray[tuple[int], np.dtype[np.int64]]
    weights: m.Vectors


def features_of(lines: Sequence[Line], pack: Pack) -> Features:
    """Embed and rule on every line; the slow part (about two minutes on one core)."""
    ruled = [by_words(line.text, pack) for line in lines]
    return Features(
        sentence_model()([line.text for line in lines]),
        np.stack([m.rule_features(verdict) for _, verdict in ruled]),
        [m.grams_of([t.text for t in tokens]) for tokens, _ in ruled],
        np.array([m.CLASSES.index(line.category) for line in lines]),
        np.array([line.weight for line in lines], dtype=np.float32),
    )


def fit(f: Features, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> m.Head:
    """Multinomial logistic regression with an L2 penalty, by Adam over the whole batch."""
    counted: Counter[str] = Counter()
    for at in rows:
        counted.update(f.grams[at])
    grams = {gram: i for i, (gram, n) in enumerate(counted.most_common(MAX_GRAMS)) if n >= MIN_GRAM}
    x = np.concatenate([f.vectors[rows] * m.VECTOR_SCALE, f.rules[rows], _runs(f, rows, grams)], axis=1)
    x = np.concatenate([x, np.ones((len(rows), 1), dtype=np.float32)], axis=1)
    wanted = np.eye(len(m.CLASSES), dtype=np.float32)[f.labels[rows]]
    share = (f.weights[rows] / f.weights[rows].sum())[:, None]
    w = _adam(x, wanted, share)
    wide, narrow = 2 * WIDTH, 2 * WIDTH + m.RULE_WIDTH
    return m.Head(w[:wide], w[wide:narrow], w[narrow:-1], w[-1], grams)


def _runs(f: Features, rows: np.ndarray[tuple[int], np.dtype[np.int64]], grams: dict[str, int]) -> m.Vectors:
    out = np.zeros((len(rows), len(grams)), dtype=np.float32)
    for i, at in enumerate(rows):
        known = [grams[gram] for gram in f.grams[at] if gram in grams]
        if known:
            out[i, known] = m.GRAM_SCALE / np.sqrt(len(known))
    return out


def _adam(x: m.Vectors, wanted: m.Vectors, share: m.Vectors) -> m.Vectors:
    w = np.zeros((x.shape[1], wanted.shape[1]), dtype=np.float32)
    first, second = np.zeros_like(w), np.zeros_like(w)
    keep = np.ones((x.shape[1], 1), dtype=np.float32)
    keep[-1] = 0.0  # the bias is not held back
    for step in range(1, STEPS + 1):
        scores = x @ w
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        slope = x.T @ ((raised / raised.sum(axis=1, keepdims=True) - wanted) * share) + PENALTY * w * keep
        first = 0.9 * first + 0.1 * slope
        second = 0.99 * second + 0.01 * slope * slope
        rate = 0.05 * (1 - step / STEPS) + 0.002
        w -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
    return w


def held_back(
    f: Features, lines: Sequence[Line], judged: Pack
) -> tuple[m.Vectors, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Scores (log-probabilities) of every natural line by a head that never saw it."""
    fold = np.random.default_rng(7).integers(0, FOLDS, len(lines))
    out = np.zeros((len(lines), len(m.CLASSES)), dtype=np.float32)
    for number in range(FOLDS):
        head = fit(f, np.flatnonzero(fold != number))
        for at in np.flatnonzero(fold == number).tolist():
            tokens, ruled = by_words(lines[at].text, judged)
            out[at] = np.log(head.probabilities(f.vectors[at], [t.text for t in tokens], ruled) + 1e-9)
    natural = np.array([i for i, line in enumerate(lines) if line.natural and line.weight != UNSURE])
    return out, natural


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
        runs=head.runs.astype(half),
        bias=head.bias,
        temperature=np.float32(head.temperature),
        grams=np.frombuffer("\n".join(head.grams).encode(), dtype=np.uint8),
        texts=np.frombuffer("\n".join(texts).encode(), dtype=np.uint8),
        known=f.vectors[: len(texts), :WIDTH].astype(half),
    )


def main() -> None:
    """Train on everything, calibrate on held-back folds, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data" / "meaning" / HEAD_FILE)
    given = parser.parse_args()
    pack = load_pack("standard", meaning=False)
    lines = lines_of(given.data, pack)
    features = features_of(lines, pack)
    scores, natural = held_back(features, lines, pack)
    temperature = temperature_of(scores[natural], features.labels[natural])
    head = fit(features, np.arange(len(lines)))
    save(m.Head(head.vectors, head.rules, head.runs, head.bias, head.grams, temperature), features, pack, given.out)
    right = (scores.argmax(axis=1) == features.labels)[natural].mean()
    print(
        f"{len(lines)} lines, {len(head.grams)} runs of words, temperature {temperature:.2f}; "
        f"{right:.3f} of the lines held back are right"
    )


if __name__ == "__main__":
    main()
