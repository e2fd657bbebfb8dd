"""Prompts from disk: the shipped catalogue, with an operator's own folder laid over it.

An operator's folder may hold any subset: ``NAME.wav`` at any rate, or ``8000/NAME.wav`` and ``16000/NAME.wav`` as
``firmline prompts render`` writes them, and a ``catalogue.yaml`` with texts. Everything is read and checked before the
first call; what is wrong is a ``ConfigError`` that names the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from audio.prompts import (
    RATES_HZ,
    BadPrompt,
    Catalogue,
    Prompt,
    PromptEntry,
    build_prompt,
    fill,
    text_problem,
)
from audio.wavio import BadWav, Recording, read_wav
from ivr.errors import ConfigError
from policies import yamltext

CATALOGUE_FILE = "catalogue.yaml"
MANIFEST_FILE = "manifest.json"
MAX_WAV_BYTES = 64 << 20
"""A minute of 32-bit stereo at 96 kHz is 46 MB; a larger file is no prompt and is not worth reading into memory."""


class PromptText(BaseModel):
    """One prompt in ``catalogue.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    text: str
    purpose: str = ""
    side: Literal["caller"] = "caller"


class CatalogueText(BaseModel):
    """``catalogue.yaml`` as a whole; an operator's may hold any subset of prompts and placeholders."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    language: str = "en"
    placeholders: dict[Literal["agent", "company", "followup"], str] = {}
    prompts: dict[str, PromptText] = {}

    def entries(self) -> dict[str, PromptEntry]:
        """The prompts as plain data, placeholders still open."""
        return {n: PromptEntry(n, p.text, p.purpose, p.side) for n, p in self.prompts.items()}

    def values(self) -> dict[str, str]:
        """The placeholders' values by name."""
        return {str(name): value for name, value in self.placeholders.items()}


class RenderedPrompt(BaseModel):
    """What ``manifest.json`` remembers of one rendered prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spoken: str
    """The words, placeholders filled."""
    key: str
    """SHA-256 over the words, the voice and the way of rendering: while it is the same, nothing need be rendered."""
    sha256: dict[str, str]
    """Of the WAV, by rate."""
    was: dict[str, str] = {}
    """Of the WAV before it: after a crash in mid-replacement the old file is still known as ours."""


class Manifest(BaseModel):
    """``manifest.json``, written beside what ``firmline prompts render`` made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    voice: str = ""
    voice_sha256: str = ""
    prompts: dict[str, RenderedPrompt] = {}


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One line of ``firmline prompts list``."""

    name: str
    text: str
    purpose: str
    duration_ms: int
    level_dbov: float
    source: str


def shipped_directory() -> Path:
    """Where the shipped catalogue lies."""
    return Path(str(importlib.resources.files("audio"))) / "catalogue" / "en"


def load_catalogue(directory: Path | None = None) -> Catalogue:
    """The shipped prompts, overlaid by those of ``directory``.

    Raises:
        ConfigError: the folder, a text or a WAV is missing or broken; one line a problem, each naming the file.
    """
    shipped = shipped_directory()
    catalogue = Catalogue(_load_folder(shipped, read_catalogue_text(shipped / CATALOGUE_FILE), {}))
    if directory is None:
        return catalogue
    if not directory.is_dir():
        raise ConfigError(f"{directory}: the prompts folder does not exist or is no folder")
    own = directory / CATALOGUE_FILE
    text = read_catalogue_text(own) if own.exists() else CatalogueText()
    return catalogue.overlaid(_load_folder(directory, text, catalogue))


def read_catalogue_text(path: Path) -> CatalogueText:
    """``catalogue.yaml`` validated whole.

    Raises:
        ConfigError: unreadable, not valid YAML, an unknown key or placeholder; each line has file:line: key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {_plain(exc)}") from exc
    source = str(path)
    try:
        data, lines = yamltext.parse(text, source)
        model = yamltext.validate(data, lines, source, CatalogueText)
        problems = [
            yamltext.Problem(source, lines.get(("prompts", name, "text"), 1), f"prompts.{name}.text", problem)
            for name, prompt in model.prompts.items()
            if (problem := text_problem(prompt.text))
        ]
        if problems:
            raise yamltext.YamlError(problems)
    except yamltext.YamlError as exc:
        raise ConfigError(str(exc)) from exc
    return model


