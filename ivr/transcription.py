"""``firmline transcribe``: recordings through the ears of a live call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from audio.types import Pcm, Segment, SegmentKind, Transcript
from audio.wavio import frames
from ivr.asr import SyncAsr
from ivr.clock import monotonic_ms, wait_until_ms
from ivr.config import Config
from ivr.ears import asr_options
from ivr.errors import WavError
from ivr.models import resolve_model
from ivr.parts import listener_factory
from ivr.recordings import load_recording
from policies.types import Side


def transcribe_files(config: Config, paths: Sequence[Path], *, realtime: bool) -> Iterator[dict[str, Any] | WavError]:
    """One result a file, in order; a file that cannot be read yields its error and the rest go on.

    Raises:
        ModelError: no speech model.
    """
    ears = config.ears
    decoder = SyncAsr(resolve_model(ears.model, offline=ears.offline), ears.threads, options=asr_options(config))
    for path in paths:
        try:
            recording = load_recording(path)
        except WavError as exc:
            yield exc
            continue
        utterances: list[dict[str, Any]] = []
        names = ["mono"] if len(recording.channels) == 1 else ["left", "right"]
        for name, channel in zip(names, recording.channels, strict=True):
            for said in _hear(config, channel, recording.rate_hz, decoder, realtime=realtime):
                utterances.append({"channel": name, **_utterance(said)})
        utterances.sort(key=lambda u: int(u["start_ms"]))
        text = " ".join(str(u["text"]) for u in utterances)
        yield {"file": str(path), "duration_ms": recording.duration_ms, "text": text, "utterances": utterances}


def _hear(config: Config, channel: Pcm, rate_hz: int, decoder: SyncAsr, *, realtime: bool) -> Iterator[Transcript]:
    listener = listener_factory(config)(Side.CALLER)
    began_ms, now_ms = monotonic_ms(), 0
    for frame in frames(channel, rate_hz):
        now_ms = frame.end_ms
        if realtime:
            wait_until_ms(began_ms + now_ms)
        yield from _decode(listener.hear(frame, now_ms), decoder)
    yield from _decode(listener.finish(now_ms), decoder)


def _decode(heard: Sequence[object], decoder: SyncAsr) -> Iterator[Transcript]:
    for item in heard:
        if isinstance(item, Segment) and item.kind is SegmentKind.FINAL:
            said = decoder.decode(replace(item, word_times=True))
            if said.text and not said.dropped:
                yield said


def _utterance(said: Transcript) -> dict[str, Any]:
    words = [{"word": w.text, "start_ms": w.start_ms, "end_ms": w.end_ms} for w in said.words]
    return {
        "start_ms": said.start_ms,
        "end_ms": said.end_ms,
        "text": said.text,
        "avg_logprob": round(said.avg_logprob, 2),
        **({"words": words} if words else {}),
    }
