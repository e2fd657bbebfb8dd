"""Which calls of an Asterisk are tapped, and where each stands: sans-IO, manager events in, things to do out.

Owns: the channels that are in bridges, the pairing of a guarded agent with the person at the other end, the two taps of
each pair. Never: sockets, clocks, or anything done to the human call.

A call is named by the Linkedid it had when it was first seen, and known by the caller's own channel, because a transfer
or a park may change everything else about it. One tap, by the side it hears:

    NONE --pair seen--> ASKED --its channel is gone, or could not be made--> NONE (again after a back-off)
                          |
                          +--the tapped channel entered another bridge, or the pair is over--> DROPPING --gone--> NONE

A tap must be replaced when its channel changes bridges: on Asterisk 22 the old one still hears, but what it says is
lost in about half the cases. Where other Firmlines watch the same PBX, the caller's tap says whose the call is, and the
agent's follows it (``ivr.pbx.claims``). ``ChanSpy``'s options ``qowSEu``: no beep; hear and whisper to this one
channel; end with it (S, E: without them a leg of a channel that is gone waits for ever); the name is a whole name, not
a prefix (u).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from ivr.pbx.ami import AmiMessage
from ivr.pbx.channels import Channel, Channels, endpoint_of
from ivr.pbx.claims import Claims
from ivr.pbx.guarded import Guarded, Mark
from ivr.pbx.watched import CallOver, Claimed, Command, DropTap, PlaceTap, Tap, WatchedCall
from policies.types import Side

RELEASE_MS = 3_000
"""How long a pair may be apart (an announced transfer, a retrieve from park) before its taps are dropped."""
RETRY_MIN_MS, RETRY_MAX_MS = 250, 5_000
TAP_PREFIX = "firmline-tap-"
"""What the Uniqueid of every tap begins with."""
MAX_OVER = 256
"""References of calls that ended lately; a leg asked for in a call's last moment is with us within seconds."""
STEADY_MS = 5_000
"""A tap that lived so long was sound: when it goes, the next one is tried at once."""


