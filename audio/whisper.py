"""Whisper on short speech: encodes only as much of the 30 s window as the speech needs.

The only file that knows faster-whisper and CTranslate2. It owns decoding and the choice to decode again; what may
count as words is decided by the guards in ``audio.transcribe``.

Why this is not simply ``WhisperModel.transcribe``: Whisper always encodes 30 s, and on a two-second utterance nine
tenths of that work is spent on silence. Cutting the window makes small models loop, because they have never seen an
encoding that does not end in silence. So the silence is kept and its cost is not: the last frames of one encoded
window of silence are computed once, at load, and spliced after every short encoding. Not every model accepts that
(the multilingual ones do not), so what works is data per model (:data:`RECIPES`), an unknown model gets its full
window, and a self-test at load falls back to the full window by itself.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

import ctranslate2
import numpy as np
import numpy.typing as npt
from faster_whisper import WhisperModel, download_model
from faster_whisper.tokenizer import Tokenizer

RATE_HZ = 16_000
"""Whisper's own sample rate."""
FRAMES_PER_S = 100
"""Mel frames per second (hop of 160 samples); the encoder halves it."""
WINDOW_FRAMES = 3_000
MAX_INPUT_S = 28.0
"""Longer input is split: the last two of the 30 s stay silent, which the decoder needs to see where speech ends."""
MIN_INPUT_S = 0.1
MOST_PADDING = 1.25
"""Pieces share a pass when the longest context is at most so many times the shortest."""
LEAST_AGREEMENT = 0.7
"""Share of words that short and full decoding must have in common on the self-test's clip."""

Audio = npt.NDArray[np.float32]
"""Mono samples at 16 kHz in -1..1, shape ``(n,)``."""
_Encoding = npt.NDArray[Any]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to decode short speech with one model. All of it measured, none of it guessed.

    ``tail_frames`` encoder frames of silence are spliced after ``max(min_context_s, d + margin_s)`` of speech of
    length ``d``. At most ``cap_base + cap_per_s * d`` tokens are decoded; reaching that cap means a loop or very fast
    speech, and the result is decoded again with the full window. ``short`` false means: always the full window.
    ``no_speech_above`` is where the guard of ``audio.transcribe`` draws the line for this way of decoding.
    ``draft_min_context_s`` and ``draft_margin_s`` are the same for drafts, which are cheaper and not decoded again.
    ``second_look_below`` is the avg_logprob under which ``audio.transcribe`` looks again, with
    ``second_look_beam_size``; ``None``: a second look has not been shown to help this model.
    """

    name: str
    short: bool
    tail_frames: int = 100
    min_context_s: float = 5.0
    margin_s: float = 1.0
    cap_base: int = 10
    cap_per_s: float = 7.0
    beam_size: int = 1
    full_beam_size: int = 5
    no_speech_above: float = 0.5
    full_no_speech_above: float = 0.6
    draft_min_context_s: float = 3.0
    draft_margin_s: float = 0.5
    second_look_below: float | None = None
    second_look_beam_size: int = 5

    def context_frames(self, mel_frames: int, *, draft: bool = False) -> int:
        """Mel frames to encode for speech of ``mel_frames``: even, at most the full window."""
        least_s, margin_s = (
            (self.draft_min_context_s, self.draft_margin_s) if draft else (self.min_context_s, self.margin_s)
        )
        wanted = max(round(least_s * FRAMES_PER_S), mel_frames + round(margin_s * FRAMES_PER_S))
        return min(WINDOW_FRAMES, wanted + wanted % 2)

    def cap_tokens(self, duration_s: float) -> int:
        """Most tokens that speech of this length may have."""
        return self.cap_base + int(self.cap_per_s * duration_s)


FULL_WINDOW = Recipe("full_window", short=False)

RECIPES: dict[str, Recipe] = {
    "tiny.en": Recipe("short_context", short=True, second_look_below=-0.5),
}
"""Models known to accept the spliced tail, by the kind that their shape tells."""

_KINDS = {(4, 384): "tiny", (6, 512): "base", (12, 768): "small", (24, 1024): "medium", (32, 1280): "large"}


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of audio to decode: float32 at 16 kHz in -1..1. ``draft``: at less cost and never twice; ``timed``:
    with the time of each word; ``again``: a second look, with more hypotheses, and no third."""

    audio: npt.NDArray[np.float32]
    draft: bool = False
    timed: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class TimedWord:
    """One word, in milliseconds from the beginning of the audio."""

    text: str
    start_ms: int
    end_ms: int
    probability: float


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the model said about one piece of audio, before any guard.

    ``capped`` says that decoding stopped at the token cap; ``full_window`` which way it was decoded;
    ``no_speech_above`` is the threshold that belongs to that way.
    """

    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    tokens: int
    capped: bool
    full_window: bool
    no_speech_above: float
    words: tuple[TimedWord, ...] = ()


@dataclass(frozen=True, slots=True)
class _Piece:
    """A task's audio as the encoder wants it."""

    mel: npt.NDArray[np.float32]
    draft: bool = False
    timed: bool = False
    again: bool = False


