"""Packs from disk, and one line judged: the pure part of ``firmline judge``.

A pack is named (``standard``: shipped with Firmline) or given as a file. ``extends:`` is looked for beside the file
that says it, then among the shipped packs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from ivr.errors import ConfigError
from ivr.meaning import meaning_for
from policies.meaning import Meaning
from policies.pack import Pack, load
from policies.types import Category
from policies.verdict import judge
from policies.yamltext import MAX_CHARS, YamlError

SHIPPED = "policies/packs/"


def shipped_packs() -> tuple[str, ...]:
    """Names of the packs that come with Firmline."""
    folder = resources.files("policies") / "packs"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def load_pack(name_or_path: str | Path, *, meaning: bool = True, files: set[Path] | None = None) -> Pack:
    """The pack called so, or in that file, with everything that it extends, and its reader of meaning.

    ``meaning=False`` leaves words and rules alone, as does a pack that says so, or a machine without the model.
    ``files`` is added every file that was looked for, found or not: those whose change may change the pack.

    Raises:
        ConfigError: no such pack or file, unreadable, or not valid; one ``file:line: key: ...`` a problem.
    """
    try:
        source, text = _find(str(name_or_path), files)
        read = partial(_read, files=files)
        pack = _shipped_pack(source, text) if source.startswith(SHIPPED) else load(text, source, read)
    except LookupError as exc:
        raise ConfigError(str(exc.args[0])) from exc
    except YamlError as exc:
        raise ConfigError(str(exc)) from exc
    return with_meaning(pack) if meaning else pack


def with_meaning(pack: Pack) -> Pack:
    """The pack with its reader of meaning, unless it wants none or the machine has no model."""
    return replace(pack, meaning=_taught(tuple(pack.taught()))) if pack.spec.meaning.enabled else pack


@lru_cache(maxsize=8)
def _shipped_pack(source: str, text: str) -> Pack:
    """Shipped packs never change while we run, and a frozen pack can be shared: parsed once a process."""
    return load(text, source, _read)


@lru_cache(maxsize=8)
def _taught(taught: tuple[tuple[str, Category], ...]) -> Meaning | None:
    """One reader for all packs that teach the same lines."""
    return meaning_for(list(taught))


def judge_line(text: str, pack: Pack) -> dict[str, Any]:
    """One utterance in the JSON form of ``firmline judge``."""
    verdict = judge(text, pack)
    return {
        "text": text,
        "category": verdict.category.value,
        "severity": verdict.severity,
        "directed": verdict.directed,
        "strike": verdict.strike,
        "confidence": verdict.confidence,
        "why": list(verdict.why),
    }


def _find(name: str, files: set[Path] | None = None) -> tuple[str, str]:
    if name in shipped_packs():
        return _shipped(name)
    path = Path(name)
    if files is not None:
        files.add(path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return _file(path)
    known = ", ".join(shipped_packs())
    raise LookupError(f"no pack called {name!r}; shipped packs: {known}; or give the path of a .yaml file")


def _read(name: str, asked_by: str | None, files: set[Path] | None = None) -> tuple[str, str]:
    if asked_by is not None and not asked_by.startswith(SHIPPED):
        beside = Path(asked_by).parent / f"{name}.yaml"
        if files is not None:
            files.add(beside)
        if beside.is_file():
            return _file(beside)
    return _find(name, files)


def _shipped(name: str) -> tuple[str, str]:
    file = resources.files("policies") / "packs" / f"{name}.yaml"
    return f"{SHIPPED}{name}.yaml", file.read_text(encoding="utf-8")


def _file(path: Path) -> tuple[str, str]:
    try:
        if path.stat().st_size > 4 * MAX_CHARS:
            raise LookupError(f"{path}: the file is too large for a pack (at most {MAX_CHARS:,} characters)")
        return str(path), path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise LookupError(f"{path}: not a text file in UTF-8") from exc
    except OSError as exc:
        raise LookupError(f"{path}: cannot be read: {exc.strerror}") from exc
