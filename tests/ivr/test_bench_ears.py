"""The bench of the ears: its measures by hand-made cases, and short versions of its parts with the real model."""

from __future__ import annotations

import numpy as np
import pytest

from ivr.asr import SyncAsr
from ivr.bench_ears import Aligner, Measured, Talk, Truth, bare_words, talk_of, word_errors
from ivr.bench_ears_run import EarsBench
from ivr.bench_sim import Outcome, Seen, Setup, Simulation
from ivr.bench_speech import RATE_HZ, non_speech, prompt_echo, spoken_lines, stretch_of_talk
from ivr.config import Config
from ivr.judge import load_pack


@pytest.mark.parametrize(
    ("expected", "heard", "errors"),
    [
        ("you are late", "you are late", 0),
        ("you are late", "you were late", 1),
        ("you are late", "you are", 1),
        ("you are late", "oh you are so late", 2),
        ("", "so", 1),
        ("you are late", "", 3),
    ],
)
def test_word_errors_count_replaced_added_and_removed_words(expected: str, heard: str, errors: int) -> None:
    """The usual measure."""
    assert word_errors(expected.split(), heard.split()) == errors


def test_bare_words_ignore_case_marks_and_hyphens() -> None:
    """How a word is written is not how it was heard."""
    assert bare_words("Well-known: I'm HERE, 'so'.") == ["well", "known", "i'm", "here", "'so'"]


def test_lateness_counts_from_a_words_end_to_its_first_appearance() -> None:
    """Shown words count as visible; only a final ends the wait for the last word."""
    truth = Truth(("you", "are", "late"), 1_000, 2_000, (1_300, 1_600, 2_000))
    talk = Talk(np.zeros(3 * RATE_HZ, np.int16), (truth,))
    seen = [
        Seen(1_500, 1_000, 1_400, "You", False),
        Seen(1_900, 1_000, 1_800, "You are", False),
        Seen(2_400, 1_000, 2_000, "You are late.", True),
        Seen(9_000, 8_000, 8_900, "late", True),
    ]
    measured = Measured()
    measured.add([talk], Outcome([seen], decode_cpu_ms=50))
    assert measured.visible_ms == [200, 300, 400]
    assert measured.final_ms == [400]
    row = measured.row("case")
    assert (row["CPU s per s of speech"], row["last word final p50 / p95 s"]) == (0.05, "0.40 / 0.40")
    assert row["WER %"] == pytest.approx(33.3)


@pytest.mark.model
def test_short_version_of_no_speech_brings_no_word_to_the_policy() -> None:
    """Five seconds of each sound through the whole of the ears, drafts included."""
    found = EarsBench(Config(), lambda _: None).nothing(minutes=14 * 5 / 60)
    assert found["words"] == 0
    assert {row["sound"] for row in found["rows"]} == {name for name, _ in non_speech(1)} | {"prompt echo"}


@pytest.mark.model
def test_prompt_echo_reaches_nobody_as_words_that_count(ears: SyncAsr) -> None:
    """Loud enough to be understood, it is marked; so the policy never counts it."""
    simulation = Simulation(Setup(), ears, [prompt_echo(8, loss_db=6)], load_pack("standard"), over_prompt=True)
    seen = [each for each in simulation.run().seen[0] if each.text]
    assert seen and all(each.over_prompt for each in seen)


@pytest.mark.model
def test_simulated_call_hears_what_is_said_and_costs_are_counted(ears: SyncAsr) -> None:
    """The pieces of the bench fit together: truth, audio, pipeline, measures."""
    lines = spoken_lines(2, 1)
    talk = talk_of(lines, Aligner(ears))
    measured = Measured()
    measured.add([talk], Simulation(Setup(), ears, [talk.samples], load_pack("shadow")).run())
    assert measured.words == sum(len(bare_words(line.text)) for line in lines)
    assert measured.errors <= 2
    assert measured.decode_cpu_ms > 0 and measured.decoded == measured.passes >= 2
    later = talk.later(500)
    assert later.truths[0].start_ms == talk.truths[0].start_ms + 500


def test_stretch_of_talk_puts_each_line_where_it_says() -> None:
    """Truth and audio must agree to the sample."""
    lines = spoken_lines(2, 1)
    samples, starts = stretch_of_talk(lines, pause_ms=(500,))
    for line, start in zip(lines, starts, strict=True):
        here = samples[start * 8 : start * 8 + len(line.samples)].astype(float)
        assert np.corrcoef(here, line.samples.astype(float))[0, 1] > 0.99
