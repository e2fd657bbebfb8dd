"""All live calls: legs find their call, calls find their agent, pages find both.

Owns: the map from ``X-Firmline-Call`` to a session, admission of tap legs, and what ``/readyz`` says. Implements
``LineEvents`` for the SIP engine and ``CallDirectory`` for the HTTP API.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence

import structlog

from audio.types import AudioFrame
from ivr.api.base import CallSummary, Check, Suggested
from ivr.call import CallCore, CallOptions
from ivr.clock import monotonic_ms
from ivr.facts import NumberKept, from_headers, number_kept
from ivr.lines.base import Leg, LineStatus
from ivr.listener import Listener
from ivr.session import CallSession, World
from policies.engine import Engine
from policies.suggest import Offer
from policies.types import Hotkey, Side

log = structlog.get_logger("firmline.calls")

MAX_REF_CHARS = 128
"""Longer than any PBX's own call id (Asterisk's Linkedid has about 30); keeps keys and journal rows small."""
MAX_REMEMBERED = 4_096
"""Calls whose agent is remembered: all live ones, and those that ended lately."""


class Calls:
    """The live calls of this process."""

    def __init__(
        self,
        world: World,
        make_engine: Callable[[str | None, str | None], Engine],
        make_listener: Callable[[Side], Listener],
        options: CallOptions,
        checks: Callable[[], list[Check]],
        number_kept: NumberKept = NumberKept.LAST4,
    ) -> None:
        self._world = world
        self._make_engine, self._make_listener, self._options = make_engine, make_listener, options
        self._checks = checks
        self._number_kept = number_kept
        self._by_ref: dict[str, CallSession] = {}
        self._by_leg: dict[str, CallSession] = {}
        self._agents: OrderedDict[str, str | None] = OrderedDict()
        self.on_registration_changed: Callable[[LineStatus], None] = lambda _status: None
        self.unwanted: Callable[[str], str | None] = lambda _ref: None
        """Asked by what watches the PBX: why no leg of the call of that reference is wanted now, if it knows."""

    # --- LineEvents ---------------------------------------------------------------------------------------------------

    def on_leg_offered(self, leg: Leg) -> None:
        """Admit a tap leg if its two headers say whose it is, and a caller whom we asked for."""
        if self._world.menus is not None and self._world.menus.take(leg):
            return
        problem = _offer_problem(leg)
        if problem is None and (late := self.unwanted(leg.call_ref or "")) is not None:
            log.info("tap leg came too late", leg=leg.id, call_ref=leg.call_ref, reason=late)
            leg.reject(480, late)
            return
        if problem is not None:
            log.warning("tap leg refused", leg=leg.id, reason=problem)
            self._world.metrics.leg_refused()
            leg.reject(403, problem)
            return
        leg.answer()

    def on_leg_up(self, leg: Leg) -> None:
        """Media flows: the leg joins its call, or begins it."""
        if self._world.menus is not None and self._world.menus.owns(leg):
            self._world.menus.leg_up(leg)
            return
        ref, side = leg.call_ref or "", Side(leg.side or "")
        if (late := self.unwanted(ref)) is not None:  # it was answered before that was known
            log.info("tap leg let go", leg=leg.id, call_ref=ref, reason=late)
            leg.hang_up()
            return
        session = self._by_ref.get(ref)
        if session is None:
            session = self._begin(ref, leg)
        self._by_leg[leg.id] = session
        session.leg_up(leg, side)
        self._world.metrics.leg_up()

    def on_frames(self, leg: Leg, frames: Sequence[AudioFrame]) -> None:
        """Audio of one leg."""
        session = self._by_leg.get(leg.id)
        if session is not None:
            session.frames(leg, frames)

    def on_dtmf(self, leg: Leg, digit: str, t_ms: int) -> None:
        """Keys in the menu are choices. On tap legs they steer nothing: RFC 4733 events do not reach them from a PBX,
        and a caller's key press must never be taken for the agent's."""
        if self._world.menus is not None and self._world.menus.owns(leg):
            self._world.menus.digit(leg, digit)

    def on_leg_down(self, leg: Leg, reason: str) -> None:
        """The leg is gone."""
        if self._world.menus is not None and self._world.menus.owns(leg):
            self._world.menus.leg_down(leg)
            return
        session = self._by_leg.pop(leg.id, None)
        if session is not None:
            session.leg_down(leg, reason)
            self._world.metrics.leg_down()

    def on_registration(self, status: LineStatus) -> None:
        """Registration changed."""
        self.on_registration_changed(status)

    # --- CallDirectory ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._by_ref)

    def summaries(self) -> list[CallSummary]:
        """Every live call, oldest first."""
        return [self._summary(session) for session in self._by_ref.values()]

    def call_of_agent(self, ext: str) -> str | None:
        """Id of the agent's newest live call."""
        mine = [s.id for s in self._by_ref.values() if s.core.agent_ext == ext]
        return mine[-1] if mine else None

    def summary(self, call_id: str) -> CallSummary | None:
        """One live call, by our id or the PBX's."""
        session = self._find(call_id)
        return None if session is None else self._summary(session)

    def agent_of(self, call_id: str) -> str | None:
        """The extension of a call that is live or was lately: its last rows are for the same eyes."""
        return self._agents.get(call_id)

    def press(self, call_id: str, hotkey: Hotkey) -> CallSummary:
        """Deliver a key press.

        Raises:
            KeyError: no live call of that id.
        """
        session = self._find(call_id)
        if session is None:
            raise KeyError(call_id)
        session.hotkey(hotkey)
        return self._summary(session)

    def checks(self) -> list[Check]:
        """What ``/readyz`` reports."""
        return self._checks()

    # --- the PBX ------------------------------------------------------------------------------------------------------

    def call_over(self, call_ref: str) -> None:
        """The PBX says that the human call is over; what its legs still do no longer matters."""
        session = self._by_ref.get(call_ref)
        if session is not None:
            session.human_call_over()
        else:
            self._world.memory.forget(call_ref)

    def ending_sent(self, call_ref: str, text: str) -> None:
        """The PBX is at what we asked for and says how it stands."""
        session = self._by_ref.get(call_ref)
        if session is not None:
            session.ending_sent(text)

    def claimed_elsewhere(self, call_ref: str) -> None:
        """Another Firmline has this call now."""
        session = self._by_ref.get(call_ref)
        if session is not None:
            session.leave("another Firmline is beside this call")

    # --- settings changed while we run --------------------------------------------------------------------------------

    def use(self, world: World, make_listener: Callable[[Side], Listener], options: CallOptions) -> None:
        """New calls get these; live ones keep what they began with."""
        self._world, self._make_listener, self._options = world, make_listener, options

    def adopt_pack(self) -> tuple[int, int]:
        """Every live call is offered the pack that a new call would get; returns how many took it and how many kept
        their own, whose ladder is built otherwise."""
        sessions = list(self._by_ref.values())
        took = sum(
            session.adopt(self._make_engine(session.core.agent_ext, session.core.queue).pack) for session in sessions
        )
        return took, len(sessions) - took

    # --- shutdown -----------------------------------------------------------------------------------------------------

    def close_all(self, why: str) -> None:
        """We stop: tap legs are hung up, human calls are not touched, their ladders are remembered."""
        for session in list(self._by_ref.values()):
            session.leave(why)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _find(self, call_id: str) -> CallSession | None:
        mine = (s for s in self._by_ref.values() if call_id in (s.id, s.core.call_ref))
        return next(mine, None)

    def _begin(self, ref: str, leg: Leg) -> CallSession:
        facts = from_headers(leg.headers)
        engine = self._make_engine(facts.agent_ext, facts.queue)
        core = CallCore(ref, facts.agent_ext, engine, self._make_listener, self._options, monotonic_ms())
        core.queue, core.caller_number = facts.queue, facts.caller_number
        core.number_may_be_kept = self._number_kept is not NumberKept.NONE
        session = CallSession(uuid.uuid4().hex[:16], core, self._world, self._finished)
        self._by_ref[ref] = session
        self._agents[session.id] = core.agent_ext
        if len(self._agents) > MAX_REMEMBERED:
            self._agents.popitem(last=False)
        self._world.metrics.call_began()
        number = number_kept(facts.caller_number, self._number_kept)
        about = {"agent_ext": facts.agent_ext, "pack": engine.pack.version, "mode": engine.pack.mode.value}
        session.begin(call_ref=ref, **about, queue=facts.queue, caller_number=number)
        return session

    def _finished(self, session: CallSession) -> None:
        if self._by_ref.get(session.core.call_ref) is session:
            del self._by_ref[session.core.call_ref]
        memory = self._world.memory
        (memory.let_go if session.leaving else memory.forget)(session.core.call_ref)
        self._world.metrics.call_ended()

    def _summary(self, session: CallSession) -> CallSummary:
        core = session.core
        engine, now_ms = core.engine, monotonic_ms()
        countdown, offered = engine.state.countdown, engine.offered(now_ms)
        deadline = None if countdown is None else countdown.deadline_ms
        return CallSummary(
            id=session.id,
            call_ref=core.call_ref,
            agent_ext=core.agent_ext,
            queue=core.queue,
            caller_number=core.caller_number,
            state=core.phase.value,
            rung=engine.rung.value,
            armed=engine.armed,
            strikes=engine.strikes,
            started_at=session.started_at,
            duration_ms=now_ms - core.started_ms,
            legs=core.leg_sides,
            playing=core.playing,
            countdown_ms=None if deadline is None else max(0, deadline - now_ms),
            mode=engine.pack.mode.value,
            pack=engine.pack.version,
            countdown_ends_ms=None if deadline is None else deadline - core.started_ms,
            countdown_kind=None if countdown is None else countdown.kind.value,
            countdown_why=None if countdown is None else countdown.why,
            suggestion=None if offered is None else _suggested(offered, core.started_ms),
            speaking=core.speaking,
            lag_ms=core.lag_ms,
            cues={kind.value: (cue,) if isinstance(cue, str) else cue for kind, cue in engine.pack.spec.cues.items()},
        )


def _suggested(offered: Offer, started_ms: int) -> Suggested:
    kind = None if offered.kind is None else offered.kind.value
    return Suggested(offered.step.value, offered.key.value, kind, offered.why, offered.until_ms - started_ms)


def _offer_problem(leg: Leg) -> str | None:
    """Why a tap leg cannot be placed, or ``None``."""
    ref = leg.call_ref
    if not ref or len(ref) > MAX_REF_CHARS or not ref.isprintable():
        return "X-Firmline-Call missing or unusable"
    if leg.side not in (Side.CALLER, Side.AGENT):
        return "X-Firmline-Side must be caller or agent"
    return None
