"""The ladder as a table: every rung, every cause, one cell; nothing moves outside it.

Owns: the state of one call's boundary (``LadderState``), the moves, the prompts and the countdown. Never: whether an
utterance counts (``engine`` has the guards), time (given), what a word means.

How it climbs. A counted strike asks for a *step*; the step's prompt is played and becomes ``pending``. The rung rises
only when ``PromptDone`` says that the caller heard it, so that an ending always has a heard warning behind it; a
prompt that was not heard leaves the rung where it was and is played again at the next strike. ENDING is left by a
pardon, by disarming or by a closing prompt that twice could not be heard; else by ``EndCall``, once the closing
prompt was heard in full *and* the countdown is over.

What the table omits: which step a strike asks for is ``next_step`` below, for it depends on the pack's tracks; and
who may cause what by himself (``mode``) is decided by the engine before it comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from policies.pack import Climb, Pack, Step
from policies.types import (
    Action,
    Audience,
    EndCall,
    EndKind,
    Notify,
    PauseAgent,
    PlayPrompt,
    Record,
    StartCountdown,
    StopCountdown,
    StopPrompt,
)


class Rung(StrEnum):
    """Where a call stands."""

    CLEAR = "clear"
    """Nothing outstanding."""
    CAUTIONED = "cautioned"
    """A gentle request was heard."""
    WARNED = "warned"
    """A warning was heard."""
    FINAL = "final"
    """A final warning was heard."""
    ENDING = "ending"
    """Decided; can be pardoned until the closing prompt was heard and the countdown is over."""
    ENDED = "ended"
    """Over: absorbs everything, but for the news that the PBX could not end the call after all."""
    DISARMED = "disarmed"
    """Nothing is automatic any more; people can still act."""


CLIMB = (Rung.CLEAR, Rung.CAUTIONED, Rung.WARNED, Rung.FINAL, Rung.ENDING)
"""The shared ladder from bottom to top."""
RUNG_OF = {
    Step.GENTLE_REQUEST: Rung.CAUTIONED,
    Step.WARNING: Rung.WARNED,
    Step.FINAL_WARNING: Rung.FINAL,
    Step.END: Rung.ENDING,
}
STEP_OF = {rung: step for step, rung in RUNG_OF.items()}


class Cause(StrEnum):
    """Everything that can happen to a ladder."""

    GENTLE_REQUEST = "gentle_request"
    WARNING = "warning"
    FINAL_WARNING = "final_warning"
    END = "end"
    CONDUCT = "conduct"
    SAFEGUARD = "safeguard"
    KEY_WARN = "key_warn"
    KEY_PARDON = "key_pardon"
    KEY_END = "key_end"
    KEY_TRANSFER = "key_transfer"
    KEY_DISARM = "key_disarm"
    KEY_ARM = "key_arm"
    KEY_MINUTE = "key_minute"
    PROMPT_HEARD = "prompt_heard"
    PROMPT_UNHEARD = "prompt_unheard"
    DECAY = "decay"
    COUNTDOWN_OVER = "countdown_over"
    ENDING_FAILED = "ending_failed"
    CARRIED_ON = "carried_on"
    CALL_ENDED = "call_ended"


@dataclass(frozen=True, slots=True)
class Strike:
    """One counted strike; ``taken`` once its prompt was heard, which is what a track's own count counts."""

    track: str
    t_ms: int
    taken: bool = False
    by: str = "words"


@dataclass(frozen=True, slots=True)
class Pending:
    """The prompt we wait to hear the end of; ``rung`` is ``None`` for one that moves nothing."""

    prompt: str
    since_ms: int
    rung: Rung | None = None
    strike: int | None = None
    retried: bool = False


