"""The load peer: many calls at once to Firmline's ``direct`` door, two legs each, with real SIP phones.

Phones live in worker processes of at most ``LEGS_A_WORKER`` legs (one baresip stack each). A worker says each line at
its time on its leg, keeps what the leg heard, and looks for the given prompts in it after the calls are over, so that
the search costs the service nothing. A worker whose parent is gone ends by itself.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import resource
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ivr
from audio.types import Pcm
from ivr.clock import monotonic_ms
from ivr.demo.phones import Earful, Phone
from ivr.demo.recordings import find_prompt
from ivr.demo.speech import line_pcm
from ivr.demo.stack import RATE_HZ, PhoneError, Stack
from ivr.errors import FirmlineError
from ivr.lines.base import HEADER_AGENT, HEADER_CALL, HEADER_SIDE

LEGS_A_WORKER = 100
_DIAL_S = 15.0
_STAGGER_MS = 40
"""Calls come one after the other: forty INVITEs in one millisecond is an attack, not a busy hour."""
_ROOM_MS = 400
_FAREWELL_S = 4.0
_GRACE_S = 90.0
"""Beyond the calls' own length: dialling, hanging up, and the search for prompts."""


@dataclass(frozen=True, slots=True)
class TimedLine:
    """Say ``line`` (a name for the reports; ``samples`` are what is said, 8 kHz) ``at_ms`` after the leg is up."""

    at_ms: int
    line: str
    samples: Pcm


@dataclass(frozen=True, slots=True)
class LoadCall:
    """One call: what its caller and its agent say. ``expect_ms`` are times of lines that should bring a warning."""

    call_ref: str
    caller: tuple[TimedLine, ...]
    agent: tuple[TimedLine, ...] = ()
    expect_ms: tuple[int, ...] = ()
    agent_ext: str = ""


