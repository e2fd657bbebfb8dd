"""The facade of one call's judgement: what was heard goes in, actions come out.

Owns: the guards (what counts at all), the mode (what may be automatic), deadlines, the journal's records. Never: a
clock, a socket, a prompt's sound. One engine serves one call and is driven from one thread.
"""

from __future__ import annotations

from dataclasses import replace

from policies import ladder
from policies.ladder import Cause, LadderState, Move, Rung
from policies.pack import Mode, Pack, Step
from policies.suggest import ENDS_OFFER, GONE, Offer, offer
from policies.types import (
    Action,
    Audience,
    CallEnded,
    CarriedOn,
    Category,
    Conduct,
    EndingFailed,
    EndKind,
    Event,
    Hotkey,
    Key,
    Notify,
    PlayPrompt,
    PromptDone,
    PromptStarted,
    Record,
    Side,
    Utterance,
    Verdict,
)
from policies.verdict import by_words, judge

_KEYS = {
    Key.WARN: Cause.KEY_WARN,
    Key.PARDON: Cause.KEY_PARDON,
    Key.END: Cause.KEY_END,
    Key.TRANSFER: Cause.KEY_TRANSFER,
    Key.DISARM: Cause.KEY_DISARM,
    Key.ARM: Cause.KEY_ARM,
    Key.MINUTE: Cause.KEY_MINUTE,
}
_CONDUCT = {
    "shouting": "the caller is shouting",
    "talking_over": "the caller talks over you",
    "interrupting": "the caller keeps interrupting",
}
_PLAIN = {
    Category.OBSCENITY: "the caller swore",
    Category.INSULT: "the caller insulted you",
    Category.THREAT: "the caller threatened you",
    Category.SLUR: "the caller used a slur",
    Category.SEXUAL: "the caller made a sexual remark",
    Category.SAFEGUARD: "the caller or somebody else may be in danger",
}


