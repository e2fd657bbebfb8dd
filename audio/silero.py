"""A second opinion on whether a segment is speech, before it is decoded: Silero's small network, as faster-whisper
ships it.

webrtcvad, which finds the segments, takes key tones, hold music and breaths for speech; Whisper decodes them at the
cost of speech, and the guards throw its answer away. Silero says so at a fiftieth of that cost. It is asked about each
segment as a whole, and only one in which it hears no speech at all is left out: most are settled by their first part.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from faster_whisper.vad import get_vad_model

from audio.whisper import RATE_HZ

Audio = npt.NDArray[np.float32]
"""Mono samples at 16 kHz in -1..1, shape ``(n,)``, at the level that the decoder gets."""

CHUNK = 512
"""Samples that it judges at a time: 32 ms."""
LEAST_CHANCE = 0.5
"""No speech is what stays under this in every chunk (Silero's own threshold)."""
FIRST_PART = 24 * CHUNK
"""Samples that are asked about first: the pre-roll and half a second more."""


class SecondOpinion:
    """Not thread-safe: one a worker.

    :param probe: a few seconds of clear speech; without it only silence is tried.
    :raises ValueError: when it hears speech in silence or none in the probe.
    :raises Exception: whatever the package raises when the network is not there or is another than expected.
    """

    def __init__(self, probe: Audio | None = None) -> None:
        self._model = get_vad_model()
        silence = np.zeros(RATE_HZ, np.float32)
        for name, clip, expected in (("silence", silence, False), ("the shipped notice", probe, True)):
            if clip is not None and self.is_speech(clip) is not expected:
                raise ValueError(f"{name} is {'no ' if expected else ''}speech to it")

    def is_speech(self, audio: Audio) -> bool:
        """Whether any part of it may be speech; of no audio at all it has no opinion, which is true."""
        if not len(audio):
            return True
        parts = (audio[:FIRST_PART], audio) if len(audio) > FIRST_PART else (audio,)
        return any(self._most(part) >= LEAST_CHANCE for part in parts)

    def _most(self, audio: Audio) -> float:
        """The highest chance of speech in any chunk, 0 to 1."""
        return float(np.max(self._model(np.pad(audio, (0, -len(audio) % CHUNK)))))
