"""Every state of the pages in a real browser: no serious accessibility fault, nothing cut off, words stay words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from policies.types import Side
from tests.web.browser import chromium, chromium_path
from tests.web.scenes import AGENT, INSULT, LIVE, SCENES, WALL, Scene, pack_in
from tests.web.stage import Stage

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
AXE_RUN = """async () => {
  const found = await axe.run(document, { resultTypes: ["violations"] });
  return found.violations.filter((v) => v.impact === "serious" || v.impact === "critical")
    .map((v) => `${v.id}: ${v.nodes.map((n) => n.html + " " + n.failureSummary).join(" | ").slice(0, 600)}`);
}"""
CUT_OFF = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
TOO_SMALL = """() => [...document.querySelectorAll("button, input:not([type=checkbox]), select, summary")]
  .map((node) => [node.id || node.textContent.trim(), node.getBoundingClientRect()])
  .filter(([, box]) => box.width > 0 && (box.height < 44 || box.width < 44)).map(([name]) => name)"""

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium here: deploy/test-tools.sh installs it"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page of its own, 320 px wide; whatever its console calls an error fails the test."""
    context = await browser.new_context(viewport={"width": 320, "height": 640}, permissions=["notifications"])
    opened = await context.new_page()
    opened.set_default_timeout(10_000)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: errors.append(said.text) if "Content Security" in said.text else None)
    yield opened
    await context.close()
    assert errors == []


