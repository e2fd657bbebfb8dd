"""Peers for the line's conformance suite: a recorder of its events, a SIP peer made of plain bytes, sipp, a softphone.

Every engine that is added to ``ENGINES`` is run through the whole suite.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from audio.types import AudioFrame
from ivr.lines.base import Leg, LineOptions, LineStatus
from ivr.lines.pyvoip import PyvoipLine
from ivr.lines.transactions import Timers

ENGINES = {"pyvoip": PyvoipLine}
CEILING_S = 5.0
SCENARIOS = Path(__file__).parents[2] / "data" / "sipp"
SOFTPHONE = Path(__file__).parent / "softphone.py"

FAST = Timers(
    t1_ms=20, t2_ms=80, t4_ms=100, ring_ms=20, no_answer_ms=60_000, retry_min_ms=40, retry_max_ms=160, stop_ms=100
)
"""RFC 3261's timers at a twenty-fifth: 64*T1 is 1.28 s."""

OFFER = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\n"
)


class Events:
    """Records what a line tells its owner; ``decide`` is what the owner does with an offered leg."""

    def __init__(self, decide: Callable[[Leg], None] | None = None) -> None:
        self.decide = decide if decide is not None else (lambda leg: leg.answer())
        self.seen: list[tuple[str, Any]] = []
        self.legs: list[Leg] = []
        self.frames = 0
        self._waiting: list[tuple[str, int, asyncio.Future[Any]]] = []

    def _note(self, name: str, value: Any) -> None:
        self.seen.append((name, value))
        for item in list(self._waiting):
            if item[0] == name and self.count(name) >= item[1] and not item[2].done():
                item[2].set_result(value)
                self._waiting.remove(item)

    def count(self, name: str) -> int:
        return sum(1 for kind, _ in self.seen if kind == name)

    def values(self, name: str) -> list[Any]:
        return [value for kind, value in self.seen if kind == name]

    async def wait(self, name: str, times: int = 1) -> Any:
        """The value of the ``times``-th event of that name."""
        if self.count(name) >= times:
            return self.values(name)[times - 1]
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((name, times, future))
        return await asyncio.wait_for(future, CEILING_S)

    def on_leg_offered(self, leg: Leg) -> None:
        self.legs.append(leg)
        self._note("offered", leg)
        self.decide(leg)

    def on_leg_up(self, leg: Leg) -> None:
        self._note("up", leg)

    def on_frames(self, leg: Leg, frames: Sequence[AudioFrame]) -> None:
        self.frames += len(frames)
        self._note("frames", frames)

    def on_dtmf(self, leg: Leg, digit: str, t_ms: int) -> None:
        self._note("dtmf", digit)

    def on_leg_down(self, leg: Leg, reason: str) -> None:
        self._note("down", reason)

    def on_registration(self, status: LineStatus) -> None:
        self._note(f"registration:{status.registration.value}", status)
        self._note("registration", status)


def options(**changes: Any) -> LineOptions:
    base: dict[str, Any] = {
        "server": "",
        "server_port": 5060,
        "username": "firmline",
        "password": "secret",
        "auth_user": "",
        "local_ip": "127.0.0.1",
        "local_port": 0,
        "rtp_port_low": 0,
        "rtp_port_high": 0,
    }
    return LineOptions(**{**base, **changes})


@dataclass
class Reply:
    """A message as the peer got it."""

    start: str
    headers: list[tuple[str, str]]
    body: str
    source: tuple[str, int]

    @property
    def status(self) -> int:
        return int(self.start.split()[1]) if self.start.startswith("SIP/2.0") else 0

    @property
    def method(self) -> str:
        return "" if self.status else self.start.split()[0]

    def all(self, name: str) -> list[str]:
        return [v for k, v in self.headers if k.lower() == name.lower()]

    def get(self, name: str) -> str:
        return (self.all(name) or [""])[0]

    @property
    def cseq(self) -> str:
        return self.get("CSeq")

    @property
    def to_tag(self) -> str:
        return self.get("To").partition(";tag=")[2]


