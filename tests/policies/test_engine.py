"""The ladder lived through: what a call says and what comes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ivr.judge import load_pack
from policies.ladder import LadderState, Rung
from policies.pack import Mode, Pack, Step
from policies.types import (
    Action,
    Audience,
    CallEnded,
    Conduct,
    ConductKind,
    EndCall,
    EndingFailed,
    EndKind,
    Key,
    Notify,
    PauseAgent,
    PromptDone,
    Record,
    Side,
    StartCountdown,
    StopCountdown,
    StopPrompt,
    Utterance,
)
from tests.policies.bench import Bench, ends, prompts, records

INSULT = "you useless idiot"
THREAT = "I know where you live"
CURSE = "this fucking router is broken again"


def _shout(bench: Bench) -> list[str]:
    bench.now_ms += 1_000
    loud = Conduct(ConductKind.SHOUTING, bench.now_ms - 900, bench.now_ms, 12.0)
    out = bench.engine.hear(loud, bench.now_ms)
    bench.log += out
    return prompts(out)


# --- person and severe tracks -----------------------------------------------------------------------------------------


def test_insult_once_plays_the_warning_and_the_rung_waits_for_it(standard: Pack) -> None:
    """The rung rises when the warning was heard, not when it was asked for."""
    bench = Bench(standard)
    assert prompts(bench.say(INSULT)) == ["warning"]
    assert bench.engine.rung is Rung.CLEAR
    bench.done("warning")
    assert (bench.engine.rung, bench.engine.strikes, bench.engine.armed) == (Rung.WARNED, 1, True)


def test_insult_twice_ends_after_closing_prompt_and_countdown(standard: Pack) -> None:
    """Warning, closing prompt, countdown, then the transfer, in this order."""
    bench = Bench(standard)
    out = bench.to_ending()
    assert prompts(out) == ["closing_transfer"]
    assert [a.kind for a in out if isinstance(a, StartCountdown)] == [EndKind.TRANSFER]
    assert bench.engine.countdown_deadline_ms == bench.now_ms + standard.spec.timing.countdown_ms
    assert ends(bench.done("closing_transfer")) == []
    ended = ends(bench.wait(10_000))
    assert [e.kind for e in ended] == [EndKind.TRANSFER]
    assert ended[0].heard_ms is not None
    assert bench.engine.rung is Rung.ENDED
    assert not bench.engine.armed


def test_ending_closing_prompt_longer_than_countdown_waits_for_the_prompt(standard: Pack) -> None:
    """The countdown alone ends nothing, and asks for no time while it waits."""
    bench = Bench(standard)
    bench.to_ending()
    assert ends(bench.wait(10_000)) == []
    assert (bench.engine.next_deadline_ms() or 0) > bench.now_ms
    assert len(ends(bench.done("closing_transfer"))) == 1


def test_threat_once_plays_the_final_warning(standard: Pack) -> None:
    """A threat skips the first warning."""
    bench = Bench(standard)
    assert bench.strike(THREAT) == "final_warning"
    assert bench.engine.rung is Rung.FINAL


def test_threat_after_a_warning_plays_the_final_warning(standard: Pack) -> None:
    """Never a step down, nor straight to the end."""
    bench = Bench(standard)
    bench.strike(INSULT)
    assert bench.strike(THREAT) == "final_warning"


def test_insult_after_a_final_warning_ends(standard: Pack) -> None:
    """The person tracks climb one ladder."""
    bench = Bench(standard)
    bench.strike(THREAT)
    assert prompts(bench.say(INSULT)) == ["closing_transfer"]


def test_warning_unheard_is_played_again_and_does_not_lead_to_an_ending(standard: Pack) -> None:
    """A warning that nobody heard warned nobody."""
    bench = Bench(standard)
    assert bench.strike(INSULT, heard=False) == "warning"
    assert bench.engine.rung is Rung.CLEAR
    assert bench.strike(INSULT) == "warning"
    assert prompts(bench.say(INSULT)) == ["closing_transfer"]


def test_warning_without_an_end_counts_as_unheard_after_the_ceiling(standard: Pack) -> None:
    """A lost report of a prompt's end does not block the ladder."""
    bench = Bench(standard)
    bench.say(INSULT)
    bench.wait(standard.spec.timing.prompt_ceiling_ms + 1)
    assert bench.engine.state.pending is None
    assert bench.engine.rung is Rung.CLEAR
    assert bench.strike(INSULT) == "warning"


