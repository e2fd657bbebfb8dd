"""A small stand-in exchange: real SIP calls, bridged in Python, with two tap legs to Firmline and an HTTP control door.

It does what a PBX does in the parts that Firmline touches: the human call lives here and survives anything that
happens to a tap leg (fail-open); ``transfer`` and ``hangup`` answer only once they are really done.

A call's life (``_NEXT`` below): RINGING -> BRIDGED -> TRANSFERRING -> TRANSFERRED -> OVER, with BRIDGED again when a
transfer fails and OVER from everywhere.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ivr.clock import monotonic_ms
from ivr.demo.stack import Dialog, Extension, PhoneError, Stack
from ivr.lines.base import HEADER_AGENT, HEADER_CALL, HEADER_SIDE
from policies.types import Side

RING_S = 8.0
"""How long a phone may ring: under the ten seconds that a PBX client usually waits for its answer."""
TAP_RING_S = 5.0


class CallState(StrEnum):
    """Where a call at the exchange is."""

    RINGING = "ringing"
    BRIDGED = "bridged"
    TRANSFERRING = "transferring"
    TRANSFERRED = "transferred"
    OVER = "over"


_NEXT: dict[CallState, frozenset[CallState]] = {
    CallState.RINGING: frozenset({CallState.BRIDGED, CallState.OVER}),
    CallState.BRIDGED: frozenset({CallState.TRANSFERRING, CallState.OVER}),
    CallState.TRANSFERRING: frozenset({CallState.BRIDGED, CallState.TRANSFERRED, CallState.OVER}),
    CallState.TRANSFERRED: frozenset({CallState.TRANSFERRING, CallState.OVER}),
    CallState.OVER: frozenset(),
}


class ExchangeEventKind(StrEnum):
    """What the exchange tells its watchers."""

    CALL_RINGING = "call_ringing"
    CALL_BRIDGED = "call_bridged"
    TAP_UP = "tap_up"
    TAP_DOWN = "tap_down"
    TRANSFERRING = "transferring"
    TRANSFERRED = "transferred"
    TRANSFER_FAILED = "transfer_failed"
    AGENT_PAUSED = "agent_paused"
    CALL_OVER = "call_over"


@dataclass(frozen=True, slots=True)
class ExchangeEvent:
    """One thing that happened at the exchange; ``t_ms`` is on ``ivr.clock.monotonic_ms``'s timeline."""

    kind: ExchangeEventKind
    call: str
    t_ms: int
    detail: str = ""


class ControlError(Exception):
    """A control request that cannot be done; ``status`` is the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BridgedCall:
    """One human call: caller, other party, and up to two tap legs, mixed every 20 ms on the media thread."""

    def __init__(self, call_id: str, agent_ext: str, caller: Dialog) -> None:
        self.id = call_id
        self.agent_ext = agent_ext
        self.state = CallState.RINGING
        self.caller = caller
        self.party: Dialog | None = None
        self.taps: dict[Side, Dialog] = {}

    def move(self, state: CallState) -> bool:
        """Go to ``state`` if the table allows it."""
        if state not in _NEXT[self.state]:
            return False
        self.state = state
        return True

    def tick(self, _now_ms: int) -> None:
        """Media thread: each party hears the other, mixed with what its own tap leg sends; the tap hears its side."""
        party, taps = self.party, self.taps
        from_caller = self.caller.hear()
        from_party = party.hear() if party is not None else None
        to_caller = _through_tap(taps.get(Side.CALLER), from_caller)
        to_party = _through_tap(taps.get(Side.AGENT), from_party)
        _speak(self.caller, _mix(from_party, to_caller))
        if party is not None:
            _speak(party, _mix(from_caller, to_party))


def _through_tap(tap: Dialog | None, heard: bytes | None) -> bytes | None:
    """Give the tap leg its side's frame; return what the tap leg says to that side."""
    if tap is None:
        return None
    _speak(tap, heard)
    return tap.hear()


def _speak(dialog: Dialog, frame: bytes | None) -> None:
    if frame is not None:
        dialog.speak(frame)


def _mix(a: bytes | None, b: bytes | None) -> bytes | None:
    if a is None or b is None:
        return a or b
    total = np.frombuffer(a, np.int16).astype(np.int32) + np.frombuffer(b, np.int16)
    return np.clip(total, -32768, 32767).astype(np.int16).tobytes()


