"""Matches and their direction -> one ``Verdict`` with its reasons.

Owns: which of several findings stands for the utterance, severity, confidence, evidence in plain clauses. Never: what
follows from it (``ladder``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from policies.directed import Aim, Direction, direction, in_the_room
from policies.lexicon import Form, Hit
from policies.meaning import Near, Reading
from policies.normalize import Token
from policies.pack import Pack
from policies.types import Category, Match, Verdict

MAX_MATCHES = 50
"""Kept as evidence; a rant of a thousand curses needs no more."""

_PERSONAL = frozenset({Category.INSULT, Category.THREAT, Category.SLUR, Category.SEXUAL})
_RANK = {
    Category.CIVIL: 0,
    Category.VENTING: 1,
    Category.OBSCENITY: 2,
    Category.INSULT: 3,
    Category.SEXUAL: 4,
    Category.SLUR: 5,
    Category.THREAT: 6,
    Category.SAFEGUARD: 7,
}
_SAYS = {
    Category.VENTING: "is upset",
    Category.OBSCENITY: "swears",
    Category.INSULT: "insults the person",
    Category.THREAT: "threatens the person",
    Category.SLUR: "uses a slur",
    Category.SEXUAL: "is sexual",
    Category.SAFEGUARD: "may be in danger",
}


UNREAD = "the meaning could not be read: judged by words and rules alone"
"""Stands among the reasons of a verdict without the sentence model's part."""


@dataclass(frozen=True, slots=True)
class _Finding:
    category: Category
    severity: int
    directed: bool
    confidence: float
    why: str
    hit: Hit


def judge(text: str, pack: Pack) -> Verdict:
    """What one utterance of the caller is under ``pack``. Any text at all gets a verdict; nothing is raised.

    Where the meaning cannot be read, words and rules judge alone, and the verdict says so.
    """
    tokens, ruled = by_words(text, pack)
    if pack.meaning is None or not tokens:
        return ruled
    try:
        reading = pack.meaning.read(text, lambda window: ruled if window == text else by_words(window, pack)[1])
    except Exception:  # whatever the sentence model's runtime raises: these words must still be judged
        return replace(ruled, why=(*ruled.why, UNREAD))
    return weigh(ruled, reading, pack, aside=in_the_room(tokens))


def by_words(text: str, pack: Pack) -> tuple[Sequence[Token], Verdict]:
    """Canonical tokens, and the verdict of lexicon and direction alone."""
    tokens = pack.lexicon.tokens(text)
    return tokens, _by_words(text, tokens, pack)


def _by_words(text: str, tokens: Sequence[Token], pack: Pack) -> Verdict:
    hits, idioms = pack.lexicon.scan(tokens)
    if not hits:
        said = tuple(f'"{_quote(text, tokens, idiom)}": a harmless way of speaking' for idiom in idioms[:3])
        return Verdict(
            text, Category.CIVIL, 0, False, False, 0.9 if tokens else 1.0, said, _matches(tokens, idioms)
        )  # fmt: skip
    findings = [_finding(text, tokens, hit, pack) for hit in hits[:MAX_MATCHES]]
    worst = max(findings, key=lambda f: (_RANK[f.category], f.severity, f.confidence))
    if worst.category is Category.CIVIL:
        return Verdict(
            text, Category.CIVIL, 0, False, False, worst.confidence, _reasons(findings), _matches(tokens, hits)
        )
    severity = max(f.severity for f in findings if f.category is worst.category)
    if worst.directed and severity and severity < 3 and any(f.category is Category.OBSCENITY for f in findings):
        severity += 1
    confidence = _together([f for f in findings if f.category is worst.category])
    strike = pack.is_person(worst.category, severity) and (worst.directed or worst.category not in _PERSONAL)
    return Verdict(
        text,
        worst.category,
        severity,
        worst.directed,
        strike,
        round(confidence, 3),
        _reasons([worst, *(f for f in findings if f is not worst)]),
        _matches(tokens, hits),
    )


# --- meaning ----------------------------------------------------------------------------------------------------------

_GRAVITY = {Category.INSULT: 1, Category.SEXUAL: 2, Category.SLUR: 2, Category.THREAT: 3}
"""Severity follows from what it is, not from how sure the reading is."""
_READS = {
    Category.INSULT: "reads as an attack on the person",
    Category.THREAT: "reads as a threat to the person",
    Category.SLUR: "reads as an attack on who the person is",
    Category.SEXUAL: "reads as a sexual remark",
}


def weigh(ruled: Verdict, reading: Reading, pack: Pack, *, aside: bool = False) -> Verdict:
    """The words' verdict and the meaning's, made one.

    Danger wins. An example of the pack that is close enough decides what the words left open. Else the head's
    probability does: over the pack's bar it strikes; where it is all but sure that nothing is meant, it clears
    words that the rules were not sure of. ``aside``: part of it was said to somebody else in the caller's room.
    """
    spec = pack.spec.meaning
    if ruled.category is Category.SAFEGUARD:
        return ruled
    bad, civil = reading.near_bad, reading.near_civil
    taught = _taught(bad, civil, spec.example_similarity)
    if reading.danger >= spec.danger or (taught and taught.category is Category.SAFEGUARD):
        sure = max(reading.danger, taught.similarity if taught else 0.0)
        why = f"somebody may be in danger{_close_to(bad)}"
        return replace(
            ruled, category=Category.SAFEGUARD, severity=3, directed=False, strike=False,
            confidence=round(min(0.99, sure), 3), why=(why, *ruled.why),
        )  # fmt: skip
    if ruled.directed:
        return _directed(ruled, reading, taught, pack)
    if aside or (taught is not None and taught.category is Category.CIVIL):
        return ruled
    if taught is not None:
        return _strike(ruled, taught.category, max(taught.similarity - 0.05, reading.attack), bad, pack)
    excused = any(m.category in _EXCUSING for m in ruled.matches)
    bar = spec.excused if excused else spec.sworn if ruled.category in _HEATED else spec.strike
    if reading.attack >= bar:
        return _strike(ruled, reading.category, reading.attack, reading.near_kind, pack)
    return ruled


