"""``firmline bench capacity``: many calls at once on the real service, over real SIP and RTP, with real Whisper.

The service runs as a process of its own, as in a call centre; the load (:mod:`ivr.bench_load`) and this watcher run
beside it and their CPU is told. Lateness is measured from outside: from the moment at which the packet with a word's
last sound left the caller, to the moment at which a watcher of the event feed has the word.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ivr.asr import SyncAsr
from ivr.bench_ears import Aligner, Measured, Talk, Truth, pair_s
from ivr.bench_load import LoadReport, need_sipp, run_load
from ivr.bench_machine import Busy, children_of, cpu_s, load_average, rss_mb, sockets_of, threads_of
from ivr.bench_sim import Outcome, Seen
from ivr.bench_speech import RATE_HZ, Line, spoken_lines
from ivr.bench_traffic import Call, Material, clips_of, plan_calls
from ivr.clock import monotonic_ms
from ivr.config import Config
from ivr.demo.service import Row, ServiceProcess, monotonic_of
from ivr.demo.speech import line_pcm, load_script
from ivr.ears import asr_options
from ivr.judge import judge_line, load_pack
from ivr.models import resolve_model
from ivr.prompts import load_catalogue

Progress = Callable[[str], None]

DRAFTS_EVERY_MS = 700
SAMPLE_S = 1.0
_SAY_EVERY_S = 10.0
_SETTLED_CEILING_S = 8.0
WARM_UP_S = 30.0
"""Memory is called flat from here on: pools, caches and the journal's page cache have filled by then."""
PROMPT = "warning"
INSULT = "pat_insult"
LOST = ("overload", "asr_failed")


@dataclass(frozen=True, slots=True)
class Options:
    """What is held against the service: ``speak`` and ``abusive`` are shares, 0..1."""

    calls: int = 20
    seconds: float = 120.0
    speak: float = 0.4
    abusive: float = 0.1
    drafts: bool = True
    workers: int = 1


async def bench_capacity(out: Path, options: Options, progress: Progress) -> dict[str, Any]:
    """Hold the calls and measure.

    Raises:
        FirmlineError: no model, a tool is missing, or the service or the load could not run.
    """
    need_sipp()
    progress("preparing what is said ...")
    calls = plan_calls(_material(), options.calls, options.seconds, options.speak, options.abusive)
    catalogue = load_catalogue()
    prompts = {name: catalogue.samples(name, RATE_HZ) for name in catalogue}
    watch = Watch()
    overrides = {
        "ears": {"workers": options.workers, "partial_every_ms": DRAFTS_EVERY_MS if options.drafts else 0},
        "line": {"max_legs": max(4, 2 * options.calls)},
    }
    async with ServiceProcess(out, overrides=overrides, on_row=watch.take) as service:
        before = await _left(service)
        machine = Machine(service.pid, load_average())
        sampling = asyncio.get_running_loop().create_task(machine.sample(watch, options, progress))
        try:
            legs = [leg for call in calls for leg in call.legs()]
            report = await run_load(service.uri, legs, clips_of(calls), options.seconds, prompts)
            after = await _settled(service, before)
            metrics = (await service.get("/metrics")).text
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
    return {
        **_what_ran(options, report, calls),
        **_heard(calls, report, watch, metrics),
        **_warned(calls, report),
        **_cost(report, machine, options, metrics),
        "left over": {name: after[name] - before[name] for name in after},
    }


def faults_of(result: Mapping[str, Any]) -> list[str]:
    """What went wrong, in plain words; empty when every call was held, heard, warned where it should be, and let go."""
    left = {name: count for name, count in result["left over"].items() if count > 0 and name != "threads"}
    checks = (
        (result["legs held to the end"] == 2 * result["calls"], "not every leg was held to the end"),
        (result["warnings heard"] == result["warnings expected"], "not every expected warning was heard"),
        (result["other sounds"] == 0, "a sound was heard that nobody expected"),
        (result["finals lost"] == 0, "the words of an utterance were lost"),
        (not left, f"left over afterwards: {', '.join(f'{count} {name}' for name, count in left.items())}"),
    )
    return [text for well, text in checks if not well]


def _material() -> Material:
    """Every line with the ends of its words. Whether a line is an insult is the pack's to say."""
    config = Config()
    model = resolve_model(config.ears.model, offline=config.ears.offline)
    aligner = Aligner(SyncAsr(model, options=asr_options(config)))
    pack = load_pack(config.policy.pack)
    civil = [line for line in spoken_lines() if not judge_line(line.text, pack)["strike"]]
    insult = Line(load_script().lines[INSULT].text, "flite:rms", line_pcm(INSULT))
    return Material([(line, aligner.truth(line)) for line in civil], [(insult, aligner.truth(insult))])


