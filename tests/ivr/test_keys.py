"""Keys that people hold down."""

from __future__ import annotations

from ivr import effects as fx
from ivr.keys import HELD_MS, MAX_SOURCES, HeldKeys
from ivr.types import JournalEvent
from policies.types import Hotkey, Key
from tests.ivr.calls import Bench

AGENT = Hotkey(Key.WARN, "agent:201")


def test_warn_key_held_down_for_a_whole_warning_plays_no_final_warning() -> None:
    """Keyboards repeat; a person who keeps the key down pressed it once. Let go and pressed again, it counts."""
    bench = Bench()
    play = None
    for _ in range(200):
        bench.take(bench.core.hotkey(AGENT, bench.now_ms))
        bench.wait(40)
        if play is None:
            [play] = bench.all(fx.Play)
            bench.take(bench.core.prompt_started(play.token, bench.now_ms, bench.now_ms))
        elif bench.core.playing and bench.now_ms - play.decided_ms > 5_000:
            bench.take(bench.core.prompt_done(play.token, True, "", bench.now_ms))
    assert [each.prompt for each in bench.all(fx.Play)] == ["warning"]
    assert len(bench.rows(JournalEvent.HOTKEY)) == len(bench.rows(JournalEvent.STRIKE)) == 1
    assert bench.core.engine.rung.value == "warned"
    bench.wait(HELD_MS)
    bench.take(bench.core.hotkey(AGENT, bench.now_ms))
    assert [each.prompt for each in bench.all(fx.Play)] == ["warning", "final_warning"]


def test_other_key_or_other_person_is_not_held_back() -> None:
    """A pardon right after a warning, or the supervisor's press beside the agent's, is a press of its own."""
    held = HeldKeys()
    assert held.fresh(AGENT, 0)
    assert held.fresh(Hotkey(Key.PARDON, "agent:201"), 10) and held.fresh(Hotkey(Key.WARN, "supervisor:1"), 20)
    assert held.fresh(AGENT, 30), "another key in between: the first was let go"
    held = HeldKeys()
    assert held.fresh(AGENT, 0)
    assert not held.fresh(AGENT, HELD_MS - 1) and not held.fresh(AGENT, 2 * HELD_MS - 2)
    assert held.fresh(AGENT, 3 * HELD_MS - 2)


def test_sources_of_one_call_are_bounded() -> None:
    """A script that invents names costs no memory."""
    held = HeldKeys()
    for number in range(10 * MAX_SOURCES):
        held.fresh(Hotkey(Key.WARN, f"ops:{number}"), number)
    assert len(held._last) == MAX_SOURCES