@dataclass(frozen=True, slots=True)
class Countdown:
    """A decided ending. ``back`` is the rung that a pardon leads to; ``heard`` once the closing prompt was heard."""

    deadline_ms: int
    kind: EndKind
    back: Rung
    why: str
    by: str
    heard: bool = False
    heard_ms: int | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class LadderState:
    """All that one call's ladder remembers."""

    rung: Rung = Rung.CLEAR
    strikes: tuple[Strike, ...] = ()
    pending: Pending | None = None
    countdown: Countdown | None = None
    quiet_until_ms: int | None = None
    """Words that began before this do not count: the caller had no time yet to take the prompt in."""
    civil_since_ms: int | None = None
    calmed_ms: int | None = None
    reassured: bool = False
    asked_from: Rung | None = None
    """After ``EndCall``: the rung to go back to should the PBX fail to end the call."""

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for a store that outlives the process."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LadderState:
        """The state that ``to_json`` gave.

        Raises:
            KeyError, TypeError, ValueError: ``data`` is not such a state.
        """
        pending, countdown = data["pending"], data["countdown"]
        if pending is not None:
            pending = Pending(**{**pending, "rung": Rung(pending["rung"]) if pending["rung"] else None})
        if countdown is not None:
            kind, back = EndKind(countdown["kind"]), Rung(countdown["back"])
            countdown = Countdown(**{**countdown, "kind": kind, "back": back})
        strikes = tuple(Strike(**s) for s in data["strikes"])
        asked_from = Rung(data["asked_from"]) if data["asked_from"] else None
        fixed = {
            "rung": Rung(data["rung"]),
            "strikes": strikes,
            "pending": pending,
            "countdown": countdown,
            "asked_from": asked_from,
        }
        return cls(**{**data, **fixed})

    def taken(self, track: str) -> int:
        """How many steps of ``track`` were taken, that is heard."""
        return sum(1 for s in self.strikes if s.track == track and s.taken)


@dataclass(frozen=True, slots=True)
class Move:
    """What moves the ladder now: the cause with its particulars."""

    cause: Cause
    now_ms: int
    why: str = ""
    by: str = "words"
    track: str | None = None
    heard_ms: int | None = None
    target: str | None = None
    data: Mapping[str, object] = field(default_factory=dict)


Out = tuple[LadderState, list[Action]]
Op = Callable[[Pack, LadderState, Move], Out]


def next_step(pack: Pack, state: LadderState, track_name: str, confidence: float) -> Step:
    """The step that one more strike of ``track_name`` asks for; ``END`` only when every guard of the pack agrees."""
    track = pack.track(track_name)
    index = min(state.taken(track_name), len(track.steps) - 1)
    step = track.steps[index]
    if track.climbs is Climb.SHARED and state.rung in CLIMB[:4]:
        after = CLIMB[CLIMB.index(state.rung) + 1]
        if CLIMB.index(after) > CLIMB.index(RUNG_OF[step]):
            step = STEP_OF[after]
        if step is Step.END and Step.END not in track.steps:
            step = STEP_OF[state.rung]
    if step is not Step.END:
        return step
    shared = {name for name, t in pack.spec.tracks.items() if t.climbs is Climb.SHARED}
    counted = sum(1 for s in state.strikes if s.track == track_name or (track_name in shared and s.track in shared))
    enough = counted + 1 >= track.min_strikes and confidence >= track.end_confidence
    if enough and state.rung in (Rung.WARNED, Rung.FINAL):
        return Step.END
    return STEP_OF[state.rung] if state.rung in (Rung.WARNED, Rung.FINAL) else Step.WARNING


def _prompt(pack: Pack, use: str) -> str:
    name: str = getattr(pack.spec.prompts, use)
    return name


def _to(state: LadderState, rung: Rung, move: Move, **changes: Any) -> Out:
    """Change rung and say so in the journal."""
    data = {"from": state.rung.value, "to": rung.value, "cause": move.cause.value, "why": move.why, "by": move.by}
    if move.heard_ms is not None:
        data["heard_ms"] = move.heard_ms  # type: ignore[assignment]
    new = replace(state, rung=rung, **changes)
    return new, ([] if rung is state.rung else [Record("rung", data)])


def _same(pack: Pack, state: LadderState, move: Move) -> Out:
    return state, []


def _step(pack: Pack, state: LadderState, move: Move) -> Out:
    """Count the strike and play its prompt; the rung waits for the prompt to be heard."""
    step = Step(move.cause.value)
    return _play_step(pack, state, move, step, move.track or "person")


