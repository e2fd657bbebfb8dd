"""Hundreds of tap legs at little cost: SIP by SIPp, RTP by one process that sends packets made beforehand.

A softphone a leg costs more CPU than listening to it does, which on a small machine measures the softphones. Here SIPp
(an independent SIP stack, in C) dials and hangs up, and this worker sends each leg's mu-law frames every 20 ms from a
port of its own, legs spread over the 20 ms as calls of a real PBX are. What comes back is kept with its time of
arrival, and prompts are looked for in it after the calls are over. A worker whose parent is gone ends by itself.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import resource
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

import ivr
from audio.g711 import SILENCE, Law, decode
from audio.types import PTIME_MS, Pcm
from ivr.clock import monotonic_ms, monotonic_ns, wait_until_ms
from ivr.demo.recordings import find_prompt
from ivr.errors import FirmlineError
from ivr.rtp_packet import HEADER_OCTETS, pack, parse

RATE_HZ = 8_000
FRAME_OCTETS = RATE_HZ * PTIME_MS // 1000
SLOT_MS = 2
"""Legs are spread over ten slots of each 20 ms: 120 packets in one burst would be easier to serve than any real PBX."""
DIALS_A_SECOND = 25
_LOOPBACK = "127.0.0.1"
_LOG_EVERY_SLOTS = 25
_GAP_MS = 200
_ROOM_MS = 400
_GRACE_S = 60.0
_FAREWELL_S = 4.0
_HEADER = struct.Struct("!BBHII")
_INFO = (
    "INFO sip:bench@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK-over\r\n"
    "From: <sip:over@127.0.0.1>;tag=1\r\nTo: <sip:bench@127.0.0.1>\r\nCall-ID: {call_id}\r\nCSeq: 1 INFO\r\n"
    "Content-Length: 0\r\n\r\n"
)
"""What ends a leg of the scenario before its time."""
_SILENT = bytes([SILENCE[Law.PCMU]]) * FRAME_OCTETS


@dataclass(frozen=True, slots=True)
class LoadLeg:
    """One tap leg: who it is, and which clips (names) it says from which of its 20 ms frames on."""

    call_ref: str
    side: str
    agent_ext: str
    clips: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class HeardPrompt:
    """Sound that a leg received: the prompt that it is (``None``: no known one), monotonic time of its first packet."""

    prompt: str | None
    first_ms: int
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class LegReport:
    """``start_ms`` is when frame 0 left (monotonic; ``None``: the leg was never answered)."""

    call_ref: str
    side: str
    start_ms: int | None
    packets: int
    hung_up: bool
    """By us, at the end, and confirmed; false when the leg was lost or never answered."""
    heard: tuple[HeardPrompt, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Every leg's story, and what the load itself cost."""

    legs: tuple[LegReport, ...]
    cpu_s: float
    """Sender and SIPp together, while calls were up."""
    calls_s: float
    late_p99_ms: float
    """How late the sender's slots were: the jitter that the load brought by itself."""
    late_worst_ms: float
    errors: str = ""
    """What SIPp complained about, shortened."""

    @property
    def cores(self) -> float:
        """Cores that the load took on average."""
        return self.cpu_s / self.calls_s if self.calls_s else 0.0


def need_sipp() -> None:
    """Say so early when it is not there.

    Raises:
        FirmlineError: no SIPp.
    """
    if shutil.which("sipp") is None:
        raise FirmlineError("the bench dials with SIPp, which is not here; install it: apt-get install sip-tester")


