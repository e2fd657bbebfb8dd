"""Sentences of calls and what the default pack makes of them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr.clock import monotonic_ms
from ivr.judge import judge_line, load_pack
from policies.pack import Pack
from policies.types import Category
from policies.verdict import judge

UTTERANCES = Path(__file__).parents[1] / "data" / "utterances.csv"
_STANDARD = load_pack("standard")

AIMED = [
    ("you useless idiot", Category.INSULT),
    ("your an idiot", Category.INSULT),
    ("your useless", Category.INSULT),
    ("are you stupid", Category.INSULT),
    ("You fucking moron", Category.INSULT),
    ("shut up", Category.INSULT),
    ("go to hell", Category.INSULT),
    ("eff off", Category.INSULT),
    ("f*** you", Category.INSULT),
    ("Bye, idiot.", Category.INSULT),
    ("Muppet. Next one, please.", Category.INSULT),
    ("get off the line you crooked bitch", Category.INSULT),
    ("idiots you are", Category.INSULT),
    ("idiot you", Category.INSULT),
    ("you people are useless", Category.INSULT),
    ("I'm not being funny but you're useless", Category.INSULT),
    ("I know where you live", Category.THREAT),
    ("I'll find you", Category.THREAT),
    ("what are you wearing", Category.SEXUAL),
    ("go back to your own country", Category.SLUR),
]
NOT_AIMED = [
    ("he is an idiot", Category.VENTING),
    ("that idiot at the shop sent me here", Category.VENTING),
    ("this bloody router", Category.OBSCENITY),
    ("your website is shit", Category.OBSCENITY),
    ("my phone is crap", Category.OBSCENITY),
    ("what a shit service", Category.OBSCENITY),
    ("you useless website", Category.VENTING),
    ("bastard router", Category.OBSCENITY),
    ("I'm such an idiot", Category.CIVIL),
    ("silly me", Category.CIVIL),
    ("he called me a moron", Category.CIVIL),
    ("she said I was an idiot", Category.CIVIL),
    ("she said to me, you are an idiot", Category.CIVIL),
    ("he told me to fuck off", Category.CIVIL),
    ("my neighbour was like, fuck off", Category.CIVIL),
    ("I got told to shut up", Category.CIVIL),
    ("you are not an idiot", Category.CIVIL),
    ("I'm not calling you stupid", Category.CIVIL),
    ("I never said you are an idiot", Category.CIVIL),
    ("if you were an idiot I would understand", Category.CIVIL),
    ("I could murder a cup of tea", Category.CIVIL),
    ("you're killing me", Category.CIVIL),
    ("I'd kill for a signal", Category.CIVIL),
    ("I'll find you the reference number", Category.CIVIL),
    ("this is unacceptable", Category.VENTING),
    ("I'm furious", Category.VENTING),
    ("absolutely disgraceful", Category.VENTING),
    ("I want to make a complaint", Category.VENTING),
    ("Scunthorpe, Dickens, Essex, cockpit, assess, Penistone, shiitake, cocktail", Category.CIVIL),
    ("my name is Dick, D I C K", Category.CIVIL),
    ("Fanny Price called", Category.CIVIL),
]
SAFEGUARD = ["I want to kill myself", "he's not breathing", "my husband is hitting me", "I took all my pills"]
NEAR_MISS = [
    "this is killing me",
    "the dead line is Friday",
    "I nearly had a heart attack when I saw the bill",
    "my mum had a heart attack last year",
    "do you sell Suicide Squad on disc",
]


@pytest.mark.parametrize(("text", "category"), AIMED)
def test_judge_words_at_the_listener_are_a_strike(standard: Pack, text: str, category: Category) -> None:
    """An attack on the person counts, sworn or not."""
    verdict = judge(text, standard)
    assert (verdict.category, verdict.directed, verdict.strike) == (category, True, True)
    assert verdict.severity >= 1
    assert verdict.why


@pytest.mark.parametrize(("text", "category"), NOT_AIMED)
def test_judge_words_not_at_the_listener_are_no_strike(standard: Pack, text: str, category: Category) -> None:
    """Things, others, oneself, reports, denials, idioms and anger do not count."""
    verdict = judge(text, standard)
    assert (verdict.category, verdict.directed, verdict.strike) == (category, False, False)


@pytest.mark.parametrize("text", SAFEGUARD)
def test_judge_danger_wins_over_every_other_verdict(standard: Pack, text: str) -> None:
    """Even together with an insult."""
    assert judge(f"you useless idiot, {text}", standard).category is Category.SAFEGUARD


@pytest.mark.parametrize("text", NEAR_MISS)
def test_judge_near_miss_of_danger_is_none(standard: Pack, text: str) -> None:
    """Idioms, products and somebody's past page nobody."""
    assert judge(text, standard).category is not Category.SAFEGUARD