def test_min_strikes_below_the_pack_plays_the_step_below_again(standard: Pack) -> None:
    """Two separate strikes at least, however high the rung is."""
    bench = Bench(standard)
    bench.strike(INSULT)
    bench.press(Key.PARDON)
    bench.engine.state = LadderState(rung=Rung.FINAL)
    assert bench.strike(INSULT) == "final_warning"


def test_end_confidence_too_low_plays_the_warning_again(standard: Pack) -> None:
    """Sure enough to warn is not sure enough to end."""
    bench = Bench(standard)
    bench.strike(INSULT)
    assert bench.strike("haha you muppet") == "warning"
    assert bench.engine.rung is Rung.WARNED


def test_confidence_below_minimum_is_recorded_only(standard: Pack) -> None:
    """What may be a joke is a signal."""
    bench = Bench(standard)
    out = bench.say("idiot, haha")
    assert prompts(out) == []
    assert records(out, "signal")[0].data["held"] == "not sure enough to count"


def test_track_without_an_end_repeats_its_last_step(standard: Pack) -> None:
    """A pack may warn for ever; the shared ladder does not end a call on a track that has no ending."""
    person = standard.track("person").model_copy(update={"steps": (Step.WARNING, Step.FINAL_WARNING)})
    tracks = standard.spec.tracks.model_copy(update={"person": person})
    pack = Pack(standard.spec.model_copy(update={"tracks": tracks}), standard.version, standard.lexicon)
    bench = Bench(pack)
    assert [bench.strike(INSULT) for _ in range(4)] == ["warning", *["final_warning"] * 3]


# --- language track ---------------------------------------------------------------------------------------------------


def test_language_asks_twice_then_warns_then_ends(standard: Pack) -> None:
    """Swearing at a thing gets its own, longer way."""
    bench = Bench(standard)
    played = [bench.strike(CURSE) for _ in range(3)]
    assert played == ["gentle_request", "gentle_request", "warning"]
    assert bench.engine.strikes == 0
    assert prompts(bench.say(CURSE)) == ["closing_transfer"]


def test_language_after_a_warning_for_an_insult_gets_the_gentle_request(standard: Pack) -> None:
    """A curse at the router after an insult ends nothing and lowers nothing."""
    bench = Bench(standard)
    bench.strike(INSULT)
    assert bench.strike(CURSE) == "gentle_request"
    assert bench.engine.rung is Rung.WARNED


def test_language_mild_word_passes(standard: Pack) -> None:
    """Nobody is asked for calmer words over a bloody router."""
    bench = Bench(standard)
    out = bench.say("this bloody router")
    assert prompts(out) == []
    assert records(out, "signal")[0].data["held"] == "too mild to count under this pack"


def test_strict_counts_a_mild_curse_as_a_strike(strict: Pack) -> None:
    """Under strict any curse word counts toward the person track."""
    bench = Bench(strict)
    assert bench.strike("this damn router") == "warning"
    assert bench.engine.strikes == 1


def test_patient_language_never_ends() -> None:
    """On a line where distress is normal, swearing is asked about and no more."""
    bench = Bench(load_pack("patient"))
    assert {bench.strike(CURSE) for _ in range(6)} == {"gentle_request"}


# --- guards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({"final": False}, "only a partial hypothesis"),
        ({"speech_confirmed": False}, "not confirmed as speech"),
        ({"over_prompt": True}, "heard over our own prompt"),
        ({"avg_logprob": -1.2}, "the recogniser was not sure of the words"),
    ],
)
def test_guard_words_not_to_be_trusted_are_recorded_only(standard: Pack, changes: dict[str, bool], held: str) -> None:
    """Partials, non-speech, our own prompt and the recogniser's inventions never count."""
    bench = Bench(standard)
    for _ in range(4):
        out = bench.say(INSULT, **changes)  # type: ignore[arg-type]
        assert [(r.event, r.data["held"]) for r in out if isinstance(r, Record)] == [("signal", held)]
        assert len(out) == 1
        bench.wait(5_000)
    assert bench.engine.state == LadderState()


