"""What a bench leaves behind when it is stopped at the worst moment."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from ivr.bench_machine import children_of
from ivr.clock import monotonic_ms
from ivr.demo.service import ServiceProcess


async def test_service_whose_start_is_given_up_does_not_stay(tmp_path: Path) -> None:
    """Ctrl-C before the service is ready ends it; nobody else would."""
    before = set(children_of(os.getpid()))
    service = ServiceProcess(tmp_path)
    starting = asyncio.ensure_future(service.__aenter__())
    deadline_ms = monotonic_ms() + 20_000
    while not set(children_of(os.getpid())) - before and monotonic_ms() < deadline_ms:
        await asyncio.wait({starting}, timeout=0.02)
    assert not starting.done() and set(children_of(os.getpid())) - before
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert set(children_of(os.getpid())) == before
