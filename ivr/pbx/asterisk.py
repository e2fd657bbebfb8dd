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
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import structlog

from ivr.clock import monotonic_ms
from ivr.errors import PbxError
from ivr.facts import CallFacts
from ivr.lines.base import HEADER_CALL, HEADER_SIDE
from ivr.pbx.ami import AmiClient, AmiMessage
from ivr.pbx.base import CallRef
from ivr.pbx.guests import Guests, Hands
from ivr.pbx.inquiry import AsteriskOptions, EventProbe, caller_facts, unreachable
from ivr.pbx.watch import TAP_PREFIX, CallOver, CallWatch, Channel, Command, DropTap, PlaceTap, WatchedCall

log = structlog.get_logger("firmline.pbx")

SPY_OPTIONS = "qowSEu"
RING_MS = 5_000
"""A tap leg is answered by us at once; one that rings longer is not going to be."""
PAUSE_REASON = "Firmline: a minute after a hard call"


class AsteriskPbx:
    """A :class:`ivr.pbx.base.PbxControl` that also attaches: calls of guarded agents are tapped without being asked."""

    def __init__(self, options: AsteriskOptions) -> None:
        self._options = options
        run_id = f"{random.getrandbits(32):08x}"
        self._watch = CallWatch(options.tap_endpoint, options.agents, options.colleagues, run_id=run_id)
        self._ami = AmiClient(options.ami, on_event=self._heard, on_up=self._resync, on_down=self._lost)
        self._backlog: list[AmiMessage] | None = []
        """Events since the login, kept until the list of channels is read: the list may be older than they are."""
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Future[None]] = set()
        self._paused: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._facts: dict[str, CallFacts] = {}
        self._tap_problem: str | None = None
        self._deaf_problem: str | None = None
        self._probe = EventProbe()
        self.guests = Guests(self._hands())
        self.on_call_over: Callable[[str], None] = lambda _ref: None
        """Told the reference of each tapped call that is over."""
        self.on_connected: Callable[[], None] = lambda: None
        """Told of each login: a PBX that was away may have forgotten who is registered."""

    async def start(self) -> None:
        """Begin to connect; returns at once. A PBX that is down is tried again for ever."""
        self._ami.start()

    async def stop(self) -> None:
        """Give paused agents back, then close; never raises."""
        for queue, interface in list(self._paused):
            try:
                await self._unpause(queue, interface)
            except PbxError as exc:
                log.warning("an agent stays paused", interface=interface, error=str(exc))
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
        if event.event == "OriginateResponse" and event.get("ActionID").startswith(TAP_PREFIX):
            self._placed(event)
        self._carry_out(self._watch.hear(event, monotonic_ms()))
        for future in list(self._waiting):
            if not future.done():
                future.set_result(None)

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
        rows = await self._ami.event_list("Status")
        channels = [_channel_of(row) for row in rows if row.event == "Status"]
        self._carry_out(self._watch.resync(channels, monotonic_ms()))
        backlog, self._backlog = self._backlog or [], None
        for event in backlog:
            self._hear(event)
        log.info("calls of the PBX read", channels=len(channels))
        await self._adopt_pauses()
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

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case PlaceTap():
                    self._spawn(self._place(command))
                case DropTap():
                    self._spawn(self._drop(command))
                case CallOver():
                    self._facts.pop(command.call_ref, None)
                    self._tap_problem = None  # what went wrong with that call's taps is no news any more
                    self.on_call_over(command.call_ref)
        self._disarm()
        due_ms = self._watch.next_deadline_ms()
        if due_ms is not None:
            wait_s = max(0, due_ms - monotonic_ms()) / 1000
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_deadline)

    def _on_deadline(self) -> None:
        self._timer = None
        if self._ami.problem is None:  # else the next login reads everything anew
            self._carry_out(self._watch.on_deadline(monotonic_ms()))

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _place(self, tap: PlaceTap) -> None:
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
                action_id=tap.tap_id,
            )
        except PbxError as exc:
            self._tap_problem = f"calls cannot be tapped: {exc}"
            log.warning("tap not placed", call_ref=tap.call_ref, side=tap.side.value, error=str(exc))
            self._watch.tap_failed(tap.tap_id, monotonic_ms())
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
        self._watch.hold(watched)
        handed_on = False
        try:
            await self._move(watched, tuple(dict.fromkeys((target, *self._options.fallbacks))))
            handed_on = True
        finally:
            self._carry_out(self._watch.settle_move(watched, handed_on=handed_on, now_ms=monotonic_ms()))

    async def _move(self, call: WatchedCall, targets: tuple[str, ...]) -> None:
        refusals: list[str] = []
        moved = False
        for target in targets:
            refusal = await unreachable(self._ami, self._options.context, target)
            if refusal is None:
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
        caller = self._watch.channel(watched.caller)
        assert caller is not None
        await self._ami.action("Hangup", ("Channel", caller.name), ("Cause", "16"))
        if not await self._until(lambda: self._watch.channel(caller.uniqueid) is None, self._options.ami.timeout_ms):
            raise PbxError("hangup: the PBX took the request, but the caller's channel is still there")

    async def pause_agent(self, call: CallRef, why: str) -> None:
        """Pause the agent in every queue they are a member of, for ``pause_ms``; queues already paused stay so.

        Raises:
            PbxError: the agent is in no queue, or the pause did not take.
        """
        agent = call.agent_ext or ""
        members = [row for row in await self._members() if _is_member(row, agent)]
        if not members:
            raise PbxError(f"pause: {agent or 'the agent'} is a member of no queue")
        for row in (row for row in members if row.get("Paused") != "1"):
            key = (row.get("Queue"), row.get("Location"))
            await self._queue_pause(*key, paused=True)
            self._give_back_later(*key)
        still = [row for row in await self._members() if _is_member(row, agent) and row.get("Paused") != "1"]
        if still:
            raise PbxError(f"pause: {agent} is still not paused in queue {still[0].get('Queue')}")

    async def _adopt_pauses(self) -> None:
        """Agents that an earlier run of ours paused and never gave back are given back in time."""
        try:
            members = await self._members()
        except PbxError as exc:  # a PBX without queues
            log.debug("queues not read", error=str(exc))
            return
        for row in members:
            if row.get("Paused") == "1" and row.get("PausedReason") == PAUSE_REASON:
                self._give_back_later(row.get("Queue"), row.get("Location"))

    def _give_back_later(self, queue: str, interface: str) -> None:
        if (queue, interface) not in self._paused:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self._options.pause_ms / 1000, self._pause_over, queue, interface)
            self._paused[queue, interface] = timer

    def _pause_over(self, queue: str, interface: str) -> None:
        self._spawn(self._unpause(queue, interface))

    async def _unpause(self, queue: str, interface: str) -> None:
        timer = self._paused.pop((queue, interface), None)
        if timer is not None:
            timer.cancel()
            await self._queue_pause(queue, interface, paused=False)

    async def _queue_pause(self, queue: str, interface: str, *, paused: bool) -> None:
        await self._ami.action(
            "QueuePause",
            ("Queue", queue),
            ("Interface", interface),
            ("Paused", "true" if paused else "false"),
            ("Reason", PAUSE_REASON if paused else ""),
        )

    async def _members(self) -> list[AmiMessage]:
        return [row for row in await self._ami.event_list("QueueStatus") if row.event == "QueueMember"]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _hands(self) -> Hands:
        return Hands(
            self._ami,
            self._watch,
            self._options,
            lambda: tuple(dict.fromkeys(t for t in (self._options.transfer_to, *self._options.fallbacks) if t)),
            self._together,
            self._redirect,
            self._until,
            self._carry_out,
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


def _channel_of(row: AmiMessage) -> Channel:
    return Channel(row.get("Uniqueid"), row.get("Channel"), row.get("Linkedid"), row.get("BridgeID"))


def _is_member(row: AmiMessage, agent: str) -> bool:
    device = f"PJSIP/{agent}"
    return bool(agent) and device in (row.get("StateInterface"), row.get("Location"))
