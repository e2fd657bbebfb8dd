"""Guards and preparation, without a model; and the real model through both."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from audio.level import dbov
from audio.transcribe import GUARDS, INVENTIONS, SECOND_OPINION, Transcriber, dropped_by, prepare
from audio.types import Pcm, Segment, SegmentKind
from audio.whisper import Decoded, Task
from ivr.asr import SyncAsr
from ivr.bench_ears import bare_words, word_errors

GOOD = Decoded("I want a manager", -0.3, 0.2, 1.0, 5, False, False, 0.5)


def segment(samples: Pcm, rate_hz: int = 8000) -> Segment:
    return Segment(samples, rate_hz, 1000, 1000 + len(samples) * 1000 // rate_hz, 900)


def test_believable_result_passes_every_guard() -> None:
    """Nothing is dropped without a reason."""
    assert dropped_by(GOOD) is None


@pytest.mark.parametrize(
    ("name", "heard"),
    [
        ("empty", replace(GOOD, text=" ...")),
        ("no_speech", replace(GOOD, no_speech_prob=0.9)),
        ("no_speech", replace(GOOD, no_speech_prob=0.55, avg_logprob=-0.9)),
        ("no_speech", replace(GOOD, no_speech_prob=0.55, avg_logprob=-0.2, compression_ratio=1.8)),
        ("repetition", replace(GOOD, compression_ratio=2.5)),
        ("low_logprob", replace(GOOD, avg_logprob=-1.3)),
        ("invention", replace(GOOD, text="Thanks for watching!", no_speech_prob=0.45)),
        ("invention", replace(GOOD, text="You", avg_logprob=-1.0)),
        ("unfinished", replace(GOOD, capped=True)),
    ],
)
def test_each_guard_drops_what_it_is_for(name: str, heard: Decoded) -> None:
    """The transcript says which guard it was."""
    assert dropped_by(heard) == name


def test_every_guard_is_shown_by_a_case_above() -> None:
    """A guard without a case would be a guess."""
    shown = {mark.args[1][at][0] for mark in test_each_guard_drops_what_it_is_for.pytestmark for at in range(9)}
    assert shown == {guard.name for guard in GUARDS}


def test_confident_speech_in_the_doubtful_band_is_kept() -> None:
    """Speech peaked just over the threshold in measurement, decoded with confidence."""
    assert dropped_by(replace(GOOD, no_speech_prob=0.52)) is None


def test_common_words_said_with_confidence_are_kept() -> None:
    """A caller may say "thank you"."""
    assert dropped_by(replace(GOOD, text="Thank you.")) is None


def test_inventions_are_written_as_they_are_compared() -> None:
    """An entry with a capital or a comma would never match."""
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)*", each) for each in INVENTIONS)


@pytest.mark.parametrize("level", [-40.0, -26.0, -12.0])
def test_prepare_brings_any_speech_to_one_level_and_leaves_the_segment_alone(
    say: Callable[..., Pcm], level: float
) -> None:
    """Loudness stays measurable on the segment; the decoder hears the same voice each time."""
    samples = say("My mother is in hospital.", level_dbov=level)
    before = samples.copy()
    made = prepare(segment(samples))
    assert made.dtype == np.float32
    assert abs(len(made) - 2 * len(samples)) <= 1
    assert dbov((made * 32767).astype(np.int16)) == pytest.approx(-26, abs=3)
    assert float(np.abs(made).max()) < 1
    assert (samples == before).all()


def test_prepare_silence_and_nothing_stay_as_they_are() -> None:
    """No noise is pulled up out of silence, and no division by nothing."""
    assert not prepare(segment(np.zeros(8000, np.int16))).any()
    assert len(prepare(segment(np.zeros(0, np.int16)))) == 0


def test_transcriber_keeps_order_and_call_clock() -> None:
    """Times are the segments' own, whatever the decoder did."""

    class Echo:
        def decode(self, batch: object) -> list[Decoded]:
            return [replace(GOOD, text=f"number {len(task.audio)}") for task in batch]  # type: ignore[attr-defined]

    found = Transcriber(Echo()).transcribe([segment(np.zeros(800, np.int16)), segment(np.zeros(1600, np.int16))])
    assert [(each.text, each.start_ms, each.end_ms) for each in found] == [
        ("number 1600", 1000, 1100),
        ("number 3200", 1000, 1200),
    ]


def test_what_is_no_speech_is_not_decoded_and_says_why() -> None:
    """The others keep their places."""
    decoded: list[int] = []

    class Echo:
        def decode(self, batch: object) -> list[Decoded]:
            decoded.extend(len(task.audio) for task in batch)  # type: ignore[attr-defined]
            return [replace(GOOD, text=f"number {each}") for each in decoded]

    class Short:
        def is_speech(self, audio: object) -> bool:
            return len(audio) != 3200  # type: ignore[arg-type]

    segments = [segment(np.zeros(count, np.int16)) for count in (800, 1600, 2400)]
    found = Transcriber(Echo(), Short()).transcribe(segments)
    assert decoded == [1600, 4800]
    assert [(each.text, each.end_ms, each.dropped) for each in found] == [
        ("number 1600", 1100, None),
        ("", 1200, SECOND_OPINION),
        ("number 4800", 1300, None),
    ]


