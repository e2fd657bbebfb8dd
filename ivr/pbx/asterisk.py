"""Asterisk (and FreePBX) as a PBX: taps calls by itself and acts on them, over the manager interface alone.

Owns: one :class:`~ivr.pbx.ami.AmiClient`, one :class:`~ivr.pbx.watch.CallWatch`, the timers between them, and the
actions on the human call. What is asked of the PBX counts as done only when the PBX's events show it:

| action   | asked by       | done when                                   | else                            |
|----------|----------------|---------------------------------------------|---------------------------------|
| transfer | ``Redirect``   | the caller is in a new bridge with somebody | next target; last of all: agent |
| hang up  | ``Hangup``     | the caller's channel is gone                | ``PbxError``                    |
| pause    | ``QueuePause`` | ``QueueStatus`` shows the member paused     | ``PbxError``                    |
| tap      | ``Originate``  | the leg reaches us as a SIP call            | again, with back-off            |

The moving itself is in ``ivr.pbx.moves``, menus are in ``ivr.pbx.guests``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import structlog

from ivr.clock import monotonic_ms
from ivr.doctor_finding import Level
from ivr.errors import PbxError
from ivr.facts import CallFacts
from ivr.lines.base import HEADER_CALL, HEADER_SIDE
from ivr.pbx.ami import AmiClient, AmiMessage, escaped
from ivr.pbx.base import CallRef
from ivr.pbx.check import version
from ivr.pbx.grip import Grip, Patience
from ivr.pbx.guarded import mark_of
from ivr.pbx.guests import Guests
from ivr.pbx.inquiry import AsteriskOptions, EventProbe, caller_facts, lacking, missing_rights
from ivr.pbx.lease import RUN, Lease
from ivr.pbx.moves import MOVE, Moves, channel_of
from ivr.pbx.notes import ChannelNotes
from ivr.pbx.pauses import QueuePauses
from ivr.pbx.phone_keys import USER_EVENT, PhoneKey, PhoneKeys
from ivr.pbx.watch import CallWatch
from ivr.pbx.watched import CallOver, Claimed, Command, DropTap, PlaceTap
from policies.types import Key

log = structlog.get_logger("firmline.pbx")

SPY_OPTIONS = "qowSEu"
RING_MS = 5_000
"""A tap leg is answered by us at once; one that rings longer is not going to be."""


class AsteriskPbx:
    """A :class:`ivr.pbx.base.PbxControl` that also attaches: calls of guarded agents are tapped without being asked."""

    def __init__(self, options: AsteriskOptions) -> None:
        self._options = options
        self._run_id = f"{random.getrandbits(32):08x}"
        self._watch = CallWatch(options.tap_endpoint, options.agents, options.colleagues, run_id=self._run_id)
        self._ami = AmiClient(options.ami, on_event=self._heard, on_up=self._resync, on_down=self._lost)
        self._backlog: list[AmiMessage] | None = []
        """Events since the login, kept until the list of channels is read: the list may be older than they are."""
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._patience = Patience()
        self._pauses = QueuePauses(self._ami, options.pause_ms, self._spawn)
        self._facts: dict[str, asyncio.Task[CallFacts]] = {}
        self._tap_problem: str | None = None
        self._deaf_problem: str | None = None
        self._probe = EventProbe()
        self._keys = PhoneKeys(options.keys)
        self.on_phone_key: Callable[[str, str, Key], None] = lambda _ref, _ext, _key: None
        """Told call, agent's extension and key when an agent has pressed one on their own phone."""
        self.notes = ChannelNotes(self._ami, self._watch, self._spawn)
        grip = Grip(
            self._ami,
            self._watch,
            options,
            self._run_id,
            self._patience.until,
            self._carry_out,
            self._spawn,
        )
        self._lease = Lease(grip, lambda: self._moves.read(), self._role)
        self._moves = Moves(grip, self._lease, lambda ref, text: self.on_progress(ref, text))
        self.on_progress: Callable[[str, str], None] = lambda _ref, _text: None
        """Told the reference of a call that is being moved, and in one sentence how that stands."""
        self.guests = Guests(grip, self._moves, self._lease)
        self.on_claimed: Callable[[str], None] = lambda _ref: None
        """Told the reference of each call that another Firmline is beside."""
        self.on_call_over: Callable[[str], None] = lambda _ref: None
        """Told the reference of each tapped call that is over."""
        self.on_connected: Callable[[], None] = lambda: None
        """Told of each login: a PBX that was away may have forgotten who is registered."""
        self.on_standing_by: Callable[[], None] = lambda: None
        """Told when another process has our endpoint: its registration is not to be taken away."""
        self._standing_by = False

    async def start(self) -> None:
        """Begin to connect; returns at once. A PBX that is down is tried again for ever."""
        self._ami.start()
        self._lease.start()

    async def stop(self) -> None:
        """Give paused agents back, then close; never raises."""
        await self._lease.stop()
        await self._pauses.give_all_back()
        self._disarm()
        await self._ami.stop()
        tasks = [*self._tasks, *self._facts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def problem(self) -> str | None:
        """Why the PBX cannot be used now, or ``None``."""
        standing_by = self._lease.twin() if self._standing_by else None
        return self._ami.problem or standing_by or self._deaf_problem or self._tap_problem

    def notice(self) -> str | None:
        """What somebody should know although the PBX can be used, or ``None``."""
        return self._lease.twin()

    # --- attaching ----------------------------------------------------------------------------------------------------

    def _lost(self, _why: str) -> None:
        self._backlog = []
        self._lease.away()

    def _heard(self, event: AmiMessage) -> None:
        if self._standing_by:
            return
        if self._backlog is not None:
            self._backlog.append(event)
        else:
            self._hear(event)

    def _hear(self, event: AmiMessage) -> None:
        self._probe.hear(event)
        self.guests.hear(event)
        self._hear_key(event)
        if event.event == "OriginateResponse" and self._watch.asked(event.get("ActionID")) is not None:
            self._placed(event)
        self._carry_out(self._watch.hear(event, monotonic_ms()))
        if event.event == "BridgeEnter" and self._options.marks:
            self._look_for_mark(event.get("Uniqueid"))
        self._patience.event()

    def _look_for_mark(self, uniqueid: str) -> None:
        channel = self._watch.channel(uniqueid)
        if channel is not None and self._watch.guarded.could_matter(channel):
            self._spawn(self._read_marks(("Channel", channel.name)))

    async def _read_marks(self, *which: tuple[str, str]) -> None:
        """Ask for queue and variable, of one channel or of all."""
        options = self._options.marks
        try:
            rows = await self._ami.event_list("Status", *which, ("Variables", options.asked()))
        except PbxError as exc:  # gone already; or the connection, and then the next login asks anew
            log.debug("channel not read", error=str(exc))
            return
        for row in rows:
            mark = mark_of(row, options) if row.event == "Status" else None
            if mark is not None:
                self._carry_out(self._watch.mark(row.get("Uniqueid"), mark, monotonic_ms()))

    def _hear_key(self, event: AmiMessage) -> None:
        """Keys count on the channel of a guarded agent in a call, whoever else presses what."""
        uniqueid = event.get("Uniqueid")
        digit = event.event == "DTMFEnd" and event.get("Direction") == "Received"
        feature = event.event == "UserEvent" and event.get("UserEvent").lower() == USER_EVENT.lower()
        if event.event == "Hangup":
            self._keys.forget(uniqueid)
        if not digit and not feature:
            return
        call = self._watch.call_of_agent(uniqueid)
        if call is None:
            return
        if digit:
            key = self._keys.on_digit(uniqueid, call.agent_ext, event.get("Digit"), monotonic_ms())
        else:
            key = self._keys.on_user_event(call.agent_ext, event.get("Key"), event.get("Digits"))
        if key in (PhoneKey.PAUSE, PhoneKey.UNPAUSE):
            self._spawn(self._pause_by_key(CallRef(call.ref, call.agent_ext), paused=key is PhoneKey.PAUSE))
        elif key is not None:
            log.info("key of a phone", call_ref=call.ref, agent=call.agent_ext, key=key.value)
            self.on_phone_key(call.ref, call.agent_ext, Key(key.value))

    async def _pause_by_key(self, call: CallRef, *, paused: bool) -> None:
        try:
            if paused:
                await self._pauses.pause(call.agent_ext or "")
            else:
                await self._pauses.unpause(call.agent_ext or "")
        except PbxError as exc:
            log.warning("the agent's key was not obeyed", agent=call.agent_ext, error=str(exc))

    def _placed(self, event: AmiMessage) -> None:
        if event.get("Response") == "Success":
            self._tap_problem = None
        else:
            self._tap_problem = (
                f"Firmline's own phone {self._options.tap_endpoint} could not be reached by the PBX, so calls are not "
                "heard: is it registered (line.server) and is pbx.asterisk.tap_endpoint its name there?"
            )

    async def _resync(self) -> None:
        self._standing_by = False
        missing, _ = await missing_rights(self._ami)
        if missing:
            raise PbxError(lacking(self._options.ami.username, missing))
        if await self._lease.enter():
            await self._attach()
        else:
            self._stand_by()

    def _role(self, active: bool) -> None:
        """Another process under our endpoint has come or gone."""
        if not active:
            self._stand_by()
        elif self._standing_by:
            self._standing_by = False
            self._spawn(self._take_over())
        else:
            self.on_connected()  # it has taken our registration away

    def _stand_by(self) -> None:
        """Hear nothing and do nothing: the calls and the registration are the other's."""
        self._standing_by, self._backlog = True, []
        self._disarm()
        log.warning("standing by", why=self._lease.twin())
        self.on_standing_by()
        for call in self._watch.calls():
            self.on_claimed(call.ref)

    async def _take_over(self) -> None:
        try:
            await self._attach()
        except PbxError as exc:  # the connection was lost: the next login attaches
            log.warning("the calls could not be taken over now", error=str(exc))

    async def _attach(self) -> None:
        self.on_connected()
        rows = [row for row in await self._ami.event_list("Status", ("Variables", MOVE)) if row.event == "Status"]
        channels = [channel_of(row) for row in rows]
        self._moves.take_up(rows)
        self._carry_out(self._watch.resync(channels, monotonic_ms()))
        backlog, self._backlog = self._backlog or [], None
        for event in backlog:
            self._hear(event)
        self._patience.event()  # what was waited for may have come about unseen
        if self._options.marks:
            await self._read_marks()
        log.info("calls of the PBX read", channels=len(channels))
        await self._pauses.adopt()
        self._spawn(self._probe_events())

    async def _probe_events(self) -> None:
        self._probe = EventProbe()
        try:
            await self._probe.ask(self._ami, self._options.ami)
        except PbxError as exc:
            self._deaf_problem = str(exc)
            log.warning("manager events do not arrive", reason=str(exc))
        else:
            self._deaf_problem = None
        with contextlib.suppress(PbxError):  # the connection is gone: asked again at the next login
            found = await version(self._ami)
            told = log.info if found.level is Level.OK else log.warning
            told("version of the PBX", found=found.what, next_step=found.next_step or None)

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case PlaceTap():
                    self._spawn(self._place(command))
                case DropTap():
                    self._spawn(self._drop(command))
                case Claimed():
                    self.on_claimed(command.call_ref)
                case CallOver():
                    self._facts.pop(command.call_ref, None)
                    self._tap_problem = None  # what went wrong with that call's taps is no news any more
                    self.on_call_over(command.call_ref)
        self._disarm()
        due_ms = self._watch.next_deadline_ms()
        if due_ms is not None:
            wait_s = max(0, due_ms - monotonic_ms()) / 1000
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_deadline)

    def unwanted(self, call_ref: str) -> str | None:
        """Why a leg of this call that comes up now is not wanted, or ``None``.

        SIP and the manager are two ways: a leg may reach us after the events that made it void.
        """
        if self._standing_by:
            return "another Firmline has this endpoint"
        return self._watch.unwanted(call_ref)

    def _on_deadline(self) -> None:
        self._timer = None
        if self._ami.problem is None:  # else the next login reads everything anew
            self._carry_out(self._watch.on_deadline(monotonic_ms()))

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _place(self, tap: PlaceTap) -> None:
        if await self._moves.left_alone(tap):
            self._watch.tap_failed(tap.action_id, monotonic_ms())
            self._carry_out(self._watch.left_to_others(tap.call_ref, monotonic_ms()))
            return
        facts = await self._facts_of(tap)
        headers = {HEADER_CALL: tap.call_ref, HEADER_SIDE: tap.side.value, **facts.headers()}
        try:
            await self._ami.action(
                "Originate",
                ("Channel", f"PJSIP/{self._options.tap_endpoint}"),
                ("ChannelId", tap.tap_id),
                ("Application", "ChanSpy"),
                ("Data", f"{tap.channel},{SPY_OPTIONS}"),
                ("Timeout", str(RING_MS)),
                ("Async", "true"),
                *(("Variable", f"PJSIP_HEADER(add,{name})={escaped(value)}") for name, value in headers.items()),
                ("Variable", f"{RUN}={self._run_id}"),
                action_id=tap.action_id,
            )
        except PbxError as exc:
            self._tap_problem = f"calls cannot be tapped: {exc}"
            log.warning("tap not placed", call_ref=tap.call_ref, side=tap.side.value, error=str(exc))
            self._watch.tap_failed(tap.action_id, monotonic_ms())
            self._carry_out([])

    async def _facts_of(self, tap: PlaceTap) -> CallFacts:
        """Asked once a call, for both of its taps, when it is first tapped: later a transfer may have taken the caller
        out of the queue."""
        call = self._watch.call(tap.call_ref)
        caller = None if call is None else self._watch.channel(call.caller)
        if tap.call_ref not in self._facts and caller is not None:
            asked = caller_facts(self._ami, caller.name)
            self._facts[tap.call_ref] = asyncio.get_running_loop().create_task(asked)
        answer = self._facts.get(tap.call_ref)
        known = CallFacts() if answer is None else await asyncio.shield(answer)
        return replace(known, agent_ext=tap.agent_ext)

    async def _drop(self, tap: DropTap) -> None:
        try:
            await self._ami.action("Hangup", ("Channel", tap.channel))
            log.info("tap dropped", channel=tap.channel, why=tap.why)
        except PbxError as exc:  # gone already, most of the time
            log.debug("tap not dropped", channel=tap.channel, error=str(exc))

    # --- acting -------------------------------------------------------------------------------------------------------

    async def transfer(self, call: CallRef, target: str, why: str) -> None:
        """See :meth:`ivr.pbx.moves.Moves.transfer`."""
        await self._moves.transfer(call, target)

    async def hang_up(self, call: CallRef, why: str) -> None:
        """See :meth:`ivr.pbx.moves.Moves.hang_up`."""
        await self._moves.hang_up(call)

    async def pause_agent(self, call: CallRef, why: str) -> None:
        """Pause the agent in every queue they are a member of, for ``pause_ms``.

        Raises:
            PbxError: the agent is in no queue, or the pause did not take.
        """
        await self._pauses.pause(call.agent_ext or "")

    async def set_paused(self, ext: str, *, paused: bool, why: str) -> None:
        """The same without a call; or give the agent back now.

        Raises:
            PbxError: the agent is in no queue, or the PBX did not do it.
        """
        await (self._pauses.pause(ext) if paused else self._pauses.unpause(ext))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("work at the PBX failed; the human call goes on", exc_info=task.exception())