class Exchange:
    """Extensions, calls and control. Every method is called from the loop that opened ``stack``.

    ``firmline_uri`` is what both tap legs dial (``sip:firmline@host:port``); ``None`` leaves calls untapped.
    """

    def __init__(self, stack: Stack, firmline_uri: str | None = None) -> None:
        self.firmline_uri = firmline_uri
        self.ring_s = RING_S
        self.calls: dict[str, BridgedCall] = {}
        self.events: list[ExchangeEvent] = []
        self.paused: set[str] = set()
        self._stack = stack
        self._phones: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._watchers: list[Callable[[ExchangeEvent], None]] = []
        self._trunk: Extension | None = None

    async def start(self) -> None:
        """Open the address that outgoing calls come from."""
        self._trunk = await self._stack.extension("exchange")
        self._trunk.on_incoming(self._stack.refuse)

    async def stop(self) -> None:
        """End every call."""
        await asyncio.gather(*(self._end(call, "exchange stops") for call in list(self.calls.values())))

    async def add_extension(self, number: str, phone_uri: str) -> str:
        """Route ``number`` to the phone at ``phone_uri``; returns the URI that callers dial."""
        extension = await self._stack.extension(number)
        self._phones[number] = phone_uri
        extension.on_incoming(lambda dialog: self._stack.spawn(self._connect(number, dialog)))
        return extension.uri

    def watch(self, watcher: Callable[[ExchangeEvent], None]) -> Callable[[], None]:
        """Call ``watcher`` with each event from now on; returns what stops it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    async def transfer(self, call_id: str, target: str) -> None:
        """Move the caller to extension ``target``; returns once it has answered and is bridged, the agent released.

        Raises:
            ControlError: 404 no such call or extension, 409 not answered or the call is not in a state for it; the
                present bridge is then untouched.
        """
        call = self._live(call_id)
        if target not in self._phones:
            raise ControlError(409, f"no extension {target!r} at this exchange")
        before = call.state
        if not call.move(CallState.TRANSFERRING):
            raise ControlError(409, f"call {call_id} is {call.state}: it cannot be transferred now")
        self._tell(ExchangeEventKind.TRANSFERRING, call, target)
        try:
            dialog = await self._ring(target, call)
        except PhoneError as exc:
            await self._transfer_failed(call, before, str(exc))
            raise ControlError(409, f"extension {target} did not answer: {exc}") from exc
        if not call.move(CallState.TRANSFERRED):
            await dialog.hang_up()
            raise ControlError(409, f"call {call_id} ended before extension {target} answered")
        agent, taps = call.party, call.taps
        call.party, call.taps = dialog, {}
        dialog.on_over(lambda gone: self._party_gone(call, gone))
        await _hang_up_all([agent, *taps.values()])
        self._tell(ExchangeEventKind.TRANSFERRED, call, target)

    async def hang_up(self, call_id: str) -> None:
        """End the call for everybody. Raises :class:`ControlError` 404 when there is no such call."""
        await self._end(self._live(call_id), "hung up by control")

    async def pause_agent(self, agent_ext: str) -> None:
        """Offer no further calls to this agent until ``resume_agent``. Raises :class:`ControlError` 409 if unknown."""
        if agent_ext not in self._phones:
            raise ControlError(409, f"no agent at extension {agent_ext!r}")
        self.paused.add(agent_ext)
        self._emit(ExchangeEvent(ExchangeEventKind.AGENT_PAUSED, "", monotonic_ms(), agent_ext))

    def resume_agent(self, agent_ext: str) -> None:
        """Calls may reach this agent again."""
        self.paused.discard(agent_ext)

    def _live(self, call_id: str) -> BridgedCall:
        call = self.calls.get(call_id)
        if call is None:
            raise ControlError(404, f"no live call {call_id!r}")
        return call

    async def _connect(self, number: str, caller: Dialog) -> None:
        """A caller dialled ``number``: ring the agent's phone, and answer the caller once it is picked up."""
        call = BridgedCall(f"demo-{next(self._numbers)}", number, caller)
        self.calls[call.id] = call
        caller.on_over(lambda _gone: self._stack.spawn(self._end(call, "caller left")))
        self._tell(ExchangeEventKind.CALL_RINGING, call, number)
        try:
            if number in self.paused:
                raise PhoneError(f"agent {number} is paused")
            party = await self._ring(number, call)
            call.party = party
            await caller.answer()
            await caller.wait_up(self.ring_s)
        except PhoneError as exc:
            await self._end(call, str(exc))
            await _hang_up_all([call.party])  # the caller may have left, and ended the call, while it was ringing
            return
        if not call.move(CallState.BRIDGED):
            await party.hang_up()
            return
        party.on_over(lambda gone: self._party_gone(call, gone))
        self._stack.clock.add(call.tick)
        self._tell(ExchangeEventKind.CALL_BRIDGED, call, number)
        if self.firmline_uri is not None:
            for side in (Side.CALLER, Side.AGENT):
                self._stack.spawn(self._tap(call, side, self.firmline_uri))

    async def _ring(self, number: str, call: BridgedCall) -> Dialog:
        """Dial the phone of ``number`` and wait for its answer; gives up when the caller leaves."""
        dialog = await self._out().dial(self._phones[number])
        call.caller.on_over(lambda _gone: self._stack.spawn(dialog.hang_up()) if not dialog.up.is_set() else None)
        await dialog.wait_up(self.ring_s)
        return dialog

    async def _tap(self, call: BridgedCall, side: Side, uri: str) -> None:
        """Dial Firmline for one side. Whatever goes wrong here is told and changes nothing for the call."""
        headers = {HEADER_CALL: call.id, HEADER_SIDE: side.value, HEADER_AGENT: call.agent_ext}
        try:
            leg = await self._out().dial(uri, headers)
            await leg.wait_up(TAP_RING_S)
        except PhoneError as exc:
            self._tell(ExchangeEventKind.TAP_DOWN, call, f"{side}: {exc}")
            return
        if call.state is not CallState.BRIDGED:
            await leg.hang_up()
            return
        call.taps = {**call.taps, side: leg}  # replaced whole: the media thread may be reading the old one
        self._tell(ExchangeEventKind.TAP_UP, call, side)
        leg.on_over(lambda _gone: self._tap_gone(call, side, leg))

    def _tap_gone(self, call: BridgedCall, side: Side, leg: Dialog) -> None:
        if call.taps.get(side) is leg:
            call.taps = {s: t for s, t in call.taps.items() if t is not leg}
        self._tell(ExchangeEventKind.TAP_DOWN, call, side)

    def _party_gone(self, call: BridgedCall, gone: Dialog) -> None:
        # While a transfer rings, the agent leaving must not end the caller's call.
        if call.party is gone and call.state is not CallState.TRANSFERRING:
            self._stack.spawn(self._end(call, "agent left"))

    async def _transfer_failed(self, call: BridgedCall, before: CallState, why: str) -> None:
        if not call.move(before):
            return
        self._tell(ExchangeEventKind.TRANSFER_FAILED, call, why)
        if call.party is None or call.party.over.is_set():
            await self._end(call, "agent left and the transfer was not answered")

    async def _end(self, call: BridgedCall, why: str) -> None:
        if not call.move(CallState.OVER):
            return
        self._stack.clock.remove(call.tick)
        self.calls.pop(call.id, None)
        taps, call.taps = list(call.taps.values()), {}
        await _hang_up_all([call.caller, call.party, *taps])
        self._tell(ExchangeEventKind.CALL_OVER, call, why)

    def _out(self) -> Extension:
        if self._trunk is None:
            raise PhoneError("the exchange has not been started")
        return self._trunk

    def _tell(self, kind: ExchangeEventKind, call: BridgedCall, detail: str) -> None:
        self._emit(ExchangeEvent(kind, call.id, monotonic_ms(), detail))

    def _emit(self, event: ExchangeEvent) -> None:
        self.events.append(event)
        for watcher in list(self._watchers):
            watcher(event)


async def _hang_up_all(dialogs: list[Dialog | None]) -> None:
    waits: list[Awaitable[None]] = [dialog.hang_up() for dialog in dialogs if dialog is not None]
    await asyncio.gather(*waits)