class Doubting:
    """Says by the length of the audio (in ms) how sure it is at first; a second look is sure of it, or loops."""

    def __init__(self, first: dict[int, Decoded], again: Decoded) -> None:
        self.first, self.again = first, again
        self.passes: list[list[int]] = []

    def decode(self, batch: Sequence[Task]) -> list[Decoded]:
        lengths = [len(task.audio) // 16 for task in batch]
        self.passes.append(lengths)
        return [self.again if task.again else self.first[each] for task, each in zip(batch, lengths, strict=True)]


UNSURE = replace(GOOD, text="use this", avg_logprob=-0.65)
AGAIN = replace(GOOD, text="useless", avg_logprob=-0.4)


def test_only_what_stands_in_doubt_is_looked_at_again_and_keeps_its_place() -> None:
    """Not what is sure, not what a guard dropped (it may be no speech), not a draft."""
    first = {100: GOOD, 200: UNSURE, 300: replace(GOOD, avg_logprob=-1.3), 400: UNSURE, 500: UNSURE}
    decoder = Doubting(first, AGAIN)
    segments = [segment(np.zeros(8 * ms, np.int16)) for ms in first]
    segments[3] = replace(segments[3], kind=SegmentKind.DRAFT)
    segments[4] = replace(segments[4], kind=SegmentKind.OFFER)
    found = Transcriber(decoder, second_look_below=-0.5).transcribe(segments)
    assert decoder.passes == [[100, 200, 300, 400, 500], [200, 500]]
    assert [(each.text, each.avg_logprob, each.dropped) for each in found] == [
        (GOOD.text, -0.3, None),
        ("useless", -0.4, None),
        ("", -1.3, "low_logprob"),
        ("use this", -0.65, None),
        ("useless", -0.4, None),
    ]


@pytest.mark.parametrize("again", [replace(AGAIN, compression_ratio=3.0), replace(AGAIN, text="")])
def test_second_look_that_is_not_believed_leaves_the_first(again: Decoded) -> None:
    """It never takes words away."""
    found = Transcriber(Doubting({200: UNSURE}, again), second_look_below=-0.5).transcribe(
        [segment(np.zeros(1600, np.int16))]
    )
    assert [(each.text, each.avg_logprob) for each in found] == [("use this", -0.65)]


def test_model_without_a_measured_second_look_gets_none() -> None:
    """However unsure it is."""
    decoder = Doubting({200: UNSURE}, AGAIN)
    found = Transcriber(decoder).transcribe([segment(np.zeros(1600, np.int16))])
    assert len(decoder.passes) == 1 and found[0].text == "use this"


@pytest.mark.model
def test_second_look_hears_more_of_noisy_speech(ears: SyncAsr, say: Callable[..., Pcm]) -> None:
    """Fewer words wrong over several lines 8 to 12 dB over white noise; what was sure stays word for word."""
    texts = (
        "I have been waiting for more than an hour and nobody has called me back.",
        "You people are completely useless.",
        "Just cancel the whole thing. I do not want it any more.",
        "Shut up and do your job, you idiot.",
    )
    once = Transcriber(ears._transcriber._decoder)
    wrong = {"once": 0, "again": 0}
    for at, text in enumerate(texts):
        for voice in ("flite:rms", "en-gb"):
            quiet = np.zeros(2_000, np.int16)
            leg = np.concatenate([quiet, say(text, voice), quiet])
            noise = np.random.default_rng(at).standard_normal(len(leg)) * 32768 * 10 ** (-(34 + 2 * (at % 3)) / 20)
            noisy = segment(np.clip(leg + noise, -32768, 32767).astype(np.int16))
            (first,), again = once.transcribe([noisy]), ears.decode(noisy)
            wrong["once"] += word_errors(bare_words(text), bare_words(first.text))
            wrong["again"] += word_errors(bare_words(text), bare_words(again.text))
            assert first.avg_logprob < -0.5 or first.text == again.text
    assert wrong["again"] < wrong["once"], wrong


@pytest.mark.model
def test_no_words_come_out_of_what_a_line_carries_besides_speech(
    ears: SyncAsr, line_noises: Callable[[float], dict[str, Pcm]]
) -> None:
    """Even when every detector before it has failed: silence, noise, tones, breath, each at three lengths; and though
    whatever stands is looked at again."""
    guards_alone = Transcriber(ears._transcriber._decoder, second_look_below=0.0)
    invented = {}
    for seconds in (0.6, 2.0, 5.0):
        sounds = line_noises(seconds)
        heard = guards_alone.transcribe([segment(each) for each in sounds.values()])
        for name, found in zip(sounds, heard, strict=True):
            assert found.dropped is not None or found.text
            if found.text:
                invented[name, seconds] = found.text
    assert invented == {}


@pytest.mark.model
@pytest.mark.parametrize("level", [-40.0, -26.0])
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("No.", "no"),
        ("Stop it now.", "stop"),
        ("You people are completely useless.", "useless"),
        ("Shut up and do your job, you idiot.", "idiot"),
        ("Thank you very much for your help today.", "very much for your help"),
    ],
)
def test_short_telephone_speech_survives_the_guards(
    ears: SyncAsr, say: Callable[..., Pcm], text: str, key: str, level: float
) -> None:
    """What the guards are tuned against must not cost short real speech."""
    quiet = np.zeros(1600, np.int16)
    found = ears.decode(segment(np.concatenate([quiet, say(text, "flite:slt", level_dbov=level), quiet])))
    assert key in found.text.lower(), found