class CallWatch:
    """The watch over one PBX."""

    def __init__(self, us: str, agents: Sequence[str], colleagues: Sequence[str] = (), run_id: str = "0") -> None:
        """``us``: our own endpoint. ``agents``: shell patterns of guarded endpoints; ``colleagues``: never callers.

        ``run_id`` tells our requests from those of other processes.
        """
        self._run_id = run_id
        self.claims = Claims(us)
        self._us, self.guarded = us, Guarded(us, agents, colleagues)
        self._channels = Channels()
        self._calls: dict[str, WatchedCall] = {}
        self._over: deque[str] = deque(maxlen=MAX_OVER)
        self._taps: dict[str, tuple[WatchedCall, Side]] = {}
        self.guests: set[str] = set()
        """Ids of legs of ours that are no taps: callers who are with us for a while."""
        self._tap_serial = 0
        self._out: list[Command] = []

    # --- events -------------------------------------------------------------------------------------------------------

    def hear(self, event: AmiMessage, now_ms: int) -> list[Command]:
        """One manager event."""
        uniqueid = event.get("Uniqueid")
        match event.event:
            case "BridgeEnter":
                if endpoint_of(event.get("Channel")) != self._us:
                    self._channels.entered(
                        uniqueid, event.get("Channel"), event.get("Linkedid"), event.get("BridgeUniqueid")
                    )
            case "BridgeLeave":
                self._channels.left(uniqueid, event.get("BridgeUniqueid"))
            case "Rename":
                self._channels.renamed(uniqueid, event.get("Newname"))
            case "Hangup":
                self._hung_up(uniqueid, now_ms)
            case "Newchannel" if uniqueid.startswith(TAP_PREFIX):
                self._tap_made(uniqueid, event.get("Channel"), now_ms)
            case "OriginateResponse" if event.get("Response") == "Failure":
                self.tap_failed(event.get("ActionID"), now_ms)
            case _:
                return []
        self._settle(now_ms)
        return self._flush()

    def resync(self, channels: Iterable[Channel], now_ms: int) -> list[Command]:
        """The PBX's present channels, after a new login: what was missed is made up for.

        Legs to our endpoint that we do not know are those of a process that died: they are hung up.
        """
        present = {c.uniqueid: c for c in channels}
        for uniqueid in [*(channel.uniqueid for channel in self._channels), *self._taps]:
            if uniqueid not in present:
                self._hung_up(uniqueid, now_ms)
        for tap_id, (call, side) in self._taps.items():
            call.taps[side].made = present[tap_id].name if present[tap_id].endpoint == self._us else ""
        self.claims.taken.clear()
        for channel in present.values():
            if channel.uniqueid.startswith(TAP_PREFIX) and not self._is_our_tap(channel):
                self._seen_elsewhere(channel.uniqueid, channel.name, now_ms)
        for channel in present.values():
            if channel.endpoint == self._us and not self._is_our_tap(channel) and channel.uniqueid not in self.guests:
                self._out.append(DropTap(channel.name, "a leg that an earlier run left behind"))
            elif channel.bridge and channel.endpoint != self._us:
                self._channels.found(channel)
        for channel in list(self._channels):
            if not present[channel.uniqueid].bridge:
                self._channels.left(channel.uniqueid, channel.bridge)
        self._settle_all(now_ms)
        return self._flush()

    def tap_failed(self, action_id: str, now_ms: int) -> None:
        """An attempt to place a tap failed; it is tried again after a back-off."""
        tap_id = self.asked(action_id)
        if tap_id is not None:
            self._tap_gone(tap_id, now_ms, failed=True)

    def asked(self, action_id: str) -> str | None:
        """The tap that we asked for under ``action_id`` and still want; ``None`` for the requests of others."""
        for tap_id, (call, side) in self._taps.items():
            if call.taps[side].action_id == action_id:
                return tap_id
        return None

    def peer_died(self, endpoint: str, legs: Iterable[str] = ()) -> list[Command]:
        """Another Firmline's lease ran out: what it left is hung up, and with that its claims are free.

        ``legs``: channels of its endpoint, those of callers in its menu among them; the PBX takes these callers back to
        their agents when our leg is gone (``ivr.pbx.guests``).
        """
        for channel in sorted({*self.claims.taps_of(endpoint), *legs}):
            self._out.append(DropTap(channel, f"the Firmline at {endpoint} is gone"))
        self._touch_all()  # who waited for its word need not any more
        return self._flush()

    def next_deadline_ms(self) -> int | None:
        """When ``on_deadline`` wants to be called next."""
        times: list[int] = []
        for call in self._calls.values():
            if call.apart_since_ms is not None and not call.held and call.tapped:
                times.append(call.apart_since_ms + RELEASE_MS)
            if call.wanted and not self._claimed_elsewhere(call):
                times += [due for side in call.taps if (due := self._tap_due_ms(call, side)) is not None]
        return min(times, default=None)

    def on_deadline(self, now_ms: int) -> list[Command]:
        """Whatever was due by ``now_ms``."""
        self._settle_all(now_ms)
        return self._flush()

    # --- questions and orders of the control --------------------------------------------------------------------------

    def call(self, ref: str) -> WatchedCall | None:
        """The live call of that name."""
        return next((call for call in self._calls.values() if call.ref == ref), None)

    def call_of_agent(self, uniqueid: str) -> WatchedCall | None:
        """The live call whose guarded agent is on that channel now."""
        calls = (call for call in self._calls.values() if call.agent == uniqueid)
        return next((call for call in calls if not call.held and not call.handed_on and self.together(call)), None)

    def unwanted(self, ref: str) -> str | None:
        """Why no leg of that call is wanted, if it is known: the call is another Firmline's, or over."""
        call = self.call(ref)
        if call is None:
            return "the call is over" if ref in self._over else None
        elsewhere = call.owner != self._us and self._claimed_elsewhere(call)
        return "another Firmline is beside this call" if elsewhere else None

    def calls(self) -> list[WatchedCall]:
        """All that are known."""
        return list(self._calls.values())

    def channel(self, uniqueid: str) -> Channel | None:
        """A channel that is in a bridge or was."""
        return self._channels.get(uniqueid)

    def adopt(self, channel: Channel, agent_ext: str) -> WatchedCall:
        """A caller whom an earlier run was moving is ours to look after; held until ``settle_move``."""
        self._channels.add(channel)
        call = self._calls.get(channel.uniqueid)
        if call is None:
            call = self._new_call(channel)
        call.agent_ext, call.held = agent_ext, True
        return call

    def was_handed_on(self, channel: Channel, now_ms: int) -> list[Command]:
        """Another run has moved this caller for good."""
        self._channels.add(channel)
        call = self._calls.get(channel.uniqueid)
        if call is None:
            call = self._new_call(channel)
        return self.left_to_others(call.ref, now_ms)

    def left_to_others(self, ref: str, now_ms: int) -> list[Command]:
        """This call's caller is with somebody else for good."""
        call = self.call(ref)
        if call is not None and not call.held:
            call.handed_on = True
            self._touch(call)
            self._settle(now_ms)
        return self._flush()

    def together(self, call: WatchedCall) -> bool:
        """Whether caller and guarded agent are in the call now."""
        caller = self._channels.get(call.caller)
        return caller is not None and self._agent_of(caller) is not None

    def company(self, uniqueid: str) -> list[Channel]:
        """Who is in the same bridge, Local channels included."""
        me = self._channels.get(uniqueid)
        return [] if me is None else self._channels.company(me)

    def hold(self, call: WatchedCall) -> None:
        """We are about to move the caller."""
        call.held = True

    def drop_taps(self, call: WatchedCall, why: str) -> list[Command]:
        """Nobody listens to this call for a while."""
        for tap in call.taps.values():
            self._drop(tap, why)
        return self._flush()

    def mark(self, uniqueid: str, mark: Mark, now_ms: int) -> list[Command]:
        """A channel was found to be of a guarded queue, or marked by the dialplan."""
        channel = self._channels.get(uniqueid)
        if channel is not None:
            self.guarded.marks[uniqueid] = mark
            self._channels.touch(channel)
        self._settle(now_ms)
        return self._flush()

    def settle_move(self, call: WatchedCall, *, handed_on: bool, now_ms: int) -> list[Command]:
        """The move is over: the caller is with somebody else for good, or the call is as it was."""
        call.held, call.handed_on = False, handed_on
        self._touch(call)
        self._settle(now_ms)
        return self._flush()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _is_our_tap(self, channel: Channel) -> bool:
        return channel.endpoint == self._us and channel.uniqueid in self._taps

    def _tap_made(self, uniqueid: str, name: str, now_ms: int) -> None:
        """A tap channel has appeared, ours or somebody else's."""
        if endpoint_of(name) != self._us:
            self._seen_elsewhere(uniqueid, name, now_ms)
            return
        found = self._taps.get(uniqueid)
        if found is None or found[0].taps[found[1]].dropping:
            self._out.append(DropTap(name, "given up before it was made"))
            return
        call, side = found
        call.taps[side].made = name
        self._touch(call)
        if side is Side.CALLER:
            call.owner, call.wanted_since_ms = self._us, None

    def _seen_elsewhere(self, uniqueid: str, name: str, now_ms: int) -> None:
        endpoint = endpoint_of(name)
        self.claims.saw(uniqueid, endpoint, name, now_ms)
        lost = self._taps.pop(uniqueid, None)
        if lost is not None and lost[0].taps[lost[1]].tap_id == uniqueid:
            lost[0].taps[lost[1]] = Tap()
        for call in self._calls.values():
            if uniqueid == _claim(call.caller) and endpoint != self._us:
                call.owner, call.wanted_since_ms = endpoint, None
                self._drop(call.taps[Side.AGENT], "another Firmline is beside this call")
                self._out.append(Claimed(call.ref, endpoint))

    def _claimed_elsewhere(self, call: WatchedCall) -> bool:
        return _claim(call.caller) in self.claims.taken

    def _hung_up(self, uniqueid: str, now_ms: int) -> None:
        self.claims.gone(uniqueid)
        if uniqueid.startswith(TAP_PREFIX):  # perhaps somebody else's: then its caller can be had now
            self._channels.touched.add(uniqueid.removeprefix(TAP_PREFIX).rpartition("-")[0])
        self._tap_gone(uniqueid, now_ms, failed=False)
        self._channels.gone(uniqueid)
        self.guarded.marks.pop(uniqueid, None)
        call = self._calls.pop(uniqueid, None)
        if call is not None:
            for tap in call.taps.values():
                if tap.tap_id:
                    self._drop(tap, "the caller's channel is gone")
            self._over.append(call.ref)
            self._out.append(CallOver(call.ref))

    def _tap_gone(self, tap_id: str, now_ms: int, *, failed: bool) -> None:
        found = self._taps.pop(tap_id, None)
        if found is None:
            return
        call, side = found
        tap = call.taps[side]
        if tap.tap_id != tap_id:
            return
        steady = now_ms - tap.since_ms >= STEADY_MS and not failed
        failures = 0 if steady or tap.dropping else tap.failures + 1
        wait_ms = min(RETRY_MIN_MS * 2 ** (failures - 1), RETRY_MAX_MS) if failures else 0
        call.taps[side] = Tap(failures=failures, not_before_ms=now_ms + wait_ms)
        self._touch(call)

    def _settle_all(self, now_ms: int) -> None:
        """Look at everybody: time has gone by, or more than one thing has changed."""
        self._touch_all()
        self._settle(now_ms)

    def _settle(self, now_ms: int) -> None:
        """Bring calls and taps into line with who is in which bridge, for those around whom something changed."""
        touched, self._channels.touched = self._channels.touched, set()
        for uniqueid in sorted(touched):
            channel = self._channels.get(uniqueid)
            if channel is None:
                continue
            if uniqueid not in self._calls and self.guarded.is_caller(channel) and self._agent_of(channel):
                self._new_call(channel)
            if uniqueid in self._calls:
                self._settle_call(self._calls[uniqueid], channel, now_ms)

    def _touch(self, call: WatchedCall) -> None:
        self._channels.touched.add(call.caller)

    def _touch_all(self) -> None:
        self._channels.touched.update(channel.uniqueid for channel in self._channels)

    def _new_call(self, channel: Channel) -> WatchedCall:
        owner = self.claims.owner(_claim(channel.uniqueid))
        call = WatchedCall(self._free_ref(channel.linkedid), channel.uniqueid, owner=owner)
        self._calls[channel.uniqueid] = call
        return call

    def _settle_call(self, call: WatchedCall, caller: Channel, now_ms: int) -> None:
        if call.held:
            return
        agent = self._agent_of(caller)
        if agent is None or call.handed_on:
            call.wanted_since_ms = None
            if call.apart_since_ms is None:
                call.apart_since_ms = now_ms
            if call.handed_on or now_ms - call.apart_since_ms >= RELEASE_MS:
                for tap in call.taps.values():
                    self._drop(tap, "the caller is no longer with a guarded agent")
            return
        call.apart_since_ms = None
        call.agent, call.agent_ext = agent.uniqueid, self.guarded.ext_of(caller, agent)
        if self._claimed_elsewhere(call):
            return
        self._settle_tap(call, Side.CALLER, caller, now_ms)
        if self.claims.alone or call.taps[Side.CALLER].made:
            self._settle_tap(call, Side.AGENT, agent, now_ms)

    def _settle_tap(self, call: WatchedCall, side: Side, channel: Channel, now_ms: int) -> None:
        tap = call.taps[side]
        if tap.tap_id:
            if (tap.channel, tap.bridge) != (channel.uniqueid, channel.bridge):
                self._drop(tap, "its channel has moved to another bridge")
            return
        tap_id = f"{TAP_PREFIX}{call.caller}-{side.value}"
        if now_ms < tap.not_before_ms or tap_id in self.claims.taken:
            return
        if side is Side.CALLER and not call.taps[Side.AGENT].made:
            if call.wanted_since_ms is None:
                call.wanted_since_ms = now_ms
            if now_ms < call.wanted_since_ms + self.claims.wait_ms(call.caller, call.owner):
                return
        self._tap_serial += 1
        action_id = f"{tap_id}/{self._run_id}-{self._tap_serial}"
        call.taps[side] = Tap(
            tap_id, channel.uniqueid, channel.bridge, now_ms, action_id=action_id, failures=tap.failures
        )
        self._taps[tap_id] = (call, side)
        elsewhere = call.owner not in ("", self._us)
        self._out.append(PlaceTap(tap_id, call.ref, side, channel.name, call.agent_ext, action_id, elsewhere))

    def _drop(self, tap: Tap, why: str) -> None:
        if tap.tap_id and not tap.dropping:
            tap.dropping = True
            if tap.made:  # else it is dropped when it appears: until then somebody else's may have that Uniqueid
                self._out.append(DropTap(tap.made, why))

    def _tap_due_ms(self, call: WatchedCall, side: Side) -> int | None:
        """When a missing tap may be asked for, if time alone is in the way."""
        tap = call.taps[side]
        if tap.tap_id or f"{TAP_PREFIX}{call.caller}-{side.value}" in self.claims.taken:
            return None
        if side is Side.AGENT:
            alone = self.claims.alone or call.taps[Side.CALLER].made
            return tap.not_before_ms if alone and tap.not_before_ms else None
        if call.wanted_since_ms is None:
            return tap.not_before_ms or None
        return max(tap.not_before_ms, call.wanted_since_ms + self.claims.wait_ms(call.caller, call.owner))

    def _free_ref(self, linkedid: str) -> str:
        """A conference may hold two callers under one Linkedid: each is a call of its own."""
        taken = {call.ref for call in self._calls.values()}
        return next(
            ref for n in range(1, len(taken) + 2) if (ref := linkedid if n == 1 else f"{linkedid}.{n}") not in taken
        )

    def _agent_of(self, caller: Channel) -> Channel | None:
        """The guarded agent this caller speaks with, by bridge or, through Local, by Linkedid; the last to come."""
        if not caller.bridge:
            return None
        agents = self.guarded.agents_of(caller, self._channels.near(caller))
        beside = [c for c in agents if c.bridge == caller.bridge]
        return max(beside or agents, key=lambda c: c.entered, default=None)

    def _flush(self) -> list[Command]:
        out, self._out = self._out, []
        return out


def _claim(caller: str) -> str:
    """The Uniqueid that says whose a call is: see ``ivr.pbx.claims``."""
    return f"{TAP_PREFIX}{caller}-{Side.CALLER.value}"
