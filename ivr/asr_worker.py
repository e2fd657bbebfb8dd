"""The process that decodes: ``python -m ivr.asr_worker SETTINGS_JSON``, driven by :mod:`ivr.asr` over its pipes.

A process, because then neither the interpreter lock nor a crash in native code reaches the telephone side; started
afresh and not forked, because forking a process with threads and sockets copies locks that nobody will release.

Messages both ways: four bytes of length (big-endian), that many of JSON, then the samples of its segments if any.
The worker lives no longer than the service: it ends when its input ends, and Linux kills it with its parent.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import signal
import struct
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from audio.resample import to_float
from audio.types import Segment, SegmentKind, Transcript, Word
from audio.wavio import read_wav
from ivr import clock

if TYPE_CHECKING:
    from audio.silero import SecondOpinion
    from audio.transcribe import Transcriber
    from audio.whisper import Recipe

_LOG = logging.getLogger("firmline.asr")

SPOKEN_TOKENS = "data/vocabulary/spoken_en.txt"
LENGTH = struct.Struct(">I")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker needs to load its model. ``vocabulary``: ``spoken`` leaves out tokens that nobody says, where they
    are known for the model (:mod:`audio.vocabulary`); ``full`` leaves it whole. ``second_opinion``: what Silero takes
    for no speech is not decoded. ``second_look``: what was heard with doubt is decoded once more, with more care, where
    that is known to help the model. ``nice`` is added to its niceness: sound and signalling come first."""

    path: str
    device: str = "cpu"
    compute_type: str = "auto"
    threads: int = 1
    language: str = "en"
    initial_prompt: str | None = None
    vocabulary: str = "spoken"
    second_opinion: bool = True
    second_look: bool = True
    nice: int = 5
    parent_pid: int = 0


def load_transcriber(settings: WorkerSettings) -> tuple[Transcriber, dict[str, Any]]:
    """Load and self-test the model; the second item says what is used: ``kind``, ``recipe``, ``fallback``, ``device``,
    ``compute_type``, ``tokens`` of the vocabulary, ``second_opinion``, ``second_look``, and ``context`` for the queue.

    :raises RuntimeError, ValueError, OSError: in the loader's words, when there is no usable model.
    """
    # Imported here, so that the service itself never loads the native libraries.
    from audio.transcribe import Transcriber
    from audio.whisper import ShortContextWhisper

    probe = _probe(settings.language)
    with tempfile.TemporaryDirectory(prefix="firmline-model-") as aside:
        smaller = settings.vocabulary == "spoken" and _spoken_only(Path(settings.path), Path(aside))
        whisper = ShortContextWhisper(
            aside if smaller else settings.path,
            device=settings.device,
            compute_type=settings.compute_type,
            threads=settings.threads,
            language=settings.language,
            initial_prompt=settings.initial_prompt,
            probe=probe,
        )
    opinion = _second_opinion(probe) if settings.second_opinion else None
    look_below = whisper.recipe.second_look_below if settings.second_look else None
    about = {
        "kind": whisper.kind,
        "recipe": whisper.recipe.name,
        "fallback": whisper.fallback,
        "device": whisper.device,
        "compute_type": whisper.compute_type,
        "tokens": whisper.tokens,
        "second_opinion": opinion is not None,
        "second_look": look_below is not None,
        "context": _context(whisper.recipe),
    }
    return Transcriber(whisper, opinion, look_below), about


def _second_opinion(probe: npt.NDArray[np.float32] | None) -> SecondOpinion | None:
    """``None``, and a word in the log, when it is not there or fails its self-test: calls are heard without it."""
    try:
        from audio.silero import SecondOpinion

        return SecondOpinion(probe)
    except Exception as error:  # of the package and its runtime: they have no common root
        _LOG.warning("ears.second_opinion does nothing: Silero cannot be used: %s", error)
        return None


def _context(recipe: Recipe) -> dict[str, float]:
    """What the queue must know of the recipe (:class:`ivr.asr_queue.Context`)."""
    if not recipe.short:
        return dict.fromkeys(("least_s", "margin_s", "draft_least_s", "draft_margin_s"), 30.0)
    return {
        "least_s": recipe.min_context_s,
        "margin_s": recipe.margin_s,
        "draft_least_s": recipe.draft_min_context_s,
        "draft_margin_s": recipe.draft_margin_s,
    }


