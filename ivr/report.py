"""``firmline report``: what callers did and what was done about it, by day, week, month or queue, from the journal.

Counts callers' conduct and our steps. It never counts by agent, and there is no option for it: who was shouted at says
nothing about how they work. Entries beyond the retention are left out even where they were not deleted yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Literal

import sqlalchemy as sa

from ivr.database import CALLS, EVENTS, Database
from ivr.incidents import CallStory
from ivr.types import JournalEvent, JournalRow

By = Literal["day", "week", "month", "queue"]
NO_QUEUE = "(no queue)"
_TOLD = (
    JournalEvent.CALL_STARTED,
    JournalEvent.STRIKE,
    JournalEvent.RUNG,
    JournalEvent.SIGNAL,
    JournalEvent.HOTKEY,
    JournalEvent.ACTION_DONE,
    JournalEvent.ACTION_FAILED,
)
_PAGE = 2_000


@dataclass(slots=True)
class Line:
    """One line of the report. ``per_1000``: incidents per 1,000 calls."""

    period: str
    calls: int = 0
    incidents: int = 0
    cautioned: int = 0
    warned: int = 0
    ended: int = 0
    pardoned: int = 0
    safeguard: int = 0
    failed: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    """Calls by what was said in them; ``key`` = a person pressed warn."""
    conduct: Counter[str] = field(default_factory=Counter)

    def add(self, story: CallStory) -> None:
        """Count one call."""
        self.calls += 1
        self.incidents += story.is_incident
        self.cautioned += story.highest == "cautioned"
        self.warned += story.warnings > 0
        self.ended += story.ended_by is not None
        self.pardoned += story.pardons > 0
        self.safeguard += story.safeguard
        self.failed += story.failed > 0
        self.categories.update(story.strikes.keys())
        self.conduct.update(story.conduct.keys())

    @property
    def per_1000(self) -> float:
        """Incidents per 1,000 calls."""
        return round(1000 * self.incidents / self.calls, 1) if self.calls else 0.0

    def as_json(self) -> dict[str, Any]:
        """Flat but for the two counts by name."""
        plain = ("calls", "incidents", "cautioned", "warned", "ended", "pardoned", "safeguard", "failed")
        return {
            "period": self.period,
            **{name: getattr(self, name) for name in plain},
            "incidents_per_1000_calls": self.per_1000,
            "categories": dict(sorted(self.categories.items())),
            "conduct": dict(sorted(self.conduct.items())),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """``lines`` in order of period; ``before`` is the span of equal length before, for the trend."""

    since: datetime
    until: datetime
    lines: tuple[Line, ...]
    total: Line
    before: Line

    def trend(self) -> str:
        """One sentence on this span against the one before."""
        now, then = self.total.per_1000, self.before.per_1000
        if not self.before.calls:
            return "nothing to compare with: no calls in the span before"
        return f"incidents per 1,000 calls: {now:g}, before that {then:g} ({self.before.calls} calls)"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "since": self.since.isoformat(timespec="seconds"),
            "until": self.until.isoformat(timespec="seconds"),
            "lines": [line.as_json() for line in self.lines],
            "total": self.total.as_json(),
            "before": self.before.as_json(),
        }


def make_report(
    database: Database, *, days: int, by: By, until: datetime, retention_days: int = 0, zone: tzinfo | None = None
) -> Report:
    """Read ``days`` days up to ``until`` (aware); periods are cut in ``zone`` (default: this machine's).

    Raises:
        StoreError: the journal cannot be read.
    """
    oldest = until - timedelta(days=retention_days) if retention_days else datetime.min.replace(tzinfo=UTC)
    since = max(until - timedelta(days=days), oldest)
    lines: dict[str, Line] = {}
    if by != "queue":
        lines = {name: Line(name) for name in _periods(since.astimezone(zone), until.astimezone(zone), by)}
    total, before = Line("total"), Line("before")
    for story in _stories(database, max(since - timedelta(days=days), oldest), until):
        started = datetime.fromisoformat(story.started_at or "")
        if started < since:
            before.add(story)
            continue
        name = story.queue or NO_QUEUE if by == "queue" else _period(started.astimezone(zone), by)
        lines.setdefault(name, Line(name)).add(story)
        total.add(story)
    return Report(since, until, tuple(lines[name] for name in sorted(lines)), total, before)


def _period(at: datetime, by: By) -> str:
    if by == "week":
        year, week, _ = at.isocalendar()
        return f"{year}-W{week:02d}"
    return at.strftime("%Y-%m-%d" if by == "day" else "%Y-%m")


def _periods(since: datetime, until: datetime, by: By) -> Iterable[str]:
    """Every period in the span, so that a quiet day stands there with zeros."""
    days = (until.date() - since.date()).days
    return dict.fromkeys(_period(since + timedelta(days=n), by) for n in range(days + 1))


def _stories(database: Database, since: datetime, until: datetime) -> Iterator[CallStory]:
    """Calls that began in the span, told from their notable rows; one at a time, however long the journal is."""
    first, last = (each.astimezone(UTC).isoformat(timespec="milliseconds") for each in (since, until))
    begun = sa.select(CALLS.c.id, CALLS.c.started_at).where(CALLS.c.started_at >= first, CALLS.c.started_at <= last)
    with database.reading() as connection:
        calls = connection.execute(begun.order_by(CALLS.c.started_at, CALLS.c.id)).all()
        for start in range(0, len(calls), _PAGE):
            page = {call_id: CallStory(call_id, started_at=at) for call_id, at in calls[start : start + _PAGE]}
            yield from _told(connection, page)


def _told(connection: sa.Connection, stories: dict[str, CallStory]) -> Iterable[CallStory]:
    wanted = [event.value for event in _TOLD]
    ids = list(stories)
    for start in range(0, len(ids), 500):  # SQLite takes some thousand parameters at most
        rows = (
            sa.select(EVENTS)
            .where(EVENTS.c.call_id.in_(ids[start : start + 500]), EVENTS.c.event.in_(wanted))
            .order_by(EVENTS.c.id)
        )
        for row in connection.execute(rows).mappings():
            stories[row["call_id"]].hear(
                JournalRow(row["call_id"], JournalEvent(row["event"]), row["at"], row["t_ms"], row["data"])
            )
    return stories.values()
