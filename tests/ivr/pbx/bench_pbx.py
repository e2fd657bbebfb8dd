"""Many calls at once beside a real Asterisk: who is warned, how soon, and what is left over.

    make benchpbx            or      python -m tests.ivr.pbx.bench_pbx --calls 30 --abusive 10

Needs the folder of `make pbx` and root. Two rounds on one PBX, each with all calls up at once:

1. line and attachment alone: from the second party's entering the bridge (as the PBX tells it) to the first frame of
   each tap;
2. the whole service: the abusive callers insult their agents one after the other, the others speak civilly all the
   while; who hears which prompt, and from the decision to its first packet at the caller's phone (20 ms steps).

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
from pathlib import Path
from statistics import median
from typing import Any

from audio.types import PTIME_MS
from ivr.clock import monotonic_ms
from ivr.demo.phones import Phone
from ivr.demo.recordings import Hit, find_prompt
from ivr.demo.service import Row, monotonic_of
from ivr.demo.speech import line_pcm
from ivr.demo.stack import RATE_HZ, Stack
from ivr.pbx.ami import AmiMessage
from ivr.prompts import load_catalogue
from tests.ivr.pbx.beside import Beside, World, ami_options, manager
from tests.ivr.pbx.pbx_server import MANY, PHONES, PbxServer, find_root
from tests.ivr.service import open_files, udp_ports

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

    async def dial_all(self) -> dict[str, tuple[Phone, Phone]]:
        """Every agent in a call with a caller of their own: extension to (caller, agent)."""
        pairs = {}
        for ext in self.extensions:
            pairs[ext] = (await Phone.create(self.world.stack, "pat"), await self.world.phone(ext))
        await asyncio.gather(*(caller.dial(self.world.at_pbx(ext), timeout_s=20) for ext, (caller, _) in pairs.items()))
        return pairs

    async def hang_up_all(self, pairs: dict[str, tuple[Phone, Phone]]) -> None:
        await asyncio.gather(*(caller.hang_up() for caller, _ in pairs.values()))
        names: list[str] = []
        for _ in range(50):
            if not (names := await asyncio.to_thread(self.world.server.channels)):
                return
            await self.world.stack.clock.pause(100)
        self.problems.append(f"channels left over: {names}")

    async def taps(self) -> dict[str, Any]:
        """Round 1."""
        bridged: dict[str, int] = {}

        def hear(event: AmiMessage) -> None:
            if event.event == "BridgeEnter":
                bridged[event.get("Linkedid")] = monotonic_ms()

        firsts: list[int] = []
        async with Beside(self.world, agents=("2??",)) as beside, manager(ami_options(self.world.server), hear):
            seen: dict[str, int] = {}
            take = beside.ears.on_frames

            def on_frames(leg: Any, frames: Any) -> None:
                if leg.id not in seen:
                    seen[leg.id] = frames[0].t_ms
                    firsts.append(frames[0].t_ms - bridged[leg.call_ref])
                take(leg, frames)

            beside.ears.on_frames = on_frames  # type: ignore[method-assign]
            pairs = await self.dial_all()
            await beside.ears.until(lambda: len(seen) >= 2 * len(pairs), CEILING_S)
            await self.hang_up_all(pairs)
            if beside.line.status().legs:
                self.problems.append(f"{beside.line.status().legs} legs left over")
        return {"bridge_to_first_audio_ms": spread(firsts)}

    async def warnings(self, abusive: int, workers: int) -> dict[str, Any]:
        """Round 2."""
        overrides = self.world.overrides(agents=["2??"])
        overrides["ears"] = {"workers": workers}
        service = await self.world.firmline(overrides)
        await self._warm_up()
        before = open_files(service.pid), len(udp_ports(service.pid))
        pairs = await self.dial_all()
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
        reactions, legs = self._judge(pairs, set(victims)), await self._calls(service)
        await self.hang_up_all(pairs)
        await self.world.rows.wait("call_ended", times=len(pairs), ceiling_s=CEILING_S)
        await self.world.stack.clock.pause(2_000)
        after = open_files(service.pid), len(udp_ports(service.pid))
        if any(now > then for now, then in zip(after, before, strict=True)):
            self.problems.append(f"left over: files, ports {before} -> {after}")
        if left := await self._calls(service):
            self.problems.append(f"{left} calls left over")
        await service.stop()
        return {"calls_tapped": legs, "decision_to_first_packet_at_caller_ms": spread(reactions)}

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

    def _judge(self, pairs: dict[str, tuple[Phone, Phone]], victims: set[str]) -> list[int]:
        """Who heard the warning; from decision to first packet of those who should."""
        warning, reactions = load_catalogue().samples("warning", RATE_HZ), []
        done = {self._ext(row): row for row in self.world.rows.of("action_done", prompt="warning")}
        for ext, (caller, agent) in pairs.items():
            hits = find_prompt(caller.heard.pcm(), warning, RATE_HZ)
            heard = bool(hits)
            if heard != (ext in victims):
                self.problems.append(f"caller of {ext} {'heard a warning' if heard else 'was not warned'}")
            if find_prompt(agent.heard.pcm(), warning, RATE_HZ):
                self.problems.append(f"agent {ext} heard the warning")
            if hits and ext in done:
                reactions.append(_first_packet(caller, hits[0], done[ext]))
        return reactions

    def _ext(self, row: Row) -> str:
        began = next(r for r in self.world.rows.of("call_started") if r["call_id"] == row["call_id"])
        return str(began["data"]["agent"])


def _first_packet(caller: Phone, hit: Hit, row: Row) -> int:
    """ms from the decision to the frame that brought the prompt's first sample to the caller's phone."""
    data, started_ms = row["data"], caller.heard.started_ms
    decided_ms = monotonic_of(row["at"]) - (row["t_ms"] - data["decided_ms"])
    assert started_ms is not None
    return int(started_ms + hit.offset_ms // PTIME_MS * PTIME_MS - decided_ms)


async def run(calls: int, abusive: int, workers: int) -> int:
    root, why = find_root()
    if root is None:
        print(f"no real Asterisk: {why}", file=sys.stderr)
        return 2
    extensions = [str(FIRST + n) for n in range(calls)]
    more = [ext for ext in extensions if ext not in (*PHONES, *MANY)]
    with tempfile.TemporaryDirectory(prefix="firmline-bench-") as folder:
        server = PbxServer(root, Path(folder), more)
        try:
            await asyncio.to_thread(server.start)
            async with Stack() as stack:
                await asyncio.to_thread(server.phones_at, stack.port)
                bench = Bench(World(server, stack, Path(folder)), extensions)
                load = os.getloadavg()[0]
                result = {"bench": "pbx", "calls": calls, "abusive": abusive, "load_before": round(load, 1)}
                result |= await bench.taps()
                result |= await bench.warnings(abusive, workers)
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
    options = parser.parse_args()
    if not 0 < options.abusive <= options.calls:
        parser.error("--abusive: 1 to --calls")
    return asyncio.run(run(options.calls, options.abusive, options.workers))


if __name__ == "__main__":
    sys.exit(main())
