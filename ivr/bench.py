"""``firmline bench``: what docs/benchmarks.md says, measured on the real service with real SIP, RTP and Whisper.

The service is a process of its own; phones and load run beside it on the same machine, so its figures include the cost
of being measured. Figures are medians and worsts of what was measured, never asserted in tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ivr.bench_keys import KeyWatch, key_row
from ivr.demo.control import ControlServer
from ivr.demo.exchange import Exchange
from ivr.demo.run import faster
from ivr.demo.scene import Cast, run_scene
from ivr.demo.service import Row, ServiceProcess
from ivr.demo.speech import load_script
from ivr.demo.stack import Stack
from ivr.demo.story import Reaction, Story
from ivr.errors import FirmlineError

REACTION_SPEED = 4.0
"""Pauses between lines are shortened; speech, prompts and Firmline keep real time."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` of ``values`` do not exceed (nearest rank); 0 for none."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, round(percent / 100 * (len(ranked) - 1)))] if ranked else 0.0


# --- reaction ---------------------------------------------------------------------------------------------------------


async def bench_reaction(out: Path, runs: int, progress: Any) -> dict[str, Any]:
    """``runs`` abusive calls one after the other: end of the abusive words to the first prompt packet; then ``runs``
    presses of the warn key: press to packet.

    Raises:
        FirmlineError: the service or a phone could not be started, or a call brought no prompt.
    """
    story, found = Story(), [[], []]  # type: tuple[Story, list[list[Reaction]]]

    watch = KeyWatch()

    def on_row(row: Row) -> None:
        story.take(row)
        watch.take(row)

    script = faster(load_script(), REACTION_SPEED)
    async with Stack() as stack:
        exchange = Exchange(stack)
        await exchange.start()
        async with ControlServer(exchange) as control:
            async with ServiceProcess(out, control_url=control.url, on_row=on_row) as service:
                exchange.firmline_uri = service.uri
                cast = await Cast.create(stack, exchange)
                for number in range(runs):
                    story = Story()
                    result = await run_scene(cast, "abusive", out / "abusive", story.cues, script=script)
                    reactions = story.reactions(result)
                    if not result.as_expected or len(reactions) != 2:
                        raise FirmlineError(f"run {number + 1}: not everything came; see {out}")
                    for bucket, reaction in zip(found, reactions, strict=True):
                        bucket.append(reaction)
                    progress(f"run {number + 1} of {runs}: {reactions[0].words_to_rtp_ms} ms")
                progress("keys ...")
                pressed = await key_row(cast, service, watch, script.scenes["abusive"].caller, runs)
                await exchange.stop()
    return {"bench": "reaction", "runs": runs, "rows": [*(_reaction_row(bucket) for bucket in found), pressed]}


def _reaction_row(reactions: Sequence[Reaction]) -> dict[str, Any]:
    whole = [r.words_to_rtp_ms for r in reactions]
    return {
        "prompt": reactions[0].prompt,
        "median_ms": round(median(whole)),
        "worst_ms": max(whole),
        "heard_to_decided_median_ms": round(median(r.heard_to_decided_ms for r in reactions)),
        "decided_to_rtp_median_ms": round(median(r.decided_to_rtp_ms for r in reactions)),
        "decided_to_rtp_worst_ms": max(r.decided_to_rtp_ms for r in reactions),
    }
