"""What the service needs is missing: registrar, control, journal. It says so, and goes on with what it has."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from ivr.demo.exchange import CallState
from ivr.demo.service import ServiceProcess
from ivr.types import JournalEvent
from tests.ivr.service import LiveCall, Registrar, Site, eventually, free_tcp_port

pytestmark = [pytest.mark.sip, pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One service for the module, without a control URL."""
    async with Site(tmp_path_factory.mktemp("site"), control=False) as opened:
        yield opened


async def checks(api: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Status and lines of ``/readyz``; 0 while nobody answers."""
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            answer = await client.get(f"{api}/readyz")
        except httpx.TransportError:
            return 0, {}
    return answer.status_code, {check["name"]: check for check in answer.json()["checks"]}


async def test_no_control_url_warns_and_tells_the_agent_when_it_would_end(site: Site) -> None:
    """Warnings only: the ending fails with the key to set, the call goes on, and the agent is told."""
    call = await site.call()
    await call.warned()
    before = await site.metric("firmline_notices_total", audience="agent")
    await call.insulted(again=True)
    failed = await call.until("action_failed", action="transfer")
    assert "pbx.control_url" in failed["data"]["error"]
    assert (await call.until("rung", cause="ending_failed"))["data"]["to"] == "warned"
    assert await site.metric("firmline_notices_total", audience="agent") > before
    assert site.exchange.calls[call.ref].state is CallState.BRIDGED and await call.parties_hear_each_other()
    await call.caller.hang_up()


async def journal_check(site: Site, ok: bool) -> str:
    """The sentence of ``/readyz`` on the journal, once it is as it should be."""

    async def look() -> str:
        status, found = await checks(site.service.ready["api"])
        right = found["journal"]["ok"] is ok and (status == 200) is ok
        return str(found["journal"]["detail"]) if right else ""

    return await eventually(look)


async def all_stored(call: LiveCall) -> bool:
    """Whether every row of the feed is in the file, in its order; live words are for the feed alone."""
    kept = [row["event"] for row in call.rows if row["event"] in set(JournalEvent)]
    return [event for event, _ in call.site.stored(call.ref)] == kept


async def test_journal_locked_during_a_call_is_told_and_caught_up(site: Site) -> None:
    """Another process holds the database: the warning comes as ever; the rows are there afterwards."""
    call = await site.call()
    with contextlib.closing(sqlite3.connect(site.folder / "service" / "journal.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await call.insulted()
        await call.until("rung", to="warned", ceiling_s=5)
        assert "locked" in await journal_check(site, ok=False)
        assert await call.in_ear(call.caller) == ["warning"]
        other.execute("ROLLBACK")
    await journal_check(site, ok=True)
    await eventually(lambda: all_stored(call))
    await call.caller.hang_up()


async def test_disk_full_during_a_call_is_told_and_caught_up(site: Site) -> None:
    """No file can grow, neither journal nor spill nor log: the warning comes as ever; the rows are there afterwards."""
    call = await site.call()
    pid = site.service.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        await call.insulted()
        await call.until("rung", to="warned", ceiling_s=5)
        assert "rows wait" in await journal_check(site, ok=False)
        assert await call.in_ear(call.caller) == ["warning"]
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
    await journal_check(site, ok=True)
    await eventually(lambda: all_stored(call))
    await call.caller.hang_up()
    assert await site.well()


async def test_registrar_silent_then_refusing_keeps_the_service_up_until_it_is_let_in(site: Site) -> None:
    """Not ready, and why, while the registrar is silent or refuses; the ready line comes with the binding."""
    loop = asyncio.get_running_loop()
    transport, registrar = await loop.create_datagram_endpoint(Registrar, local_addr=("127.0.0.1", 0))
    api = f"http://127.0.0.1:{free_tcp_port()}"
    service = ServiceProcess(
        site.folder / "registering",
        overrides={
            "line": {"server": "127.0.0.1", "server_port": registrar.port, "password": "secret"},
            "api": {"port": int(api.rpartition(":")[2])},
        },
    )
    starting = asyncio.create_task(service.start())

    async def line_says(words: str) -> bool:
        status, found = await checks(api)
        return status == 503 and words in found["line"]["detail"]

    try:
        await eventually(lambda: line_says("registering"), 20)
        registrar.silent = False
        await eventually(lambda: line_says("refused the password of firmline"))
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{api}/healthz")).status_code == 200
        log = (service.folder / "firmline.log").read_text(encoding="utf-8")
        assert "check line.username, line.auth_user and line.password" in log and "secret" not in log
        assert not starting.done(), "ready before it was registered"
        registrar.password = "secret"
        await asyncio.wait_for(starting, 10)
        assert (await checks(api))[0] == 200
    finally:
        starting.cancel()
        await service.stop()
        transport.close()
