"""One call: words in order, the right effects, and a human call that outlives every fault of ours."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ivr import effects as fx
from ivr.call import CallOptions
from ivr.phases import TABLE, Happening, Phase
from ivr.types import JournalEvent
from policies.types import EndKind, Hotkey, Key
from tests.ivr.calls import Bench, silence, speech

INSULT = "you are a useless idiot"


def test_call_table_every_phase_is_reachable_and_every_live_phase_can_end() -> None:
    """Walk the table: nothing is dead, nothing is a trap."""
    reached = {Phase.WAITING}
    for _ in Phase:
        reached |= {after for (before, _), after in TABLE.items() if before in reached}
    assert reached == set(Phase)
    for phase in set(Phase) - {Phase.ENDED}:
        assert TABLE[phase, Happening.CLOSED] is Phase.ENDED
    assert not [cell for cell in TABLE if cell[0] is Phase.ENDED]


def test_call_insult_plays_the_warning_and_says_when_it_was_heard_and_decided() -> None:
    """One insult: one prompt, with the times that reaction is measured by."""
    bench = Bench()
    bench.utter(INSULT)
    [play] = bench.all(fx.Play)
    segment = bench.open_segments()[-1].segment
    assert (play.prompt, play.heard_ms, play.decided_ms) == ("warning", segment.end_ms, bench.now_ms)
    [asked] = bench.rows(JournalEvent.ACTION_REQUESTED)
    assert asked["heard_ms"] == segment.end_ms - 1_000 and asked["decided_ms"] == bench.now_ms - 1_000
    assert str(asked["pack"]).startswith("standard@")
    bench.play_out()
    [done] = bench.rows(JournalEvent.ACTION_DONE)
    assert done["first_rtp_ms"] >= done["decided_ms"]
    assert bench.core.engine.rung.value == "warned"
    [strike] = bench.rows(JournalEvent.STRIKE)
    assert strike["heard_ms"] == asked["heard_ms"] and strike["decided_ms"] == asked["decided_ms"]


def test_call_civil_anger_changes_nothing() -> None:
    """Being upset is allowed: no prompt, no strike, no rung."""
    bench = Bench()
    bench.utter("I am so angry about this, I have waited three weeks and it is a disgrace")
    assert bench.all(fx.Play) == []
    assert bench.rows(JournalEvent.STRIKE) == bench.rows(JournalEvent.RUNG) == []


def test_call_two_insults_end_only_after_a_heard_closing_prompt_and_the_countdown() -> None:
    """Warning, then closing prompt, then countdown, then the PBX is asked: in this order and never sooner."""
    bench = Bench()
    bench.utter(INSULT)
    bench.play_out()
    bench.hear(silence(6_000))
    bench.utter("you stupid worthless moron")
    assert [play.prompt for play in bench.all(fx.Play)] == ["warning", "closing_transfer"]
    assert bench.all(fx.End) == []
    bench.play_out()
    bench.wait(10_000)
    [end] = bench.all(fx.End)
    assert end.attempts[0] is EndKind.TRANSFER
    bench.take(bench.core.ended(EndKind.TRANSFER, "confirmed", bench.now_ms))
    assert {leg.leg_id for leg in bench.all(fx.DropLeg)} == {"c", "a"}
    assert isinstance(bench.seen[-1], fx.Finished)


def test_call_ending_that_the_pbx_does_not_confirm_leaves_the_call_and_tells_the_agent() -> None:
    """Fail open: no confirmation, no ending, and a person is told."""
    bench = Bench()
    bench.utter(INSULT)
    bench.play_out()
    bench.hear(silence(6_000))
    bench.utter("you stupid worthless moron")
    bench.play_out()
    bench.wait(10_000)
    effects = bench.take(bench.core.ended(None, "the supervisor did not answer", bench.now_ms))
    assert bench.core.phase is Phase.LIVE
    assert bench.core.engine.rung.value not in ("ending", "ended")
    told = [effect.text for effect in effects if isinstance(effect, fx.Tell)]
    assert any("the supervisor did not answer" in text for text in told)
    bench.hear(silence(6_000))
    bench.utter(INSULT)
    assert bench.all(fx.Play)[-1].prompt == "closing_transfer"


def test_call_pardon_in_the_countdown_stops_prompt_and_ending() -> None:
    """One key is always the agent's."""
    bench = Bench()
    bench.utter(INSULT)
    bench.play_out()
    bench.hear(silence(6_000))
    bench.utter(INSULT)
    effects = bench.take(bench.core.hotkey(Hotkey(Key.PARDON, "agent:201"), bench.now_ms))
    assert any(isinstance(effect, fx.StopPlaying) for effect in effects)
    bench.take(bench.core.prompt_done(bench.all(fx.Play)[-1].token, False, "stopped", bench.now_ms))
    bench.wait(60_000)
    assert bench.all(fx.End) == []
    assert bench.rows(JournalEvent.HOTKEY) == [{"key": "pardon", "by": "agent:201"}]


