"""Pack text -> validated, frozen ``Pack``: the whole boundary policy as data.

Owns: the models, what may stand in them and how they check one another, ``extends``. Never: files (the caller hands
over a ``read`` function), matching, judging.

How ``extends`` merges: mappings merge key by key, ``null`` takes a key away, the lists under ``examples`` and
``civil_examples`` are added to the parent's, and every other value replaces the parent's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from policies.lexicon import Entry, Form, Lexicon, PatternError
from policies.meaning import Meaning
from policies.types import Category, ConductKind, EndKind
from policies.yamltext import Path, Problem, YamlError, parse, validate

MAX_EXTENDS = 8
"""Longer chains are a mistake: nobody could say any more what such a pack does."""


class Mode(StrEnum):
    """How far the policy may go by itself."""

    FULL = "full"
    WARN = "warn"
    """Prompts are automatic; an ending needs a person's key."""
    SUGGEST = "suggest"
    """Nothing is automatic; the agent is told what the policy would do."""
    SHADOW = "shadow"
    """Records only."""


class Step(StrEnum):
    """What one strike brings."""

    GENTLE_REQUEST = "gentle_request"
    WARNING = "warning"
    FINAL_WARNING = "final_warning"
    END = "end"
    CALMING = "calming"
    CRISIS_REASSURANCE = "crisis_reassurance"


class Climb(StrEnum):
    """How a track moves on the ladder."""

    SHARED = "shared"
    """A person track: its strikes climb the common ladder and count toward an ending together."""
    OWN = "own"
    """Only its own steps, whatever other tracks did."""
    NEVER = "never"
    """Never ends a call."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=300, strip_whitespace=True)]
Phrase = Annotated[str, StringConstraints(min_length=1, max_length=400, strip_whitespace=True)]
Cue = Text | Annotated[tuple[Text, ...], Field(min_length=1, max_length=5)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class TrackSpec(_Model):
    """One track: which verdicts it counts and what each of its strikes brings."""

    categories: tuple[Category, ...] = ()
    steps: tuple[Step, ...] = Field(default=(), max_length=12)
    climbs: Climb = Climb.SHARED
    min_strikes: int = Field(default=2, ge=1, le=20)
    min_severity: int = Field(default=0, ge=0, le=3)
    min_confidence: Share = 0.5
    end_confidence: Share = 0.7
    spacing_ms: int = Field(default=0, ge=0, le=3_600_000)

    @model_validator(mode="after")
    def _steps_make_sense(self) -> Self:
        if Step.END in self.steps:
            if self.steps.index(Step.END) != len(self.steps) - 1:
                raise ValueError("`end` must be the last step")
            if not {Step.WARNING, Step.FINAL_WARNING} & set(self.steps):
                raise ValueError("`end` needs a `warning` or `final_warning` before it: nobody is cut off unwarned")
            if self.climbs is Climb.NEVER:
                raise ValueError("a track that climbs `never` cannot have the step `end`")
        if self.end_confidence < self.min_confidence:
            raise ValueError("end_confidence must be at least min_confidence")
        return self


_CLIMBING = {Step.GENTLE_REQUEST, Step.WARNING, Step.FINAL_WARNING, Step.END}


class TracksSpec(_Model):
    """The five tracks of a pack."""

    person: TrackSpec
    severe: TrackSpec
    language: TrackSpec
    conduct: TrackSpec
    safeguard: TrackSpec

    def items(self) -> tuple[tuple[str, TrackSpec], ...]:
        """Name and track, in the order of the model."""
        return tuple((name, getattr(self, name)) for name in type(self).model_fields)

    @model_validator(mode="after")
    def _tracks_agree(self) -> Self:
        owner: dict[Category, str] = {}
        for name, track in self.items():
            for category in track.categories:
                if category in owner:
                    raise ValueError(f"category `{category}` is in both `{owner[category]}` and `{name}`")
                owner[category] = name
        for name, allowed in (("conduct", {Step.CALMING}), ("safeguard", {Step.CRISIS_REASSURANCE})):
            track = getattr(self, name)
            if track.climbs is not Climb.NEVER or not set(track.steps) <= allowed or len(track.steps) > 1:
                only = next(iter(allowed))
                raise ValueError(
                    f"`{name}` must climb `never`, with no step or the one step `{only}`: it never ends a call"
                )
        if self.safeguard.categories != (Category.SAFEGUARD,):
            raise ValueError("`safeguard` must hold the category `safeguard` and no other")
        if {Category.CIVIL, Category.VENTING} & set(owner):
            raise ValueError("`civil` and `venting` are never counted: being upset is allowed")
        for name in ("person", "severe", "language"):
            track = getattr(self, name)
            if not set(track.steps) <= _CLIMBING or (track.categories and not track.steps):
                raise ValueError(f"`{name}` needs steps out of {', '.join(sorted(_CLIMBING))}")
        return self


class TimingSpec(_Model):
    """All in milliseconds."""

    grace_ms: int = Field(default=4_000, ge=0, le=60_000)
    decay_ms: int = Field(default=180_000, ge=10_000, le=3_600_000)
    countdown_ms: int = Field(default=6_000, ge=1_000, le=60_000)
    hotkey_countdown_ms: int = Field(default=2_000, ge=0, le=60_000)
    prompt_ceiling_ms: int = Field(default=30_000, ge=2_000, le=120_000)


class EndingSpec(_Model):
    """What an ending is; ``fallbacks`` are tried in order when the PBX cannot do the first."""

    kind: EndKind = EndKind.TRANSFER
    fallbacks: tuple[EndKind, ...] = ()
    end_key: EndKind = EndKind.HANGUP

    @model_validator(mode="after")
    def _no_repeats(self) -> Self:
        if len({self.kind, *self.fallbacks}) != len(self.fallbacks) + 1:
            raise ValueError("fallbacks must not repeat one another nor `kind`")
        if EndKind.HANGUP in self.fallbacks:
            raise ValueError("`hangup` cannot be a fallback: the closing prompt promised the caller something else")
        return self


class PromptsSpec(_Model):
    """Catalogue names by use; a deployment may put its own recording's name here."""

    notice: Name = "notice"
    gentle_request: Name = "gentle_request"
    warning: Name = "warning"
    final_warning: Name = "final_warning"
    closing_transfer: Name = "closing_transfer"
    closing_hangup: Name = "closing_hangup"
    closing_menu: Name = "closing_menu"
    hold_a_minute: Name = "hold_a_minute"
    crisis_reassurance: Name = "crisis_reassurance"
    calming: Name = "calming"

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        values = list(self.model_dump().values())
        if len(set(values)) != len(values):
            raise ValueError("every use needs its own prompt: the ladder tells by the name which one was heard")
        return self


