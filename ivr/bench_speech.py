"""Speech and telephone noises for ``firmline bench ears``: made by tools and packages, the same on every machine.

Owns no measure. Voices: flite and espeak-ng (programs of the distribution), the shipped prompts (Piper), and, with the
extra ``bench``, one real recording that the package ``moonshine-voice`` carries.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from audio.g711 import Law, decode, encode
from audio.level import dbov
from audio.resample import resample
from audio.types import Pcm
from audio.wavio import read_wav
from ivr.errors import FirmlineError
from ivr.prompts import load_catalogue

RATE_HZ = 8_000
SPEECH_DBOV = -26.0
LINE_NOISE_DBOV = -62.0
"""Nothing but digital silence is quieter; a quiet analogue line is about here."""

VOICES = ("flite:slt", "flite:rms", "flite:kal16", "flite:awb", "espeak-ng:en-us")

TEXTS = (
    "I have been waiting for more than an hour and nobody has called me back.",
    "You people are completely useless.",
    "Can you please check the order again?",
    "The engineer said he would be here in the morning, and he never came.",
    "I want to speak to a manager.",
    "This is the third time I have called about the same problem.",
    "No.",
    "My mother is in hospital, and I cannot reach anyone.",
    "Are you even listening to me?",
    "I paid that bill last week, and now you say that I did not.",
    "Just cancel the whole thing. I do not want it any more.",
    "Shut up and do your job.",
    "The internet has been down since Tuesday, and I work from home.",
    "Thank you, that is very kind of you.",
    "How long will it take until somebody looks at it?",
    "You are an idiot, and you know it.",
    "I never received the letter that you are talking about.",
    "Please send it to my new address.",
    "That is not what your colleague told me yesterday afternoon.",
    "Fine, then I will wait.",
    "It is freezing in here, and the children are sleeping in their coats.",
    "What is your name?",
    "I would like to complain about the way I was treated in your shop.",
    "Yes, I can hold.",
)

TWO_CITIES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
    "it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of "
    "Darkness, it was the spring of hope, it was the winter of despair, we had everything before us, we had nothing "
    "before us, we were all going direct to Heaven, we were all going direct the other way - in short, the period was "
    "so far like the present period, that some of its noisiest authorities insisted on its being received, for good or "
    "for evil, in the superlative degree of comparison only."
)
"""Opening of Dickens's novel of 1859, which the recording reads."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing said: what, by whom, and how it sounds on a telephone (8 kHz, through mu-law)."""

    text: str
    voice: str
    samples: Pcm


