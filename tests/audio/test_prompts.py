"""The catalogue holds what it is given at the rates of a leg, refuses what nobody hears, and its loudness is true."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.loudness import PROMPT_PEAK_DB, active_speech_level_dbov, levelled, peak_db, trimmed
from audio.prompts import (
    PLACEHOLDERS,
    BadPrompt,
    Catalogue,
    PromptEntry,
    UnknownPrompt,
    build_prompt,
    fill,
    text_problem,
)
from audio.types import Pcm
from audio.wavio import Recording


def voice(rate_hz: int = 8000, ms: int = 1000, level: float = 0.2, hz: float = 300.0) -> Pcm:
    t = np.arange(rate_hz * ms // 1000) / rate_hz
    return np.asarray(level * 32768 * np.sin(2 * np.pi * hz * t), dtype=np.int16)


def silence(ms: int, rate_hz: int = 8000) -> Pcm:
    return np.zeros(rate_hz * ms // 1000, dtype=np.int16)


def bursts(rate_hz: int = 8000, seed: int = 1) -> Pcm:
    """Noise with the rhythm and the peaks of speech: syllables of random strength with pauses."""
    rng = np.random.default_rng(seed)
    parts: list[npt.NDArray[Any]] = []
    for _ in range(12):
        n = rate_hz // 5
        parts.append(rng.laplace(0, rng.uniform(500, 4000), n) * np.hanning(n))
        parts.append(np.zeros(rate_hz // 10))
    return np.asarray(np.clip(np.concatenate(parts), -32768, 32767), dtype=np.int16)


def prompt(name: str = "warning", **by_rate: Pcm) -> Any:
    held = by_rate or {"r8000": voice()}
    recordings = {int(rate[1:]): Recording(int(rate[1:]), (samples,)) for rate, samples in held.items()}
    return build_prompt(PromptEntry(name, "Some words."), recordings)


# --- catalogue --------------------------------------------------------------------------------------------------------


def test_catalogue_each_rate_gives_the_samples_that_were_given() -> None:
    """Sound that came at a leg's rate is played untouched."""
    narrow, wide = voice(8000), voice(16000)
    catalogue = Catalogue([prompt(r8000=narrow, r16000=wide)])
    assert np.array_equal(catalogue.samples("warning", 8000), narrow)
    assert np.array_equal(catalogue.samples("warning", 16000), wide)
    assert catalogue.duration_ms("warning") == 1000


def test_build_prompt_studio_rate_is_resampled_to_both() -> None:
    """A recording at 44.1 kHz becomes the same sound at 8 and 16 kHz, of the same length."""
    built = prompt(r44100=voice(44100))
    assert {rate: len(samples) for rate, samples in built.samples_by_rate.items()} == {8000: 8000, 16000: 16000}
    error = built.samples_by_rate[8000][400:-400].astype(float) - voice(8000)[400:-400]
    assert 20 * np.log10(np.std(error) / np.std(voice(8000))) < -50


def test_build_prompt_resampling_to_narrow_band_leaves_no_alias() -> None:
    """A sound above the telephone band vanishes instead of folding back as a whistle."""
    wide = voice(16000, hz=300, level=0.1).astype(float) + voice(16000, hz=6000, level=0.3)
    narrow = prompt(r16000=wide.astype(np.int16)).samples_by_rate[8000][400:-400].astype(float)
    power = np.abs(np.fft.rfft(narrow * np.hanning(len(narrow)))) ** 2
    at = np.fft.rfftfreq(len(narrow), 1 / 8000)
    assert 10 * np.log10(power[at > 1000].sum() / power[at < 1000].sum()) < -50


def test_samples_shared_by_calls_cannot_be_written() -> None:
    """One call cannot change what the others hear."""
    samples = Catalogue([prompt()]).samples("warning", 8000)
    with pytest.raises(ValueError, match="read-only"):
        samples[0] = 1


def test_samples_other_rate_is_refused() -> None:
    """Nothing is resampled on the call path, so a rate that was not prepared is an error."""
    with pytest.raises(ValueError, match="8000 and 16000 Hz, not at 48000 Hz"):
        Catalogue([prompt()]).samples("warning", 48000)


