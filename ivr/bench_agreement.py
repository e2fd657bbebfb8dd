"""A peer for ``firmline bench ears``: the growing buffer with LocalAgreement-2, in our own words.

The method of D. Macháček, R. Dabre, O. Bojar, "Turning Whisper into Real-Time Transcription System" (IJCNLP-AACL 2023
demonstrations, sections 2.1 and 2.2; the program ``whisper_streaming``), with its defaults: whenever a second of new
audio is there, all of the buffer is decoded again (faster-whisper as shipped, beam 5, word times, the text before the
buffer as prompt); words that two decodings in a row agree on are committed; beyond 15 s the buffer is cut at the end of
the last but one segment that is committed. ``vad_filter`` is on, as its option ``--vad`` does.

Runs on a simulated clock on which decoding takes the CPU time it takes, like everything else in this bench.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from faster_whisper import WhisperModel

from audio.resample import to_float
from audio.types import Pcm
from ivr import clock
from ivr.bench_sim import Outcome, Seen
from ivr.bench_speech import RATE_HZ

WHISPER_HZ = 16_000
STEP_S = 1.0
TRIM_S = 15.0
PROMPT_CHARS = 200
TAIL_S = 3.0


@dataclass(frozen=True, slots=True)
class Timed:
    """A word, in seconds of the leg."""

    start_s: float
    end_s: float
    text: str


@dataclass(slots=True)
class Agreement:
    """Which words of hypothesis after hypothesis are committed."""

    committed: list[Timed] = field(default_factory=list)
    _last: list[Timed] = field(default_factory=list)

    def insert(self, words: list[Timed]) -> list[Timed]:
        """The next hypothesis; returns the words that are committed now."""
        done_s = self.committed[-1].end_s if self.committed else 0.0
        new = [word for word in words if word.start_s > done_s - 0.1]
        if new and abs(new[0].start_s - done_s) < 1:
            new = new[self._said_already(new) :]
        agreed: list[Timed] = []
        for word, before in zip(new, self._last, strict=False):
            if bare(word.text) != bare(before.text):
                break
            agreed.append(word)
        self.committed += agreed
        self._last = new[len(agreed) :]
        return agreed

    def finish(self) -> list[Timed]:
        """Nothing more comes: what the last hypothesis has is given out."""
        rest, self._last = self._last, []
        self.committed += rest
        return rest

    def _said_already(self, new: list[Timed]) -> int:
        """How many words (up to five) repeat the end of what is committed: times wobble between decodings."""
        for count in range(min(5, len(new), len(self.committed)), 0, -1):
            if [bare(word.text) for word in self.committed[-count:]] == [bare(word.text) for word in new[:count]]:
                return count
        return 0


def bare(word: str) -> str:
    """Without case and marks: two decodings that differ in a comma agree."""
    return re.sub(r"[^\w']", "", word.lower())


class GrowingBuffer:
    """One leg through the method. Holds the model; one run at a time.

    :raises RuntimeError, ValueError, OSError: when the folder holds no usable model, in the loader's own words.
    """

    def __init__(self, model_path: str) -> None:
        self._whisper = WhisperModel(
            model_path, device="cpu", compute_type="int8", cpu_threads=1, num_workers=1, local_files_only=True
        )

    def run(self, leg: Pcm) -> Outcome:
        """The whole leg (8 kHz), as if heard in real time on one core."""
        quiet = np.zeros(int(TAIL_S * RATE_HZ), np.int16)
        audio = to_float(np.concatenate([leg, quiet]), RATE_HZ, WHISPER_HZ)
        length_s = len(audio) / WHISPER_HZ
        outcome, agreement = Outcome([[]]), Agreement()
        begins_s, heard_s, now_s = 0.0, 0.0, STEP_S
        while heard_s < length_s:
            heard_s = min(now_s, length_s)
            began_ms = clock.cpu_ms()
            words, ends_s = self._decode(audio, begins_s, heard_s, agreement)
            took_ms = clock.cpu_ms() - began_ms
            outcome.decode_cpu_ms += took_ms
            outcome.decoded += 1
            outcome.passes += 1
            done_s = now_s + took_ms / 1000
            _show(outcome, agreement.insert(words), done_s)
            begins_s = _trimmed(begins_s, heard_s, ends_s, agreement)
            now_s = max(done_s, heard_s + STEP_S)
        _show(outcome, agreement.finish(), now_s)
        return outcome

    def _decode(
        self, audio: np.ndarray[tuple[int], np.dtype[np.float32]], from_s: float, to_s: float, said: Agreement
    ) -> tuple[list[Timed], list[float]]:
        before = " ".join(word.text.strip() for word in said.committed if word.end_s <= from_s)
        segments, _ = self._whisper.transcribe(
            audio[int(from_s * WHISPER_HZ) : int(to_s * WHISPER_HZ)],
            language="en",
            beam_size=5,
            word_timestamps=True,
            condition_on_previous_text=True,
            vad_filter=True,
            initial_prompt=before[-PROMPT_CHARS:] or None,
        )
        found = [segment for segment in segments if segment.no_speech_prob <= 0.9]
        words = [
            Timed(from_s + float(word.start), from_s + float(word.end), word.word)
            for segment in found
            for word in segment.words or ()
        ]
        return words, [from_s + float(segment.end) for segment in found]


def _trimmed(begins_s: float, heard_s: float, segment_ends_s: list[float], said: Agreement) -> float:
    """Where the buffer begins from now on."""
    if heard_s - begins_s <= TRIM_S or not said.committed:
        return begins_s
    done_s = said.committed[-1].end_s
    whole = [end_s for end_s in segment_ends_s[:-1] if end_s <= done_s]
    return whole[-1] if whole else begins_s


def _show(outcome: Outcome, words: list[Timed], at_s: float) -> None:
    if words:
        text = " ".join(word.text.strip() for word in words)
        start_ms, end_ms = round(words[0].start_s * 1000), round(words[-1].end_s * 1000)
        outcome.seen[0].append(Seen(at_s * 1000, start_ms, end_ms, text, True))
