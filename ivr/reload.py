"""Settings that change while calls are live: noticed, read whole, checked whole, and only then taken.

Owns: what is watched, when a change has settled, what may change without a restart, and what is told. Never: the live
service; ``apply`` is given.

Watching is a look at each file's identity once a second (device, inode, size, time of change), links followed. That
sees what notifications of the kernel do not: NFS, bind mounts, and the swapped ``..data`` link of a Kubernetes
ConfigMap; it costs some microseconds in a thread. A change is read once two looks agree, so that a file which is still
being written, or is away for an instant under an editor's rename, is left alone; one that stays away is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from audio.prompts import Catalogue
from ivr import clock
from ivr.config import Config
from ivr.errors import ConfigError
from ivr.metrics import Metrics
from ivr.parts import load_prompts, load_rules, webhook_hooks
from policies.pack import Pack

LOOK_MS = 1_000
MISSING_LOOKS = 3
"""Looks that a file may be away before that counts as a change: an editor's rename takes milliseconds."""
MAX_PROMPT_FILES = 500
MAX_READS = 5

LIVE_KEYS = (
    "policy.",
    "prompts.",
    "webhooks.",
    "log.",
    "pbx.transfer_to",
    "ears.endpointing.",
    "ears.partial_every_ms",
    "ears.transcribe_agent",
    "ears.no_audio_ms",
)
"""Keys, or beginnings of keys, that are taken without a restart; every other key belongs to a socket, a process or a
file that is open."""

MAPPINGS = frozenset({"policy.queues"})
"""Keys whose value is a mapping with names of people's own in it: one value, not a section."""

_log = structlog.get_logger("firmline.config")
Signature = tuple[tuple[str, tuple[int, ...] | None], ...]


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """Where the settings came from: ``load`` reads them again as they were read at start."""

    path: Path | None
    load: Callable[[], Config]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings that hold together, and the files they were read from."""

    config: Config
    pack: Pack
    catalogue: Catalogue
    queues: Mapping[str, Pack] = field(default_factory=dict)
    """Packs of queues with a rule of their own."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of changed settings: keys taken, keys that wait for a restart, live calls by whose pack they have."""

    taken: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    calls_took: int = 0
    calls_kept: int = 0


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """Why the settings on disk are refused; one ``file:line: key: ...`` line a problem."""

    error: str
    at: str


@dataclass(slots=True)
class ConfigStatus:
    """For ``/api/status`` and the supervisor's page."""

    loaded_at: str
    pack: str
    error: ConfigFault | None = None
    restart_wanted: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """``config_error`` is ``None`` or ``{"error", "at"}``."""
        fault = self.error
        return {
            "config_loaded_at": self.loaded_at,
            "config_error": None if fault is None else {"error": fault.error, "at": fault.at},
            "config_restart_wanted": list(self.restart_wanted),
            "pack": self.pack,
        }


def load_whole(source: ConfigSource, files: set[Path]) -> Loaded:
    """Read and check settings, pack, prompts and secrets together; ``files`` gets every file that was looked at.

    Raises:
        ConfigError: any of them cannot be used.
    """
    if source.path is not None:
        files.add(source.path)
    config = source.load()
    pack, queues = load_rules(config, files)
    if config.prompts.directory:
        files.add(Path(config.prompts.directory))
    catalogue = load_prompts(config, pack, *queues.values())
    webhook_hooks(config)
    return Loaded(config, pack, catalogue, queues)


def flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        section = isinstance(value, dict) and prefix + key not in MAPPINGS
        out |= flat(value, f"{prefix}{key}.") if section else {prefix + key: value}
    return out


def in_force(old: Config, new: Config) -> tuple[Config, tuple[str, ...], tuple[str, ...]]:
    """``old`` with those changes of ``new`` that need no restart; the keys taken; the keys that need one."""
    before, after = flat(old.model_dump()), flat(new.model_dump())
    changed = [key for key in after if before[key] != after[key]]
    taken = tuple(key for key in changed if key.startswith(LIVE_KEYS))
    data = old.model_dump()
    for key in taken:
        *path, last = key.split(".")
        section = data
        for part in path:
            section = section[part]
        section[last] = after[key]
    return Config.model_validate(data), taken, tuple(key for key in changed if key not in taken)


def signature(paths: Iterable[Path]) -> Signature:
    """What each file is now, links followed; of a folder, what its files are."""
    return tuple((str(path), found) for path in sorted(paths) for found in _identities(path))


def _identities(path: Path) -> list[tuple[int, ...] | None]:
    try:
        stat = path.stat()
        found: list[tuple[int, ...] | None] = [(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)]
        if path.is_dir():
            for entry in sorted(os.scandir(path), key=lambda each: each.name)[:MAX_PROMPT_FILES]:
                inside = entry.stat()
                found.append((inside.st_ino, inside.st_size, inside.st_mtime_ns))
    except OSError:
        return [None]
    return found


