"""Where webhook messages wait for their receiver: a table beside the journal, so that they survive a restart.

Blocking SQL for one thread at a time (``ivr.webhook_sender`` gives it one); knows nothing of HTTP. A message leaves
the table when its receiver took it; one that nobody took within its age becomes a *dead letter*, which stays to be seen
(``firmline webhooks list``) and sent again (``resend``) until it is pruned.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ivr import clock
from ivr.database import Database

DEAD_DAYS = 7
"""Dead letters are kept so long."""
_DAY_MS = 86_400_000

_META = sa.MetaData()
OUTBOX = sa.Table(
    "webhook_outbox",
    _META,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("message_id", sa.String(64), nullable=False, unique=True),
    sa.Column("endpoint", sa.String(40), nullable=False),
    sa.Column("event", sa.String(32), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("next_try_ms", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("urgent", sa.Boolean, nullable=False),
    sa.Column("dead", sa.Boolean, nullable=False),
    sa.Column("error", sa.Text),
)


@dataclass(frozen=True, slots=True)
class Letter:
    """One message for one endpoint. Times are UTC milliseconds since the epoch: they must hold over a restart."""

    endpoint: str
    event: str
    body: str
    created_ms: int
    urgent: bool = False
    attempts: int = 0
    next_try_ms: int = 0
    message_id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    dead: bool = False
    error: str | None = None


_FIELDS = tuple(Letter.__dataclass_fields__)


class Outbox:
    """The letters in one journal file.

    Every method may raise ``sa.exc.SQLAlchemyError``, ``StoreError`` or ``OSError``.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def due_now(self, endpoint: str) -> None:
        """After a start, or at a new address, what waits is worth a try at once."""
        mine = (OUTBOX.c.endpoint == endpoint) & ~OUTBOX.c.dead
        self._change(sa.update(OUTBOX).where(mine).values(next_try_ms=0))

    def waiting(self) -> dict[str, int]:
        """How many wait, by endpoint."""
        counted = sa.select(OUTBOX.c.endpoint, sa.func.count()).where(~OUTBOX.c.dead).group_by(OUTBOX.c.endpoint)
        with self._database.reading() as connection:
            return {str(endpoint): int(count) for endpoint, count in connection.execute(counted)}

    def add(self, letters: Sequence[Letter]) -> None:
        """Keep ``letters``, all or none; harmless to repeat."""
        with self._database.writing() as connection:
            rows = [{key: getattr(each, key) for key in _FIELDS} for each in letters]
            connection.execute(self._database.insert_once(OUTBOX, "message_id"), rows)

    def next_of(self, endpoint: str, now_ms: int) -> Letter | int | None:
        """The letter to send now (urgent ones first, then oldest), else when the next is due, else ``None``."""
        mine = (OUTBOX.c.endpoint == endpoint) & ~OUTBOX.c.dead
        due = (
            sa.select(OUTBOX)
            .where(mine & (OUTBOX.c.next_try_ms <= now_ms))
            .order_by(OUTBOX.c.urgent.desc(), OUTBOX.c.id)
            .limit(1)
        )
        with self._database.reading() as connection:
            if (row := connection.execute(due).mappings().first()) is not None:
                return _letter(row)
            soonest = connection.execute(sa.select(sa.func.min(OUTBOX.c.next_try_ms)).where(mine)).scalar()
            return None if soonest is None else int(soonest)

    def delivered(self, message_id: str) -> None:
        """The receiver took it."""
        self._change(sa.delete(OUTBOX).where(OUTBOX.c.message_id == message_id))

    def again(self, message_id: str, *, attempts: int, next_try_ms: int, error: str) -> None:
        """Not taken this time."""
        values = {"attempts": attempts, "next_try_ms": next_try_ms, "error": error}
        self._change(sa.update(OUTBOX).where(OUTBOX.c.message_id == message_id).values(values))

    def bury(self, message_id: str, *, attempts: int, error: str) -> None:
        """Given up: a dead letter."""
        values = {"attempts": attempts, "error": error, "dead": True}
        self._change(sa.update(OUTBOX).where(OUTBOX.c.message_id == message_id).values(values))

    def prune(self, now_ms: int, max_age_ms: int) -> int:
        """Bury what is too old (of endpoints that are no longer configured, too), forget old dead letters.

        Returns how many were buried.
        """
        with self._database.writing() as connection:
            connection.execute(
                sa.delete(OUTBOX).where(
                    OUTBOX.c.dead & (OUTBOX.c.created_ms < now_ms - max_age_ms - DEAD_DAYS * _DAY_MS)
                )
            )
            old = ~OUTBOX.c.dead & (OUTBOX.c.created_ms < now_ms - max_age_ms)
            why = sa.func.coalesce(OUTBOX.c.error, "no endpoint of that name takes it")
            return connection.execute(sa.update(OUTBOX).where(old).values(dead=True, error=why)).rowcount

    def letters(self, limit: int = 200) -> list[Letter]:
        """What waits and what is dead, oldest first."""
        with self._database.reading() as connection:
            return [
                _letter(row)
                for row in connection.execute(sa.select(OUTBOX).order_by(OUTBOX.c.id).limit(limit)).mappings()
            ]

    def resend(self) -> int:
        """Every dead letter is due again, with its age counted anew; returns how many."""
        fresh = {"dead": False, "attempts": 0, "next_try_ms": 0, "created_ms": int(clock.wall_s() * 1000)}
        with self._database.writing() as connection:
            return connection.execute(sa.update(OUTBOX).where(OUTBOX.c.dead).values(fresh)).rowcount

    def _change(self, statement: Any) -> None:
        with self._database.writing() as connection:
            connection.execute(statement)


def _letter(row: sa.RowMapping) -> Letter:
    return Letter(**{key: row[key] for key in _FIELDS})
