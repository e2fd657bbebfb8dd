"""``firmline replay``: a file and a pack name in, the lines of :class:`ivr.replay.Replay` out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ivr.asr import SyncAsr
from ivr.config import Config, EarsConfig
from ivr.drafts import DraftOptions
from ivr.ears import asr_options
from ivr.judge import load_pack
from ivr.models import resolve_model
from ivr.parts import call_options, listener_factory, load_prompts
from ivr.recordings import load_recording
from ivr.replay import Replay
from policies.engine import Engine


@lru_cache(maxsize=1)
def _decoder(ears: EarsConfig) -> SyncAsr:
    options = asr_options(Config(ears=ears))
    return SyncAsr(resolve_model(ears.model, offline=ears.offline), ears.threads, options=options)


def replay_file(config: Config, path: Path, pack_name: str | None = None) -> Iterator[dict[str, Any]]:
    """The JSON lines of one recording.

    Raises:
        WavError: the recording cannot be read.
        ConfigError: pack or prompts cannot be used.
        ModelError: no speech model.
    """
    recording = load_recording(path)
    pack = load_pack(pack_name or config.policy.pack)
    catalogue = load_prompts(config, pack)
    decoder = _decoder(config.ears)
    engine = Engine(pack)
    # Nobody watches a replay: words that may still change are not asked for. What counts is the same without them.
    options = replace(call_options(config), drafts=DraftOptions())
    yield from Replay(recording, engine, listener_factory(config), decoder, catalogue, options).lines()


def replay_text(row: dict[str, Any]) -> str:
    """One line for people."""
    t_s = row["t_ms"] / 1000
    event = row["event"]
    rest = {k: v for k, v in row.items() if k not in ("t_ms", "event")}
    if event == "utterance":
        note = f"  [{rest['dropped']}]" if rest.get("dropped") else ""
        note += "  [over our prompt]" if rest.get("over_prompt") else ""
        return f"{t_s:8.2f}  {rest['side']:<7} {rest['words']}{note}"
    what = " ".join(str(rest[k]) for k in ("action", "prompt", "kind", "track", "to") if rest.get(k))
    why = rest.get("why", "")
    return f"{t_s:8.2f}  {event:<7} {what}  {why if isinstance(why, str) else '; '.join(why)}".rstrip()
