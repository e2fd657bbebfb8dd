"""Shouting, talking over and interrupting, from numbers alone."""

from __future__ import annotations

from policies.conduct import ConductWatch, LevelHeard, TurnHeard, WordsHeard
from policies.pack import ConductSpec
from policies.types import Conduct, ConductKind, Side

SPEC = ConductSpec()


class Room:
    """A caller and an agent who speak by the millisecond."""

    def __init__(self) -> None:
        self.watch = ConductWatch(SPEC)
        self.found: list[Conduct] = []

    def say(self, start_ms: int, end_ms: int, *, over_db: float = 0.0, dbov: float = -15.0, words: int = 6) -> None:
        """The caller speaks at one level; ``words=0`` is noise from a throat."""
        self.turn(Side.CALLER, True, start_ms)
        for t_ms in range(start_ms, end_ms, 200):
            self.found += self.watch.hear(LevelHeard(t_ms, dbov, over_db), t_ms)
        self.turn(Side.CALLER, False, end_ms)
        if words:
            self.found += self.watch.hear(WordsHeard(start_ms, end_ms, words), end_ms + 400)

    def turn(self, side: Side, talking: bool, t_ms: int) -> None:
        """A side begins or stops."""
        self.found += self.watch.hear(TurnHeard(side, talking, t_ms), t_ms)

    @property
    def kinds(self) -> list[ConductKind]:
        """What was reported, in order."""
        return [each.kind for each in self.found]


def test_conduct_shouted_sentence_is_shouting() -> None:
    """Far over the caller's own level, loud in itself, for long enough, in words."""
    room = Room()
    room.say(10_000, 13_000, over_db=14.0)
    assert room.kinds == [ConductKind.SHOUTING]
    assert room.found[0].value == 14.0


def test_conduct_several_short_shouts_add_up() -> None:
    """No single one is long enough; together they are."""
    room = Room()
    for start_ms in (10_000, 13_000, 16_000):
        room.say(start_ms, start_ms + 900, over_db=12.0, words=3)
    assert room.kinds == [ConductKind.SHOUTING]


def test_conduct_cough_and_laughter_are_no_shouting() -> None:
    """Loud, but nobody's recogniser makes words of it."""
    room = Room()
    room.say(10_000, 10_400, over_db=20.0, words=0)
    room.say(12_000, 16_000, over_db=18.0, words=0)
    room.say(20_000, 23_000, over_db=18.0, words=1)
    assert room.kinds == []


def test_conduct_loud_line_is_no_shouting() -> None:
    """Always loud is this caller's usual level, so nothing stands over it."""
    room = Room()
    for start_ms in range(0, 60_000, 5_000):
        room.say(start_ms, start_ms + 4_000, over_db=1.0, dbov=-9.0)
    assert room.kinds == []


def test_conduct_raised_voice_on_a_faint_line_is_no_shouting() -> None:
    """Over the baseline, but under the floor: gain that comes and goes, not a shout."""
    room = Room()
    room.say(10_000, 14_000, over_db=15.0, dbov=-32.0)
    assert room.kinds == []


def test_conduct_one_loud_word_in_a_calm_sentence_is_no_shouting() -> None:
    """Emphasis is allowed."""
    watch = ConductWatch(SPEC)
    for at, t_ms in enumerate(range(0, 6_000, 200)):
        watch.hear(LevelHeard(t_ms, -15.0, 12.0 if at < 4 else 0.0), t_ms)
    assert watch.hear(WordsHeard(0, 6_000, 12), 6_400) == []


def test_conduct_talking_over_the_agent_is_reported_once() -> None:
    """Most of what the agent says goes under."""
    room = Room()
    for start_ms in range(0, 24_000, 4_000):
        room.turn(Side.AGENT, True, start_ms)
        room.say(start_ms + 500, start_ms + 3_000)
        room.turn(Side.AGENT, False, start_ms + 3_200)
    assert room.kinds.count(ConductKind.TALKING_OVER) == 1


def test_conduct_yes_and_mm_are_no_interruption() -> None:
    """Backchannels show that somebody listens."""
    room = Room()
    room.turn(Side.AGENT, True, 0)
    for start_ms in range(1_000, 60_000, 2_000):
        room.say(start_ms, start_ms + 500, words=1)
    room.turn(Side.AGENT, False, 60_000)
    assert room.kinds == []


def test_conduct_cutting_the_agent_off_again_and_again_is_interrupting() -> None:
    """Four times within a minute the agent falls silent under the caller's voice."""
    room = Room()
    for start_ms in range(0, 48_000, 12_000):
        room.turn(Side.AGENT, True, start_ms)
        room.turn(Side.CALLER, True, start_ms + 2_000)
        room.turn(Side.AGENT, False, start_ms + 2_400)
        room.turn(Side.CALLER, False, start_ms + 5_000)
    assert room.kinds == [ConductKind.INTERRUPTING]
    assert room.found[0].value == 4.0


def test_conduct_turns_taken_in_order_are_nothing() -> None:
    """An ordinary conversation."""
    room = Room()
    for start_ms in range(0, 120_000, 6_000):
        room.turn(Side.AGENT, True, start_ms)
        room.turn(Side.AGENT, False, start_ms + 2_800)
        room.say(start_ms + 3_000, start_ms + 5_800)
    assert room.kinds == []


def test_conduct_echo_of_the_agent_is_no_talking_over() -> None:
    """Far under the caller's own level: the agent's voice through the caller's telephone."""
    room = Room()
    for start_ms in range(0, 24_000, 4_000):
        room.turn(Side.AGENT, True, start_ms)
        room.say(start_ms + 100, start_ms + 3_100, over_db=-22.0, dbov=-50.0, words=0)
        room.turn(Side.AGENT, False, start_ms + 3_000)
    assert room.kinds == []


def test_conduct_long_call_keeps_little() -> None:
    """Hours of speech leave two minutes of memory."""
    room = Room()
    for start_ms in range(0, 3_600_000, 10_000):
        room.say(start_ms, start_ms + 1_000)
    assert len(room.watch._levels) < 120
    assert all(len(turns) < 30 for turns in room.watch._turns.values())