def compression_ratio(text: str) -> float:
    """How far zlib can shrink the text: over 2.4 it repeats itself (the measure of OpenAI's ``whisper``)."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def hub_model(name: str, *, local_only: bool) -> str:
    """Folder of a model of the Hugging Face hub, by faster-whisper's own loader: downloaded unless ``local_only``.

    :param name: one of faster-whisper's names (``small.en``) or ``org/name`` of a CTranslate2 model.
    :raises Exception: whatever the hub's client raises; there is no common root worth catching here.
    """
    return str(download_model(name, local_files_only=local_only))


def choose_compute(device: str, compute_type: str) -> tuple[str, str]:
    """Where to run and in which arithmetic, for settings that leave it open.

    :param device: ``cpu``, ``cuda``, or ``auto``: a GPU if there is one.
    :param compute_type: one of CTranslate2's, or ``auto``: 8-bit weights where the device has them (the cheapest that
        measured no worse), else the smallest floats it has.
    :raises ValueError: a GPU is asked for and there is none, or the device cannot compute that way.
    """
    gpus = ctranslate2.get_cuda_device_count()
    if device == "cuda" and not gpus:
        raise ValueError("device cuda is asked for, but no CUDA device is usable here; set it to auto or cpu")
    chosen = ("cuda" if gpus else "cpu") if device == "auto" else device
    able = ctranslate2.get_supported_compute_types(chosen)
    if compute_type == "auto":
        wanted = ("int8_float16", "float16", "int8", "float32") if chosen == "cuda" else ("int8", "float32")
        return chosen, next((each for each in wanted if each in able), "default")
    if compute_type != "default" and compute_type not in able:
        raise ValueError(f"compute type {compute_type} is not possible on {chosen}; it has {', '.join(sorted(able))}")
    return chosen, compute_type


class ShortContextWhisper:
    """A loaded model with its recipe. Not thread-safe: one a worker.

    :param model_path: folder of a CTranslate2 Whisper model.
    :param kind: name of the model as in :data:`RECIPES`; found from the model itself when ``None``.
    :param language: language code; English-only models ignore it.
    :param initial_prompt: natural sentences that set the scene. Never a list of words: measured, lists invent speech.
    :param probe: a few seconds of clear speech at 16 kHz for the self-test; without it only silence is tried.
    :raises RuntimeError, ValueError, OSError: when the folder holds no usable model, in the loader's own words.
    """

    def __init__(
        self,
        model_path: str,
        *,
        device: str = "cpu",
        compute_type: str = "auto",
        threads: int = 1,
        kind: str | None = None,
        language: str = "en",
        initial_prompt: str | None = None,
        recipe: Recipe | None = None,
        probe: Audio | None = None,
    ) -> None:
        device, compute_type = choose_compute(device, compute_type)
        self._whisper = WhisperModel(
            model_path,
            device=device,
            compute_type=compute_type,
            cpu_threads=threads,
            num_workers=1,
            local_files_only=True,
        )
        self._model = self._whisper.model
        self.device: str = self._model.device
        self.compute_type: str = self._model.compute_type
        """What CTranslate2 chose where ``auto`` or ``default`` was asked for."""
        self.tokens: int = self._whisper.hf_tokenizer.get_vocab_size()
        """Size of the vocabulary that it chooses from, special tokens but not time stamps counted."""
        self._mels: int = self._model.n_mels
        multilingual = bool(self._model.is_multilingual)
        self._tokenizer = Tokenizer(
            self._whisper.hf_tokenizer, multilingual, task="transcribe", language=language if multilingual else "en"
        )
        previous = self._tokenizer.encode(" " + initial_prompt.strip()) if initial_prompt else []
        self._prompt: list[int] = self._whisper.get_prompt(self._tokenizer, previous, without_timestamps=True)
        self.kind = kind or self._guess_kind()
        self.fallback: str | None = None
        """Why the full window is used although a recipe exists: the self-test's finding, or ``None``."""
        self.recipe = recipe or RECIPES.get(self.kind, FULL_WINDOW)
        self._tail: _Encoding | None = None
        if self.recipe.short:
            silence = self._encode(np.zeros((1, self._mels, WINDOW_FRAMES), np.float32))
            self._tail = silence[:, -self.recipe.tail_frames :]
            self._self_test(probe)

    def decode(self, batch: Sequence[Task]) -> list[Decoded]:
        """Decode each piece of audio on its own; pieces of similar length share one pass.

        :param batch: empty audio or less than 0.1 s of it gives empty text.
        :returns: one result a task, in order.
        """
        pieces = [
            (index, replace(task, audio=audio)) for index, task in enumerate(batch) for audio in split_long(task.audio)
        ]
        decoded = self._decode_pieces([piece for _, piece in pieces])
        results = []
        for index in range(len(batch)):
            mine = [(task, found) for (of, task), found in zip(pieces, decoded, strict=True) if of == index]
            results.append(_joined([found for _, found in mine], [len(task.audio) for task, _ in mine]))
        return results

    def _decode_pieces(self, tasks: Sequence[Task]) -> list[Decoded]:
        found: dict[int, Decoded] = {}
        pieces: dict[int, _Piece] = {}
        for index, task in enumerate(tasks):
            if len(task.audio) < MIN_INPUT_S * RATE_HZ:
                found[index] = Decoded("", 0.0, 1.0, 0.0, 0, False, True, self.recipe.full_no_speech_above)
            else:
                pieces[index] = _Piece(self._features(task.audio), task.draft, task.timed, task.again)
        if self.recipe.short:
            for chosen in self._alike(pieces):
                found.update(zip(chosen, self._pass([pieces[index] for index in chosen], full=False), strict=True))
        for index, piece in pieces.items():
            if index not in found or (not piece.draft and not piece.again and self._doubtful(found[index])):
                found[index] = self._pass([piece], full=True)[0]
        return [found[index] for index in range(len(tasks))]

    def _features(self, audio: Audio) -> npt.NDArray[np.float32]:
        return np.asarray(self._whisper.feature_extractor(audio, padding=160), dtype=np.float32)

    def _alike(self, pieces: dict[int, _Piece]) -> list[list[int]]:
        """Which pieces share a pass: those whose context is padded by a quarter at most, which costs less than a pass
        of its own."""
        groups: list[list[int]] = []
        least, way = 0, (False, False)
        for index in sorted(pieces, key=lambda index: (_way(pieces[index]), self._context(pieces[index]))):
            context = self._context(pieces[index])
            if not groups or context > least * MOST_PADDING or way != _way(pieces[index]):
                groups.append([])
                least, way = context, _way(pieces[index])
            groups[-1].append(index)
        return groups

    def _doubtful(self, decoded: Decoded) -> bool:
        """A loop, or a cap reached by very fast speech; certain non-speech is not worth a second, longer look."""
        if decoded.no_speech_prob > decoded.no_speech_above:
            return False
        return decoded.capped or decoded.compression_ratio > 2.4

    def _context(self, piece: _Piece) -> int:
        return self.recipe.context_frames(piece.mel.shape[1], draft=piece.draft)

    def _pass(self, pieces: Sequence[_Piece], *, full: bool) -> list[Decoded]:
        """One encode and one generate for pieces that share a context length and a way (:func:`_way`)."""
        recipe = self.recipe
        beam_size = recipe.second_look_beam_size if pieces[0].again else recipe.beam_size
        frames = WINDOW_FRAMES if full else max(self._context(piece) for piece in pieces)
        padded = np.zeros((len(pieces), self._mels, frames), np.float32)
        for row, piece in zip(padded, pieces, strict=True):
            width = min(frames, piece.mel.shape[1])
            row[:, :width] = piece.mel[:, :width]
        encoded = self._encode(padded)
        if not full and self._tail is not None:
            encoded = np.concatenate([encoded, np.repeat(self._tail, len(pieces), axis=0)], axis=1)
        caps = [recipe.cap_tokens(piece.mel.shape[1] / FRAMES_PER_S) for piece in pieces]
        # CTranslate2 decodes min(max_length / 2, max_length - prompt) new tokens; 448 are all positions there are.
        most = max(caps)
        limit = 448 if full else min(448, max(2 * most, most + len(self._prompt)))
        results = self._model.generate(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(encoded)),
            [list(self._prompt) for _ in pieces],
            beam_size=recipe.full_beam_size if full else beam_size,
            max_length=limit,
            return_scores=True,
            return_no_speech_prob=True,
        )
        read = []
        for at, (piece, result, cap) in enumerate(zip(pieces, results, caps, strict=True)):
            decoded = self._read(result, cap, full=full)
            if piece.timed and decoded.text:
                words = self._word_times(encoded[at : at + 1], result.sequences_ids[0], piece.mel.shape[1])
                decoded = replace(decoded, words=words)
            read.append(decoded)
        return read

    def _word_times(self, encoded: _Encoding, ids: list[int], mel_frames: int) -> tuple[TimedWord, ...]:
        """By the cross-attention of the heads that the model names (dynamic time warping, as Whisper itself does)."""
        tokens = [each for each in ids if each < self._tokenizer.eot]
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(encoded))
        (found,) = self._whisper.find_alignment(self._tokenizer, [tokens], view, mel_frames) or [[]]
        # A mark on its own belongs to the word before it.
        words: list[TimedWord] = []
        for each in found:
            text, end_ms = each["word"], round(float(each["end"]) * 1000)
            if words and not text.startswith(" "):
                words[-1] = replace(words[-1], text=words[-1].text + text.strip())
            elif text.strip():
                start_ms = round(float(each["start"]) * 1000)
                words.append(TimedWord(text.strip(), start_ms, end_ms, float(each["probability"])))
        return tuple(words)

    def _read(self, result: Any, cap: int, *, full: bool) -> Decoded:
        ids: list[int] = result.sequences_ids[0]
        text = self._tokenizer.decode(ids).strip()
        return Decoded(
            text=text,
            # CTranslate2 normalises by length without the end token; Whisper's own measure counts it.
            avg_logprob=result.scores[0] * len(ids) / (len(ids) + 1),
            no_speech_prob=result.no_speech_prob,
            compression_ratio=compression_ratio(text),
            tokens=len(ids),
            capped=len(ids) >= (224 - len(self._prompt) if full else cap),
            full_window=full,
            no_speech_above=self.recipe.full_no_speech_above if full else self.recipe.no_speech_above,
        )

    def _encode(self, mels: npt.NDArray[np.float32]) -> _Encoding:
        return np.array(self._model.encode(ctranslate2.StorageView.from_array(mels), to_cpu=True))

    def _guess_kind(self) -> str:
        """Name of the model by its shape; distilled and unknown shapes get a name that no recipe has."""
        silence = self._encode(np.zeros((1, self._mels, 20), np.float32))
        size = next((name for (_, width), name in _KINDS.items() if width == silence.shape[2]), "unknown")
        return size if self._model.is_multilingual else f"{size}.en"

    def _self_test(self, probe: Audio | None) -> None:
        """Silence must be recognised as such, and speech heard as the full window hears it; else the recipe is off."""
        self.fallback = self._fails_on_silence() or (self._fails_on_speech(probe) if probe is not None else None)
        if self.fallback is not None:
            _LOG.warning("%s", self.fallback)
            self.recipe = replace(FULL_WINDOW, name="full_window_by_self_test")
            self._tail = None

    def _fails_on_silence(self) -> str | None:
        noise = np.random.default_rng(1).standard_normal(RATE_HZ).astype(np.float32) * np.float32(10 ** (-50 / 20))
        for name, clip in {"digital silence": np.zeros(RATE_HZ, np.float32), "faint noise": noise}.items():
            heard = self._pass([_Piece(self._features(clip))], full=False)[0]
            if heard.no_speech_prob <= heard.no_speech_above or heard.capped:
                return self._not_taken(f"it hears {heard.text!r} in {name} (no_speech_prob {heard.no_speech_prob:.2f})")
        return None

    def _fails_on_speech(self, probe: Audio) -> str | None:
        mel = self._features(probe[: round(MAX_INPUT_S * RATE_HZ)])
        short, full = self._pass([_Piece(mel)], full=False)[0], self._pass([_Piece(mel)], full=True)[0]
        # Loops begin where speech breaks off in mid-word: so several beginnings of the clip are tried too.
        cuts = [mel[:, : round(seconds * FRAMES_PER_S)] for seconds in (0.8, 1.2, 1.6, 2.4, 4.0)]
        if any(self._pass([_Piece(cut)], full=False)[0].capped for cut in cuts):
            return self._not_taken("it does not stop where the speech does")
        alike = SequenceMatcher(None, short.text.lower().split(), full.text.lower().split(), autojunk=False).ratio()
        if short.capped or short.no_speech_prob > short.no_speech_above or alike < LEAST_AGREEMENT:
            return self._not_taken(f"it hears {short.text[:80]!r} where the full window hears {full.text[:80]!r}")
        return None

    def _not_taken(self, why: str) -> str:
        return f"{self.kind} does not take short-context decoding: {why}; using the full window, which costs more"