# --- while it runs ----------------------------------------------------------------------------------------------------


class Watch:
    """One who watches the event feed, and notes when what came."""

    def __init__(self) -> None:
        self.seen: defaultdict[str, list[Seen]] = defaultdict(list)
        """By call_ref, of the caller's side."""
        self.dropped: Counter[str] = Counter()
        self.finals = 0
        self._refs: dict[str, str] = {}

    def take(self, row: Row) -> None:
        """One row of the feed, now."""
        event, data = row["event"], row["data"]
        if event == "call_started":
            self._refs[row["call_id"]] = data["call_ref"]
        if event not in ("partial", "utterance") or data["side"] != "caller":
            return
        final = event == "utterance"
        self.finals += final
        if data.get("dropped"):
            self.dropped[data["dropped"]] += 1
            return
        began_ms = monotonic_of(row["at"]) - row["t_ms"]
        start_ms, end_ms = began_ms + data["start_ms"], began_ms + data["end_ms"]
        seen = Seen(monotonic_ms(), start_ms, end_ms, data["words"], final, data["over_prompt"])
        self.seen[self._refs.get(row["call_id"], "")].append(seen)


@dataclass(frozen=True, slots=True)
class Sample:
    """The machine at one moment; CPU in seconds so far."""

    at_ms: int
    service_s: float
    decoding_s: float
    watcher_s: float
    busy_s: float
    service_mb: float
    decoding_mb: float


@dataclass(slots=True)
class Machine:
    """The service, its decoding processes and everything else, sampled once a second."""

    pid: int
    load_before: float
    samples: list[Sample] = field(default_factory=list)

    async def sample(self, watch: Watch, options: Options, progress: Progress) -> None:
        """Sample, and say how it goes, until cancelled."""
        began_ms, said_ms = monotonic_ms(), monotonic_ms()
        never = asyncio.Event()
        while True:
            now_ms = monotonic_ms()
            children = children_of(self.pid)
            self.samples.append(
                Sample(
                    now_ms,
                    cpu_s(self.pid),
                    sum(map(cpu_s, children)),
                    cpu_s(os.getpid()),
                    Busy.now().busy_s,
                    rss_mb(self.pid),
                    sum(map(rss_mb, children)),
                )
            )
            if now_ms - said_ms >= _SAY_EVERY_S * 1000:
                said_ms = now_ms
                progress(
                    f"{options.calls} calls, {(now_ms - began_ms) // 1000} of {options.seconds:g} s: "
                    f"{watch.finals} utterances; load average {load_average()}"
                )
            try:
                await asyncio.wait_for(never.wait(), SAMPLE_S)
            except TimeoutError:
                continue

    def between(self, from_ms: int, to_ms: int) -> list[Sample]:
        """Samples of that time; all of them when it was too short."""
        found = [each for each in self.samples if from_ms <= each.at_ms <= to_ms]
        return found if len(found) > 1 else self.samples


async def _left(service: ServiceProcess) -> dict[str, int]:
    """What a process holds on to: to be the same before and after."""
    metrics = (await service.get("/metrics")).text
    return {
        "calls": round(_value(metrics, "firmline_calls_live")),
        "legs": round(_value(metrics, "firmline_legs_live")),
        "tasks": round(_value(metrics, 'firmline_running{what="tasks"}')),
        "RTP ports": round(_value(metrics, 'firmline_running{what="rtp_ports"}')),
        "sockets": sockets_of(service.pid),
        "threads": threads_of(service.pid),
    }


async def _settled(service: ServiceProcess, before: Mapping[str, int]) -> dict[str, int]:
    """What is left once nothing changes any more, or when patience ends."""
    deadline_ms = monotonic_ms() + _SETTLED_CEILING_S * 1000
    never = asyncio.Event()
    while True:
        left = await _left(service)
        if all(left[name] <= before[name] for name in left if name != "threads") or monotonic_ms() > deadline_ms:
            return left
        try:
            await asyncio.wait_for(never.wait(), 0.5)
        except TimeoutError:
            continue


# --- what came of it --------------------------------------------------------------------------------------------------


def _what_ran(options: Options, report: LoadReport, calls: Sequence[Call]) -> dict[str, Any]:
    spoken_ms = sum(said.truth.end_ms - said.truth.start_ms for call in calls for said in call.caller)
    return {
        "bench": "capacity",
        "calls": options.calls,
        "seconds": options.seconds,
        "every word visible": options.drafts,
        "callers speak, share of the time": round(spoken_ms / (options.calls * options.seconds * 1000), 2),
        "legs held to the end": sum(leg.hung_up for leg in report.legs),
        **({"SIPp says": report.errors} if report.errors else {}),
    }


