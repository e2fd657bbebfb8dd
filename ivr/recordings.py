"""Recordings from disk: the file side of ``audio.wavio``."""

from __future__ import annotations

from pathlib import Path

from audio.wavio import BadWav, Recording, read_wav
from ivr.errors import WavError


def load_recording(path: Path) -> Recording:
    """Read a mono or stereo WAV of any common kind.

    Raises:
        WavError: not there, not readable, not a WAV, or not one with sound in it; the text names the file.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise WavError(f"{path}: no such file") from None
    except OSError as exc:
        raise WavError(f"{path}: cannot be read: {exc.strerror}") from exc
    try:
        return read_wav(data, str(path))
    except BadWav as exc:
        raise WavError(str(exc)) from exc