def test_guard_agent_is_never_judged(standard: Pack) -> None:
    """The agent's leg brings nothing at all."""
    assert Bench(standard).say(INSULT, side=Side.AGENT) == []


def test_guard_rant_within_the_warning_and_its_grace_climbs_one_step(standard: Pack) -> None:
    """Words while the warning plays and just after it do not count."""
    bench = Bench(standard)
    bench.say(INSULT)
    assert records(bench.say(INSULT), "signal")[0].data["held"] == "a prompt is being played"
    bench.done("warning")
    assert records(bench.say(INSULT), "signal")[0].data["held"] == "within the grace time of the last prompt"
    assert bench.engine.strikes == 1


def test_guard_words_during_an_ending_are_recorded_only(standard: Pack) -> None:
    """An ending under way needs no more strikes."""
    bench = Bench(standard)
    bench.to_ending()
    assert records(bench.say(INSULT), "signal")[0].data["held"] == "an ending is under way"


def test_guard_category_without_a_track_is_recorded_only(standard: Pack) -> None:
    """An allowance may leave out what a caller cannot help."""
    bench = Bench(standard, adjustment="tourettes")
    out = bench.say(CURSE)
    assert records(out, "signal")[0].data["held"] == "this pack does not count it"


def test_civil_and_venting_bring_nothing(standard: Pack) -> None:
    """Being upset is allowed, without a mark in the journal."""
    bench = Bench(standard)
    assert bench.say("this is unacceptable, I am furious") == []
    assert bench.say("thank you, that helps") == []


# --- conduct and safeguard --------------------------------------------------------------------------------------------


def test_conduct_plays_calming_spaced_and_never_ends(standard: Pack) -> None:
    """Shouting alone brings the calming prompt, a minute apart, for ever."""
    bench = Bench(standard)
    assert _shout(bench) == ["calming"]
    assert _shout(bench) == []
    bench.done("calming")
    assert _shout(bench) == []
    for _ in range(20):
        bench.wait(60_000)
        assert _shout(bench) == ["calming"]
        bench.done("calming")
    assert bench.engine.rung is Rung.CLEAR


def test_conduct_while_disarmed_or_ending_is_recorded_only(standard: Pack) -> None:
    """No calming prompt over a crisis or a closing."""
    bench = Bench(standard)
    bench.press(Key.DISARM)
    assert _shout(bench) == []
    bench = Bench(standard)
    bench.to_ending()
    assert _shout(bench) == []


def test_safeguard_disarms_pages_and_tells_without_a_prompt(standard: Pack) -> None:
    """In standard the agent leads: no machine speaks to a person in crisis."""
    bench = Bench(standard)
    bench.strike(INSULT)
    out = bench.say("I just want to kill myself")
    assert prompts(out) == []
    assert [n.page for n in out if isinstance(n, Notify)] == [True, False]
    assert bench.engine.rung is Rung.DISARMED
    assert bench.strike(THREAT) is None
    assert bench.engine.next_deadline_ms() is None


def test_safeguard_during_the_countdown_stops_it_even_over_our_prompt(standard: Pack) -> None:
    """The caller's danger is worth more than any guard."""
    bench = Bench(standard)
    bench.to_ending()
    out = bench.say("I want to end my life", over_prompt=True)
    assert [type(a) for a in out if isinstance(a, StopPrompt | StopCountdown)] == [StopPrompt, StopCountdown]
    assert ends(bench.wait(120_000)) == []


def test_safeguard_reassures_once_where_the_pack_says_so() -> None:
    """The patient pack speaks once, then leaves the agent to it."""
    bench = Bench(load_pack("patient"))
    assert bench.strike("I want to kill myself") == "crisis_reassurance"
    assert bench.strike("I want to kill myself") is None


def test_safeguard_from_a_partial_is_recorded_only(standard: Pack) -> None:
    """A hypothesis that may be revised pages nobody."""
    bench = Bench(standard)
    bench.say("I want to kill myself", final=False)
    assert bench.engine.rung is Rung.CLEAR


