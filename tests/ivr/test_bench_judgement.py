"""The spoken judgement bench: clips are made once, noise lies where it should, one line all the way through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ivr.bench_voices
from audio.level import dbov
from ivr.bench_judgement import Heard, JudgementBench, counts_strike, on_a_line
from ivr.bench_speech import RATE_HZ
from ivr.bench_voices import Clips
from ivr.cli_output import tenths
from ivr.config import Config
from ivr.errors import FirmlineError
from ivr.judge import load_pack
from ivr.tuning import Labelled


def test_clips_are_spoken_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time nothing is spoken, and the same sound comes; every wanted clip is told as a step."""
    steps: list[int] = []
    wanted = [("You are late.", "espeak-ng:en-us"), ("You are late.", "flite:slt")]
    Clips(tmp_path).make(wanted, steps.append)
    first, rate_hz = Clips(tmp_path).clip(*wanted[0])
    assert sum(steps) == 2 and rate_hz > 8_000 and len(first) > rate_hz / 2

    def never(*_: object) -> None:
        raise AssertionError("spoken again")

    monkeypatch.setattr(ivr.bench_voices, "say", never)
    Clips(tmp_path).make(wanted, steps.append)
    assert sum(steps) == 4
    assert np.array_equal(Clips(tmp_path).clip(*wanted[0])[0], first)


def test_missing_piper_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback."""
    monkeypatch.setattr(ivr.bench_voices.util, "find_spec", lambda _: None)
    with pytest.raises(FirmlineError, match=r"firmline\[tts\]"):
        Clips(tmp_path).make([("You are late.", "piper:joe")], lambda _: None)


def test_noise_lies_under_the_speech_by_as_much_as_asked() -> None:
    """Before, over and after it."""
    t = np.arange(2 * RATE_HZ) / RATE_HZ
    tone = (np.sin(2 * np.pi * 440 * t) * 9_000).astype(np.int16)
    leg = on_a_line(tone, RATE_HZ, -36.0, 0)
    assert dbov(leg[: RATE_HZ // 2]) == pytest.approx(-36, abs=0.5)
    assert dbov(leg[-RATE_HZ // 2 :]) == pytest.approx(-36, abs=0.5)
    assert dbov(leg[RATE_HZ : 3 * RATE_HZ]) == pytest.approx(-25.6, abs=0.6)


def test_words_that_the_recogniser_is_not_sure_of_strike_nobody() -> None:
    """The guard of a live call holds here too."""
    pack = load_pack("standard", meaning=False)
    assert counts_strike(pack, [Heard("Good morning.", -0.2), Heard("You useless idiot.", -0.2)])
    assert not counts_strike(pack, [Heard("You useless idiot.", pack.spec.guards.min_avg_logprob - 0.1)])


@pytest.mark.model
def test_one_insult_goes_all_the_way_through(tmp_path: Path) -> None:
    """Spoken, sent, heard in six ways, judged, counted."""
    rows = [Labelled(True, 2, "You are a useless idiot, and you know it.")]
    bench, steps = JudgementBench(Config(), "standard"), list[int]()
    result = bench.run(rows, 1, steps.append, Clips(tmp_path))
    assert sum(steps) == bench.steps(rows, 1) == 7
    assert [row["lines"] for row in result["rows"]] == [
        "as text",
        "clean, as shipped",
        "clean, one look",
        "clean, initial_prompt",
        "noise, 10 dB, as shipped",
        "noise, 10 dB, one look",
        "noise, 10 dB, initial_prompt",
    ]
    assert result["rows"][0]["recall"] == result["rows"][1]["recall"] == "1.00 (1 of 1)"
    assert result["rows"][1]["WER %"] < 30


def test_progress_without_a_terminal_is_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    """A bench of minutes whose output goes to a file is not silent, nor does it fill the file."""
    step = tenths(30, "steps")
    for _ in range(30):
        step(1)
    assert capsys.readouterr().err.splitlines() == [f"{at} of 30 steps" for at in range(3, 31, 3)]
