"""``make screenshots``: every state of the pages, light, dark and narrow, into docs/img/ as small PNG files.

Needs Chromium and pngquant; the font is Inter where the machine has it, as on the machine that made the committed ones.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser

from ivr.log import configure_logging
from tests.web.browser import chromium
from tests.web.scenes import SCENES, Scene, pack_in
from tests.web.stage import Stage

OUT = Path(__file__).parents[2] / "docs" / "img"
MAX_BYTES = 150_000


@dataclass(frozen=True)
class Look:
    """One way to look at a page."""

    name: str
    width: int
    height: int
    colours: Literal["light", "dark"]


AGENT_LOOKS = (
    Look("", 400, 760, "light"),
    Look("-dark", 400, 760, "dark"),
    Look("-narrow", 320, 640, "light"),
)
WALL_LOOKS = (
    Look("", 1360, 800, "light"),
    Look("-dark", 1360, 800, "dark"),
    Look("-narrow", 400, 800, "light"),
)
WIDE = Look("-wide", 1100, 700, "light")


async def take(browser: Browser, name: str, scene: Scene, look: Look) -> None:
    """One picture."""
    context = await browser.new_context(
        viewport={"width": look.width, "height": look.height},
        color_scheme=look.colours,
        device_scale_factor=1.5 if look.width < 500 else 1,
        locale="en-GB",
    )
    async with Stage(pack_in(scene.mode)) as stage:
        page = await context.new_page()
        await scene.play(stage, page)
        await page.screenshot(path=OUT / f"{name}{look.name}.png", animations="disabled")
    await context.close()


def shrink(path: Path) -> None:
    """256 colours are more than these pages have."""
    subprocess.run(["pngquant", "--force", "--strip", "--speed", "1", "--output", path, path], check=True)
    if path.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{path.name} has {path.stat().st_size} bytes; at most {MAX_BYTES} are wanted")


async def main(only: list[str]) -> None:
    """Take every picture whose name begins with one of ``only``, or all."""
    if shutil.which("pngquant") is None:
        raise SystemExit("pngquant is missing: apt-get install pngquant")
    configure_logging("error", json=False, pii=False)
    OUT.mkdir(parents=True, exist_ok=True)
    async with chromium() as browser:
        for name, scene in SCENES.items():
            looks = AGENT_LOOKS if name.startswith("agent") else WALL_LOOKS
            for look in (*looks, WIDE) if name in ("agent-warned", "agent-countdown") else looks:
                if only and not f"{name}{look.name}".startswith(tuple(only)):
                    continue
                await take(browser, name, scene, look)
                shrink(OUT / f"{name}{look.name}.png")
                print(f"docs/img/{name}{look.name}.png", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