def _play_step(pack: Pack, state: LadderState, move: Move, step: Step, track: str) -> Out:
    prompt = _prompt(pack, step.value)
    strikes = (*state.strikes, Strike(track, move.now_ms, by=move.by))
    pending = Pending(prompt, move.now_ms, RUNG_OF[step], len(strikes) - 1)
    new = replace(state, strikes=strikes, pending=pending, civil_since_ms=move.now_ms)
    what = {Step.GENTLE_REQUEST: "gentle request", Step.WARNING: "warning", Step.FINAL_WARNING: "final warning"}[step]
    told = Notify(Audience.AGENT, f"Playing the {what}: {move.why}.")
    return new, [PlayPrompt(prompt, move.why, move.heard_ms), told]


def _key_warn(pack: Pack, state: LadderState, move: Move) -> Out:
    """A person's warning: the next one up, never an ending."""
    if state.pending is not None and state.pending.rung in (Rung.WARNED, Rung.FINAL):
        return state, [Notify(Audience.AGENT, "A warning is being played already.")]
    step = Step.FINAL_WARNING if state.rung in (Rung.WARNED, Rung.FINAL) else Step.WARNING
    return _play_step(pack, state, move, step, "person")


def _warn_disarmed(pack: Pack, state: LadderState, move: Move) -> Out:
    """A person may still have the warning played; it moves nothing."""
    prompt = _prompt(pack, "warning")
    new = replace(state, pending=Pending(prompt, move.now_ms))
    return new, [PlayPrompt(prompt, move.why), Notify(Audience.AGENT, "Playing the warning; endings stay disarmed.")]


def _end(pack: Pack, state: LadderState, move: Move) -> Out:
    """Decided by the pack: tell the agent, start the countdown, play what happens next."""
    strikes = (*state.strikes, Strike(move.track or "person", move.now_ms, by=move.by))
    return _decide(pack, replace(state, strikes=strikes), move, pack.spec.ending.kind, pack.spec.timing.countdown_ms)


def _key_end(pack: Pack, state: LadderState, move: Move) -> Out:
    kind = EndKind.TRANSFER if move.cause is Cause.KEY_TRANSFER else pack.spec.ending.end_key
    return _decide(pack, state, move, kind, pack.spec.timing.hotkey_countdown_ms)


def _decide(pack: Pack, state: LadderState, move: Move, kind: EndKind, countdown_ms: int) -> Out:
    closing = _prompt(pack, f"closing_{kind.value}")
    target = move.target if kind is EndKind.TRANSFER else None
    deadline_ms = move.now_ms + countdown_ms
    countdown = Countdown(deadline_ms, kind, state.rung, move.why, move.by, heard_ms=move.heard_ms, target=target)
    new, records = _to(state, Rung.ENDING, move, countdown=countdown, pending=Pending(closing, move.now_ms))
    doing = {EndKind.TRANSFER: "transferred", EndKind.MENU: "sent to the menu", EndKind.HANGUP: "ended"}[kind]
    return new, [
        *records,
        Notify(Audience.AGENT, f"The call is about to be {doing}: {move.why}. Pardon stops it."),
        StartCountdown(countdown.deadline_ms, kind, move.why),
        PlayPrompt(closing, move.why, move.heard_ms),
    ]


def _key_hurry(pack: Pack, state: LadderState, move: Move) -> Out:
    """A person's end or transfer while an ending runs: sooner, or the other kind with its own closing prompt."""
    running = state.countdown
    kind = EndKind.TRANSFER if move.cause is Cause.KEY_TRANSFER else pack.spec.ending.end_key
    if running is None or running.kind is not kind:
        new, actions = _decide(pack, state, move, kind, pack.spec.timing.hotkey_countdown_ms)
        if running is not None and new.countdown is not None:
            new = replace(new, countdown=replace(new.countdown, back=running.back))
        return new, actions
    deadline = min(running.deadline_ms, move.now_ms + pack.spec.timing.hotkey_countdown_ms)
    target = move.target or running.target
    new = replace(state, countdown=replace(running, deadline_ms=deadline, by=move.by, target=target))
    return new, [StartCountdown(deadline, kind, move.why)]


