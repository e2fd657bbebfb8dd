"""The real service beside a real exchange, for tests that watch it from outside: phones, journal rows, probes.

Nothing here looks inside the service: what it did is read from the phones' ears, its journal and its HTTP answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import re
import secrets
import socket
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import numpy as np
import yaml

from audio.types import Pcm
from audio.wavio import write_wav
from ivr.demo.control import ControlServer
from ivr.demo.exchange import Exchange, ExchangeEvent, ExchangeEventKind
from ivr.demo.phones import Phone
from ivr.demo.recordings import find_prompt
from ivr.demo.service import Row, ServiceProcess
from ivr.demo.speech import line_pcm
from ivr.demo.stack import RATE_HZ, Stack
from ivr.prompts import load_catalogue

CEILING_S = 12.0
SHORT_MS = 1_600
CALLER_HZ, AGENT_HZ = 400.0, 700.0
HEARD_MS = 260
"""Of a 400 ms tone: whether the two hear each other is the question; a busy test machine slips a frame now and then."""
T = TypeVar("T")


def short_prompts(folder: Path) -> dict[str, Pcm]:
    """The beginning of each shipped prompt, written to ``folder``: the same voice, less waiting."""
    folder.mkdir(parents=True, exist_ok=True)
    catalogue = load_catalogue()
    prompts = {name: catalogue.samples(name, RATE_HZ)[: RATE_HZ * SHORT_MS // 1000] for name in catalogue}
    for name, samples in prompts.items():
        (folder / f"{name}.wav").write_bytes(write_wav(samples, RATE_HZ))
    return prompts


def quick_pack(path: Path, **ending: Any) -> Path:
    """The standard pack with short waits and its own ``ending``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    timing = {"grace_ms": 200, "countdown_ms": 2_500, "hotkey_countdown_ms": 2_500}
    pack = {"name": "quick", "extends": "standard", "timing": timing, "ending": ending}
    path.write_text(yaml.safe_dump(pack), encoding="utf-8")
    return path


