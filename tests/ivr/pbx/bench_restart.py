"""From kill -9 to being beside every call again, on a real Asterisk: how long nobody listens.

    python -m tests.ivr.pbx.bench_restart --calls 4 --rounds 5

Needs the folder of `make pbx` and root. Calls are up; the process is killed and started again at once, round after
round. The callers begin to speak when the new process is executed and go on, line after line, so that words are there
as soon as somebody hears. By the journal, from exec:

- to the second tap leg of each call, first and last call;
- to the ready line;
- to the first final of a caller, and how many finals came before the ready line.

Exit code 1 when a call was not tapped again, or its caller not heard.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from ivr.clock import monotonic_ms
from ivr.demo.phones import Phone
from ivr.demo.service import Row, monotonic_of
from ivr.demo.speech import line_pcm
from ivr.demo.stack import Stack
from tests.ivr.pbx.beside import World
from tests.ivr.pbx.pbx_server import MANY, PbxServer, find_root

CEILING_S = 30.0


class Restart:
    """One PBX with its calls."""

    def __init__(self, world: World, calls: int) -> None:
        self.world, self.extensions = world, MANY[:calls]
        self.callers: list[Phone] = []
        self.problems: list[str] = []

    async def dial_all(self) -> None:
        for ext in self.extensions:
            await self.world.phone(ext)
            self.callers.append(await Phone.create(self.world.stack, "pat"))
        for ext, caller in zip(self.extensions, self.callers, strict=True):
            await caller.dial(self.world.at_pbx(ext), timeout_s=20)

    async def round(self) -> dict[str, int]:
        """Kill, exec, wait until all is as it was."""
        service, n = self.world.service, len(self.extensions)
        assert service is not None
        service.kill()
        await service.stop()
        seen = len(self._journalled())
        began_ms = monotonic_ms()
        talkers = [asyncio.create_task(self._talk(caller)) for caller in self.callers]
        await service.start()
        ready_ms = monotonic_ms()
        try:
            async with asyncio.timeout(CEILING_S):
                while not self._whole(rows := self._journalled()[seen:]):
                    await self.world.stack.clock.pause(200)
        except TimeoutError:
            self.problems.append(f"{len(rows)} rows and not all {n} callers were heard")
        for task in talkers:
            task.cancel()
        await asyncio.gather(*talkers, return_exceptions=True)
        return self._figures(rows, began_ms, ready_ms)

    async def _talk(self, caller: Phone) -> None:
        while await caller.say(line_pcm("pat_calmer")):
            await self.world.stack.clock.pause(600)

    def _whole(self, rows: list[Row]) -> bool:
        return all(len(self._by_call(rows, event)) == len(self.extensions) for event in ("leg_up", "utterance"))

    def _by_call(self, rows: list[Row], event: str) -> dict[str, list[int]]:
        """Times (monotonic) by call; of legs, only calls that have two."""
        found: dict[str, list[int]] = {}
        for row in rows:
            if row["event"] == event:
                found.setdefault(row["call_id"], []).append(monotonic_of(row["at"]))
        return {call: times for call, times in found.items() if event != "leg_up" or len(times) > 1}

    def _figures(self, rows: list[Row], began_ms: int, ready_ms: int) -> dict[str, int]:
        tapped = sorted(times[1] - began_ms for times in self._by_call(rows, "leg_up").values())
        heard = self._by_call(rows, "utterance").values()
        finals = sorted(each - began_ms for times in heard for each in times)
        if not tapped or not finals:
            return {}
        return {
            "first_tapped_ms": tapped[0],
            "all_tapped_ms": tapped[-1],
            "ready_ms": ready_ms - began_ms,
            "first_final_ms": finals[0],
            "all_callers_heard_ms": max(times[0] for times in heard) - began_ms,
        }

    def _journalled(self) -> list[Row]:
        with contextlib.closing(sqlite3.connect(self.world.folder / "journal.db", timeout=5)) as db:
            found = db.execute("SELECT call_id, event, at FROM events ORDER BY id")
            return [{"call_id": str(c), "event": e, "at": at} for c, e, at in found]


async def run(calls: int, rounds: int) -> int:
    root, why = find_root()
    if root is None:
        print(f"no real Asterisk: {why}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="firmline-bench-") as folder:
        server = PbxServer(root, Path(folder))
        try:
            await asyncio.to_thread(server.start)
            async with Stack() as stack:
                await asyncio.to_thread(server.phones_at, stack.port)
                bench = Restart(World(server, stack, Path(folder)), calls)
                found = await _rounds(bench, rounds)
        finally:
            await asyncio.to_thread(server.stop)
    load = round(os.getloadavg()[0], 1)
    medians = {key: round(median(each[key] for each in found)) for key in found[0]} if found else {}
    worst = {key: max(each[key] for each in found) for key in found[0]} if found else {}
    told: dict[str, Any] = {"bench": "restart", "calls": calls, "rounds": len(found), "load_after": load}
    print(json.dumps(told | {"median": medians, "worst": worst, "each": found, "problems": bench.problems}, indent=2))
    return 1 if bench.problems or len(found) < rounds else 0


async def _rounds(bench: Restart, rounds: int) -> list[dict[str, int]]:
    overrides = bench.world.overrides(agents=["21?"])
    service = await bench.world.firmline(overrides)
    try:
        await bench.dial_all()
        await bench.world.rows.wait("leg_up", times=2 * len(bench.extensions), ceiling_s=CEILING_S)
        return [each for _ in range(rounds) if (each := await bench.round())]
    finally:
        await service.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calls", type=int, default=4, choices=range(1, len(MANY) + 1), metavar="N", help="live [4]")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="kills [5]")
    options = parser.parse_args()
    return asyncio.run(run(options.calls, max(1, options.rounds)))


if __name__ == "__main__":
    sys.exit(main())
