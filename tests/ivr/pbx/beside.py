"""What the tests on a real Asterisk are made of: a world of phones and a PBX, Firmline as a process or in parts."""

from __future__ import annotations

import asyncio
import contextlib
import re
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from audio.types import AudioFrame, Pcm
from ivr.demo.phones import Phone
from ivr.demo.service import Row, ServiceProcess
from ivr.demo.stack import RATE_HZ, Stack
from ivr.lines.base import Leg, LineOptions, LineStatus, RegistrationState
from ivr.lines.pyvoip import PyvoipLine
from ivr.pbx.ami import AmiClient, AmiMessage, AmiOptions
from ivr.pbx.asterisk import AsteriskPbx
from ivr.pbx.base import CallRef
from ivr.pbx.inquiry import AsteriskOptions
from policies.types import Key
from tests.ivr.pbx.pbx_server import AMI_SECRET, AMI_USER, SIP_PASSWORD, PbxServer

CEILING_S = 15.0
STANDARD = Path(__file__).parents[3] / "policies" / "packs" / "standard.yaml"


@dataclass
class Rows:
    """Journal rows as they come, and whoever waits for one."""

    rows: list[Row] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, row: Row) -> None:
        self.rows.append(row)
        self._changed.set()

    async def changed(self) -> None:
        """Wait for the next row."""
        self._changed.clear()
        await self._changed.wait()

    async def wait(self, event: str, times: int = 1, ceiling_s: float = CEILING_S, **data: Any) -> Row:
        """The ``times``-th row of that event whose data holds ``data``, past ones included."""
        async with asyncio.timeout(ceiling_s):
            while True:
                found = self.of(event, **data)
                if len(found) >= times:
                    return found[times - 1]
                self._changed.clear()
                await self._changed.wait()

    def of(self, event: str, **data: Any) -> list[Row]:
        return [r for r in self.rows if r["event"] == event and all(r["data"].get(k) == v for k, v in data.items())]


class World:
    """Phones, a PBX and Firmline beside it."""

    def __init__(self, server: PbxServer, stack: Stack, folder: Path) -> None:
        self.server, self.stack, self.folder = server, stack, folder
        self.rows = Rows()
        self.service: ServiceProcess | None = None

    async def phone(self, name: str) -> Phone:
        return await Phone.create(self.stack, name)

    def at_pbx(self, extension: str) -> str:
        """How a phone dials an extension of the PBX."""
        return f"sip:{extension}@127.0.0.1:{self.server.sip_port}"

    def overrides(self, **asterisk: Any) -> dict[str, dict[str, Any]]:
        line = {"server": "127.0.0.1", "server_port": self.server.sip_port, "password": SIP_PASSWORD}
        pbx = {
            "kind": "asterisk",
            "transfer_to": "299",
            "timeout_ms": 2000,
            "asterisk": {
                "port": self.server.ami_port,
                "username": AMI_USER,
                "secret": AMI_SECRET,
                "agents": ["201", "202"],
                "colleagues": ["299"],
                "context": "internal",
                "answer_timeout_ms": 2000,
                **asterisk,
            },
        }
        return {"line": line, "pbx": pbx, "policy": {"pack": str(self._quick_pack())}}

    def _quick_pack(self) -> Path:
        """The standard pack with short waits, whose only ending is the transfer."""
        text = STANDARD.read_text()
        for key, value in (("grace_ms", "500"), ("countdown_ms", "1000"), ("fallbacks", "[]")):
            text, found = re.subn(rf"^(  {key}:) (\[.*?\]|\d+)", rf"\g<1> {value}", text, flags=re.MULTILINE)
            assert found == 1, key
        path = self.folder / "quick.yaml"
        path.write_text(text)
        return path

    async def firmline(self, overrides: dict[str, dict[str, Any]] | None = None) -> ServiceProcess:
        """Firmline as a process of its own, ready."""
        wanted = overrides or self.overrides()
        self.service = ServiceProcess(self.folder, overrides=wanted, on_row=self.rows.take)
        await self.service.start()
        return self.service

    async def channels_settle(self, wanted: Callable[[list[str]], bool], ceiling_s: float = 5.0) -> list[str]:
        """The PBX's channels once ``wanted`` says so; fails with what they are at the ceiling."""
        names: list[str] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ceiling_s):
                while not wanted(names := await asyncio.to_thread(self.server.channels)):
                    await self.stack.clock.pause(100)
        assert wanted(names), names
        return names


def ami_options(server: PbxServer, **changes: Any) -> AmiOptions:
    return AmiOptions(
        **{"host": "127.0.0.1", "port": server.ami_port, "username": AMI_USER, "secret": AMI_SECRET, **changes}
    )


