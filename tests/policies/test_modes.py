"""How far the policy goes by itself: whatever happens in a call, no mode does more than it says."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from ivr.judge import load_pack
from policies.engine import Engine
from policies.ladder import LadderState, Rung
from policies.pack import Mode, Pack
from policies.suggest import GONE, OFFER_MS
from policies.types import (
    Action,
    Conduct,
    ConductKind,
    EndCall,
    EndKind,
    Hotkey,
    Key,
    Notify,
    PauseAgent,
    PlayPrompt,
    PromptDone,
    Record,
    Side,
    StartCountdown,
    StopCountdown,
    StopPrompt,
    Suggest,
    Utterance,
)

EFFECTS = (PlayPrompt, StartCountdown, EndCall, PauseAgent)
"""What a caller would notice, or what would end their call; stopping either is always allowed."""
INSULT = "you useless idiot"
WORDS = (INSULT, "I know where you live", "this fucking router", "thank you", "I want to kill myself", "")
PACKS = {name: load_pack(name, meaning=False) for name in ("standard", "strict", "patient")}

words = st.tuples(st.just("words"), st.sampled_from(WORDS))
prompt_over = st.tuples(st.just("prompt"), st.booleans())
wait = st.tuples(st.just("wait"), st.integers(100, 60_000))
shout = st.tuples(st.just("shout"), st.none())
keys = st.tuples(st.just("key"), st.sampled_from(list(Key)))
happenings = st.lists(st.one_of(words, words, words, prompt_over, prompt_over, wait, wait, shout), max_size=30)
with_keys = st.lists(st.one_of(words, words, prompt_over, wait, shout, keys), max_size=30)


class Call:
    """One call: what happens goes in, and every action is kept with what caused it."""

    def __init__(self, pack: Pack, mode: Mode) -> None:
        self.engine, self.now_ms = Engine(pack, mode=mode), 1_000
        self.playing: str | None = None
        self.log: list[tuple[str, LadderState, Action]] = []

    def step(self, kind: str, what: object) -> list[Action]:
        """One happening, with the deadlines that fell due before it."""
        before = self.engine.state
        self.now_ms += int(what) if kind == "wait" else 700  # type: ignore[call-overload]
        self._take("time", before, self.engine.on_deadline(self.now_ms))
        before = self.engine.state
        actions = self._hear(kind, what)
        self._take(kind, before, actions)
        return actions

    def _hear(self, kind: str, what: object) -> list[Action]:
        now_ms = self.now_ms
        if kind == "words":
            return self.engine.hear(Utterance(str(what), Side.CALLER, now_ms - 600, now_ms), now_ms)
        if kind == "shout":
            return self.engine.hear(Conduct(ConductKind.SHOUTING, now_ms - 600, now_ms, 12.0), now_ms)
        if kind == "key":
            assert isinstance(what, Key)
            return self.engine.hear(Hotkey(what, "agent:201"), now_ms)
        if kind == "prompt" and self.playing is not None:
            prompt, self.playing = self.playing, None
            return self.engine.hear(PromptDone(prompt, now_ms, bool(what)), now_ms)
        return []

    def _take(self, kind: str, before: LadderState, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, PlayPrompt):
                self.playing = action.prompt
            self.log.append((kind, before, action))

    def effects(self) -> list[tuple[str, LadderState, Action]]:
        """What left for the caller or their call."""
        return [entry for entry in self.log if isinstance(entry[2], EFFECTS)]


@given(st.sampled_from(sorted(PACKS)), with_keys)
@settings(max_examples=60, deadline=None)
def test_in_shadow_no_effect_ever_leaves(name: str, story: list[tuple[str, object]]) -> None:
    """Records, and nothing else: no prompt, no page, no suggestion, keys or not."""
    call = Call(PACKS[name], Mode.SHADOW)
    for kind, what in story:
        call.step(kind, what)
    assert all(isinstance(action, Record) for _, _, action in call.log)


@given(st.sampled_from(sorted(PACKS)), happenings)
@settings(max_examples=60, deadline=None)
def test_in_suggest_nothing_happens_without_a_key_and_the_ladder_stays_truthful(
    name: str, story: list[tuple[str, object]]
) -> None:
    """Nobody was warned, so nobody is; only somebody in danger disarms."""
    call = Call(PACKS[name], Mode.SUGGEST)
    for kind, what in story:
        call.step(kind, what)
        assert call.engine.rung in (Rung.CLEAR, Rung.DISARMED) and call.engine.strikes == 0
        assert call.engine.state.pending is None and call.engine.countdown_deadline_ms is None
    assert call.effects() == []


@given(st.sampled_from(sorted(PACKS)), with_keys)
@settings(max_examples=80, deadline=None)
def test_in_suggest_every_effect_answers_a_key(name: str, story: list[tuple[str, object]]) -> None:
    """A prompt or an ending comes at a key press, or carries on the ending that a key press began."""
    call = Call(PACKS[name], Mode.SUGGEST)
    for kind, what in story:
        call.step(kind, what)
    for kind, before, action in call.effects():
        carried_on = before.countdown is not None and before.countdown.by == "agent:201"
        assert kind == "key" or (carried_on and isinstance(action, PlayPrompt | EndCall))


@given(st.sampled_from(sorted(PACKS)), with_keys)
@settings(max_examples=80, deadline=None)
def test_in_warn_no_ending_begins_without_a_key(name: str, story: list[tuple[str, object]]) -> None:
    """Warnings are automatic; a countdown starts at a key only, and every ending had one."""
    call = Call(PACKS[name], Mode.WARN)
    for kind, what in story:
        call.step(kind, what)
        assert call.engine.rung is not Rung.ENDING or call.engine.state.countdown.by == "agent:201"  # type: ignore[union-attr]
    for kind, before, action in call.effects():
        assert not isinstance(action, StartCountdown) or kind == "key"
        assert not isinstance(action, EndCall) or (before.countdown and before.countdown.by == "agent:201")


@given(st.sampled_from(sorted(PACKS)), with_keys, st.sampled_from([Mode.SUGGEST, Mode.WARN]))
@settings(max_examples=60, deadline=None)
def test_what_pages_show_as_offered_is_what_the_engine_offers(
    name: str, story: list[tuple[str, object]], mode: Mode
) -> None:
    """A page that follows the events knows at any time what a key would do."""
    call, shown = Call(PACKS[name], mode), GONE
    for kind, what in story:
        for action in call.step(kind, what):
            if isinstance(action, Suggest):
                shown = action
        offered = call.engine.offered(call.now_ms)
        assert (offered.action() if offered else None) == (shown if shown.until_ms > call.now_ms else None)


def _call(mode: Mode, **ending: object) -> Call:
    pack = PACKS["standard"]
    spec = pack.spec.model_copy(update={"ending": pack.spec.ending.model_copy(update=ending)})
    return Call(replace(pack, spec=spec), mode)


def test_offered_step_is_carried_out_by_its_key_and_counts_once_it_was_heard() -> None:
    """Under suggest the warn key plays what was offered: the request, not the warning."""
    call = _call(Mode.SUGGEST)
    actions = call.step("words", "this fucking router is broken again")
    offered = next(a for a in actions if isinstance(a, Suggest))
    assert (offered.step, offered.key, offered.until_ms) == ("gentle_request", Key.WARN, call.now_ms + OFFER_MS)
    pressed = call.step("key", Key.WARN)
    assert [a.prompt for a in pressed if isinstance(a, PlayPrompt)] == ["gentle_request"] and GONE in pressed
    assert call.engine.rung is Rung.CLEAR
    call.step("prompt", True)
    assert call.engine.rung is Rung.CAUTIONED


def test_offer_that_ran_out_leaves_the_key_its_usual_meaning() -> None:
    """A minute later warn is the warning again."""
    call = _call(Mode.SUGGEST)
    call.step("words", "this fucking router is broken again")
    call.step("wait", OFFER_MS)
    assert call.engine.offered(call.now_ms) is None
    assert [a.prompt for a in call.step("key", Key.WARN) if isinstance(a, PlayPrompt)] == ["warning"]


@pytest.mark.parametrize(
    ("kind", "key", "prompt"),
    [
        (EndKind.TRANSFER, Key.TRANSFER, "closing_transfer"),
        (EndKind.HANGUP, Key.END, "closing_hangup"),
        (EndKind.MENU, Key.END, "closing_menu"),
    ],
)
def test_withheld_ending_leaves_the_rung_and_names_the_key_that_ends(kind: EndKind, key: Key, prompt: str) -> None:
    """Under warn the second insult offers the pack's own ending; the key it names does just that."""
    call = _call(Mode.WARN, kind=kind, fallbacks=())
    call.step("words", INSULT)
    call.step("prompt", True)
    call.step("wait", 10_000)
    actions = call.step("words", INSULT)
    assert call.engine.rung is Rung.WARNED and call.engine.strikes == 1
    offered = next(a for a in actions if isinstance(a, Suggest))
    assert (offered.step, offered.key, offered.kind) == ("end", key, kind)
    assert any(f"Press {key.value.capitalize()}" in a.text for a in actions if isinstance(a, Notify))
    assert [a.prompt for a in call.step("key", key) if isinstance(a, PlayPrompt)] == [prompt]
    assert call.engine.rung is Rung.ENDING and call.engine.state.countdown.kind is kind  # type: ignore[union-attr]


