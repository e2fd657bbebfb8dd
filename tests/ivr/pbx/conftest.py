"""A real Asterisk and real phones on loopback; without the chroot of `make pbx` these tests say so and are skipped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ivr.demo.stack import Stack
from tests.ivr.pbx.beside import World
from tests.ivr.pbx.pbx_server import PbxServer, find_root


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
