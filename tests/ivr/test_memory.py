"""Notes of live calls' ladders: written, found again, and never a reason to fail."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr import clock
from ivr import effects as fx
from ivr.database import Database
from ivr.ladders import LadderStore
from ivr.memory import MAX_AGE_MS, Memory, Note, Recalled, shortened
from ivr.store import Journal
from ivr.types import JournalEvent
from policies.ladder import LadderState, Rung, Strike
from policies.types import Hotkey, Key
from tests.ivr.calls import Bench

ROOT = Path(__file__).resolve().parents[2]
WARNED = LadderState(rung=Rung.WARNED, strikes=(Strike("person", -4_000, True, "words"),), civil_since_ms=-4_000)


def note(state: LadderState = WARNED, wall_ms: int | None = None, pack: str = "standard@1") -> Note:
    return Note("c1", pack, round(clock.wall_s() * 1000) if wall_ms is None else wall_ms, "", state)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = Journal(str(tmp_path / "journal.db"))
    journal.start()
    journal.stop()
    return tmp_path / "journal.db"


@pytest.fixture
def store(path: Path) -> Iterator[LadderStore]:
    opened = LadderStore(Database(path))
    opened.start()
    yield opened
    opened.stop()


def test_note_comes_back_as_it_was_written() -> None:
    """Through its text and back."""
    one = note(wall_ms=5)
    assert Note.from_text(one.to_text()) == one


@settings(max_examples=40)
@given(st.one_of(st.text(), st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x), max_leaves=9)))
def test_note_that_is_none_is_refused_as_such(junk: object) -> None:
    """A row that somebody edited, or half of one, raises one kind of error."""
    for text in (str(junk), json.dumps({"v": 1, "state": junk}), json.dumps({"v": junk})):
        with pytest.raises(ValueError):
            Note.from_text(text)


@pytest.mark.parametrize(
    "change",
    [
        {"rung": "ending"}, {"rung": 3}, {"strikes": [{"track": 1, "t_ms": 0}]}, {"civil_since_ms": "x"},
        {"strikes": [{"track": "person", "t_ms": 0, "taken": "yes"}]}, {"strikes": None}, {"more": 1},
        {"quiet_until_ms": 1.5}, {"reassured": "no"}, {"countdown": {"deadline_ms": 0}},
    ],
)  # fmt: skip
def test_note_with_a_state_of_the_wrong_kind_is_refused(change: dict[str, object]) -> None:
    """What is read back can by itself end no call, and cannot break the ladder either."""
    data = json.loads(note().to_text())
    data["state"].update(change)
    with pytest.raises(ValueError):
        Note.from_text(json.dumps(data))


async def test_store_keeps_the_newest_note_until_the_call_is_over(store: LadderStore, path: Path) -> None:
    """One row a live call."""
    now_ms = note().wall_ms
    for age in range(50):
        store.keep("a", note(wall_ms=now_ms + age))
    store.keep("b", note())
    assert store.flush()
    assert Note.from_text(await store.recall("a") or "").wall_ms == now_ms + 49
    store.forget("a")
    assert await store.recall("a") is None and store.flush() and await store.recall("a") is None
    with sqlite3.connect(path) as db:
        assert db.execute("select count(*) from ladders").fetchone() == (1,)


async def test_store_waits_for_a_locked_database_and_is_asked_meanwhile(store: LadderStore, path: Path) -> None:
    """Nobody waits for it; the note is there all the same, and later in the file."""
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("begin immediate")
    kept = note()
    store.keep("a", kept)
    assert not store.flush(0.6)
    assert Note.from_text(await store.recall("a") or "") == kept
    holder.execute("rollback")
    holder.close()
    assert store.flush()
    assert Note.from_text(Database(path).ladder("a") or "") == kept


async def test_store_without_its_table_begins_to_write_when_it_is_there(tmp_path: Path) -> None:
    """The journal could not be opened at start, and was later."""
    store = LadderStore(Database(tmp_path / "journal.db"))
    store.start()
    store.keep("a", note())
    assert not store.flush(0.2)
    journal = Journal(str(tmp_path / "journal.db"))
    journal.start()
    assert store.flush()
    store.stop()
    journal.stop()


async def test_rows_of_calls_that_ended_unseen_go_by_age(path: Path) -> None:
    """Firmline was down when they ended."""
    now_ms = round(clock.wall_s() * 1000)
    Database(path).keep_ladders([{"call_ref": "old", "wall_ms": now_ms - MAX_AGE_MS - 1, "note": "{}"}], [])
    store = LadderStore(Database(path))
    store.start()
    store.keep("new", note())
    assert store.flush()
    store.stop()
    assert await store.recall("old") is None and await store.recall("new") is not None


def test_note_is_committed_before_a_kill_can_take_it(path: Path) -> None:
    """SIGKILL 100 ms after the change: the row is there."""
    program = textwrap.dedent(
        """
        import os, signal, sys, threading
        from pathlib import Path
        from ivr.database import Database
        from ivr.ladders import LadderStore
        from ivr.memory import Note
        from policies.ladder import LadderState, Rung
        store = LadderStore(Database(Path(sys.argv[1])))
        store.start()
        store.keep("a", Note("c", "p@1", int(sys.argv[2]), "", LadderState(rung=Rung.DISARMED)))
        threading.Event().wait(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(note().wall_ms)], cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == -9
    assert Note.from_text(Database(path).ladder("a") or "").state.rung is Rung.DISARMED