def test_call_transcripts_that_overtake_each_other_reach_the_policy_in_order() -> None:
    """Two workers may finish out of turn; the story stays in order."""
    bench = Bench()
    for _ in range(2):
        bench.hear(np.concatenate([speech("pat_insult"), silence(600)]))
    asked = bench.open_segments()
    assert len(asked) >= 2
    bench.said(asked[-1], "second")
    assert bench.rows(JournalEvent.UTTERANCE) == []
    for each in asked[:-1]:
        bench.said(each, "first")
    assert [row["words"] for row in bench.rows(JournalEvent.UTTERANCE)][-2:] == ["first", "second"]


def test_call_words_under_our_own_prompt_are_recorded_and_never_counted() -> None:
    """The segment is cut at the prompt's edges, and what lies between is marked."""
    bench = Bench()
    bench.utter(INSULT)
    play = bench.all(fx.Play)[-1]
    bench.take(bench.core.prompt_started(play.token, bench.now_ms, bench.now_ms))
    before = len(bench.open_segments())
    bench.hear(np.concatenate([speech("pat_insult"), silence(600)]))
    under = bench.open_segments()[before:]
    assert under and all(each.segment.over_prompt for each in under)
    for each in under:
        bench.said(each, INSULT)
    assert len(bench.rows(JournalEvent.STRIKE)) == 1
    bench.take(bench.core.prompt_done(play.token, True, "", bench.now_ms))
    bench.hear(silence(6_000))
    bench.utter("thank you that is kind")
    assert bench.rows(JournalEvent.UTTERANCE)[-1]["over_prompt"] is False


def test_call_prompt_that_never_left_does_not_raise_the_rung() -> None:
    """A warning that nobody heard warned nobody."""
    bench = Bench()
    bench.utter(INSULT)
    play = bench.all(fx.Play)[-1]
    bench.take(bench.core.prompt_done(play.token, False, "no leg to the caller", bench.now_ms))
    bench.wait(2_000)
    assert bench.core.engine.rung.value == "clear"
    assert bench.rows(JournalEvent.ACTION_FAILED)[0]["error"] == "no leg to the caller"


def test_call_second_leg_of_a_side_replaces_the_first_and_keeps_the_rung() -> None:
    """A PBX that taps again within a call finds the same ladder."""
    bench = Bench()
    bench.utter(INSULT)
    bench.play_out()
    bench.take(bench.core.leg_up("c2", bench.core._legs[next(iter(bench.core._legs))].side, bench.now_ms))
    assert bench.all(fx.DropLeg)[-1].leg_id == "c"
    bench.take(bench.core.leg_down("c", "replaced", bench.now_ms))
    assert bench.core.phase is Phase.LIVE and bench.core.engine.rung.value == "warned"


def test_call_whose_legs_are_gone_lingers_then_ends_once() -> None:
    """Both legs lost: two seconds for the PBX to tap again, then it is over."""
    bench = Bench()
    bench.take(bench.core.leg_down("a", "bye", bench.now_ms))
    bench.take(bench.core.leg_down("c", "bye", bench.now_ms))
    assert bench.core.phase is Phase.CLOSING
    bench.wait(5_000)
    assert bench.core.phase is Phase.ENDED
    assert len(bench.all(fx.Finished)) == 1 and len(bench.rows(JournalEvent.CALL_ENDED)) == 1


