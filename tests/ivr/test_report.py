"""The report over a journal as the service writes it: counted once a call, by time and queue, never by agent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from ivr import clock
from ivr.database import Database
from ivr.report import make_report
from ivr.store import Journal
from ivr.types import JournalEvent as Ev
from ivr.types import JournalRow
from tests.ivr.test_commands import firmline

NOW = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)
INSULTED = (
    (Ev.STRIKE, {"track": "person", "category": "insult", "words": ["idiot"]}),
    (Ev.RUNG, {"from": "clear", "to": "warned", "cause": "prompt_heard"}),
)
ENDED = (
    *INSULTED,
    (Ev.STRIKE, {"track": "person", "category": "insult"}),
    (Ev.RUNG, {"from": "warned", "to": "ending", "cause": "end"}),
    (Ev.ACTION_DONE, {"action": "transfer"}),
)
SPARED = (*INSULTED, (Ev.RUNG, {"to": "ending", "cause": "end"}), (Ev.HOTKEY, {"key": "pardon"}))
IN_DANGER = ((Ev.SIGNAL, {"category": "safeguard"}), (Ev.RUNG, {"to": "disarmed", "cause": "safeguard"}))
LOUD = ((Ev.SIGNAL, {"conduct": "shouting"}), (Ev.SIGNAL, {"conduct": "shouting"}))


def write(journal: Journal, number: int, ago: timedelta, queue: str | None, rows: tuple[object, ...]) -> None:
    at = (NOW - ago).isoformat(timespec="milliseconds")
    start = (Ev.CALL_STARTED, {"call_ref": str(number), "agent": "201", "queue": queue})
    for t_ms, (event, data) in enumerate((start, *rows, (Ev.CALL_ENDED, {"why": "over"}))):  # type: ignore[misc]
        journal.write(JournalRow(f"c{number}", event, at, t_ms, data))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Eight calls of the last ten days, one of forty days ago."""
    path = tmp_path_factory.mktemp("report") / "journal.db"
    journal = Journal(str(path))
    journal.start()
    hour, day = timedelta(hours=1), timedelta(days=1)
    told = [(hour, "sales", ENDED), (2 * hour, "sales", ()), (3 * hour, "help", INSULTED), (4 * hour, None, LOUD)]
    told += [(day, "help", SPARED), (day, "help", ()), (9 * day, "sales", IN_DANGER), (9 * day, "sales", ())]
    for number, (ago, queue, rows) in enumerate([*told, (40 * day, "sales", ENDED)]):
        write(journal, number, ago, queue, rows)
    assert journal.flush()
    journal.stop()
    yield path


def test_report_by_day_counts_each_call_once_and_shows_quiet_days(path: Path) -> None:
    """Two days of calls and the quiet ones between; the trend compares with the week before."""
    made = make_report(Database(path), days=7, by="day", until=NOW, zone=UTC)
    by_day = {line.period: line for line in made.lines}
    assert len(by_day) == 8 and by_day["2026-03-27"].calls == 0
    today = by_day["2026-03-31"]
    assert (today.calls, today.incidents, today.warned, today.ended) == (4, 2, 2, 1)
    assert by_day["2026-03-30"].pardoned == 1 and made.total.calls == 6 and made.total.per_1000 == 500.0
    assert made.total.categories == {"insult": 3} and made.total.conduct == {"shouting": 1}
    assert made.before.calls == 2 and made.before.safeguard == 1 and "before that 500" in made.trend()


def test_report_by_queue_and_by_week_and_in_another_time_zone(path: Path) -> None:
    """The same calls cut otherwise; midnight is that of the place."""
    by_queue = make_report(Database(path), days=30, by="queue", until=NOW)
    assert {line.period: line.calls for line in by_queue.lines} == {"(no queue)": 1, "help": 3, "sales": 4}
    weeks = make_report(Database(path), days=14, by="week", until=NOW, zone=UTC).lines
    assert [(line.period, line.calls) for line in weeks] == [("2026-W12", 2), ("2026-W13", 0), ("2026-W14", 6)]
    far = make_report(Database(path), days=1, by="day", until=NOW, zone=ZoneInfo("Pacific/Auckland"))
    assert [line.period for line in far.lines] == ["2026-03-31", "2026-04-01"] and far.total.calls == 6


def test_report_leaves_out_what_is_past_its_retention(path: Path) -> None:
    """Forty days ago is there while it may be kept, and not when it may not."""
    assert make_report(Database(path), days=60, by="month", until=NOW).total.calls == 9
    kept = make_report(Database(path), days=60, by="month", until=NOW, retention_days=30)
    assert kept.total.calls == 8 and kept.since == NOW - timedelta(days=30) and kept.before.calls == 0


def test_report_holds_no_agent_and_no_words(path: Path) -> None:
    """Nothing in it could score an agent or quote a caller."""
    text = json.dumps(make_report(Database(path), days=60, by="queue", until=NOW).as_json())
    assert "agent" not in text and "201" not in text and "idiot" not in text


def test_report_command_as_table_csv_and_json(tmp_path: Path) -> None:
    """The three forms say the same; a queue that looks like a formula is harmless; no journal is a plain error."""
    missing = firmline("report", cwd=tmp_path)
    assert missing.returncode == 1 and "firmline.db is missing" in missing.stderr
    journal = Journal(str(tmp_path / "firmline.db"))
    journal.start()
    for event, data in ((Ev.CALL_STARTED, {"queue": "=1+1"}), *ENDED):
        journal.write(JournalRow("a", event, clock.wall_iso(), 0, data))
    journal.stop()
    table = firmline("report", "--days", "1", "--by", "queue", cwd=tmp_path).stdout
    rows = list(csv.DictReader(io.StringIO(firmline("report", "--by", "queue", "--csv", cwd=tmp_path).stdout)))
    found = json.loads(firmline("report", "--json", cwd=tmp_path).stdout)
    assert "=1+1" in table and "insult 1 calls" in table and "nothing to compare with" in table
    assert rows[0]["queue"] == "'=1+1" and rows[0]["ended"] == "1" and rows[0]["insult"] == "1"
    assert found["by"] == "week" and found["total"]["ended"] == 1