class Kept:
    """A keeper that gives what it was given."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def keep(self, call_ref: str, note: Note) -> None: ...

    def forget(self, call_ref: str) -> None: ...

    async def recall(self, call_ref: str) -> str | None:
        if self.text == "down":
            raise OSError("the disk is gone")
        return self.text


async def test_newest_note_of_all_keepers_counts_and_a_broken_one_is_said() -> None:
    """The PBX knew better than the database, or the other way round."""
    old, new = note(wall_ms=1), note(wall_ms=2)
    assert await Memory([Kept(new.to_text()), Kept(old.to_text())]).recall("a") == Recalled(new)
    assert (await Memory([Kept("down"), Kept(old.to_text())]).recall("a")).note == old
    assert (await Memory([Kept("down"), Kept(None)]).recall("a")).problem == "the disk is gone"
    assert (await Memory([Kept("{"), Kept(None)]).recall("a")).problem
    assert await Memory([Kept(None)]).recall("a") == Recalled()


def resumed(recalled: Recalled, wall_ms: int) -> tuple[Bench, list[fx.Effect]]:
    bench = Bench()
    return bench, bench.take(bench.core.resume(recalled, wall_ms, bench.now_ms))


def test_call_goes_on_at_its_rung_and_people_are_told() -> None:
    """Journal, feed and agent learn where the call stands, what was cut off and where its earlier rows are."""
    pack = Bench().core.engine.pack.version
    left = Note("c1", pack, 10_000, "the prompt final_warning", WARNED)
    bench, effects = resumed(Recalled(left), 11_500)
    assert bench.core.engine.rung is Rung.WARNED and bench.all(fx.Play) == []
    [signal] = bench.rows(JournalEvent.SIGNAL)
    assert signal["action"] == "resumed" and signal["continues"] == "c1" and signal["age_ms"] == 1_500
    [rung] = bench.rows(JournalEvent.RUNG)
    assert (rung["from"], rung["to"], rung["cause"]) == ("clear", "warned", "resumed")
    [told] = [e.text for e in effects if isinstance(e, fx.Tell)]
    assert "goes on at warned; the prompt final_warning was cut off" in told
    bench.utter("you are a useless idiot")
    assert [play.prompt for play in bench.all(fx.Play)] == ["closing_transfer"]


@pytest.mark.parametrize(
    ("recalled", "wall_ms"),
    [(Recalled(problem="not a note of a ladder"), 0), (Recalled(note(wall_ms=0)), MAX_AGE_MS + 1)],
)
def test_call_whose_past_cannot_be_used_starts_afresh_and_says_so(recalled: Recalled, wall_ms: int) -> None:
    """Stale or corrupt: never a guess."""
    bench, effects = resumed(recalled, wall_ms)
    assert bench.core.engine.state == LadderState()
    [signal] = bench.rows(JournalEvent.SIGNAL)
    assert signal["action"] == "not_resumed" and "starts afresh" in signal["why"]
    assert any(isinstance(effect, fx.Tell) for effect in effects)


def test_call_without_a_past_says_nothing_of_it() -> None:
    """Nearly every call."""
    bench, effects = resumed(Recalled(), 0)
    assert effects == [] and bench.rows(JournalEvent.SIGNAL) == []


def test_clock_set_back_makes_a_note_no_younger_than_new() -> None:
    """The wall clock may jump; times of the ladder must not lie in the future because of it."""
    bench, _ = resumed(Recalled(note(wall_ms=50_000)), 20_000)
    assert bench.core.engine.state.civil_since_ms == bench.now_ms - 4_000


def test_note_for_a_small_place_keeps_the_newest_strikes_and_short_names() -> None:
    """A channel variable of the PBX holds less than a row."""
    strikes = tuple(Strike("person", -n, True, "agent:" + "x" * 60) for n in range(20))
    small = shortened(note(LadderState(rung=Rung.FINAL, strikes=strikes)), 4)
    assert [s.t_ms for s in small.state.strikes] == [-16, -17, -18, -19]
    assert all(len(s.by) == 24 for s in small.state.strikes)


def test_key_pressed_before_the_past_was_read_is_not_lost() -> None:
    """The agent's warning plays on and then counts on top of what was remembered."""
    bench = Bench()
    bench.take(bench.core.hotkey(Hotkey(Key.WARN, "agent:201"), bench.now_ms))
    left = Note("c1", bench.core.engine.pack.version, 0, "", WARNED)
    bench.take(bench.core.resume(Recalled(left), 0, bench.now_ms))
    bench.play_out()
    assert bench.core.engine.rung is Rung.WARNED and bench.core.engine.strikes == 2
