"""What a recogniser or a person wrote -> plain tokens, each with its place in the text as given.

Owns: case, unicode, contractions, masked and stretched and spelled-out words. Never: what a word means.

A token's ``text`` is canonical ("you're" gives ``you`` and ``are``; "f***" gives ``fuck``); its ``start``/``end``
always point into the original, so that a match can be underlined there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

MAX_CHARS = 100_000
"""No utterance is longer; a text that is gets judged by its beginning, so that it can stall nobody."""

_TOKEN = re.compile(
    r"(?P<word>[@$]?[^\W_]+(?:['*@$#!]+[^\W_]+)*(?:[*#@$]+(?!\w))?'?)"
    r"|(?P<stop>[.!?\u2026\n\u3002]+)"
    r"|(?P<pause>[,;:()\"\u2013\u2014]|\s-+\s)"
)
_ODD = re.compile(r"[*@$#!0-9]")
_RUN = re.compile(r"(.)\1{2,}")
_SPELLED = re.compile(r"\b(?:[a-z][.\- ]){2,}[a-z]\b")
_LEET = str.maketrans({"@": "a", "$": "s", "0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "!": "i"})

_WHOLE: dict[str, tuple[str, ...]] = {
    "youre": ("you", "are"), "im": ("i", "am"), "ive": ("i", "have"), "ill": ("ill",), "hes": ("he", "is"),
    "shes": ("she", "is"), "theyre": ("they", "are"), "dont": ("do", "not"), "doesnt": ("does", "not"),
    "didnt": ("did", "not"), "cant": ("can", "not"), "cannot": ("can", "not"), "wont": ("will", "not"),
    "isnt": ("is", "not"), "arent": ("are", "not"), "wasnt": ("was", "not"), "couldnt": ("could", "not"),
    "wouldnt": ("would", "not"), "shouldnt": ("should", "not"), "aint": ("are", "not"), "ain't": ("are", "not"),
    "can't": ("can", "not"), "won't": ("will", "not"), "shan't": ("shall", "not"), "let's": ("let", "us"),
    "gonna": ("going", "to"), "wanna": ("want", "to"), "gotta": ("got", "to"), "kinda": ("kind", "of"),
    "sorta": ("sort", "of"), "dunno": ("do", "not", "know"), "lemme": ("let", "me"), "gimme": ("give", "me"),
    "ya": ("you",), "yous": ("you",), "youse": ("you",), "y'all": ("you", "all"), "yall": ("you", "all"),
    "yer": ("your",), "ur": ("your",), "youll": ("you", "will"), "thats": ("that", "is"), "whats": ("what", "is"),
    "wtf": ("what", "the", "fuck"), "stfu": ("shut", "the", "fuck", "up"), "gtfo": ("get", "the", "fuck", "out"),
    "alot": ("a", "lot"), "cos": ("because",), "cuz": ("because",), "coz": ("because",),
}  # fmt: skip
_ENDINGS: tuple[tuple[str, str], ...] = (("n't", "not"), ("'re", "are"), ("'ll", "will"), ("'ve", "have"), ("'m", "am"))
_IS = frozenset("he she it that this there what who where how here everything everyone nobody someone somebody".split())


@dataclass(frozen=True, slots=True)
class Token:
    """One canonical word. ``lead`` is the punctuation just before it: ``""``, ``","`` (a pause) or ``"."`` (a stop)."""

    text: str
    start: int
    end: int
    lead: str = ""


class Vocabulary:
    """The single words that odd spellings may stand for, so that ordinary words are never bent into swearing."""

    def __init__(self, words: Iterable[str], masked: Iterable[str]) -> None:
        self._words = frozenset(words)
        self._masked: dict[tuple[str, int], list[str]] = {}
        for word in masked:
            self._masked.setdefault((word[:1], len(word)), []).append(word)

    def __contains__(self, word: str) -> bool:
        return word in self._words

    def unmask(self, token: str) -> str | None:
        """The swear word that ``f***`` or ``sh*t`` hides, when there is one; the first listed when several fit."""
        shape = re.compile("".join("." if c in "*#" else re.escape(c) for c in token))
        fits = self._masked.get((token[:1], len(token)), ())
        return next((word for word in fits if shape.fullmatch(word)), None)


def fold(text: str) -> tuple[str, list[int] | None]:
    """Lower case, curly quotes straightened, accents and invisible characters dropped; and each character's origin.

    The second value is ``None`` when every character kept its place.
    """
    if text.isascii():
        return text.lower(), None
    out: list[str] = []
    origin: list[int] = []
    for at, char in enumerate(text):
        if char in "\u2018\u2019\u02bc\u0060\u00b4":
            piece = "'"
        elif char in "\u201c\u201d\u00ab\u00bb":
            piece = '"'
        elif char in "\u2013\u2014":
            piece = char
        else:
            kept = unicodedata.normalize("NFKD", char)
            piece = "".join(c for c in kept if unicodedata.category(c) not in ("Mn", "Cf", "Me")).lower()
        out.append(piece)
        origin.extend([at] * len(piece))
    return "".join(out), origin


def tokenize(text: str, vocabulary: Vocabulary) -> list[Token]:
    """Canonical tokens of ``text`` in order; linear in its length. Offsets point into ``text``."""
    folded, origin = fold(text[:MAX_CHARS])
    tokens: list[Token] = []
    lead = "."
    skip_to = 0
    spelled = {m.start(): m for m in _SPELLED.finditer(folded)}
    for found in _TOKEN.finditer(folded):
        if found.start() < skip_to:
            continue
        if found["word"] is None:
            lead = "." if found["stop"] or lead == "." else ","
            continue
        start, end, raw = found.start(), found.end(), found["word"]
        letters = spelled.get(start)
        if letters and (joined := re.sub(r"[^a-z]", "", letters[0])) in vocabulary:
            raw, end = joined, letters.end()
            skip_to = end
        for word in _canonical(raw, vocabulary):
            tokens.append(Token(word, start, end, lead))
            lead = ""
    tokens = _letters(tokens)
    if origin is None:
        return tokens
    return [replace(t, start=origin[t.start], end=origin[t.end - 1] + 1) for t in tokens]


@lru_cache(maxsize=4096)
def words_of(text: str) -> tuple[str, ...]:
    """Canonical words of a pack's own phrase, spelled as in the pack."""
    return tuple(token.text for token in tokenize(text, Vocabulary((), ())))