async def eventually(check: Callable[[], Awaitable[T]], ceiling_s: float = CEILING_S) -> T:
    """The first true answer of ``check``, asked every 50 ms: for what another process sends no event of."""
    never = asyncio.Event()
    async with asyncio.timeout(ceiling_s):
        while not (found := await check()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(never.wait(), 0.05)
        return found


def tone(hz: float, ms: int = 400) -> Pcm:
    """A sine at 8 kHz, -16 dBov."""
    t = np.arange(RATE_HZ * ms // 1000) / RATE_HZ
    return (np.sin(2 * np.pi * hz * t) * 0.2 * 32767).astype(np.int16)


def tone_ms(samples: Pcm, hz: float) -> int:
    """How many ms of ``samples`` hold a sine of ``hz``."""
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160) / 32767
    wave = np.exp(-2j * np.pi * hz * np.arange(160) / RATE_HZ)
    return int((2 * np.abs(frames @ wave) / 160 > 0.05).sum()) * 20


class LiveCall:
    """One human call at the exchange and what the service made of it."""

    def __init__(self, site: Site, ref: str, ext: str, caller: Phone, agent: Phone) -> None:
        self.site, self.ref, self.ext = site, ref, ext
        self.caller, self.agent = caller, agent

    @property
    def rows(self) -> list[Row]:
        """Its journal rows so far, of every process that heard it."""
        began = [row for row in self.site.rows if row["event"] == "call_started"]
        mine = {row["call_id"] for row in began if row["data"].get("call_ref") == self.ref}
        return [r for r in self.site.rows if r["call_id"] in mine]

    def count(self, event: str, **data: Any) -> int:
        """How many rows of that kind with these values in ``data``."""
        return sum(_matches(row, event, data) for row in self.rows)

    async def until(self, event: str, *, times: int = 1, ceiling_s: float = CEILING_S, **data: Any) -> Row:
        """The ``times``-th row of that kind with these values in ``data``.

        Raises:
            TimeoutError: with the rows that did come.
        """
        try:
            async with asyncio.timeout(ceiling_s):
                while self.count(event, **data) < times:
                    self.site.more.clear()
                    await self.site.more.wait()
        except TimeoutError:
            story = [(r["event"], r["data"].get("why"), r["data"].get("words")) for r in self.rows[-20:]]
            raise TimeoutError(f"no {event} {data}; there were at last {story}") from None
        return [row for row in self.rows if _matches(row, event, data)][times - 1]

    async def warned(self) -> None:
        """The agent has had the warning played, and the caller has heard it."""
        await self.site.service.press(self.ext, "warn")
        await self.until("rung", to="warned")

    async def insulted(self, again: bool = False) -> None:
        """The caller turns on the agent."""
        assert await self.caller.say(line_pcm("pat_insult_again" if again else "pat_insult"))

    async def in_ear(self, phone: Phone) -> list[str]:
        """The prompts that ``phone`` has heard, in order of name."""
        await phone.wait_quiet(200, 5)
        ear = phone.heard.pcm()
        return sorted(name for name, samples in self.site.prompts.items() if find_prompt(ear, samples, RATE_HZ))

    async def parties_hear_each_other(self) -> bool:
        """Both speak now; each is heard at the other end."""
        before = len(self.caller.heard.pcm()), len(self.agent.heard.pcm())
        said = await asyncio.gather(self.caller.say(tone(CALLER_HZ)), self.agent.say(tone(AGENT_HZ)))
        await asyncio.gather(self.caller.wait_quiet(200, 5), self.agent.wait_quiet(200, 5))
        at_caller = tone_ms(self.caller.heard.pcm()[before[0] :], AGENT_HZ)
        at_agent = tone_ms(self.agent.heard.pcm()[before[1] :], CALLER_HZ)
        return all(said) and min(at_caller, at_agent) >= HEARD_MS

    async def over(self) -> None:
        """Until both phones are on the hook. Raises :class:`TimeoutError`."""
        async with asyncio.timeout(CEILING_S):
            await asyncio.gather(self.caller.over.wait(), self.agent.over.wait())


def _matches(row: Row, event: str, data: dict[str, Any]) -> bool:
    return bool(row["event"] == event and all(row["data"].get(key) == value for key, value in data.items()))


class Site:
    """An exchange, its control door and its phones, with the service beside it. ``async with Site(folder, ...)``.

    ``ending`` is that of the pack; ``control`` false leaves ``pbx.control_url`` unset.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ending: dict[str, Any] | None = None,
        control: bool = True,
        overrides: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        self.more = asyncio.Event()
        self.prompts = short_prompts(folder / "prompts")
        pack = quick_pack(folder / "quick.yaml", **(ending or {"kind": "transfer", "fallbacks": []}))
        self.overrides: dict[str, dict[str, Any]] = {
            "policy": {"pack": str(pack)},
            "prompts": {"directory": str(folder / "prompts")},
            **(overrides or {}),
        }
        self._control = control
        self._numbers = itertools.count(1)
        self._exits = AsyncExitStack()
        self.http = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=20), timeout=CEILING_S)

    async def __aenter__(self) -> Site:
        await self._exits.enter_async_context(self.http)
        self.stack = await self._exits.enter_async_context(Stack())
        self.exchange = Exchange(self.stack)
        await self.exchange.start()
        self._exits.push_async_callback(self.exchange.stop)
        self.control_url = ""
        if self._control:
            self.control_url = (await self._exits.enter_async_context(ControlServer(self.exchange))).url
        self.service = self.new_service()
        self._exits.push_async_callback(self._stop_service)
        await self.service.start()
        self.exchange.firmline_uri = self.service.uri
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exits.aclose()

    async def _stop_service(self) -> None:
        await self.service.stop()

    def new_service(self) -> ServiceProcess:
        """A service of this site, not started."""
        return ServiceProcess(
            self.folder / "service", control_url=self.control_url, overrides=self.overrides, on_row=self._row
        )

    async def restart(self) -> None:
        """A new process in the dead one's place: same ports, same journal."""
        sip, api = int(self.service.uri.rpartition(":")[2]), int(self.service.ready["api"].rpartition(":")[2])
        self.overrides = {
            **self.overrides,
            "line": {**self.overrides.get("line", {}), "local_port": sip},
            "api": {"port": api},
        }
        await self.service.stop()
        self.service = self.new_service()
        await self.service.start()

    async def ensure_service(self) -> None:
        """A new process if an earlier test ended the last one."""
        if not alive(self.service.pid):
            await self.restart()

    def _row(self, row: Row) -> None:
        self.rows.append(row)
        self.more.set()

    async def phone(self, name: str) -> Phone:
        """A phone with a name of its own."""
        return await Phone.create(self.stack, f"{name}{next(self._numbers)}")

    async def call(self) -> LiveCall:
        """A new caller and a new agent, talking, with both sides tapped and heard by the service."""
        caller, agent = await self.phone("caller"), await self.phone("agent")
        ext = str(200 + next(self._numbers))
        number = await self.exchange.add_extension(ext, agent.uri)
        taps, bridged = asyncio.Semaphore(0), asyncio.Event()
        refs: list[str] = []

        def watch(event: ExchangeEvent) -> None:
            if event.kind is ExchangeEventKind.CALL_RINGING and event.detail == ext:
                refs.append(event.call)
            elif event.kind is ExchangeEventKind.TAP_UP and event.call in refs:
                taps.release()
            elif event.kind is ExchangeEventKind.CALL_BRIDGED and event.call in refs:
                bridged.set()

        unwatch = self.exchange.watch(watch)
        try:
            async with asyncio.timeout(CEILING_S):
                await caller.dial(number)
                await bridged.wait()
                await taps.acquire()
                await taps.acquire()
        finally:
            unwatch()
        call = LiveCall(self, refs[0], ext, caller, agent)
        await call.until("leg_up", times=2)
        return call

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of one metric that have these labels."""
        page = (await self.get("/metrics")).text
        samples = [line for line in page.splitlines() if re.match(rf"{name}[{{ ]", line)]
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(float(line.rpartition(" ")[2]) for line in samples if all(each in line for each in wanted))

    async def counter(self, name: str, what: str) -> float:
        """One of an engine's own totals."""
        page = (await self.get("/metrics")).text
        found = re.search(rf'firmline_{name}_total{{what="{what}"}} (\S+)', page)
        return float(found[1]) if found else 0.0

    async def get(self, path: str) -> httpx.Response:
        """GET from the API."""
        return await self.http.get(f"{self.service.ready['api']}{path}")

    async def post(self, path: str, **headers: str) -> httpx.Response:
        """POST to the API."""
        return await self.http.post(f"{self.service.ready['api']}{path}", headers=headers)

    async def well(self) -> bool:
        """No fault was caught anywhere inside the service."""
        faults = await self.metric("firmline_internal_errors_total") + await self.counter("sip", "faults")
        return faults + await self.counter("sip", "owner_faults") == 0

    def log(self) -> str:
        """What the service logged."""
        return (self.folder / "service" / "firmline.log").read_text(encoding="utf-8", errors="replace")

    def stored(self, ref: str) -> list[tuple[str, str]]:
        """``(event, at)`` of a call as the journal file has them; read by SQLite itself."""
        with contextlib.closing(sqlite3.connect(self.folder / "service" / "journal.db", timeout=5)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            query = "SELECT event, at FROM events e JOIN calls c ON c.id = e.call_id WHERE call_ref = ? ORDER BY e.id"
            return list(db.execute(query, (ref,)))


# --- the process from outside -----------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """Process ids of the live children."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            fields = Path(f"/proc/{int(entry)}/stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry))
    return found


def alive(pid: int) -> bool:
    """Whether that process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def open_files(pid: int) -> int:
    """How many file descriptors it holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def named_files(pid: int) -> Counter[str]:
    """What its file descriptors are: paths, and kinds where there is no path (``socket``, ``anon_inode``)."""
    names: Counter[str] = Counter()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            names[os.readlink(f"/proc/{pid}/fd/{entry}").partition(":[")[0]] += 1
    return names


def first_free_file(pid: int) -> int:
    """The number of the next file descriptor it would get: as a limit, it leaves room for none."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in itertools.count() if number not in used)


def threads(pid: int) -> int:
    """How many threads it has."""
    return len(os.listdir(f"/proc/{pid}/task"))


def resident_kb(pid: int) -> int:
    """Its resident memory."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]


def udp_ports(pid: int) -> set[int]:
    """The UDP ports it has bound."""
    inodes = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(f"/proc/{pid}/fd/{entry}").removeprefix("socket:[").removesuffix("]"))
    lines = Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]
    return {int(line.split()[1].rpartition(":")[2], 16) for line in lines if line.split()[9] in inodes}


