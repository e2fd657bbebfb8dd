"""Bringing a caller of an Asterisk to our own line and sending them on again, without a line of dialplan.

``Originate`` rings our phone and runs ``Bridge(<the caller's channel>,F(<context>^<agent>^1))``: the PBX takes the
caller out of the bridge with the agent and puts them together with us. ``F`` is what the PBX does with the caller when
our leg ends in any way that we did not plan, a crash included: the agent's phone rings again. Beyond that the leg has a
time of its own (``AbsoluteTimeout``), wound up again with every prompt, so that a process that hangs leaves nobody in
silence.

| step    | asked by        | done when                                    | else                                |
|---------|-----------------|----------------------------------------------|-------------------------------------|
| bring   | ``Originate``   | caller and our leg are in one bridge         | ``PbxError``; the caller is unmoved |
| send on | ``Redirect``    | the caller is in a new bridge with somebody  | the next of the list                |
| wake    | ``Originate``   | our silent leg is in the call's bridge       | ``PbxError``; nothing has changed   |
| dismiss | ``Hangup``      | the caller's channel is gone                 | ``PbxError``                        |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import structlog

from ivr.clock import monotonic_ms
from ivr.errors import PbxError
from ivr.pbx.ami import AmiMessage
from ivr.pbx.base import CallerGone, CallRef, NobodyThere
from ivr.pbx.grip import Grip
from ivr.pbx.inquiry import extension_exists, unreachable
from ivr.pbx.lease import Lease
from ivr.pbx.moves import Moves
from ivr.pbx.watched import WatchedCall

log = structlog.get_logger("firmline.pbx")

T = TypeVar("T")

BRING_MS = 5_000
WAKE_MS = 700
"""Measured: some tens of milliseconds. A prompt may not wait longer; it is played all the same then."""
KEEP_S = 45
"""How long our leg may live after the last prompt began: longer than any prompt and the wait for a key together."""


@dataclass(slots=True)
class _Guest:
    call: WatchedCall
    bridge: str = ""
    """The bridge that our leg is in."""
    failed: str = ""
    handed_on: bool = False


class Guests:
    """A :class:`ivr.pbx.base.GuestHost` on an Asterisk."""

    def __init__(self, grip: Grip, moves: Moves, lease: Lease) -> None:
        self._grip, self._moves, self._lease = grip, moves, lease
        self._guests: dict[str, _Guest] = {}
        self.transfer_to = grip.options.transfer_to
        self.on_guest_digit: Callable[[str, str], None] = lambda _guest, _digit: None

    def hear(self, event: AmiMessage) -> None:
        """Every manager event."""
        uniqueid = event.get("Uniqueid")
        match event.event:
            case "BridgeEnter" if uniqueid in self._guests:
                self._guests[uniqueid].bridge = event.get("BridgeUniqueid")
            case "OriginateResponse" if event.get("ActionID") in self._guests and event.get("Response") == "Failure":
                self._guests[event.get("ActionID")].failed = "our own phone could not be reached by the PBX"
            case "Hangup" if uniqueid in self._guests:
                self._guests[uniqueid].failed = "our own leg ended"
            case "DTMFEnd" if event.get("Direction") == "Received":
                for guest_id, guest in list(self._guests.items()):
                    if guest.call.caller == uniqueid and guest.bridge:
                        self.on_guest_digit(guest_id, event.get("Digit"))

    async def bring(self, call: CallRef, guest_id: str, headers: Mapping[str, str]) -> None:
        """Take the caller out of the call and put them together with us.

        Raises:
            PbxError: it did not come to that; the caller is where they were.
            CallerGone: they have hung up.
        """
        grip = self._grip
        watched = self._moves.together(call.call_ref)
        await self._lease.must_be_ours(watched)
        caller = grip.watch.channel(watched.caller)
        assert caller is not None
        home = await self._home(watched)
        guest = self._guests[guest_id] = _Guest(watched)
        grip.watch.hold(watched)
        grip.watch.guests.add(guest_id)
        await self._originate(guest_id, "Bridge", f"{caller.name},F({grip.options.context}^{home}^1)", headers)

        def settled() -> bool:
            now = grip.watch.channel(watched.caller)
            return now is None or bool(guest.failed) or (bool(guest.bridge) and now.bridge == guest.bridge)

        came = await grip.until(settled, BRING_MS)
        if grip.watch.channel(watched.caller) is None:
            raise CallerGone("menu: the caller hung up")
        if not came or guest.failed:
            raise PbxError(f"menu: the caller could not be brought to us: {guest.failed or 'the PBX did not do it'}")
        grip.carry_out(grip.watch.drop_taps(watched, "the caller is with us"))
        await self.keep(guest_id)
        log.info("caller brought to us", call_ref=watched.ref)

    async def wake(self, call: CallRef, guest_id: str, headers: Mapping[str, str]) -> None:
        """Put a silent leg of ours beside the two: from then on the PBX mixes, and sends to the caller all the time.

        A prompt is mixed into what the PBX sends to the caller, and between two parties it sends only what the other
        one sends. Nobody is moved for this, and when the leg goes the call is as it was.

        Raises:
            PbxError: it did not come to that.
        """
        grip = self._grip
        watched = self._moves.together(call.call_ref)
        caller = grip.watch.channel(watched.caller)
        assert caller is not None
        guest = self._guests[guest_id] = _Guest(watched)
        grip.watch.guests.add(guest_id)
        await self._originate(guest_id, "BridgeAdd", caller.name, headers)
        if not await grip.until(lambda: bool(guest.bridge or guest.failed), WAKE_MS) or not guest.bridge:
            raise PbxError(f"no leg of ours came into the call: {guest.failed or 'is app_bridgeaddchan loaded?'}")
        await self.keep(guest_id)

    async def _home(self, call: WatchedCall) -> str:
        """Where the PBX shall send the caller if we vanish.

        Raises:
            PbxError: nowhere: then they must not be moved.
        """
        grip = self._grip
        for target in (call.agent_ext, *self._targets):
            if await extension_exists(grip.ami, grip.options.context, target):
                return target
        raise PbxError(f"menu: neither {call.agent_ext} nor a supervisor is an extension of {grip.options.context}")

    @property
    def _targets(self) -> tuple[str, ...]:
        """Where callers go who ask for a supervisor, in order."""
        wanted = (self.transfer_to, *self._grip.options.fallbacks)
        return tuple(dict.fromkeys(target for target in wanted if target))

    async def _originate(self, guest_id: str, application: str, data: str, headers: Mapping[str, str]) -> None:
        await self._grip.ami.action(
            "Originate",
            ("Channel", f"PJSIP/{self._grip.options.tap_endpoint}"),
            ("ChannelId", guest_id),
            ("Application", application),
            ("Data", data),
            ("Timeout", str(BRING_MS)),
            ("Async", "true"),
            *(("Variable", f"PJSIP_HEADER(add,{name})={value}") for name, value in headers.items()),
            action_id=guest_id,
        )

    async def keep(self, guest_id: str) -> None:
        """Wind the leg's clock up again."""
        try:
            await self._grip.ami.action("AbsoluteTimeout", ("Channel", guest_id), ("Timeout", str(KEEP_S)))
        except PbxError as exc:  # gone by now, as a rule
            log.debug("leg not kept", error=str(exc))

    async def send_on(self, call: CallRef, *, agent_first: bool) -> str:
        """Move the caller to the agent or a supervisor, as asked, else to the other; the extension that answered.

        Raises:
            NobodyThere: nobody can be reached; the caller is where they were.
            PbxError: nobody answered; they were left where they were rung last.
            CallerGone: they have hung up.
        """
        grip = self._grip
        watched = self._watched(call)
        targets, agent = self._targets, watched.agent_ext
        wanted = (agent, *targets) if agent_first else (*targets, agent)
        refusals: list[str] = []
        rung: list[str] = []
        for target in dict.fromkeys(wanted):
            idle = target == agent  # who took another call meanwhile has no ear for this one
            refusal = await unreachable(grip.ami, grip.options.context, target, must_be_idle=idle)
            if refusal is None:
                rung.append(target)
                refusal = await self._unless_gone(watched, self._moves.redirect(watched, target))
            if refusal is None:
                return self._sent_on(watched, target)
            refusals.append(refusal)
        told = "; ".join(refusals)
        if not rung:
            raise NobodyThere(f"menu: {told}")
        try:
            return self._sent_on(watched, await self._unless_gone(watched, self._moves.bring_back(watched, rung)))
        except PbxError:
            self._moves.moved(watched, for_good=False)
            raise

    def _sent_on(self, watched: WatchedCall, target: str) -> str:
        away = target != watched.agent_ext
        self._moves.moved(watched, for_good=away)
        self._settle(watched, handed_on=away)
        log.info("caller sent on", call_ref=watched.ref, target=target)
        return target

    async def _unless_gone(self, watched: WatchedCall, work: Awaitable[T]) -> T:
        try:
            return await work
        except PbxError as exc:
            if self._grip.watch.channel(watched.caller) is None:
                raise CallerGone(str(exc)) from exc
            raise

    async def dismiss(self, call: CallRef) -> None:
        """Hang up on the caller, who is alone with us.

        Raises:
            PbxError: refused, or the channel is still there.
        """
        grip = self._grip
        caller = grip.watch.channel(self._watched(call).caller)
        if caller is None:
            return
        await grip.ami.action("Hangup", ("Channel", caller.name), ("Cause", "16"))
        if not await grip.until(lambda: grip.watch.channel(caller.uniqueid) is None, grip.options.ami.timeout_ms):
            raise PbxError("menu: the PBX took the request to hang up, but the caller's channel is still there")

    def let_go(self, call: CallRef, guest_id: str) -> None:
        """The stay is over, however it ended; the watch goes on as before."""
        guest = self._guests.pop(guest_id, None)
        self._grip.watch.guests.discard(guest_id)
        if guest is not None and guest.call.held:
            self._settle(guest.call, handed_on=guest.handed_on)

    def _settle(self, call: WatchedCall, *, handed_on: bool) -> None:
        grip = self._grip
        grip.carry_out(grip.watch.settle_move(call, handed_on=handed_on, now_ms=monotonic_ms()))

    def _watched(self, call: CallRef) -> WatchedCall:
        watched = self._grip.watch.call(call.call_ref)
        if watched is None:
            raise CallerGone("menu: the caller hung up")
        return watched
