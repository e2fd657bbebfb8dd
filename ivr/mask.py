"""Takes numbers and words out of data before it is stored, streamed or logged. Pure functions.

Callers read card numbers, PINs and dates of birth aloud. None of it is evidence of conduct, so a run of four or more
digits, written or spoken, is replaced whole wherever words are kept. Erring toward masking costs a year or an amount in
a transcript; erring the other way stores a card number (PCI DSS 3.2.1, requirement 3.4).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

NUMBER_MASK = "[number]"
WORDS_MASK = "[words]"
MIN_DIGITS = 4

WORD_KEYS = frozenset(
    {"text", "words", "word", "transcript", "partial", "utterance", "heard", "quote", "phrase", "matches", "digits"}
)
"""Keys whose values are what a person said or typed, at any depth."""

PLAIN_KEYS = frozenset({"error", "detail", "problem"})
"""Keys whose prose is ours or a peer's, never a caller's: addresses and status codes in them stay readable."""

_MAX_DEPTH = 12
_MAX_CHARS = 20_000
_DIGIT_WORDS = (
    "zero|oh|o|nought|naught|null|one|two|three|tree|four|five|fife|six|seven|eight|nine|niner|hundred|thousand"
)
_TWO_DIGIT_WORDS = (
    "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|"
    "twenty|thirty|forty|fourty|fifty|sixty|seventy|eighty|ninety"
)
# What may stand between two numbers of one run: punctuation, hesitation, and the homophones recognisers write.
_GLUE = r"(?:[\s,.;:/()+#*_\-\u2010-\u2015]|\b(?:uh|um|er|erm|and|then|dash|hyphen|space|to|too|for|won|ate)\b){0,12}"
_TOKEN = rf"(?:\d+|\b(?:(?:double|triple|treble)\s+)?(?:{_DIGIT_WORDS}|{_TWO_DIGIT_WORDS})s?\b)"
_RUN = re.compile(rf"{_TOKEN}(?:{_GLUE}{_TOKEN})*", re.IGNORECASE)
_ITEM = re.compile(
    rf"(?P<figures>\d+)|(?:(?P<times>double|triple|treble)\s+)?\b(?:(?P<one>{_DIGIT_WORDS})|(?P<two>{_TWO_DIGIT_WORDS}))s?\b",
    re.IGNORECASE,
)
_EXCLAIMED = frozenset({"oh", "o"})
_QUOTED = re.compile(r"\"[^\"]*\"|\u201c[^\u201d]*\u201d|\u2018[^\u2019]*\u2019|(?<!\w)'.*?'(?!\w)")


def mask_digits(text: str) -> str:
    """``text`` with every run of four or more digits, in figures or spoken, replaced by ``[number]``.

    A run goes on across spaces, punctuation and hesitation ("four one, um, double one"). ``oh`` counts as a digit only
    beside two or more real ones, so that "oh oh oh oh" stays.
    """
    return _RUN.sub(_mask_run, text)


def _mask_run(match: re.Match[str]) -> str:
    run = match.group()
    digits = certain = 0
    for item in _ITEM.finditer(run):
        if item["figures"]:
            count = len(item["figures"])
        else:
            count = 2 if item["two"] else 1
            count *= {"double": 2, "triple": 3, "treble": 3}.get((item["times"] or "").lower(), 1)
        digits += count
        if (item["one"] or "").lower() not in _EXCLAIMED:
            certain += count
    return NUMBER_MASK if digits >= MIN_DIGITS and certain >= 2 else run


def clean(data: Mapping[str, Any], *, store_words: bool = True) -> dict[str, Any]:
    """A JSON-able deep copy of ``data``, numbers masked; with ``store_words`` false, also without anybody's words.

    Masked are values under ``WORD_KEYS`` and, under any other key but ``PLAIN_KEYS``, strings that hold a space: ids
    and hashes have none and stay whole. Without words, values under ``WORD_KEYS`` are dropped and quotations in prose
    become ``[words]``. What JSON cannot hold (NaN, objects, depth over 12) becomes ``None`` or its text; nothing is
    raised.
    """
    return {
        str(key): _clean(value, str(key), store_words, 1)
        for key, value in data.items()
        if store_words or str(key) not in WORD_KEYS
    }


def _clean(value: Any, key: str, store_words: bool, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return NUMBER_MASK if key in WORD_KEYS and abs(value) >= 10 ** (MIN_DIGITS - 1) else int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return _clean_text(str(value), key, store_words)
    if depth >= _MAX_DEPTH:
        return None
    if isinstance(value, Mapping):
        return {
            str(k): _clean(v, key if key in WORD_KEYS and str(k) not in _TIMES else str(k), store_words, depth + 1)
            for k, v in value.items()
            if store_words or str(k) not in WORD_KEYS
        }
    if isinstance(value, list | tuple | set | frozenset):
        items = [_clean(v, key, store_words, depth + 1) for v in value]
        return _mask_spelled(items) if key in WORD_KEYS else items
    return _clean_text(_text_of(value), key, store_words)


_TIMES = frozenset({"start_ms", "end_ms", "t_ms", "start", "end", "probability", "severity"})
"""Numbers that stand beside a word in a list of words: times are not digits that somebody said."""


def _mask_spelled(items: list[Any]) -> list[Any]:
    """Mask digits told one word at a time (``["four", "one", ...]`` or ``[{"text": "four"}, ...]``)."""
    texts = [item if isinstance(item, str) else item.get("text") if isinstance(item, dict) else None for item in items]
    if not texts or not all(isinstance(text, str) for text in texts):
        return items
    joined = "\n".join(str(text) for text in texts)
    for run in _RUN.finditer(joined):
        if _mask_run(run) != NUMBER_MASK:
            continue
        first = joined.count("\n", 0, run.start())
        for index in range(first, joined.count("\n", 0, run.end()) + 1):
            item = items[index]
            items[index] = NUMBER_MASK if isinstance(item, str) else {**item, "text": NUMBER_MASK}
    return items


def _clean_text(text: str, key: str, store_words: bool) -> str:
    text = printable(text[:_MAX_CHARS])
    if key in PLAIN_KEYS:
        return text
    if not store_words:
        text = _QUOTED.sub(WORDS_MASK, text)
    return mask_digits(text) if key in WORD_KEYS or any(ch.isspace() for ch in text) else text


def printable(text: str) -> str:
    """``text`` with lone surrogates (from badly decoded headers) replaced, so that it can be encoded."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception:  # a broken __str__ must not cost a journal row
        return f"<{type(value).__name__}>"
