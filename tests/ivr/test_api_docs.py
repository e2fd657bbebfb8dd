"""docs/api.md against a live service with tokens: every line in it works, and it leaves nothing out."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ivr.demo.service import ServiceProcess
from ivr.tokens import Role, TokenFile
from ivr.types import JournalEvent, LiveEvent
from tests.ivr.service import LiveCall, Site, eventually

DOCS = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
NOW = datetime(2026, 1, 1, tzinfo=UTC)

pytestmark = [pytest.mark.sip, pytest.mark.slow]


class GuardedSite(Site):
    """A site whose service wants tokens; its own watching has one of ops."""

    def __init__(self, folder: Path) -> None:
        file = TokenFile(folder / "tokens.json")
        self.ops = file.add(Role.OPS, None, "", None, NOW)
        self.agent = file.add(Role.AGENT, "nobody", "", None, NOW)
        super().__init__(folder, overrides={"api": {"tokens": str(file.path)}})
        self.http.headers["Authorization"] = f"Bearer {self.ops}"

    def new_service(self) -> ServiceProcess:
        service = super().new_service()
        service.token = self.ops
        return service


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[GuardedSite]:
    async with GuardedSite(tmp_path) as running:
        yield running


def blocks(language: str) -> list[str]:
    """The code of that language, block by block."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)


def environment(site: GuardedSite, call_id: str) -> dict[str, str]:
    """As the page says to set it; curl fails on any refusal."""
    (site.folder / ".curlrc").write_text("fail\nsilent\nshow-error\nmax-time = 10\n")
    settings = {"FIRMLINE": site.service.ready["api"], "TOKEN": site.ops, "CALL": call_id}
    return {**os.environ, **settings, "CURL_HOME": str(site.folder), "PYTHONPATH": ""}


async def run(line: str, env: dict[str, str]) -> str:
    """One line of the page, as somebody pastes it."""
    shell = await asyncio.create_subprocess_exec(
        "bash", "-c", line, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await shell.communicate()
    assert shell.returncode == 0, f"{line}: {err.decode()} {out.decode()}"
    return out.decode()


async def call_id_of(site: GuardedSite, call: LiveCall) -> str:
    """Our id of a live call."""
    return next(str(each["id"]) for each in (await site.get("/api/calls")).json() if each["call_ref"] == call.ref)


async def test_every_line_of_the_page_works_and_take_over_reaches_the_supervisor(site: GuardedSite) -> None:
    """Each curl line is answered with success; the last one brings the caller to extension 305."""
    boss = await site.phone("boss")
    await site.exchange.add_extension("305", boss.uri)
    call = await site.call()
    env = environment(site, await call_id_of(site, call))
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) >= 15 and all(line.startswith("curl ") for line in lines)
    watching = await asyncio.create_subprocess_exec(
        sys.executable, "-c", blocks("python")[0], env=env, stdout=asyncio.subprocess.PIPE
    )
    assert watching.stdout is not None
    page = (await site.get("/metrics")).text
    assert "firmline_calls_live 1.0" in page
    for line in lines:
        await run(line.replace("/agents/201/", f"/agents/{call.ext}/"), env)
    seen = await asyncio.wait_for(watching.stdout.readline(), 10)
    watching.kill()
    await watching.wait()
    assert seen.decode().startswith(env["CALL"])
    done = await call.until("action_done", action="transfer")
    assert done["data"]["target"] == "305" and done["data"]["mode"] == "full"
    assert call.count("hotkey", key="transfer", by="ops") == 1
    incidents = (await eventually(lambda: _incidents(site)))[0]
    assert incidents["call_ref"] == call.ref and incidents["outcome"] == "transfer"
    assert await site.well()


async def _incidents(site: GuardedSite) -> list[dict[str, object]]:
    found = (await site.get("/api/incidents")).json()["incidents"]
    return [each for each in found if each["outcome"] == "transfer"]


def test_page_names_every_path_event_and_setting() -> None:
    """Nothing that can be asked or heard is left out."""
    from ivr.api.app import create_app
    from ivr.api.feed import EventFeed
    from ivr.metrics import Metrics

    app = create_app(None, Metrics("1"), EventFeed(), desk=object())  # type: ignore[arg-type]
    for path in app.openapi()["paths"]:
        assert path in DOCS, path
    for event in (*JournalEvent, *LiveEvent):
        assert f"`{event.value}`" in DOCS, event
    for setting in ("api.tokens", "api.tls_cert", "api.tls_key", "api.trusted_proxies", "api.public_hosts"):
        assert setting in DOCS