class Registrar(asyncio.DatagramProtocol):
    """A registrar that says nothing, or accepts whoever knows its password (RFC 2617, by its own arithmetic)."""

    def __init__(self) -> None:
        self.silent = True
        self.password = ""
        self.asked = 0
        self._nonce = secrets.token_hex(8)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.asked += 1
        if self.silent:
            return
        lines = [line.partition(":") for line in data.decode().split("\r\n")[1:]]
        headers = {name.lower(): value.strip() for name, _, value in lines}
        kept = [f"{name}: {headers[name]}" for name in ("via", "from", "to", "call-id", "cseq")]
        if self._knows(headers.get("authorization", "")):
            contact = [f"Contact: {headers['contact']}"] if "contact" in headers else []
            reply = ["SIP/2.0 200 OK", *kept, *contact, "Expires: 60"]
        else:
            challenge = f'WWW-Authenticate: Digest realm="pbx", nonce="{self._nonce}"'
            reply = ["SIP/2.0 401 Unauthorized", *kept, challenge]
        self.transport.sendto("\r\n".join([*reply, "Content-Length: 0", "", ""]).encode(), addr)

    def _knows(self, authorization: str) -> bool:
        said = {k: v.strip('"') for k, v in re.findall(r'(\w+)=("[^"]*"|[^,\s]+)', authorization)}
        if not said:
            return False
        secret = _md5(f"{said['username']}:pbx:{self.password}")
        return bool(said["response"] == _md5(f"{secret}:{self._nonce}:{_md5('REGISTER:' + said['uri'])}"))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def free_tcp_port() -> int:
    """A port on loopback that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
