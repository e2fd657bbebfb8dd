"""``firmline tune``: what each pack would have done on labelled words and recordings, and where the packs differ.

Owns: reading the labels, running every call through the real engine (or, for a recording, through the very pipeline of
a live call), counting. Never: drawing (``ivr.tuneplot``), training.

Two kinds of figures. Precision and recall are per utterance, over the rows with text. Warnings and endings are per
call: rows with the same ``call`` are one call, in order; a row without is a call of one utterance, which is honest for
warnings and says nothing about endings. A pack is run as if its mode were ``full``.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ivr.config import Config
from ivr.errors import ConfigError
from ivr.judge import load_pack
from policies.directed import in_the_room
from policies.engine import Engine
from policies.pack import Mode, Pack, Step
from policies.types import EndCall, PlayPrompt, PromptDone, PromptStarted, Record, Side, Utterance
from policies.verdict import by_words, judge, weigh

UTTERANCE_MS = 2_500
PROMPT_MS = 5_000
PAUSE_MS = 8_000
"""Between two utterances of a transcript, which has no times: longer than any pack's grace."""
TURNS = 20
"""Utterances of the call that a rate per utterance is carried over to."""
MAX_BYTES = 50_000_000
SWEEP = tuple(round(0.05 * n, 2) for n in range(1, 20))

YES = frozenset("1 true yes strike abuse abusive insult threat slur sexual".split())
NO = frozenset("0 false no none civil venting obscenity safeguard ordinary".split())
_WARNINGS = frozenset({Step.WARNING.value, Step.FINAL_WARNING.value})


@dataclass(frozen=True, slots=True)
class Labelled:
    """One row: words or a recording, and whether it attacks the listener. ``line`` is its line of the CSV."""

    label: bool
    line: int
    text: str = ""
    file: Path | None = None
    call: str = ""


@dataclass(slots=True)
class CallOutcome:
    """What a pack would have done in one call. ``strikes`` says for each utterance whether it counted."""

    name: str
    abusive: bool
    requests: int = 0
    warnings: int = 0
    endings: int = 0
    evidence: list[str] = field(default_factory=list)

    @property
    def told(self) -> str:
        """In one word."""
        return "ended" if self.endings else "warned" if self.warnings else "asked" if self.requests else "left alone"


@dataclass(slots=True)
class PackReport:
    """The figures of one pack. ``curve`` holds threshold, precision, recall and false strikes per 100 civil lines."""

    pack: str
    utterances: int = 0
    calls: int = 0
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    false_strikes_per_100: float | None = None
    false_warnings_per_1000_calls: float | None = None
    false_endings_per_1000_calls: float | None = None
    struck_in_20_turns_per_1000: float | None = None
    missed_calls: int = 0
    curve: list[tuple[float, float, float, float]] = field(default_factory=list)


