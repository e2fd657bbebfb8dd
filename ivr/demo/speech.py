"""What is said in the demo: the scenes' text and its sound, shipped as WAVs; and how those WAVs were made.

``python -m ivr.demo.speech`` renders them again. It needs flite (Debian ``flite``) and Piper (``firmline[tts]``); both
run as their own process, and never during a demo.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib import resources, util
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from audio.loudness import levelled, trimmed
from audio.resample import resample
from audio.types import Pcm
from audio.wavio import read_wav, write_wav
from ivr.demo.stack import RATE_HZ
from ivr.errors import FirmlineError

_RENDER_TIMEOUT_S = 60
_LEVEL_DBOV = -24.0
"""A talker on a telephone, close to the -26 dBov that the industry's tests use (ITU-T P.56 level)."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Voice(_Model):
    """How a person sounds."""

    engine: Literal["flite", "piper"]
    voice: str
    pitch: float = Field(1.0, ge=0.7, le=1.4)


class Line(_Model):
    """One thing said, by the person that ``voice`` names."""

    voice: str
    text: str


class Wait(_Model):
    """Wait for a cue at most ``ceiling_ms``."""

    cue: str
    ceiling_ms: int = Field(gt=0, le=120_000)


class Step(_Model):
    """Exactly one of its fields."""

    say: str | None = None
    pause_ms: int | None = Field(None, gt=0, le=10_000)
    wait_quiet: str | None = None
    wait: Wait | None = None

    @model_validator(mode="after")
    def _one_only(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("a step has exactly one of say, pause_ms, wait_quiet, wait")
        return self


class Expect(_Model):
    """What should happen in a scene."""

    cues: tuple[str, ...]
    transferred: bool


class Scene(_Model):
    """One call, step by step."""

    title: str
    caller: str
    expect: Expect
    steps: tuple[Step, ...]


class Script(_Model):
    """The whole of ``scenes.yaml``."""

    voices: dict[str, Voice]
    lines: dict[str, Line]
    scenes: dict[str, Scene]

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name, line in self.lines.items():
            if line.voice not in self.voices:
                raise ValueError(f"line {name}: no voice {line.voice!r}")
        for name, scene in self.scenes.items():
            unknown = [s.say for s in scene.steps if s.say is not None and s.say not in self.lines]
            if unknown:
                raise ValueError(f"scene {name}: no line {unknown[0]!r}")
        return self


def data_folder() -> Path:
    """Where the script and its WAVs are."""
    return Path(str(resources.files("ivr"))) / "data" / "demo"


@cache
def load_script() -> Script:
    """The shipped script, checked. Raises ``pydantic.ValidationError`` when it is not one."""
    return Script.model_validate(yaml.safe_load((data_folder() / "scenes.yaml").read_text(encoding="utf-8")))


@cache
def line_pcm(name: str) -> Pcm:
    """A line as 8 kHz samples. Raises :class:`FirmlineError` when its WAV is missing from the installation."""
    path = data_folder() / f"{name}.wav"
    if not path.is_file():
        raise FirmlineError(f"{path}: missing; install firmline again, or render it: python -m ivr.demo.speech")
    recording = read_wav(path.read_bytes(), str(path))
    return resample(recording.channels[0], recording.rate_hz, RATE_HZ)


def render_demo_speech(folder: Path | None = None) -> list[Path]:
    """Render every line of the script to an 8 kHz 16-bit mono WAV in ``folder`` (the package's own by default).

    Raises:
        FirmlineError: flite or Piper is missing or fails; the text says how to get it.
    """
    folder = folder or data_folder()
    folder.mkdir(parents=True, exist_ok=True)
    script = load_script()
    written = []
    for name, line in script.lines.items():
        path = folder / f"{name}.wav"
        path.write_bytes(write_wav(_render(line.text, script.voices[line.voice]), RATE_HZ))
        written.append(path)
    return written


def _render(text: str, voice: Voice) -> Pcm:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "line.wav"
        command = _flite(voice, path) if voice.engine == "flite" else _piper(voice, path)
        arguments = [*command, "-t", text] if voice.engine == "flite" else command
        try:
            subprocess.run(arguments, input=text.encode(), capture_output=True, check=True, timeout=_RENDER_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as exc:
            raise FirmlineError(f"{command[0]} could not render {text!r}: {exc}") from exc
        recording = read_wav(path.read_bytes(), str(path))
    # Playing the samples at another rate moves pitch and speed together, which is enough to tell two people apart.
    samples = resample(recording.channels[0], round(recording.rate_hz * voice.pitch), RATE_HZ)
    try:
        return levelled(trimmed(samples, RATE_HZ), RATE_HZ, _LEVEL_DBOV)
    except ValueError as exc:
        raise FirmlineError(f"{command[0]} rendered silence for {text!r}") from exc


def _flite(voice: Voice, path: Path) -> list[str]:
    program = shutil.which("flite")
    if program is None:
        raise FirmlineError("flite is not installed: apt-get install flite")
    return [program, "-voice", voice.voice, "-o", str(path)]


def _piper(voice: Voice, path: Path) -> list[str]:
    program = shutil.which("piper", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    spec = util.find_spec(voice.voice)
    if program is None or spec is None or spec.origin is None:
        raise FirmlineError("Piper or its voice is not installed: pip install 'firmline[tts]'")
    models = sorted((Path(spec.origin).parent / "data").glob("*.onnx"))
    if not models:
        raise FirmlineError(f"{voice.voice} holds no Piper voice")
    return [program, "-m", str(models[0]), "-f", str(path)]


if __name__ == "__main__":
    for rendered in render_demo_speech():
        print(rendered)