def hinting(standard: Pack) -> Pack:
    """The standard pack, told to warn while words are still being said."""
    guards = standard.spec.guards.model_copy(update={"warn_on_partials": True})
    return replace(standard, spec=standard.spec.model_copy(update={"guards": guards}))


def look(bench: Bench, text: str, start_ms: int, end_ms: int, *, final: bool = False) -> list[Action]:
    """One look at an utterance that goes on, or its final."""
    bench.now_ms = end_ms
    heard = Utterance(text, Side.CALLER, start_ms, end_ms, final)
    out = bench.engine.hear(heard, end_ms)
    bench.log += out
    return out


def test_partial_that_stands_in_two_looks_warns_once_where_the_pack_says_so(standard: Pack) -> None:
    """In mid-sentence; the final of the same words is not counted again, whatever became of the prompt."""
    bench = Bench(hinting(standard))
    assert prompts(look(bench, "you", 0, 700)) == []
    assert prompts(look(bench, "you useless idiot", 0, 1_400)) == []
    assert prompts(look(bench, "you useless idiot who", 0, 2_100)) == ["warning"]
    assert prompts(look(bench, "you useless idiot who cannot", 0, 2_800)) == []
    bench.done("warning", heard=False)
    out = look(bench, "you useless idiot who cannot even listen", 0, bench.now_ms, final=True)
    assert [r.data["held"] for r in records(out, "signal")] == ["counted already, while it was said"]
    assert len(records(bench.log, "strike")) == 1


def test_partial_that_is_revised_or_of_another_utterance_does_not_warn(standard: Pack) -> None:
    """Two looks in a row at the same words of the same utterance, nothing less."""
    bench = Bench(hinting(standard))
    for text, start_ms in ((INSULT, 0), ("you used less oil", 0), (INSULT, 0), (INSULT, 5_000), (THREAT, 5_000)):
        assert prompts(look(bench, text, start_ms, bench.now_ms + 700)) == []
    assert bench.engine.state == LadderState()


def test_ending_never_comes_from_partials(standard: Pack) -> None:
    """However often they say the same: the rung stays until a final has it."""
    bench = Bench(hinting(standard))
    bench.strike(INSULT)
    bench.wait(20_000)
    rung, start_ms = bench.engine.rung, bench.now_ms
    for at in range(1, 12):
        out = look(bench, INSULT, start_ms, start_ms + at * 700)
        assert prompts(out) == ends(out) == []
        assert bench.engine.rung is rung
    assert prompts(look(bench, INSULT, start_ms, bench.now_ms + 700, final=True)) == ["closing_transfer"]


def test_safeguard_from_partials_is_recorded_only_even_where_partials_warn(standard: Pack) -> None:
    """It would disarm the whole call on a hypothesis."""
    bench = Bench(hinting(standard))
    for at in range(1, 5):
        look(bench, "I want to kill myself", 0, at * 700)
    assert bench.engine.rung is Rung.CLEAR and not records(bench.log, "strike")


# --- people -----------------------------------------------------------------------------------------------------------


def test_pardon_during_the_countdown_stops_everything(standard: Pack) -> None:
    """Prompt and countdown stop, one rung down, the strike is taken back."""
    bench = Bench(standard)
    bench.to_ending()
    out = bench.press(Key.PARDON)
    assert [type(a) for a in out if isinstance(a, StopPrompt | StopCountdown)] == [StopPrompt, StopCountdown]
    assert (bench.engine.rung, bench.engine.strikes) == (Rung.WARNED, 1)
    assert ends(bench.wait(600_000)) == []


def test_pardon_after_the_closing_prompt_still_stops_it(standard: Pack) -> None:
    """Until the very last moment."""
    bench = Bench(standard)
    bench.to_ending()
    bench.done("closing_transfer")
    bench.press(Key.PARDON)
    assert ends(bench.wait(60_000)) == []