def _canonical(raw: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    word = raw if raw in _WHOLE else raw.strip("'")
    if word in _WHOLE:
        return _WHOLE[word]
    if "'" in word:
        return _contraction(word, vocabulary)
    return (_plain(word, vocabulary),)


def _contraction(word: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    for ending, full in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending):
            return (*_canonical(word[: -len(ending)], vocabulary), full)
    head, _, tail = word.rpartition("'")
    if tail == "s" and head:
        return (head, "is") if head in _IS else (_plain(head, vocabulary), "'s")
    if tail == "d" and head:
        return (head, "would")
    return (_plain(word.replace("'", ""), vocabulary),)


def _plain(word: str, vocabulary: Vocabulary) -> str:
    if word in vocabulary:
        return word
    if _ODD.search(word) and any(c.isalpha() for c in word):
        bare = word.translate(_LEET)
        if bare in vocabulary:
            return bare
        if "*" in word or "#" in word:
            return vocabulary.unmask(bare) or vocabulary.unmask(re.sub(r"[*#]+", _four(bare), bare)) or word
        word = bare if bare.isalpha() and bare in vocabulary else word
    if _RUN.search(word):
        for times in (1, 2):
            short = _RUN.sub(lambda m, n=times: m[1] * n, word)  # type: ignore[misc]
            if short in vocabulary:
                return short
    return word


def _four(word: str) -> str:
    """Stars to put where the count of stars cannot be trusted: enough to make the common four-letter stem."""
    letters = sum(c.isalpha() for c in re.sub(r"(ing|ed|er|s)$", "", word))
    return "*" * max(1, 4 - letters)


_LETTER_WORDS: Mapping[str, str] = {"u": "you", "r": "are", "re": "are"}


def _letters(tokens: list[Token]) -> list[Token]:
    """``u r`` -> ``you are``, but not inside a postcode or a name that is spelled out letter by letter."""
    out = list(tokens)
    for i, token in enumerate(tokens):
        if token.text not in _LETTER_WORDS:
            continue
        near = [tokens[j].text for j in (i - 1, i + 1) if 0 <= j < len(tokens)]
        if any(len(t) == 1 and t not in ("u", "r", "i", "a") for t in near) or any(t.isdigit() for t in near):
            continue
        if token.text == "u" or (i and out[i - 1].text == "you"):
            out[i] = replace(token, text=_LETTER_WORDS[token.text])
    return out
