"""The sentences that the model of meaning learns from, and how far each is trusted."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from policies.pack import Pack
from policies.types import Category

FOLDER = Path(__file__).parents[1] / "data" / "meaning"
LINES = FOLDER / "lines"
PER_PATTERN = 6
OWN, DANGER, PATTERN, HEARD, SURE, UNSURE, ORDINARY = 2.0, 4.0, 0.4, 0.7, 1.0, 0.4, 0.7
"""Weights: our own sentences, those of them where somebody is in danger (they are few), those made from patterns, those
of ours as the recogniser wrote them down, ConvAbuse where its annotators agree and where not, the rest."""


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
    lines += own_lines({line.text for line in lines})
    lines += [Line(text, kind, PATTERN, "patterns") for text, kind in pattern_lines()]
    with (data / "convabuse_train.csv").open(encoding="utf-8") as file:
        lines += [_convabuse(row) for row in csv.DictReader(file)]
    with (data / "ordinary_tune.csv").open(encoding="utf-8") as file:
        lines += [Line(row["text"], Category.CIVIL, ORDINARY, row["src"]) for row in csv.DictReader(file)]
    return lines


def own_lines(taken: set[str]) -> Iterator[Line]:
    """Our own lines as callers say them (``lines/*.csv``), less those that a pack teaches in the same words.

    ``lines/heard.csv`` holds some of them as the recogniser wrote them down after a telephone line.
    """
    for file in sorted(LINES.glob("*.csv")):
        with file.open(encoding="utf-8") as rows:
            for row in csv.DictReader(rows):
                if row["text"] not in taken:
                    line = _own(row["text"], Category(row["category"]), file.stem, row["kind"])
                    yield line if file.stem != "heard" else replace(line, weight=HEARD)


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
    data = yaml.safe_load((FOLDER / "patterns.yaml").read_text(encoding="utf-8"))
    slots = data.pop("slots")
    rng = random.Random(20)
    for kind, patterns in data.items():
        for pattern in patterns:
            made = {
                re.sub(r"\{(\w+)\}", lambda hole: str(rng.choice(slots[hole[1]])), pattern) for _ in range(PER_PATTERN)
            }
            yield from ((sentence, Category(kind)) for sentence in sorted(made))