def test_pardon_while_the_warning_plays_stops_it_and_takes_the_strike_back(standard: Pack) -> None:
    """A wrong warning can be cut short."""
    bench = Bench(standard)
    bench.say(INSULT)
    out = bench.press(Key.PARDON)
    assert any(isinstance(a, StopPrompt) for a in out)
    assert (bench.engine.rung, bench.engine.strikes) == (Rung.CLEAR, 0)


def test_pardon_after_a_warning_goes_one_rung_down(standard: Pack) -> None:
    """And the next insult is warned of again."""
    bench = Bench(standard)
    bench.strike(INSULT)
    bench.press(Key.PARDON)
    assert bench.engine.rung is Rung.CAUTIONED
    bench.wait(10_000)
    assert bench.strike(INSULT) == "warning"


def test_pardon_with_nothing_to_pardon_changes_nothing(standard: Pack) -> None:
    """On a clear call the key is noted and no more."""
    bench = Bench(standard)
    assert [type(a) for a in bench.press(Key.PARDON)] == [Record]


def test_end_key_plays_the_closing_prompt_and_a_short_countdown(standard: Pack) -> None:
    """A person may end at any time, and the caller is told all the same."""
    bench = Bench(standard)
    assert prompts(bench.press(Key.END)) == ["closing_hangup"]
    assert bench.engine.countdown_deadline_ms == bench.now_ms + standard.spec.timing.hotkey_countdown_ms
    assert [e.kind for e in ends(bench.done("closing_hangup"))] == [EndKind.HANGUP]


def test_transfer_key_while_disarmed_works_and_a_pardon_disarms_again(standard: Pack) -> None:
    """People act even when nothing automatic may; their pardon leads back to where it was."""
    bench = Bench(standard)
    bench.press(Key.DISARM)
    assert prompts(bench.press(Key.TRANSFER)) == ["closing_transfer"]
    bench.press(Key.PARDON)
    assert bench.engine.rung is Rung.DISARMED


def test_transfer_key_during_an_automatic_ending_shortens_the_countdown(standard: Pack) -> None:
    """The same ending, sooner, without starting the prompt again."""
    bench = Bench(standard)
    bench.to_ending()
    out = bench.press(Key.TRANSFER)
    assert prompts(out) == []
    assert bench.engine.countdown_deadline_ms == bench.now_ms + standard.spec.timing.hotkey_countdown_ms


def test_end_key_during_a_transfer_ending_changes_kind_and_prompt(standard: Pack) -> None:
    """What the caller hears is always what happens; a pardon still leads back to the warning."""
    bench = Bench(standard)
    bench.to_ending()
    assert prompts(bench.press(Key.END)) == ["closing_hangup"]
    bench.engine.hear(PromptDone("closing_transfer", bench.now_ms, True), bench.now_ms)
    assert bench.engine.rung is Rung.ENDING
    bench.press(Key.PARDON)
    assert bench.engine.rung is Rung.WARNED


def test_warn_key_plays_warning_then_final_warning_and_never_ends(standard: Pack) -> None:
    """A person's warnings count as strikes but end nothing by themselves."""
    bench = Bench(standard)
    played = []
    for _ in range(4):
        played += prompts(bench.press(Key.WARN))
        bench.done(played[-1])
        bench.wait(5_000)
    assert played == ["warning", "final_warning", "final_warning", "final_warning"]
    assert bench.engine.strikes == 4
    assert len(records(bench.log, "strike")) == 4


def test_warn_key_then_an_insult_ends(standard: Pack) -> None:
    """The agent's warning was the warning."""
    bench = Bench(standard)
    bench.press(Key.WARN)
    bench.done("warning")
    bench.wait(5_000)
    assert prompts(bench.say(INSULT)) == ["closing_transfer"]


def test_warn_key_while_a_warning_plays_does_not_play_it_twice(standard: Pack) -> None:
    """Two presses, or a press and a strike, are one warning."""
    bench = Bench(standard)
    bench.press(Key.WARN)
    assert prompts(bench.press(Key.WARN)) == []
    assert bench.engine.strikes == 1