def _finish(pack: Pack, state: LadderState, move: Move) -> Out:
    """Both conditions met? Then end; the only place in Firmline that asks for it."""
    running = state.countdown
    if running is None or not running.heard or move.now_ms < running.deadline_ms:
        return state, []
    done = replace(move, why=running.why, by=running.by)
    new, records = _to(state, Rung.ENDED, done, pending=None, countdown=None, asked_from=running.back)
    return new, [*records, EndCall(running.kind, running.why, running.heard_ms, running.target)]


def _closing_heard(pack: Pack, state: LadderState, move: Move) -> Out:
    if state.countdown is None:
        return state, []
    return _finish(pack, replace(state, pending=None, countdown=replace(state.countdown, heard=True)), move)


def _closing_unheard(pack: Pack, state: LadderState, move: Move) -> Out:
    """Once more, then not at all: nobody is cut off without being told what happens."""
    pending, running = state.pending, state.countdown
    if pending is None or running is None:
        return state, []
    if not pending.retried:
        again = replace(pending, since_ms=move.now_ms, retried=True)
        return replace(state, pending=again), [PlayPrompt(pending.prompt, running.why, running.heard_ms)]
    why = "the closing prompt could not be played"
    off = replace(move, why=why)
    new, records = _to(state, running.back, off, pending=None, countdown=None, civil_since_ms=move.now_ms)
    return new, [
        *records,
        StopCountdown(why),
        Notify(
            Audience.AGENT, "The ending is off: the closing prompt could not be played. Please end the call yourself."
        ),
    ]


def _prompt_heard(pack: Pack, state: LadderState, move: Move) -> Out:
    """The caller knows now: the step is taken, and a time to take it in begins."""
    pending = state.pending
    if pending is None or pending.rung is None or pending.strike is None:
        return replace(state, pending=None), []
    strikes = tuple(replace(s, taken=True) if i == pending.strike else s for i, s in enumerate(state.strikes))
    rung = max(state.rung, pending.rung, key=CLIMB.index)
    quiet = move.now_ms + pack.spec.timing.grace_ms
    return _to(
        state, rung, move, strikes=strikes, pending=None, quiet_until_ms=quiet, civil_since_ms=move.now_ms
    )  # fmt: skip


def _prompt_unheard(pack: Pack, state: LadderState, move: Move) -> Out:
    return replace(state, pending=None), []


def _pardon(pack: Pack, state: LadderState, move: Move) -> Out:
    """Stop what plays, take the last strike back, one rung down; a step not yet heard has no rung to give back."""
    if state.rung is Rung.CLEAR and not state.strikes and state.pending is None:
        return state, []
    actions: list[Action] = []
    unheard = state.pending is not None and state.pending.rung is not None
    if state.pending is not None:
        actions.append(StopPrompt(move.why))
    down = state.rung if unheard else CLIMB[max(0, CLIMB.index(state.rung) - 1)]
    new, records = _to(state, down, move, strikes=state.strikes[:-1], pending=None, quiet_until_ms=_grace(pack, move))
    told = Notify(Audience.AGENT, f"Pardoned by {move.by}: one strike taken back.")
    return new, [*actions, *records, told]


def _pardon_ending(pack: Pack, state: LadderState, move: Move) -> Out:
    running = state.countdown
    back = running.back if running else Rung.CLEAR
    machine = running is not None and running.by == "words"
    strikes = state.strikes[:-1] if machine else state.strikes
    new, records = _to(
        state, back, move, strikes=strikes, pending=None, countdown=None,
        quiet_until_ms=_grace(pack, move), civil_since_ms=move.now_ms,
    )  # fmt: skip
    told = Notify(Audience.AGENT, f"Pardoned by {move.by}: the call goes on.")
    return new, [*_stops(state, move.why), *records, told]


def _grace(pack: Pack, move: Move) -> int:
    return move.now_ms + pack.spec.timing.grace_ms


