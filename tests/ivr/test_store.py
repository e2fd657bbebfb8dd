"""The journal under everything that a disk, a lock or a kill can do to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

import ivr.migrations
from ivr import clock
from ivr.database import SCHEMA
from ivr.errors import StoreError
from ivr.spill import Spill
from ivr.store import Journal
from ivr.types import JournalEvent, JournalRow

ROOT = Path(__file__).resolve().parents[2]


def row(n: int = 0, call_id: str = "c1", event: JournalEvent = JournalEvent.SIGNAL, **data: object) -> JournalRow:
    return JournalRow(call_id, event, clock.wall_iso(), n, {"n": n, **data})


def numbers(journal: Journal, call_id: str = "c1") -> list[int]:
    return [r.data["n"] for r in journal.events(call_id)]


def until(condition: Callable[[], bool], ceiling_s: float = 8.0) -> None:
    """Wait on the journal's own wake-ups, never on an assumed duration."""
    deadline, tick = clock.monotonic_ms() + int(ceiling_s * 1000), threading.Event()
    while not condition():
        assert clock.monotonic_ms() < deadline, "condition not met in time"
        tick.wait(0.02)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dir" / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(str(path))
    opened.start()
    yield opened
    opened.stop()
    assert not [t for t in threading.enumerate() if t.name == "journal"]


def test_journal_rows_written_are_read_in_order(journal: Journal) -> None:
    """Rows come back as written, per call and in order, over a fresh connection."""
    for n in range(1200):
        journal.write(row(n, call_id=f"c{n % 2}"))
    assert journal.flush()
    assert numbers(journal, "c0") == list(range(0, 1200, 2))
    found = journal.events("c1")[0]
    assert (found.event, found.t_ms, found.data) == (JournalEvent.SIGNAL, 1, {"n": 1})
    assert journal.health() == (True, f"journal {journal._database.path} is being written")


def test_journal_calls_summarise_started_and_ended(journal: Journal) -> None:
    """A call's row is made of its first and last events, and exists even when the first was lost."""
    journal.write(row(0, "a", JournalEvent.CALL_STARTED, call_ref="1700000000.12", agent_ext="201", mode="full"))
    journal.write(row(9000, "a", JournalEvent.CALL_ENDED, why="caller hung up"))
    journal.write(row(5, "b", JournalEvent.STRIKE))
    assert journal.flush()
    calls = {c["id"]: c for c in journal.calls()}
    assert calls["a"]["call_ref"] == "1700000000.12" and calls["a"]["agent_ext"] == "201"
    assert calls["a"]["duration_ms"] == 9000 and calls["a"]["why"] == "caller hung up"
    assert calls["b"]["ended_at"] is None and len(journal.calls(limit=1)) == 1


def test_journal_reopened_keeps_rows_and_file_is_private(path: Path) -> None:
    """A second start finds the schema there and the rows in place; only the owner may read the files."""
    for n in range(2):
        opened = Journal(f"sqlite:///{path}")
        opened.start()
        opened.write(row(n))
        opened.stop()
    assert numbers(opened) == [0, 1]
    assert path.stat().st_mode & 0o077 == 0


def test_journal_numbers_in_words_are_masked_before_storing(journal: Journal, path: Path) -> None:
    """No card number reaches the file, in figures or spoken, in text or word by word; ids stay whole."""
    journal.write(
        row(
            1,
            text="my card is 4111 1111 1111 1111, pin four one um double two",
            words=[{"text": "four", "start_ms": 12345}, {"text": "one"}, {"text": "three"}, {"text": "nine"}],
            why=["he said 4000 1234 5678"],
            call_ref="1700000000.12",
        )
    )
    assert journal.flush()
    data = journal.events("c1")[0].data
    assert data["text"] == "my card is [number], pin [number]"
    assert {w["text"] for w in data["words"]} == {"[number]"} and data["words"][0]["start_ms"] == 12345
    assert data["why"] == ["he said [number]"] and data["call_ref"] == "1700000000.12"
    journal.stop()
    assert b"4111" not in path.read_bytes() and b"double" not in path.read_bytes()


def test_journal_without_words_stores_none(path: Path) -> None:
    """With ``store_words`` off neither words nor quotations are in the file."""
    opened = Journal(str(path), store_words=False)
    opened.start()
    opened.write(row(1, text="you utter walnut", why="insult: 'utter walnut'", matches=[{"entry": "walnut"}]))
    opened.stop()
    assert opened.events("c1")[0].data == {"n": 1, "why": "insult: [words]"}
    assert b"walnut" not in path.read_bytes()


