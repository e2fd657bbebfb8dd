"""The types that flow through the ears: frames in, segments and transcripts out.

All times are integer milliseconds on the caller-supplied clock (``now_ms``): monotonic in a live call, simulated in a
replay. Samples are mono signed 16-bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

PTIME_MS = 20
"""Packetisation time (RFC 3551 section 4.5): every frame in Firmline is 20 ms."""

Pcm = npt.NDArray[np.int16]
"""Mono signed 16-bit samples, shape ``(n,)``."""


@dataclass(frozen=True, slots=True)
class AudioFrame:
    """One ptime of one leg's audio.

    ``samples`` has shape ``(rate_hz * 20 // 1000,)``. ``t_ms`` is the time of its first sample. ``concealed`` marks a
    frame that was made up for a lost packet: it keeps the timeline whole but is no evidence of speech.
    """

    t_ms: int
    rate_hz: int
    samples: Pcm
    concealed: bool = False

    @property
    def end_ms(self) -> int:
        """Time just after the last sample."""
        return self.t_ms + len(self.samples) * 1000 // self.rate_hz


class SpeechKind(StrEnum):
    """Edges of speech on one leg, as endpointing sees them."""

    ONSET = "onset"
    OFFSET = "offset"


@dataclass(frozen=True, slots=True)
class SpeechEvent:
    """Speech began (``t_ms`` = first voiced frame) or ended (``t_ms`` = end of the last voiced frame)."""

    kind: SpeechKind
    t_ms: int


class SegmentKind(StrEnum):
    """Why a piece of audio is to be recognised."""

    FINAL = "final"
    """The utterance is over: its words count."""
    OFFER = "offer"
    """A pause began. If nothing more is said, the final will be these very samples, so its words will serve."""
    DRAFT = "draft"
    """A look at speech that goes on: decoded at less cost, to be shown and revised, never to be counted."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The audio of one utterance, pre-roll and the beginning of the pause included, ready for the recogniser.

    ``start_ms``/``end_ms`` bound the *speech* (pre-roll and hangover excluded); ``audio_start_ms`` is the time of
    ``samples[0]``. ``cut`` says that it ended by length or by request, not by a pause. ``over_prompt`` says that it
    was heard while one of our own prompts played to this party, so its words may be ours and never count.
    """

    samples: Pcm
    rate_hz: int
    start_ms: int
    end_ms: int
    audio_start_ms: int
    cut: bool = False
    over_prompt: bool = False
    kind: SegmentKind = SegmentKind.FINAL
    word_times: bool = False
    """Ask for the time of each word, which costs a second pass of the decoder."""


@dataclass(frozen=True, slots=True)
class Word:
    """One recognised word with its time on the call clock and its probability in 0..1."""

    text: str
    start_ms: int
    end_ms: int
    probability: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the recogniser made of a segment.

    ``text`` is empty when a guard dropped it; ``dropped`` then names the guard (``no_speech``, ``repetition``,
    ``low_logprob``, ``empty``). ``words`` is empty unless word times were asked for. ``final`` is false for a draft.
    """

    text: str
    start_ms: int
    end_ms: int
    final: bool = True
    words: tuple[Word, ...] = field(default=())
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    dropped: str | None = None
    decode_ms: int = 0
    """Time the recogniser spent on it, for the lag metrics."""