def _way(piece: _Piece) -> tuple[bool, bool]:
    """Pieces of different ways cannot share a pass."""
    return piece.draft, piece.again


def split_long(audio: Audio, limit_s: float = MAX_INPUT_S) -> list[Audio]:
    """Pieces of at most ``limit_s``, cut at the quietest 20 ms of each piece's last four seconds."""
    pieces = []
    limit, step = int(limit_s * RATE_HZ), RATE_HZ // 50
    while len(audio) > limit:
        search = audio[limit - 4 * RATE_HZ : limit]
        energy = np.square(search[: len(search) // step * step].reshape(-1, step)).mean(axis=1)
        cut = limit - 4 * RATE_HZ + int(energy.argmin()) * step + step // 2
        pieces.append(audio[:cut])
        audio = audio[cut:]
    return [*pieces, audio]


def _joined(parts: list[Decoded], samples: list[int]) -> Decoded:
    """One result for audio that was decoded in pieces: the silent ones say nothing, the rest are averaged by tokens."""
    starts_ms = [sum(samples[:at]) * 1000 // RATE_HZ for at in range(len(parts))]
    parts = [_moved(part, start_ms) for part, start_ms in zip(parts, starts_ms, strict=True)]
    speaking = [part for part in parts if part.text and part.no_speech_prob <= part.no_speech_above]
    if len(parts) == 1 or not speaking:
        return parts[0]
    tokens = sum(part.tokens for part in speaking)
    return replace(
        speaking[0],
        text=" ".join(part.text for part in speaking),
        avg_logprob=sum(part.avg_logprob * part.tokens for part in speaking) / max(1, tokens),
        no_speech_prob=max(part.no_speech_prob for part in speaking),
        compression_ratio=max(part.compression_ratio for part in speaking),
        tokens=tokens,
        capped=any(part.capped for part in speaking),
        words=tuple(word for part in speaking for word in part.words),
    )


def _moved(part: Decoded, by_ms: int) -> Decoded:
    if not by_ms:
        return part
    words = tuple(replace(word, start_ms=word.start_ms + by_ms, end_ms=word.end_ms + by_ms) for word in part.words)
    return replace(part, words=words)


class ShippedWhisper:
    """The same model just as its package decodes it, full window and all: the yardstick of ``firmline bench ears``.

    :raises RuntimeError, ValueError, OSError: when the folder holds no usable model, in the loader's own words.
    """

    def __init__(self, model_path: str, beam_size: int = 5) -> None:
        self._whisper = WhisperModel(
            model_path, device="cpu", compute_type="int8", cpu_threads=1, num_workers=1, local_files_only=True
        )
        self._beam_size = beam_size

    def text(self, audio: Audio) -> str:
        """What it hears in one piece of audio."""
        found, _ = self._whisper.transcribe(audio, language="en", beam_size=self._beam_size)
        return " ".join(each.text.strip() for each in found)