@dataclass(frozen=True, slots=True)
class SaidLine:
    """When a line was really said, in ms from the leg's beginning; ``end_ms`` is its last sample."""

    line: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class HeardSound:
    """A stretch of sound that the leg heard, in ms from its beginning, and the prompt that it is (or ``None``).

    For a stretch that holds a prompt, ``start_ms`` is where the prompt begins and ``score`` how sure.
    """

    start_ms: int
    end_ms: int
    prompt: str | None
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One leg's story. ``up_ms`` is the monotonic time of its beginning (``None``: never answered)."""

    call_ref: str
    side: str
    up_ms: int | None
    lasted_ms: int
    ended_early: bool
    said: tuple[SaidLine, ...] = ()
    heard: tuple[HeardSound, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Every leg's result, and what the load itself cost."""

    legs: tuple[LoadResult, ...]
    peer_cpu_s: float
    """CPU of the worker processes while the calls were up (the search afterwards is not in it)."""
    calls_s: float
    """Wall time that the calls were up."""

    @property
    def peer_cores(self) -> float:
        """Cores the load took on average while the calls were up."""
        return self.peer_cpu_s / self.calls_s if self.calls_s else 0.0


async def run_load(
    target: str, calls: Sequence[LoadCall], duration_s: float, prompts: Mapping[str, Pcm] | None = None
) -> LoadReport:
    """Hold ``calls`` against ``target`` (``sip:firmline@127.0.0.1:port``) at once for ``duration_s`` seconds.

    ``prompts`` (8 kHz, by name) are looked for in what each leg heard. Bounded in time; leaves no process behind.

    Raises:
        FirmlineError: a worker could not run; a leg that fails is told in its result instead.
    """
    per_worker = LEGS_A_WORKER // 2
    groups = [calls[i : i + per_worker] for i in range(0, len(calls), per_worker)]
    answers = await asyncio.gather(*(_run_worker(target, group, duration_s, prompts or {}) for group in groups))
    legs = [_read_result(leg) for answer in answers for leg in answer["legs"]]
    return LoadReport(tuple(legs), sum(a["cpu_s"] for a in answers), max((a["calls_s"] for a in answers), default=0.0))


def standard_calls(count: int, duration_s: float, abusive_every: int = 4) -> list[LoadCall]:
    """``count`` calls of civil talk from the demo's lines; every ``abusive_every``-th also holds one insult.

    Deterministic. Callers speak every eight seconds or so, agents in between; no two calls are in step. The insult is
    near the middle of the call, alone, with ten seconds after it for the warning.
    """
    civil = ["pat_billing", "kim_angry", "pat_calmer", "kim_disgrace", "kim_thanks"]
    answers = ["sam_refund", "sam_sorry", "sam_engineer", "sam_steady"]
    calls = []
    for number in range(count):
        abusive = abusive_every > 0 and number % abusive_every == 0
        insult_ms = int(duration_s * 1000 * 0.45) + 370 * number % 5_000 if abusive else None
        caller, agent = [], []
        for turn, at_ms in enumerate(range(1_500 + 610 * number % 7_000, int(duration_s * 1000) - 16_000, 16_000)):
            if insult_ms is None or not insult_ms - 8_000 < at_ms < insult_ms + 14_000:
                name = civil[(number + turn) % len(civil)]
                caller.append(TimedLine(at_ms, name, line_pcm(name)))
            reply = answers[(number + turn) % len(answers)]
            agent.append(TimedLine(at_ms + 8_000, reply, line_pcm(reply)))
        if insult_ms is not None:
            caller.append(TimedLine(insult_ms, "pat_insult", line_pcm("pat_insult")))
        calls.append(
            LoadCall(
                f"load-{number + 1}",
                tuple(sorted(caller, key=lambda line: line.at_ms)),
                tuple(agent),
                () if insult_ms is None else (insult_ms,),
                str(300 + number),
            )
        )
    return calls


async def _run_worker(
    target: str, calls: Sequence[LoadCall], duration_s: float, prompts: Mapping[str, Pcm]
) -> dict[str, Any]:
    root = str(Path(ivr.__file__).parent.parent)
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ivr.demo.load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        async with asyncio.timeout(duration_s + _GRACE_S):
            process.stdin.write(_job(target, calls, duration_s, prompts).encode() + b"\n")
            await process.stdin.drain()
            # stdin stays open: its end is how the worker learns that we are gone.
            out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
            await process.wait()
    except TimeoutError as exc:
        raise FirmlineError("a load worker did not finish in time") from exc
    finally:
        process.stdin.close()
        if process.returncode is None:
            try:  # without its parent it hangs up its legs and ends
                await asyncio.wait_for(process.wait(), _FAREWELL_S)
            except TimeoutError:
                process.kill()
                await process.wait()
    if process.returncode != 0:
        raise FirmlineError(f"a load worker failed: {err.decode(errors='replace').strip()[-500:]}")
    answer: dict[str, Any] = json.loads(out)
    return answer


def _job(target: str, calls: Sequence[LoadCall], duration_s: float, prompts: Mapping[str, Pcm]) -> str:
    sounds: dict[str, str] = {}

    def lines(side: Sequence[TimedLine]) -> list[list[object]]:
        for line in side:
            sounds.setdefault(line.line, _pack(line.samples))
        return [[line.at_ms, line.line] for line in side]

    return json.dumps(
        {
            "target": target,
            "duration_s": duration_s,
            "legs": [
                {"call_ref": call.call_ref, "side": side, "agent_ext": call.agent_ext, "lines": lines(said)}
                for call in calls
                for side, said in (("caller", call.caller), ("agent", call.agent))
            ],
            "sounds": sounds,
            "prompts": {name: _pack(samples) for name, samples in prompts.items()},
        }
    )


def _pack(samples: Pcm) -> str:
    return base64.b64encode(samples.astype("<i2").tobytes()).decode()


def _unpack(text: str) -> Pcm:
    return np.frombuffer(base64.b64decode(text), dtype="<i2").astype(np.int16)


def _read_result(leg: dict[str, Any]) -> LoadResult:
    return LoadResult(
        **{
            **leg,
            "said": tuple(SaidLine(**said) for said in leg["said"]),
            "heard": tuple(HeardSound(**heard) for heard in leg["heard"]),
        }
    )


# --- in the worker process --------------------------------------------------------------------------------------------


class _Leg:
    """One phone of the load."""

    def __init__(self, phone: Phone, spec: dict[str, Any], sounds: Mapping[str, Pcm]) -> None:
        self.phone = phone
        self.spec = spec
        self.ear = phone.earful = Earful()
        self.said: list[SaidLine] = []
        self.up_ms: int | None = None
        self.lasted_ms = 0
        self.early = False
        self.error = ""
        self._sounds = sounds

    async def run(self, stack: Stack, target: str, delay_ms: int, duration_s: float) -> None:
        """Dial, speak each line at its time, stay until the end, hang up."""
        await stack.clock.pause(delay_ms)
        headers = {HEADER_CALL: self.spec["call_ref"], HEADER_SIDE: self.spec["side"]}
        if self.spec["agent_ext"]:
            headers[HEADER_AGENT] = self.spec["agent_ext"]
        try:
            await self.phone.dial(target, headers, _DIAL_S)
        except PhoneError as exc:
            self.error = str(exc)
            return
        self.up_ms = monotonic_ms()
        talk = asyncio.ensure_future(self._talk(stack, duration_s))
        over = asyncio.ensure_future(self.phone.over.wait())
        await asyncio.wait({talk, over}, return_when=asyncio.FIRST_COMPLETED)
        self.early = over.done()
        self.lasted_ms = monotonic_ms() - self.up_ms
        for task in (talk, over):
            task.cancel()
        await asyncio.gather(talk, over, return_exceptions=True)
        await self.phone.hang_up()

    async def _talk(self, stack: Stack, duration_s: float) -> None:
        for at_ms, name in self.spec["lines"]:
            await self._until(stack, at_ms)
            start_ms = self._now_ms()
            if await self.phone.say(self._sounds[name]):
                self.said.append(SaidLine(name, start_ms, start_ms + len(self._sounds[name]) * 1000 // RATE_HZ))
        await self._until(stack, int(duration_s * 1000))

    async def _until(self, stack: Stack, at_ms: int) -> None:
        if (left_ms := at_ms - self._now_ms()) > 0:
            await stack.clock.pause(left_ms)

    def _now_ms(self) -> int:
        return monotonic_ms() - (self.up_ms or 0)

    def report(self, prompts: Mapping[str, Pcm]) -> LoadResult:
        """What happened, prompts looked for."""
        heard = [sound for stretch in self.ear.stretches for sound in _name_sounds(stretch, prompts)]
        return LoadResult(
            self.spec["call_ref"],
            self.spec["side"],
            self.up_ms,
            self.lasted_ms,
            self.early,
            tuple(self.said),
            tuple(heard),
            self.error,
        )


def _name_sounds(stretch: tuple[int, list[bytes]], prompts: Mapping[str, Pcm]) -> list[HeardSound]:
    offset_ms, frames = stretch
    samples = np.frombuffer(b"".join(frames), dtype=np.int16)
    # A stretch begins at its first loud frame; a prompt may begin softly, so it is looked for with room before it.
    roomy = np.pad(samples, RATE_HZ * _ROOM_MS // 1000)
    found = []
    for name, prompt in prompts.items():
        for hit in find_prompt(roomy, prompt, RATE_HZ):
            start_ms = offset_ms + hit.offset_ms - _ROOM_MS
            found.append(HeardSound(start_ms, start_ms + len(prompt) * 1000 // RATE_HZ, name, hit.score))
    whole = HeardSound(offset_ms, offset_ms + len(samples) * 1000 // RATE_HZ, None)
    return sorted(found, key=lambda sound: sound.start_ms) or [whole]


async def _work(job: dict[str, Any], gone: Callable[[Callable[[], object]], None]) -> dict[str, Any]:
    sounds = {name: _unpack(text) for name, text in job["sounds"].items()}
    prompts = {name: _unpack(text) for name, text in job["prompts"].items()}
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    gone(lambda: loop.call_soon_threadsafe(task.cancel))
    async with Stack() as stack:
        legs = []
        for number, spec in enumerate(job["legs"]):
            phone = await Phone.create(stack, f"load-{number}", auto_answer=False, keep=False)
            legs.append(_Leg(phone, spec, sounds))
        started_ms, before_s = monotonic_ms(), _cpu_s()
        runs = (leg.run(stack, job["target"], 20 + n * _STAGGER_MS, job["duration_s"]) for n, leg in enumerate(legs))
        await asyncio.gather(*runs)
        cpu_s, calls_s = _cpu_s() - before_s, (monotonic_ms() - started_ms) / 1000
    return {"legs": [asdict(leg.report(prompts)) for leg in legs], "cpu_s": cpu_s, "calls_s": calls_s}


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _worker() -> None:
    job = json.loads(sys.stdin.buffer.readline())

    def watch_parent(on_gone: Callable[[], object]) -> None:
        def wait() -> None:
            sys.stdin.buffer.read()
            with contextlib.suppress(RuntimeError):  # the loop is closed: we are done anyway
                on_gone()

        threading.Thread(target=wait, daemon=True).start()

    try:
        answer = asyncio.run(_work(job, watch_parent))
    except asyncio.CancelledError:
        return
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # the parent-watching thread sits in a blocking read


if __name__ == "__main__":
    _worker()
