"""The notes of live calls' ladders in the journal's database: one row a live call, replaced at each change.

A thread of its own, because a note cannot wait for company as the journal's rows do: it is committed as soon as the
database takes it. While it cannot (locked, full, gone), the newest note of each call waits in memory and is tried
again. Rows of calls that ended unseen (Firmline was down) are removed by age.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import Any

import sqlalchemy as sa
import structlog

from ivr import clock
from ivr.database import Database, reason
from ivr.errors import StoreError
from ivr.memory import MAX_AGE_MS, Note

log = structlog.get_logger("firmline.memory")

RETRY_MS = 500
PRUNE_EVERY_MS = 3_600_000
MAX_WAITING = 10_000
"""Calls whose note waits for the database; more than any node carries."""
STOP_S = 1.0
_BROKEN = (sa.exc.SQLAlchemyError, sqlite3.Error, OSError, StoreError)

Row = dict[str, Any]


class LadderStore:
    """A :class:`ivr.memory.Keeper` over the journal's database; the journal, opened first, brings the schema."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wake = threading.Condition()
        self._waiting: dict[str, Row | None] = {}
        """``None``: to be deleted."""
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._problem = ""
        self._next_prune_ms = 0

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="ladders", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, for at most a second."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(STOP_S)

    def keep(self, call_ref: str, note: Note) -> None:
        """See :class:`ivr.memory.Keeper`."""
        self._put(call_ref, {"call_ref": call_ref, "wall_ms": note.wall_ms, "note": note.to_text()})

    def forget(self, call_ref: str) -> None:
        """See :class:`ivr.memory.Keeper`."""
        self._put(call_ref, None)

    async def recall(self, call_ref: str) -> str | None:
        """See :class:`ivr.memory.Keeper`.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._wake:
            if call_ref in self._waiting:
                row = self._waiting[call_ref]
                return None if row is None else str(row["note"])
        return await asyncio.to_thread(self._database.ladder, call_ref)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until nothing waits; for tests and benches."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._waiting, timeout_s)

    def _put(self, call_ref: str, row: Row | None) -> None:
        with self._wake:
            self._waiting.pop(call_ref, None)
            if len(self._waiting) >= MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
            self._waiting[call_ref] = row
            self._wake.notify_all()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._stopping, PRUNE_EVERY_MS / 1000)
                batch = dict(self._waiting)
                if not batch and self._stopping:
                    return
            written = self._write(batch)
            with self._wake:
                if written:
                    for ref, row in batch.items():
                        if self._waiting.get(ref, ...) is row:  # else it was replaced meanwhile
                            del self._waiting[ref]
                    self._wake.notify_all()
                elif self._stopping:
                    log.error("ladders of live calls could not be kept", calls=len(batch), error=self._problem)
                    return
                else:
                    self._wake.wait_for(lambda: self._stopping, RETRY_MS / 1000)

    def _write(self, batch: dict[str, Row | None]) -> bool:
        """Whether it is committed. Never raises: the thread must outlive anything."""
        try:
            over = [ref for ref, row in batch.items() if row is None]
            self._database.keep_ladders([row for row in batch.values() if row is not None], over)
            if clock.monotonic_ms() >= self._next_prune_ms:
                self._next_prune_ms = clock.monotonic_ms() + PRUNE_EVERY_MS
                self._database.prune_ladders(round(clock.wall_s() * 1000) - MAX_AGE_MS)
        except Exception as exc:
            problem = reason(exc) if isinstance(exc, _BROKEN) else f"{type(exc).__name__}"
            if problem != self._problem:
                log.error("ladders of live calls cannot be kept now; tried again", error=problem)
            self._problem = problem
            return False
        self._problem = ""
        return True
