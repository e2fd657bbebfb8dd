"""Speech and telephone noises for every test that listens: made here, by tools of the distribution, never recorded."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio.g711 import Law, decode, encode
from audio.level import dbov
from audio.resample import resample
from audio.types import AudioFrame, Pcm
from ivr.asr import SyncAsr
from ivr.models import ResolvedModel, resolve_model

RATE_HZ = 8_000
Say = Callable[..., Pcm]


def through_g711(samples: Pcm) -> Pcm:
    """Mu-law there and back, as a call does to it."""
    return decode(encode(samples, Law.PCMU), Law.PCMU)


def to_frames(samples: Pcm, rate_hz: int = RATE_HZ, start_ms: int = 0) -> list[AudioFrame]:
    """Whole 20 ms frames; a shorter rest is left off."""
    size = rate_hz // 50
    return [
        AudioFrame(start_ms + at * 20, rate_hz, samples[at * size : (at + 1) * size])
        for at in range(len(samples) // size)
    ]


@pytest.fixture(scope="session")
def framed() -> Callable[..., list[AudioFrame]]:
    """Samples as frames: ``framed(samples, rate_hz=8000, start_ms=0)``."""
    return to_frames


@pytest.fixture(scope="session")
def say(tmp_path_factory: pytest.TempPathFactory) -> Say:
    """``say(text, voice="en-gb", rate_hz=8000, level_dbov=-26, noise_dbov=None)`` -> mono s16 through mu-law.

    Voices of flite are named ``flite:slt`` and so on; 16 kHz is left as it is (no G.711).
    """
    for tool in ("espeak-ng", "flite"):
        if shutil.which(tool) is None:
            pytest.fail(f"the tests speak with {tool}, which is not here; install it: apt-get install espeak-ng flite")
    folder = tmp_path_factory.mktemp("speech")
    made: dict[tuple[str, str], tuple[Pcm, int]] = {}

    def speak(
        text: str,
        voice: str = "en-gb",
        rate_hz: int = RATE_HZ,
        level_dbov: float = -26.0,
        noise_dbov: float | None = None,
    ) -> Pcm:
        if (text, voice) not in made:
            made[text, voice] = _synthesise(text, voice, folder / f"{len(made)}.wav")
        samples, from_hz = made[text, voice]
        samples = resample(samples, from_hz, rate_hz)
        loud = samples * 10 ** ((level_dbov - dbov(samples)) / 20)
        if noise_dbov is not None:
            loud = loud + white(len(loud), noise_dbov)
        clipped = np.clip(loud, -32768, 32767).astype(np.int16)
        return through_g711(clipped) if rate_hz == RATE_HZ else clipped

    return speak


def _synthesise(text: str, voice: str, path: Path) -> tuple[Pcm, int]:
    if voice.startswith("flite:"):
        command = ["flite", "-voice", voice.removeprefix("flite:"), "-t", text, "-o", str(path)]
    else:
        command = ["espeak-ng", "-v", voice, "-s", "155", "-w", str(path), text]
    subprocess.run(command, check=True, capture_output=True, timeout=20)
    samples, rate_hz = soundfile.read(path, dtype="int16")
    return samples, rate_hz


def white(count: int, level_dbov: float, seed: int = 1) -> np.ndarray:
    """White noise at this level, on the scale of s16."""
    return np.random.default_rng(seed).standard_normal(count) * 32768 * 10 ** (level_dbov / 20)


def _noises(seconds: float, rate_hz: int = RATE_HZ) -> dict[str, np.ndarray]:
    """What a telephone line carries besides speech; tones as ITU-T E.180 and Q.23 give them."""
    t = np.arange(int(seconds * rate_hz)) / rate_hz

    def sines(*hz: float) -> np.ndarray:
        return sum((np.sin(2 * np.pi * f * t) for f in hz), np.zeros_like(t)) * 0.1 * 32768

    dtmf = np.zeros_like(t)
    for at, pair in enumerate(((697, 1209), (770, 1336), (852, 1477), (941, 1336), (697, 1477))):
        dtmf += np.where((t >= at * 0.25 + 0.1) & (t < at * 0.25 + 0.2), sines(*pair), 0)
    breath = white(len(t), -40, 5) * np.clip(np.sin(2 * np.pi * 0.4 * t), 0, 1) ** 2
    return {
        "digital silence": np.zeros_like(t),
        "noise -50": white(len(t), -50),
        "noise -40": white(len(t), -40),
        "noise -30": white(len(t), -30),
        "dtmf": dtmf,
        "ringback us": sines(440, 480) * (t % 6 < 2),
        "ringback uk": sines(400, 450) * ((t % 3 < 0.4) | ((t % 3 > 0.6) & (t % 3 < 1))),
        "busy us": sines(480, 620) * (t % 1 < 0.5),
        "busy eu": sines(425) * (t % 1 < 0.5),
        "dial": sines(425),
        "fax": sines(1100) * (t % 3.5 < 0.5) + sines(2100) * (t % 3.5 > 1),
        "hum 50": sines(50) * 0.5 + sines(150) * 0.2 + sines(250) * 0.1,
        "sweep": np.sin(2 * np.pi * (300 * t + (3400 - 300) / (2 * seconds) * t**2)) * 0.2 * 32768,
        "clicks": np.where(np.arange(len(t)) % (rate_hz // 2) == 0, 16000.0, 0.0),
        "breath": breath,
    }


@pytest.fixture(scope="session")
def line_noises() -> Callable[[float], dict[str, Pcm]]:
    """``line_noises(seconds)`` -> sounds that are no speech, by name, 8 kHz through mu-law."""

    def make(seconds: float) -> dict[str, Pcm]:
        made = _noises(seconds).items()
        return {name: through_g711(np.clip(wave, -32768, 32767).astype(np.int16)) for name, wave in made}

    return make


@pytest.fixture(scope="session")
def speech_model() -> ResolvedModel:
    """The packaged model that Firmline ships with."""
    return resolve_model("tiny.en", offline=True)


@pytest.fixture(scope="session")
def ears(speech_model: ResolvedModel) -> SyncAsr:
    """The real recogniser in this process, loaded once."""
    return SyncAsr(speech_model)
