"""From a key press to the warning: an HTTP request as a softphone's "run on key" box sends it, until the first RTP
packet of the prompt leaves for the caller. Each press opens its own connection, and each is of a call of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from statistics import median
from typing import Any

from ivr.clock import monotonic_ms
from ivr.demo.scene import AGENT_EXT, Cast
from ivr.demo.service import Row, ServiceProcess, monotonic_of
from ivr.errors import FirmlineError

CEILING_S = 10.0


class KeyWatch:
    """Journal rows of one call after another: both sides heard, the warning's first packet."""

    def __init__(self) -> None:
        self.began_ms = 0
        self.legs = 0
        self.played: Mapping[str, Any] | None = None
        self.over = False
        self._more = asyncio.Event()

    def forget(self) -> None:
        """The next call begins."""
        self.legs, self.played, self.over = 0, None, False

    def take(self, row: Row) -> None:
        """One row."""
        event, data = row["event"], row["data"]
        if event == "call_started":
            self.forget()
            self.began_ms = monotonic_of(row["at"]) - int(row["t_ms"])
        elif event == "leg_up":
            self.legs += 1
        elif event == "action_done" and data.get("action") == "play":
            self.played = data
        elif event == "call_ended":
            self.over = True
        self._more.set()

    async def until(self, what: str) -> None:
        """Until both sides are heard (``legs``), the prompt plays (``played``), or the call is over (``over``).

        Raises:
            FirmlineError: it did not come.
        """
        try:
            async with asyncio.timeout(CEILING_S):
                while not (self.legs >= 2 if what == "legs" else getattr(self, what)):
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise FirmlineError(f"bench reaction: a call for the key never came to: {what}") from None


async def key_row(cast: Cast, service: ServiceProcess, watch: KeyWatch, caller: str, runs: int) -> dict[str, Any]:
    """One row of the table: ``runs`` presses of warn, each in a fresh call.

    Raises:
        FirmlineError: a call or the prompt did not come.
    """
    whole: list[int] = []
    to_decision: list[int] = []
    to_rtp: list[int] = []
    for _ in range(runs):
        phone = cast.phones[caller]
        watch.forget()
        await phone.dial(cast.number)
        await watch.until("legs")
        pressed_ms = monotonic_ms()
        await service.press(AGENT_EXT, "warn")
        await watch.until("played")
        assert watch.played is not None
        decided_ms, rtp_ms = (watch.began_ms + int(watch.played[key]) for key in ("decided_ms", "first_rtp_ms"))
        whole.append(rtp_ms - pressed_ms)
        to_decision.append(decided_ms - pressed_ms)
        to_rtp.append(rtp_ms - decided_ms)
        await phone.hang_up()
        await watch.until("over")
    return {
        "prompt": "warning, by key",
        "median_ms": round(median(whole)),
        "worst_ms": max(whole),
        "heard_to_decided_median_ms": round(median(to_decision)),
        "decided_to_rtp_median_ms": round(median(to_rtp)),
        "decided_to_rtp_worst_ms": max(to_rtp),
    }
