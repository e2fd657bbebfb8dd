"""Packs and modes by queue, and what a live call tells of what is left to a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from ivr import effects as fx
from ivr.api.models import CallOut
from ivr.call import CallCore, CallOptions
from ivr.calls import Calls
from ivr.config import parse_config
from ivr.errors import ConfigError
from ivr.judge import load_pack
from ivr.parts import load_prompts, load_rules
from ivr.reload import in_force
from ivr.types import JournalEvent, LiveEvent
from policies.engine import Engine
from policies.pack import Mode, Pack
from policies.types import Hotkey, Key, Side, Utterance

RULES = """
policy:
  mode: warn
  queues:
    sales: {mode: suggest}
    claims: {pack: patient}
    trial: {pack: shadow, mode: pack}
"""


def test_queue_has_its_own_rule_and_the_rest_of_it_is_everybodys() -> None:
    """Mode alone, pack alone, or as the pack says; each in what it left out as the rest."""
    pack, queues = load_rules(parse_config(RULES, "c.yaml"))
    assert (pack.name, pack.mode) == ("standard", Mode.WARN)
    assert {name: (rule.name, rule.mode) for name, rule in queues.items()} == {
        "sales": ("standard", Mode.SUGGEST),
        "claims": ("patient", Mode.WARN),
        "trial": ("shadow", Mode.SHADOW),
    }
    assert load_rules(parse_config("", "c.yaml"))[0].mode is Mode.FULL


def test_prompts_and_packs_of_every_queue_are_checked_before_anything_starts(tmp_path: Path) -> None:
    """A queue whose pack is missing, or whose pack asks for a prompt that is not there, is told at start."""
    with pytest.raises(ConfigError, match="nowhere"):
        load_rules(parse_config("policy:\n  queues: {sales: {pack: nowhere}}\n", "c.yaml"))
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nextends: standard\ndescription: x\nprompts: {warning: my_own_warning}\n")
    config = parse_config(f"policy:\n  queues: {{sales: {{pack: {own}}}}}\n", "c.yaml")
    pack, queues = load_rules(config)
    with pytest.raises(ConfigError, match="pack own: prompts not found .*my_own_warning"):
        load_prompts(config, pack, *queues.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policy:\n  mode: automatic\n", "c.yaml:2: policy.mode"),
        ("policy:\n  queues:\n    sales: {mod: warn}\n", "c.yaml:3: policy.queues.sales.mod: unknown key"),
        ("policy:\n  queues:\n    sales: {mode: off}\n", "policy.queues.sales.mode"),
    ],
)
def test_mistake_in_a_rule_names_its_line_and_key(text: str, said: str) -> None:
    """As everywhere in the settings."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml")
    assert said in str(caught.value)


def test_queues_are_taken_without_a_restart_whole() -> None:
    """A queue more, one less, one changed: one key of the settings, taken at once."""
    old, new = parse_config("", "c.yaml"), parse_config(RULES, "c.yaml")
    for before, after in ((old, new), (new, old)):
        config, taken, restart = in_force(before, after)
        assert config == after and set(taken) == {"policy.mode", "policy.queues"} and restart == ()


# --- one call ---------------------------------------------------------------------------------------------------------


def _core(pack: Pack) -> CallCore:
    return CallCore("ref", "201", Engine(pack), lambda _side: None, CallOptions(), 1_000)  # type: ignore[arg-type,return-value]


def _insulted(core: CallCore, now_ms: int) -> list[fx.Effect]:
    heard = Utterance("you useless idiot", Side.CALLER, now_ms - 900, now_ms - 100)
    core._act(core.engine.hear(heard, now_ms), now_ms)
    return core._flush()


def test_suggestion_is_told_with_its_key_and_until_when_and_goes_with_the_key() -> None:
    """Times count from the start of the call; nothing is played before the key; the rows say the mode."""
    core = _core(load_pack("standard", meaning=False).in_mode(Mode.SUGGEST))
    effects = _insulted(core, 5_000)
    told = [e for e in effects if isinstance(e, fx.Live) and e.event is LiveEvent.SUGGESTION]
    assert len(told) == 1 and told[0].t_ms == 4_000
    assert told[0].data.items() >= {"step": "warning", "key": "warn", "kind": None, "mode": "suggest"}.items()
    assert told[0].data["until_ms"] == 4_000 + 15_000
    assert not any(isinstance(e, fx.Play) for e in effects)
    pressed = core.hotkey(Hotkey(Key.WARN, "agent:201"), 6_000)
    assert [e.event for e in pressed if isinstance(e, fx.Live)] == [LiveEvent.SUGGESTION_GONE]
    asked = next(e for e in pressed if isinstance(e, fx.Journal) and e.event is JournalEvent.ACTION_REQUESTED)
    assert asked.data["mode"] == "suggest" and asked.data["prompt"] == "warning"


def test_call_as_pages_see_it_carries_the_ladder_the_countdown_and_the_suggestion() -> None:
    """Everything that a page draws without having seen the beginning."""
    core = _core(load_pack("standard", meaning=False).in_mode(Mode.WARN))
    summary = _summary_of(core)
    assert summary.suggestion is None and summary.countdown_ends_ms is None and not summary.disarmed
    core.hotkey(Hotkey(Key.TRANSFER, "supervisor:Sam", "305"), 5_000)
    decided = _summary_of(core)
    assert decided.rung == "ending" and decided.countdown_kind == "transfer"
    assert decided.countdown_ends_ms == 4_000 + core.engine.pack.spec.timing.hotkey_countdown_ms
    assert decided.rungs[-1] == "ending" and decided.mode == "warn" and decided.cues
    core.hotkey(Hotkey(Key.DISARM, "agent:201"), 6_000)
    assert _summary_of(core).disarmed


def _summary_of(core: CallCore) -> CallOut:
    class Session:
        id, started_at = "c1", "2026-01-01T00:00:00.000+00:00"

    session = Session()
    session.core = core  # type: ignore[attr-defined]
    return CallOut.model_validate(Calls._summary(None, session))  # type: ignore[arg-type]