async def run_load(
    target: str, legs: Sequence[LoadLeg], clips: Mapping[str, bytes], seconds: float, prompts: Mapping[str, Pcm]
) -> LoadReport:
    """Hold ``legs`` against ``target`` (``sip:user@host:port``) for ``seconds`` each. ``clips`` are mu-law at 8 kHz,
    and ``noise`` among them is what is sent when nothing is said; ``prompts`` (8 kHz) are looked for in what came back.

    Raises:
        FirmlineError: SIPp is missing, or the worker failed.
    """
    need_sipp()
    job = {
        "target": target.removeprefix("sip:").rpartition("@")[2],
        "seconds": seconds,
        "legs": [asdict(leg) for leg in legs],
        "clips": {name: base64.b64encode(clip).decode() for name, clip in clips.items()},
        "prompts": {name: base64.b64encode(each.astype("<i2").tobytes()).decode() for name, each in prompts.items()},
    }
    answer = await _run_worker(job, seconds + len(legs) / DIALS_A_SECOND + _GRACE_S)
    reports = [
        LegReport(**{**leg, "heard": tuple(HeardPrompt(**heard) for heard in leg["heard"])}) for leg in answer["legs"]
    ]
    return LoadReport(**{**answer, "legs": tuple(reports)})


async def _run_worker(job: Mapping[str, Any], ceiling_s: float) -> dict[str, Any]:
    root = str(Path(ivr.__file__).parent.parent)
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ivr.bench_load"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        async with asyncio.timeout(ceiling_s):
            process.stdin.write(json.dumps(job).encode() + b"\n")
            await process.stdin.drain()
            # stdin stays open: its end is how the worker learns that we are gone.
            out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
            await process.wait()
    except TimeoutError as exc:
        raise FirmlineError("the load did not finish in time") from exc
    finally:
        process.stdin.close()
        if process.returncode is None:
            try:  # without its parent it hangs up its legs and ends
                await asyncio.wait_for(process.wait(), _FAREWELL_S)
            except TimeoutError:
                process.kill()
                await process.wait()
    if process.returncode != 0:
        raise FirmlineError(f"the load failed: {err.decode(errors='replace').strip()[-500:]}")
    answer: dict[str, Any] = json.loads(out)
    return answer


# --- in the worker process --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Leg:
    """One leg's socket, place in its clips, and what it received."""

    spec: LoadLeg
    noise: bytes
    clips: list[tuple[int, bytes]]
    sock: socket.socket
    packet: bytearray = field(default_factory=lambda: bytearray(pack(0, False, 0, 0, 0, _SILENT)))
    frame: int = 0
    start_ms: int | None = None
    sending: bool = False
    call_id: str = ""
    hung_up: bool = False
    received: list[tuple[int, bytes]] = field(default_factory=list)
    _clip: bytes = b""
    _at: int = 0

    def answered(self, port: int, call_id: str) -> None:
        """Audio goes to that port from the next slot on."""
        self.call_id = call_id
        self.sock.connect((_LOOPBACK, port))
        self.sending = True

    def send(self, number: int, due_ms: int) -> None:
        """The next frame; ``number`` tells this leg's stream from others."""
        if self.start_ms is None:
            self.start_ms = due_ms
        frame = self.frame
        self.frame += 1
        if self.clips and frame >= self.clips[0][0]:
            self._clip, self._at = self.clips.pop(0)[1], 0
        if self._at < len(self._clip):
            payload = self._clip[self._at : self._at + FRAME_OCTETS]
            self._at += FRAME_OCTETS
        else:
            at = frame * FRAME_OCTETS % len(self.noise)
            payload = self.noise[at : at + FRAME_OCTETS]
        _HEADER.pack_into(self.packet, 0, 0x80, 0, frame & 0xFFFF, frame * FRAME_OCTETS & 0xFFFFFFFF, number + 1)
        self.packet[HEADER_OCTETS:] = payload
        with contextlib.suppress(ConnectionRefusedError, BlockingIOError):
            self.sock.send(self.packet)

    def receive(self, buffer: memoryview) -> None:
        """Keep what has come, with its time."""
        while True:
            try:
                size = self.sock.recv_into(buffer)
            except (BlockingIOError, ConnectionRefusedError):
                return
            packet = parse(buffer[:size])
            if hasattr(packet, "payload"):
                self.received.append((monotonic_ms(), packet.payload))

    def report(self, prompts: Mapping[str, Pcm]) -> LegReport:
        """What became of it; prompts looked for."""
        heard = [each for stretch in _stretches(self.received) for each in _name_prompts(stretch, prompts)]
        return LegReport(self.spec.call_ref, self.spec.side, self.start_ms, self.frame, self.hung_up, tuple(heard))


