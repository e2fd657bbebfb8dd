"""The heartbeat between Firmlines on one PBX.

Carries out what ``ivr.pbx.claims`` decides. All it needs of the PBX is ``Setvar`` and ``Getvar`` (class ``call``).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Awaitable, Callable

import structlog

from ivr.clock import monotonic_ms, wall_s
from ivr.errors import PbxError
from ivr.pbx.channels import Channel
from ivr.pbx.claims import BEAT_MS
from ivr.pbx.grip import Grip
from ivr.pbx.place import place, surely_dead
from ivr.pbx.twins import Twins
from ivr.pbx.watched import WatchedCall
from ivr.waiting import within

log = structlog.get_logger("firmline.pbx")

NAMES = "FIRMLINE_NAMES"
"""Global: the endpoints of all Firmlines that were there since the PBX was started."""
MAX_NAMES_CHARS = 900
FIRST_BEAT_MS, LOOK_MS = 100, 50
GOODBYE_MS = 300
RUN = "FIRMLINE_RUN"
"""On a tap's own channel: which process asked for it."""


class Lease:
    """One Firmline among others."""

    def __init__(
        self, grip: Grip, before_takeover: Callable[[], Awaitable[list[Channel]]], on_role: Callable[[bool], None]
    ) -> None:
        """``before_takeover``: looks after callers whom a dead one was moving, and lists the PBX's channels.

        ``on_role`` is told whether we are the one that works under our endpoint, whenever that changes."""
        self._grip, self._before_takeover, self._on_role = grip, before_takeover, on_role
        self._twins = Twins(grip.run_id, round(wall_s() * 1000), place())
        self._entered = False
        self._mine = beat_variable(grip.options.tap_endpoint)
        self._stopped = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._stopped.clear()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Beat no more, and say goodbye; others see it at their next look."""
        self._stopped.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._entered and self._twins.active:
            with contextlib.suppress(PbxError, TimeoutError):
                async with asyncio.timeout(GOODBYE_MS / 1000):
                    await self._grip.ami.action("Setvar", ("Variable", self._mine), ("Value", ""))

    # --- under one endpoint -------------------------------------------------------------------------------------------

    async def enter(self) -> bool:
        """After a login: whether we are the one that works, or another living process has our endpoint.

        Takes as long as a beat where one was written there a moment ago on another machine, and no time else.

        Raises:
            PbxError: the PBX did not say.
        """
        self._entered = False
        self._twins.enter()
        await self._look()
        while (
            self._twins.other(monotonic_ms()) is None
            and (where := self._twins.may_be_alive(round(wall_s() * 1000))) is not None
            and not surely_dead(where)
        ):
            await within(self._stopped, LOOK_MS)
            await self._look()
        active = self._twins.decide(monotonic_ms())
        await self._say()
        self._entered = True
        return active

    def away(self) -> None:
        """The connection is lost: what is known of another under our endpoint grows old."""
        self._entered = False

    def twin(self) -> str | None:
        """What is to be said of another process under our endpoint, if there is one."""
        if not self._entered or self._twins.other(monotonic_ms()) is None:
            return None
        name = self._grip.options.tap_endpoint
        what = "works, and the other one stands by" if self._twins.active else "stands by until the other one is gone"
        return (
            f"another Firmline is logged in at this PBX with the same line.username {name}; this one {what}: give each "
            "an endpoint of its own (deploy/asterisk/pjsip_firmline.conf), or stop one of them"
        )

    async def _look(self) -> None:
        answer = await self._grip.ami.action("Getvar", ("Variable", self._mine))
        self._twins.look(answer.get("Value"), monotonic_ms())

    async def _say(self) -> None:
        value = self._twins.say(monotonic_ms(), round(wall_s() * 1000))
        await self._grip.ami.action("Setvar", ("Variable", self._mine), ("Value", value))

    async def _find_role(self) -> bool:
        was, had = self._twins.active, self._twins.other(monotonic_ms())
        await self._look()
        active = self._twins.decide(monotonic_ms())
        await self._say()
        if (self._twins.other(monotonic_ms()) is None) is not (had is None):
            log.warning("another process under our endpoint", now=self.twin() or "it is gone")
        elif active is was:
            return active
        self._on_role(active)
        return active

    # --- beating ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                await self._beat()
            except PbxError as exc:
                log.debug("no heartbeat now", error=str(exc))
            except Exception:
                log.exception("a heartbeat failed; the next one comes")
            await within(self._stopped, BEAT_MS if self._entered else FIRST_BEAT_MS)

    async def _beat(self) -> None:
        ami, claims = self._grip.ami, self._grip.watch.claims
        if ami.problem is not None or not self._entered or not await self._find_role():
            return
        await self._register()
        for endpoint in claims.to_ask():
            answer = await ami.action("Getvar", ("Variable", beat_variable(endpoint)))
            claims.beat(endpoint, answer.get("Value"), monotonic_ms())
        dead = claims.died(monotonic_ms())
        if not dead:
            return
        log.warning("another Firmline on this PBX is gone; its calls are taken over", endpoints=dead)
        # Before its claims are free: a caller moved on for good is not to be tapped.
        channels = await self._before_takeover()
        for endpoint in dead:
            legs = [channel.name for channel in channels if channel.endpoint == endpoint]
            self._grip.carry_out(self._grip.watch.peer_died(endpoint, legs))

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

    # --- asking -------------------------------------------------------------------------------------------------------

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


def beat_variable(endpoint: str) -> str:
    """The global variable that holds the beat of that endpoint: no two endpoints share one."""
    plain = re.sub(r"\W", "_", endpoint)
    odd = "" if plain == endpoint else "_" + hashlib.sha256(endpoint.encode()).hexdigest()[:8]
    return f"FIRMLINE_BEAT_{plain}{odd}"
