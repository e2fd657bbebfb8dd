"""What the wall costs a frame while two hundred calls talk: a line of docs/benchmarks.md, part of ``make bench``.

The API, the feed and the page are the shipped ones; the rows are made up at the rate of busy calls: words that may
still change every 0.7 s while somebody speaks, utterances, who has the floor, and twice a second a call that climbs.
A frame's cost is the time of the main thread from the first callback of a frame until it has been laid out and painted
(a message posted in the frame is delivered after that); raster and compositing run elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys

from ivr.clock import monotonic_ms, wall_iso
from ivr.log import configure_logging
from ivr.types import JournalEvent, JournalRow, LiveEvent, LiveRow
from policies.types import Hotkey, Key
from tests.web.browser import chromium
from tests.web.scenes import LIVE, WALL
from tests.web.stage import Stage, StagedCall

CALLS = 200
FOR_S = 20
STEP_MS = 10
WORDS = "I have told you three times now that nobody came on Monday and nobody rang and I want to know why".split()
FRAMES = """() => new Promise((done) => {
  const costs = [], gaps = [], channel = new MessageChannel(), until = performance.now() + %d;
  let began = 0, last = 0;
  channel.port1.onmessage = () => costs.push(performance.now() - began);
  requestAnimationFrame(function frame(at) {
    began = performance.now();
    if (last) gaps.push(at - last);
    last = at;
    channel.port2.postMessage(0);
    if (began < until) requestAnimationFrame(frame); else done({ costs, gaps });
  });
})"""


class Crowd:
    """Calls that talk."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.rows = stage, 0
        self._dice = random.Random(7)
        self.calls = [stage.call(str(1000 + n), seconds_ago=n * 3, queue="Broadband") for n in range(CALLS)]
        self._said = dict.fromkeys(range(CALLS), 0)

    def step(self) -> None:
        """What happens within ``STEP_MS``."""
        share = STEP_MS / 1000
        for index, call in enumerate(self.calls):
            if self._dice.random() < share * 0.4 / 0.7:
                self._partial(index, call)
            if self._dice.random() < share / 6:
                self._utterance(index, call)
            if self._dice.random() < share / 3:
                self._live(call, LiveEvent.SPEAKING, side="caller", speaking=self._dice.random() < 0.5)
        if self._dice.random() < share * 2:
            key = self._dice.choice((Key.DISARM, Key.ARM, Key.END, Key.PARDON))
            self.stage.calls.press(self._dice.choice(self.calls).session.id, Hotkey(key, "ops"))
            self.rows += 3

    def _partial(self, index: int, call: StagedCall) -> None:
        self._said[index] = min(len(WORDS), self._said[index] + 2)
        said = " ".join(WORDS[: self._said[index]])
        self._live(call, LiveEvent.PARTIAL, side="caller", words=said, start_ms=0, over_prompt=False)

    def _utterance(self, index: int, call: StagedCall) -> None:
        said = " ".join(WORDS[: self._said[index] or 4])
        self._said[index], at = 0, self._at(call)
        data = {"side": "caller", "words": said, "start_ms": at, "over_prompt": False, "dropped": None}
        self.stage.feed.publish(JournalRow(call.session.id, JournalEvent.UTTERANCE, wall_iso(), at, data))
        self.rows += 1

    def _live(self, call: StagedCall, event: LiveEvent, **data: object) -> None:
        self.stage.feed.publish(LiveRow(call.session.id, event, wall_iso(), self._at(call), data))
        self.rows += 1

    @staticmethod
    def _at(call: StagedCall) -> int:
        return monotonic_ms() - call.session.core.started_ms


async def measure() -> dict[str, float]:
    """Frames of the wall, one call chosen, while the crowd talks."""
    async with Stage() as stage, chromium() as browser:
        page = await browser.new_page(viewport={"width": 1360, "height": 800})
        await page.goto(stage.url + WALL)
        await page.wait_for_selector(LIVE)
        crowd = Crowd(stage)
        await page.wait_for_selector(f"#rows li >> nth={CALLS - 1}", state="attached")
        await page.click("#rows li:nth-child(3) button")
        began, watching = crowd.rows, asyncio.create_task(page.evaluate(FRAMES % (FOR_S * 1000)))
        while not watching.done():
            crowd.step()
            await asyncio.wait({watching}, timeout=STEP_MS / 1000)
        found = watching.result()
        costs = sorted(found["costs"])
        return {
            "calls": CALLS,
            "rows_per_s": round((crowd.rows - began) / FOR_S),
            "frames": len(costs),
            "frame_ms_median": round(statistics.median(costs), 1),
            "frame_ms_p95": round(costs[int(len(costs) * 0.95)], 1),
            "frame_ms_worst": round(costs[-1], 1),
            "interval_ms_median": round(statistics.median(found["gaps"]), 1),
        }


if __name__ == "__main__":
    configure_logging("error", json=False, pii=False)
    result = asyncio.run(measure())
    print(json.dumps(result))
    sys.exit(result["frame_ms_median"] >= 16)