class Peer(asyncio.DatagramProtocol):
    """A SIP peer made of plain bytes, so that a test decides every one of them."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.inbox: list[Reply] = []
        self._waiting: list[tuple[Callable[[Reply], bool], asyncio.Future[Reply]]] = []
        self.address = ("", 0)
        self._numbers = itertools.count(1)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.address = transport.get_extra_info("sockname")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        head, _, body = data.decode("utf-8", "replace").partition("\r\n\r\n")
        lines = head.split("\r\n")
        pairs = [(k, v.strip()) for k, _, v in (line.partition(":") for line in lines[1:])]
        reply = Reply(lines[0], pairs, body, addr)
        for item in list(self._waiting):
            if item[0](reply) and not item[1].done():
                self._waiting.remove(item)
                item[1].set_result(reply)
                return
        self.inbox.append(reply)

    def send(self, data: bytes | str) -> None:
        self.transport.sendto(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data, self.target)

    async def get(self, wanted: Callable[[Reply], bool]) -> Reply:
        for reply in self.inbox:
            if wanted(reply):
                self.inbox.remove(reply)
                return reply
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, future))
        return await asyncio.wait_for(future, CEILING_S)

    async def response(self, status: int, cseq: str = "", call_id: str = "") -> Reply:
        """The next response with that status; any other final for the same CSeq fails the test at once.

        With ``call_id`` only that dialog's: a port that was another peer's a moment ago may still get its answers.
        """

        def ours(r: Reply) -> bool:
            fits = (not cseq or r.cseq == cseq) and (not call_id or r.get("Call-ID") == call_id)
            return fits and r.status != 0 and (r.status >= 200 or r.status == status)

        reply = await self.get(ours)
        assert reply.status == status, reply.start
        return reply

    async def request(self, method: str) -> Reply:
        return await self.get(lambda r: r.method == method)

    def dialog(self, **changes: Any) -> PeerDialog:
        return PeerDialog(self, **changes)

    async def settle(self) -> None:
        """Everything sent so far has been dealt with: the answer to a later OPTIONS is here."""
        probe = self.dialog()
        probe.send("OPTIONS")
        await self.get(lambda r: r.get("Call-ID") == probe.call_id)

    async def call(self, body: str = OFFER, **changes: Any) -> PeerDialog:
        """INVITE, 200, ACK."""
        dialog = self.dialog(**changes)
        dialog.send("INVITE", body=body)
        dialog.learn(await self.response(200, f"{dialog.cseq} INVITE"))
        dialog.ack()
        return dialog


@dataclass
class PeerDialog:
    """The peer's half of a dialog."""

    peer: Peer
    headers: tuple[str, ...] = ()
    call_id: str = field(default_factory=lambda: secrets.token_hex(8))
    tag: str = field(default_factory=lambda: secrets.token_hex(4))
    to_tag: str = ""
    cseq: int = 0
    via_host: str = ""
    branch: str = ""
    answer: Reply | None = None

    def learn(self, reply: Reply) -> None:
        self.to_tag, self.answer = reply.to_tag, reply

    def text(
        self,
        method: str,
        *,
        body: str = "",
        headers: Sequence[str] = (),
        cseq: int | None = None,
        branch: str = "",
        tag: str | None = None,
        to_tag: str | None = None,
        kind: str = "application/sdp",
    ) -> str:
        if cseq is None:
            self.cseq += 1
            cseq = self.cseq
        self.branch = branch or f"z9hG4bK{secrets.token_hex(8)}"
        host, port = self.peer.address
        to_tag = self.to_tag if to_tag is None else to_tag
        lines = [
            f"{method} sip:firmline@{self.peer.target[0]}:{self.peer.target[1]} SIP/2.0",
            f"Via: SIP/2.0/UDP {self.via_host or f'{host}:{port}'};branch={self.branch};rport",
            "Max-Forwards: 70",
            f"From: <sip:alice@{host}>;tag={self.tag if tag is None else tag}",
            f"To: <sip:firmline@{host}>" + (f";tag={to_tag}" if to_tag else ""),
            f"Call-ID: {self.call_id}",
            f"CSeq: {cseq} {method}",
            f"Contact: <sip:alice@{host}:{port}>",
            *self.headers,
            *headers,
        ]
        if body:
            lines.append(f"Content-Type: {kind}")
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body])

    def send(self, method: str, **parts: Any) -> str:
        text = self.text(method, **parts)
        self.peer.send(text)
        return text

    def ack(self, body: str = "", cseq: int | None = None, branch: str = "") -> None:
        self.send("ACK", body=body, cseq=self.cseq if cseq is None else cseq, branch=branch)

    async def ask(self, method: str, status: int, **parts: Any) -> Reply:
        """Send a request of this dialog and return the answer, which must have that status."""
        self.send(method, **parts)
        return await self.peer.response(status, f"{parts.get('cseq', self.cseq)} {method}", self.call_id)


