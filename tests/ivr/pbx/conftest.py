"""A real Asterisk and real phones on loopback; without the chroot of `make pbx` these tests say so and are skipped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ivr.demo.phones import Phone
from ivr.demo.service import Row, ServiceProcess
from ivr.demo.stack import Stack
from ivr.pbx.ami import AmiClient, AmiMessage, AmiOptions
from tests.ivr.pbx.pbx_server import AMI_SECRET, AMI_USER, SIP_PASSWORD, PbxServer, find_root

CEILING_S = 15.0
STANDARD = Path(__file__).parents[3] / "policies" / "packs" / "standard.yaml"


@pytest.fixture(scope="session")
def asterisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PbxServer]:
    """One Asterisk for all tests of a session."""
    root, why = find_root()
    if root is None:
        pytest.skip(f"real Asterisk not tested: {why}")
    server = PbxServer(root, tmp_path_factory.mktemp("asterisk"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@dataclass
class Rows:
    """Journal rows as they come, and whoever waits for one."""

    rows: list[Row] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, row: Row) -> None:
        self.rows.append(row)
        self._changed.set()

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
        for old, new in (
            ("grace_ms: 4000", "grace_ms: 500"),
            ("countdown_ms: 6000", "countdown_ms: 1000"),
            ("fallbacks: [menu, hangup]", "fallbacks: []"),
        ):
            assert old in text
            text = text.replace(old, new)
        path = self.folder / "quick.yaml"
        path.write_text(text)
        return path

    async def firmline(self, **asterisk: Any) -> ServiceProcess:
        """Firmline as a process of its own, ready."""
        self.service = ServiceProcess(self.folder, overrides=self.overrides(**asterisk), on_row=self.rows.take)
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


@pytest.fixture
async def world(asterisk: PbxServer, tmp_path: Path) -> AsyncIterator[World]:
    """An Asterisk whose phones are on a stack of this test; nothing of it is left afterwards."""
    async with Stack() as stack:
        await asyncio.to_thread(asterisk.phones_at, stack.port)
        made = World(asterisk, stack, tmp_path)
        try:
            yield made
        finally:
            if made.service is not None:
                await made.service.stop()
    leftovers = await asyncio.to_thread(asterisk.channels)
    if leftovers:
        asterisk.cli("channel request hangup all")
    assert leftovers == []


def ami_options(server: PbxServer, **changes: Any) -> AmiOptions:
    return AmiOptions(
        **{"host": "127.0.0.1", "port": server.ami_port, "username": AMI_USER, "secret": AMI_SECRET, **changes}
    )


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
