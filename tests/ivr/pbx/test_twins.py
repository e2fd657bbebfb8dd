"""Two Firmlines under one endpoint: one works, one stands by, both say so; the second takes over from the first."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivr.doctor_finding import Level
from ivr.pbx.check import examine
from ivr.pbx.claims import BEAT_MS, LEASE_MS
from ivr.pbx.lease import beat_variable
from ivr.pbx.place import place, surely_dead
from ivr.pbx.twins import FRESH_MS, Beat, Twins, two_alive
from tests.ivr.pbx.beside import Beside, World, talking

TAKEN_OVER_S = 6.0


class Variable:
    """The global variable of one endpoint, and the runs that look at it and write it; each has its own wall clock."""

    def __init__(self, *clocks_ms: int) -> None:
        self.value, self.now_ms = "", 0
        self.runs = [Twins(f"r{n}", 1_000 + n) for n in range(len(clocks_ms))]
        self.clocks_ms = clocks_ms

    def login(self, which: int) -> None:
        run = self.runs[which]
        run.enter()
        run.look(self.value, self.now_ms)

    def beat(self, which: int) -> bool:
        run = self.runs[which]
        run.look(self.value, self.now_ms)
        active = run.decide(self.now_ms)
        self.value = run.say(self.now_ms, self.now_ms + self.clocks_ms[which])
        return active


def test_beat_is_read_as_it_was_written_and_nothing_else_is_one() -> None:
    """What older versions or people wrote there is no beat."""
    beat = Beat("abc", 5, 7, active=False, twin=True, wall_ms=99, place="here-1")
    assert Beat.from_text(beat.to_text()) == beat
    assert [Beat.from_text(text) for text in ("", "abc-1", "a/b/c/d/e/f", "a/1/2/a/x/", "1/2/3")] == [None] * 5


def test_what_a_dead_run_left_is_waited_for_only_while_it_is_fresh() -> None:
    """A restart after a crash loses no time, unless the crash was less than a beat ago."""
    there = Variable(0, 0)
    there.login(0)
    there.beat(0)
    there.login(1)
    assert there.runs[1].may_be_alive(FRESH_MS - 1) is not None and there.runs[1].may_be_alive(FRESH_MS) is None
    assert there.runs[1].other(0) is None and there.beat(1), "it does not move: nobody is there"


def test_process_that_is_dead_is_known_to_be_on_its_own_machine_only() -> None:
    """No beat of a killed process is waited for where the next one can look whether it is there."""
    tell = "import sys; from ivr.pbx.place import place; print(place(), flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", tell], text=True, **pipes) as child:  # type: ignore[call-overload]
        where = child.stdout.readline().strip()
        assert not surely_dead(where) and not surely_dead(place())
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert surely_dead(where), "though nobody has collected it"
    assert surely_dead(where)
    here, pid, began = place().split("-")
    assert surely_dead(f"{here}-{pid}-{int(began) - 1}"), "our number, as in a container, and not us"
    assert not surely_dead(f"0123456789ab-{pid}-1") and not surely_dead("") and not surely_dead("x-1")


def test_second_run_stands_by_and_takes_over_after_silence_or_a_goodbye() -> None:
    """The first one goes on; each knows of the other."""
    for goodbye in (True, False):
        there = Variable(0, 0)
        there.login(0)
        assert there.beat(0)
        there.login(1)
        there.now_ms = BEAT_MS
        assert there.beat(0)
        there.runs[1].look(there.value, there.now_ms)
        assert not there.beat(1)
        there.now_ms += BEAT_MS
        assert there.beat(0) and there.runs[0].other(there.now_ms) is not None
        there.runs[1].look(there.value, there.now_ms)
        there.now_ms += 10 if goodbye else LEASE_MS
        there.value = "" if goodbye else there.value
        assert there.beat(1)


def test_run_that_was_asleep_leaves_the_calls_to_the_one_that_took_over() -> None:
    """A stopped machine that goes on must not take them back: they would change hands twice for nothing."""
    there = Variable(0, 0)
    there.login(0)
    there.beat(0)
    there.login(1)
    for _ in range(8):
        there.now_ms += BEAT_MS
        there.beat(1)
    assert there.runs[1].active
    assert not there.beat(0), "it was silent for longer than a lease"
    there.now_ms += BEAT_MS
    assert there.beat(1) and not there.beat(0)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(0, 900)), min_size=1, max_size=40),
    st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)),
)
def test_two_runs_that_beat_in_time_agree_on_one_whatever_was_before(
    steps: list[tuple[int, int]], clocks_ms: tuple[int, int]
) -> None:
    """Logins and beats in any order, clocks that differ: after some beats of both exactly one is active, for good."""
    there = Variable(*clocks_ms)
    there.login(0), there.login(1)
    for which, wait_ms in steps:
        there.now_ms += wait_ms
        there.beat(which)
        if wait_ms % 7 == 0:
            there.login(which)
    settled = set()
    for n in range(12):
        there.now_ms += BEAT_MS // 2
        active = (there.beat(0), there.beat(1)) if n % 2 else (there.beat(1), there.beat(0))[::-1]
        if n >= 4:
            settled.add(active)
    assert len(settled) == 1 and sum(next(iter(settled))) == 1


def test_two_looks_tell_two_living_runs_from_what_two_dead_ones_left() -> None:
    """A value that stands still is nobody's."""
    ours = Beat("a", 1, 1, active=True, twin=True, wall_ms=0)
    theirs = Beat("b", 2, 1, active=False, twin=True, wall_ms=0)
    assert two_alive(ours, theirs) and not two_alive(ours, ours) and not two_alive(ours, None)


def test_no_two_endpoints_share_a_beat() -> None:
    """Names that differ in characters which a variable cannot hold."""
    assert len({beat_variable(name) for name in ("a-b", "a.b", "a_b", "a b")}) == 4
    assert beat_variable("firmline2") == "FIRMLINE_BEAT_firmline2"


@pytest.mark.sip
async def test_two_firmlines_of_one_username_are_told_and_one_works_for_both(world: World) -> None:
    """The call that the first one taps is not touched, new ones are tapped by it; when it dies the second has them."""
    async with Beside(world) as first:
        caller, _agent = await talking(world, "pat", "201")
        await first.ears.both()
        async with Beside(world) as second:
            async with asyncio.timeout(6):
                while not (first.pbx.notice() and second.pbx.problem()):
                    await world.stack.clock.pause(50)
            assert "same line.username firmline; this one works" in (first.pbx.notice() or "")
            assert "this one stands by until the other one is gone" in (second.pbx.problem() or "")
            assert first.pbx.problem() is None
            findings = {each.name: each for each in await examine(first.options, ("299",))}
            assert findings["twins"].level is Level.WARN and "two Firmlines" in findings["twins"].what
            assert findings["phone"].level is Level.OK, "the first one is registered again"
            assert set(first.ears.legs) == {"caller", "agent"} and len(first.ears.ever) == 2
            other, _second_agent = await talking(world, "pat", "202", target="202")
            await first.ears.until(lambda: len(first.ears.ever) == 4)
            assert second.ears.ever == []

            await first.line.stop()  # as a kill does: nothing is said to anybody
            first.pbx._lease._entered = False
            await first.pbx.stop()
            await second.ears.until(lambda: len(second.ears.ever) == 4, TAKEN_OVER_S)
            assert second.pbx.problem() is None and second.pbx.notice() is None
            assert caller.in_call.is_set() and other.in_call.is_set()
            await caller.hang_up()
            await other.hang_up()
            await second.ears.until(lambda: not second.ears.legs)
            await world.channels_settle(lambda names: not names)
