"""The parts of ``firmline bench ears``: one talker ours and as shipped, many calls, what is no speech, and a monologue.

Every part gives one dictionary with ``rows``, printed as one table of docs/benchmarks-ears.md.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from audio.transcribe import prepare
from audio.types import Pcm, Segment, Transcript
from audio.whisper import ShippedWhisper
from ivr.asr import SyncAsr
from ivr.asr_queue import QueueOptions
from ivr.bench_agreement import GrowingBuffer
from ivr.bench_ears import Aligner, Measured, Talk, pair_s, talk_of
from ivr.bench_machine import load_average, rss_mb
from ivr.bench_peers import WHISPER_LIVE, PeerMissingError, WhisperLive
from ivr.bench_sim import Decoder, Outcome, Setup, Simulation
from ivr.bench_speech import (
    RATE_HZ,
    Line,
    non_speech,
    prompt_echo,
    prompt_lines,
    recorded_line,
    spoken_lines,
    stretch_of_talk,
)
from ivr.config import Config
from ivr.drafts import DraftOptions
from ivr.ears import asr_options
from ivr.judge import load_pack
from ivr.models import ResolvedModel, resolve_model
from ivr.parts import call_options, listener_options
from policies.pack import Pack

Progress = Callable[[str], None]
Run = Callable[[Pcm], Outcome]
"""One leg heard in one way."""
WATCHED_EVERY_MS = 700
PACK = "shadow"
LIVE_PEER = f"{WHISPER_LIVE}, faster-whisper backend, real time"
"""The only one whose clock is not simulated: its CPU is what the machine has left, so it says nothing of a core."""


class Shipped:
    """faster-whisper as its package does it, one segment after the other, no guard of ours."""

    def __init__(self, model: ResolvedModel, beam_size: int) -> None:
        self._whisper = ShippedWhisper(model.path, beam_size)

    def decode_batch(self, segments: list[Segment]) -> list[Transcript]:
        """One transcript a segment."""
        return [Transcript(self._whisper.text(prepare(each)), each.start_ms, each.end_ms) for each in segments]


class EarsBench:
    """Model, pack and speech, loaded once for all parts.

    Raises:
        FirmlineError: no model, or a voice is missing.
    """

    def __init__(self, config: Config, progress: Progress) -> None:
        self._progress = progress
        self._model = resolve_model(config.ears.model, offline=config.ears.offline)
        self.asr = SyncAsr(self._model, options=asr_options(config))
        self._aligner = Aligner(self.asr)
        self._pack: Pack = load_pack(PACK)
        self.setup = Setup(listener_options(config), call_options(config), QueueOptions(batch=config.ears.batch))
        self._lines = spoken_lines()

    # --- one talker ---------------------------------------------------------------------------------------------------

    def talker(self, rounds: int, *, peers: bool = False) -> dict[str, Any]:
        """One call, ours and peers, in turn; WER, cost and lateness. A peer that cannot be had says so in its row."""
        talks = [talk_of(prompt_lines()[:6] + self._lines, self._aligner)]
        recorded = recorded_line()
        if recorded is not None:
            talks.append(talk_of([recorded], self._aligner))
        variants = self._variants() | (self._peers() if peers else {})
        sums = {name: Measured() for name in variants}
        missing: dict[str, str] = {}
        for number, (name, run) in itertools.product(range(rounds), variants.items()):
            if name in missing:
                continue
            self._progress(f"round {number + 1} of {rounds}: {name}")
            try:
                for talk in talks:
                    sums[name].add([talk], run(talk.samples))
            except PeerMissingError as exc:
                missing[name] = str(exc)
        speech_s = round(sum(talk.speech_ms for talk in talks) / 1000)
        rows = [
            measured.row(f"{name}: NOT RUN: {missing[name]}" if name in missing else name)
            for name, measured in sums.items()
        ]
        for row in rows:
            if row["how"] == LIVE_PEER:
                row["keeps up on a core"] = "decodes whenever it can"
        load = {"load average": load_average()}
        return {"bench": "ears talker", "speech_s": speech_s, "recording": recorded is not None, **load, "rows": rows}

    def _variants(self) -> dict[str, Run]:
        first = self._first_version()
        shipped = {beam: Shipped(self._model, beam) for beam in (5, 1)}
        every = f"every word visible ({WATCHED_EVERY_MS} ms)"
        return {
            "faster-whisper as shipped, beam 5": lambda leg: self._run(first, shipped[5], [leg]),
            "faster-whisper as shipped, beam 1": lambda leg: self._run(first, shipped[1], [leg]),
            "finals only, decoded after the pause": lambda leg: self._run(first, self.asr, [leg]),
            "finals only": lambda leg: self._run(self._watching(0), self.asr, [leg]),
            every: lambda leg: self._run(self._watching(WATCHED_EVERY_MS), self.asr, [leg]),
        }

    def _peers(self) -> dict[str, Run]:
        growing = GrowingBuffer(self._model.path)
        return {
            "growing buffer, LocalAgreement-2 (whisper_streaming's method)": growing.run,
            LIVE_PEER: lambda leg: WhisperLive(self._model.path, self._progress).run(leg),
        }

    # --- many calls ---------------------------------------------------------------------------------------------------

    def many(
        self, calls: Sequence[tuple[int, int, int]], seconds: int, batches: Sequence[int] = (8,)
    ) -> dict[str, Any]:
        """Many calls at once on simulated workers: ``calls`` are (calls, workers, interval of drafts or 0), each with
        at most so many segments a pass as ``batches`` says."""
        rows = []
        for count, workers, every_ms in calls:
            talks = [self._sparse(at, seconds) for at in range(count)]
            for batch in batches:
                self._progress(f"{count} calls, {workers} workers, drafts {every_ms} ms, batch {batch}")
                setup = replace(self._watching(every_ms), queue=QueueOptions(batch=batch), workers=workers)
                measured = Measured()
                measured.add(talks, self._run(setup, self.asr, [talk.samples for talk in talks]))
                rows.append(
                    {"calls": count, "workers": workers, **measured.row(f"drafts {every_ms} ms, batch {batch}")}
                )
        return {"bench": "ears many", "seconds": seconds, "rows": rows}

    def _sparse(self, seed: int, seconds: int) -> Talk:
        """A caller who speaks some 40 % of the time, each in an order of their own."""
        order = np.random.default_rng(seed).permutation(len(self._lines))
        lines: list[Line] = []
        pauses = (2_500, 4_500, 3_500)
        length_s = seed % 7 * 0.5
        for at in itertools.cycle(order):
            lines.append(self._lines[int(at)])
            length_s += len(lines[-1].samples) / RATE_HZ + pauses[len(lines) % 3] / 1000
            if length_s > seconds:
                break
        talk = talk_of(lines, self._aligner, pauses)
        return talk.later(seed % 7 * 500)

    # --- no speech ----------------------------------------------------------------------------------------------------

    def nothing(self, minutes: float) -> dict[str, Any]:
        """What a line carries besides speech: which words come out of it. Ends in ``words``: there must be none."""
        sounds = list(non_speech(1))
        each_s = minutes * 60 / (len(sounds) + 1)
        rows, heard = [], []
        for name, leg in [*non_speech(each_s), ("prompt echo", prompt_echo(each_s))]:
            self._progress(f"{name}, {each_s:.0f} s")
            prompts = name == "prompt echo"
            outcome = self._run(self._watching(WATCHED_EVERY_MS), self.asr, [leg], over_prompt=prompts)
            words = [seen.text for seen in outcome.seen[0] if seen.text and not seen.over_prompt]
            marked = sum(bool(seen.text) and seen.over_prompt for seen in outcome.seen[0])
            heard += words
            rows.append(
                {
                    "sound": name,
                    "segments decoded": outcome.decoded,
                    "marked as over our prompt": marked,
                    "words that count": "; ".join(words[:3]) or "none",
                }
            )
        return {"bench": "ears nothing", "minutes": minutes, "words": len(heard), "rows": rows}

    # --- monologue ----------------------------------------------------------------------------------------------------

    def monologue(self, minutes: float) -> dict[str, Any]:
        """Somebody who never pauses for long: lag, cost and memory at the beginning and at the end."""
        lines = list(itertools.islice(itertools.cycle(self._lines), 4 * len(self._lines)))
        talk, _ = stretch_of_talk(lines, pause_ms=(120, 60, 180))
        leg = np.tile(talk, 1 + int(minutes * 60 * RATE_HZ / len(talk)))[: int(minutes * 60 * RATE_HZ)]
        # The decoder's own memory has its size once it has seen every length that comes.
        self._run(self._watching(WATCHED_EVERY_MS), self.asr, [leg[: len(leg) // 3]])
        before_mb = rss_mb(os.getpid())
        outcome = self._run(self._watching(WATCHED_EVERY_MS), self.asr, [leg])
        grown_mb = rss_mb(os.getpid()) - before_mb
        third_ms = minutes * 20_000
        rows = [_third(name, outcome, at * third_ms, third_ms) for at, name in enumerate(("first", "second", "last"))]
        return {"bench": "ears monologue", "minutes": minutes, "grown_mb": round(grown_mb, 1), "rows": rows}

    # --- setups -------------------------------------------------------------------------------------------------------

    def _watching(self, every_ms: int) -> Setup:
        drafts = DraftOptions(every_ms=every_ms, tense_every_ms=every_ms or 400)
        return replace(self.setup, call=replace(self.setup.call, drafts=drafts))

    def _first_version(self) -> Setup:
        endpoint = replace(self.setup.listener.endpoint, offers=False, tail_ms=self.setup.listener.endpoint.hangover_ms)
        return replace(self._watching(0), listener=replace(self.setup.listener, endpoint=endpoint))

    def _run(self, setup: Setup, decoder: Decoder, legs: Sequence[Pcm], *, over_prompt: bool = False) -> Outcome:
        return Simulation(setup, decoder, legs, self._pack, over_prompt=over_prompt).run()


def _third(name: str, outcome: Outcome, from_ms: float, length_ms: float) -> dict[str, Any]:
    seen = [each for each in outcome.seen[0] if from_ms <= each.t_ms < from_ms + length_ms and each.text]
    cost_ms = sum(ms for at, ms in outcome.passes_ms if from_ms <= at < from_ms + length_ms)
    shown = [each.t_ms - each.end_ms for each in seen if not each.final]
    final = [each.t_ms - each.end_ms for each in seen if each.final]
    return {
        "third": name,
        "shown, behind the voice p50 / p95 s": pair_s(shown),
        "final, behind the voice p50 / p95 s": pair_s(final),
        "CPU s per s": round(cost_ms / length_ms, 3),
    }
