"""A day's incidents out of the journal: what was said, what was done about it, by whom it was stopped."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ivr.database import CALLS, EVENTS, Database
from ivr.incidents import CallStory
from ivr.types import JournalEvent, JournalRow

MAX_INCIDENTS = 500
MAX_ITEMS = 50
"""Words and actions of one call."""
_TELLING = (
    JournalEvent.CALL_STARTED,
    JournalEvent.STRIKE,
    JournalEvent.SIGNAL,
    JournalEvent.RUNG,
    JournalEvent.ACTION_DONE,
    JournalEvent.ACTION_FAILED,
    JournalEvent.HOTKEY,
    JournalEvent.CALL_ENDED,
)


def incidents_of(database: Database, day: date) -> list[dict[str, Any]]:
    """The incidents of calls that began on ``day`` (this machine's time), newest first. Blocks: run it in a thread.

    Raises:
        StoreError: the journal cannot be read.
    """
    began, over = (_midnight(each) for each in (day, day + timedelta(days=1)))
    that_day = (CALLS.c.started_at >= began) & (CALLS.c.started_at < over)
    stepped = sa.select(EVENTS.c.call_id).join(CALLS, CALLS.c.id == EVENTS.c.call_id).where(that_day)
    of_note = stepped.where(EVENTS.c.event.in_([JournalEvent.STRIKE, JournalEvent.RUNG, JournalEvent.HOTKEY]))
    query = (
        sa.select(EVENTS)
        .where(EVENTS.c.call_id.in_(of_note), EVENTS.c.event.in_(_TELLING))
        .order_by(EVENTS.c.call_id, EVENTS.c.id)
    )
    with database.reading() as connection:
        rows = [
            JournalRow(r["call_id"], JournalEvent(r["event"]), r["at"], r["t_ms"], r["data"])
            for r in connection.execute(query).mappings()
        ]
    return told(rows)


def _midnight(day: date) -> str:
    """As journal rows write it, so that texts compare as times do."""
    local = datetime(day.year, day.month, day.day).astimezone()
    return local.astimezone(UTC).isoformat(timespec="milliseconds")


def told(rows: Iterable[JournalRow]) -> list[dict[str, Any]]:
    """Calls that were incidents among ``rows`` (in order within a call), newest first."""
    calls: dict[str, list[JournalRow]] = {}
    for row in rows:
        calls.setdefault(row.call_id, []).append(row)
    found = [incident for each in calls.values() if (incident := _incident(each)) is not None]
    return sorted(found, key=lambda incident: str(incident["started_at"]), reverse=True)[:MAX_INCIDENTS]


def _incident(rows: list[JournalRow]) -> dict[str, Any] | None:
    story = CallStory(rows[0].call_id)
    for row in rows:
        story.hear(row)
    if not story.is_incident:
        return None
    over = any(row.event is JournalEvent.CALL_ENDED for row in rows)
    return {
        **story.summary(),
        "outcome": story.ended_by or ("went on" if over else "live"),
        "words": [text for row in rows if row.event is JournalEvent.STRIKE for text in _words(row)][:MAX_ITEMS],
        "actions": [_action(row) for row in rows if row.event in _DONE and row.data.get("action")][:MAX_ITEMS],
        "keys": [_key(row) for row in rows if row.event is JournalEvent.HOTKEY][:MAX_ITEMS],
    }


_DONE = (JournalEvent.ACTION_DONE, JournalEvent.ACTION_FAILED)


def _words(row: JournalRow) -> list[str]:
    """What was said; masked when it was stored, and not there at all when words are not stored."""
    text = row.data.get("text")
    return [str(text)] if text else []


def _action(row: JournalRow) -> dict[str, Any]:
    kept = ("action", "prompt", "target", "why", "pack", "mode", "error")
    what = {key: row.data[key] for key in kept if row.data.get(key) is not None}
    return {"t_ms": row.t_ms, "at": row.at, "done": row.event is JournalEvent.ACTION_DONE, **what}


def _key(row: JournalRow) -> dict[str, Any]:
    return {"t_ms": row.t_ms, "at": row.at, "key": row.data.get("key"), "by": row.data.get("by")}
