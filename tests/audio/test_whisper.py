"""The short-context decoder against the full window, with the real model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from audio.transcribe import prepare
from audio.types import Pcm, Segment
from audio.whisper import (
    FULL_WINDOW,
    RATE_HZ,
    RECIPES,
    Recipe,
    ShortContextWhisper,
    Task,
    choose_compute,
    compression_ratio,
    split_long,
)
from ivr.models import ResolvedModel

Speak = Callable[..., np.ndarray]
TEXTS = (
    "You people are completely useless.",
    "I have been waiting for forty minutes and nobody has called me back.",
    "Stop.",
    "My broadband has been down since last Tuesday, can you please check the order?",
)


@pytest.fixture(scope="module")
def whisper(speech_model: ResolvedModel) -> ShortContextWhisper:
    """Loaded once, by its shape alone recognised as tiny.en."""
    return ShortContextWhisper(speech_model.path)


@pytest.fixture(scope="module")
def spoken(say: Callable[..., Pcm]) -> Speak:
    """Speech as the decoder eats it."""

    def make(text: str, voice: str = "flite:slt") -> np.ndarray:
        samples = say(text, voice)
        return prepare(Segment(samples, 8000, 0, len(samples) // 8, 0))

    return make


def words(texts: Sequence[str]) -> list[str]:
    return [each.lower().strip(" .,?!") for each in texts]


@pytest.mark.model
def test_tiny_en_is_recognised_and_passes_its_self_test(whisper: ShortContextWhisper) -> None:
    """The recipe stands, and nothing had to fall back."""
    assert (whisper.kind, whisper.recipe, whisper.fallback) == ("tiny.en", RECIPES["tiny.en"], None)


@pytest.mark.model
def test_short_context_says_what_was_said(whisper: ShortContextWhisper, spoken: Speak) -> None:
    """Without the full window, without a loop."""
    found = whisper.decode([Task(spoken(TEXTS[0]))])[0]
    assert words([found.text]) == ["you people are completely useless"]
    assert not found.full_window and not found.capped


@pytest.mark.model
def test_batch_equals_one_by_one(whisper: ShortContextWhisper, spoken: Speak) -> None:
    """Order is kept, and company changes no words."""
    batch = [Task(spoken(text)) for text in TEXTS]
    together = whisper.decode([Task(np.zeros(0, np.float32)), *batch])
    assert together[0].text == ""
    assert words(each.text for each in together[1:]) == words(whisper.decode([each])[0].text for each in batch)


@pytest.mark.model
def test_empty_and_too_short_input_gives_empty_text(whisper: ShortContextWhisper) -> None:
    """Nothing, one sample, 99 ms; and no batch at all."""
    assert whisper.decode([]) == []
    for count in (0, 1, RATE_HZ * 99 // 1000):
        assert whisper.decode([Task(np.zeros(count, np.float32))])[0].text == ""


@pytest.mark.model
def test_words_cut_in_the_middle_never_loop(whisper: ShortContextWhisper, spoken: Speak) -> None:
    """Wherever the audio ends, the answer stays as short as the speech."""
    audio = spoken(TEXTS[1])
    cuts = [audio[: len(audio) * tenth // 10] for tenth in range(2, 10)]
    for cut, found in zip(cuts, whisper.decode([Task(cut) for cut in cuts]), strict=True):
        assert found.tokens <= whisper.recipe.cap_tokens(len(cut) / RATE_HZ) + 1
        assert found.compression_ratio < 2.4


@pytest.mark.model
def test_minute_of_talk_is_split_and_all_of_it_heard(whisper: ShortContextWhisper, spoken: Speak) -> None:
    """Every sentence comes back, in order of saying."""
    pause = np.zeros(RATE_HZ // 2, np.float32)
    numbers = ("one", "two", "three", "four", "five", "six", "seven", "eight")
    parts = [part for number in numbers for part in (spoken(f"This is the sentence with number {number}."), pause)]
    audio = np.concatenate([*parts, *parts])
    assert len(audio) > 35 * RATE_HZ
    text = whisper.decode([Task(audio)])[0].text.lower()
    digits = [str(at + 1) for at in range(8)]
    heard = [word for word in text.replace(".", " ").replace(",", " ").split() if word in (*numbers, *digits)]
    positions = [(numbers.index(each) if each in numbers else digits.index(each)) for each in heard]
    assert len(positions) >= 14
    assert {0, 7} <= set(positions)


@pytest.mark.model
@pytest.mark.parametrize(
    "wrong",
    [
        Recipe("no context after the speech", short=True, tail_frames=1, min_context_s=1, margin_s=0),
        Recipe("cap too low", short=True, cap_base=1, cap_per_s=0.5),
        Recipe("takes silence for speech", short=True, no_speech_above=1.0),
    ],
    ids=lambda recipe: recipe.name,
)
def test_recipe_that_does_not_fit_is_found_by_the_self_test_and_replaced(
    speech_model: ResolvedModel, spoken: Speak, wrong: Recipe
) -> None:
    """The loader falls back to the full window by itself and says why; speech is still heard."""
    whisper = ShortContextWhisper(speech_model.path, recipe=wrong, probe=spoken(" ".join(TEXTS)))
    assert whisper.fallback is not None and "full window" in whisper.fallback
    found = whisper.decode([Task(spoken(TEXTS[0]))])[0]
    assert found.full_window
    assert words([found.text]) == ["you people are completely useless"]


@pytest.mark.model
def test_initial_prompt_of_sentences_is_accepted_and_invents_nothing(
    speech_model: ResolvedModel, spoken: Speak
) -> None:
    """It sets the scene; it is not repeated."""
    whisper = ShortContextWhisper(speech_model.path, initial_prompt="The caller was angry. You are an idiot, he said.")
    speech, silence = whisper.decode([Task(spoken(TEXTS[3])), Task(np.zeros(RATE_HZ, np.float32))])
    assert "idiot" not in speech.text and "order" in speech.text.lower()
    assert silence.no_speech_prob > silence.no_speech_above


@pytest.mark.parametrize(
    ("gpus", "able", "asked", "chosen"),
    [
        (0, {"int8", "float32"}, ("auto", "auto"), ("cpu", "int8")),
        (0, {"float32"}, ("cpu", "auto"), ("cpu", "float32")),
        (1, {"int8_float16", "float16", "float32"}, ("auto", "auto"), ("cuda", "int8_float16")),
        (1, {"float16", "float32"}, ("cuda", "auto"), ("cuda", "float16")),
        (1, {"int8", "float32"}, ("cpu", "float32"), ("cpu", "float32")),
        (2, {"float32"}, ("cuda", "default"), ("cuda", "default")),
    ],
)
def test_device_and_arithmetic_are_chosen_by_what_is_there(
    monkeypatch: pytest.MonkeyPatch, gpus: int, able: set[str], asked: tuple[str, str], chosen: tuple[str, str]
) -> None:
    """The machine's answers are made up here; the choice is not."""
    monkeypatch.setattr("ctranslate2.get_cuda_device_count", lambda: gpus)
    monkeypatch.setattr("ctranslate2.get_supported_compute_types", lambda device: able)
    assert choose_compute(*asked) == chosen


