"""From segment to transcript: prepares the audio, asks the decoder, and drops what was never said.

Whisper answers every input with words; on what is not speech it invents them. :data:`GUARDS` is the one list of
reasons to disbelieve an answer, in order; the first that holds empties the transcript and is named in ``dropped``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from audio.denoise import without_noise
from audio.resample import to_float
from audio.types import Segment, SegmentKind, Transcript, Word
from audio.whisper import RATE_HZ, Decoded, Task, TimedWord

TARGET_RMS_DB = -23.0
MAX_GAIN_DB = 20.0
"""Quiet lines are lifted this far at most: beyond it there is more noise than voice."""

CERTAIN_NO_SPEECH = 0.8
DOUBTFUL_LOGPROB = -0.8
LOWEST_LOGPROB = -1.2
MOST_REPETITION = 2.4
SECOND_OPINION = "second_opinion"
"""``Transcript.dropped`` of what was not decoded because it is no speech."""
DOUBTFUL_REPETITION = 1.5

INVENTIONS = frozenset(
    {
        "you",
        "so",
        "oh",
        "bye",
        "bye bye",
        "the",
        "uh",
        "um",
        "beep",
        "okay",
        "thank you",
        "thank you very much",
        "thanks",
    }
    | {"thanks for watching", "thank you for watching", "thanks for listening", "thank you for listening"}
    | {"please subscribe", "like and subscribe", "subscribe to my channel", "see you next time"}
    | {
        "ill see you next time",
        "well be right back",
        "music",
        "applause",
        "silence",
        "subtitles by the amaraorg community",
    }
)
"""What Whisper says most often about nothing at all (its training subtitles say it over silence and music). Real
callers say some of these too, so they fall only when the decoder is in doubt as well."""


class Decoder(Protocol):
    """What :class:`audio.whisper.ShortContextWhisper` does."""

    def decode(self, batch: Sequence[Task]) -> list[Decoded]:
        """One result for each task, in order."""


class Opinion(Protocol):
    """What :class:`audio.silero.SecondOpinion` does."""

    def is_speech(self, audio: npt.NDArray[np.float32]) -> bool:
        """Whether prepared audio may hold speech."""


@dataclass(frozen=True, slots=True)
class Guard:
    """``name`` is what ``Transcript.dropped`` says."""

    name: str
    holds: Callable[[Decoded], bool]


def _no_speech(heard: Decoded) -> bool:
    """Speech reaches 0.56 (short words, quiet or noisy), non-speech begins at 0.48: neither alone can decide.

    Measured between 0.5 and 0.8: speech was decoded at -0.3 to -0.8, non-speech under -1.2 or as "beep beep beep".
    """
    if heard.no_speech_prob > CERTAIN_NO_SPEECH:
        return True
    confident = heard.avg_logprob >= DOUBTFUL_LOGPROB and heard.compression_ratio < DOUBTFUL_REPETITION
    return heard.no_speech_prob > heard.no_speech_above and not confident


def _invention(heard: Decoded) -> bool:
    doubtful = heard.no_speech_prob > heard.no_speech_above * 0.8 or heard.avg_logprob < DOUBTFUL_LOGPROB
    return doubtful and _bare(heard.text) in INVENTIONS


GUARDS: tuple[Guard, ...] = (
    Guard("empty", lambda heard: not _bare(heard.text)),
    Guard("no_speech", _no_speech),
    Guard("repetition", lambda heard: heard.compression_ratio > MOST_REPETITION),
    Guard("low_logprob", lambda heard: heard.avg_logprob < LOWEST_LOGPROB),
    Guard("invention", _invention),
    # Only a draft is left capped; anything else was decoded again with the full window.
    Guard("unfinished", lambda heard: heard.capped and not heard.full_window),
)


def dropped_by(heard: Decoded) -> str | None:
    """Name of the first guard that disbelieves this result, ``None`` when it stands."""
    return next((guard.name for guard in GUARDS if guard.holds(heard)), None)


def prepare(segment: Segment) -> npt.NDArray[np.float32]:
    """What the decoder eats: float32 at 16 kHz, its loudest second lifted or lowered to a level the model knows.

    The segment itself is untouched, so loudness is still measured on what came down the line.
    """
    audio = to_float(segment.samples, segment.rate_hz, RATE_HZ)
    step = RATE_HZ // 50
    if len(audio) < step:
        return audio
    power = np.square(audio[: len(audio) // step * step].reshape(-1, step)).mean(axis=1)
    # The loudest half of the frames stands for the speech: pauses must not make a short word look quiet.
    speech = float(np.sort(power)[len(power) // 2 :].mean())
    if speech <= 1e-9:
        return audio
    gain_db = min(MAX_GAIN_DB, TARGET_RMS_DB - 10 * float(np.log10(speech)))
    gain = min(10 ** (gain_db / 20), 0.99 / max(1e-6, float(np.abs(audio).max())))
    return np.asarray(audio * np.float32(gain), dtype=np.float32)


def _cleaned(segment: Segment) -> npt.NDArray[np.float32]:
    """What a second look eats."""
    return prepare(replace(segment, samples=without_noise(segment.samples, segment.rate_hz)))


class Transcriber:
    """Segments in, transcripts on the call clock out. What ``second_opinion`` takes for no speech is not decoded.

    What stands but was decoded with an avg_logprob under ``second_look_below`` is decoded once more: with more
    hypotheses, and on a noisy line without its steady noise. Nothing that a guard dropped is looked at again, so a
    second look cannot make words out of what is no speech. Drafts get none.
    """

    def __init__(
        self, decoder: Decoder, second_opinion: Opinion | None = None, second_look_below: float | None = None
    ) -> None:
        self._decoder, self._opinion, self._look_below = decoder, second_opinion, second_look_below

    def transcribe(self, segments: Sequence[Segment]) -> list[Transcript]:
        """One transcript a segment, in order."""
        tasks = [Task(prepare(each), each.kind is SegmentKind.DRAFT, each.word_times) for each in segments]
        asked = [self._opinion is None or self._opinion.is_speech(task.audio) for task in tasks]
        speaking = [at for at, speech in enumerate(asked) if speech]
        first = self._decoder.decode([tasks[at] for at in speaking])
        found = dict(zip(speaking, self._looked_again([segments[at] for at in speaking], first), strict=True))
        return [
            _transcript(segment, found[at]) if at in found else _not_decoded(segment)
            for at, segment in enumerate(segments)
        ]

    def _looked_again(self, segments: Sequence[Segment], first: Sequence[Decoded]) -> list[Decoded]:
        """``first``, with a second look for what was unsure; where that one is not believed, the first stays."""
        found = list(first)
        unsure = [at for at, segment in enumerate(segments) if self._unsure(segment, first[at])]
        tasks = [Task(_cleaned(segments[at]), timed=segments[at].word_times, again=True) for at in unsure]
        for at, second in zip(unsure, self._decoder.decode(tasks) if tasks else (), strict=True):
            if dropped_by(second) is None:
                found[at] = second
        return found

    def _unsure(self, segment: Segment, heard: Decoded) -> bool:
        if self._look_below is None or segment.kind is SegmentKind.DRAFT or dropped_by(heard) is not None:
            return False
        return heard.avg_logprob < self._look_below


def _not_decoded(segment: Segment) -> Transcript:
    final = segment.kind is not SegmentKind.DRAFT
    return Transcript("", segment.start_ms, segment.end_ms, final=final, dropped=SECOND_OPINION)


def _transcript(segment: Segment, heard: Decoded) -> Transcript:
    dropped = dropped_by(heard)
    return Transcript(
        text="" if dropped else heard.text,
        start_ms=segment.start_ms,
        end_ms=segment.end_ms,
        final=segment.kind is not SegmentKind.DRAFT,
        words=() if dropped else tuple(_on_the_clock(segment, word) for word in heard.words),
        avg_logprob=heard.avg_logprob,
        no_speech_prob=heard.no_speech_prob,
        dropped=dropped,
    )


def _on_the_clock(segment: Segment, word: TimedWord) -> Word:
    at_ms = segment.audio_start_ms
    return Word(word.text, at_ms + word.start_ms, at_ms + word.end_ms, round(word.probability, 3))


def _bare(text: str) -> str:
    """Letters, digits and single spaces, lower case."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())
