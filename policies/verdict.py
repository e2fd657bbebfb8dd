"""Matches and their direction -> one ``Verdict`` with its reasons.

Owns: which of several findings stands for the utterance, severity, confidence, evidence in plain clauses. Never: what
follows from it (``ladder``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policies.directed import Aim, Direction, direction
from policies.lexicon import Form, Hit
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


@dataclass(frozen=True, slots=True)
class _Finding:
    category: Category
    severity: int
    directed: bool
    confidence: float
    why: str
    hit: Hit


def judge(text: str, pack: Pack) -> Verdict:
    """What one utterance of the caller is under ``pack``. Any text at all gets a verdict; nothing is raised."""
    tokens = pack.lexicon.tokens(text)
    hits = pack.lexicon.find(tokens)
    if not hits:
        return Verdict(text, Category.CIVIL, 0, False, False, 0.9 if tokens else 1.0)
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
