"""``firmline bench``: what docs/benchmarks.md says, measured on the real service with real SIP, RTP and Whisper.

The service is a process of its own; phones and load run beside it on the same machine, so its figures include the cost
of being measured. Figures are medians and worsts of what was measured, never asserted in tests.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ivr.clock import monotonic_ms
from ivr.demo.control import ControlServer
from ivr.demo.exchange import Exchange
from ivr.demo.load import LoadReport, run_load, standard_calls
from ivr.demo.run import faster
from ivr.demo.scene import Cast, run_scene
from ivr.demo.service import Row, ServiceProcess
from ivr.demo.speech import load_script
from ivr.demo.stack import RATE_HZ, Stack
from ivr.demo.story import Reaction, Story
from ivr.errors import FirmlineError
from ivr.prompts import load_catalogue

SAMPLE_S = 5.0
REACTION_SPEED = 4.0
"""Pauses between lines are shortened; speech, prompts and Firmline keep real time."""
WARM_UP_S = 30.0
"""Memory is called flat from here on: pools, caches and the journal's page cache have filled by then."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` of ``values`` do not exceed (nearest rank); 0 for none."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, round(percent / 100 * (len(ranked) - 1)))] if ranked else 0.0


# --- reaction ---------------------------------------------------------------------------------------------------------


async def bench_reaction(out: Path, runs: int, progress: Any) -> dict[str, Any]:
    """``runs`` abusive calls one after the other: end of the abusive words to the first prompt packet.

    Raises:
        FirmlineError: the service or a phone could not be started, or a call brought no prompt.
    """
    story, found = Story(), [[], []]  # type: tuple[Story, list[list[Reaction]]]

    def on_row(row: Row) -> None:
        story.take(row)

    script = faster(load_script(), REACTION_SPEED)
    async with Stack() as stack:
        exchange = Exchange(stack)
        await exchange.start()
        async with ControlServer(exchange) as control:
            async with ServiceProcess(out, control_url=control.url, on_row=on_row) as service:
                exchange.firmline_uri = service.uri
                cast = await Cast.create(stack, exchange)
                for number in range(runs):
                    story = Story()
                    result = await run_scene(cast, "abusive", out / "abusive", story.cues, script=script)
                    reactions = story.reactions(result)
                    if not result.as_expected or len(reactions) != 2:
                        raise FirmlineError(f"run {number + 1}: not everything came; see {out}")
                    for bucket, reaction in zip(found, reactions, strict=True):
                        bucket.append(reaction)
                    progress(f"run {number + 1} of {runs}: {reactions[0].words_to_rtp_ms} ms")
                await exchange.stop()
    return {"bench": "reaction", "runs": runs, "rows": [_reaction_row(bucket) for bucket in found]}


def _reaction_row(reactions: Sequence[Reaction]) -> dict[str, Any]:
    whole = [r.words_to_rtp_ms for r in reactions]
    return {
        "prompt": reactions[0].prompt,
        "median_ms": round(median(whole)),
        "worst_ms": max(whole),
        "heard_to_decided_median_ms": round(median(r.heard_to_decided_ms for r in reactions)),
        "decided_to_rtp_median_ms": round(median(r.decided_to_rtp_ms for r in reactions)),
        "decided_to_rtp_worst_ms": max(r.decided_to_rtp_ms for r in reactions),
    }


