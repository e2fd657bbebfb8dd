"""``firmline demo``: two live calls on this machine, end to end, every part real.

Softphones and a stand-in exchange run here; the service runs as a process of its own and is told of the calls only by
the two tap legs that the exchange dials. What should have happened is checked on the recordings of the phones.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ivr.demo.control import ControlServer
from ivr.demo.exchange import Exchange
from ivr.demo.scene import Cast, run_scene
from ivr.demo.service import Row, ServiceProcess
from ivr.demo.show import Show
from ivr.demo.speech import Script, load_script
from ivr.demo.stack import Stack
from ivr.demo.story import Reaction, Story, Verdict, verdicts
from ivr.prompts import load_catalogue

SCENES = ("abusive", "upset")


async def run_demo(out: Path, show: Show, *, speed: float = 1.0, scenes: tuple[str, ...] = SCENES) -> dict[str, Any]:
    """Play ``scenes`` and return the summary; ``summary["ok"]`` only if what should have happened did.

    ``speed`` divides the pauses between lines; speech, prompts and Firmline keep real time.

    Raises:
        FirmlineError: a phone, the exchange or the service could not be started.
    """
    catalogue, script = load_catalogue(), faster(load_script(), speed)
    judged: dict[str, list[Verdict]] = {}
    reactions: list[Reaction] = []
    story = Story()

    def on_row(row: Row) -> None:
        story.take(row)
        show.row(row, story.rung)

    try:
        async with Stack() as stack:
            exchange = Exchange(stack)
            await exchange.start()
            async with ControlServer(exchange) as control:
                show.note("starting firmline (model, SIP, HTTP) ...")
                async with ServiceProcess(out, control_url=control.url, on_row=on_row) as service:
                    show.note(f"firmline is ready at {service.uri}; the exchange dials it beside each call")
                    exchange.firmline_uri = service.uri
                    cast = await Cast.create(stack, exchange)
                    for name in scenes:
                        story = Story()
                        show.scene(name, script.scenes[name].title)
                        result = await run_scene(cast, name, out / name, story.cues, show.stage, script)
                        judged[name] = verdicts(result, story, catalogue)
                        reactions += story.reactions(result)
                    await exchange.stop()
    finally:
        show.close()
    summary = {
        "event": "summary",
        "ok": all(item.ok for items in judged.values() for item in items),
        "calls": {name: [asdict(item) for item in items] for name, items in judged.items()},
        "reactions": [asdict(reaction) for reaction in reactions],
        "recordings": str(out),
    }
    show.done(summary, judged, reactions)
    return summary


def faster(script: Script, speed: float) -> Script:
    """The script with its pauses divided by ``speed``."""
    if speed == 1.0:
        return script
    scenes = {}
    for name, scene in script.scenes.items():
        steps = tuple(
            step.model_copy(update={"pause_ms": max(1, round(step.pause_ms / speed))}) if step.pause_ms else step
            for step in scene.steps
        )
        scenes[name] = scene.model_copy(update={"steps": steps})
    return script.model_copy(update={"scenes": scenes})