def test_judge_strict_counts_undirected_swearing(standard: Pack, strict: Pack) -> None:
    """The same words, the other pack."""
    text = "this damn router"
    assert not judge(text, standard).strike
    assert judge(text, strict).strike
    assert not judge(text, strict).directed


def test_judge_match_underlines_the_original(standard: Pack) -> None:
    """Offsets are those of the text as given."""
    text = "Well \u2026 you F***ING  Idi\u00f6t!"
    found = {m.entry: text[m.start : m.end] for m in judge(text, standard).matches}
    assert found == {"fuck": "F***ING", "idiot": "Idi\u00f6t"}


def test_judge_line_has_the_contract_keys(standard: Pack) -> None:
    """What tools are written against."""
    line = judge_line("you idiot", standard)
    assert list(line) == ["text", "category", "severity", "directed", "strike", "confidence", "why"]
    assert 0.0 <= line["confidence"] <= 1.0


@pytest.mark.parametrize(
    "text",
    ["", " ", "\x00\x07\x1b[2J", "\U0001f600\U0001f621", "\u4f60\u597d\u5417", "\u0627\u062e\u0631\u0633", "...?!"],
)
def test_judge_text_without_words_is_civil(standard: Pack, text: str) -> None:
    """Nothing to judge is nothing wrong."""
    verdict = judge(text, standard)
    assert (verdict.category, verdict.strike) == (Category.CIVIL, False)


@pytest.mark.parametrize(
    "word",
    [
        "word ",
        "fuck ",
        "you idiot ",
        "you are a ",
        "kill for ",
        "aaaa",
        "f*",
        "i will find ",
        "a b ",
    ],
)
def test_judge_ten_thousand_words_take_no_time(standard: Pack, word: str) -> None:
    """A line that goes on for ever stalls no call."""
    started_ms = monotonic_ms()
    judge(" ".join((word * 10_000).split()[:10_000]), standard)
    assert monotonic_ms() - started_ms < 5_000


@settings(deadline=None)
@given(st.text(max_size=120))
def test_judge_any_text_gets_a_verdict(text: str) -> None:
    """Nothing a recogniser writes raises."""
    verdict = judge(text, _STANDARD)
    assert verdict.text == text
    assert 0.0 <= verdict.confidence <= 1.0


def test_judge_thousand_lines_take_well_under_a_minute(standard: Pack) -> None:
    """The promise of ``firmline judge``, on a busy machine as well."""
    texts = [row["text"] for row in csv.DictReader(UTTERANCES.read_text(encoding="utf-8").splitlines())]
    started_ms = monotonic_ms()
    for at in range(1_000):
        judge_line(texts[at % len(texts)], standard)
    assert monotonic_ms() - started_ms < 40_000


def test_judge_hand_labelled_utterances_hold_their_floor(standard: Pack) -> None:
    """Measured as it is: no false strike on the civil half, no crisis missed, nine in ten right over all."""
    rows = list(csv.DictReader(UTTERANCES.read_text(encoding="utf-8").splitlines()))
    assert len(rows) >= 80
    verdicts = [judge(row["text"], standard) for row in rows]
    pairs = list(zip(rows, verdicts, strict=True))
    false = [row["text"] for row, v in pairs if v.strike and row["strike"] == "false"]
    crises = [(row["text"], v.category) for row, v in pairs if row["category"] == "safeguard"]
    struck = [v.strike for row, v in pairs if row["strike"] == "true"]
    agree = [v.category == row["category"] and v.directed == (row["directed"] == "true") for row, v in pairs]
    assert false == []
    assert [text for text, category in crises if category is not Category.SAFEGUARD] == []
    assert not any(v.category is Category.SAFEGUARD for row, v in pairs if row["category"] != "safeguard")
    assert sum(struck) / len(struck) >= 0.85
    assert sum(agree) / len(agree) >= 0.9


def _held_out(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((UTTERANCES.parent / name).read_text(encoding="utf-8").splitlines()))


def test_judge_safeguard_set_every_crisis_is_caught_and_none_is_struck(standard: Pack) -> None:
    """Sixty crises, sixty near-misses: all of the first, at most two of the second."""
    rows = [(row, judge(row["text"], standard)) for row in _held_out("safeguard.csv")]
    missed = [r["text"] for r, v in rows if r["kind"] == "crisis" and v.category is not Category.SAFEGUARD]
    paged = [r["text"] for r, v in rows if r["kind"] == "near" and v.category is Category.SAFEGUARD]
    assert missed == []
    assert len(paged) <= 2, paged


@pytest.mark.parametrize(
    "text",
    [
        "Shut up, Bella! Sorry, that's the dog.",
        "Be quiet, you idiots. Sorry, it's the kids.",
        "Give it here, you little idiot. Sorry, I'm talking to my son.",
    ],
)
def test_judge_words_to_somebody_else_in_the_room_are_no_strike(standard: Pack, text: str) -> None:
    """A caller has a home, and a dog in it."""
    assert not judge(text, standard).strike