# --- capacity ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Usage:
    """CPU seconds and resident memory of the service and its decoding processes, sampled while it runs."""

    pid: int
    rss_mb: list[tuple[float, float]] = field(default_factory=list)
    """Seconds since the start, and MB of the service itself."""
    cpu_s: float = 0.0
    workers_cpu_s: float = 0.0
    workers_mb: float = 0.0

    async def watch(self) -> None:
        """Sample until cancelled."""
        began_ms = monotonic_ms()
        stopped = asyncio.Event()
        while True:
            self.rss_mb.append(((monotonic_ms() - began_ms) / 1000, rss_mb(self.pid)))
            self.cpu_s = cpu_s(self.pid)
            children = children_of(self.pid)
            self.workers_cpu_s = sum(cpu_s(pid) for pid in children)
            self.workers_mb = sum(rss_mb(pid) for pid in children)
            try:
                await asyncio.wait_for(stopped.wait(), SAMPLE_S)
            except TimeoutError:
                continue

    def growth_mb(self) -> float:
        """Mean of the last quarter of the samples less the mean of the first quarter after the warm-up."""
        settled = [mb for at_s, mb in self.rss_mb if at_s >= WARM_UP_S]
        quarter = max(1, len(settled) // 4)
        if not settled:
            return 0.0
        return sum(settled[-quarter:]) / quarter - sum(settled[:quarter]) / quarter


async def bench_capacity(out: Path, calls: int, minutes: float, workers: int, progress: Any) -> dict[str, Any]:
    """``calls`` calls of two legs at once for ``minutes``: every expected warning, no other, loop stall, memory.

    Raises:
        FirmlineError: the service or the load could not run.
    """
    rows: list[Row] = []
    plan = standard_calls(calls, minutes * 60)
    catalogue = load_catalogue()
    prompts = {name: catalogue.samples(name, RATE_HZ) for name in catalogue}
    overrides = {"ears": {"workers": workers}, "line": {"max_legs": max(4, 2 * calls)}}
    async with ServiceProcess(out, overrides=overrides, on_row=rows.append) as service:
        usage = Usage(service.pid)
        watch = asyncio.get_running_loop().create_task(usage.watch())
        try:
            progress(f"{calls} calls, {2 * calls} legs, {minutes:g} minutes ...")
            report = await run_load(service.uri, plan, minutes * 60, prompts)
            metrics = (await service.get("/metrics")).text
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
    expected = {call.call_ref for call in plan if call.expect_ms}
    return _capacity_result(report, expected, rows, metrics, usage, calls, minutes)


def _capacity_result(
    report: LoadReport, expected: set[str], rows: Sequence[Row], metrics: str, usage: Usage, calls: int, minutes: float
) -> dict[str, Any]:
    heard = [(leg.call_ref, leg.side, sound.prompt) for leg in report.legs for sound in leg.heard]
    warned = {ref for ref, side, prompt in heard if side == "caller" and prompt == "warning"}
    unexpected = [h for h in heard if h[0] not in expected or h[1] != "caller" or h[2] != "warning"]
    words = [row["data"] for row in rows if row["event"] == "utterance" and not row["data"]["dropped"]]
    played = [row["data"] for row in rows if row["event"] == "action_done" and row["data"].get("heard_ms") is not None]
    reactions = [data["first_rtp_ms"] - data["heard_ms"] for data in played]
    lags = [data["lag_ms"] for data in words]
    return {
        "bench": "capacity",
        "calls": calls,
        "minutes": minutes,
        "legs_failed": sum(bool(leg.error) or leg.ended_early for leg in report.legs),
        "warnings_expected": len(expected),
        "warnings_heard": len(warned & expected),
        "sounds_unexpected": len(unexpected),
        "utterances": len(words),
        "final_lag_ms": {"p50": percentile(lags, 50), "p95": percentile(lags, 95), "worst": max(lags, default=0)},
        "heard_to_rtp_ms": {"p50": percentile(reactions, 50), "worst": max(reactions, default=0)},
        "loop_stall_ms": {
            "p99": stall_percentile_ms(metrics, 99),
            "worst": _gauge(metrics, "stall_max_seconds") * 1000,
        },
        "service_cores": round(usage.cpu_s / (minutes * 60), 3),
        "decoding_cores": round(usage.workers_cpu_s / (minutes * 60), 3),
        "load_cores": round(report.peer_cores, 3),
        "service_mb": round(usage.rss_mb[-1][1], 1) if usage.rss_mb else 0,
        "service_growth_mb": round(usage.growth_mb(), 2),
        "decoding_mb": round(usage.workers_mb, 1),
    }


def stall_percentile_ms(metrics: str, percent: float) -> float:
    """A percentile of the loop's lateness out of the exposed histogram, in ms; straight lines inside a bucket, as
    Prometheus' ``histogram_quantile`` draws them."""
    found = re.findall(r'^firmline_loop_stall_seconds_bucket\{le="([^"]+)"\} (\S+)$', metrics, re.MULTILINE)
    buckets = [(float(bound) * 1000, float(count)) for bound, count in found]
    wanted = buckets[-1][1] * percent / 100 if buckets else 0.0
    below_ms, below = 0.0, 0.0
    for bound_ms, count in buckets:
        if count >= wanted > 0:
            inside = (wanted - below) / (count - below) if count > below else 0.0
            return round(below_ms + inside * (bound_ms - below_ms), 1) if bound_ms != float("inf") else below_ms
        below_ms, below = bound_ms, count
    return 0.0


def _gauge(metrics: str, name: str) -> float:
    found = re.search(rf"^firmline_loop_{name} (\S+)$", metrics, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def rss_mb(pid: int) -> float:
    """Resident memory of a process; 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_s(pid: int) -> float:
    """User and system CPU of a process so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_of(pid: int) -> list[int]:
    """Direct children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