def _spoken_only(folder: Path, aside: Path) -> bool:
    """Put the model without the tokens that nobody says into ``aside``; false when that cannot be done.

    On disk and not in memory: CTranslate2 would keep the file's bytes beside the model as long as it lives.
    """
    from audio.vocabulary import NEEDED, VocabularyError, parse_keep, smaller

    try:
        keep = parse_keep(resources.files("ivr").joinpath(SPOKEN_TOKENS).read_text(encoding="utf-8"))
        if hashlib.sha256((folder / "vocabulary.txt").read_bytes()).hexdigest() != keep.sha256:
            return False
        made = smaller({name: (folder / name).read_bytes() for name in NEEDED}, keep)
        for name, raw in made.items():
            (aside / name).write_bytes(raw)
        for other in folder.iterdir():
            if other.name not in made:
                (aside / other.name).symlink_to(other.resolve())
    except FileNotFoundError:
        return False
    except (VocabularyError, OSError) as error:
        _LOG.warning("the model in %s keeps its whole vocabulary, which costs more: %s", folder, error)
        return False
    return True


def _probe(language: str) -> npt.NDArray[np.float32] | None:
    """The notice prompt as speech for the self-test; only English ones are shipped."""
    if language != "en":
        return None
    clip = resources.files("audio") / "catalogue" / "en" / "16000" / "notice.wav"
    if not clip.is_file():
        _LOG.warning("%s is missing: the model's self-test hears silence only", clip)
        return None
    recording = read_wav(clip.read_bytes(), str(clip))
    return to_float(recording.channels[0], recording.rate_hz, 16_000)


def decode_timed(transcriber: Transcriber, segments: Sequence[Segment]) -> list[Transcript]:
    """Transcripts with ``decode_ms`` filled in: the time of the pass, shared out evenly."""
    began = clock.monotonic_ms()
    found = transcriber.transcribe(segments)
    share = round((clock.monotonic_ms() - began) / max(1, len(segments)))
    return [replace(each, decode_ms=share) for each in found]


# --- messages ---------------------------------------------------------------------------------------------------------


def pack(header: dict[str, Any], body: bytes = b"") -> bytes:
    """One message."""
    encoded = json.dumps(header).encode()
    return LENGTH.pack(len(encoded)) + encoded + body


def pack_segments(segments: Sequence[Segment]) -> bytes:
    """A request to decode these segments."""
    bodies = [np.ascontiguousarray(each.samples, dtype="<i2").tobytes() for each in segments]
    headers = [
        {
            "bytes": len(body),
            "rate_hz": each.rate_hz,
            "start_ms": each.start_ms,
            "end_ms": each.end_ms,
            "audio_start_ms": each.audio_start_ms,
            "kind": each.kind.value,
            "word_times": each.word_times,
        }
        for each, body in zip(segments, bodies, strict=True)
    ]
    return pack({"segments": headers}, b"".join(bodies))


def transcript_from(fields: dict[str, Any]) -> Transcript:
    """What :func:`dataclasses.asdict` made of a transcript, back again."""
    return Transcript(**{**fields, "words": tuple(Word(**word) for word in fields["words"])})


def _read(stream: BinaryIO) -> list[Segment] | None:
    """Next request, or ``None`` when the service is gone."""
    prefix = stream.read(LENGTH.size)
    if len(prefix) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(prefix)
    header = json.loads(stream.read(length))
    return [
        Segment(
            samples=np.frombuffer(stream.read(each["bytes"]), dtype="<i2").astype(np.int16),
            rate_hz=each["rate_hz"],
            start_ms=each["start_ms"],
            end_ms=each["end_ms"],
            audio_start_ms=each["audio_start_ms"],
            kind=SegmentKind(each["kind"]),
            word_times=each["word_times"],
        )
        for each in header["segments"]
    ]


# --- the process ------------------------------------------------------------------------------------------------------


def _live_and_die_with(parent_pid: int) -> None:
    """Control-C and a service manager's SIGTERM go to the whole group: the service alone decides what they mean."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have gone before the line above took effect.
        if parent_pid and os.getppid() != parent_pid:
            raise SystemExit(0)


def main(settings_json: str) -> None:
    """Load, say so, then answer requests until the input ends."""
    settings = WorkerSettings(**json.loads(settings_json))
    _live_and_die_with(settings.parent_pid)
    # A stray print of a native library must not end up between two messages.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.nice(settings.nice)
    try:
        transcriber, about = load_transcriber(settings)
    except Exception as error:  # whatever a broken model makes the loader raise is said to the service, in its words
        output.write(pack({"error": f"{type(error).__name__}: {error}"}))
        output.flush()
        raise SystemExit(1) from None
    output.write(pack({"ready": about}))
    output.flush()
    while (segments := _read(sys.stdin.buffer)) is not None:
        try:
            answer: dict[str, Any] = {"transcripts": [asdict(each) for each in decode_timed(transcriber, segments)]}
        except Exception as error:  # one bad segment must not cost every call the second that loading takes
            answer = {"failed": f"{type(error).__name__}: {error}"}
        output.write(pack(answer))
        output.flush()


if __name__ == "__main__":
    main(sys.argv[1])