class AdjustmentSpec(_Model):
    """A named allowance for a queue or a caller; it can only lengthen the ladder."""

    description: Text
    extra_steps: int = Field(default=0, ge=0, le=5)
    grace_factor: float = Field(default=1.0, ge=1.0, le=10.0)
    decay_factor: float = Field(default=1.0, gt=0.0, le=1.0)
    countdown_factor: float = Field(default=1.0, ge=1.0, le=10.0)
    ignore: tuple[Category, ...] = ()


class GuardsSpec(_Model):
    """Bars that an utterance must clear before its words count."""

    min_avg_logprob: float = Field(default=-0.7, ge=-10.0, le=0.0)
    warn_on_partials: bool = Field(
        default=False, description="warn while the words are still being said, once they stood in two looks in a row"
    )


Span = Annotated[int, Field(ge=0, le=120_000)]


class ConductSpec(_Model):
    """What counts as shouting, talking over and interrupting: levels in dB, times in ms."""

    shout_over_db: float = Field(default=9.0, ge=3.0, le=40.0, description="over the caller's own usual level")
    shout_floor_dbov: float = Field(default=-24.0, ge=-60.0, le=0.0, description="and at least this loud in itself")
    shout_share: Share = Field(default=0.6, description="of what was said in one go, so much must be loud")
    shout_ms: Span = Field(default=2_000, description="of loud words within shout_within_ms")
    shout_within_ms: Span = Field(default=15_000)
    shout_words: int = Field(default=3, ge=1, le=50, description="recognised words: a cough or laughter has none")
    overlap_share: Share = Field(default=0.4, description="of the agent's speech that the caller speaks over")
    overlap_ms: Span = Field(default=5_000, description="and at least so much of it")
    overlap_within_ms: Span = Field(default=30_000)
    interrupt_count: int = Field(default=4, ge=2, le=50, description="times that the caller cuts the agent off")
    interrupt_within_ms: Span = Field(default=60_000)
    interrupt_after_ms: Span = Field(default=600, description="the agent must have been speaking for so long")
    backchannel_ms: Span = Field(default=900, description="shorter than this is a yes or an mm, no interruption")
    echo_below_db: float = Field(default=15.0, ge=3.0, le=60.0, description="so far under the usual level: an echo")
    repeat_ms: Span = Field(default=20_000, description="the same kind is not reported again before this")