def test_warn_key_while_disarmed_plays_and_moves_nothing(standard: Pack) -> None:
    """The warning is the agent's to give, even in a disarmed call."""
    bench = Bench(standard)
    bench.press(Key.DISARM)
    assert prompts(bench.press(Key.WARN)) == ["warning"]
    bench.done("warning")
    assert (bench.engine.rung, bench.engine.strikes) == (Rung.DISARMED, 0)


def test_warn_key_during_an_ending_is_noted_only(standard: Pack) -> None:
    """The closing prompt is not talked over."""
    bench = Bench(standard)
    bench.to_ending()
    assert [type(a) for a in bench.press(Key.WARN)] == [Record]


def test_minute_key_plays_hold_and_pauses_the_agent(standard: Pack) -> None:
    """A minute for the agent, asked of the caller politely."""
    bench = Bench(standard)
    out = bench.press(Key.MINUTE)
    assert prompts(out) == ["hold_a_minute"]
    assert any(isinstance(a, PauseAgent) for a in out)
    bench.done("hold_a_minute")
    assert bench.engine.rung is Rung.CLEAR


def test_minute_key_during_an_ending_leaves_the_closing_prompt(standard: Pack) -> None:
    """Only the pause is arranged."""
    bench = Bench(standard)
    bench.to_ending()
    assert [type(a) for a in bench.press(Key.MINUTE)] == [Record, PauseAgent]


def test_arm_after_disarm_starts_clear(standard: Pack) -> None:
    """Armed again means from the bottom."""
    bench = Bench(standard)
    bench.strike(INSULT)
    bench.press(Key.DISARM)
    bench.press(Key.ARM)
    assert (bench.engine.rung, bench.engine.strikes, bench.engine.armed) == (Rung.CLEAR, 0, True)


# --- endings that cannot be -------------------------------------------------------------------------------------------


def test_closing_unheard_is_retried_once_then_called_off(standard: Pack) -> None:
    """Nobody is cut off without hearing what happens."""
    bench = Bench(standard)
    bench.to_ending()
    assert prompts(bench.done("closing_transfer", heard=False)) == ["closing_transfer"]
    out = bench.done("closing_transfer", heard=False)
    assert any(isinstance(a, StopCountdown) for a in out)
    assert any(isinstance(a, Notify) and a.audience is Audience.AGENT for a in out)
    assert bench.engine.rung is Rung.WARNED
    assert ends(bench.wait(60_000)) == []


def test_ending_failed_at_the_pbx_goes_on_and_tells(standard: Pack) -> None:
    """A transfer that nobody took leaves a live call, guarded as before."""
    bench = Bench(standard)
    bench.to_ending()
    bench.done("closing_transfer")
    bench.wait(10_000)
    out = bench.engine.hear(EndingFailed("no supervisor"), bench.now_ms)
    assert [n.audience for n in out if isinstance(n, Notify)] == [Audience.AGENT, Audience.SUPERVISOR]
    assert bench.engine.rung is Rung.WARNED


def test_call_ended_absorbs_everything_after(standard: Pack) -> None:
    """After the call nothing comes out, whatever comes in."""
    bench = Bench(standard)
    bench.to_ending()
    assert bench.engine.hear(CallEnded("caller hung up"), bench.now_ms) == []
    assert bench.say(THREAT) == []
    assert bench.press(Key.END) == []
    assert bench.engine.hear(EndingFailed("late"), bench.now_ms) == []
    assert bench.wait(600_000) == []


# --- time -------------------------------------------------------------------------------------------------------------


def test_decay_takes_one_strike_and_one_rung_at_a_time(standard: Pack) -> None:
    """Civil time forgives, step by step."""
    bench = Bench(standard)
    bench.strike(INSULT)
    bench.strike(THREAT)
    seen = []
    for _ in range(4):
        bench.wait(standard.spec.timing.decay_ms)
        seen.append((bench.engine.rung, bench.engine.strikes))
    assert seen == [(Rung.WARNED, 1), (Rung.CAUTIONED, 0), (Rung.CLEAR, 0), (Rung.CLEAR, 0)]
    assert bench.engine.next_deadline_ms() is None


def test_decay_then_an_insult_is_warned_of_again(standard: Pack) -> None:
    """What is forgiven does not count toward an ending."""
    bench = Bench(standard)
    bench.strike(INSULT)
    bench.wait(standard.spec.timing.decay_ms)
    assert bench.strike(INSULT) == "warning"


