"""Voice activity: speech passes, what telephone lines carry besides does not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import numpy as np
import pytest

from audio.level import dbov
from audio.types import AudioFrame, Pcm
from audio.vad import TelephoneVad, VadOptions


def flags(frames: list[AudioFrame], options: VadOptions | None = None) -> list[bool]:
    vad = TelephoneVad(options)
    return [vad.is_speech(frame) for frame in frames]


def longest_ms(found: list[bool]) -> int:
    return max((20 * len(list(run)) for voiced, run in groupby(found) if voiced), default=0)


@pytest.mark.parametrize("voice", ["en-gb", "en-us", "flite:slt", "flite:rms"])
@pytest.mark.parametrize(("level_dbov", "at_least"), [(-26, 0.8), (-40, 0.7)])
def test_speech_is_found_at_usual_and_at_low_level(
    say: Callable[..., Pcm], framed: Callable[..., list[AudioFrame]], voice: str, level_dbov: float, at_least: float
) -> None:
    """Most frames within 15 dB of the speech level count; the hangover carries over the rest."""
    speech = say("You people are useless, I want to speak to a manager.", voice, level_dbov=level_dbov)
    frames = framed(np.concatenate([np.zeros(8000, np.int16), speech]))
    loud = [dbov(frame.samples) > level_dbov - 15 for frame in frames]
    hit = sum(voiced for voiced, is_loud in zip(flags(frames), loud, strict=True) if is_loud)
    assert hit >= at_least * sum(loud)


def test_steady_sounds_of_a_line_are_not_speech(
    line_noises: Callable[[float], dict[str, Pcm]], framed: Callable[..., list[AudioFrame]]
) -> None:
    """Silence, noise and every signalling tone stay shorter than makes a segment; breath is left to the recogniser."""
    too_long = {name: longest_ms(flags(framed(sound))) for name, sound in line_noises(8.0).items() if name != "breath"}
    assert {name: run for name, run in too_long.items() if run > 100} == {}


def test_noise_that_comes_up_in_mid_call_is_learnt_within_one_window(
    line_noises: Callable[[float], dict[str, Pcm]], framed: Callable[..., list[AudioFrame]]
) -> None:
    """After three seconds of a new steady noise the floor has followed it."""
    sound = np.concatenate([np.zeros(16_000, np.int16), line_noises(8.0)["noise -30"]])
    assert not any(flags(framed(sound))[100 + 160 :])


def test_speech_over_line_noise_still_passes(
    say: Callable[..., Pcm], framed: Callable[..., list[AudioFrame]], line_noises: Callable[[float], dict[str, Pcm]]
) -> None:
    """Fifteen decibels over the noise is enough to be heard after the noise is known."""
    noise = line_noises(3.0)["noise -40"]
    speech = say("I have been waiting for forty minutes.", noise_dbov=-41)
    found = flags(framed(np.concatenate([noise, speech])))
    assert sum(found[150:]) > 0.4 * len(found[150:])


def test_concealed_frame_is_never_speech_and_teaches_nothing(
    say: Callable[..., Pcm], framed: Callable[..., list[AudioFrame]]
) -> None:
    """Interleaving concealed frames leaves the answers about the real ones as they were."""
    frames = framed(say("Please help me."))
    vad, found = TelephoneVad(), []
    for each in frames:
        found.append(vad.is_speech(each))
        assert vad.is_speech(AudioFrame(each.t_ms, 8000, each.samples, concealed=True)) is False
    assert found == flags(frames)


def test_wideband_speech_is_found(say: Callable[..., Pcm], framed: Callable[..., list[AudioFrame]]) -> None:
    """The same detector takes 16 kHz."""
    found = flags(framed(say("You people are useless.", rate_hz=16_000), 16_000))
    assert sum(found) > 0.5 * len(found)


@pytest.mark.parametrize(("rate_hz", "count"), [(44_100, 882), (8000, 80), (8000, 0), (11_025, 220)])
def test_wrong_rate_or_length_is_refused(rate_hz: int, count: int) -> None:
    """The message says what is taken."""
    with pytest.raises(ValueError, match=str(rate_hz)):
        TelephoneVad().is_speech(AudioFrame(0, rate_hz, np.zeros(count, np.int16)))


@pytest.mark.parametrize("wrong", [{"aggressiveness": 4}, {"floor_dbov": 3.0}, {"noise_window_ms": 100}])
def test_options_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    """The message names the option."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VadOptions(**wrong)  # type: ignore[arg-type]
