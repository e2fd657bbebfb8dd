"""Actions are confirmed, tried again, or told: nothing is hoped for."""

from __future__ import annotations

import pytest

from ivr import effects as fx
from ivr.actions import LATE_MS, LEG_MS, START_MS, TABLE, Asked, Stage, Step
from ivr.types import JournalEvent
from policies.types import Audience, Hotkey, Key, Side
from tests.ivr.calls import Bench, silence

WITHIN_MS = 2_000


def told(bench: Bench) -> list[str]:
    return [e.text for e in bench.all(fx.Tell) if e.audience is Audience.AGENT]


def test_table_every_stage_is_reached_and_every_request_can_fail_or_be_confirmed() -> None:
    """No trap, nothing dead; what is confirmed stays so."""
    reached = {Stage.REQUESTED}
    for _ in Stage:
        reached |= {after for (before, _), after in TABLE.items() if before in reached}
    assert reached == set(Stage)
    for stage in (Stage.REQUESTED, Stage.SENT, Stage.LATE):
        assert TABLE[stage, Step.CONFIRMED] is Stage.CONFIRMED and TABLE[stage, Step.FAILED] is Stage.FAILED
    assert not [cell for cell in TABLE if cell[0] is Stage.CONFIRMED]


@pytest.mark.parametrize("kind", ["transfer", "hangup", "pause_agent"])
def test_action_not_confirmed_is_told_within_two_seconds_and_once(kind: str) -> None:
    """A PBX that takes its time must not leave the agent guessing."""
    bench = Bench()
    bench.take(bench.core.action_asked(kind, {"action": kind}, bench.now_ms))
    asked_ms = bench.now_ms
    while not told(bench):
        bench.wait(20)
    assert bench.now_ms - asked_ms <= WITHIN_MS and "not confirmed by the PBX yet" in told(bench)[0]
    assert bench.rows(JournalEvent.SIGNAL)[-1] == {
        "action": "waiting", "of": kind, "stage": "late", "why": told(bench)[0][:-1],
    }  # fmt: skip
    bench.wait(10 * LATE_MS)
    assert len(told(bench)) == 1
    bench.take(bench.core.action_report(kind, True, {"action": kind}, bench.now_ms))
    assert bench.rows(JournalEvent.ACTION_DONE)[-1] == {"action": kind}


def test_action_confirmed_in_time_says_nothing() -> None:
    """The usual case: rows, no words."""
    bench = Bench()
    bench.take(bench.core.action_asked("hangup", {"action": "hangup"}, bench.now_ms))
    bench.take(bench.core.action_report("hangup", True, {"action": "hangup"}, bench.now_ms))
    bench.wait(3 * LATE_MS)
    assert told(bench) == [] and bench.rows(JournalEvent.SIGNAL) == []


def test_ringing_supervisor_is_told_at_once_and_not_called_late_afterwards() -> None:
    """It may ring for twenty seconds: the agent knows what is going on."""
    bench = Bench()
    bench.take(bench.core.action_asked("transfer", {"action": "transfer"}, bench.now_ms))
    bench.take(bench.core.action_sent("transfer", "299 is ringing; the caller waits", bench.now_ms))
    bench.wait(10 * LATE_MS)
    bench.take(bench.core.action_sent("transfer", "298 is ringing; the caller waits", bench.now_ms))
    assert told(bench) == ["299 is ringing; the caller waits.", "298 is ringing; the caller waits."]


def test_fallback_says_what_did_not_work_and_pause_that_failed_is_told() -> None:
    """The next ending names the one that it stands in for; a pause is nobody's fallback."""
    bench = Bench()
    bench.take(bench.core.action_asked("pause_agent", {"action": "pause_agent"}, bench.now_ms))
    bench.take(bench.core.action_report("pause_agent", False, {"error": "201 is in no queue"}, bench.now_ms))
    assert told(bench) == ["You could not be paused: 201 is in no queue."]
    bench.take(bench.core.action_asked("transfer", {"action": "transfer"}, bench.now_ms))
    bench.take(bench.core.action_report("transfer", False, {"error": "nobody"}, bench.now_ms))
    bench.take(bench.core.action_asked("hangup", {"action": "hangup"}, bench.now_ms))
    assert told(bench)[1:] == ["The transfer did not work; the end of the call is tried instead."]
    assert bench.rows(JournalEvent.ACTION_REQUESTED)[-1]["instead_of"] == "transfer"
    bench.take(bench.core.ended(None, "no", bench.now_ms))
    bench.take(bench.core.action_asked("transfer", {"action": "transfer"}, bench.now_ms))
    assert "instead_of" not in bench.rows(JournalEvent.ACTION_REQUESTED)[-1]


