"""The journal: what happened in every call, kept without ever touching a call.

``write`` only cleans a row and puts it into a bounded queue. One writer thread owns the database and the spill: it
commits at least every 200 ms, so that a killed process loses less than the last second, and when the database cannot
take rows (locked, full, read-only, gone) it keeps them in ``ivr.spill`` and tries again once a second. A broken file is
put aside under a new name and a new one begun. Nothing but ``start`` raises.

    queue ──► writer thread ──► database
                   │    ▲
                   ▼    │ replay, oldest first
                  spill (file, then memory)
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
import structlog

from ivr import clock
from ivr.database import CALLS, EVENTS, Database, is_corrupt, reason, sqlite_path
from ivr.errors import StoreError
from ivr.mask import clean, mask_digits, printable
from ivr.spill import Record, Spill
from ivr.types import JournalEvent, JournalRow

__all__ = ["Journal", "mask_digits"]

COMMIT_MS = 200
"""Longest that a row waits for company before it is committed."""
RETRY_MS = 1_000
"""How often a database that failed is tried again."""
BATCH_ROWS = 500
PRUNE_EVERY_MS = 3_600_000
STOP_S = 2.0

_log = structlog.get_logger("firmline.journal")
_BROKEN = (sa.exc.SQLAlchemyError, sqlite3.Error, OSError)
_INT64 = 2**63 - 1


class Journal:
    """Writes and reads journal rows.

    ``url`` is a file path or ``sqlite:///path``. Words are stored with numbers masked, or not at all when
    ``store_words`` is false. With ``retention_s``, older rows are deleted at start and every hour.
    """

    def __init__(
        self,
        url: str,
        *,
        store_words: bool = True,
        retention_s: int | None = None,
        max_queue: int = 10_000,
        max_spill_bytes: int = 64_000_000,
        max_spill_memory: int = 20_000,
    ) -> None:
        path = sqlite_path(url)
        self._database = Database(path)
        self._spill_path = path.with_name(path.name + ".spill.jsonl")
        self._spill_limits = (max_spill_bytes, max_spill_memory)
        self._spill = Spill(None)
        self._store_words = store_words
        self._retention_s = retention_s
        self._max_queue = max_queue
        self._queue: deque[Record] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._urgent = False
        self._busy = False
        self._overflowed = 0
        self._boot, self._sequence = uuid.uuid4().hex, 0
        self._problem: str | None = "the journal has not been started"
        self._next_try_ms = 0
        self._next_prune_ms = 0

    # --- lifecycle ---

    def start(self) -> None:
        """Open the journal and start the writer. A database that is only locked or full now is not an error.

        Raises:
            StoreError: written by a newer Firmline, or the path cannot ever hold a file.
        """
        path = self._database.path
        if path.is_dir():
            raise StoreError(f"journal: {path} is a directory; set journal.path to a file")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as exc:
            raise StoreError(f"journal: {path.parent} is not a directory; set journal.path elsewhere") from exc
        except OSError as exc:
            self._failed(exc)
        max_bytes, max_memory = self._spill_limits
        self._spill = Spill(self._spill_path, max_bytes=max_bytes, max_memory=max_memory)
        if self._spill.rows or self._spill.unreadable:
            _log.info("journal spill found", rows=self._spill.rows, unreadable=self._spill.unreadable)
        try:
            self._open()
        except StoreError:
            self._database.dispose()
            raise
        except _BROKEN as exc:
            self._failed(exc)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is queued, for at most two seconds, and close. Never raises; may be called twice."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(STOP_S)
            if thread.is_alive():
                _log.error("journal writer did not stop", waiting=len(self._queue))

    # --- writing ---

    def write(self, row: JournalRow) -> None:
        """Queue one row. Never blocks on storage and never raises; safe from any thread."""
        try:
            record = self._record(row)
        except Exception as exc:  # whatever a caller put into ``data``, a call goes on
            _log.error("journal row refused", error=type(exc).__name__)
            with self._wake:
                self._overflowed += 1
            return
        with self._wake:
            if len(self._queue) >= self._max_queue:
                self._overflowed += 1
                return
            self._sequence += 1
            record["uid"] = f"{self._boot}-{self._sequence}"
            self._queue.append(record)
            if len(self._queue) == 1 or len(self._queue) >= BATCH_ROWS:
                self._wake.notify_all()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything queued so far is in the database or in the spill; false when that took too long."""
        with self._wake:
            if self._thread is None:
                return not self._queue
            self._urgent = True
            self._wake.notify_all()
            return self._wake.wait_for(lambda: not self._queue and not self._busy, timeout_s)

    def health(self) -> tuple[bool, str]:
        """Whether rows reach the database, and one sentence on it with what waits and what was lost."""
        waiting, lost = self.spilled, self.dropped
        notes = [f"{waiting} rows wait" if waiting else "", f"{lost} rows were dropped" if lost else ""]
        tail = "".join(f"; {note}" for note in notes if note)
        if self._problem is not None:
            return False, f"journal {self._database.path}: {self._problem}{tail}"
        return True, f"journal {self._database.path} is being written{tail}"

    @property
    def dropped(self) -> int:
        """Rows lost since the start, for want of any place to keep them."""
        return self._overflowed + self._spill.dropped

    @property
    def spilled(self) -> int:
        """Rows that wait for the database outside the queue."""
        return self._spill.rows

    def prune(self, older_than_s: int) -> int:
        """Delete events older than ``older_than_s`` seconds and calls left without any; returns the events deleted.

        Raises:
            StoreError: the database cannot be written now.
        """
        before = (datetime.fromtimestamp(clock.wall_s(), UTC) - timedelta(seconds=older_than_s)).isoformat(
            timespec="milliseconds"
        )
        try:
            return self._database.prune(before)
        except _BROKEN as exc:
            raise StoreError(f"journal: cannot delete old rows: {reason(exc)}") from exc

    # --- reading ---

    @property
    def database(self) -> Database:
        """The file itself, for readers and for tables of others; the journal alone writes its rows."""
        return self._database

    def events(self, call_id: str) -> list[JournalRow]:
        """The rows of one call in the order written.

        Raises:
            StoreError: the database cannot be read.
        """
        query = sa.select(EVENTS).where(EVENTS.c.call_id == call_id).order_by(EVENTS.c.id)
        with self._database.reading() as connection:
            found = connection.execute(query).mappings().all()
        return [JournalRow(r["call_id"], JournalEvent(r["event"]), r["at"], r["t_ms"], r["data"]) for r in found]

    def calls(self, limit: int = 100) -> list[Mapping[str, Any]]:
        """The newest calls first: id, call_ref, agent_ext, pack, mode, started_at, ended_at, duration_ms, why.

        Raises:
            StoreError: the database cannot be read.
        """
        query = sa.select(CALLS).order_by(CALLS.c.started_at.desc(), CALLS.c.id).limit(limit)
        with self._database.reading() as connection:
            return [dict(r) for r in connection.execute(query).mappings()]

    # --- the writer thread ---

    def _record(self, row: JournalRow) -> Record:
        return {
            "uid": "",
            "call_id": printable(str(row.call_id)[:255]),
            "event": JournalEvent(row.event).value,
            "at": printable(str(row.at)[:40]),
            "t_ms": max(-_INT64, min(_INT64, int(row.t_ms))),
            "data": clean(row.data, store_words=self._store_words),
        }

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._deliver(batch)
                with self._wake:
                    self._busy = False
                    self._wake.notify_all()
        finally:
            self._spill.close()
            self._database.dispose()

    def _next_batch(self) -> list[Record] | None:
        """Wait for rows, then for company up to ``COMMIT_MS``; ``None`` when stopping and everything is out."""
        with self._wake:
            self._wake.wait_for(lambda: self._queue or self._stopping, RETRY_MS / 1000)
            if self._queue:
                self._wake.wait_for(self._hurry, COMMIT_MS / 1000)
            elif self._stopping:
                return None
            self._urgent = False
            batch = [self._queue.popleft() for _ in range(min(BATCH_ROWS, len(self._queue)))]
            self._busy = bool(batch)
            return batch

    def _hurry(self) -> bool:
        return self._stopping or self._urgent or len(self._queue) >= BATCH_ROWS

    def _deliver(self, batch: list[Record]) -> None:
        """Put ``batch`` into the database behind everything that waits, or into the spill. Never raises."""
        try:
            now_ms = clock.monotonic_ms()
            if (self._problem or self._spill) and now_ms < self._next_try_ms:
                self._spill.add(batch)
                return
            self._replay()
            if batch:
                self._insert(batch)
                batch = []
            self._recovered()
            self._prune_when_due(now_ms)
        except Exception as exc:  # the thread must outlive anything: with it gone every later row would be lost
            self._spill.add(batch)
            self._failed(exc)

    def _replay(self) -> None:
        if not self._spill and self._problem is None:
            return
        if self._problem is not None:
            self._open()
        while waiting := self._spill.peek(BATCH_ROWS):
            self._insert(waiting)
            self._spill.taken(len(waiting))
        self._spill.tidy()

    def _insert(self, records: list[Record]) -> None:
        try:
            self._database.insert(records)
        except (sa.exc.OperationalError, OSError, StoreError):
            raise
        except Exception as exc:
            if is_corrupt(exc):
                self._begin_anew(exc)
                self._database.insert(records)
            elif len(records) == 1:
                _log.error("journal row refused by the database", error=type(exc).__name__)
                self._overflowed += 1
            else:
                # One row that no database can hold must not hold up all the others for ever.
                for record in records:
                    self._insert([record])

    def _open(self) -> None:
        try:
            self._database.open()
        except (sa.exc.DatabaseError, sqlite3.DatabaseError) as exc:
            if not is_corrupt(exc):
                raise
            self._begin_anew(exc)
        self._recovered()

    def _begin_anew(self, exc: BaseException) -> None:
        aside = self._database.put_aside(datetime.fromtimestamp(clock.wall_s(), UTC).strftime("%Y%m%dT%H%M%S%fZ"))
        _log.error("journal file is broken; kept aside, a new one begun", error=reason(exc), kept_as=str(aside))
        self._database.open()

    def _failed(self, exc: BaseException) -> None:
        problem = str(exc) if isinstance(exc, StoreError) else f"cannot be written now ({reason(exc)})"
        if problem != self._problem:
            _log.error("journal cannot be written; rows are kept aside and tried again", error=problem)
        self._problem = problem
        self._next_try_ms = clock.monotonic_ms() + RETRY_MS

    def _recovered(self) -> None:
        if self._problem is not None and self._thread is not None:
            _log.info("journal is being written again")
        self._problem = None

    def _prune_when_due(self, now_ms: int) -> None:
        if self._retention_s is None or now_ms < self._next_prune_ms:
            return
        self._next_prune_ms = now_ms + PRUNE_EVERY_MS
        self.prune(self._retention_s)