def test_pardon_takes_an_offer_away() -> None:
    """A person decided; the page is told."""
    call = _call(Mode.WARN)
    call.step("words", INSULT)
    call.step("prompt", True)
    call.step("wait", 10_000)
    call.step("words", INSULT)
    assert GONE in call.step("key", Key.PARDON) and call.engine.offered(call.now_ms) is None


def test_person_in_danger_under_suggest_is_paged_for_and_no_prompt_plays() -> None:
    """People come; the reassuring prompt is the agent's to give."""
    call = _call(Mode.SUGGEST)
    actions = call.step("words", "I want to kill myself")
    assert any(isinstance(a, Notify) and a.page for a in actions)
    assert not any(isinstance(a, PlayPrompt | StopPrompt | StopCountdown) for a in actions)
    assert call.engine.rung is Rung.DISARMED and call.engine.state.pending is None


def test_transfer_key_with_a_target_goes_there_and_an_automatic_ending_does_not() -> None:
    """Take-over: the supervisor's own extension rides with this ending only."""
    call = _call(Mode.FULL)
    engine, pack = call.engine, call.engine.pack
    engine.hear(Hotkey(Key.TRANSFER, "supervisor:Sam", "305"), call.now_ms)
    assert LadderState.from_json(engine.state.to_json()) == engine.state
    done_ms = call.now_ms + pack.spec.timing.hotkey_countdown_ms
    out = engine.hear(PromptDone("closing_transfer", done_ms, True), done_ms)
    assert [a.target for a in out if isinstance(a, EndCall)] == ["305"]
    again = _call(Mode.FULL)
    again.engine.hear(Hotkey(Key.TRANSFER, "supervisor:Sam", "305"), again.now_ms)
    again.engine.hear(Hotkey(Key.PARDON, "agent:201"), again.now_ms)
    again.engine.hear(Hotkey(Key.TRANSFER, "agent:201"), again.now_ms)
    assert again.engine.state.countdown is not None and again.engine.state.countdown.target is None


def test_mode_given_overrides_the_packs_and_nothing_else() -> None:
    """The version names the rules; the mode stands beside it in every record."""
    engine = Engine(load_pack("shadow", meaning=False), mode=Mode.FULL)
    assert engine.pack.mode is Mode.FULL and engine.pack.version == load_pack("shadow", meaning=False).version
    assert [m.value for m in (Engine(engine.pack).pack.mode, Engine(engine.pack, mode=Mode.WARN).pack.mode)] == [
        "full",
        "warn",
    ]


def test_live_call_keeps_the_mode_it_began_with() -> None:
    """An ending that a person was told of is not carried on by a policy that may end nothing, nor cut in half."""
    call = _call(Mode.FULL)
    assert not call.engine.adopt(call.engine.pack.in_mode(Mode.SHADOW)) and call.engine.pack.mode is Mode.FULL
