"""Words and phrases of a pack -> one automaton over canonical tokens, searched in one pass.

Owns: the pattern syntax and the matching. Never: whom a word is aimed at (``directed``) or what follows (``verdict``).

Whole tokens are matched, so that Scunthorpe and cocktail are safe by construction. A pattern is words with
``(a|b c)`` for one of, ``[a|b]`` for one of or none, ``<name>`` for one of a pack's set, ``_`` for any one word,
``..`` for up to two, ``^`` and ``$`` for the edges of a clause. No automaton library: on tokens a graph of
dicts is as fast, and it knows sets, gaps and wildcards without spelling out every combination.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from policies.normalize import Token, Vocabulary, tokenize, words_of
from policies.types import Category

MAX_FORMS = 1_000
"""Most word sequences that one alternative in brackets may stand for."""
MAX_WORDS = 16
_SIGNS = frozenset({"_", "^", "$"})


class Form(StrEnum):
    """What kind of word an entry is, which decides how it can be aimed."""

    NOUN = "noun"
    ADJECTIVE = "adjective"
    SWEAR = "swear"
    PHRASE = "phrase"


class PatternError(ValueError):
    """A pattern that cannot be read; ``entry`` is the entry it stands in."""

    def __init__(self, entry: str, message: str) -> None:
        self.entry = entry
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Entry:
    """One lexicon entry; ``key`` is its first pattern and its name in evidence."""

    key: str
    category: Category
    severity: int
    needs_target: bool
    profane: bool
    form: Form
    variants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """An entry found at tokens ``first`` to ``last`` (exclusive)."""

    entry: Entry
    first: int
    last: int


class _Node:
    """A place in a pattern: words that lead on, nodes that are here as well, entries that end here."""

    __slots__ = ("next", "also", "ends")

    def __init__(self) -> None:
        self.next: dict[str, list[_Node]] = {}
        self.also: list[_Node] = []
        self.ends: list[Entry] = []


class Lexicon:
    """A pack's words, compiled once and shared by every call."""

    def __init__(self, entries: Sequence[Entry], sets: Mapping[str, Sequence[str]]) -> None:
        self._first: dict[str, list[_Node]] = {}
        words: set[str] = set()
        masked: list[str] = []
        for entry in entries:
            for pattern in (entry.key, *entry.variants):
                pieces = _pieces(pattern, entry.key, sets, plural=entry.form is Form.NOUN)
                self._add(pieces, entry)
                for piece in pieces:
                    words.update(itertools.chain.from_iterable(piece))
                if len(pieces) == 1 and (entry.profane or entry.form is Form.SWEAR):
                    masked += [form[0] for form in pieces[0] if len(form) == 1]
        self.vocabulary = Vocabulary(words - _SIGNS, masked)

    def tokens(self, text: str) -> list[Token]:
        """``text`` as canonical tokens, odd spellings resolved by this lexicon's words."""
        return tokenize(text, self.vocabulary)

    def find(self, tokens: Sequence[Token]) -> list[Hit]:
        """Every entry that stands, in order of place; harmless idioms void what they cover, longest match wins."""
        return self.scan(tokens)[0]

    def scan(self, tokens: Sequence[Token]) -> tuple[list[Hit], list[Hit]]:
        """What ``find`` gives, and the harmless idioms themselves."""
        words = [t.text for t in tokens]
        edges = [bool(t.lead) for t in tokens] + [True]
        found = [hit for at in range(len(words)) for hit in self._at(words, edges, at)]
        longest_mask: dict[int, int] = {}
        for hit in found:
            if hit.entry.category is Category.CIVIL:
                for i in range(hit.first, hit.last):
                    longest_mask[i] = max(longest_mask.get(i, 0), hit.last - hit.first)
        real = [h for h in found if h.entry.category is not Category.CIVIL and not _voided(h, longest_mask)]
        return list(_longest(real)), list(_longest([h for h in found if h.entry.category is Category.CIVIL]))

    def _add(self, pieces: list[list[tuple[str, ...]]], entry: Entry) -> None:
        start = at = _Node()
        for piece in pieces:
            join = _Node()
            shared: dict[tuple[str, ...], _Node] = {(): at}
            for form in piece:
                _path(shared, form, join)
            at = join
        at.ends.append(entry)
        for node in _here(start):
            for word, nodes in node.next.items():
                self._first.setdefault(word, []).extend(nodes)

    def _at(self, words: Sequence[str], edges: Sequence[bool], at: int) -> Iterator[Hit]:
        stack = [(node, at + 1) for key in (words[at], "_") for node in self._first.get(key, ())]
        if edges[at]:
            stack += [(node, at) for node in self._first.get("^", ())]
        seen: set[tuple[int, int]] = set()
        while stack:
            start, i = stack.pop()
            for node in _here(start):
                if (id(node), i) in seen:
                    continue
                seen.add((id(node), i))
                for entry in node.ends:
                    yield Hit(entry, at, i)
                if edges[i]:
                    stack += [(n, i) for n in node.next.get("$", ())]
                if i < len(words):
                    stack += [(n, i + 1) for key in (words[i], "_") for n in node.next.get(key, ())]