def load_labels(path: Path) -> list[Labelled]:
    """Rows of ``text,label`` or ``file,label``, with ``call`` if there are calls of several lines.

    A column ``strike`` may stand in for ``label``. Recordings are looked for beside the CSV.

    Raises:
        ConfigError: not there, too large, not UTF-8, a column missing, a row that cannot be read, or a recording that
            is not there, with its line.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = set(reader.fieldnames or ())
            if not columns & {"text", "file"} or not columns & {"label", "strike"}:
                found = ", ".join(sorted(columns)) or "nothing"
                raise ConfigError(f"{path}:1: needs a column text or file, and a column label; found {found}")
            rows = [_row(path, reader.line_num, row) for row in reader]
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (UnicodeDecodeError, csv.Error) as exc:
        raise ConfigError(f"{path}: not a CSV file in UTF-8: {exc}") from exc
    if not rows:
        raise ConfigError(f"{path}: no rows")
    return rows


def _row(path: Path, line: int, row: dict[str, str]) -> Labelled:
    said = (row.get("label") or row.get("strike") or "").strip().lower()
    if said not in YES | NO:
        allowed = ", ".join(sorted(YES | NO))
        raise ConfigError(f"{path}:{line}: label: found {said!r}; allowed: {allowed}")
    text, file = (row.get("text") or "").strip(), (row.get("file") or "").strip()
    if not text and not file:
        raise ConfigError(f"{path}:{line}: neither text nor file")
    if not text and not (path.parent / file).is_file():
        raise ConfigError(f"{path}:{line}: file: no such recording: {path.parent / file}")
    call = (row.get("call") or "").strip()
    return Labelled(said in YES, line, text, path.parent / file if file else None, call)


@dataclass(slots=True)
class Comparison:
    """Everything ``firmline tune`` shows."""

    reports: list[PackReport]
    differ: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """One JSON-able object."""
        return {"packs": [asdict(report) for report in self.reports], "differ": self.differ}


def compare(
    rows: Sequence[Labelled], pack_names: Sequence[str], config: Config, step: Callable[[], None]
) -> Comparison:
    """Every pack over every call; ``step`` is called once a call and pack.

    Raises:
        ConfigError: a pack cannot be used.
        WavError: a recording cannot be read.
        ModelError: no speech model, and there are recordings.
    """
    calls = _calls(rows)
    reports: list[PackReport] = []
    outcomes: list[list[CallOutcome]] = []
    for name in pack_names:
        pack = load_pack(name)
        pack = replace(pack, spec=pack.spec.model_copy(update={"mode": Mode.FULL}))
        done = []
        for call_name, members in calls:
            done.append(_call(call_name, members, pack, name, config))
            step()
        outcomes.append(done)
        reports.append(_report(name, pack, rows, done))
    differ = [
        {
            "call": calls[at][0],
            "abusive": each[0].abusive,
            **{name: {"did": o.told, "why": o.evidence} for name, o in zip(pack_names, each, strict=True)},
        }
        for at, each in enumerate(zip(*outcomes, strict=True))
        if len({o.told for o in each}) > 1
    ]
    return Comparison(reports, differ)


def steps_of(rows: Sequence[Labelled], packs: int) -> int:
    """How often ``compare`` will call ``step``."""
    return len(_calls(rows)) * packs


def _calls(rows: Iterable[Labelled]) -> list[tuple[str, list[Labelled]]]:
    calls: dict[str, list[Labelled]] = {}
    for row in rows:
        name = row.call or (str(row.file.name) if row.file else f"line {row.line}: {row.text[:60]}")
        key = row.call or f"#{row.line}"
        calls.setdefault(f"{key}\0{name}", []).append(row)
    return [(key.partition("\0")[2], members) for key, members in calls.items()]


def _call(name: str, members: Sequence[Labelled], pack: Pack, pack_name: str, config: Config) -> CallOutcome:
    outcome = CallOutcome(name, any(row.label for row in members))
    spoken = [row.text for row in members if row.text]
    if spoken:
        _speak(spoken, pack, outcome)
    for row in members:
        if row.file is not None and not row.text:
            _listen(row.file, pack_name, config, outcome)
    return outcome


def _speak(texts: Sequence[str], pack: Pack, outcome: CallOutcome) -> None:
    """The lines as finals of one call; every prompt is heard out, pauses are longer than the grace time."""
    engine, now_ms = Engine(pack), 0
    for text in texts:
        start_ms, now_ms = now_ms, now_ms + UTTERANCE_MS
        actions = engine.hear(Utterance(text, Side.CALLER, start_ms, now_ms), now_ms)
        while actions:
            following = []
            for action in actions:
                if isinstance(action, Record) and action.event == "strike":
                    _count(dict(action.data), outcome)
                elif isinstance(action, EndCall):
                    outcome.endings += 1
                    return
                elif isinstance(action, PlayPrompt):
                    engine.hear(PromptStarted(action.prompt, now_ms), now_ms)
                    now_ms += PROMPT_MS
                    following += engine.hear(PromptDone(action.prompt, now_ms, True), now_ms)
            now_ms += max(PAUSE_MS, pack.spec.timing.grace_ms + 1) if not following else 0
            following += engine.on_deadline(now_ms)
            actions = following
        now_ms += max(PAUSE_MS, pack.spec.timing.grace_ms + 1)


def _listen(file: Path, pack_name: str, config: Config, outcome: CallOutcome) -> None:
    """A recording through the pipeline of a live call. A caller who hangs up in the countdown counts as ended too."""
    from ivr.replaying import replay_file

    for line in replay_file(config, file, pack_name):
        if line["event"] == "strike":
            _count(line, outcome)
            outcome.endings += int(line.get("step") == Step.END.value)


def _count(strike: dict[str, Any], outcome: CallOutcome) -> None:
    step = str(strike.get("step"))
    outcome.warnings += int(step in _WARNINGS)
    outcome.requests += int(step == Step.GENTLE_REQUEST.value)
    why = strike.get("why")
    reasons = "; ".join(str(each) for each in why) if isinstance(why, list | tuple) else str(why or "")
    outcome.evidence.append(f"{step}: {strike.get('text') or ''!s} ({reasons})")


def _report(name: str, pack: Pack, rows: Sequence[Labelled], done: Sequence[CallOutcome]) -> PackReport:
    spoken = [row for row in rows if row.text]
    report = PackReport(name, utterances=len(spoken), calls=len(done))
    if spoken:
        struck = [judge(row.text, pack).strike for row in spoken]
        report.precision, report.recall, report.f1, per_100 = _figures(spoken, struck)
        report.false_strikes_per_100 = per_100
        report.struck_in_20_turns_per_1000 = round(1000 * (1 - (1 - per_100 / 100) ** TURNS), 1)
        report.curve = _curve(spoken, pack)
    civil = [each for each in done if not each.abusive]
    if civil:
        report.false_warnings_per_1000_calls = round(1000 * sum(bool(o.warnings) for o in civil) / len(civil), 2)
        report.false_endings_per_1000_calls = round(1000 * sum(bool(o.endings) for o in civil) / len(civil), 2)
    report.missed_calls = sum(o.abusive and not o.warnings and not o.endings for o in done)
    return report


def _figures(rows: Sequence[Labelled], struck: Sequence[bool]) -> tuple[float, float, float, float]:
    hit = sum(s and r.label for r, s in zip(rows, struck, strict=True))
    bad, meant = sum(struck), sum(r.label for r in rows)
    civil = len(rows) - meant
    precision, recall = (hit / bad if bad else 1.0), (hit / meant if meant else 1.0)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    per_100 = 100 * (bad - hit) / civil if civil else 0.0
    return round(precision, 4), round(recall, 4), round(f1, 4), round(per_100, 3)


def _curve(rows: Sequence[Labelled], pack: Pack) -> list[tuple[float, float, float, float]]:
    """The same lines under other values of ``meaning.strike``; one reading a line serves for all of them."""
    if pack.meaning is None:
        return []
    read = []
    for row in rows:
        tokens, ruled = by_words(row.text, pack)
        reading = pack.meaning.read(row.text, lambda text: by_words(text, pack)[1]) if tokens else None
        read.append((ruled, reading, in_the_room(tokens)))
    points = []
    for bar in SWEEP:
        spec = pack.spec.model_copy(update={"meaning": pack.spec.meaning.model_copy(update={"strike": bar})})
        other = replace(pack, spec=spec)
        struck = [
            (weigh(ruled, reading, other, aside=aside) if reading else ruled).strike for ruled, reading, aside in read
        ]
        precision, recall, _, per_100 = _figures(rows, struck)
        points.append((bar, precision, recall, per_100))
    return points