def test_catalogue_unknown_name_suggests_the_nearest() -> None:
    """A slip in a pack's prompt name is answered with the right one."""
    catalogue = Catalogue([prompt(), prompt("calming")])
    with pytest.raises(UnknownPrompt, match="no prompt `warnning`; did you mean `warning`"):
        catalogue["warnning"]
    with pytest.raises(KeyError, match="there are: warning, calming"):
        catalogue.duration_ms("xyz")


def test_missing_names_what_a_pack_wants_and_we_lack() -> None:
    """A pack's prompts can be checked before the first call; each lack is named once."""
    assert Catalogue([prompt()]).missing(["a", "warning", "b", "a"]) == ["a", "b"]


def test_overlaid_own_prompt_replaces_and_the_rest_stays() -> None:
    """An operator's prompt wins, others remain, and the first catalogue is unchanged."""
    first = Catalogue([prompt(), prompt("calming")])
    own = prompt(r8000=voice(ms=300))
    second = first.overlaid([own, prompt("extra")])
    assert list(second) == ["warning", "calming", "extra"]
    assert (first.duration_ms("warning"), second.duration_ms("warning")) == (1000, 300)


def test_duration_is_rounded_up() -> None:
    """A timer set by the duration never cuts the last sample."""
    assert prompt(r8000=voice()[:7999]).duration_ms == 1000
    assert prompt(r8000=voice()[:7992]).duration_ms == 999


@pytest.mark.parametrize(
    ("name", "recording", "says"),
    [
        ("warning", Recording(8000, (voice(), voice())), "is stereo; a prompt must be mono"),
        ("warning", Recording(8000, (silence(900),)), "holds nothing audible"),
        ("warning", Recording(8000, (voice(level=0.0005),)), "holds nothing audible"),
        ("warning", Recording(8000, (voice(ms=61_000),)), "it lasts 61 s; at most 60 s"),
        ("../etc", Recording(8000, (voice(),)), "a name is lower-case letters"),
        ("Warning", Recording(8000, (voice(),)), "a name is lower-case letters"),
    ],
)
def test_build_prompt_unusable_names_the_prompt(name: str, recording: Recording, says: str) -> None:
    """A prompt that a caller could not hear is refused when the catalogue is built, by name."""
    with pytest.raises(BadPrompt) as caught:
        build_prompt(PromptEntry(name, "Words."), {recording.rate_hz: recording})
    assert str(caught.value).startswith(f"prompt `{name}`: ")
    assert says in str(caught.value)


def test_build_prompt_without_sound_is_refused() -> None:
    """A text alone is no prompt."""
    with pytest.raises(BadPrompt, match="there is no sound"):
        build_prompt(PromptEntry("warning", "Words."), {})


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Hello {agent}, from {company}. {followup}", None),
        ("  ", "the text is empty"),
        ("Hello {agnet}.", "unknown placeholder `{agnet}`; did you mean `{agent}`? (known: {agent}, {company}"),
        ("Hello {}.", "unknown placeholder `{}`"),
        ("Hello {agent.__class__}.", "unknown placeholder"),
        ("Hello {agent", "a single brace"),
        ("Hello agent}", "a single brace"),
    ],
)
def test_text_problem_names_what_is_wrong(text: str, problem: str | None) -> None:
    """A text that could not be filled in is known before anything is rendered."""
    found = text_problem(text)
    assert (found is None) if problem is None else problem in (found or "")


def test_fill_values_and_white_space() -> None:
    """Placeholders are filled wherever they stand and line ends become spaces."""
    assert fill("{agent} of\n  {company};  {agent}", {"agent": "Sam", "company": "Acme"}) == "Sam of Acme; Sam"


def test_fill_value_with_braces_is_not_filled_again() -> None:
    """A value is taken as it is, whatever it holds."""
    assert fill("{agent}", {"agent": "{company}", "company": "x"}) == "{company}"