class MeaningSpec(_Model):
    """Bars for what is read by meaning rather than by words."""

    enabled: bool = True
    strike: Share = Field(default=0.6, description="probability of an attack on the person from which it strikes")
    sworn: Share = Field(default=0.75, description="the same for anger and swearing at nobody")
    excused: Share = Field(default=0.93, description="the same where the rules found hard words aimed elsewhere")
    clear: Share = Field(default=0.05, description="probability under which mild words found aimed do not count")
    danger: Share = Field(
        default=0.5, description="probability that somebody is in danger from which people are called"
    )
    example_similarity: Share = Field(default=0.8, description="likeness from which an example decides by itself")


class EntrySpec(_Model):
    """One lexicon entry; its key is the word or phrase pattern."""

    category: Category
    severity: int = Field(default=1, ge=0, le=3)
    needs_target: bool = False
    profane: bool = False
    form: Form = Form.PHRASE
    variants: tuple[Phrase, ...] = Field(default=(), max_length=400)

    @model_validator(mode="after")
    def _form_fits(self) -> Self:
        if self.form in (Form.NOUN, Form.ADJECTIVE) and not self.needs_target:
            raise ValueError("a noun or adjective needs `needs_target: true`: alone it aims at nobody")
        return self


class PackSpec(_Model):
    """A pack as written, after ``extends`` has been resolved."""

    name: Name
    description: Text
    extends: Name | None = None
    mode: Mode = Mode.FULL
    tracks: TracksSpec
    timing: TimingSpec = TimingSpec()
    ending: EndingSpec = EndingSpec()
    prompts: PromptsSpec = PromptsSpec()
    guards: GuardsSpec = GuardsSpec()
    meaning: MeaningSpec = MeaningSpec()
    conduct: ConductSpec = ConductSpec()
    adjustments: dict[Name, AdjustmentSpec] = Field(default_factory=dict, max_length=100)
    cues: dict[Category | ConductKind, Cue] = Field(
        default_factory=dict,
        description="what the agent could say or keep in mind when this rises; one text or up to five",
    )
    sets: dict[Name, tuple[Phrase, ...]] = Field(default_factory=dict, max_length=200)
    lexicon: dict[Phrase, EntrySpec] = Field(max_length=20_000)
    examples: dict[Category, tuple[Text, ...]] = Field(default_factory=dict)
    civil_examples: tuple[Text, ...] = ()

    @field_validator("lexicon")
    @classmethod
    def _not_empty(cls, value: dict[str, EntrySpec]) -> dict[str, EntrySpec]:
        if not value:
            raise ValueError("a pack without a single entry can judge nothing")
        return value


@dataclass(frozen=True, slots=True)
class Pack:
    """A policy ready to judge with. ``version`` names the content: ``standard@1a2b3c4d5e6f``."""

    spec: PackSpec
    version: str
    lexicon: Lexicon
    adjustment: str | None = None
    meaning: Meaning | None = None
    """The reader of meaning; ``None``: words and rules alone."""

    @property
    def name(self) -> str:
        """The pack's own name."""
        return self.spec.name

    @property
    def mode(self) -> Mode:
        """How far the policy may go by itself."""
        return self.spec.mode

    def taught(self) -> list[tuple[str, Category]]:
        """Every example sentence with what it is an example of."""
        harmless = (Category.CIVIL, Category.VENTING, Category.OBSCENITY)
        taught = [
            (text, Category.CIVIL if kind in harmless else kind)
            for kind, texts in self.spec.examples.items()
            for text in texts
        ]
        return [*taught, *((text, Category.CIVIL) for text in self.spec.civil_examples)]

    def ladder_shape(self) -> tuple[object, ...]:
        """What a running call's state refers to: rungs, steps and who climbs, endings, prompts, mode.

        Two packs of one shape differ in thresholds and words alone, so a live call may go from one to the other.
        """
        tracks = tuple((name, t.categories, t.steps, t.climbs) for name, t in self.spec.tracks.items())
        return self.spec.mode, tracks, self.spec.ending, self.spec.prompts

    def prompt_names(self) -> frozenset[str]:
        """Catalogue names of every prompt that this pack can ask for."""
        return frozenset(self.spec.prompts.model_dump().values())

    def track_of(self, category: Category) -> str | None:
        """The track that counts ``category`` under this pack, or ``None``."""
        return next((name for name, track in self.spec.tracks.items() if category in track.categories), None)

    def is_person(self, category: Category, severity: int) -> bool:
        """Whether a finding of ``category`` so severe counts toward the shared person tracks."""
        name = self.track_of(category)
        if name is None:
            return False
        track = self.track(name)
        return track.climbs is Climb.SHARED and severity >= track.min_severity

    def track(self, name: str) -> TrackSpec:
        """The track called ``name``."""
        found: TrackSpec = getattr(self.spec.tracks, name)
        return found

    def in_mode(self, mode: Mode | None) -> Pack:
        """The pack going as far by itself as ``mode`` says; ``None``: as far as it says."""
        return self if mode is None else replace(self, spec=self.spec.model_copy(update={"mode": mode}))

    def adjusted(self, name: str | None) -> Pack:
        """The pack with the allowance ``name`` applied: more steps, more strikes, more grace, quicker decay.

        Raises:
            KeyError: no such adjustment in this pack.
        """
        if name is None:
            return self
        adjustment = self.spec.adjustments[name]
        tracks = {key: _lengthen(track, adjustment) for key, track in self.spec.tracks.items()}
        timing = self.spec.timing
        slower = timing.model_copy(
            update={
                "grace_ms": round(timing.grace_ms * adjustment.grace_factor),
                "decay_ms": round(timing.decay_ms * adjustment.decay_factor),
                "countdown_ms": round(timing.countdown_ms * adjustment.countdown_factor),
            }
        )
        spec = self.spec.model_copy(update={"tracks": self.spec.tracks.model_copy(update=tracks), "timing": slower})
        return Pack(spec, f"{self.version}+{name}", self.lexicon, name, self.meaning)