class Engine:
    """One call under one pack.

    ``adjustment`` names an allowance of the pack for this queue or caller; ``agent_ext`` is kept with the records;
    ``mode`` overrides the pack's.

    Raises:
        KeyError: the pack has no such adjustment.
    """

    def __init__(
        self, pack: Pack, *, adjustment: str | None = None, agent_ext: str | None = None, mode: Mode | None = None
    ) -> None:
        self._pack = pack.adjusted(adjustment).in_mode(mode)
        self._agent_ext = agent_ext
        self._state = LadderState()
        self._offer: Offer | None = None
        self._glimpse: tuple[int, Category, frozenset[str]] | None = None
        """What the last partial was: where its utterance began, its category and the words that made it so."""
        self._counted_to_ms: int | None = None
        """Words that began before this were counted while they were said."""

    @property
    def pack(self) -> Pack:
        """The pack in force, adjustment applied."""
        return self._pack

    def adopt(self, pack: Pack) -> bool:
        """Judge by ``pack`` from now on, if its ladder has the shape of the present one; else change nothing.

        The allowance in force stays in force; a pack that no longer has it is refused.
        """
        name = self._pack.adjustment
        if name is not None and name not in pack.spec.adjustments:
            return False
        adjusted = pack.adjusted(name)
        if adjusted.ladder_shape() != self._pack.ladder_shape():
            return False
        self._pack = adjusted
        return True

    @property
    def state(self) -> LadderState:
        """The whole state; assign one that ``LadderState.from_json`` gave to go on where a process left off."""
        return self._state

    @state.setter
    def state(self, state: LadderState) -> None:
        self._state = state

    @property
    def rung(self) -> Rung:
        """Where the call stands."""
        return self._state.rung

    @property
    def armed(self) -> bool:
        """Whether anything automatic can still come."""
        return self._state.rung not in (Rung.DISARMED, Rung.ENDED)

    @property
    def strikes(self) -> int:
        """Outstanding strikes of the person tracks."""
        return sum(1 for s in self._state.strikes if self._pack.track(s.track).climbs.value == "shared")

    @property
    def countdown_deadline_ms(self) -> int | None:
        """Until when an ending can be pardoned at least, while one is decided."""
        return self._state.countdown.deadline_ms if self._state.countdown else None

    def offered(self, now_ms: int) -> Offer | None:
        """What the policy would do now and leaves to a person."""
        return self._offer if self._offer is not None and now_ms < self._offer.until_ms else None

    def hear(self, event: Event, now_ms: int) -> list[Action]:
        """Take in one event and say what to do about it, in order. Never raises on what a call can bring."""
        if isinstance(event, CallEnded):
            return self._move(Move(Cause.CALL_ENDED, now_ms, event.why))
        if isinstance(event, EndingFailed):
            return self._move(Move(Cause.ENDING_FAILED, now_ms, event.why or "no reason given", by="pbx"))
        if isinstance(event, CarriedOn):
            return self._move(Move(Cause.CARRIED_ON, now_ms, event.why, by="menu"))
        if self._state.rung is Rung.ENDED:
            return []
        if isinstance(event, Utterance):
            return self._utterance(event, now_ms)
        if isinstance(event, Conduct):
            return self._conduct(event, now_ms)
        if isinstance(event, Hotkey):
            return self._hotkey(event, now_ms)
        if isinstance(event, PromptDone):
            return self._prompt_done(event, now_ms)
        assert isinstance(event, PromptStarted)
        return []

    def next_deadline_ms(self) -> int | None:
        """When ``on_deadline`` wants to be called, or ``None``."""
        state, timing = self._state, self._pack.spec.timing
        times: list[int] = []
        if state.pending is not None:
            times.append(state.pending.since_ms + timing.prompt_ceiling_ms)
        if state.countdown is not None and state.countdown.heard:
            times.append(state.countdown.deadline_ms)
        if (decay_ms := self._decay_ms()) is not None:
            times.append(decay_ms)
        return min(times, default=None)

    def on_deadline(self, now_ms: int) -> list[Action]:
        """Do all that is due; harmless when called early or late."""
        actions: list[Action] = []
        while (due := self.next_deadline_ms()) is not None and due <= now_ms:
            actions += self._due(due, now_ms)
        return actions

    def _due(self, due_ms: int, now_ms: int) -> list[Action]:
        state = self._state
        if state.countdown is not None and state.countdown.heard:
            return self._move(Move(Cause.COUNTDOWN_OVER, now_ms))
        if state.pending is not None:
            return self._move(Move(Cause.PROMPT_UNHEARD, now_ms, "the prompt never came to an end"))
        return self._move(Move(Cause.DECAY, due_ms, "civil time", by="time"))

    def _decay_ms(self) -> int | None:
        state = self._state
        if state.rung not in ladder.CLIMB[:4] or state.pending is not None or state.civil_since_ms is None:
            return None
        if state.rung is Rung.CLEAR and not state.strikes:
            return None
        return state.civil_since_ms + self._pack.spec.timing.decay_ms

    # --- words --------------------------------------------------------------------------------------------------------

    def _utterance(self, heard: Utterance, now_ms: int) -> list[Action]:
        if heard.side is Side.AGENT:
            return []
        # A partial is shown and changes a moment later: words and rules are enough for it, meaning is read of finals.
        verdict = judge(heard.text, self._pack) if heard.final else by_words(heard.text, self._pack)[1]
        unripe = self._unripe(heard, verdict)
        track = self._pack.track_of(verdict.category)
        if verdict.category in (Category.CIVIL, Category.VENTING):
            return []
        plain = _PLAIN[verdict.category]
        move = Move(Cause.SAFEGUARD, now_ms, plain, track=track, heard_ms=heard.end_ms)
        if track is None:
            return [self._record("signal", heard, verdict, now_ms, held="this pack does not count it")]
        if (held := unripe or self._held(heard, verdict, track)) is not None:
            self._not_civil(heard, now_ms)
            return [self._record("signal", heard, verdict, now_ms, held=held)]
        if verdict.category is Category.SAFEGUARD:
            signal = self._record("signal", heard, verdict, now_ms, held=None)
            return [signal, *self._withdrawn(), *self._without_prompt(self._act(move))]
        step = ladder.next_step(self._pack, self._state, track, verdict.confidence)
        if not heard.final:
            if step is Step.END:
                return [
                    self._record(
                        "signal", heard, verdict, now_ms, held="only a partial hypothesis; endings want finals"
                    )
                ]
            self._counted_to_ms = heard.end_ms
        return self._count(heard, verdict, step, ladder_move(step, move))

    def _count(self, heard: Utterance, verdict: Verdict, step: Step, move: Move) -> list[Action]:
        mode = self._pack.spec.mode
        if mode is Mode.SUGGEST or (step is Step.END and mode is not Mode.FULL):
            return self._suggest(heard, verdict, step, move)
        strike = self._record("strike", heard, verdict, move.now_ms, step=step.value)
        return [strike, *self._act(move)]

    def _unripe(self, heard: Utterance, verdict: Verdict) -> str | None:
        """Why words that are still being said do not count yet, or why their final does not count again.

        A partial counts where the pack says so, once two in a row say the same of one utterance (the later may say
        more). Somebody in danger is believed on finals only: it disarms the whole call.
        """
        words = frozenset(heard.text[m.start : m.end].lower() for m in verdict.matches)
        before, self._glimpse = self._glimpse, None if heard.final else (heard.start_ms, verdict.category, words)
        if heard.final:
            again = self._counted_to_ms is not None and heard.start_ms < self._counted_to_ms
            counts = again and verdict.category is not Category.SAFEGUARD
            return "counted already, while it was said" if counts else None
        wanted = self._pack.spec.guards.warn_on_partials and verdict.category is not Category.SAFEGUARD
        same = before is not None and before[:2] == (heard.start_ms, verdict.category) and before[2] <= words
        stands = wanted and same and before is not None and bool(before[2])
        return None if stands else "only a partial hypothesis"

    def _held(self, heard: Utterance, verdict: Verdict, track: str) -> str | None:
        """Why these words do not count, or ``None`` when they do."""
        state, spec = self._state, self._pack.spec
        if not heard.speech_confirmed:
            return "not confirmed as speech"
        if verdict.category is Category.SAFEGUARD:
            return None
        if heard.avg_logprob < spec.guards.min_avg_logprob:
            return "the recogniser was not sure of the words"
        if heard.over_prompt:
            return "heard over our own prompt"
        if state.rung is Rung.DISARMED:
            return "automatic steps are disarmed"
        if state.rung is Rung.ENDING:
            return "an ending is under way"
        if state.pending is not None:
            return "a prompt is being played"
        if state.quiet_until_ms is not None and heard.start_ms < state.quiet_until_ms:
            return "within the grace time of the last prompt"
        if verdict.severity < self._pack.track(track).min_severity:
            return "too mild to count under this pack"
        if verdict.confidence < self._pack.track(track).min_confidence:
            return "not sure enough to count"
        return None

    def _not_civil(self, heard: Utterance, now_ms: int) -> None:
        """Words that do not count still are not civil time."""
        if heard.final and heard.speech_confirmed and self._state.civil_since_ms is not None:
            self._set(civil_since_ms=now_ms)

    def _suggest(self, heard: Utterance, verdict: Verdict, step: Step, move: Move) -> list[Action]:
        """Say what the policy would do; a person decides."""
        self._set(quiet_until_ms=move.now_ms + self._pack.spec.timing.grace_ms)
        mode = self._pack.spec.mode
        actions: list[Action] = [
            self._record("signal", heard, verdict, move.now_ms, held=f"mode {mode}", would=step.value)
        ]
        if mode is not Mode.SHADOW:
            self._offer = offer(self._pack, step, move.track or "person", move.why, move.now_ms)
            actions += [self._offer.action(), Notify(Audience.AGENT, self._offer.text())]
        return actions

    def _withdrawn(self) -> list[Action]:
        """Whatever was offered before somebody may be in danger is off the table."""
        gone: list[Action] = [GONE] if self._offer is not None else []
        self._offer = None
        return gone

    def _without_prompt(self, actions: list[Action]) -> list[Action]:
        """Under ``suggest`` no prompt plays by itself, the reassuring one neither; people are called all the same."""
        if self._pack.spec.mode is not Mode.SUGGEST or not any(isinstance(a, PlayPrompt) for a in actions):
            return actions
        self._state = replace(self._state, pending=None, reassured=False)
        return [a for a in actions if not isinstance(a, PlayPrompt)]

    # --- conduct, keys, prompts ---------------------------------------------------------------------------------------

    def _conduct(self, heard: Conduct, now_ms: int) -> list[Action]:
        why = _CONDUCT[heard.kind.value]
        data = {**self._about(now_ms), "conduct": heard.kind.value, "value": heard.value, "start_ms": heard.start_ms}
        signal = Record("signal", {**data, "heard_ms": heard.end_ms, "track": "conduct", "why": [why]})
        if self._pack.spec.mode is Mode.SUGGEST:
            return [signal, Notify(Audience.AGENT, f"Perhaps slow down a little: {why}.")]
        return [signal, *self._act(Move(Cause.CONDUCT, now_ms, why, track="conduct", heard_ms=heard.end_ms))]

    def _hotkey(self, pressed: Hotkey, now_ms: int) -> list[Action]:
        asked = Record("signal", {**self._about(now_ms), "key": pressed.key.value, "by": pressed.by})
        if self._pack.spec.mode is Mode.SHADOW:
            return [asked]
        gone = self._taken_off(pressed)
        move = self._asked(pressed, now_ms)
        rung, actions = self._state.rung, self._act(move)
        warned = pressed.key is Key.WARN and rung in ladder.CLIMB[:4]
        if warned and any(isinstance(a, PlayPrompt) for a in actions):
            strike = {"track": move.track or "person", "by": pressed.by, "why": [f"warned by {pressed.by}"]}
            return [asked, *gone, Record("strike", {**self._about(now_ms), **strike}), *actions]
        return [asked, *gone, *actions]

    def _asked(self, pressed: Hotkey, now_ms: int) -> Move:
        """What the key means now: what was offered under it, if anything still is, else what it always does."""
        why = f"{pressed.key.value} pressed by {pressed.by}"
        move = Move(_KEYS[pressed.key], now_ms, why, by=pressed.by, target=pressed.target)
        offered, state = self.offered(now_ms), self._state
        if pressed.key in ENDS_OFFER:
            self._offer = None
        if offered is None or offered.key is not pressed.key or state.pending is not None:
            return move
        if state.rung not in ladder.CLIMB[:4] or offered.kind in (EndKind.TRANSFER, self._pack.spec.ending.end_key):
            return move
        return replace(ladder_move(offered.step, move), track=offered.track)

    def _taken_off(self, pressed: Hotkey) -> list[Action]:
        return [GONE] if self._offer is not None and pressed.key in ENDS_OFFER else []

    def _prompt_done(self, done: PromptDone, now_ms: int) -> list[Action]:
        pending = self._state.pending
        if pending is None or pending.prompt != done.prompt or done.t_ms < pending.since_ms:
            return []
        cause = Cause.PROMPT_HEARD if done.heard else Cause.PROMPT_UNHEARD
        return self._move(
            Move(cause, max(now_ms, done.t_ms), f"{done.prompt} {'heard' if done.heard else 'not heard'}", by="prompt")
        )

    # --- moving -------------------------------------------------------------------------------------------------------

    def _act(self, move: Move) -> list[Action]:
        """Move; in shadow only the records leave, and a prompt counts as heard at once so that the count goes on."""
        actions = self._move(move)
        if self._pack.spec.mode is not Mode.SHADOW:
            return actions
        kept: list[Action] = [a for a in actions if isinstance(a, Record)]
        if self._state.pending is not None:
            kept += self._move(Move(Cause.PROMPT_HEARD, move.now_ms, "would have been heard", by="shadow"))
        return kept

    def _move(self, move: Move) -> list[Action]:
        self._state, actions = ladder.move(self._pack, self._state, move)
        about = self._about(move.now_ms)
        return [Record(a.event, {**about, **a.data}) if isinstance(a, Record) else a for a in actions]

    def _set(self, **changes: int) -> None:
        self._state = replace(self._state, **changes)  # type: ignore[arg-type]

    def _about(self, now_ms: int) -> dict[str, object]:
        about: dict[str, object] = {
            "pack": self._pack.version,
            "mode": self._pack.spec.mode.value,
            "decided_ms": now_ms,
        }
        if self._agent_ext is not None:
            about["agent"] = self._agent_ext
        return about

    def _record(self, event: str, heard: Utterance, verdict: Verdict, now_ms: int, **more: object) -> Record:
        words = [heard.text[m.start : m.end] for m in verdict.matches]
        data: dict[str, object] = {
            **self._about(now_ms),
            "track": self._pack.track_of(verdict.category),
            "category": verdict.category.value,
            "severity": verdict.severity,
            "directed": verdict.directed,
            "confidence": verdict.confidence,
            "words": words,
            "text": heard.text,
            "utterance": heard.id,
            "start_ms": heard.start_ms,
            "heard_ms": heard.end_ms,
            "final": heard.final,
            "why": list(verdict.why),
        }
        return Record(event, {**data, **{k: v for k, v in more.items() if v is not None}})


def ladder_move(step: Step, move: Move) -> Move:
    """``move`` with the cause that ``step`` is."""
    return replace(move, cause=Cause(step.value))