def test_decay_waits_for_civil_time(standard: Pack) -> None:
    """Words that did not count still are not civil."""
    bench = Bench(standard)
    bench.strike(INSULT)
    bench.wait(170_000)
    bench.say("this bloody thing")
    bench.wait(100_000)
    assert bench.engine.rung is Rung.WARNED


def test_deadline_called_early_does_nothing(standard: Pack) -> None:
    """A timer that fires too soon is harmless."""
    bench = Bench(standard)
    bench.strike(INSULT)
    assert bench.engine.on_deadline(bench.now_ms) == []


# --- modes and adjustments --------------------------------------------------------------------------------------------


def test_mode_warn_warns_by_itself_and_leaves_the_ending_to_a_person(standard: Pack) -> None:
    """An ending needs a human's key."""
    bench = Bench(standard, mode=Mode.WARN)
    assert bench.strike(INSULT) == "warning"
    out = bench.say(INSULT)
    assert prompts(out) == []
    assert [a.text for a in out if isinstance(a, Notify)] == [
        "The policy would end the call: the caller insulted you. Press Transfer to do so."
    ]
    assert prompts(bench.press(Key.END)) == ["closing_hangup"]


def test_mode_suggest_does_nothing_by_itself(standard: Pack) -> None:
    """It says what it would do; the agent's key does it."""
    bench = Bench(standard, mode=Mode.SUGGEST)
    out = bench.say(INSULT)
    assert prompts(out) == []
    assert any(isinstance(a, Notify) for a in out)
    assert _shout(bench) == []
    assert prompts(bench.press(Key.WARN)) == ["warning"]


def test_mode_shadow_records_and_never_acts() -> None:
    """Only records come out, and they tell how far it would have gone."""
    bench = Bench(load_pack("shadow"))
    for text in (INSULT, INSULT, THREAT, INSULT, CURSE, "I want to kill myself"):
        bench.say(text)
        bench.wait(10_000)
    _shout(bench)
    bench.press(Key.END)
    assert bench.log
    assert all(isinstance(a, Record) for a in bench.log)
    assert [r.data["would"] for r in records(bench.log, "signal") if "would" in r.data][0] == "end"


def test_adjustment_lengthens_the_ladder(standard: Pack) -> None:
    """One step more, for the same words."""
    bench = Bench(standard, adjustment="disability")
    assert [bench.strike(INSULT) for _ in range(2)] == ["warning", "final_warning"]
    assert prompts(bench.say(INSULT)) == ["closing_transfer"]
    assert bench.engine.pack.version == f"{standard.version}+disability"


def test_adjustment_unknown_is_refused(standard: Pack) -> None:
    """A wrong name is an error at once, not a silent nothing."""
    with pytest.raises(KeyError):
        Bench(standard, adjustment="nobody")


# --- records ----------------------------------------------------------------------------------------------------------


def test_strike_record_says_who_what_when_and_why(standard: Pack) -> None:
    """A row that an appeal can be decided on."""
    bench = Bench(standard)
    row = records(bench.say("well, you useless idiot"), "strike")[0].data
    assert row["pack"] == standard.version
    assert (row["track"], row["category"], row["step"], row["agent"]) == ("person", "insult", "warning", "201")
    assert row["words"] == ["idiot"] or "idiot" in str(row["words"])
    assert row["heard_ms"] == row["decided_ms"] == bench.now_ms
    assert row["why"]


def test_end_call_is_asked_for_once(standard: Pack) -> None:
    """However often the deadline is looked at."""
    bench = Bench(standard)
    bench.to_ending()
    bench.done("closing_transfer")
    bench.wait(10_000)
    bench.wait(10_000)
    assert len([a for a in bench.log if isinstance(a, EndCall)]) == 1


def test_prompt_done_for_another_prompt_is_ignored(standard: Pack) -> None:
    """The notice at the start of a call moves nothing."""
    bench = Bench(standard)
    bench.say(INSULT)
    assert bench.done("notice") == []
    assert bench.engine.state.pending is not None
