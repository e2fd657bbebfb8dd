"""The agent's page beside a real call: the running service, real phones, real speech, a real browser."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from ivr.tokens import Role, TokenFile
from tests.ivr.service import LiveCall, Site
from tests.web.browser import chromium, chromium_path
from tests.web.scenes import LIVE

WITHIN_MS = 300
NOTE_WORDS = """
  window.shown = {};
  const note = () => document.querySelectorAll('#transcript .words').forEach((words) => {
    const text = words.textContent;
    if (!(text in window.shown)) window.shown[text] = Date.now();
  });
  new MutationObserver(note).observe(document, { subtree: true, childList: true, characterData: true });
"""

pytestmark = [
    pytest.mark.sip,
    pytest.mark.model,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium here: deploy/test-tools.sh installs it"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(folder: Path) -> AsyncIterator[Site]:
    """One service for the module, open at first; the last test locks it."""
    async with Site(folder, overrides={"api": {"tokens": str(folder / "tokens.json")}}) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as opened:
        yield opened


async def page_of(browser: Browser, site: Site, path: str) -> Page:
    """A page of the service that notes when it first showed each line of words."""
    page = await browser.new_page(viewport={"width": 400, "height": 760})
    await page.add_init_script(NOTE_WORDS)
    await page.goto(site.service.ready["api"] + path)
    return page


async def live_page(browser: Browser, call: LiveCall) -> Page:
    page = await page_of(browser, call.site, f"/agent/{call.ext}")
    await page.wait_for_selector(LIVE)
    await page.wait_for_selector(".keys:not([hidden])")
    return page


async def test_page_shows_words_within_300_ms_of_their_event_and_why_they_counted(site: Site, browser: Browser) -> None:
    """By the event's own time and the page's clock, on one machine; half of them at least as soon."""
    call = await site.call()
    page = await live_page(browser, call)
    await call.insulted()
    said = await call.until("utterance", side="caller")
    await call.until("rung", to="warned")
    await page.wait_for_selector("[data-rung=warned] .now")
    await page.wait_for_selector(".line[data-verdict=counted] mark")
    assert "aimed at you" in (await page.text_content(".line[data-verdict=counted] .why") or "")
    shown: dict[str, int] = await page.evaluate("window.shown")
    late = [
        shown[row["data"]["words"]] - datetime.fromisoformat(row["at"]).timestamp() * 1000
        for row in call.rows
        if row["event"] in ("partial", "utterance") and row["data"]["words"] in shown
    ]
    assert said["data"]["words"] in shown and statistics.median(late) < WITHIN_MS
    await page.close()
    await call.caller.hang_up()


async def test_warn_key_reaches_the_callers_ear_and_sparing_stops_the_ending(site: Site, browser: Browser) -> None:
    """W on the page is heard on the caller's phone; E begins an ending, P takes it back, and the two talk on."""
    call = await site.call()
    page = await live_page(browser, call)
    await page.keyboard.press("w")
    await call.until("rung", to="warned")
    await page.wait_for_selector("[data-rung=warned] .now")
    assert await call.in_ear(call.caller) == ["warning"]

    await page.keyboard.press("e")
    await page.wait_for_selector("#spare:focus")
    await call.until("signal", action="countdown")
    await page.keyboard.press("p")
    await call.until("signal", action="countdown_stopped")
    await page.wait_for_selector("[data-rung=warned] .now")
    assert await call.parties_hear_each_other()
    assert not call.count("action_requested", action="hangup") and not call.caller.over.is_set()

    await call.caller.hang_up()
    await call.until("call_ended")
    await page.wait_for_selector("text=That call was handled and logged.")
    await page.close()


async def test_token_of_another_agent_gets_403_and_sees_nothing(site: Site, browser: Browser, folder: Path) -> None:
    """Not a word, not a key, not even whether there is a call; the agent's own token sees it all, from the fragment."""
    call = await site.call()
    await call.insulted()
    await call.until("utterance", side="caller")
    tokens = TokenFile(folder / "tokens.json")
    other, mine = (tokens.add(Role.AGENT, ext, "", None, datetime.now(UTC)) for ext in ("999", call.ext))

    stranger = await browser.new_page()
    answers: list[int] = []
    stranger.on("response", lambda answer: answers.append(answer.status) if call.ext in answer.url else None)
    await stranger.goto(f"{site.service.ready['api']}/agent/{call.ext}#token={other}")
    await stranger.wait_for_selector("body[data-link=forbidden]")
    assert 403 in answers and "token" not in stranger.url
    assert await stranger.locator(".line").count() == 0 and not await stranger.is_visible("#keys")

    own = await browser.new_page()
    await own.goto(f"{site.service.ready['api']}/agent/{call.ext}#token={mine}")
    await own.wait_for_selector(LIVE)
    await own.wait_for_selector(".keys:not([hidden])")
    assert own.url.endswith(f"/agent/{call.ext}")

    nobody = await browser.new_page()
    await nobody.goto(f"{site.service.ready['api']}/agent/{call.ext}")
    await nobody.wait_for_selector("#sign-in:not([hidden])")
    await nobody.fill("#token", mine)
    await nobody.keyboard.press("Enter")
    await nobody.wait_for_selector(".keys:not([hidden])")
    await asyncio.gather(*(page.close() for page in (stranger, own, nobody)))
    await call.caller.hang_up()
