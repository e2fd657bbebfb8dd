"""Callers who are moved: to somebody else, or out of the line; and those whom a dead Firmline was moving.

``Redirect`` answers Success even to an extension that does not exist or has no phone, and drops the caller there; so
both are asked for first.

A caller who is being moved is in nobody's conversation: were the mover to die while the supervisor's phone rings, the
dialplan would drop them when nobody answers. So the move is written on the caller's channel before it begins, and
whoever finds it there without its mover (after a restart, or when a lease ran out) waits out the rest of the time and
brings the caller back to the agent:

| ``FIRMLINE_MOVE``                        | meaning                                                      |
|-------------------------------------------|--------------------------------------------------------------|
| ``ringing|<endpoint>|<agent>|<until>``    | being moved by that Firmline, from that agent, until (s)     |
| ``done``                                  | moved for good: whoever speaks with them now is left alone   |
| empty                                     | with the agent, or never moved                               |
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import structlog

from ivr.clock import monotonic_ms, wall_s
from ivr.errors import PbxError
from ivr.pbx.ami import AmiMessage
from ivr.pbx.base import CallRef
from ivr.pbx.channels import Channel
from ivr.pbx.grip import Grip
from ivr.pbx.inquiry import unreachable
from ivr.pbx.lease import Lease
from ivr.pbx.watched import PlaceTap, WatchedCall

log = structlog.get_logger("firmline.pbx")

MOVE = "FIRMLINE_MOVE"
HANGUP_MS, HANGUP_TRIES = 900, 2
"""A channel goes within some ten milliseconds; both tries fit into the time in which people must know."""


class Moves:
    """The moving of callers of one PBX. ``progress`` is told a call and in one sentence how its move stands."""

    def __init__(self, grip: Grip, lease: Lease, progress: Callable[[str, str], None]) -> None:
        self._grip, self._lease, self._progress = grip, lease, progress

    def together(self, call_ref: str) -> WatchedCall:
        """The live call, if caller and guarded agent are in it now.

        Raises:
            PbxError: they are not, or there is no such call.
        """
        watched = self._grip.watch.call(call_ref)
        if watched is None:
            raise PbxError("the PBX knows no such call any more")
        if watched.held:
            raise PbxError("the caller is being moved at this moment")
        if not self._grip.watch.together(watched):
            raise PbxError("the caller is not with a guarded agent now, so the call is left alone")
        return watched

    async def transfer(self, call: CallRef, target: str) -> None:
        """Move the caller to ``target`` or, in order, the fallbacks; returns when somebody there speaks with them.

        Raises:
            PbxError: no target can be reached (then the caller was not moved), nobody answered (then the caller was
                sent back to the agent), or the caller has hung up.
        """
        watched = self.together(call.call_ref)
        await self._lease.must_be_ours(watched)
        self._grip.watch.hold(watched)
        handed_on = False
        try:
            await self._move(watched, tuple(dict.fromkeys((target, *self._grip.options.fallbacks))))
            handed_on = True
        finally:
            self.moved(watched, for_good=handed_on)
            self._grip.carry_out(self._grip.watch.settle_move(watched, handed_on=handed_on, now_ms=monotonic_ms()))

    async def _move(self, call: WatchedCall, targets: tuple[str, ...]) -> None:
        refusals: list[str] = []
        rung: list[str] = []
        for target in targets:
            refusal = await unreachable(self._grip.ami, self._grip.options.context, target)
            if refusal is None:
                self._progress(call.ref, f"{target} is ringing; the caller waits")
                rung.append(target)
                refusal = await self.redirect(call, target)
            if refusal is None:
                log.info("transferred", call_ref=call.ref, target=target)
                return
            refusals.append(refusal)
            log.warning("transfer target failed", call_ref=call.ref, target=target, reason=refusal)
        told = "; ".join(refusals)
        if not rung:
            raise PbxError(f"transfer: {told}; the caller stays with the agent")
        self._progress(call.ref, f"{told}; the caller is being brought back to {call.agent_ext}")
        reached = await self.bring_back(call, rung)
        if reached == call.agent_ext:
            raise PbxError(f"transfer: {told}; the caller is back with agent {reached}")
        log.info("transferred at the second attempt", call_ref=call.ref, target=reached)

    async def bring_back(self, call: WatchedCall, others: Sequence[str]) -> str:
        """Somebody for a caller who was moved and met nobody: their agent, else ``others`` once more.

        Never sent to whom the PBX cannot ring: it would drop the caller there. An agent who took another call meanwhile
        is the last resort.

        Returns:
            The extension that answered.

        Raises:
            PbxError: nobody did, and the caller is where they were rung last; or the caller has hung up.
        """
        refusals: list[str] = []
        for target, must_be_idle in (
            (call.agent_ext, True),
            *((each, False) for each in others),
            (call.agent_ext, False),
        ):
            ami, context = self._grip.ami, self._grip.options.context
            refusal = await unreachable(ami, context, target, must_be_idle=must_be_idle)
            if refusal is None:
                refusal = await self.redirect(call, target)
            if refusal is None:
                return target
            refusals.append(refusal)
        raise PbxError(f"{'; '.join(dict.fromkeys(refusals))}; the caller was left where they were rung last")

    async def redirect(self, call: WatchedCall, target: str) -> str | None:
        """Move the caller and wait for company.

        Raises:
            PbxError: the caller is gone.
        """
        caller = self._grip.watch.channel(call.caller)
        if caller is None:
            raise PbxError("transfer: the caller hung up")
        left, context = caller.bridge, self._grip.options.context
        await self._moving(call)
        try:
            await self._grip.ami.action(
                "Redirect", ("Channel", caller.name), ("Context", context), ("Exten", target), ("Priority", "1")
            )
        except PbxError as exc:
            return str(exc)

        def over() -> bool:
            now = self._grip.watch.channel(call.caller)
            return now is None or (now.bridge not in ("", left) and bool(self._grip.watch.company(now.uniqueid)))

        answered = await self._grip.until(over, self._grip.options.answer_ms)
        if self._grip.watch.channel(call.caller) is None:
            raise PbxError(f"transfer: the caller was gone before {target} answered")
        if not answered and self._grip.ami.problem is not None:  # the next login finds out, and looks after them
            raise PbxError(f"transfer: the manager connection was lost while {target} was ringing", retryable=True)
        return None if answered else f"nobody answered at {target} within {self._grip.options.answer_ms} ms"

    async def hang_up(self, call: CallRef) -> None:
        """End the human call by its caller's channel.

        Raises:
            PbxError: refused, or the channel is still there when the time is over.
        """
        watched = self.together(call.call_ref)
        await self._lease.must_be_ours(watched)
        caller = self._grip.watch.channel(watched.caller)
        assert caller is not None
        for _ in range(HANGUP_TRIES):
            try:
                await self._grip.ami.action("Hangup", ("Channel", caller.name), ("Cause", "16"))
            except PbxError:
                if self._grip.watch.channel(caller.uniqueid) is not None:
                    raise
            if await self._grip.until(lambda: self._grip.watch.channel(caller.uniqueid) is None, HANGUP_MS):
                return
        raise PbxError("hangup: the PBX took the request, but the caller's channel is still there")

    # --- what is written on the caller's channel ----------------------------------------------------------------------

    async def _moving(self, call: WatchedCall) -> None:
        until_s = round(wall_s() + self._grip.options.answer_ms / 1000)
        await self._write(call.caller, f"ringing|{self._grip.options.tap_endpoint}|{call.agent_ext}|{until_s}")

    def moved(self, call: WatchedCall, *, for_good: bool) -> None:
        """The move is over."""
        self._grip.spawn(self._write(call.caller, "done" if for_good else ""))

    async def left_alone(self, tap: PlaceTap) -> bool:
        """Whether a caller whom another Firmline had was moved on by it for good."""
        call = self._grip.watch.call(tap.call_ref)
        channel = None if call is None else self._grip.watch.channel(call.caller)
        if not tap.was_elsewhere or channel is None:
            return False
        with contextlib.suppress(PbxError):
            answer = await self._grip.ami.action("Getvar", ("Channel", channel.name), ("Variable", MOVE))
            return answer.get("Value") == "done"
        return False

    async def _write(self, caller: str, value: str) -> None:
        channel = self._grip.watch.channel(caller)
        if channel is None:
            return
        try:
            await self._grip.ami.action("Setvar", ("Channel", channel.name), ("Variable", MOVE), ("Value", value))
        except PbxError as exc:  # gone, or the PBX is; the move itself says so better
            log.debug("move not noted", error=str(exc))

    async def read(self) -> list[Channel]:
        """Ask the PBX whom somebody left half moved, and look after them; returns all of its channels.

        Raises:
            PbxError: the PBX did not say.
        """
        rows = await self._grip.ami.event_list("Status", ("Variables", MOVE))
        rows = [row for row in rows if row.event == "Status"]
        self.take_up(rows)
        return [channel_of(row) for row in rows]

    def take_up(self, rows: Sequence[AmiMessage]) -> None:
        """Whom did somebody leave half moved? ``rows``: the PBX's channels, asked with ``Variables: FIRMLINE_MOVE``."""
        watch = self._grip.watch
        for row in rows:
            word, _, rest = row.get("Variable").removeprefix(f"{MOVE}=").partition("|")
            mover, _, rest = rest.partition("|")
            agent_ext, _, until_s = rest.rpartition("|")
            if word == "done":
                self._grip.carry_out(watch.was_handed_on(channel_of(row), monotonic_ms()))
            elif word == "ringing" and until_s.isdigit():
                call = next((c for c in watch.calls() if c.caller == row.get("Uniqueid")), None)
                if call is not None and call.held:
                    continue  # our own move, and we are at it
                if mover != self._grip.options.tap_endpoint and watch.claims.presumed_alive(mover, monotonic_ms()):
                    continue
                self._adopt(row, agent_ext, int(until_s))

    def _adopt(self, row: AmiMessage, agent_ext: str, until_s: int) -> None:
        call = self._grip.watch.adopt(channel_of(row), agent_ext)
        left_ms = max(0, min(self._grip.options.answer_ms, round((until_s - wall_s()) * 1000)))
        log.warning("a caller was left half moved; looked after", call_ref=call.ref, left_ms=left_ms)
        self._grip.spawn(self._finish(call, left_ms))

    async def _finish(self, call: WatchedCall, left_ms: int) -> None:
        """Somebody speaks with the caller in time, or they are brought back."""
        watch, handed_on = self._grip.watch, False

        def settled() -> bool:
            return watch.channel(call.caller) is None or bool(watch.company(call.caller))

        try:
            if not await self._grip.until(settled, left_ms):
                options = self._grip.options
                await self.bring_back(call, [target for target in (options.transfer_to, *options.fallbacks) if target])
            handed_on = not any(c.endpoint == call.agent_ext for c in watch.company(call.caller))
        except PbxError as exc:
            log.error("a caller left half moved could not be brought back", error=str(exc))
        finally:
            self.moved(call, for_good=handed_on)
            self._grip.carry_out(watch.settle_move(call, handed_on=handed_on, now_ms=monotonic_ms()))


def channel_of(row: AmiMessage) -> Channel:
    """A channel as ``Status`` shows it."""
    return Channel(row.get("Uniqueid"), row.get("Channel"), row.get("Linkedid"), row.get("BridgeID"))
