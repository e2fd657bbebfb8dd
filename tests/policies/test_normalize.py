"""Odd spellings become plain words, and every token still points into the text as given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.normalize import MAX_CHARS, Vocabulary, tokenize, words_of

_WORDS = Vocabulary(
    ["fuck", "fucking", "shit", "asshole", "stupid", "idiot"], ["fuck", "fucking", "shit", "asshole", "cunt"]
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("You're", "you are"),
        ("You\u2019re", "you are"),
        ("YOURE", "you are"),
        ("u r", "you are"),
        ("you 're", "you are"),
        ("I'll", "i will"),
        ("can't won't don't", "can not will not do not"),
        ("he's the boss's", "he is the boss 's"),
        ("I'd've", "i would have"),
        ("gonna", "going to"),
        ("f***", "fuck"),
        ("f*** off", "fuck off"),
        ("f**king", "fucking"),
        ("f***ing", "fucking"),
        ("sh*t", "shit"),
        ("$h1t", "shit"),
        ("fuuuuck", "fuck"),
        ("stuuupid", "stupid"),
        ("f u c k", "fuck"),
        ("F.U.C.K.", "fuck"),
        ("id\u200biot", "idiot"),
        ("\uff49diot", "idiot"),
        ("\u00cddiot", "idiot"),
        ("postcode S W 1 U R", "postcode s w 1 u r"),
        ("cooool 007", "cooool 007"),
        ("***", ""),
    ],
)
def test_tokenize_odd_spelling_gives_plain_words(text: str, words: str) -> None:
    """What a recogniser or a person writes for a word is that word; other text is left alone."""
    assert " ".join(t.text for t in tokenize(text, _WORDS)) == words


def test_tokenize_offsets_point_into_the_original() -> None:
    """A match can be underlined where it stood, accents, quotes and masks included."""
    text = "Caf\u00e9, \u201cyou\u2019re a f***ing \u00cddi\u00f6t\u201d"
    by_word = {t.text: text[t.start : t.end] for t in tokenize(text, _WORDS)}
    assert by_word["fucking"] == "f***ing"
    assert by_word["idiot"] == "\u00cddi\u00f6t"
    assert by_word["you"] == "you\u2019re"


def test_tokenize_leads_tell_stops_from_pauses() -> None:
    """Clause edges are known."""
    assert [t.lead for t in tokenize("no, wait. go", _WORDS)] == [".", ",", "."]


@given(st.text(max_size=200))
def test_tokenize_any_text_keeps_offsets_in_order_and_in_range(text: str) -> None:
    """No text at all breaks it."""
    at = 0
    for token in tokenize(text, _WORDS):
        assert 0 <= token.start < token.end <= len(text)
        assert token.start >= at or token.start <= at
        at = token.start


def test_tokenize_longer_than_the_bound_is_cut() -> None:
    """Only the beginning of an endless text is looked at."""
    tokens = tokenize("a " * MAX_CHARS, _WORDS)
    assert tokens[-1].end <= MAX_CHARS


def test_words_of_spells_a_phrase_as_utterances_are_spelled() -> None:
    """A pack may write contractions."""
    assert words_of("I'll find you") == ("i", "will", "find", "you")