def test_gpu_that_is_not_there_is_refused_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is arithmetic that the device lacks."""
    monkeypatch.setattr("ctranslate2.get_cuda_device_count", lambda: 0)
    with pytest.raises(ValueError, match="no CUDA device is usable here"):
        choose_compute("cuda", "auto")
    monkeypatch.setattr("ctranslate2.get_supported_compute_types", lambda device: {"float32"})
    with pytest.raises(ValueError, match="float16 is not possible on cpu; it has float32"):
        choose_compute("cpu", "float16")


@pytest.mark.model
def test_long_initial_prompt_leaves_room_for_the_shortest_answer(speech_model: ResolvedModel, spoken: Speak) -> None:
    """The prompt may be many times longer than what is said."""
    scene = "I have been waiting for an hour and I am very angry. Nobody has called me back, and I want a manager. " * 2
    whisper = ShortContextWhisper(speech_model.path, initial_prompt=scene)
    found = whisper.decode([Task(spoken("Stop it now.")), Task(spoken(TEXTS[0]))])
    assert words([found[1].text]) == ["you people are completely useless"]
    assert "stop" in found[0].text.lower() and not found[0].capped


def test_folder_without_a_model_raises_the_loaders_words(tmp_path: object) -> None:
    """The caller turns it into an error for people."""
    with pytest.raises((RuntimeError, ValueError, OSError)):
        ShortContextWhisper(str(tmp_path))


def test_context_is_even_at_least_the_least_and_at_most_the_window() -> None:
    """The encoder halves the frames, and has no more than 3,000."""
    recipe = RECIPES["tiny.en"]
    assert [recipe.context_frames(frames) for frames in (0, 101, 451, 900, 2950)] == [500, 500, 552, 1000, 3000]
    assert FULL_WINDOW.short is False


def test_split_long_loses_nothing_and_cuts_in_the_pause() -> None:
    """Pieces join to the whole; none is longer than allowed; the cut lies in the silence."""
    audio = np.full(RATE_HZ * 61, 0.1, np.float32)
    audio[RATE_HZ * 26 : RATE_HZ * 26 + 800] = 0
    pieces = split_long(audio)
    assert (np.concatenate(pieces) == audio).all()
    assert max(len(piece) for piece in pieces) <= 28 * RATE_HZ
    assert abs(len(pieces[0]) - RATE_HZ * 26 - 400) <= 480
    assert [len(piece) for piece in split_long(np.zeros(0, np.float32))] == [0]


def test_compression_ratio_tells_a_loop_from_a_sentence() -> None:
    """The measure and its threshold are Whisper's own."""
    assert compression_ratio("I want to speak to a manager") < 1.5
    assert compression_ratio("beep " * 40) > 2.4
    assert compression_ratio("") == 0


