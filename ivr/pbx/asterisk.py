"""Asterisk (and FreePBX) as a PBX: taps calls by itself and acts on them, over the manager interface alone.

Owns: one :class:`~ivr.pbx.ami.AmiClient`, one :class:`~ivr.pbx.watch.CallWatch`, the timers between them, and the
actions on the human call. What is asked of the PBX counts as done only when the PBX's events show it:

| action   | asked by       | done when                                   | else                            |
|----------|----------------|---------------------------------------------|---------------------------------|
| transfer | ``Redirect``   | the caller is in a new bridge with somebody | next target; last of all: agent |
| hang up  | ``Hangup``     | the caller's channel is gone                | ``PbxError``                    |
| pause    | ``QueuePause`` | ``QueueStatus`` shows the member paused     | ``PbxError``                    |
| tap      | ``Originate``  | the leg reaches us as a SIP call            | again, with back-off            |

``Redirect`` answers Success even to an extension that does not exist or has no phone, and drops the caller there; so
both are asked for first.
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
from ivr.pbx.ami import AmiClient, AmiMessage
from ivr.pbx.base import CallRef
from ivr.pbx.check import version
from ivr.pbx.guarded import mark_of
from ivr.pbx.guests import Guests, Hands
from ivr.pbx.inquiry import AsteriskOptions, EventProbe, caller_facts, unreachable
from ivr.pbx.lease import MOVE, RUN, Grip, Lease, channel_of
from ivr.pbx.notes import ChannelNotes
from ivr.pbx.pauses import QueuePauses
from ivr.pbx.phone_keys import USER_EVENT, PhoneKey, PhoneKeys
from ivr.pbx.watch import CallOver, CallWatch, Claimed, Command, DropTap, PlaceTap, WatchedCall
from policies.types import Key

log = structlog.get_logger("firmline.pbx")

SPY_OPTIONS = "qowSEu"
HANGUP_MS, HANGUP_TRIES = 900, 2
"""A channel goes within some ten milliseconds; both tries fit into the time in which people must know."""
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
        self._waiting: set[asyncio.Future[None]] = set()
        self._pauses = QueuePauses(self._ami, options.pause_ms, self._spawn)
        self._facts: dict[str, CallFacts] = {}
        self._tap_problem: str | None = None
        self._deaf_problem: str | None = None
        self._probe = EventProbe()
        self._keys = PhoneKeys(options.keys)
        self.on_phone_key: Callable[[str, str, Key], None] = lambda _ref, _ext, _key: None
        """Told call, agent's extension and key when an agent has pressed one on their own phone."""
        self.notes = ChannelNotes(self._ami, self._watch, self._spawn)
        self._lease = Lease(self._grip())
        self.on_progress: Callable[[str, str], None] = lambda _ref, _text: None
        """Told the reference of a call that is being moved, and in one sentence how that stands."""
        self.guests = Guests(self._hands())
        self.on_claimed: Callable[[str], None] = lambda _ref: None
        """Told the reference of each call that another Firmline is beside."""
        self.on_call_over: Callable[[str], None] = lambda _ref: None
        """Told the reference of each tapped call that is over."""
        self.on_connected: Callable[[], None] = lambda: None
        """Told of each login: a PBX that was away may have forgotten who is registered."""

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
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def problem(self) -> str | None:
        """Why the PBX cannot be used now, or ``None``."""
        return self._ami.problem or self._deaf_problem or self._tap_problem

    # --- attaching ----------------------------------------------------------------------------------------------------

    def _lost(self, _why: str) -> None:
        self._backlog = []

    def _heard(self, event: AmiMessage) -> None:
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
        for future in list(self._waiting):
            if not future.done():
                future.set_result(None)

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
        self.on_connected()
        rows = [row for row in await self._ami.event_list("Status", ("Variables", MOVE)) if row.event == "Status"]
        channels = [channel_of(row) for row in rows]
        self._lease.take_up(rows)
        self._carry_out(self._watch.resync(channels, monotonic_ms()))
        backlog, self._backlog = self._backlog or [], None
        for event in backlog:
            self._hear(event)
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
        if await self._lease.left_alone(tap):
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
                *(("Variable", f"PJSIP_HEADER(add,{name})={value}") for name, value in headers.items()),
                ("Variable", f"{RUN}={self._run_id}"),
                action_id=tap.action_id,
            )
        except PbxError as exc:
            self._tap_problem = f"calls cannot be tapped: {exc}"
            log.warning("tap not placed", call_ref=tap.call_ref, side=tap.side.value, error=str(exc))
            self._watch.tap_failed(tap.action_id, monotonic_ms())
            self._carry_out([])

    async def _facts_of(self, tap: PlaceTap) -> CallFacts:
        """Asked once a call, when it is first tapped: later a transfer may have taken the caller out of the queue."""
        call = self._watch.call(tap.call_ref)
        caller = None if call is None else self._watch.channel(call.caller)
        if tap.call_ref not in self._facts and caller is not None:
            facts = await caller_facts(self._ami, caller.name)
            if self._watch.call(tap.call_ref) is not None:
                self._facts.setdefault(tap.call_ref, facts)
        known = self._facts.get(tap.call_ref, CallFacts())
        return replace(known, agent_ext=tap.agent_ext)

    async def _drop(self, tap: DropTap) -> None:
        try:
            await self._ami.action("Hangup", ("Channel", tap.channel))
            log.info("tap dropped", channel=tap.channel, why=tap.why)
        except PbxError as exc:  # gone already, most of the time
            log.debug("tap not dropped", channel=tap.channel, error=str(exc))

    # --- acting -------------------------------------------------------------------------------------------------------

    async def transfer(self, call: CallRef, target: str, why: str) -> None:
        """Move the caller to ``target`` or, in order, the fallbacks; returns when somebody there speaks with them.

        Raises:
            PbxError: no target can be reached (then the caller was not moved), nobody answered (then the caller was
                sent back to the agent), or the caller has hung up.
        """
        watched = self._together(call)
        await self._lease.must_be_ours(watched)
        self._watch.hold(watched)
        handed_on = False
        try:
            await self._lease.moving(watched)
            await self._move(watched, tuple(dict.fromkeys((target, *self._options.fallbacks))))
            handed_on = True
        finally:
            self._lease.moved(watched, for_good=handed_on)
            self._carry_out(self._watch.settle_move(watched, handed_on=handed_on, now_ms=monotonic_ms()))

    async def _move(self, call: WatchedCall, targets: tuple[str, ...]) -> None:
        refusals: list[str] = []
        moved = False
        for target in targets:
            refusal = await unreachable(self._ami, self._options.context, target)
            if refusal is None:
                self.on_progress(call.ref, f"{target} is ringing; the caller waits")
                moved = True
                refusal = await self._redirect(call, target)
            if refusal is None:
                log.info("transferred", call_ref=call.ref, target=target)
                return
            refusals.append(refusal)
            log.warning("transfer target failed", call_ref=call.ref, target=target, reason=refusal)
        told = "; ".join(refusals)
        if not moved:
            raise PbxError(f"transfer: {told}; the caller stays with the agent")
        self.on_progress(call.ref, f"{told}; the caller is being brought back to {call.agent_ext}")
        back = await self._redirect(call, call.agent_ext)
        raise PbxError(f"transfer: {told}; " + (back or f"the caller is back with agent {call.agent_ext}"))

    async def _redirect(self, call: WatchedCall, target: str) -> str | None:
        """Move the caller and wait for company.

        Raises:
            PbxError: the caller is gone.
        """
        caller = self._watch.channel(call.caller)
        if caller is None:
            raise PbxError("transfer: the caller hung up")
        left, context = caller.bridge, self._options.context
        try:
            await self._ami.action(
                "Redirect", ("Channel", caller.name), ("Context", context), ("Exten", target), ("Priority", "1")
            )
        except PbxError as exc:
            return str(exc)

        def over() -> bool:
            now = self._watch.channel(call.caller)
            return now is None or (now.bridge not in ("", left) and bool(self._watch.company(now.uniqueid)))

        answered = await self._until(over, self._options.answer_ms)
        if self._watch.channel(call.caller) is None:
            raise PbxError(f"transfer: the caller was gone before {target} answered")
        return None if answered else f"nobody answered at {target} within {self._options.answer_ms} ms"

    async def hang_up(self, call: CallRef, why: str) -> None:
        """End the human call by its caller's channel.

        Raises:
            PbxError: refused, or the channel is still there when the time is over.
        """
        watched = self._together(call)
        await self._lease.must_be_ours(watched)
        caller = self._watch.channel(watched.caller)
        assert caller is not None
        for _ in range(HANGUP_TRIES):
            try:
                await self._ami.action("Hangup", ("Channel", caller.name), ("Cause", "16"))
            except PbxError:
                if self._watch.channel(caller.uniqueid) is not None:
                    raise
            if await self._until(lambda: self._watch.channel(caller.uniqueid) is None, HANGUP_MS):
                return
        raise PbxError("hangup: the PBX took the request, but the caller's channel is still there")

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

    def _hands(self) -> Hands:
        return Hands(
            self._ami,
            self._watch,
            self._options,
            self._lease,
            self._together,
            self._redirect,
            self._until,
            self._carry_out,
        )

    def _grip(self) -> Grip:
        return Grip(
            self._ami,
            self._watch,
            self._options,
            self._run_id,
            self._redirect,
            self._until,
            self._carry_out,
            self._spawn,
        )

    def _together(self, call: CallRef) -> WatchedCall:
        watched = self._watch.call(call.call_ref)
        if watched is None:
            raise PbxError("the PBX knows no such call any more")
        if not self._watch.together(watched):
            raise PbxError("the caller is not with a guarded agent now, so the call is left alone")
        return watched

    async def _until(self, condition: Callable[[], bool], timeout_ms: int) -> bool:
        """Wait for ``condition``, asked again after each event of the PBX; false when the time is over."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while not condition():
                    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiting.add(future)
                    try:
                        await future
                    finally:
                        self._waiting.discard(future)
        except TimeoutError:
            return condition()
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("work at the PBX failed; the human call goes on", exc_info=task.exception())
