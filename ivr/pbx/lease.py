"""The heartbeat between Firmlines on one PBX.

Carries out what ``ivr.pbx.claims`` decides. All it needs of the PBX is ``Setvar`` and ``Getvar`` (class ``call``).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable

import structlog

from ivr.clock import monotonic_ms
from ivr.errors import PbxError
from ivr.pbx.claims import BEAT_MS
from ivr.pbx.grip import Grip
from ivr.pbx.watched import WatchedCall

log = structlog.get_logger("firmline.pbx")

NAMES = "FIRMLINE_NAMES"
"""Global: the endpoints of all Firmlines that were there since the PBX was started."""
MAX_NAMES_CHARS = 900
FIRST_BEAT_MS = 100
RUN = "FIRMLINE_RUN"
"""On a tap's own channel: which process asked for it."""


class Lease:
    """One Firmline among others."""

    def __init__(self, grip: Grip, before_takeover: Callable[[], Awaitable[None]]) -> None:
        self._grip, self._before_takeover = grip, before_takeover
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
        await self._before_takeover()  # before its claims are free: a caller moved on for good is not to be tapped
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


def _variable(endpoint: str) -> str:
    return "FIRMLINE_BEAT_" + re.sub(r"\W", "_", endpoint)
