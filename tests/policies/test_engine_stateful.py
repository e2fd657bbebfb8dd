"""Any sequence of events at all: what must never happen does not."""

from __future__ import annotations

import json

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ivr.judge import load_pack
from policies.engine import Engine
from policies.ladder import CLIMB, LadderState, Rung
from policies.resume import at_rest, shifted, under
from policies.types import (
    Action,
    CallEnded,
    Conduct,
    ConductKind,
    EndCall,
    EndingFailed,
    Hotkey,
    Key,
    PlayPrompt,
    PromptDone,
    Record,
    Side,
    StartCountdown,
    StopCountdown,
    Utterance,
)

_PACKS = {name: load_pack(name) for name in ("standard", "strict", "patient", "shadow")}
_WORDS = (
    "you useless idiot",
    "I know where you live",
    "this fucking router",
    "this bloody thing",
    "I am furious",
    "thank you",
    "I want to kill myself",
    "haha you muppet",
    "",
)
_WARNINGS = ("warning", "final_warning")


class CallMachine(RuleBasedStateMachine):
    """One call; the oracle keeps its own plain notes of what was played, heard and pressed."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 1_000
        self.playing: list[str] = []
        self.warned = False
        self.deadline_ms: int | None = None
        self.pressed_end = False
        self.counted = 0
        self.disarmed = False
        self.over = False
        self.last_heard: str | None = None

    @initialize(name=st.sampled_from(sorted(_PACKS)), adjustment=st.sampled_from([None, "tourettes", "vulnerable"]))
    def start(self, name: str, adjustment: str | None) -> None:
        self.name = name
        self.engine = Engine(_PACKS[name], adjustment=adjustment)

    def take(self, actions: list[Action]) -> None:
        assert not (self.over and actions), "something came out after the call"
        for action in actions:
            if self.name == "shadow":
                assert isinstance(action, Record)
            if isinstance(action, PlayPrompt):
                self.playing, self.last_heard = [action.prompt], None
            if isinstance(action, Record) and action.event == "strike":
                self.counted += 1
            if isinstance(action, StartCountdown):
                self.deadline_ms = action.deadline_ms
            if isinstance(action, StopCountdown):
                self.deadline_ms, self.pressed_end = None, False
            if isinstance(action, EndCall):
                self.check_end(action)

    def check_end(self, action: EndCall) -> None:
        assert self.last_heard == f"closing_{action.kind.value}", "ended without its closing prompt heard"
        assert self.deadline_ms is not None and self.now_ms >= self.deadline_ms, "ended within the countdown"
        if not self.pressed_end:
            assert self.warned, "ended without a heard warning"
            assert self.counted >= 2, "ended on a single strike"
            assert not self.disarmed, "ended while disarmed"
            assert self.engine.pack.name != "shadow"

    @rule(
        text=st.sampled_from(_WORDS),
        final=st.sampled_from([True, True, True, False]),
        over=st.sampled_from([False, False, False, True]),
        sure=st.sampled_from([True, True, True, False]),
        gap_ms=st.sampled_from([10, 2_000, 9_000]),
    )
    def say(self, text: str, final: bool, over: bool, sure: bool, gap_ms: int) -> None:
        self.now_ms += gap_ms
        heard = Utterance(text, Side.CALLER, self.now_ms, self.now_ms + 500, final, sure, over)
        self.now_ms += 500
        before = self.engine.state
        out = self.engine.hear(heard, self.now_ms)
        if not final or not sure:
            assert all(isinstance(a, Record) and a.event == "signal" for a in out)
            assert self.engine.state == before
        if "kill myself" in text and final and sure and self.engine.rung is not Rung.ENDED:
            self.disarmed, self.pressed_end = True, False
        self.take(out)

    @rule(kind=st.sampled_from(list(ConductKind)))
    def conduct(self, kind: ConductKind) -> None:
        self.now_ms += 700
        before = self.engine.rung
        self.take(self.engine.hear(Conduct(kind, self.now_ms - 500, self.now_ms, 1.0), self.now_ms))
        assert self.engine.rung is before

    @rule(key=st.sampled_from(list(Key)))
    def press(self, key: Key) -> None:
        self.now_ms += 50
        before = self.engine.rung
        acts = self.name != "shadow" and before is not Rung.ENDED
        if acts and key in (Key.END, Key.TRANSFER):
            self.pressed_end = True
        out = self.engine.hear(Hotkey(key, "agent:201"), self.now_ms)
        self.take(out)
        if acts and key is Key.DISARM:
            self.disarmed = True
        if acts and key is Key.ARM and before is Rung.DISARMED:
            self.disarmed = False
        if key is Key.PARDON and before is Rung.ENDING:
            assert any(isinstance(a, StopCountdown) for a in out)
            assert self.engine.rung is not Rung.ENDING
            self.pressed_end = False

    @rule(heard=st.sampled_from([True, True, True, False]))
    def prompt_done(self, heard: bool) -> None:
        self.now_ms += 2_500
        self.run_deadlines()
        for prompt in self.playing:
            self.playing = []
            if heard:
                self.last_heard = prompt
                self.warned = self.warned or prompt in _WARNINGS
            self.take(self.engine.hear(PromptDone(prompt, self.now_ms, heard), self.now_ms))

    @rule(ms=st.sampled_from([100, 3_000, 13_000, 31_000, 200_000]))
    def wait(self, ms: int) -> None:
        self.now_ms += ms
        self.run_deadlines()

    def run_deadlines(self) -> None:
        self.take(self.engine.on_deadline(self.now_ms))
        due = self.engine.next_deadline_ms()
        assert due is None or due > self.now_ms, "a deadline that is never met"

    @rule()
    def ending_failed(self) -> None:
        self.take(self.engine.hear(EndingFailed("no answer"), self.now_ms))
        if self.engine.rung is not Rung.ENDING:
            self.deadline_ms, self.pressed_end = None, False

    @rule(other=st.sampled_from([None, None, "standard", "strict", "shadow"]), down_ms=st.sampled_from([0, 2_000]))
    def restart(self, other: str | None, down_ms: int) -> None:
        """The process dies and another goes on, perhaps under another pack: nothing plays, nothing counts down."""
        if self.over:
            return
        old = self.engine
        rest, _ = at_rest(old.state)
        left = LadderState.from_json(json.loads(json.dumps(shifted(rest, -self.now_ms).to_json())))
        self.now_ms += down_ms
        self.name = other or self.name
        self.engine = Engine(_PACKS[other]) if other else Engine(old.pack)
        self.engine.state = under(self.engine.pack, shifted(left, self.now_ms - down_ms), old.pack.version)
        state = self.engine.state
        assert state.pending is None and state.countdown is None and state.asked_from is None
        assert state.rung not in (Rung.ENDING, Rung.ENDED)
        assert (state.rung is Rung.DISARMED) == (rest.rung is Rung.DISARMED)
        if old.rung is Rung.DISARMED:
            assert state.rung is Rung.DISARMED
        if self.engine.pack.version != old.pack.version:
            self.warned, self.counted = False, 0
        elif rest.rung in CLIMB:
            assert state.rung is rest.rung
        self.playing, self.deadline_ms, self.pressed_end = [], None, False

    @rule(really=st.integers(0, 9))
    def call_ended(self, really: int) -> None:
        if really == 0:
            assert self.engine.hear(CallEnded(), self.now_ms) == []
            self.over = True

    @invariant()
    def state_survives_storage(self) -> None:
        if hasattr(self, "engine"):
            state = self.engine.state
            assert LadderState.from_json(state.to_json()) == state
            assert (state.countdown is not None) == (state.rung is Rung.ENDING)


CallMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnySequence = CallMachine.TestCase
