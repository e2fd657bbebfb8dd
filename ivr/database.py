"""The journal's database: opening, migrating, putting a broken file aside, inserting and reading.

Knows SQL and nothing of threads or queues; ``ivr.store`` decides when. Everything but the SQLite-only parts
(pragmas, putting a file aside) is portable to PostgreSQL. Statement parameters are never put into error texts: they
hold words.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.pool import NullPool

import ivr.migrations
from ivr.errors import StoreError
from ivr.types import JournalEvent

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

SCHEMA = "0003"
"""The newest of ``ivr.migrations``. A file of this schema is opened without Alembic, whose import alone takes longer
than a PBX needs to connect a call."""
BUSY_TIMEOUT_MS = 250
"""How long one statement waits for another process's lock; after that the rows spill and are tried again."""
QUICK_CHECK_MAX_BYTES = 256_000_000
"""Above this a check of the whole file would hold up the start for longer than it is worth."""

_META = sa.MetaData()
CALLS = sa.Table(
    "calls",
    _META,
    sa.Column("id", sa.String(255), primary_key=True),
    sa.Column("call_ref", sa.String(255)),
    sa.Column("agent_ext", sa.String(64)),
    sa.Column("pack", sa.String(255)),
    sa.Column("mode", sa.String(32)),
    sa.Column("started_at", sa.String(40), nullable=False),
    sa.Column("ended_at", sa.String(40)),
    sa.Column("duration_ms", sa.BigInteger),
    sa.Column("why", sa.Text),
)
EVENTS = sa.Table(
    "events",
    _META,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("uid", sa.String(64), nullable=False, unique=True),
    sa.Column("call_id", sa.String(255), nullable=False),
    sa.Column("event", sa.String(32), nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("t_ms", sa.BigInteger, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
)

LADDERS = sa.Table(
    "ladders",
    _META,
    sa.Column("call_ref", sa.String(255), primary_key=True),
    sa.Column("wall_ms", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
)
"""Live calls only: see ``ivr.ladders``."""


def sqlite_path(url: str) -> Path:
    """The file that ``url`` names: a plain path, or ``sqlite:///path`` (four slashes for an absolute one).

    Raises:
        StoreError: another kind of database, or one in memory.
    """
    if "://" not in url:
        return Path(url)
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as exc:
        raise StoreError(f"journal: cannot read {url!r}; give a file path or sqlite:///path") from exc
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        shown = parsed.render_as_string(hide_password=True)
        raise StoreError(f"journal: {shown!r} is not supported; give a file path or sqlite:///path")
    return Path(parsed.database)


class Database:
    """One open journal file. Used by one thread at a time, except ``reading``, which opens its own connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        url = sa.URL.create("sqlite+pysqlite", database=str(path))
        connect_args = {"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False}
        self._engine = sa.create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=connect_args)
        sa.event.listen(self._engine, "connect", _set_pragmas)
        self._writer: sa.Connection | None = None
        self._inode: tuple[int, int] | None = None

    def open(self) -> None:
        """Create or migrate the file and keep one connection for writing.

        Raises:
            StoreError: written by a newer Firmline.
            sa.exc.SQLAlchemyError, OSError: it cannot be opened now; ``is_corrupt`` tells whether for good.
        """
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Words of callers are in there: for this user alone. The WAL takes over the mode of the file.
        with contextlib.suppress(PermissionError):
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = self._engine.connect()
        try:
            self._check(connection)
            _migrate(connection, self.path)
        except BaseException:
            connection.close()
            raise
        self._writer = connection
        self._inode = self._identity()

    def insert(self, records: list[dict[str, Any]]) -> None:
        """Commit ``records`` in one transaction; a row whose ``uid`` is there already is left as it is.

        Raises:
            sa.exc.SQLAlchemyError, OSError: nothing was written.
        """
        if self._writer is None or self._identity() != self._inode:
            # Deleted or replaced under us: SQLite would go on writing into a file that nobody can open any more.
            self.open()
        assert self._writer is not None
        with self._writer.begin():
            self._writer.execute(self.insert_once(EVENTS, "uid"), records)
            self._writer.execute(self.insert_once(CALLS, "id"), _call_rows(records))
            for record in records:
                if update := _call_update(record):
                    self._writer.execute(sa.update(CALLS).where(CALLS.c.id == record["call_id"]).values(update))

    def prune(self, before_iso: str) -> int:
        """Delete events older than ``before_iso`` and calls left without any; returns the number of events deleted.

        On a connection of its own: safe beside the writer.

        Raises:
            sa.exc.SQLAlchemyError: nothing was deleted.
        """
        with self._engine.begin() as connection:
            deleted = connection.execute(sa.delete(EVENTS).where(EVENTS.c.at < before_iso)).rowcount
            has_events = sa.exists().where(EVENTS.c.call_id == CALLS.c.id)
            connection.execute(sa.delete(CALLS).where(CALLS.c.started_at < before_iso, ~has_events))
        return deleted

    def keep_ladders(self, rows: list[dict[str, Any]], over: list[str]) -> None:
        """Replace the notes of live calls and delete those of calls that are over; in one transaction.

        On a connection of its own, as ``prune``.

        Raises:
            StoreError, sa.exc.SQLAlchemyError: nothing was written.
        """
        if not self.path.exists():  # SQLite would begin an empty file without a schema
            raise StoreError(f"journal: {self.path} is missing")
        with self._engine.begin() as connection:
            if rows:
                connection.execute(self._upsert(LADDERS, "call_ref"), rows)
            if over:
                connection.execute(sa.delete(LADDERS).where(LADDERS.c.call_ref.in_(over)))

    def prune_ladders(self, before_wall_ms: int) -> None:
        """Delete notes that were written before.

        Raises:
            sa.exc.SQLAlchemyError: nothing was deleted.
        """
        with self._engine.begin() as connection:
            connection.execute(sa.delete(LADDERS).where(LADDERS.c.wall_ms < before_wall_ms))

    def ladder(self, call_ref: str) -> str | None:
        """The note of a live call.

        Raises:
            StoreError: the file is missing or cannot be read.
        """
        with self.reading() as connection:
            found = connection.execute(sa.select(LADDERS.c.note).where(LADDERS.c.call_ref == call_ref)).scalar()
        return None if found is None else str(found)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection of its own, for one reader on any thread.

        Raises:
            StoreError: the file is missing or cannot be read.
        """
        if not self.path.exists():
            raise StoreError(f"journal: {self.path} is missing")
        try:
            with self._engine.connect() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as exc:
            raise StoreError(f"journal: cannot read {self.path}: {reason(exc)}") from exc

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A connection of its own in one transaction: safe beside the writer, for what is not the journal's rows.

        Raises:
            sa.exc.SQLAlchemyError, OSError: nothing was written.
        """
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} is missing")
        with self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close the writing connection; never raises."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                writer.close()

    def dispose(self) -> None:
        """Close everything for good; never raises."""
        self.close()
        self._engine.dispose()

    def put_aside(self, stamp: str) -> Path:
        """Move a broken file and its WAL out of the way, keeping it for whoever wants to repair it."""
        self.close()
        target = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        self.path.rename(target)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(OSError):
                self.path.with_name(self.path.name + suffix).rename(target.with_name(target.name + suffix))
        return target

    def _check(self, connection: sa.Connection) -> None:
        if self.path.stat().st_size <= QUICK_CHECK_MAX_BYTES:
            answer = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if answer != "ok":
                raise sa.exc.DatabaseError("quick_check", None, sqlite3.DatabaseError(f"malformed: {answer}"))
        connection.rollback()

    def _identity(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_dev, found.st_ino

    def insert_once(self, table: sa.Table, key: str) -> sa.Insert:
        """An insert that leaves a row whose ``key`` is there already as it is: harmless to repeat."""
        if self._engine.dialect.name == "postgresql":
            from sqlalchemy.dialects import postgresql

            return postgresql.insert(table).on_conflict_do_nothing(index_elements=[key])
        return sqlite.insert(table).on_conflict_do_nothing(index_elements=[key])

    def _upsert(self, table: sa.Table, key: str) -> sa.Insert:
        if self._engine.dialect.name == "postgresql":
            from sqlalchemy.dialects import postgresql

            return self._replacing(postgresql.insert(table), table, key)
        return self._replacing(sqlite.insert(table), table, key)

    @staticmethod
    def _replacing(statement: postgresql.Insert | sqlite.Insert, table: sa.Table, key: str) -> sa.Insert:
        others = {c.name: statement.excluded[c.name] for c in table.c if c.name != key}
        return statement.on_conflict_do_update(index_elements=[key], set_=others)


def reason(exc: BaseException) -> str:
    """The driver's own words on one line, without statement or parameters."""
    inner = exc.orig if isinstance(exc, sa.exc.DBAPIError) and exc.orig is not None else exc
    return " ".join(str(inner).split())[:300] or type(inner).__name__


def is_corrupt(exc: BaseException) -> bool:
    """Whether the file itself is broken, as opposed to locked, full, read-only or gone."""
    text = reason(exc)
    return any(sign in text for sign in ("malformed", "not a database", "file is encrypted"))


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    # With WAL, NORMAL loses nothing when only the process dies; a power cut may cost the last checkpoint's tail.
    connection.execute("PRAGMA synchronous=NORMAL")


def _migrate(connection: sa.Connection, path: Path) -> None:
    current = _revision(connection)
    if current == SCHEMA:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(ivr.migrations.__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as exc:
        raise StoreError(
            f"journal: {path} was written by a newer Firmline (schema {current}; this one knows up to {SCHEMA}): "
            "upgrade Firmline, or set journal.path to another file"
        ) from exc
    connection.commit()


def _revision(connection: sa.Connection) -> str | None:
    known = sa.inspect(connection).has_table("alembic_version")
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() if known else None
    connection.rollback()
    return None if found is None else str(found)


def _call_rows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first: dict[str, dict[str, Any]] = {}
    for record in records:
        first.setdefault(record["call_id"], {"id": record["call_id"], "started_at": record["at"]})
    return list(first.values())


def _call_update(record: dict[str, Any]) -> dict[str, Any] | None:
    data = record["data"]
    if record["event"] == JournalEvent.CALL_STARTED:
        kept = {key: _short(data.get(key)) for key in ("call_ref", "pack", "mode")}
        agent = _short(data.get("agent_ext") or data.get("agent"))
        return {**kept, "agent_ext": agent and agent[:64], "started_at": record["at"]}
    if record["event"] == JournalEvent.CALL_ENDED:
        return {"ended_at": record["at"], "duration_ms": record["t_ms"], "why": _short(data.get("why"))}
    return None


def _short(value: object) -> str | None:
    return None if value is None else str(value)[:255]
