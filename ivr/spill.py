"""Where journal rows wait while the database cannot take them: a bounded file, then bounded memory.

Owned by the journal's writer thread; never used from the loop. Rows keep their order: once a row had to go to memory,
later ones follow it there, and replay reads the file first. When everything is full the *newest* rows are dropped and
counted: how an incident began is worth more than its repetitions.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""One journal row as plain JSON-able data."""


class Spill:
    """A queue of records that survives this process when its file can be written.

    ``path`` None keeps everything in memory. A file found at start holds what the previous process could not deliver.
    """

    def __init__(self, path: Path | None, *, max_bytes: int = 64_000_000, max_memory: int = 20_000) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_memory = max_memory
        self._memory: deque[Record] = deque()
        self._offset = 0
        self._ahead: tuple[int, int] = (0, 0)
        self._torn_tail = False
        self.dropped = 0
        self.unreadable = 0
        self.rows = self._count()

    def __bool__(self) -> bool:
        return self.rows > 0

    def add(self, records: list[Record]) -> None:
        """Keep ``records``: in the file, else in memory, else counted as dropped. Never raises."""
        if not self._memory and self._append(records):
            self.rows += len(records)
            return
        room = max(0, self._max_memory - len(self._memory))
        self._memory.extend(records[:room])
        self.rows += min(room, len(records))
        self.dropped += max(0, len(records) - room)

    def peek(self, limit: int) -> list[Record]:
        """The oldest records still waiting, at most ``limit``; they stay until ``taken``.

        Raises:
            OSError: the file is there and cannot be read now.
        """
        out, end = self._read(limit)
        self._ahead = (len(out), end)
        return out or [self._memory[i] for i in range(min(limit, len(self._memory)))]

    def taken(self, count: int) -> None:
        """The ``count`` records that ``peek`` gave are safe in the database."""
        from_file, end = self._ahead
        self.rows -= count
        if not from_file:
            for _ in range(count):
                self._memory.popleft()
            return
        self._offset, self._ahead = end, (0, 0)

    def close(self) -> None:
        """Remove the file if nothing waits in it. What memory still holds goes to the file if that is possible now."""
        waiting, self._memory = list(self._memory), deque()
        if waiting and not self._append(waiting):
            self.dropped += len(waiting)
            self.rows -= len(waiting)
        self.tidy()

    def tidy(self) -> None:
        """Remove the file once all of it was delivered."""
        if self._path is None or self.rows > len(self._memory):
            return
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._offset, self._ahead, self._torn_tail = 0, (0, 0), False

    def _append(self, records: list[Record]) -> bool:
        if self._path is None:
            return False
        # A torn last line (killed or disk full mid-write) must not swallow the first line of this batch.
        lines = ("\n" if self._torn_tail else "") + "".join(json.dumps(r, allow_nan=False) + "\n" for r in records)
        payload = lines.encode()
        size = 0
        try:
            with open(self._path, "ab", opener=_private) as out:
                size = out.tell()
                if size + len(payload) > self._max_bytes:
                    return False
                out.write(payload)
        except OSError:
            self._truncate(size)
            return False
        self._torn_tail = False
        return True

    def _truncate(self, size: int) -> None:
        """Undo a half-written batch, so that its rows are not delivered twice."""
        assert self._path is not None
        try:
            with self._path.open("r+b") as out:
                out.truncate(size)
        except (FileNotFoundError, NotADirectoryError):
            self._torn_tail = False
        except OSError:
            self._torn_tail = True

    def _read(self, limit: int) -> tuple[list[Record], int]:
        if self._path is None:
            return [], 0
        out: list[Record] = []
        offset = self._offset
        try:
            with self._path.open("rb") as lines:
                lines.seek(offset)
                while len(out) < limit and (line := lines.readline()):
                    offset += len(line)
                    if (record := _parse(line)) is not None:
                        out.append(record)
        except (FileNotFoundError, NotADirectoryError):
            # The file was removed under us: what it held is lost, and said so, rather than waited for.
            lost = self.rows - len(self._memory)
            self.dropped += lost
            self.rows -= lost
            return [], 0
        if not out:
            self.rows = len(self._memory)
        return out, offset

    def _count(self) -> int:
        """Rows left by an earlier process; a torn or foreign line is counted as unreadable and skipped."""
        if self._path is None:
            return 0
        good = 0
        line = b"\n"
        try:
            with self._path.open("rb") as lines:
                for line in lines:
                    if _parse(line) is None:
                        self.unreadable += bool(line.strip())
                    else:
                        good += 1
        except OSError:
            return 0
        self._torn_tail = not line.endswith(b"\n")
        return good


_FIELDS = {"uid": str, "call_id": str, "event": str, "at": str, "t_ms": int, "data": dict}


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.keys() != _FIELDS.keys():
        return None
    return record if all(isinstance(record[key], kind) for key, kind in _FIELDS.items()) else None


def _private(path: str, flags: int) -> int:
    """Words of callers are in there: for this user alone."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