def spoken_lines(texts: int = len(TEXTS), voices_each: int = 2) -> list[Line]:
    """The corpus: each text in ``voices_each`` voices, in a fixed order.

    Raises:
        FirmlineError: a tool is missing.
    """
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(voices_each):
            for at, text in enumerate(TEXTS[:texts]):
                voice = VOICES[(at + 2 * turn + at // len(VOICES)) % len(VOICES)]
                lines.append(Line(text, voice, on_the_line(*say(text, voice, Path(folder) / "line.wav"))))
    return lines


def prompt_lines() -> list[Line]:
    """The shipped prompts, which a Piper voice speaks."""
    catalogue = load_catalogue(None)
    return [
        Line(catalogue[name].text, "piper", on_the_line(catalogue.samples(name, RATE_HZ), RATE_HZ))
        for name in catalogue
    ]


def recorded_line() -> Line | None:
    """A person reading for three quarters of a minute; ``None`` without the extra ``bench``."""
    spec = importlib.util.find_spec("moonshine_voice")
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / "assets" / "two_cities.wav"
        if path.is_file():
            recording = read_wav(path.read_bytes(), str(path))
            return Line(TWO_CITIES, "recording", on_the_line(recording.channels[0], recording.rate_hz))
    return None


def on_the_line(samples: Pcm, rate_hz: int, level_dbov: float = SPEECH_DBOV) -> Pcm:
    """As a call carries it: 8 kHz, at a usual level, through mu-law."""
    narrow = resample(samples, rate_hz, RATE_HZ)
    return mu_law(narrow * 10 ** ((level_dbov - dbov(narrow)) / 20))


def stretch_of_talk(lines: list[Line], pause_ms: tuple[int, ...] = (900, 1_300, 700)) -> tuple[Pcm, list[int]]:
    """Lines one after the other with pauses between, over a line's own noise; and where each begins, in ms."""
    parts: list[Pcm] = [np.zeros(RATE_HZ // 2, np.int16)]
    starts = []
    for at, line in enumerate(lines):
        starts.append(sum(map(len, parts)) * 1000 // RATE_HZ)
        parts += [line.samples, np.zeros(RATE_HZ * pause_ms[at % len(pause_ms)] // 1000, np.int16)]
    whole = np.concatenate(parts)
    return mu_law(whole + white(len(whole), LINE_NOISE_DBOV)), starts


def white(count: int, level_dbov: float, seed: int = 1) -> npt.NDArray[np.float64]:
    """White noise at this level, on the scale of s16."""
    return np.random.default_rng(seed).standard_normal(count) * 32768 * 10 ** (level_dbov / 20)


def non_speech(seconds: float, seed: int = 1) -> Iterator[tuple[str, Pcm]]:
    """What a line carries besides speech, by name; tones as ITU-T E.180 and Q.23 give them. ``seconds`` of each."""
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ

    def sines(*hz: float) -> npt.NDArray[np.float64]:
        return np.asarray(sum(np.sin(2 * np.pi * each * t) for each in hz) * 3_277, dtype=np.float64)

    yield "silence", np.zeros(len(t), np.int16)
    for level in (-50, -40, -30):
        yield f"noise {level} dBov", mu_law(white(len(t), level, seed))
    yield "dial tone", mu_law(sines(425))
    yield "busy tone", mu_law(sines(480, 620) * (t % 1 < 0.5))
    yield "ringback us", mu_law(sines(440, 480) * (t % 6 < 2))
    yield "ringback uk", mu_law(sines(400, 450) * ((t % 3 < 0.4) | ((t % 3 > 0.6) & (t % 3 < 1))))
    yield "dtmf", mu_law(_dtmf(t, seed))
    yield "mains hum", mu_law(sines(50) * 0.5 + sines(150) * 0.2 + sines(250) * 0.1)
    yield "hold music", mu_law(_music(t, seed))
    yield "breaths", mu_law(white(len(t), -40, seed) * np.clip(np.sin(2 * np.pi * 0.4 * t), 0, 1) ** 2)
    yield "clicks", mu_law(np.where(np.arange(len(t)) % (RATE_HZ // 2) == 0, 16_000.0, 0.0))


def prompt_echo(seconds: float, loss_db: float = 26.0) -> Pcm:
    """Our own prompts as they come back from a caller's hybrid or handset: 120 ms late and ``loss_db`` down."""
    lines = prompt_lines()
    parts: list[Pcm] = []
    at = 0
    while sum(map(len, parts)) < seconds * RATE_HZ:
        parts += [lines[at % len(lines)].samples, np.zeros(RATE_HZ, np.int16)]
        at += 1
    whole = np.concatenate([np.zeros(RATE_HZ * 120 // 1000, np.int16), *parts])[: int(seconds * RATE_HZ)]
    return mu_law(whole * 10 ** (-loss_db / 20))


def _dtmf(t: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    rows, columns = (697, 770, 852, 941), (1209, 1336, 1477)
    random = np.random.default_rng(seed)
    out = np.zeros_like(t)
    for slot in range(int(t[-1] / 0.25)):
        row, column = random.choice(rows), random.choice(columns)
        here = (t >= slot * 0.25) & (t < slot * 0.25 + 0.1)
        out[here] = (np.sin(2 * np.pi * row * t[here]) + np.sin(2 * np.pi * column * t[here])) * 3_277
    return out


def _music(t: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    """A tune over chords, with overtones and plucked envelopes: what hold music is to a detector of speech."""
    random = np.random.default_rng(seed)
    scale = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
    out = np.zeros_like(t)
    for beat in range(int(t[-1] / 0.4) + 1):
        here = (t >= beat * 0.4) & (t < beat * 0.4 + 0.4)
        local = t[here] - beat * 0.4
        for hz in (random.choice(scale) * 2, scale[0] / 2, scale[2], scale[4]):
            for overtone in range(1, 5):
                out[here] += np.sin(2 * np.pi * hz * overtone * local) * np.exp(-3 * local) / overtone**1.5
    return out / max(1e-9, float(np.abs(out).max())) * 9_000


def say(text: str, voice: str, path: Path) -> tuple[Pcm, int]:
    """Samples and rate of ``text`` in a voice like ``flite:slt`` or ``espeak-ng:en-us``; ``path`` is for the WAV.

    Raises:
        FirmlineError: the tool is missing.
    """
    tool, _, name = voice.partition(":")
    if shutil.which(tool) is None:
        raise FirmlineError(f"the bench speaks with {tool}, which is not here; install it: apt-get install {tool}")
    command = {
        "flite": ["flite", "-voice", name, "-t", text, "-o", str(path)],
        "espeak-ng": ["espeak-ng", "-v", name, "-s", "155", "-w", str(path), text],
    }[tool]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    recording = read_wav(path.read_bytes(), text)
    return recording.channels[0], recording.rate_hz


def mu_law(wave: npt.NDArray[np.generic]) -> Pcm:
    """What is left of samples (on the scale of s16) after G.711."""
    clipped = np.clip(np.asarray(wave, dtype=np.float64), -32768, 32767).astype(np.int16)
    return decode(encode(clipped, Law.PCMU), Law.PCMU)