def _heard(calls: Sequence[Call], report: LoadReport, watch: Watch, metrics: str) -> dict[str, Any]:
    starts = _starts(report)
    measured, lines, unheard = Measured(), 0, 0
    for call in calls:
        start_ms = starts.get((call.call_ref, "caller"))
        if start_ms is None:
            continue
        truths = tuple(said.on_the_clock(start_ms) for said in call.caller)
        seen = watch.seen[call.call_ref]
        measured.add([_talk_of(truths)], Outcome([seen]))
        lines += len(truths)
        unheard += sum(
            not any(each.final and each.meets(truth.start_ms, truth.end_ms) for each in seen) for truth in truths
        )
    counted = sum(
        float(count)
        for count in re.findall(r'^firmline_utterances_total\{[^}]*side="caller"[^}]*\} (\S+)$', metrics, re.MULTILINE)
    )
    return {
        "lines said": lines,
        "lines without a final": unheard,
        "finals dropped by the guards": sum(count for why, count in watch.dropped.items() if why not in LOST),
        "finals lost": sum(watch.dropped[why] for why in LOST),
        "finals the watcher missed": round(counted) - watch.finals,
        "WER %": round(100 * measured.errors / max(1, measured.words), 1),
        "last word to final p50 / p95 s": pair_s(measured.final_ms),
        "last word to final worst s": round(max(measured.final_ms, default=0) / 1000, 2),
        "any word visible p50 / p95 s": pair_s(measured.visible_ms),
    }


def _talk_of(truths: tuple[Truth, ...]) -> Talk:
    return Talk(line_pcm(INSULT)[:0], truths)


def _starts(report: LoadReport) -> dict[tuple[str, str], int]:
    return {(leg.call_ref, leg.side): leg.start_ms for leg in report.legs if leg.start_ms is not None}


def _warned(calls: Sequence[Call], report: LoadReport) -> dict[str, Any]:
    expected = {call.call_ref: call.insult for call in calls if call.insult is not None}
    starts = _starts(report)
    reactions, warned, others = [], set(), 0
    for leg in report.legs:
        for heard in leg.heard:
            insult = expected.get(leg.call_ref)
            if insult is None or leg.side != "caller" or heard.prompt != PROMPT or leg.call_ref in warned:
                others += 1
                continue
            warned.add(leg.call_ref)
            reactions.append(heard.first_ms - insult.on_the_clock(starts[leg.call_ref, "caller"]).end_ms)
    return {
        "warnings expected": len(expected),
        "warnings heard": len(warned),
        "other sounds": others,
        "end of insult to first prompt packet p50 / p95 s": pair_s(reactions),
    }


def _cost(report: LoadReport, machine: Machine, options: Options, metrics: str) -> dict[str, Any]:
    starts = [leg.start_ms for leg in report.legs if leg.start_ms is not None] or [0]
    samples = machine.between(max(starts), min(starts) + round(options.seconds * 1000))
    first, last = samples[0], samples[-1]
    took_s = max(0.001, (last.at_ms - first.at_ms) / 1000)
    service, decoding, watcher, busy = (
        (getattr(last, name) - getattr(first, name)) / took_s
        for name in ("service_s", "decoding_s", "watcher_s", "busy_s")
    )
    return {
        "loop late p99 ms": stall_percentile_ms(metrics, 99),
        "loop late worst ms": round(_value(metrics, "firmline_loop_stall_max_seconds") * 1000, 1),
        "cores: service": round(service, 2),
        "cores: decoding": round(decoding, 2),
        "cores: load": round(report.cores, 2),
        "cores: watcher": round(watcher, 2),
        "cores: rest of the machine": round(max(0.0, busy - service - decoding - watcher - report.cores), 2),
        "load's own lateness p99 / worst ms": f"{report.late_p99_ms:g} / {report.late_worst_ms:g}",
        "load average before / after": f"{machine.load_before:g} / {load_average():g}",
        "service MB": round(last.service_mb, 1),
        "service MB grown after 30 s": round(_growth_mb(samples), 1),
        "decoding MB": round(last.decoding_mb, 1),
    }


def _growth_mb(samples: Sequence[Sample]) -> float:
    """Mean of the last quarter of the samples less the mean of the first quarter after the warm-up."""
    settled = [each.service_mb for each in samples if each.at_ms - samples[0].at_ms >= WARM_UP_S * 1000]
    quarter = max(1, len(settled) // 4)
    if not settled:
        return 0.0
    return sum(settled[-quarter:]) / quarter - sum(settled[:quarter]) / quarter


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


def _value(metrics: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", metrics, re.MULTILINE)
    return float(found.group(1)) if found else 0.0