@pytest.fixture
def options_of() -> Callable[..., LineOptions]:
    """``options_of(**changes)`` gives options on loopback without a registrar."""
    return options


@pytest.fixture
def events_of() -> Callable[..., Events]:
    """``events_of(decide)`` gives a recorder."""
    return Events


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Any:
    """Each engine in turn."""
    return ENGINES[request.param]


Started = Callable[..., Awaitable[tuple[Any, Events]]]


@pytest.fixture
async def started(engine: Any) -> AsyncIterator[Started]:
    """``await started(decide=..., **options)`` gives a running line and its events; all are stopped afterwards."""
    lines: list[Any] = []

    async def start(
        decide: Callable[[Leg], None] | None = None, timers: Timers = FAST, **changes: Any
    ) -> tuple[Any, Events]:
        line, events = engine(options(**changes), timers=timers), Events(decide)
        await line.start(events)
        lines.append(line)
        return line, events

    yield start
    for line in lines:
        await line.stop()
        assert line.counters["faults"] == 0, "a fault was caught and logged"


@pytest.fixture
async def peer_of() -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
    """``await peer_of(line)`` gives a peer on loopback; ``ip`` puts it on another loopback address."""
    peers: list[Peer] = []

    async def make(line: Any, ip: str = "127.0.0.1") -> Peer:
        loop = asyncio.get_running_loop()
        _, peer = await loop.create_datagram_endpoint(lambda: Peer(line.local_address), local_addr=(ip, 0))
        peers.append(peer)
        return peer

    yield make
    for peer in peers:
        peer.transport.close()


@pytest.fixture
def free_port() -> int:
    """A UDP port nobody holds now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def sipp(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``async with sipp("scenario.xml", line, ...)`` runs sipp; leaving waits for it and fails with its error log."""
    program = shutil.which("sipp")
    if program is None:
        pytest.fail("sipp is missing: apt-get install sip-tester")

    @asynccontextmanager
    async def run(
        scenario: str, target: tuple[str, int] | None, *extra: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        args = [program, "-sf", str(SCENARIOS / scenario), "-i", "127.0.0.1", "-m", "1", "-nostdin", "-trace_err"]
        args += ["-error_file", str(tmp_path / "errors.log"), "-timeout", "10s", "-timeout_error", *extra]
        if target is not None:
            args.append(f"{target[0]}:{target[1]}")
        process = await asyncio.create_subprocess_exec(
            *args, cwd=tmp_path, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        try:
            yield process
            _, err = await asyncio.wait_for(process.communicate(), 12)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        log = tmp_path / "errors.log"
        said = log.read_text(errors="replace") if log.exists() else err.decode(errors="replace")
        assert process.returncode == 0, f"{scenario} failed ({process.returncode}):\n{said[-3000:]}"

    yield run


@pytest.fixture
def softphone() -> Callable[..., Any]:
    """``async with softphone(target) as say``: a baresip softphone in a process of its own that obeys lines of text."""

    @asynccontextmanager
    async def run(target: tuple[str, int]) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(SOFTPHONE), f"{target[0]}:{target[1]}",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        async def say(line: str) -> str:
            stdin.write(f"{line}\n".encode())
            await stdin.drain()
            answer = await asyncio.wait_for(stdout.readline(), 15)
            return answer.decode().strip()

        try:
            assert await say("ready") == "ready"
            yield say
            assert await say("quit") == "bye"
            await asyncio.wait_for(process.wait(), 10)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    return run
