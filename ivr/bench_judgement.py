"""``firmline bench judgement``: what is left of the judgement once words were spoken, sent over a telephone and heard.

Every labelled line is spoken in several voices, passed through mu-law at 8 kHz, clean and with white noise 10 dB under
the speech, heard with the ears of a live call (voice activity, endpointing, recogniser, its guards): as shipped,
without second looks, and with an ``initial_prompt``; and judged as a live call's finals are. The same lines as text are
the yardstick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from audio.types import Pcm, Segment, SegmentKind, Transcript
from audio.wavio import frames
from ivr.asr import SyncAsr
from ivr.bench_ears import bare_words, word_errors
from ivr.bench_machine import load_average
from ivr.bench_speech import LINE_NOISE_DBOV, RATE_HZ, SPEECH_DBOV, mu_law, on_the_line, white
from ivr.bench_voices import VOICES, Clips
from ivr.config import Config
from ivr.ears import asr_options
from ivr.judge import load_pack
from ivr.models import resolve_model
from ivr.parts import listener_factory
from ivr.tuning import Labelled
from policies.pack import Pack
from policies.types import Side
from policies.verdict import judge

NOISE_DB = 10.0
PROMPT = (
    "I have been on hold for an hour. You are useless, you stupid idiot. This is bullshit, so shut up and get me your "
    "bloody manager."
)
"""Natural sentences as a caller might say them; lists of words make the recogniser invent them."""
KEPT = "of what is struck as text, still struck, by voice"
_TOGETHER = 16
"""Lines heard at a time, so that segments of similar length can share a pass, as those of several calls do."""
_LEAD_S = 1.0
_AFTER_S = 0.8


@dataclass(frozen=True, slots=True)
class Heard:
    """One utterance as the recogniser gave it."""

    text: str
    avg_logprob: float


@dataclass(frozen=True, slots=True)
class Spoken:
    """One line in one voice."""

    row: Labelled
    voice: str


class JudgementBench:
    """Pack and model, loaded once.

    Raises:
        FirmlineError: no model or no such pack.
    """

    def __init__(self, config: Config, pack: str, prompt: str = PROMPT) -> None:
        self._pack = load_pack(pack)
        self._config = config
        self._strikes = cache(lambda text: judge(text, self._pack).strike)
        model = resolve_model(config.ears.model, offline=config.ears.offline)
        options = asr_options(config)
        self._asr = {
            "as shipped": SyncAsr(model, config.ears.threads, options=options),
            "one look": SyncAsr(model, config.ears.threads, options=replace(options, second_look=False)),
            "initial_prompt": SyncAsr(model, config.ears.threads, options=replace(options, initial_prompt=prompt)),
        }

    def steps(self, rows: Sequence[Labelled], voices: int) -> int:
        """How often ``run`` will call ``step`` in all, clips included."""
        return len(rows) * voices * (1 + 2 * len(self._asr))

    def run(self, rows: Sequence[Labelled], voices: int, step: Callable[[int], None], clips: Clips) -> dict[str, Any]:
        """All lines, each in ``voices`` of the voices, in turn.

        Raises:
            FirmlineError: a voice is missing.
        """
        spoken = [
            Spoken(row, VOICES[(at + turn) % len(VOICES)]) for turn in range(voices) for at, row in enumerate(rows)
        ]
        clips.make([(each.row.text, each.voice) for each in spoken], step)
        struck = [self.strikes([Heard(row.text, 0.0)]) for row in rows]
        table = [_row("as text", rows, struck, None)]
        as_text = {row.line: hit for row, hit in zip(rows, struck, strict=True)}
        by_voice: dict[str, list[bool]] = {}
        for name, noise_dbov in (("clean", LINE_NOISE_DBOV), (f"noise, {NOISE_DB:g} dB", SPEECH_DBOV - NOISE_DB)):
            heard: dict[str, list[list[Heard]]] = {how: [] for how in self._asr}
            for first in range(0, len(spoken), _TOGETHER):
                some = list(enumerate(spoken))[first : first + _TOGETHER]
                legs = [on_a_line(*clips.clip(each.row.text, each.voice), noise_dbov, at) for at, each in some]
                finals = [self._finals(leg) for leg in legs]
                for how in self._asr:
                    heard[how] += self._hear(finals, how)
                    step(len(some))
            for how, said in heard.items():
                found = [self.strikes(each) for each in said]
                table.append(_row(f"{name}, {how}", [each.row for each in spoken], found, said))
                for each, hit in zip(spoken, found, strict=True):
                    if each.row.label and as_text[each.row.line]:
                        by_voice.setdefault(each.voice, []).append(hit)
        kept = {voice: round(sum(hits) / len(hits), 2) for voice, hits in sorted(by_voice.items())}
        return {
            "bench": "judgement",
            "lines": len(rows),
            "voices a line": voices,
            KEPT: kept,
            "load average": load_average(),
            "rows": table,
        }

    def _hear(self, finals: Sequence[Sequence[Segment]], how: str) -> list[list[Heard]]:
        """What stands of the words of each leg's finals."""
        queue = [(at, each) for at, segments in enumerate(finals) for each in segments]
        queue.sort(key=lambda final: len(final[1].samples))
        found: list[tuple[int, Transcript]] = []
        for first in range(0, len(queue), self._config.ears.batch):
            some = queue[first : first + self._config.ears.batch]
            words = self._asr[how].decode_batch([each for _, each in some])
            found += zip((at for at, _ in some), words, strict=True)
        heard: list[list[Heard]] = [[] for _ in finals]
        for at, said in sorted(found, key=lambda each: each[1].start_ms):
            if said.text and not said.dropped:
                heard[at].append(Heard(said.text, said.avg_logprob))
        return heard

    def _finals(self, leg: Pcm) -> list[Segment]:
        """The finals of one leg (8 kHz)."""
        listener = listener_factory(self._config)(Side.CALLER)
        segments: list[Segment] = []
        end_ms = 0
        for frame in frames(leg, RATE_HZ):
            end_ms = frame.end_ms
            segments += [each for each in listener.hear(frame, end_ms) if isinstance(each, Segment)]
        segments += [each for each in listener.finish(end_ms) if isinstance(each, Segment)]
        return [each for each in segments if each.kind is SegmentKind.FINAL]

    def strikes(self, heard: Sequence[Heard]) -> bool:
        """See :func:`counts_strike`."""
        return counts_strike(self._pack, heard, self._strikes)