def _path(shared: dict[tuple[str, ...], _Node], form: tuple[str, ...], end: _Node) -> None:
    """Lead ``form`` from ``shared[()]`` to ``end``; beginnings that forms have in common are walked once."""
    if not form:
        shared[()].also.append(end)
        return
    for length in range(1, len(form)):
        if form[:length] not in shared:
            step = shared[form[:length]] = _Node()
            shared[form[: length - 1]].next.setdefault(form[length - 1], []).append(step)
    shared[form[:-1]].next.setdefault(form[-1], []).append(end)


def _here(node: _Node) -> Iterator[_Node]:
    """The node and all that are reached without a word."""
    stack = [node]
    while stack:
        at = stack.pop()
        yield at
        stack += at.also


def _voided(hit: Hit, longest_mask: Mapping[int, int]) -> bool:
    """Whether a harmless idiom at least as long lies over the hit."""
    return any(longest_mask.get(i, 0) >= hit.last - hit.first for i in range(hit.first, hit.last))


def _longest(hits: list[Hit]) -> Iterator[Hit]:
    """Drop hits inside a longer one; of several at one place the more severe stays."""
    best: dict[tuple[int, int], Hit] = {}
    for hit in hits:
        kept = best.get((hit.first, hit.last))
        if kept is None or hit.entry.severity > kept.entry.severity:
            best[(hit.first, hit.last)] = hit
    reach = -1
    for hit in sorted(best.values(), key=lambda h: (h.first, -h.last)):
        if hit.last > reach:
            reach = hit.last
            yield hit


_PIECE = re.compile(
    r"\((?P<one>[^()\[\]]*)\)|\[(?P<maybe>[^()\[\]]*)\]|<(?P<set>[^<>]*)>|(?P<bad>[()\[\]<>])|(?P<word>\S+?)(?=[\s(\[<]|$)"
)


def _pieces(pattern: str, key: str, sets: Mapping[str, Sequence[str]], *, plural: bool) -> list[list[tuple[str, ...]]]:
    """The pattern as places in a row, each with the word sequences that may stand there."""
    pieces = [_piece(found, pattern, key, sets) for found in _PIECE.finditer(pattern)]
    longest = sum(max(map(len, piece)) for piece in pieces)
    shortest = sum(min(map(len, piece)) for piece in pieces)
    if not shortest or longest > MAX_WORDS or all(set(form) <= _SIGNS for piece in pieces for form in piece):
        raise PatternError(key, f"{pattern!r} must stand for 1 to {MAX_WORDS} words, not only wildcards")
    if plural and (last := pieces[-1][0]) != ("_",) and len(pieces[-1]) == 1:
        pieces[-1].append((*last[:-1], _plural(last[-1])))
    return pieces


def _piece(found: re.Match[str], pattern: str, key: str, sets: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    if found["bad"] is not None:
        raise PatternError(key, f"brackets do not close in {pattern!r}, or stand inside one another")
    if found["set"] is not None:
        if found["set"] not in sets:
            known = ", ".join(sorted(sets)) or "none"
            raise PatternError(key, f"no set called <{found['set']}>; known sets: {known}")
        return [words_of(word) for word in sets[found["set"]]]
    if found["one"] is not None:
        return _alternatives(found["one"], key, sets)
    if found["maybe"] is not None:
        return [(), *_alternatives(found["maybe"], key, sets)]
    if found["word"] in ("_", "^", "$"):
        return [(found["word"],)]
    return [(), ("_",), ("_", "_")] if found["word"] == ".." else [words_of(found["word"])]


def _alternatives(inside: str, key: str, sets: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Each may hold sets and wildcards of its own; brackets in brackets are refused by ``_PIECE``."""
    out: list[tuple[str, ...]] = []
    for part in inside.split("|"):
        places = [_piece(found, part, key, sets) for found in _PIECE.finditer(part)]
        if math.prod(map(len, places)) > MAX_FORMS:
            raise PatternError(key, f"({part}) stands for more than {MAX_FORMS:,} word sequences; split it")
        out += [tuple(itertools.chain.from_iterable(forms)) for forms in itertools.product(*places)]
    return out


def _plural(word: str) -> str:
    return word + ("es" if word.endswith(("s", "sh", "ch", "x")) else "s")
