"""Numbers that people read out never reach storage; everything else is left as it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr.mask import NUMBER_MASK, WORD_KEYS, clean, mask_digits

SPOKEN = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("it's 4111 1111 1111 1111, right?", "it's [number], right?"),
        ("4111-1111-1111-1111", "[number]"),
        ("4 1 1 1", "[number]"),
        ("four one one one", "[number]"),
        ("Four, one, um, one... ONE.", "[number]."),
        ("forty-one eleven", "[number]"),
        ("double four triple two", "[number]"),
        ("nine oh two one oh", "[number]"),
        ("Oh four five six", "[number]"),
        ("4 one 1 one please", "[number] please"),
        ("four one to won one three", "[number]"),
        ("my sort code is 12/34/56 and the account", "my sort code is [number] and the account"),
        ("\u0664\u0661\u0661\u0661", "[number]"),
    ],
)
def test_number_read_out_is_masked_whole(said: str, kept: str) -> None:
    """Figures, words and mixtures, with hesitation and homophones between them, become one mask."""
    assert mask_digits(said) == kept


@pytest.mark.parametrize(
    "said",
    [
        "",
        "oh oh oh oh no",
        "one of the ones I told you about",
        "I called three times in two weeks",
        "extension 201",
        "you are a waste of space",
        "someone, anyone, everyone, no one",
        "it often happens tonight",
    ],
)
def test_ordinary_words_are_left_alone(said: str) -> None:
    """Small numbers and words that merely contain number words stay."""
    assert mask_digits(said) == said


@given(
    st.lists(st.integers(0, 9), min_size=4, max_size=19), st.sampled_from(["", " ", "-", ", ", ". ", " um "]), st.data()
)
def test_any_run_of_four_digits_is_masked(digits: list[int], between: str, data: st.DataObject) -> None:
    """However each digit is given and whatever stands between them, none of a run is left."""
    spoken = data.draw(st.lists(st.booleans(), min_size=len(digits), max_size=len(digits))) if between else []
    parts = [SPOKEN[d] if spoken and spoken[i] else str(d) for i, d in enumerate(digits)]
    assert mask_digits(f"it is {between.join(parts)} yes") == f"it is {NUMBER_MASK} yes"


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(sorted(WORD_KEYS)), inner) | st.tuples(inner)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text() | st.sampled_from(sorted(WORD_KEYS)), json_like), st.booleans())
def test_clean_always_gives_json_and_is_idempotent(data: dict[str, object], store_words: bool) -> None:
    """Whatever comes in, strict JSON comes out, cleaning twice changes nothing, and no words are left if so asked."""
    once = clean(data, store_words=store_words)
    text = json.dumps(once, allow_nan=False)
    text.encode("utf-8")
    assert clean(once, store_words=store_words) == once
    assert store_words or not WORD_KEYS & once.keys()