def warned() -> tuple[Bench, fx.Play]:
    bench = Bench()
    bench.take(bench.core.hotkey(Hotkey(Key.WARN, "agent:201"), bench.now_ms))
    return bench, bench.all(fx.Play)[-1]


def test_prompt_without_a_leg_is_played_on_the_next_one() -> None:
    """The PBX was replacing the tap just then: the warning comes a moment later, under one strike."""
    bench, play = warned()
    bench.take(bench.core.leg_down("c", "its channel has moved", bench.now_ms))
    bench.take(bench.core.prompt_done(play.token, False, "no leg to the caller to play on", bench.now_ms))
    bench.wait(300)
    bench.take(bench.core.leg_up("c2", Side.CALLER, bench.now_ms))
    [_, again] = bench.all(fx.Play)
    assert again.token != play.token and (again.prompt, again.decided_ms) == ("warning", play.decided_ms)
    assert [row.get("again") for row in bench.rows(JournalEvent.ACTION_REQUESTED)] == [None, True]
    bench.play_out()
    assert bench.core.engine.rung.value == "warned" and bench.core.engine.strikes == 1
    assert bench.rows(JournalEvent.ACTION_FAILED) == []


@pytest.mark.parametrize("ended", [True, False], ids=["leg says so", "leg says nothing"])
def test_prompt_that_never_leaves_is_tried_again_then_told_within_two_seconds(ended: bool) -> None:
    """A leg that takes a prompt and sends nothing is found out by the clock."""
    bench, play = warned()
    asked_ms = bench.now_ms
    if ended:
        bench.take(bench.core.prompt_done(play.token, False, "the leg's port is closed", bench.now_ms))
    while not bench.rows(JournalEvent.ACTION_FAILED):
        bench.hear(silence(20))
    assert bench.now_ms - asked_ms <= WITHIN_MS
    [failed] = bench.rows(JournalEvent.ACTION_FAILED)
    assert failed["error"] == ("the leg's port is closed" if ended else "no packet of it left on the caller's leg")
    assert told(bench)[-1] == f"The prompt warning was not heard in full: {failed['error']}."
    assert len(bench.all(fx.Play)) == 2 and bench.core.playing is None and bench.core.engine.rung.value == "clear"
    assert bench.now_ms - asked_ms >= min(LEG_MS, 2 * START_MS)


def test_prompt_stopped_by_a_pardon_is_neither_tried_again_nor_complained_of() -> None:
    """What was meant to stop has not failed."""
    for waiting in (False, True):
        bench, play = warned()
        if waiting:
            bench.take(bench.core.leg_down("c", "", bench.now_ms))
            bench.take(bench.core.prompt_done(play.token, False, "no leg", bench.now_ms))
        bench.take(bench.core.hotkey(Hotkey(Key.PARDON, "agent:201"), bench.now_ms))
        if not waiting:
            bench.take(bench.core.prompt_done(play.token, False, "stopped", bench.now_ms))
        bench.take(bench.core.leg_up("c2", Side.CALLER, bench.now_ms))
        bench.wait(3_000)
        assert len(bench.all(fx.Play)) == 1 and bench.core.playing is None
        assert not [text for text in told(bench) if "not heard" in text]


def test_word_of_the_pbx_about_nothing_that_was_asked_is_left_alone() -> None:
    """Late news of an ending that is over."""
    said: list[str] = []
    asked = Asked(lambda *_: None, said.append)
    asked.sent("transfer", "299 is ringing", 0)
    assert said == [] and asked.next_deadline_ms() is None


def test_prompt_cut_off_by_the_end_of_the_call_is_journalled_as_not_heard() -> None:
    """The PBX says that the call is over before our leg does: the journal must not look as if the caller had heard."""
    bench, play = warned()
    bench.take(bench.core.prompt_started(play.token, bench.now_ms, bench.now_ms))
    bench.take(bench.core.close("the call is over", bench.now_ms))
    bench.take(bench.core.prompt_done(play.token, False, "the leg is gone", bench.now_ms))
    assert [row["error"] for row in bench.rows(JournalEvent.ACTION_FAILED)] == ["the call is over"]