WORDS = ("monday", "useless", "broadband", "manager", "seven", "letter")


def sounding(samples: Pcm) -> Pcm:
    """Without the silence at both ends: from the first to the last 10 ms within 30 dB of the loudest."""
    levels = np.square(samples[: len(samples) // 80 * 80].astype(float).reshape(-1, 80)).mean(axis=1)
    loud = np.flatnonzero(levels > levels.max() / 1_000)
    return samples[loud[0] * 80 : (loud[-1] + 1) * 80]


@pytest.mark.model
def test_word_ends_are_good_to_200_ms_where_they_are_known(
    whisper: ShortContextWhisper, say: Callable[..., Pcm]
) -> None:
    """Words spoken one by one and put together with known silences between them: the model has no part in the truth."""
    errors_ms: list[int] = []
    for voice in ("flite:slt", "flite:rms"):
        clips = [sounding(say(word, voice)) for word in WORDS]
        for gap_ms in (120, 250, 400):
            parts, ends_ms = [np.zeros(1600, np.int16)], {}
            for word, clip in zip(WORDS, clips, strict=True):
                parts.append(clip)
                ends_ms[word] = sum(map(len, parts)) // 8
                parts.append(np.zeros(gap_ms * 8, np.int16))
            samples = np.concatenate(parts)
            [heard] = whisper.decode([Task(prepare(Segment(samples, 8000, 0, 0, 0)), timed=True)])
            found = {word.text.lower().strip(".,"): word.end_ms for word in heard.words}
            errors_ms += [found[word] - end_ms for word, end_ms in ends_ms.items() if word in found]
    # Some words are misheard; of those that are not, the worst is within the bound.
    assert len(errors_ms) > 20
    assert max(map(abs, errors_ms)) <= 200
    assert np.median(np.abs(errors_ms)) <= 80
