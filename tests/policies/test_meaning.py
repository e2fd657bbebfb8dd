"""Meaning: the real sentence model, the shipped head, and the pack's own examples."""

from __future__ import annotations

import csv
import math
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

import ivr.judge
from ivr import meaning as shipped
from ivr.embedding import FOLDER, HASHES, MODEL, VOCABULARY, model_in, sentence_model
from ivr.errors import ModelError
from ivr.judge import load_pack, shipped_packs
from ivr.models import file_sha256
from ivr.training.lines import own_lines, pattern_lines
from policies.meaning import CLASSES, MAX_WINDOWS, RULE_WIDTH, Head, Meaning, Vectors, windows
from policies.pack import Pack
from policies.types import Category
from policies.verdict import judge

WORKED_WITH = ("utterances.csv", "utterances_dev.csv")
SHARED = 0.7
"""Words that two lines share, of all words of the two, from which on they are nearly the same."""
DATA = Path(__file__).parents[1] / "data"


def _rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((DATA / name).read_text(encoding="utf-8").splitlines()))


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", text.lower()).strip()


def test_embedding_same_sentence_has_the_same_vector_in_any_company() -> None:
    """A verdict must not depend on what else was embedded at the time."""
    model = sentence_model()
    alone = model(["You have a nice voice."])[0]
    among = model(["You have a nice voice.", "No.", "Where is my parcel, please, it is late?"])[0]
    assert np.allclose(alone, among, atol=2e-3)
    assert np.isclose(np.linalg.norm(alone[:384]), 1.0, atol=1e-3)


def test_embedding_alike_sentences_are_near() -> None:
    """The model means something: a paraphrase is nearer than a stranger."""
    one, same, other = sentence_model()(["My parcel is late.", "The package has not arrived.", "You are a fool."])
    assert one[:384] @ same[:384] > one[:384] @ other[:384] + 0.2


