"""Every state of the pages, brought about by what callers say and people press; pictures and checks share them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from playwright.async_api import Page

from ivr.judge import load_pack
from policies.pack import Mode, Pack
from policies.types import Hotkey, Key
from tests.web.stage import Stage, StagedCall

AGENT, WALL = "/agent/201", "/supervisor"
LIVE = "body[data-link=live]"

ORDER = "Hello. I ordered a router two weeks ago and it still has not come."
MONDAY = "I stayed at home on Monday and nobody came, nobody even rang."
SWEARS = "This shit router of yours has cost me two days."
INSULT = "You are a useless idiot, you know that?"
AGAIN = "You people are idiots, you stupid moron."
THREAT = "I will find you and hurt you."
DANGER = "I cannot go on like this, I want to kill myself."


def pack_in(mode: Mode) -> Pack:
    """The standard pack in another mode."""
    pack = load_pack("standard")
    return replace(pack, spec=pack.spec.model_copy(update={"mode": mode}))


async def _talking(stage: Stage, ext: str = "201") -> StagedCall:
    call = stage.call(ext, seconds_ago=84, queue="Broadband", number="+44 20 7946 0958")
    await call.says(ORDER)
    await call.says(MONDAY)
    return call


async def idle(stage: Stage, page: Page) -> None:
    await page.wait_for_selector("text=No call")


async def listening(stage: Stage, page: Page) -> None:
    call = await _talking(stage)
    call.half_said("so when exactly will somebody")
    await page.wait_for_selector("text=so when exactly")


async def cues(stage: Stage, page: Page) -> None:
    call = await _talking(stage)
    await call.shouts()
    await page.wait_for_selector("text=Reflect it back")
    await page.wait_for_selector("#now-title >> text=The caller is shouting")


async def speaking(stage: Stage, page: Page) -> None:
    call = await _talking(stage)
    await call.says(INSULT, prompt_ends=False)
    await page.wait_for_selector("text=Firmline is speaking")


async def warned(stage: Stage, page: Page) -> None:
    call = await _talking(stage)
    await call.says(SWEARS)
    await call.says(INSULT)
    call.half_said("all right, all right, I only")
    await page.wait_for_selector("[data-rung=warned] .now")
    await page.wait_for_selector("text=I only")


async def countdown(stage: Stage, page: Page) -> None:
    call = await _talking(stage)
    await call.says(INSULT)
    await call.says(AGAIN, prompt_ends=False)
    await page.wait_for_selector(".countdown:not([hidden])")


async def safeguard(stage: Stage, page: Page) -> None:
    call = await _talking(stage)
    await call.says(DANGER)
    await page.wait_for_selector("[data-rung=disarmed] .now")


async def after(stage: Stage, page: Page) -> None:
    call = await _talking(stage)
    await call.says(INSULT)
    await page.wait_for_selector("[data-rung=warned] .now")
    call.ends()
    await page.wait_for_selector("text=handled and logged")


async def suggestion(stage: Stage, page: Page) -> None:
    call = await _talking(stage)
    await call.says(INSULT)
    await page.wait_for_selector("text=Shall Firmline")


async def trial(stage: Stage, page: Page) -> None:
    call = await _talking(stage)
    await call.says(INSULT)
    await page.wait_for_selector("#now-title >> text=Would be: Warned")
    await page.wait_for_selector("text=Would count")


async def unheard(stage: Stage, page: Page) -> None:
    await _talking(stage)
    stage.hears = False
    await page.reload()  # else the page asks every four seconds
    await page.wait_for_selector("text=does not hear calls", timeout=10_000)


async def lost(stage: Stage, page: Page) -> None:
    await warned(stage, page)
    await stage.go_dark()
    await page.wait_for_selector("text=Connection lost")


async def wall_empty(stage: Stage, page: Page) -> None:
    await page.wait_for_selector("text=No live call just now")


_LINES = (
    "Could you tell me when the engineer comes?",
    "That is far too expensive, I am really fed up.",
    "Yes, that is my address.",
    "I have been waiting for half an hour.",
    "Thank you, that helps.",
    "Why was I charged twice?",
)
_QUEUES = ("Broadband", "Billing", "Claims")


async def _floor(stage: Stage, count: int = 16) -> list[StagedCall]:
    calls = []
    for index in range(count):
        number = f"+44 20 7946 0{100 + index}"
        call = stage.call(str(201 + index), seconds_ago=40 + 37 * index, queue=_QUEUES[index % 3], number=number)
        calls.append(call)
        await call.says(_LINES[index % len(_LINES)])
    return calls


async def wall_busy(stage: Stage, page: Page) -> None:
    calls = await _floor(stage)
    await calls[5].says(SWEARS)
    await calls[8].says(THREAT)
    await calls[11].says(INSULT)
    await calls[3].says(MONDAY)
    await calls[3].says(INSULT)
    stage.calls.press(calls[13].session.id, Hotkey(Key.DISARM, "supervisor"))
    await page.wait_for_selector("#rows li >> nth=15", state="attached")
    await page.click("#rows li:has-text('204') button")
    await page.wait_for_selector("text=Extension 204")
    if await page.locator("text=Open the call").count():
        await page.click("text=Open the call")  # the threat has been seen
        await page.click("#rows li:has-text('204') button")
    await page.wait_for_selector("#incidents li >> nth=3")
    calls[3].half_said("I have told you three times")
    await page.wait_for_selector("#transcript >> text=three times")


async def wall_incident(stage: Stage, page: Page) -> None:
    calls = await _floor(stage)
    await calls[3].says(INSULT)
    await calls[5].says(SWEARS)
    await calls[9].says(DANGER)
    await page.wait_for_selector("#incidents li >> nth=2")
    await calls[3].says(AGAIN, prompt_ends=False)
    await page.wait_for_selector("text=Somebody may be in danger. Extension 210")
    await page.click("#rows li:has-text('204') button")
    await page.wait_for_selector("#chosen >> text=ends in")


Act = Callable[[Stage, Page], Awaitable[None]]


@dataclass(frozen=True)
class Scene:
    """One state of a page: where, under which pack, and what brings it about."""

    path: str
    act: Act
    mode: Mode = Mode.FULL

    async def play(self, stage: Stage, page: Page) -> None:
        """The page is open and live; afterwards it shows the state."""
        await page.goto(stage.url + self.path)
        await page.wait_for_selector(LIVE)
        await self.act(stage, page)
        await asyncio.wait_for(
            page.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"), 5
        )


SCENES: dict[str, Scene] = {
    "agent-idle": Scene(AGENT, idle),
    "agent-listening": Scene(AGENT, listening),
    "agent-cues": Scene(AGENT, cues),
    "agent-speaking": Scene(AGENT, speaking),
    "agent-warned": Scene(AGENT, warned),
    "agent-countdown": Scene(AGENT, countdown),
    "agent-safeguard": Scene(AGENT, safeguard),
    "agent-after": Scene(AGENT, after),
    "agent-suggestion": Scene(AGENT, suggestion, Mode.SUGGEST),
    "agent-trial": Scene(AGENT, trial, Mode.SHADOW),
    "agent-unheard": Scene(AGENT, unheard),
    "agent-lost": Scene(AGENT, lost),
    "wall-empty": Scene(WALL, wall_empty),
    "wall-busy": Scene(WALL, wall_busy),
    "wall-incident": Scene(WALL, wall_incident),
}