def _stops(state: LadderState, why: str) -> list[Action]:
    out: list[Action] = []
    if state.pending is not None:
        out.append(StopPrompt(why))
    if state.countdown is not None:
        out.append(StopCountdown(why))
    return out


def _disarm(pack: Pack, state: LadderState, move: Move) -> Out:
    new, records = _to(state, Rung.DISARMED, move, strikes=(), pending=None, countdown=None, civil_since_ms=None)
    return new, [*_stops(state, move.why), *records, Notify(Audience.AGENT, f"Automatic endings are off: {move.why}.")]


def _safeguard(pack: Pack, state: LadderState, move: Move) -> Out:
    """Somebody may be in danger: nothing automatic any more, people called, the agent leads."""
    new, records = _to(state, Rung.DISARMED, move, strikes=(), pending=None, countdown=None, civil_since_ms=None)
    actions = [*_stops(state, move.why), *records]
    actions.append(Notify(Audience.SUPERVISOR, f"Please join this call now: {move.why}.", page=True))
    actions.append(Notify(Audience.AGENT, f"Automatic endings are off and a supervisor is called: {move.why}."))
    if pack.spec.tracks.safeguard.steps and not state.reassured:
        prompt = _prompt(pack, "crisis_reassurance")
        new = replace(new, pending=Pending(prompt, move.now_ms), reassured=True)
        actions.append(PlayPrompt(prompt, move.why, move.heard_ms))
    return new, actions


def _arm(pack: Pack, state: LadderState, move: Move) -> Out:
    new, records = _to(state, Rung.CLEAR, move, quiet_until_ms=_grace(pack, move))
    return new, [*records, Notify(Audience.AGENT, f"Armed again by {move.by}.")]


def _calm(pack: Pack, state: LadderState, move: Move) -> Out:
    """The calming prompt, spaced, and never over another prompt."""
    track = pack.spec.tracks.conduct
    too_soon = state.calmed_ms is not None and move.now_ms - state.calmed_ms < track.spacing_ms
    if not track.steps or state.pending is not None or too_soon:
        return state, []
    prompt = _prompt(pack, "calming")
    new = replace(state, calmed_ms=move.now_ms, pending=Pending(prompt, move.now_ms))
    return new, [
        PlayPrompt(prompt, move.why, move.heard_ms),
        Notify(Audience.AGENT, f"Playing the calming prompt: {move.why}."),
    ]


def _minute(pack: Pack, state: LadderState, move: Move) -> Out:
    prompt = _prompt(pack, "hold_a_minute")
    new = replace(state, pending=Pending(prompt, move.now_ms))
    return new, [PlayPrompt(prompt, move.why), PauseAgent(move.why)]


def _minute_ending(pack: Pack, state: LadderState, move: Move) -> Out:
    """The closing prompt goes on; the agent gets the minute all the same."""
    return state, [PauseAgent(move.why)]


def _decay(pack: Pack, state: LadderState, move: Move) -> Out:
    down = CLIMB[max(0, CLIMB.index(state.rung) - 1)]
    return _to(state, down, move, strikes=state.strikes[:-1], civil_since_ms=move.now_ms)


def _over(pack: Pack, state: LadderState, move: Move) -> Out:
    """The human call is gone: forget everything, say nothing."""
    return LadderState(rung=Rung.ENDED), []


def _go_on(pack: Pack, state: LadderState, move: Move) -> Out:
    """The PBX could not end it: the call is as it was, and people know; unless it is over by now."""
    if state.asked_from is None:
        return state, []
    new, records = _to(
        state, state.asked_from, move, asked_from=None, civil_since_ms=move.now_ms, quiet_until_ms=_grace(pack, move)
    )
    told = f"The call could not be ended ({move.why}). Please end it yourself."
    return new, [*records, Notify(Audience.AGENT, told), Notify(Audience.SUPERVISOR, told)]


