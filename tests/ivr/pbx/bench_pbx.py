"""Many calls at once beside a real Asterisk: how soon they are tapped, who is warned, how soon, and what is left over.

    make benchpbx            or      python -m tests.ivr.pbx.bench_pbx --calls 30 --abusive 10 [--over 10]

Needs the folder of `make pbx` and root. All calls come up in one instant, or spread over `--over` seconds. The abusive
callers insult their agents one after the other, the others speak civilly all the while. Times are the PBX's own (its
manager events say when they happened) and those of the packets as the kernel saw them pass:

- from the second party's entering the bridge to the first packet of sound to us, of each tap leg; of that, the part up
  to the PBX's INVITE, our answer to it, and the PBX's wait from there to the first packet;
- from the decision to warn to our own first packet, and to the first packet of the prompt on its way to the caller.

Exit code 1 when a wrong party heard a prompt, a right one did not, or anything is left over.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from ivr.demo.phones import Phone
from ivr.demo.recordings import find_prompt
from ivr.demo.service import Row, monotonic_of
from ivr.demo.speech import line_pcm
from ivr.demo.stack import RATE_HZ, Stack
from ivr.pbx.ami import AmiMessage
from ivr.prompts import load_catalogue
from tests.ivr.pbx.beside import World, ami_options, manager
from tests.ivr.pbx.pbx_server import MANY, PHONES, PbxServer, find_root
from tests.ivr.pbx.wire import Wire
from tests.ivr.service import named_files

FIRST = 210
CIVIL_EVERY_MS = 8_000
"""Pause between two lines of a civil caller: people listen as well."""
CEILING_S = 60.0


def spread(values: list[int]) -> dict[str, int]:
    """Median and worst, in ms."""
    return {"n": len(values), "median": round(median(values)), "worst": max(values)} if values else {"n": 0}


class Bench:
    """One PBX with its phones."""

    def __init__(self, world: World, extensions: list[str]) -> None:
        self.world, self.extensions = world, extensions
        self.problems: list[str] = []

    async def dial_all(self, over_ms: int = 0) -> dict[str, tuple[Phone, Phone]]:
        """Every agent in a call with a caller of their own: extension to (caller, agent)."""
        pairs = {}
        for ext in self.extensions:
            pairs[ext] = (await Phone.create(self.world.stack, "pat"), await self.world.phone(ext))
        await asyncio.gather(
            *(self._dial(caller, ext, over_ms * n // len(pairs)) for n, (ext, (caller, _)) in enumerate(pairs.items()))
        )
        return pairs

    async def _dial(self, caller: Phone, ext: str, wait_ms: int) -> None:
        if wait_ms:
            await self.world.stack.clock.pause(wait_ms)
        await caller.dial(self.world.at_pbx(ext), timeout_s=20)

    async def hang_up_all(self, pairs: dict[str, tuple[Phone, Phone]]) -> None:
        await asyncio.gather(*(caller.hang_up() for caller, _ in pairs.values()))
        names: list[str] = []
        for _ in range(50):
            if not (names := await asyncio.to_thread(self.world.server.channels)):
                return
            await self.world.stack.clock.pause(100)
        self.problems.append(f"channels left over: {names}")

    async def measure(self, abusive: int, workers: int, over_ms: int) -> dict[str, Any]:
        """The figures."""
        overrides = self.world.overrides(agents=["2??"])
        overrides["ears"] = {"workers": workers}
        service = await self.world.firmline(overrides)
        await self._warm_up()
        before = named_files(service.pid)
        server, bridged = self.world.server, dict[str, float]()

        def hear(event: AmiMessage) -> None:
            if event.event == "BridgeEnter":  # the last one is the second party's
                bridged[event.get("Linkedid")] = float(event.get("Timestamp")) * 1000

        ours = int(service.uri.rpartition(":")[2])
        sources = ((server.rtp_low, server.rtp_low + 399), server.sip_port, ours, self.world.stack.port)
        async with manager(ami_options(server), hear):
            with Wire(*sources) as wire:
                found = await self._insults(service, abusive, over_ms, before)
        return {**found, **self._tapped(wire, bridged), **self._reactions(wire)}

    async def _insults(self, service: Any, abusive: int, over_ms: int, before: Counter[str]) -> dict[str, Any]:
        pairs = await self.dial_all(over_ms)
        await self.world.rows.wait("leg_up", times=2 * len(pairs), ceiling_s=CEILING_S)
        await self.world.stack.clock.pause(1_000)
        victims = self.extensions[:abusive]
        talkers = [asyncio.create_task(self._civil(pairs[ext][0])) for ext in self.extensions[abusive:]]
        for ext in victims:
            await pairs[ext][0].say(line_pcm("pat_insult"))
        with contextlib.suppress(TimeoutError):  # who was not warned is said below, caller by caller
            await self.world.rows.wait("action_done", times=abusive, ceiling_s=CEILING_S, prompt="warning")
        await asyncio.gather(*(pairs[ext][0].wait_quiet(1_000, 20) for ext in victims))
        for task in talkers:
            task.cancel()
        legs = await self._calls(service)
        await self.hang_up_all(pairs)
        await self.world.rows.wait("call_ended", times=len(pairs), ceiling_s=CEILING_S)
        await self.world.stack.clock.pause(2_000)
        if more := named_files(service.pid) - before:
            self.problems.append(f"files left over: {dict(more)}")
        if left := await self._calls(service):
            self.problems.append(f"{left} calls left over")
        self._judge(pairs, set(victims))
        return {"calls_tapped": legs}

    async def _warm_up(self) -> None:
        """All calls once, with a warning: pools of threads and what is opened at first use are no leftovers."""
        pairs = await self.dial_all()
        await self.world.rows.wait("leg_up", times=2 * len(pairs), ceiling_s=CEILING_S)
        await self.world.stack.clock.pause(1_000)
        await pairs[self.extensions[0]][0].say(line_pcm("pat_insult"))
        with contextlib.suppress(TimeoutError):
            await self.world.rows.wait("action_done", ceiling_s=CEILING_S / 2, prompt="warning")
        await self.hang_up_all(pairs)
        await self.world.rows.wait("call_ended", times=len(pairs), ceiling_s=CEILING_S)
        await self.world.stack.clock.pause(1_000)
        self.world.rows.rows.clear()

    async def _civil(self, phone: Phone) -> None:
        while await phone.say(line_pcm("pat_calmer")):
            await self.world.stack.clock.pause(CIVIL_EVERY_MS)

    async def _calls(self, service: Any) -> int:
        return len((await service.get("/api/calls")).json())

    def _judge(self, pairs: dict[str, tuple[Phone, Phone]], victims: set[str]) -> None:
        """Who heard the warning."""
        warning = load_catalogue().samples("warning", RATE_HZ)
        for ext, (caller, agent) in pairs.items():
            heard = bool(find_prompt(caller.heard.pcm(), warning, RATE_HZ))
            if heard != (ext in victims):
                self.problems.append(f"caller of {ext} {'heard a warning' if heard else 'was not warned'}")
            if find_prompt(agent.heard.pcm(), warning, RATE_HZ):
                self.problems.append(f"agent {ext} heard the warning")

    def _tapped(self, wire: Wire, bridged: dict[str, float]) -> dict[str, Any]:
        """What each tap leg waited for."""
        parts: dict[str, list[int]] = {}
        for leg in wire.tap_legs():
            if leg.answered_ms is None or leg.heard_ms is None or leg.call_ref not in bridged:
                self.problems.append(f"no sound from the tap of the {leg.side} of {leg.call_ref}")
                continue
            began_ms = bridged[leg.call_ref] - wire.wall_minus_monotonic_ms
            times = [began_ms, leg.invited_ms, leg.answered_ms, leg.heard_ms]
            steps = ("to_invite", "our_answer", "to_first_audio")
            for name, step in zip(steps, zip(times, times[1:], strict=False), strict=True):
                parts.setdefault(f"of_that_{name}_ms", []).append(round(step[1] - step[0]))
            parts.setdefault("bridge_to_first_audio_ms", []).append(round(leg.heard_ms - began_ms))
        return {name: spread(values) for name, values in sorted(parts.items())}

    def _reactions(self, wire: Wire) -> dict[str, Any]:
        """From each decision to our own first packet and to the caller's."""
        warning, phones = load_catalogue().samples("warning", RATE_HZ), wire.dialled(self.world.server.sip_port)
        ours, theirs = [], []
        for row in self.world.rows.of("action_done", prompt="warning"):
            data, ext = row["data"], self._ext(row)
            decided_ms = monotonic_of(row["at"]) - (row["t_ms"] - data["decided_ms"])
            first_ms = wire.first_packet_ms(warning, phones[ext], decided_ms)
            ours.append(data["first_rtp_ms"] - data["decided_ms"])
            if first_ms is None:
                sent = wire.packets(phones[ext], decided_ms, len(warning) * 1000 / RATE_HZ)
                due = len(warning) * 50 // RATE_HZ
                self.problems.append(
                    f"the warning for {ext} is done and was not seen on its way to the caller, to whom the PBX sent "
                    f"{sent} of {due} packets meanwhile"
                )
            else:
                theirs.append(round(first_ms - decided_ms))
        told = {"decision_to_our_first_packet_ms": ours, "decision_to_first_packet_at_caller_ms": theirs}
        return {name: spread(values) for name, values in told.items()}

    def _ext(self, row: Row) -> str:
        began = next(r for r in self.world.rows.of("call_started") if r["call_id"] == row["call_id"])
        return str(began["data"]["agent"])