def test_fill_without_a_value_is_refused() -> None:
    """No text is ever spoken with a hole in it."""
    with pytest.raises(ValueError, match=r"no value for the placeholder \{agent\}"):
        fill("Hello {agent}", {"agent": " "})


@given(st.text())
def test_fill_any_text_is_filled_or_refused(text: str) -> None:
    """For any text, either a problem is found or the result holds no brace."""
    values = dict.fromkeys(PLACEHOLDERS, "value")
    if text_problem(text) is None:
        assert not set("{}") & set(fill(text, values))
    else:
        with pytest.raises(ValueError, match="."):
            fill(text, values)


# --- loudness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_active_speech_level_sine_is_its_power(rate_hz: int) -> None:
    """A sine of amplitude A has 20 log A - 3.01 dBov (ITU-T G.100.1)."""
    assert active_speech_level_dbov(voice(rate_hz, 3000, 0.1), rate_hz) == pytest.approx(-23.01, abs=0.15)


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_active_speech_level_pauses_do_not_count(rate_hz: int) -> None:
    """Two seconds of silence lower the mean power by 4.8 dB and the active level by under 1 dB (200 ms of hangover)."""
    talk = voice(rate_hz, 1000, 0.1)
    paused = np.concatenate((talk, silence(2000, rate_hz)))
    power_db = 10 * math.log10(np.mean((paused / 32768.0) ** 2))
    level = active_speech_level_dbov(paused, rate_hz)
    assert power_db == pytest.approx(-27.8, abs=0.1)
    assert -24.1 < level < -22.9


def test_active_speech_level_silence_is_minus_infinity() -> None:
    """Silence has no level and no fault either."""
    assert active_speech_level_dbov(silence(500), 8000) == -math.inf
    assert active_speech_level_dbov(silence(0), 8000) == -math.inf
    assert peak_db(silence(0)) == peak_db(silence(10)) == -math.inf


@pytest.mark.parametrize("rate_hz", [8000, 16000])
@pytest.mark.parametrize("gain", [0.02, 1.0])
def test_levelled_speech_stands_at_the_level_and_under_the_limit(rate_hz: int, gain: float) -> None:
    """Quiet or loud, a clip comes out at -22 dBov with every sample under -3 dB."""
    clip = np.asarray(bursts(rate_hz) * gain, dtype=np.int16)
    out = levelled(clip, rate_hz)
    assert active_speech_level_dbov(out, rate_hz) == pytest.approx(-22.0, abs=0.1)
    assert peak_db(out) <= PROMPT_PEAK_DB + 0.01
    assert len(out) == len(clip)


def test_levelled_limiter_turns_down_rather_than_clips() -> None:
    """One huge click is lowered; the speech away from it keeps its shape."""
    clip = voice(8000, 1000, 0.05)
    clip[4000] = 32767
    out = levelled(clip, 8000).astype(float)
    assert np.max(np.abs(out)) <= 32768 * 10 ** (PROMPT_PEAK_DB / 20) + 1
    away = np.r_[200:3900, 4100:7800]
    scale = (out[away] @ clip[away]) / (clip[away].astype(float) @ clip[away])
    assert np.std(out[away] - scale * clip[away]) < 1.0


def test_levelled_silence_is_refused() -> None:
    """No gain makes silence audible."""
    for tool in (levelled, trimmed):
        with pytest.raises(ValueError, match="silent"):
            tool(silence(100), 8000)


@pytest.mark.parametrize(("lead_ms", "tail_ms"), [(400, 600), (0, 0), (3, 50)])
def test_trimmed_first_packet_is_voice_and_the_end_breathes(lead_ms: int, tail_ms: int) -> None:
    """Whatever surrounds the voice, it begins within 10-15 ms and ends about 100 ms before the clip does."""
    out = trimmed(np.concatenate((silence(lead_ms), voice(ms=500), silence(tail_ms))), 8000)
    assert len(out) * 1000 / 8000 == pytest.approx(610, abs=11)
    loud = np.flatnonzero(np.abs(out) > 300)
    assert loud[0] <= 15 * 8
    assert 90 * 8 <= len(out) - loud[-1] <= 110 * 8