def read_manifest(directory: Path) -> Manifest:
    """What was rendered into a folder; empty when nothing was, or when the file was damaged (it is only a memory)."""
    try:
        return Manifest.model_validate_json((directory / MANIFEST_FILE).read_bytes())
    except (OSError, ValidationError):
        return Manifest()


def describe_catalogue(catalogue: Catalogue) -> list[PromptRow]:
    """Rows for people, in catalogue order."""
    return [
        PromptRow(p.name, p.text, p.purpose, p.duration_ms, round(p.level_dbov, 1), p.source)
        for p in catalogue.values()
    ]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new, never a part (temporary file, then rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


# --- one folder -------------------------------------------------------------------------------------------------------


def _load_folder(directory: Path, text: CatalogueText, below: Mapping[str, Prompt]) -> list[Prompt]:
    """Every prompt of a folder; ``below`` is what it lies over."""
    entries = text.entries()
    manifest = read_manifest(directory)
    prompts, problems = [], []
    found = _wav_files(directory)
    for name in dict.fromkeys([*entries, *sorted(found)]):
        try:
            entry = entries.get(name) or PromptEntry(name, "", below[name].purpose if name in below else "")
            prompts.append(_load_prompt(entry, found.get(name, {}), directory, manifest, text))
        except ConfigError as exc:
            problems.append(str(exc))
    if problems:
        raise ConfigError("\n".join(problems))
    return prompts


def _wav_files(directory: Path) -> dict[str, dict[int | None, Path]]:
    """WAVs by prompt name and rate; rate ``None`` for a recording that lies flat in the folder."""
    found: dict[str, dict[int | None, Path]] = {}
    places: list[tuple[int | None, Path]] = [(None, directory), *((rate, directory / str(rate)) for rate in RATES_HZ)]
    for rate_hz, folder in places:
        for path in sorted(folder.glob("*")) if folder.is_dir() else []:
            if path.suffix.lower() == ".wav" and not path.name.startswith("."):
                found.setdefault(path.stem, {})[rate_hz] = path
    return found


def _load_prompt(
    entry: PromptEntry, paths: dict[int | None, Path], directory: Path, manifest: Manifest, text: CatalogueText
) -> Prompt:
    if not paths:
        expected = directory / str(RATES_HZ[0]) / f"{entry.name}.wav"
        raise ConfigError(
            f"{expected}: missing; prompt `{entry.name}` has a text but no sound (run `firmline prompts render`)"
        )
    if None in paths and len(paths) > 1:
        others = ", ".join(str(path) for rate, path in paths.items() if rate is not None)
        raise ConfigError(f"{paths[None]}: prompt `{entry.name}` is there twice, also as {others}; delete one")
    recordings: dict[int, Recording] = {}
    digests: dict[str, str] = {}
    for rate_hz, path in paths.items():
        data = _read(path)
        digests[str(rate_hz)] = sha256(data)
        recording = _recording(data, path)
        if rate_hz is not None and recording.rate_hz != rate_hz:
            raise ConfigError(f"{path}: is at {recording.rate_hz} Hz, but lies in the folder for {rate_hz} Hz")
        recordings[recording.rate_hz] = recording
    where = ", ".join(str(path) for path in paths.values())
    try:
        spoken = PromptEntry(entry.name, _spoken(entry, digests, manifest, text), entry.purpose, entry.side)
        return build_prompt(spoken, recordings, where)
    except (BadPrompt, ValueError) as exc:
        raise ConfigError(f"{next(iter(paths.values()))}: {exc}") from exc


def _spoken(entry: PromptEntry, digests: dict[str, str], manifest: Manifest, text: CatalogueText) -> str:
    """The words of the sound itself: what was rendered into it, else what the folder's text says."""
    rendered = manifest.prompts.get(entry.name)
    if rendered and digests and all(rendered.sha256.get(rate) == digest for rate, digest in digests.items()):
        return rendered.spoken
    return fill(entry.text, neutral_values() | text.values()) if entry.text else ""


def neutral_values() -> dict[str, str]:
    """The shipped values of the placeholders."""
    return read_catalogue_text(shipped_directory() / CATALOGUE_FILE).values()


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def _recording(data: bytes, path: Path) -> Recording:
    try:
        return read_wav(data, str(path))
    except BadWav as exc:
        raise ConfigError(str(exc)) from exc


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_WAV_BYTES:
            raise ConfigError(f"{path}: has over {MAX_WAV_BYTES >> 20} MB; no prompt is that long")
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {_plain(exc)}") from exc


def _plain(exc: Exception) -> str:
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
