"""The table of the ladder, walked whole."""

from __future__ import annotations

import pytest

from policies.ladder import CLIMB, TABLE, Cause, LadderState, Rung
from policies.pack import Pack
from policies.types import Hotkey, Key, PromptDone
from tests.policies.bench import Bench

_KEYS = {c for c in Cause if c.value.startswith("key_")}


def test_table_every_rung_and_cause_has_a_cell() -> None:
    """No event can fall between the cells."""
    assert set(TABLE) == {(rung, cause) for rung in Rung for cause in Cause}


def test_table_every_rung_is_reached_from_clear() -> None:
    """Every rung can come about."""
    seen, todo = {Rung.CLEAR}, [Rung.CLEAR]
    while todo:
        at = todo.pop()
        for (rung, _), cell in TABLE.items():
            if rung is at:
                todo += sorted(cell.to - seen)
                seen |= cell.to
    assert seen == set(Rung)


def test_table_every_rung_ends_with_the_call() -> None:
    """Whatever the state, the end of the call ends it."""
    assert all(TABLE[rung, Cause.CALL_ENDED].to == {Rung.ENDED} for rung in Rung)


def test_table_ended_leads_on_only_when_the_pbx_failed() -> None:
    """An ended call absorbs everything else."""
    leaving = {cause for cause in Cause if TABLE[Rung.ENDED, cause].to != {Rung.ENDED}}
    assert leaving == {Cause.ENDING_FAILED, Cause.CARRIED_ON}


def test_table_ending_is_entered_by_end_or_by_a_person_only() -> None:
    """Conduct, safeguard, time and prompts never decide an ending."""
    causes = {cause for (rung, cause), cell in TABLE.items() if rung is not Rung.ENDING and Rung.ENDING in cell.to}
    assert causes == {Cause.END, Cause.KEY_END, Cause.KEY_TRANSFER}


def test_table_disarmed_reaches_ending_by_a_person_only() -> None:
    """A disarmed call is ended by nobody but a person."""
    causes = {c for c in Cause if Rung.ENDING in TABLE[Rung.DISARMED, c].to}
    assert causes == {Cause.KEY_END, Cause.KEY_TRANSFER}


def test_table_ended_follows_ending_only() -> None:
    """No cell jumps from a live rung to the end of the call, but for the call's own end."""
    for (rung, cause), cell in TABLE.items():
        if Rung.ENDED in cell.to and cause is not Cause.CALL_ENDED:
            assert rung in (Rung.ENDING, Rung.ENDED)


def _at(pack: Pack, rung: Rung) -> Bench:
    """A call brought to ``rung`` by events alone."""
    bench = Bench(pack)
    if rung is Rung.CAUTIONED:
        bench.strike("this is fucking ridiculous")
    if rung in (Rung.WARNED, Rung.FINAL):
        bench.strike("you useless idiot")
    if rung is Rung.FINAL:
        bench.strike("I know where you live")
    if rung is Rung.ENDING:
        bench.to_ending()
    if rung is Rung.ENDED:
        bench.to_ending()
        bench.done("closing_transfer")
        bench.wait(10_000)
    if rung is Rung.DISARMED:
        bench.press(Key.DISARM)
    return bench


@pytest.mark.parametrize("rung", list(Rung))
@pytest.mark.parametrize("cause", sorted(_KEYS))
def test_table_key_on_every_rung_stays_within_its_cell(standard: Pack, rung: Rung, cause: Cause) -> None:
    """What a key really does is what the table says it may do."""
    bench = _at(standard, rung)
    assert bench.engine.rung is rung
    bench.engine.hear(Hotkey(Key(cause.value.removeprefix("key_")), "agent:201"), bench.now_ms)
    assert bench.engine.rung in TABLE[rung, cause].to


@pytest.mark.parametrize("rung", [*CLIMB, Rung.DISARMED, Rung.ENDED])
def test_state_json_round_trip_gives_the_same_state(standard: Pack, rung: Rung) -> None:
    """A state survives being stored, whatever it is."""
    import json

    bench = _at(standard, rung)
    state = bench.engine.state
    assert LadderState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_state_restored_goes_on_where_it_was(standard: Pack) -> None:
    """A new engine given the old state ends the call as the old one would have."""
    old = _at(standard, Rung.ENDING)
    new = Bench(standard)
    new.engine.state, new.now_ms = LadderState.from_json(old.engine.state.to_json()), old.now_ms
    new.engine.hear(PromptDone("closing_transfer", new.now_ms, True), new.now_ms)
    new.wait(10_000)
    assert new.engine.rung is Rung.ENDED
