"""Peers that are programs of their own: WhisperLive, in an environment that is made for it on request.

Its dependencies (torch, openai-whisper, CUDA libraries, several gigabytes) belong in no environment of Firmline's, so
``firmline bench ears --peers`` makes one in the user's cache folder: WhisperLive without its dependencies, and those
that its faster-whisper backend imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from audio.resample import resample
from audio.types import Pcm
from audio.wavio import write_wav
from ivr.bench_sim import Outcome, Seen
from ivr.bench_speech import RATE_HZ
from ivr.errors import FirmlineError

WHISPER_LIVE = "whisper-live==0.10.0"
_NEEDED = ("faster-whisper==1.2.0", "tokenizers==0.20.3", "websockets>=13,<18", "prometheus-client>=0.21,<1")
_WHISPER_HZ = 16_000
_INSTALL_S = 900


class PeerMissingError(FirmlineError):
    """A peer could not be had on this machine; the text says why."""


class WhisperLive:
    """WhisperLive's faster-whisper backend, in real time.

    Raises:
        PeerMissingError: its environment could not be made.
    """

    def __init__(self, model_path: str, progress: Callable[[str], None]) -> None:
        self._model = model_path
        self._python = _environment(progress)

    def run(self, leg: Pcm) -> Outcome:
        """The leg (8 kHz) from beginning to end, as long as it lasts, and some seconds more.

        Raises:
            PeerMissingError: it failed; the text holds the end of what it said.
        """
        peer = str(resources.files("ivr") / "data" / "bench" / "whisperlive_peer.py")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "leg.wav"
            path.write_bytes(write_wav(resample(leg, RATE_HZ, _WHISPER_HZ), _WHISPER_HZ))
            clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            try:
                done = subprocess.run(
                    [str(self._python), peer, self._model, str(path)],
                    capture_output=True,
                    check=True,
                    timeout=len(leg) / RATE_HZ + 180,
                    env=clean,
                    cwd=folder,
                )
            except subprocess.TimeoutExpired:
                raise PeerMissingError("WhisperLive did not end in time") from None
            except subprocess.CalledProcessError as exc:
                raise PeerMissingError(f"WhisperLive failed: {_end_of(exc.stderr)}") from None
        return outcome_of(json.loads(done.stdout))


def outcome_of(told: dict[str, Any]) -> Outcome:
    """What its client saw. A segment that is sent again unchanged is seen once; what never was completed counts as its
    last words when the client leaves, as its own client takes it."""
    outcome = Outcome([[]], decode_cpu_ms=told["cpu_s"] * 1000)
    known: set[tuple[str, str, bool]] = set()
    open_segment: dict[str, Any] | None = None
    for t_ms, segments in told["messages"]:
        for segment in segments:
            key = segment["start"], segment["text"].strip(), bool(segment["completed"])
            if key not in known:
                known.add(key)
                outcome.seen[0].append(_seen(t_ms, segment, final=key[2]))
        open_segment = next((each for each in segments if not each["completed"]), None)
    if open_segment is not None:
        outcome.seen[0].append(_seen(told["messages"][-1][0], open_segment, final=True))
    return outcome


def _seen(t_ms: float, segment: dict[str, Any], *, final: bool) -> Seen:
    start_ms, end_ms = (round(float(segment[name]) * 1000) for name in ("start", "end"))
    return Seen(t_ms, start_ms, end_ms, segment["text"].strip(), final)


def _environment(progress: Callable[[str], None]) -> Path:
    """The interpreter of the peers' environment; made once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = (
        cache / "firmline" / f"peers-{WHISPER_LIVE.replace('==', '-')}-py{sys.version_info[0]}{sys.version_info[1]}"
    )
    python, whole = folder / "bin" / "python", folder / ".whole"
    if whole.is_file():
        return python
    progress(f"making an environment for {WHISPER_LIVE} in {folder} (once, about 460 MB) ...")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps: Sequence[list[str]] = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [*pip, *_NEEDED],
        [*pip, "--no-deps", WHISPER_LIVE],
    )
    for step in steps:
        try:
            subprocess.run(step, capture_output=True, check=True, timeout=_INSTALL_S)
        except subprocess.CalledProcessError as exc:
            raise PeerMissingError(f"WhisperLive could not be installed: {_end_of(exc.stderr)}") from None
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise PeerMissingError(f"WhisperLive could not be installed: {exc}") from None
    whole.touch()
    return python


def _end_of(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