def _carry_on(pack: Pack, state: LadderState, move: Move) -> Out:
    """The caller is back by their own choice: the rung before the ending, nothing forgiven, a quiet beginning."""
    if state.asked_from is None:
        return state, []
    new, records = _to(
        state, state.asked_from, move, asked_from=None, civil_since_ms=move.now_ms, quiet_until_ms=_grace(pack, move)
    )
    return new, [*records, Notify(Audience.AGENT, "The caller chose to carry on and is with you again.")]


@dataclass(frozen=True, slots=True)
class Cell:
    """What one cause does on one rung, and every rung it can lead to."""

    op: Op
    to: frozenset[Rung]


def _table() -> dict[tuple[Rung, Cause], Cell]:
    table: dict[tuple[Rung, Cause], Cell] = {}

    def put(rungs: tuple[Rung, ...], causes: tuple[Cause, ...], op: Op, *to: Rung) -> None:
        for rung in rungs:
            for cause in causes:
                table[rung, cause] = Cell(op, frozenset(to or (rung,)))

    c = Cause
    climbing, steps = CLIMB[:4], (c.GENTLE_REQUEST, c.WARNING, c.FINAL_WARNING)
    keys_end = (c.KEY_END, c.KEY_TRANSFER)
    # rungs                cause                     does              leads to (nothing: stays)
    put(tuple(Rung), tuple(Cause), _same)
    put(climbing, steps, _step)
    put((Rung.WARNED, Rung.FINAL), (c.END,), _end, Rung.ENDING)
    put(climbing, (c.CONDUCT,), _calm)
    put(climbing, (c.KEY_WARN,), _key_warn)
    put(climbing, (c.KEY_MINUTE,), _minute)
    put(climbing, (c.PROMPT_UNHEARD,), _prompt_unheard)
    for at, rung in enumerate(climbing):
        down = (rung, CLIMB[max(0, at - 1)])
        put((rung,), (c.PROMPT_HEARD,), _prompt_heard, *climbing[at:])
        put((rung,), (c.KEY_PARDON,), _pardon, *down)
        put((rung,), (c.DECAY,), _decay, *down)
    put((*climbing, Rung.DISARMED), keys_end, _key_end, Rung.ENDING)
    put((*climbing, Rung.ENDING), (c.KEY_DISARM,), _disarm, Rung.DISARMED)
    put((*CLIMB, Rung.DISARMED), (c.SAFEGUARD,), _safeguard, Rung.DISARMED)

    put((Rung.ENDING,), keys_end, _key_hurry)
    put((Rung.ENDING,), (c.KEY_MINUTE,), _minute_ending)
    put((Rung.ENDING,), (c.KEY_PARDON,), _pardon_ending, *climbing, Rung.DISARMED)
    put((Rung.ENDING,), (c.PROMPT_HEARD,), _closing_heard, Rung.ENDING, Rung.ENDED)
    put((Rung.ENDING,), (c.PROMPT_UNHEARD,), _closing_unheard, Rung.ENDING, *climbing, Rung.DISARMED)
    put((Rung.ENDING,), (c.COUNTDOWN_OVER,), _finish, Rung.ENDING, Rung.ENDED)

    put((Rung.DISARMED,), (c.KEY_ARM,), _arm, Rung.CLEAR)
    put((Rung.DISARMED,), (c.KEY_WARN,), _warn_disarmed)
    put((Rung.DISARMED,), (c.KEY_MINUTE,), _minute)
    put((Rung.DISARMED,), (c.PROMPT_HEARD, c.PROMPT_UNHEARD), _prompt_unheard)
    put((Rung.ENDED,), (c.ENDING_FAILED,), _go_on, Rung.ENDED, *climbing, Rung.DISARMED)
    put((Rung.ENDED,), (c.CARRIED_ON,), _carry_on, Rung.ENDED, *climbing, Rung.DISARMED)
    put(tuple(Rung), (c.CALL_ENDED,), _over, Rung.ENDED)
    return table


TABLE = _table()
"""(rung, cause) -> cell, total over both."""


def move(pack: Pack, state: LadderState, what: Move) -> Out:
    """One move: the new state and what to do."""
    return TABLE[state.rung, what.cause].op(pack, state, what)