@pytest_asyncio.fixture(loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with Stage() as opened:
        yield opened


async def faults(page: Page) -> list[str]:
    found: list[str] = await page.evaluate(AXE_RUN)
    return found


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core here: npm ci --prefix tests/web")
@pytest.mark.parametrize("name", SCENES)
async def test_state_is_accessible_and_whole_at_320_px(name: str, page: Page) -> None:
    """axe-core finds nothing serious, light or dark; nothing is cut off; everything to press is 44 px at least."""
    scene: Scene = SCENES[name]
    async with Stage(pack_in(scene.mode)) as stage:
        await scene.play(stage, page)
        assert await page.evaluate(CUT_OFF) <= 0
        assert await page.evaluate(TOO_SMALL) == []
        await page.evaluate(AXE.read_text(encoding="utf-8"))
        for colours in ("light", "dark"):
            await page.emulate_media(color_scheme=colours, reduced_motion="reduce")  # type: ignore[arg-type]
            assert await faults(page) == [], colours


async def test_words_of_a_caller_never_become_markup(stage: Stage, page: Page) -> None:
    """A caller, or whoever feeds the recogniser, can say anything: it is shown, letter by letter."""
    hostile = '<img src=x onerror="document.title=1"> you <b>idiot</b> </p><script>document.title=2</script>'
    await page.goto(stage.url + AGENT)
    await page.wait_for_selector(LIVE)
    call = stage.call("201")
    await call.says(hostile)
    await page.wait_for_selector("text=onerror")
    assert (await page.text_content(".line .words")) == hostile
    assert await page.locator("#transcript img, #transcript b, #transcript script").count() == 0
    assert await page.title() == "Firmline 201"


async def test_pages_allow_no_script_but_their_own(stage: Stage) -> None:
    """The headers of pages and assets; there is nothing outside the folder."""
    async with httpx.AsyncClient(base_url=stage.url, trust_env=False) as http:
        for path in (AGENT, WALL, "/assets/agent.js", "/assets/base.css"):
            answer = await http.get(path)
            policy = answer.headers["content-security-policy"]
            assert answer.status_code == 200 and "default-src 'none'" in policy and "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            again = await http.get(path, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert (await http.get("/assets/..%2fapp.py")).status_code == 404
        assert (await http.get("/agent/2%3Cscript%3E")).status_code == 422
        for path in (AGENT, WALL):
            assert "<script>" not in (await http.get(path)).text and "style=" not in (await http.get(path)).text


async def test_page_says_that_it_is_cut_off_and_comes_back_by_itself(stage: Stage, page: Page) -> None:
    """Nothing stale looks live: no clock runs, no key can be pressed, nobody speaks; then all of it is back."""
    await page.goto(stage.url + AGENT)
    await page.wait_for_selector(LIVE)
    call = stage.call("201")
    await page.wait_for_selector(".keys:not([hidden])")
    call.speaks(Side.CALLER)
    await page.wait_for_selector("#caller-speaks[data-on]")
    await stage.go_dark()
    await page.wait_for_selector("text=Connection lost")
    assert await page.locator("[data-on]").count() == 0
    assert await page.locator(".key:visible:not([aria-disabled=true])").count() == 0
    await call.says(INSULT)
    await stage.come_back()
    await page.wait_for_selector(LIVE)
    await page.wait_for_selector("[data-rung=warned] .now")
    assert await page.locator("text=Connection lost").count() == 0


async def test_keyboard_alone_warns_ends_and_spares(stage: Stage, page: Page) -> None:
    """One letter a key; the countdown takes the focus, so that Enter spares, and gives it back."""
    await page.goto(stage.url + AGENT)
    call = stage.call("201")
    await page.wait_for_selector(".keys:not([hidden])")
    await page.keyboard.press("w")
    await page.wait_for_selector("text=Firmline is speaking")
    await call.prompt_ends()
    await page.wait_for_selector("[data-rung=warned] .now")
    await page.keyboard.press("e")
    await page.wait_for_selector("#spare:focus")
    assert "Press P to spare them" in (await page.text_content("#say-now") or "")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("[data-rung=warned] .now")
    assert call.rung == "warned"
    await page.click("summary")
    await page.click("#use-shortcuts")
    await page.wait_for_selector("[data-letters=off]")
    await page.keyboard.press("w")
    assert call.session.core.playing is None


RECORD_ALERTS = """
  window.tones = 0; window.notices = [];
  const Tone = OscillatorNode;
  window.OscillatorNode = class extends Tone { constructor(...given) { super(...given); window.tones += 1; } };
  window.Notification = class {
    static permission = "granted";
    constructor(title, { body }) { window.notices.push(`${title}: ${body}`); }
  };
"""


async def test_danger_sounds_and_shows_on_the_wall(stage: Stage, page: Page) -> None:
    """One sound, one notification, one banner, one line in today's list; an insult alone rings nobody."""
    await page.add_init_script(RECORD_ALERTS)
    await page.add_init_script("localStorage.setItem('firmline.use-notices', 'on')")
    await page.goto(stage.url + WALL)
    await page.wait_for_selector(LIVE)
    await page.click("h1")
    call = stage.call("201")
    await call.says(INSULT)
    await page.wait_for_selector("#incidents >> text=Warned")
    assert await page.evaluate("[window.tones, window.notices]") == [0, []]
    await call.says("I want to kill myself.")
    await page.wait_for_selector("text=Somebody may be in danger. Extension 201.")
    assert await page.evaluate("window.tones") == 4
    assert await page.evaluate("window.notices") == ["Somebody may be in danger: Extension 201"]
    await page.wait_for_selector("#incidents >> text=Somebody may be in danger")


async def test_wall_moves_and_touches_only_what_changed(stage: Stage, page: Page) -> None:
    """A call that climbs goes to the top; no other row's element is made anew or written to."""
    await page.goto(stage.url + WALL)
    await page.wait_for_selector(LIVE)
    calls = [stage.call(str(201 + index), seconds_ago=60) for index in range(5)]
    await page.wait_for_selector("#rows li >> nth=4")
    watch: Any = """() => {
      window.before = [...document.querySelectorAll('#rows li')];
      window.touched = new Set();
      const note = (records) => records.forEach(({ target, type }) => {
        const row = (target.nodeType === 1 ? target : target.parentElement).closest('#rows li');
        const timer = (target.nodeType === 1 ? target : target.parentElement).closest('.row-timer');
        if (row && !timer) window.touched.add(row.querySelector('.row-ext').textContent);
      });
      const all = { subtree: true, childList: true, characterData: true, attributes: true };
      new MutationObserver(note).observe(document.querySelector('#rows'), all);
    }"""
    await page.evaluate(watch)
    await calls[3].says(INSULT)
    await page.wait_for_selector("#rows li:first-child[data-rung=warned]")
    assert await page.text_content("#rows li:first-child .row-ext") == "204"
    now = "[...document.querySelectorAll('#rows li')].every((row) => window.before.includes(row))"
    assert await page.evaluate(now)
    assert await page.evaluate("[...window.touched]") == ["204"]


async def test_supervisor_takes_a_call_back_down_and_disarms_it(stage: Stage, page: Page) -> None:
    """Pardon, endings off and on again from the wall, on the call that was chosen and on no other."""
    stage.config_error = "config.yaml:12: policy.pack: no such pack"
    await page.goto(stage.url + WALL)
    await page.wait_for_selector(LIVE)
    call, other = stage.call("201"), stage.call("202")
    await call.says(INSULT)
    await other.says(INSULT)
    await page.click("#rows li:has-text('201') button")
    await page.wait_for_selector("#chosen >> text=useless")
    await page.click(".action[data-key=pardon]")
    await page.wait_for_selector("#chosen[data-rung=cautioned]")
    await page.click(".action[data-key=disarm]")
    await page.wait_for_selector("#chosen[data-rung=disarmed]")
    assert (call.rung, other.rung) == ("disarmed", "warned")
    await page.wait_for_selector("text=the old ones stay in force. config.yaml:12: policy.pack: no such pack")
    await page.click(".action[data-key=arm]")
    await page.wait_for_selector("#chosen[data-rung=clear]")
