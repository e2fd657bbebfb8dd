"""Finding a prompt in a recording: where it is, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from audio.g711 import Law, decode, encode
from audio.types import Pcm
from ivr.demo.recordings import find_prompt
from ivr.demo.speech import line_pcm, load_script

RATE_HZ = 8000
PROMPT = "sam_refund"


def phone_line(samples: Pcm) -> Pcm:
    """Through G.711 mu-law and back."""
    return decode(encode(samples, Law.PCMU), Law.PCMU)


def mixed(recording: Pcm, other: Pcm, at: int, gain: float = 1.0) -> Pcm:
    """``recording`` with ``other`` added from sample ``at``."""
    total = recording.astype(np.int32)
    total[at : at + len(other)] += (other * gain).astype(np.int32)[: len(total) - at]
    return np.clip(total, -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("at_ms", [0, 37, 4_000, 14_020])
def test_prompt_alone_is_found_where_it_is(at_ms: int) -> None:
    """Through G.711, in a silent recording: one hit within two milliseconds, nearly certain."""
    recording = phone_line(mixed(np.zeros(20 * RATE_HZ, np.int16), line_pcm(PROMPT), at_ms * 8))
    (hit,) = find_prompt(recording, line_pcm(PROMPT), RATE_HZ)
    assert abs(hit.offset_ms - at_ms) <= 2
    assert hit.score > 0.95 and hit.heard_share == 1.0


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.5])
def test_prompt_under_the_other_party_is_found(gain: float) -> None:
    """The other party talks all through it, up to half as loud again, and the mix is companded twice."""
    base = mixed(np.zeros(20 * RATE_HZ, np.int16), line_pcm(PROMPT), 24_000)
    base = mixed(base, line_pcm("pat_billing"), 24_500, gain)
    (hit,) = find_prompt(phone_line(phone_line(base)), line_pcm(PROMPT), RATE_HZ)
    assert abs(hit.offset_ms - 3_000) <= 2


def test_prompt_twice_gives_two_hits() -> None:
    """Each time it was played is told."""
    base = mixed(np.zeros(30 * RATE_HZ, np.int16), line_pcm(PROMPT), 8_000)
    base = phone_line(mixed(base, line_pcm(PROMPT), 120_000, 0.4))
    assert [round(hit.offset_ms, -1) for hit in find_prompt(base, line_pcm(PROMPT), RATE_HZ)] == [1_000, 15_000]


def test_prompt_with_a_lost_and_a_repeated_frame_is_found() -> None:
    """One frame missing early and one doubled late: still one hit."""
    prompt = line_pcm(PROMPT)
    damaged = np.concatenate([prompt[:8_000], prompt[8_160:24_000], prompt[23_840:]])
    (hit,) = find_prompt(mixed(np.zeros(12 * RATE_HZ, np.int16), damaged, 8_000), prompt, RATE_HZ)
    assert abs(hit.offset_ms - 1_000) <= 40


def test_prompt_stopped_half_way_says_so() -> None:
    """Half of it was heard: a hit, with a share near a half."""
    prompt = line_pcm(PROMPT)
    base = mixed(np.zeros(12 * RATE_HZ, np.int16), prompt[: len(prompt) // 2], 8_000)
    (hit,) = find_prompt(base, prompt, RATE_HZ)
    assert 0.3 < hit.heard_share < 0.7


@pytest.mark.parametrize("name", sorted(load_script().lines))
def test_prompt_absent_is_not_found(name: str) -> None:
    """No other line of the demo is mistaken for it, not even in the same voice."""
    others = [line_pcm(other) for other in load_script().lines if other != name]
    assert find_prompt(phone_line(np.concatenate(others)), line_pcm(name), RATE_HZ) == []


@pytest.mark.parametrize("recording", [np.zeros(0, np.int16), np.zeros(80, np.int16), np.zeros(80_000, np.int16)])
def test_recording_empty_or_silent_has_no_hit(recording: Pcm) -> None:
    """Nothing in, nothing out."""
    assert find_prompt(recording, line_pcm(PROMPT), RATE_HZ) == []
    assert find_prompt(line_pcm(PROMPT), recording, RATE_HZ) == []
