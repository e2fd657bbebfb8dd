"""A ladder laid down and taken up again: what one process leaves to the next about a call that lives on.

Pure. What is left behind is always a state *at rest*: nothing plays, nothing counts down, nothing was asked of the PBX.
So whatever is read back can by itself end no call.

| under way when the process died          | at rest                                                                |
|-------------------------------------------|------------------------------------------------------------------------|
| a warning or request was playing          | rung and strikes as they are; not heard in full, so the next strike     |
|                                           | plays it, and nothing is played again by itself                        |
| closing prompt or countdown (ENDING)      | the rung before the decision, strikes kept: one more strike decides     |
|                                           | anew, with its own closing prompt and countdown                        |
| the PBX was asked to end the call (ENDED) | the same; if the PBX did end it, nobody ever takes this state up        |
| disarmed                                  | disarmed                                                               |

Under another pack than the one that counted (``version`` differs) DISARMED stays; whatever else was reached becomes
CAUTIONED at most, without strikes: the pack in force must warn by its own rules before it may end a call.
"""

from __future__ import annotations

from dataclasses import replace

from policies.ladder import CLIMB, LadderState, Rung
from policies.pack import Pack

MAX_STRIKES = 32
"""What is left behind stays small; the newest decide, and one by one they decay."""


def at_rest(state: LadderState) -> tuple[LadderState, str]:
    """``state`` as the next process should find it, and in a few words what was under way (empty: nothing)."""
    under_way = ""
    rung = state.rung
    if state.countdown is not None:
        rung, under_way = state.countdown.back, f"the ending ({state.countdown.kind.value})"
    elif rung is Rung.ENDED:
        rung, under_way = state.asked_from or Rung.CLEAR, "the ending, asked of the PBX"
    elif state.pending is not None:
        under_way = f"the prompt {state.pending.prompt}"
    strikes = state.strikes[-MAX_STRIKES:]
    return replace(state, rung=rung, strikes=strikes, pending=None, countdown=None, asked_from=None), under_way


def shifted(state: LadderState, by_ms: int) -> LadderState:
    """A state at rest with every time moved by ``by_ms``: clocks of two processes have nothing in common."""

    def moved(t_ms: int | None) -> int | None:
        return None if t_ms is None else t_ms + by_ms

    return replace(
        state,
        strikes=tuple(replace(strike, t_ms=strike.t_ms + by_ms) for strike in state.strikes),
        quiet_until_ms=moved(state.quiet_until_ms),
        civil_since_ms=moved(state.civil_since_ms),
        calmed_ms=moved(state.calmed_ms),
    )


def under(pack: Pack, state: LadderState, version: str) -> LadderState:
    """A state at rest that was reached under the pack ``version``, as ``pack`` may go on from it."""
    if version == pack.version or state.rung is Rung.DISARMED:
        return state
    rung = min(state.rung, Rung.CAUTIONED, key=CLIMB.index)
    return replace(state, rung=rung, strikes=())


def joined(left: LadderState, now: LadderState) -> LadderState:
    """What was left behind (at rest) and what has come since, should somebody have been quicker than the reading.

    DISARMED on either side stays; else the higher rung holds, and the strikes of both.
    """
    if now == LadderState():
        return left
    if left.rung is Rung.DISARMED:
        return replace(left, pending=now.pending if now.countdown is None else None)
    if now.rung not in CLIMB[:4]:
        return now
    pending = now.pending
    if pending is not None and pending.strike is not None:
        pending = replace(pending, strike=pending.strike + len(left.strikes))
    rung = max(left.rung, now.rung, key=CLIMB.index)
    return replace(now, rung=rung, strikes=(*left.strikes, *now.strikes), pending=pending)