def test_call_tapped_again_while_lingering_goes_on_with_its_strikes() -> None:
    """A transfer inside the PBX must not wipe the slate."""
    bench = Bench()
    bench.utter(INSULT)
    bench.play_out()
    for leg in ("a", "c"):
        bench.take(bench.core.leg_down(leg, "bye", bench.now_ms))
    bench.wait(1_000)
    from policies.types import Side

    bench.take(bench.core.leg_up("c9", Side.CALLER, bench.now_ms))
    assert bench.core.phase is Phase.LIVE
    assert bench.core.engine.strikes == 1 and bench.core.engine.rung.value == "warned"


def test_call_losing_only_the_caller_leg_is_told_and_is_not_an_ending() -> None:
    """Deaf is a fault of ours, told to ops; the human call goes on."""
    bench = Bench()
    bench.take(bench.core.leg_down("c", "rtp timeout", bench.now_ms))
    assert bench.core.phase is Phase.DEAF
    assert bench.all(fx.Tell) == [], "at a normal end the other leg goes a moment later"
    bench.wait(5_000)
    assert len(bench.all(fx.Tell)) == 1
    assert "no longer hear the caller" in bench.all(fx.Tell)[-1].text
    assert bench.all(fx.Finished) == []


def test_call_leg_without_audio_is_told_once_and_its_return_too() -> None:
    """One-way audio is the commonest fault of a new installation: say it, once."""
    bench = Bench(both=False, options=CallOptions(no_audio_ms=2_000))
    bench.wait(10_000)
    told = [effect.text for effect in bench.all(fx.Tell)]
    assert len([text for text in told if "no audio from the caller leg" in text]) == 1
    bench.hear(silence(40))
    assert "audio is back" in bench.all(fx.Tell)[-1].text


def test_call_recogniser_failure_is_told_once_and_costs_only_the_words() -> None:
    """Hearing fails, the call does not."""
    bench = Bench()
    for _ in range(2):
        before = len(bench.open_segments())
        bench.hear(np.concatenate([speech("pat_insult"), silence(600)]))
        for each in bench.open_segments()[before:]:
            bench.said(each, "", dropped="asr_failed")
    assert len([t for t in bench.all(fx.Tell) if "could not decode" in t.text]) == 1
    assert bench.core.phase is Phase.LIVE


@pytest.mark.parametrize("key", list(Key))
def test_call_that_is_over_absorbs_everything(key: Key) -> None:
    """After the end nothing comes out, whatever comes in; a late leg is only hung up."""
    bench = Bench()
    bench.take(bench.core.close("stopping", bench.now_ms))
    count = len(bench.seen)
    from policies.types import Side

    core, now = bench.core, bench.now_ms
    out = list(
        itertools.chain(
            core.hotkey(Hotkey(key, "agent:201"), now),
            core.leg_down("c", "bye", now),
            core.on_deadline(now + 100_000),
            core.ended(EndKind.HANGUP, "late", now),
            core.prompt_done(1, True, "", now),
            core.close("again", now),
        )
    )
    assert [effect for effect in out if not isinstance(effect, fx.Journal)] == []
    assert core.leg_up("late", Side.CALLER, now) == [fx.DropLeg("late", "the call is over")]
    assert core.next_deadline_ms() is None and len(bench.seen) == count


def test_call_shouting_plays_the_calming_prompt_and_counts_no_strike() -> None:
    """Levels and words of the caller's leg reach the policy as conduct; conduct alone moves no rung."""
    bench = Bench()
    quiet = (speech("pat_insult").astype(np.int32) // 8).astype(np.int16)
    for _ in range(3):
        bench.hear(np.concatenate([quiet, silence(600)]))
    before = len(bench.open_segments())
    for _ in range(2):
        loud = np.clip(speech("pat_insult").astype(np.int32) * 3, -32_768, 32_767).astype(np.int16)
        bench.hear(np.concatenate([loud, silence(600)]))
    for asked in bench.open_segments()[:before]:
        bench.said(asked, "")
    for asked in bench.open_segments()[before:]:
        bench.said(asked, "where is my parcel I want it here today")
    assert [play.prompt for play in bench.all(fx.Play)] == ["calming"]
    assert [row["conduct"] for row in bench.rows(JournalEvent.SIGNAL) if "conduct" in row] == ["shouting"]
    assert bench.rows(JournalEvent.STRIKE) == bench.rows(JournalEvent.RUNG) == []