def counts_strike(pack: Pack, heard: Sequence[Heard], strikes: Callable[[str], bool] | None = None) -> bool:
    """Whether one of these finals counts toward the tracks of a person, as ``firmline tune`` counts text; what the
    recogniser was not sure of counts for nobody, as in a live call. ``strikes``: what knows it of a text already."""
    sure = [each for each in heard if each.avg_logprob >= pack.spec.guards.min_avg_logprob]
    return any(strikes(each.text) if strikes else judge(each.text, pack).strike for each in sure)


def on_a_line(samples: Pcm, rate_hz: int, noise_dbov: float, seed: int) -> Pcm:
    """A clip as a leg carries it: -26 dBov, with a line's noise before, over and after it, mu-law at 8 kHz."""
    voice = on_the_line(samples, rate_hz)
    quiet = [np.zeros(int(seconds * RATE_HZ), np.int16) for seconds in (_LEAD_S, _AFTER_S)]
    whole = np.concatenate([quiet[0], voice, quiet[1]])
    return mu_law(whole + white(len(whole), noise_dbov, seed))


def _row(
    name: str, rows: Sequence[Labelled], struck: Sequence[bool], heard: Sequence[Sequence[Heard]] | None
) -> dict[str, Any]:
    attacks = [hit for row, hit in zip(rows, struck, strict=True) if row.label]
    civil = [hit for row, hit in zip(rows, struck, strict=True) if not row.label]
    found = sum(attacks) + sum(civil)
    return {
        "lines": name,
        "recall": _share(sum(attacks), len(attacks)),
        "precision": _share(sum(attacks), found),
        "civil lines struck": f"{sum(civil)} of {len(civil)}",
        "WER %": "" if heard is None else _wer(rows, heard),
        "nothing heard": "" if heard is None else sum(not each for each in heard),
    }


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2f} ({part} of {whole})" if whole else "none"


def _wer(rows: Sequence[Labelled], heard: Sequence[Sequence[Heard]]) -> float:
    errors = words = 0
    for row, each in zip(rows, heard, strict=True):
        expected = bare_words(row.text)
        errors += word_errors(expected, bare_words(" ".join(one.text for one in each)))
        words += len(expected)
    return round(100 * errors / max(1, words), 1)