async def run(calls: int, abusive: int, workers: int, over_ms: int) -> int:
    root, why = find_root()
    if root is None:
        print(f"no real Asterisk: {why}", file=sys.stderr)
        return 2
    extensions = [str(FIRST + n) for n in range(calls)]
    more = [ext for ext in extensions if ext not in (*PHONES, *MANY)]
    with tempfile.TemporaryDirectory(prefix="firmline-bench-") as folder:
        server = PbxServer(root, Path(folder), more, timestamps=True)
        try:
            await asyncio.to_thread(server.start)
            async with Stack() as stack:
                await asyncio.to_thread(server.phones_at, stack.port)
                bench = Bench(World(server, stack, Path(folder)), extensions)
                load = os.getloadavg()[0]
                result = {
                    "bench": "pbx",
                    "calls": calls,
                    "over_ms": over_ms,
                    "abusive": abusive,
                    "load_before": round(load, 1),
                }
                try:
                    result |= await bench.measure(abusive, workers, over_ms)
                finally:
                    if bench.world.service is not None:
                        await bench.world.service.stop()
        finally:
            await asyncio.to_thread(server.stop)
    result |= {"load_after": round(os.getloadavg()[0], 1), "problems": bench.problems}
    print(json.dumps(result, indent=2))
    return 1 if bench.problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--calls", type=int, default=30, choices=range(1, 61), metavar="N", help="at once, 1 to 60 [30]"
    )
    parser.add_argument("--abusive", type=int, default=10, metavar="N", help="of these [10]")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="decoding processes of the service [1]")
    parser.add_argument("--over", type=float, default=0, metavar="SECONDS", help="time in which they come up [0]")
    options = parser.parse_args()
    if not 0 < options.abusive <= options.calls:
        parser.error("--abusive: 1 to --calls")
    return asyncio.run(run(options.calls, options.abusive, options.workers, round(options.over * 1000)))


if __name__ == "__main__":
    sys.exit(main())