def test_write_of_unstorable_data_never_raises(journal: Journal) -> None:
    """Whatever a row holds, the journal takes it or counts it, and the next row is stored."""

    class Rude:
        def __str__(self) -> str:
            raise RuntimeError("no")

    loop: dict[str, object] = {}
    loop["self"] = loop
    journal.write(row(1, bad=Rude(), nan=float("nan"), deep=loop, key={1: {2, 3}}, text="\ud800 x", big=10**400))
    journal.write(JournalRow("c1", "nonsense", "now", 0, {}))  # type: ignore[arg-type]
    journal.write(JournalRow("c\ud800", JournalEvent.SIGNAL, "now", 10**30, {}))
    journal.write(row(2))
    assert journal.flush()
    assert numbers(journal) == [1, 2]
    assert journal.dropped == 1 and "1 rows were dropped" in journal.health()[1]


def test_locked_database_spills_and_replays_in_order(journal: Journal, path: Path) -> None:
    """Another process's exclusive lock never blocks a write; afterwards everything is there, once, in order."""
    journal.write(row(0))
    assert journal.flush()
    with sqlite3.connect(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        before = clock.monotonic_ms()
        for n in range(1, 50):
            journal.write(row(n))
        assert clock.monotonic_ms() - before < 100
        assert journal.flush()
        until(lambda: journal.spilled == 49)
        ok, detail = journal.health()
        assert not ok and "locked" in detail and "49 rows wait" in detail
        assert path.with_name("journal.db.spill.jsonl").stat().st_mode & 0o077 == 0
        other.rollback()
    other.close()
    until(lambda: journal.spilled == 0 and journal.health()[0])
    journal.write(row(50))
    assert journal.flush()
    assert numbers(journal) == list(range(51))
    assert not path.with_name("journal.db.spill.jsonl").exists()


def test_locked_at_start_begins_degraded_and_recovers(path: Path) -> None:
    """A database locked at start is no reason not to start."""
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("BEGIN EXCLUSIVE")
        opened = Journal(str(path))
        opened.start()
        assert not opened.health()[0]
        opened.write(row(1))
        assert opened.flush()
        other.rollback()
    other.close()
    until(lambda: opened.health()[0])
    opened.stop()
    assert numbers(opened) == [1]


def test_spill_left_by_a_killed_process_is_replayed_once(path: Path) -> None:
    """Rows spilled by an earlier process are delivered at start; a torn last line and foreign lines cost nothing."""
    path.parent.mkdir()
    spilled = Spill(path.with_name("journal.db.spill.jsonl"))
    record = {"uid": "x-1", "call_id": "c1", "event": "signal", "at": "2026", "t_ms": 1, "data": {"n": 7}}
    spilled.add([record, {**record, "uid": "x-2", "data": {"n": 8}}, record])
    with path.with_name("journal.db.spill.jsonl").open("ab") as out:
        out.write(b'[1]\n{"uid": "x-3", "call')
    opened = Journal(str(path))
    opened.start()
    until(lambda: opened.spilled == 0)
    opened.stop()
    assert numbers(opened) == [7, 8]
    assert not path.with_name("journal.db.spill.jsonl").exists()


def test_directory_deleted_while_running_is_made_again(journal: Journal, path: Path) -> None:
    """Rows after the deletion are kept in memory and land in a new file; the writer never dies."""
    journal.write(row(0))
    assert journal.flush()
    shutil.rmtree(path.parent)
    for n in range(1, 4):
        journal.write(row(n))
    assert journal.flush()
    until(lambda: journal.health()[0] and journal.spilled == 0)
    journal.write(row(4))
    assert journal.flush()
    assert numbers(journal) == [1, 2, 3, 4]


def test_directory_replaced_by_a_file_keeps_rows_in_memory_up_to_the_bound(path: Path) -> None:
    """With no place left at all, the oldest rows are kept, the newest dropped, and health says how many."""
    opened = Journal(str(path), max_spill_memory=5)
    opened.start()
    shutil.rmtree(path.parent)
    path.parent.write_text("in the way")
    for n in range(12):
        opened.write(row(n))
    assert opened.flush()
    until(lambda: opened.dropped == 7)
    ok, detail = opened.health()
    assert not ok and "5 rows wait" in detail and "7 rows were dropped" in detail
    path.parent.unlink()
    until(lambda: opened.health()[0] and opened.spilled == 0)
    opened.stop()
    assert numbers(opened) == [0, 1, 2, 3, 4]


def test_queue_full_drops_the_newest_and_counts(path: Path) -> None:
    """A writer that cannot keep up costs bounded memory: what does not fit is counted."""
    opened = Journal(str(path), max_queue=3)
    for n in range(5):
        opened.write(row(n))
    assert opened.dropped == 2
    opened.start()
    opened.stop()
    assert numbers(opened) == [0, 1, 2]


@pytest.mark.parametrize("content", [b"this is not a database at all" * 200, b"SQLite format 3\0" + b"\xff" * 8000])
def test_corrupt_file_at_start_is_put_aside(path: Path, content: bytes) -> None:
    """A broken file is kept under another name and a new journal begun."""
    path.parent.mkdir()
    path.write_bytes(content)
    opened = Journal(str(path))
    opened.start()
    opened.write(row(1))
    opened.stop()
    assert numbers(opened) == [1]
    (aside,) = path.parent.glob("journal.db.corrupt-*")
    assert aside.read_bytes() == content


def test_corruption_while_running_begins_anew_and_keeps_new_rows(journal: Journal, path: Path) -> None:
    """Garbage over the live file costs what was in it, not what comes."""
    for n in range(300):
        journal.write(row(n, filler="x" * 200))
    assert journal.flush()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    with path.open("r+b") as damage:
        damage.write(b"\xde\xad" * (path.stat().st_size // 2))
    path.with_name("journal.db-wal").write_bytes(b"")
    for n in range(1000, 1010):
        journal.write(row(n))
        journal.flush()
    until(lambda: journal.health()[0] and journal.spilled == 0)
    assert numbers(journal)[-1] == 1009
    assert list(path.parent.glob("journal.db.corrupt-*"))


def test_newer_schema_is_refused_with_the_fix(path: Path) -> None:
    """A journal from a newer Firmline is never touched."""
    opened = Journal(str(path))
    opened.start()
    opened.stop()
    with sqlite3.connect(path) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer Firmline \(schema 9999; this one knows up to 00..\): upgrade"):
        Journal(str(path)).start()
    assert path.read_bytes() == before


def test_schema_that_is_opened_without_a_migration_is_the_newest_one() -> None:
    """Else a journal of the last release would be taken for one of this."""
    config = Config()
    config.set_main_option("script_location", str(Path(ivr.migrations.__file__).parent).replace("%", "%%"))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA


@pytest.mark.parametrize("url", ["postgresql://u:secret@h/db", "sqlite://", "sqlite:///:memory:", "://"])
def test_unsupported_url_is_refused_without_showing_the_password(url: str) -> None:
    """Only a file is taken for now."""
    with pytest.raises(StoreError, match="give a file path") as caught:
        Journal(url)
    assert "secret" not in str(caught.value)


def test_path_that_can_never_be_a_file_is_refused_at_start(tmp_path: Path) -> None:
    """A directory, or a path through a file, is a mistake to be told at once."""
    (tmp_path / "file").write_text("")
    for bad in (tmp_path, tmp_path / "file" / "j.db", tmp_path / "file" / "sub" / "j.db"):
        with pytest.raises(StoreError, match="directory"):
            Journal(str(bad)).start()


def test_prune_deletes_old_rows_and_their_calls(journal: Journal) -> None:
    """Retention removes what is older and leaves the rest."""
    old = "2020-01-01T00:00:00.000+00:00"
    journal.write(JournalRow("old", JournalEvent.CALL_STARTED, old, 0, {}))
    journal.write(JournalRow("old", JournalEvent.STRIKE, old, 5, {}))
    journal.write(row(1))
    assert journal.flush()
    assert journal.prune(86_400) == 2
    assert [c["id"] for c in journal.calls()] == ["c1"] and journal.events("old") == []


def test_retention_setting_prunes_by_itself(path: Path) -> None:
    """With a retention set, old rows are gone after the first round of the writer."""
    opened = Journal(str(path), retention_s=3600)
    opened.start()
    opened.write(JournalRow("old", JournalEvent.STRIKE, "2020-01-01T00:00:00.000+00:00", 0, {}))
    opened.write(row(1))
    opened.stop()
    assert [c["id"] for c in opened.calls()] == ["c1"]


def child(code: str, *args: str) -> subprocess.Popen[str]:
    """A real process running ``code`` against the package of this tree."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *args],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )


PREAMBLE = """
import sys, threading, resource
from ivr import clock
from ivr.log import configure_logging
from ivr.store import Journal
from ivr.types import JournalEvent, JournalRow
configure_logging("info", json=True, pii=False)
def write(n, **data):
    data |= {"n": n, "m": clock.monotonic_ms()}
    journal.write(JournalRow("c1", JournalEvent.SIGNAL, clock.wall_iso(), n, data))
journal = Journal(sys.argv[1])
"""


@pytest.mark.slow
def test_kill_9_loses_at_most_the_last_second(path: Path) -> None:
    """A process that writes all the time is killed: all rows older than a second are in a sound file."""
    code = (
        PREAMBLE
        + """
journal.start()
n = 0
while True:
    write(n)
    n += 1
    threading.Event().wait(0.002)
    if n == 1:
        print("up", flush=True)
"""
    )
    process = child(code, str(path))
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        threading.Event().wait(1.7)  # let it write for a while: there is no event in a process about to be killed
        killed_ms = clock.monotonic_ms()
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    other.close()
    opened = Journal(str(path))
    opened.start()
    opened.stop()
    found = opened.events("c1")
    assert [r.data["n"] for r in found] == list(range(len(found)))
    assert killed_ms - found[-1].data["m"] < 1_000


def test_disk_full_spills_to_memory_and_replays_when_there_is_room(path: Path) -> None:
    """A full disk (a file-size limit in a real process) keeps rows in memory, then all of them land."""
    code = (
        PREAMBLE
        + """
journal.start()
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
for n in range(400):
    write(n, filler="x" * 500)
    if n % 50 == 0: journal.flush()
journal.flush()
print(journal.health()[0], journal.spilled > 100, journal.dropped, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
for _ in range(200):
    if journal.health()[0] and not journal.spilled: break
    threading.Event().wait(0.05)
journal.stop()
print(journal.health()[0], [r.data["n"] for r in journal.events("c1")] == list(range(400)), flush=True)
"""
    )
    process = child(code, str(path))
    out, _ = process.communicate(timeout=60)
    assert out.splitlines() == ["False True 0", "True True"]


def test_read_only_directory_starts_degraded_and_writes_nothing(tmp_path: Path) -> None:
    """Where we may not write, the service still starts and says why."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("runs as root without setpriv: no way to be somebody who may not write")
    code = (
        PREAMBLE
        + "journal.start(); write(1); journal.flush(); print(journal.health(), journal.spilled); journal.stop()"
    )
    read_only = tmp_path / "ro"
    read_only.mkdir()
    read_only.chmod(0o555)
    argv = [sys.executable, "-W", "error", "-c", code, str(read_only / "j.db")]
    if os.geteuid() == 0:
        # Root writes anywhere: give up the capability that lets it.
        argv = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", *argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout.startswith("(False, ") and "1 rows wait" in done.stdout, done
    assert list(read_only.iterdir()) == []


def test_spill_file_bound_falls_over_to_memory(tmp_path: Path) -> None:
    """The file never passes its bound; order is kept across file and memory."""
    record = {"call_id": "c", "event": "signal", "at": "", "t_ms": 0, "data": {}}
    spill = Spill(tmp_path / "s.jsonl", max_bytes=400, max_memory=3)
    for n in range(10):
        spill.add([{**record, "uid": str(n)}])
    assert (tmp_path / "s.jsonl").stat().st_size <= 400
    got: list[str] = []
    while found := spill.peek(2):
        got += [r["uid"] for r in found]
        spill.taken(len(found))
    assert got == [str(n) for n in range(len(got))]
    assert spill.dropped == 10 - len(got) > 0 and not spill
    spill.close()
    assert list(tmp_path.iterdir()) == []


def test_spill_memory_is_saved_to_the_file_on_close(tmp_path: Path) -> None:
    """Rows in memory reach the next process when the file can be written again by then."""
    target = tmp_path / "gone" / "s.jsonl"
    spill = Spill(target)
    spill.add([{"uid": "1", "call_id": "c", "event": "signal", "at": "", "t_ms": 0, "data": {}}])
    target.parent.mkdir()
    spill.close()
    assert [json.loads(line)["uid"] for line in target.read_text().splitlines()] == ["1"]
    assert Spill(target).rows == 1