def _stretches(received: Sequence[tuple[int, bytes]]) -> list[list[tuple[int, bytes]]]:
    """Packets that follow each other without a gap; silence alone (a keepalive) is none."""
    found: list[list[tuple[int, bytes]]] = []
    for at_ms, payload in received:
        if not found or at_ms - found[-1][-1][0] > _GAP_MS:
            found.append([])
        found[-1].append((at_ms, payload))
    return [stretch for stretch in found if any(payload != _SILENT for _, payload in stretch)]


def _name_prompts(stretch: Sequence[tuple[int, bytes]], prompts: Mapping[str, Pcm]) -> list[HeardPrompt]:
    first_ms = stretch[0][0]
    samples = decode(b"".join(payload for _, payload in stretch), Law.PCMU)
    roomy = np.pad(samples, RATE_HZ * _ROOM_MS // 1000)
    found = [
        HeardPrompt(name, max(first_ms, first_ms + hit.offset_ms - _ROOM_MS), hit.score)
        for name, prompt in prompts.items()
        for hit in find_prompt(roomy, prompt, RATE_HZ)
    ]
    return sorted(found, key=lambda each: each.first_ms) or [HeardPrompt(None, first_ms)]


class _Sender:
    """All legs of one run."""

    def __init__(self, job: Mapping[str, Any], folder: Path, gone: threading.Event) -> None:
        clips = {name: _whole_frames(base64.b64decode(text)) for name, text in job["clips"].items()}
        self.legs = []
        for spec in job["legs"]:
            leg = LoadLeg(**{**spec, "clips": tuple((at, name) for at, name in spec["clips"])})
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((_LOOPBACK, 0))
            sock.setblocking(False)
            said = sorted((at, clips[name]) for at, name in leg.clips)
            self.legs.append(_Leg(leg, clips["noise"], said, sock))
        self.late_ms: list[float] = []
        self._folder, self._gone = folder, gone
        self._log: Any = None
        self._sip_port = _free_port()
        self._slots = [
            [each for each in enumerate(self.legs) if each[0] % (PTIME_MS // SLOT_MS) == slot]
            for slot in range(PTIME_MS // SLOT_MS)
        ]

    def run(self, target: str, seconds: float) -> str:
        """Dial all legs, send until SIPp is done with them; returns its complaints."""
        sipp = self._dial(target, seconds)
        poll = select.epoll()
        by_fd = {leg.sock.fileno(): leg for leg in self.legs}
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        buffer = memoryview(bytearray(2048))
        slot, began_ms = 0, monotonic_ms()
        try:
            while sipp.poll() is None and not self._gone.is_set():
                due_ms = began_ms + slot * SLOT_MS
                wait_until_ms(due_ms)
                self.late_ms.append(monotonic_ns() / 1e6 - due_ms)
                for number, leg in self._slots[slot % len(self._slots)]:
                    if leg.sending:
                        leg.send(number, due_ms)
                for fd, _ in poll.poll(0):
                    by_fd[fd].receive(buffer)
                if slot % _LOG_EVERY_SLOTS == 0:
                    self._read_log()
                slot += 1
        finally:
            if sipp.poll() is None:
                self._hang_up(sipp)
            poll.close()
        self._read_log()
        return self._complaints()

    def _dial(self, target: str, seconds: float) -> subprocess.Popen[bytes]:
        scenario = (resources.files("ivr") / "data" / "bench" / "legs.xml").read_text(encoding="utf-8")
        (self._folder / "legs.xml").write_text(scenario.replace('"HOLD_MS"', f'"{round(seconds * 1000)}"'))
        rows = [
            f"{number};{leg.spec.call_ref};{leg.spec.side};{leg.spec.agent_ext};{leg.sock.getsockname()[1]}"
            for number, leg in enumerate(self.legs)
        ]
        (self._folder / "legs.csv").write_text("SEQUENTIAL\n" + "\n".join(rows) + "\n")
        count = str(len(rows))
        command = ["sipp", target, "-sf", "legs.xml", "-inf", "legs.csv", "-i", _LOOPBACK, "-p", str(self._sip_port)]
        command += ["-m", count, "-l", count, "-r", str(DIALS_A_SECOND), "-nostdin"]
        command += ["-trace_logs", "-log_file", "legs.log", "-trace_err", "-error_file", "errors.log"]
        return subprocess.Popen(
            command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _hang_up(self, sipp: subprocess.Popen[bytes]) -> None:
        """End before the time: each leg's BYE is sent as if its time were over."""
        self._read_log()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for leg in self.legs:
                if leg.sending:
                    sock.sendto(_INFO.format(call_id=leg.call_id).encode(), (_LOOPBACK, self._sip_port))
        with contextlib.suppress(subprocess.TimeoutExpired):
            sipp.wait(_FAREWELL_S / 2)
        sipp.kill()
        sipp.wait()

    def _read_log(self) -> None:
        if self._log is None:
            with contextlib.suppress(FileNotFoundError):
                self._log = open(self._folder / "legs.log")  # noqa: SIM115 (kept until the end)
        for line in self._log or ():
            what, number, port, call_id = line.split()
            leg = self.legs[int(number)]
            if what == "up":
                leg.answered(int(port), call_id)
            else:
                leg.sending, leg.hung_up = False, True

    def _complaints(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            text = (self._folder / "errors.log").read_text(errors="replace")
            return complaints(text)
        return ""


def complaints(log: str) -> str:
    """What went wrong according to SIPp's error log. That a leg's time is over is an event to it, and the only one that
    we ask for; an answer that was sent again because the machine was slow is none of ours."""
    repeated = r"[^\n]*?Dead call \S+ \(successful\), received '.*?'"
    over = r"The following events occurred:|[^\n]*?jumping to label 6"
    return re.sub(over, "", re.sub(repeated, "", log, flags=re.DOTALL)).strip()[:400]


def _whole_frames(clip: bytes) -> bytes:
    return clip + bytes([SILENCE[Law.PCMU]]) * (-len(clip) % FRAME_OCTETS)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _cpu_s() -> float:
    """Of this process and of SIPp, once that has ended."""
    mine, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + others.ru_utime + others.ru_stime


def _work(job: Mapping[str, Any], gone: threading.Event) -> dict[str, Any]:
    prompts = {
        name: np.frombuffer(base64.b64decode(text), "<i2").astype(np.int16) for name, text in job["prompts"].items()
    }
    with tempfile.TemporaryDirectory() as folder:
        sender = _Sender(job, Path(folder), gone)
        before_s, began_ms = _cpu_s(), monotonic_ms()
        errors = sender.run(job["target"], job["seconds"])
        cpu_s, calls_s = _cpu_s() - before_s, (monotonic_ms() - began_ms) / 1000
    late = sorted(sender.late_ms) or [0.0]
    return {
        "legs": [asdict(leg.report(prompts)) for leg in sender.legs],
        "cpu_s": cpu_s,
        "calls_s": calls_s,
        "late_p99_ms": round(late[int(0.99 * (len(late) - 1))], 1),
        "late_worst_ms": round(late[-1], 1),
        "errors": errors,
    }


def _worker() -> None:
    job = json.loads(sys.stdin.buffer.readline())
    gone = threading.Event()

    def watch_parent() -> None:
        sys.stdin.buffer.read()
        gone.set()

    threading.Thread(target=watch_parent, daemon=True).start()
    answer = _work(job, gone)
    if not gone.is_set():
        sys.stdout.write(json.dumps(answer))
        sys.stdout.flush()
    os._exit(0)  # the parent-watching thread sits in a blocking read


if __name__ == "__main__":
    _worker()