class Ears:
    """Line events of a test: answers every leg, keeps what it hears by side."""

    def __init__(self) -> None:
        self.legs: dict[str, Leg] = {}
        self.ever: list[Leg] = []
        self.heard: dict[str, list[AudioFrame]] = {}
        self.states: list[LineStatus] = []
        self._changed = asyncio.Event()

    def on_leg_offered(self, leg: Leg) -> None:
        leg.answer()

    def on_leg_up(self, leg: Leg) -> None:
        side = leg.side or ""
        self.legs[side], self.heard[side] = leg, []
        self.ever.append(leg)
        self._changed.set()

    def on_frames(self, leg: Leg, frames: Sequence[AudioFrame]) -> None:
        if self.legs.get(leg.side or "") is leg:
            self.heard[leg.side or ""] += frames
            self._changed.set()

    def on_dtmf(self, leg: Leg, digit: str, t_ms: int) -> None: ...

    def on_leg_down(self, leg: Leg, reason: str) -> None:
        if self.legs.get(leg.side or "") is leg:
            del self.legs[leg.side or ""]
        self._changed.set()

    def on_registration(self, status: LineStatus) -> None:
        self.states.append(status)
        self._changed.set()

    async def until(self, condition: Callable[[], bool], ceiling_s: float = 5.0) -> None:
        """Wait until what came so far fulfils ``condition``."""
        async with asyncio.timeout(ceiling_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def both(self) -> None:
        """Wait until both sides are tapped."""
        await self.until(lambda: set(self.legs) == {"caller", "agent"})

    def loudest_hz(self, side: str, seconds: float = 0.5) -> int:
        """The strongest frequency of the last part of what a side's leg heard."""
        frames = self.heard[side][-round(seconds * 50) :]
        wave = np.concatenate([f.samples for f in frames]).astype(float)
        return round(float(np.argmax(np.abs(np.fft.rfft(wave)))) * RATE_HZ / len(wave))


def tone(hz: int, seconds: float) -> Pcm:
    """A tone as loud as speech."""
    return (8000 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.int16)


def share_of(phone: Phone, hz: int) -> float:
    """Part of the energy that the phone heard within 20 Hz of ``hz``."""
    wave = phone.heard.pcm().astype(float)
    power = np.abs(np.fft.rfft(wave)) ** 2
    at = np.fft.rfftfreq(len(wave), 1 / RATE_HZ)
    return float(power[np.abs(at - hz) < 20].sum() / max(power.sum(), 1.0))


def line_options(server: PbxServer, **changes: Any) -> LineOptions:
    base: dict[str, Any] = {
        "server": "127.0.0.1",
        "server_port": server.sip_port,
        "username": "firmline",
        "password": SIP_PASSWORD,
        "auth_user": "firmline",
        "local_ip": "127.0.0.1",
        "local_port": 0,
        "rtp_port_low": 0,
        "rtp_port_high": 0,
    }
    return LineOptions(**{**base, **changes})


class Beside:
    """Line and attachment in this process, beside the PBX: what the service is made of, without its ears."""

    def __init__(self, world: World, **changes: Any) -> None:
        self.world, self.ears = world, Ears()
        self.line = PyvoipLine(line_options(world.server))
        base: dict[str, Any] = {
            "ami": ami_options(world.server),
            "tap_endpoint": "firmline",
            "agents": ("201", "202"),
            "colleagues": ("299",),
            "context": "internal",
            "answer_ms": 1500,
            "pause_ms": 60_000,
        }
        self.options = AsteriskOptions(**{**base, **changes})
        self.pbx = AsteriskPbx(self.options)
        self.over: list[str] = []
        self.pbx.on_call_over = self.over.append
        self.keys: list[tuple[str, str, Key]] = []
        self.key_pressed = asyncio.Event()
        self.pbx.on_phone_key = self._key
        self.pbx.on_connected = self.line.register_again
        self.pbx.on_standing_by = lambda: self.line.stand_back("standing by")

    def _key(self, call_ref: str, agent_ext: str, key: Key) -> None:
        self.keys.append((call_ref, agent_ext, key))
        self.key_pressed.set()

    async def __aenter__(self) -> Beside:
        await self.line.start(self.ears)
        await self.ears.until(lambda: self.line.status().registration is RegistrationState.REGISTERED)
        await self.pbx.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.pbx.stop()
        await self.line.stop()

    @property
    def call(self) -> CallRef:
        """The call that is tapped."""
        leg = self.ears.legs["caller"]
        return CallRef(leg.call_ref or "", leg.headers["x-firmline-agent"])


@contextlib.asynccontextmanager
async def manager(
    options: AmiOptions, on_event: Callable[[AmiMessage], None] = lambda _m: None
) -> AsyncIterator[AmiClient]:
    """A logged-in client."""
    up = asyncio.Event()

    async def logged_in() -> None:
        up.set()

    client = AmiClient(options, on_event=on_event, on_up=logged_in)
    client.start()
    try:
        async with asyncio.timeout(CEILING_S):
            await up.wait()
        yield client
    finally:
        await client.stop()


@contextlib.asynccontextmanager
async def mute_phone(world: World) -> AsyncIterator[None]:
    """A phone at 203 that answers and sends no packet of sound at all: sipp's own callee."""
    where = ("-i", "127.0.0.1", "-p", str(world.server.mute_port))
    phone = await asyncio.create_subprocess_exec(
        *("sipp", "-sn", "uas", *where, "-nostdin"), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, cwd=world.folder
    )
    try:
        yield
    finally:
        phone.kill()
        await phone.wait()


async def talking(world: World, *names: str, target: str = "201") -> list[Phone]:
    """Phones; the first one has called ``target``, and the second one has answered."""
    phones = [await world.phone(name) for name in names]
    await phones[0].dial(world.at_pbx(target))
    await asyncio.wait_for(phones[1].in_call.wait(), 3)
    return phones


async def say(phone: Phone, hz: int) -> None:
    """Two seconds of a tone."""
    await phone.say(tone(hz, 2))


class Forwarder:
    """The manager interface at another port, under another banner if one is given; it can be cut."""

    def __init__(self, port: int, to_port: int, banner: bytes = b"") -> None:
        self._port, self._to_port, self._banner = port, to_port, banner
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Forwarder:
        await self.mend()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Let connections in."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)

    async def cut(self) -> None:
        """End every connection, and take no new one."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_pbx, to_pbx = await asyncio.open_connection("127.0.0.1", self._to_port)
        banner = await from_pbx.readline()
        writer.write(self._banner or banner)
        await asyncio.gather(self._pump(reader, to_pbx), self._pump(from_pbx, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()
        self._writers.discard(writer)
