"""A ladder laid down by one process and taken up by the next."""

from __future__ import annotations

import pytest

from ivr.judge import load_pack
from policies.ladder import LadderState, Pending, Rung, Strike
from policies.pack import Pack
from policies.resume import MAX_STRIKES, at_rest, joined, shifted, under
from policies.types import Key
from tests.policies.bench import Bench, ends, prompts


def taken_up(old: Bench, pack: Pack) -> Bench:
    """A new process, half a second later, on a clock of its own."""
    rest, _ = at_rest(old.engine.state)
    new = Bench(pack)
    new.now_ms = 70_000
    left = shifted(rest, -old.now_ms)
    new.engine.state = under(pack, shifted(left, new.now_ms - 500), old.engine.pack.version)
    return new


def test_countdown_that_was_under_way_never_ends_a_call_by_itself(standard: Pack) -> None:
    """Closing prompt heard, a second to go, killed: the call goes on, warned; one more strike decides anew, in full."""
    old = Bench(standard)
    old.to_ending()
    old.done("closing_transfer")
    assert old.engine.rung is Rung.ENDING and at_rest(old.engine.state)[1] == "the ending (transfer)"
    new = taken_up(old, standard)
    assert new.engine.rung is Rung.WARNED
    assert ends(new.wait(40_000)) == [] and new.engine.countdown_deadline_ms is None
    assert prompts(new.say("you useless idiot")) == ["closing_transfer"]
    assert ends(new.wait(600)) == []
    new.done("closing_transfer")
    assert len(ends(new.wait(20_000))) == 1


def test_ending_asked_of_the_pbx_that_never_came_goes_back_to_where_it_was_decided(standard: Pack) -> None:
    """The process died between asking and the PBX's answer, and the caller is still with the agent."""
    old = Bench(standard)
    old.to_ending()
    old.done("closing_transfer")
    old.wait(20_000)
    assert old.engine.rung is Rung.ENDED
    assert taken_up(old, standard).engine.rung is Rung.WARNED


def test_warning_cut_off_by_a_kill_is_not_played_again_by_itself_but_by_the_next_strike(standard: Pack) -> None:
    """Half a warning warned nobody; and nobody is warned twice for one strike."""
    old = Bench(standard)
    assert prompts(old.say("you useless idiot")) == ["warning"]
    new = taken_up(old, standard)
    assert new.engine.rung is Rung.CLEAR and len(new.engine.state.strikes) == 1
    assert prompts(new.wait(10_000)) == []
    assert prompts(new.say("you stupid moron")) == ["warning"]


@pytest.mark.parametrize("name", ["standard", "strict", "patient"])
def test_disarmed_stays_disarmed_whatever_the_pack(standard: Pack, name: str) -> None:
    """Somebody may be in danger: above all this must be remembered."""
    old = Bench(standard)
    old.say("I want to kill myself")
    new = taken_up(old, load_pack(name))
    assert new.engine.rung is Rung.DISARMED and not new.engine.armed
    assert prompts(new.say("you useless idiot")) == []
    new.press(Key.ARM)
    assert new.engine.rung is Rung.CLEAR


def test_other_pack_warns_by_its_own_rules_before_it_may_end(standard: Pack) -> None:
    """A final warning under the old pack is none under the new one: cautioned at most, nothing counted."""
    old = Bench(standard)
    old.strike("you useless idiot")
    old.strike("I know where you live")
    assert old.engine.rung is Rung.FINAL
    new = taken_up(old, load_pack("strict"))
    assert new.engine.rung is Rung.CAUTIONED and new.engine.state.strikes == ()
    assert new.strike("you useless idiot") in ("warning", "final_warning")


def test_decay_and_grace_go_on_from_where_they_were(standard: Pack) -> None:
    """The clock of the new process has nothing in common with the old one; civil time was civil all the same."""
    old = Bench(standard)
    old.strike("you useless idiot")
    since_ms = old.engine.state.civil_since_ms
    assert since_ms is not None
    new = taken_up(old, standard)
    assert new.engine.state.civil_since_ms == new.now_ms - 500 - (old.now_ms - since_ms)
    new.wait(standard.spec.timing.decay_ms)
    assert new.engine.rung is Rung.CAUTIONED


def test_key_pressed_before_the_past_was_read_is_joined_with_it() -> None:
    """Whoever is quicker than the database loses nothing: the higher rung, all strikes, and disarmed wins."""
    warned = LadderState(rung=Rung.WARNED, strikes=(Strike("person", -9, True),))
    pressed = LadderState(strikes=(Strike("person", 5),), pending=Pending("warning", 5, Rung.WARNED, 0))
    both = joined(warned, pressed)
    assert both.rung is Rung.WARNED and len(both.strikes) == 2
    assert both.pending is not None and both.pending.strike == 1
    disarmed = LadderState(rung=Rung.DISARMED, reassured=True)
    assert joined(disarmed, pressed).rung is Rung.DISARMED
    assert joined(warned, disarmed).rung is Rung.DISARMED
    assert joined(warned, LadderState()) == warned


def test_strikes_left_behind_are_bounded() -> None:
    """A caller who swears at a machine for an hour leaves no megabyte."""
    many = LadderState(strikes=tuple(Strike("language", t) for t in range(10 * MAX_STRIKES)))
    assert len(at_rest(many)[0].strikes) == MAX_STRIKES