class Reloader:
    """Watches the files of the settings in force. ``apply`` runs on the loop and must not fail on checked settings."""

    def __init__(
        self,
        source: ConfigSource,
        loaded: Loaded,
        apply: Callable[[Loaded], Applied],
        metrics: Metrics,
        *,
        look_ms: int = LOOK_MS,
    ) -> None:
        self._source, self._apply, self._metrics, self._look_ms = source, apply, metrics, look_ms
        self._asked = asyncio.Event()
        self._files: set[Path] = {source.path} if source.path else set()
        self._taken: Signature | None = None
        """The files as they were last read; ``None``: not yet since the start."""
        self._settling: Signature | None = None
        self._looks = 0
        self._task: asyncio.Task[None] | None = None
        self._begun = loaded.pack.version, loaded.config
        self._last = loaded.config
        self.status = ConfigStatus(clock.wall_iso(), loaded.pack.version)
        metrics.config_in_force(clock.wall_s())

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._run(), name="config")

    async def stop(self) -> None:
        """Stop watching."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def ask(self) -> None:
        """Read everything now (SIGHUP), changed or not."""
        self._asked.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:
                _log.exception("settings could not be looked at; those in force stay")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_ms / 1000):
                    await self._asked.wait()

    async def _look(self) -> None:
        asked = self._asked.is_set()
        self._asked.clear()
        found = await asyncio.to_thread(signature, self._files)
        if asked or self._taken is None:
            await self._read(asked=asked)
        elif found == self._taken:
            self._settling = None
        elif found != self._settling:
            self._settling, self._looks = found, 1
        else:
            self._looks += 1
            missing = any(state is None for _, state in found)
            if self._looks >= (MISSING_LOOKS if missing else 2):
                await self._read(asked=False)

    async def _read(self, *, asked: bool) -> None:
        """Read until no file changed meanwhile; files that a pack names become known only by reading."""
        for _ in range(MAX_READS):
            before = await asyncio.to_thread(signature, self._files)
            files: set[Path] = set()
            loaded, error = await self._try(files)
            if loaded is None:
                files |= self._files  # what is away now may come back
            after = await asyncio.to_thread(signature, files)
            settled, self._files = files == self._files and after == before, files
            if settled:
                break
        else:
            return  # somebody is writing all the time: look again
        first, self._taken, self._settling = self._taken is None, after, None
        if loaded is None:
            self._refuse(error)
        elif asked or not first or (loaded.pack.version, loaded.config) != self._begun:
            try:
                self._take(loaded)
            except Exception as exc:
                _log.exception("settings could not be taken")
                self._refuse(f"internal fault while taking the settings: {type(exc).__name__}; restart to be sure")

    async def _try(self, files: set[Path]) -> tuple[Loaded | None, str]:
        try:
            loaded = await asyncio.to_thread(_without_collecting, load_whole, self._source, files)
            if loaded.config == Config() != self._last:
                # Cut off at its beginning, an honest file reads as "everything at its default": full mode, no PBX.
                return None, f"{self._source.path}: holds no setting; taken for half-written (a restart would take it)"
            return loaded, ""
        except ConfigError as exc:
            return None, str(exc)
        except Exception as exc:
            _log.exception("settings could not be read")
            return None, f"internal fault while reading the settings: {type(exc).__name__}"

    def _take(self, loaded: Loaded) -> None:
        applied = self._apply(loaded)
        self._last = loaded.config
        gc.freeze()  # a pack is some ten thousand objects; left among the young, a collection would stall the loop
        was_refused = self.status.error is not None
        self.status = ConfigStatus(clock.wall_iso(), loaded.pack.version, None, applied.restart)
        self._metrics.config_reload(clock.wall_s(), restart_wanted=len(applied.restart))
        _log.info(
            "settings taken",
            pack=loaded.pack.version,
            keys=",".join(applied.taken),
            live_calls_took=applied.calls_took,
            live_calls_kept_theirs=applied.calls_kept,
            mended=was_refused,
        )
        if applied.restart:
            _log.warning(
                "settings wait for a restart", detail=f"not applied until a restart: {', '.join(applied.restart)}"
            )

    def _refuse(self, error: str) -> None:
        known = self.status.error
        if known is None or known.error != error:
            self.status.error = ConfigFault(error, clock.wall_iso())
            _log.error("settings on disk refused; those in force stay", error=error)
        self._metrics.config_refused()


def _without_collecting(work: Callable[..., Loaded], *args: Any) -> Loaded:
    """Parsing makes very many objects that stay; collecting among them meanwhile would only hold up the loop."""
    gc.disable()
    try:
        return work(*args)
    finally:
        gc.enable()