def test_meaning_without_a_model_words_and_rules_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the packages loses reach, says so once, and keeps working."""

    def none() -> None:
        raise ModelError("the sentence model is not there")

    monkeypatch.setattr(shipped, "sentence_model", none)
    shipped._notice.cache_clear()
    ivr.judge._taught.cache_clear()
    with capture_logs() as logs:
        pack = load_pack("standard")
        load_pack("strict")
    ivr.judge._taught.cache_clear()
    assert pack.meaning is None
    assert judge("you useless idiot", pack).strike
    assert [each["event"] for each in logs] == ["meaning is not read: judging by words and rules alone"]


@pytest.mark.parametrize("broken", ["missing", "changed", "no hashes", "odd hashes", "not a model"])
def test_meaning_of_a_model_that_is_not_the_one_we_know_is_not_read(tmp_path: Path, broken: str) -> None:
    """It decides what a caller is told: anything wrong with its files is an error that says so, never a crash."""
    for name in (MODEL, VOCABULARY, HASHES):
        shutil.copy(FOLDER / name, tmp_path)
    if broken == "missing":
        (tmp_path / MODEL).unlink()
    elif broken == "changed":
        with (tmp_path / VOCABULARY).open("a") as file:
            file.write("more")
    elif broken == "no hashes":
        (tmp_path / HASHES).unlink()
    elif broken == "odd hashes":
        (tmp_path / HASHES).write_bytes(b"one\nthree words here\n")
    else:
        (tmp_path / MODEL).write_bytes(b"no graph")
        sums = [f"{file_sha256(tmp_path / name)}  {name}\n" for name in (MODEL, VOCABULARY)]
        (tmp_path / HASHES).write_text("".join(sums))
    with pytest.raises(ModelError, match="sentence model"):
        model_in(tmp_path)


def test_meaning_switched_off_by_the_pack_is_off(tmp_path: Path) -> None:
    """One line of YAML."""
    file = tmp_path / "plain.yaml"
    file.write_text("name: plain\ndescription: Words alone.\nextends: standard\nmeaning: {enabled: false}\n")
    assert load_pack(file).meaning is None


def test_meaning_a_line_of_yaml_teaches(tmp_path: Path, standard: Pack) -> None:
    """Ops add a sentence; what is said in nearly those words is judged so, and the line is quoted."""
    said = "Has your wheel fallen off its hamster again?"
    kind = "The moon over the harbour is made of stripy cheese."
    file = tmp_path / "taught.yaml"
    file.write_text(
        "name: taught\ndescription: One line more.\nextends: standard\n"
        'examples: {insult: ["Has the wheel fallen off your hamster again then?"]}\n'
        'civil_examples: ["The moon over the harbour was made of stripy cheese."]\n'
    )
    taught = load_pack(file)
    verdict = judge(said, taught)
    assert verdict.strike and verdict.category is Category.INSULT
    assert "hamster" in verdict.why[0] and "alike" in verdict.why[0]
    assert not judge(kind, taught).strike


def test_meaning_attack_without_a_swear_word_is_a_strike_with_its_reason(standard: Pack) -> None:
    """What lists cannot see."""
    verdict = judge("You have the intelligence of a potato.", standard)
    assert verdict.strike and verdict.directed and verdict.category is Category.INSULT
    assert not verdict.matches
    assert "reads as an attack on the person" in verdict.why[0]


def test_meaning_quotes_an_example_of_the_kind_that_it_names(standard: Pack) -> None:
    """ "A brick" is nearest to a threat in wording; the insult that it is, is explained by an insult."""
    verdict = judge("A brick would have understood by now.", standard)
    assert verdict.strike and verdict.category is Category.INSULT
    quoted = re.search(r'like the example "(.*)" \(', verdict.why[0])
    assert quoted and dict(standard.taught())[quoted[1]] is Category.INSULT


def test_meaning_shipped_vectors_are_those_of_the_shipped_examples(standard: Pack) -> None:
    """Nothing is embedded at start: ``python -m ivr.training.examples`` was run after the last change of examples."""
    _, known = shipped.shipped_head()
    missing = [
        text for name in shipped_packs() for text, _ in load_pack(name, meaning=False).taught() if text not in known
    ]
    assert missing == []
    some = list(known)[::200]
    fresh = sentence_model()(some)[:, :384]
    assert np.allclose(fresh, np.stack([known[text] for text in some]), atol=0.02)


def _learnt() -> set[str]:
    """Every line of ours that the head learns from or a shipped pack teaches."""
    taught = {text for name in shipped_packs() for text, _ in load_pack(name, meaning=False).taught()}
    return taught | {line.text for line in own_lines(set())} | {text for text, _ in pattern_lines()}


def test_no_line_of_a_test_set_is_learnt_or_taught() -> None:
    """Figures on lines that were taught would be worth nothing."""
    learnt = {_plain(text) for text in _learnt()}
    for name in (
        "utterances.csv",
        "utterances_dev.csv",
        "utterances_fresh.csv",
        "utterances_held.csv",
        "safeguard.csv",
    ):
        assert [row["text"] for row in _rows(name) if _plain(row["text"]) in learnt] == []


def test_no_line_of_the_fresh_and_development_sets_is_nearly_a_learnt_one() -> None:
    """Nor is one in the same words but for a few: shared words are less than .7 of all words of the two.

    The fresh and held sets share none with the other sets either: those have been worked with.
    """
    learnt, worked_with = _learnt(), {row["text"] for name in WORKED_WITH for row in _rows(name)}
    assert list(_near("utterances_dev.csv", learnt)) == []
    for name in ("utterances_fresh.csv", "utterances_held.csv"):
        assert list(_near(name, learnt | worked_with)) == []


def _near(name: str, others: set[str]) -> Iterator[tuple[str, str]]:
    """Lines that share so much; two such lines share one of the rarest words of either, so only those are compared."""
    index: dict[str, list[tuple[str, frozenset[str]]]] = defaultdict(list)
    for other in others:
        words = frozenset(_plain(other).split())
        for word in words:
            index[word].append((other, words))
    for row in _rows(name):
        mine = frozenset(_plain(row["text"]).split())
        rarest = sorted(mine, key=lambda word: len(index[word]))[: len(mine) - math.ceil(SHARED * len(mine)) + 1]
        for text, words in {found for word in rarest for found in index[word]}:
            if len(mine & words) >= SHARED * len(mine | words):
                yield row["text"], text


def test_every_training_line_stands_once() -> None:
    """A line with two labels would teach nothing but doubt; a label that is none is an error of its own."""
    plain = [_plain(line.text) for line in own_lines(set())]
    assert len(plain) > 20_000
    assert [text for text, times in Counter(plain).items() if times > 1 or not text] == []


def test_nearly_the_same_line_would_be_found() -> None:
    """The check itself: one word of a line of the set put differently is found."""
    text = next(row["text"] for row in _rows("utterances_dev.csv") if len(row["text"].split()) > 8)
    assert [found for found, _ in _near("utterances_dev.csv", {" ".join(text.split()[:-1]) + " indeed"})] == [text]


def _head() -> Head:
    rules: Vectors = np.zeros((RULE_WIDTH, len(CLASSES)), dtype=np.float32)
    return Head(rules)


def test_meaning_long_text_is_read_in_bounded_windows(standard: Pack) -> None:
    """Ten thousand words cost six readings, and the attack among the first is found."""
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> Vectors:
        asked.extend(texts)
        return np.ones((len(texts), 2 + len(CLASSES)), dtype=np.float32)

    reader = Meaning(embed, _head(), [])
    reader.read("word " * 10_000, lambda _: judge("", standard))
    assert len(asked) == 1  # every window is the same text, and read once
    assert len(windows("a b c " * 5_000)) == MAX_WINDOWS
    assert all(len(window) <= 1_200 for window in windows("x" * 1_000_000))


def test_meaning_prepare_does_the_slow_part_before(standard: Pack) -> None:
    """What a thread read ahead is not read again on the loop."""
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> Vectors:
        asked.extend(texts)
        return np.ones((len(texts), 2 + len(CLASSES)), dtype=np.float32)

    reader = Meaning(embed, _head(), [])
    reader.prepare("where is my parcel")
    reader.read("where is my parcel", lambda _: judge("", standard))
    assert asked == ["where is my parcel"]
