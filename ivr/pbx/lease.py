"""The heartbeat between Firmlines on one PBX, and what becomes of callers whom a dead one was moving.

Carries out what ``ivr.pbx.claims`` decides. All it needs of the PBX is ``Setvar`` and ``Getvar`` (class ``call``).

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

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from ivr.clock import monotonic_ms, wall_s
from ivr.errors import PbxError
from ivr.pbx.ami import AmiClient, AmiMessage
from ivr.pbx.claims import BEAT_MS
from ivr.pbx.inquiry import AsteriskOptions
from ivr.pbx.watch import CallWatch, Channel, Command, PlaceTap, WatchedCall

log = structlog.get_logger("firmline.pbx")

MOVE = "FIRMLINE_MOVE"
NAMES = "FIRMLINE_NAMES"
"""Global: the endpoints of all Firmlines that were there since the PBX was started."""
MAX_NAMES_CHARS = 900
FIRST_BEAT_MS = 100
RUN = "FIRMLINE_RUN"
"""On a tap's own channel: which process asked for it."""


@dataclass(frozen=True, slots=True)
class Grip:
    """What the attachment lends."""

    ami: AmiClient
    watch: CallWatch
    options: AsteriskOptions
    run_id: str
    redirect: Callable[[WatchedCall, str], Awaitable[str | None]]
    until: Callable[[Callable[[], bool], int], Awaitable[bool]]
    carry_out: Callable[[list[Command]], None]
    spawn: Callable[[Coroutine[Any, Any, None]], None]


class Lease:
    """One Firmline among others."""

    def __init__(self, grip: Grip) -> None:
        self._grip = grip
        self._beats = 0
        self._stopped = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._stopped.clear()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Beat no more; others see it at their next look."""
        self._stopped.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # --- beating ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                await self._beat()
            except PbxError as exc:
                log.debug("no heartbeat now", error=str(exc))
            except Exception:
                log.exception("a heartbeat failed; the next one comes")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout((BEAT_MS if self._grip.ami.problem is None else FIRST_BEAT_MS) / 1000):
                    await self._stopped.wait()

    async def _beat(self) -> None:
        ami, claims = self._grip.ami, self._grip.watch.claims
        if ami.problem is not None:
            return
        self._beats += 1
        value = f"{self._grip.run_id}-{self._beats}"
        await ami.action("Setvar", ("Variable", _variable(self._grip.options.tap_endpoint)), ("Value", value))
        await self._register()
        for endpoint in claims.to_ask():
            answer = await ami.action("Getvar", ("Variable", _variable(endpoint)))
            claims.beat(endpoint, answer.get("Value"), monotonic_ms())
        dead = claims.died(monotonic_ms())
        if not dead:
            return
        log.warning("another Firmline on this PBX is gone; its calls are taken over", endpoints=dead)
        await self._read_moves()  # before its claims are free: a caller moved on for good is not to be tapped
        for endpoint in dead:
            self._grip.carry_out(self._grip.watch.peer_died(endpoint))

    async def _register(self) -> None:
        """Write our name beside those of the others; who was overwritten in the same instant does so a beat later."""
        claims, ami = self._grip.watch.claims, self._grip.ami
        listed = (await ami.action("Getvar", ("Variable", NAMES))).get("Value").split()
        for endpoint in listed:
            claims.heard_of(endpoint, monotonic_ms())
        forgotten = claims.forget(monotonic_ms())
        names = sorted({self._grip.options.tap_endpoint, *listed} - set(forgotten))
        if names != listed and len(value := " ".join(names)) < MAX_NAMES_CHARS:
            await ami.action("Setvar", ("Variable", NAMES), ("Value", value))

    # --- moving -------------------------------------------------------------------------------------------------------

    async def must_be_ours(self, call: WatchedCall) -> None:
        """Nothing is done to a call that another Firmline has taken meanwhile: we may have been asleep.

        Raises:
            PbxError: it is theirs.
        """
        tap = next((tap for tap in call.taps.values() if tap.tap_id and not tap.dropping), None)
        if tap is None:
            return
        try:
            answer = await self._grip.ami.action("Getvar", ("Channel", tap.tap_id), ("Variable", RUN))
        except PbxError as exc:
            if exc.retryable:
                raise
            return  # no such channel: being replaced
        if answer.get("Value") != self._grip.run_id:
            raise PbxError("another Firmline is beside this call now")

    async def moving(self, call: WatchedCall) -> None:
        """The caller is about to be moved."""
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

    async def _read_moves(self) -> None:
        rows = await self._grip.ami.event_list("Status", ("Variables", MOVE))
        self.take_up([row for row in rows if row.event == "Status"])

    def take_up(self, rows: Sequence[AmiMessage]) -> None:
        """Whom did somebody leave half moved? ``rows``: the PBX's channels, asked with ``Variables: FIRMLINE_MOVE``."""
        watch = self._grip.watch
        for row in rows:
            word, *rest = row.get("Variable").removeprefix(f"{MOVE}=").split("|")
            if word == "done":
                self._grip.carry_out(watch.was_handed_on(channel_of(row), monotonic_ms()))
            elif word == "ringing" and len(rest) == 3 and rest[2].isdigit():
                mover, agent_ext, until_s = rest
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
                refusal = await self._grip.redirect(call, call.agent_ext)
                if refusal is not None:
                    log.error("a caller left half moved could not be brought back", reason=refusal)
            handed_on = not any(c.endpoint == call.agent_ext for c in watch.company(call.caller))
        except PbxError as exc:
            log.warning("a caller left half moved is gone", error=str(exc))
        finally:
            self.moved(call, for_good=handed_on)
            self._grip.carry_out(watch.settle_move(call, handed_on=handed_on, now_ms=monotonic_ms()))


def channel_of(row: AmiMessage) -> Channel:
    """A channel as ``Status`` shows it."""
    return Channel(row.get("Uniqueid"), row.get("Channel"), row.get("Linkedid"), row.get("BridgeID"))


def _variable(endpoint: str) -> str:
    return "FIRMLINE_BEAT_" + re.sub(r"\W", "_", endpoint)