def _lengthen(track: TrackSpec, adjustment: AdjustmentSpec) -> TrackSpec:
    left = tuple(c for c in track.categories if c not in adjustment.ignore or c is Category.SAFEGUARD)
    update: dict[str, object] = {"categories": left}
    if track.climbs is not Climb.NEVER and track.steps:
        update["steps"] = (track.steps[0],) * adjustment.extra_steps + track.steps
        update["min_strikes"] = track.min_strikes + adjustment.extra_steps
    return track.model_copy(update=update)


Read = Callable[[str, str | None], tuple[str, str]]
"""``read(name, asked_by)`` -> (source as shown in errors, text); ``asked_by`` is the source that extends it.

Raises ``LookupError`` with a plain sentence when there is no such pack.
"""


def load(text: str, source: str, read: Read) -> Pack:
    """Resolve, validate and compile one pack.

    Raises:
        YamlError: every problem with file:line: key, those of an extended pack under that pack's own name.
    """
    spec, lexicon, _ = _resolve(text, source, read, ())
    content = json.dumps(spec.model_dump(mode="json"), sort_keys=True, ensure_ascii=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    return Pack(spec, f"{spec.name}@{digest}", lexicon)


def _resolve(text: str, source: str, read: Read, chain: tuple[str, ...]) -> tuple[PackSpec, Lexicon, dict[str, Any]]:
    data, lines = parse(text, source)
    if not isinstance(data, dict):
        raise YamlError([Problem(source, 1, "", f"expected a mapping of keys, found {type(data).__name__}")])
    here = (*chain, source)
    parent = data.get("extends")
    merged = dict(data)
    if isinstance(parent, str):
        at = lines.get(("extends",), 1)
        try:
            parent_source, parent_text = read(parent, source)
        except LookupError as exc:
            raise YamlError([Problem(source, at, "extends", str(exc.args[0] if exc.args else exc))]) from exc
        if parent_source in here or len(here) > MAX_EXTENDS:
            loop = " -> ".join((*here, parent_source))
            what = "goes in a circle" if parent_source in here else f"is more than {MAX_EXTENDS} packs deep"
            raise YamlError([Problem(source, at, "extends", f"{what}: {loop}")])
        _, _, base = _resolve(parent_text, parent_source, read, here)
        merged = _merge(base, data, ())
    spec = validate(merged, lines, source, PackSpec)
    return spec, _compile(spec, source, lines), merged


def _merge(base: Any, over: Any, path: Path) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        out = dict(base)
        for key, value in over.items():
            if value is None:
                out.pop(key, None)
            else:
                out[key] = _merge(base[key], value, (*path, key)) if key in base else value
        return out
    if isinstance(base, list) and isinstance(over, list) and path and path[0] in ("examples", "civil_examples"):
        return [*base, *over]
    return over


def _compile(spec: PackSpec, source: str, lines: dict[Path, int]) -> Lexicon:
    entries = [
        Entry(key, e.category, e.severity, e.needs_target, e.profane, e.form, e.variants)
        for key, e in spec.lexicon.items()
    ]
    try:
        return Lexicon(entries, spec.sets)
    except PatternError as exc:
        line = lines.get(("lexicon", exc.entry), 1)
        raise YamlError([Problem(source, line, f"lexicon.{exc.entry}", str(exc))]) from exc