def _directed(ruled: Verdict, reading: Reading, taught: Near | None, pack: Pack) -> Verdict:
    """Words that the rules found aimed at the listener: confirmed, or cleared where the meaning is plainly harmless."""
    harmless = taught is not None and taught.category is Category.CIVIL and reading.attack < 0.5
    cleared = harmless and ruled.severity < 3
    if reading.attack < pack.spec.meaning.clear and ruled.severity < 3:
        cleared = True
    if cleared:
        why = f"reads as harmless{_close_to(reading.near_civil)}"
        plain = Category.OBSCENITY if any(m.category is Category.OBSCENITY for m in ruled.matches) else Category.CIVIL
        strike = pack.is_person(plain, ruled.severity)
        return replace(
            ruled, category=plain, severity=0 if plain is Category.CIVIL else min(2, ruled.severity),
            directed=False, strike=strike, confidence=round(1 - reading.attack, 3), why=(*ruled.why, why),
        )  # fmt: skip
    if reading.attack < 0.5 or ruled.confidence <= _DOUBTED:
        return ruled
    sure = 1 - (1 - ruled.confidence) * (1 - reading.attack)
    return replace(ruled, confidence=round(min(0.99, sure), 3))


_DOUBTED = 0.6
"""Rules no surer than this had a reason (a friendly tone, an odd order of words) that meaning does not see."""


def _strike(ruled: Verdict, category: Category, sure: float, near: Near | None, pack: Pack) -> Verdict:
    severity = _GRAVITY[category]
    if ruled.category is Category.OBSCENITY and severity < 3:
        severity += 1
    why = f"{_READS[category]}{_close_to(near)}"
    return replace(
        ruled, category=category, severity=severity, directed=True, strike=pack.is_person(category, severity),
        confidence=round(min(0.99, sure), 3), why=(why, *ruled.why),
    )  # fmt: skip


def _taught(bad: Near | None, civil: Near | None, bar: float) -> Near | None:
    """The example that decides by itself: close enough, and clearly closer than the other side's nearest."""
    first, second = sorted((n or _FAR for n in (bad, civil)), key=lambda n: -n.similarity)
    return first if first.similarity >= bar and first.similarity - second.similarity >= 0.05 else None


_EXCUSING = _PERSONAL | {Category.CIVIL}
"""Found by the rules in words that do not strike: aimed elsewhere, or a harmless idiom. Then meaning must be surer."""

_HEATED = frozenset({Category.OBSCENITY, Category.VENTING})
"""Anger that the rules know as such: being upset is allowed, so the benefit of the doubt is larger."""

_FAR = Near("", Category.CIVIL, -1.0)


def _close_to(near: Near | None) -> str:
    if near is None or near.similarity < 0.3:
        return ", by its words and meaning"
    return f', like the example "{near.text}" ({near.similarity:.0%} alike)'


def _finding(text: str, tokens: Sequence[Token], hit: Hit, pack: Pack) -> _Finding:
    entry = hit.entry
    said = f'"{_quote(text, tokens, hit)}"'
    if entry.category is Category.SAFEGUARD:
        return _Finding(entry.category, entry.severity, False, 0.9, f"{said}: {_SAYS[entry.category]}", hit)
    if entry.category not in _PERSONAL:
        why = f"{said}: {_SAYS[entry.category]}, at nobody in particular"
        return _Finding(entry.category, entry.severity, False, 0.9, why, hit)
    found = direction(tokens, hit)
    if found.directed:
        confidence = found.confidence
        return _Finding(
            entry.category, entry.severity, True, confidence, f"{said}: {_SAYS[entry.category]}, {found.why}", hit
        )
    category = _unaimed(hit, found)
    severity = min(entry.severity, 2) if category is Category.OBSCENITY else 0
    return _Finding(category, severity, False, 0.8, f"{said}: {found.why}", hit)


def _unaimed(hit: Hit, found: Direction) -> Category:
    """What a personal word is when the listener is not meant."""
    if found.aim in (Aim.REPORTED, Aim.DENIED):
        return Category.CIVIL
    if hit.entry.profane:
        return Category.OBSCENITY
    if found.aim in (Aim.SELF, Aim.NOBODY) or hit.entry.form is Form.PHRASE:
        return Category.CIVIL
    return Category.VENTING


def _together(findings: Sequence[_Finding]) -> float:
    """Each further finding of the same kind takes away part of the doubt that is left."""
    ordered = sorted((f.confidence for f in findings), reverse=True)[:4]
    doubt = 1.0 - ordered[0]
    for confidence in ordered[1:]:
        doubt *= 1.0 - confidence / 2
    return min(0.99, 1.0 - doubt)


def _quote(text: str, tokens: Sequence[Token], hit: Hit) -> str:
    return " ".join(text[tokens[hit.first].start : tokens[hit.last - 1].end].split())[:80]


def _reasons(findings: Sequence[_Finding]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f.why for f in findings))[:8]


def _matches(tokens: Sequence[Token], hits: Sequence[Hit]) -> tuple[Match, ...]:
    return tuple(
        Match(
            h.entry.key,
            h.entry.category,
            h.entry.severity,
            h.entry.needs_target,
            tokens[h.first].start,
            tokens[h.last - 1].end,
        )
        for h in hits[:MAX_MATCHES]
    )
