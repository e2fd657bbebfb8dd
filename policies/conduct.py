"""Ways of speaking that can be measured: shouting, talking over, interrupting; from levels, turns and words.

Owns: what counts as an episode of each. Never: emotion, words' meaning, what follows (``ladder``: a calming prompt at
most; conduct never ends a call). Sans-IO; the thresholds are the pack's (``ConductSpec``).

Why words are needed for shouting: a cough, laughter, a barking dog and a slammed door are loud over a floor and over
the caller's own baseline as well, but nobody's recogniser makes three words of them. A loud line or automatic gain
moves the baseline with it, so what stands over it is a voice that was raised.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from policies.pack import ConductSpec
from policies.types import Conduct, ConductKind, Side

KEEP_MS = 120_000
"""No measure looks back further."""


@dataclass(frozen=True, slots=True)
class LevelHeard:
    """How loud the caller is at ``t_ms``; ``over_baseline_db`` is ``None`` while nobody speaks or none is known."""

    t_ms: int
    dbov: float
    over_baseline_db: float | None


@dataclass(frozen=True, slots=True)
class TurnHeard:
    """A side began (``talking``) or stopped speaking at ``t_ms``."""

    side: Side
    talking: bool
    t_ms: int


@dataclass(frozen=True, slots=True)
class WordsHeard:
    """The caller's recognised words, ``count`` of them, spoken from ``start_ms`` to ``end_ms``."""

    start_ms: int
    end_ms: int
    count: int


Measured = LevelHeard | TurnHeard | WordsHeard


@dataclass(slots=True)
class _Turn:
    start_ms: int
    end_ms: int | None = None

    def overlap_ms(self, start_ms: int, end_ms: int) -> int:
        own_end = end_ms if self.end_ms is None else self.end_ms
        return max(0, min(own_end, end_ms) - max(self.start_ms, start_ms))


class ConductWatch:
    """One call's measures. Feed both sides' turns, the caller's levels and words; episodes come out, spaced."""

    def __init__(self, spec: ConductSpec) -> None:
        self._spec = spec
        self._levels: deque[LevelHeard] = deque()
        self._loud: deque[tuple[int, int, float]] = deque()
        self._turns: dict[Side, deque[_Turn]] = {Side.CALLER: deque(), Side.AGENT: deque()}
        self._cut_in: deque[int] = deque()
        self._last_ms: dict[ConductKind, int] = {}

    def adopt(self, spec: ConductSpec) -> None:
        """Other thresholds from now on; what was measured stays."""
        self._spec = spec

    def hear(self, event: Measured, now_ms: int) -> list[Conduct]:
        """Take in one measure; an episode is reported once it is whole, and not again for ``repeat_ms``."""
        self._forget(now_ms)
        match event:
            case LevelHeard():
                self._levels.append(event)
                return []
            case WordsHeard():
                return self._shouting(event, now_ms)
            case TurnHeard():
                return self._turn(event, now_ms)

    # --- shouting -----------------------------------------------------------------------------------------------------

    def _shouting(self, words: WordsHeard, now_ms: int) -> list[Conduct]:
        spec = self._spec
        if words.count < spec.shout_words:
            return []
        during = [
            x for x in self._levels if words.start_ms <= x.t_ms <= words.end_ms and x.over_baseline_db is not None
        ]
        loud = [x for x in during if self._is_loud(x)]
        if not during or len(loud) / len(during) < spec.shout_share:
            return []
        ms = round((words.end_ms - words.start_ms) * len(loud) / len(during))
        over_db = sum(x.over_baseline_db or 0.0 for x in loud) / len(loud)
        self._loud.append((words.end_ms, ms, over_db))
        recent = [each for each in self._loud if each[0] >= words.end_ms - spec.shout_within_ms]
        if sum(each[1] for each in recent) < spec.shout_ms:
            return []
        start_ms = max(words.start_ms - spec.shout_within_ms, recent[0][0] - recent[0][1])
        value = max(each[2] for each in recent)
        return self._report(ConductKind.SHOUTING, start_ms, words.end_ms, round(value, 1), now_ms)

    def _is_loud(self, level: LevelHeard) -> bool:
        over = level.over_baseline_db
        return over is not None and over >= self._spec.shout_over_db and level.dbov >= self._spec.shout_floor_dbov

    # --- turns --------------------------------------------------------------------------------------------------------

    def _turn(self, event: TurnHeard, now_ms: int) -> list[Conduct]:
        turns = self._turns[event.side]
        if event.talking:
            if turns and turns[-1].end_ms is None:
                turns[-1].end_ms = event.t_ms
            turns.append(_Turn(event.t_ms))
            return []
        if not turns or turns[-1].end_ms is not None:
            return []
        turns[-1].end_ms = event.t_ms
        if event.side is Side.AGENT:
            return []
        return self._caller_stopped(turns[-1].start_ms, event.t_ms, now_ms)

    def _caller_stopped(self, start_ms: int, end_ms: int, now_ms: int) -> list[Conduct]:
        if end_ms - start_ms < self._spec.backchannel_ms or self._is_echo(start_ms, end_ms):
            return []
        return [*self._talking_over(end_ms, now_ms), *self._interrupting(start_ms, end_ms, now_ms)]

    def _is_echo(self, start_ms: int, end_ms: int) -> bool:
        """Far below the caller's own level: the agent's voice come back through the caller's telephone."""
        during = [x.over_baseline_db for x in self._levels if start_ms <= x.t_ms <= end_ms]
        known = [over for over in during if over is not None]
        return bool(known) and max(known) < -self._spec.echo_below_db

    def _talking_over(self, end_ms: int, now_ms: int) -> list[Conduct]:
        spec = self._spec
        since_ms = end_ms - spec.overlap_within_ms
        agent_ms = sum(a.overlap_ms(since_ms, end_ms) for a in self._turns[Side.AGENT])
        overlap_ms = sum(
            a.overlap_ms(max(c.start_ms, since_ms), c.end_ms)
            for c in self._turns[Side.CALLER]
            if c.end_ms is not None and c.end_ms - c.start_ms >= spec.backchannel_ms
            for a in self._turns[Side.AGENT]
        )
        if overlap_ms < spec.overlap_ms or not agent_ms or overlap_ms / agent_ms < spec.overlap_share:
            return []
        share = round(min(1.0, overlap_ms / agent_ms), 2)
        return self._report(ConductKind.TALKING_OVER, since_ms, end_ms, share, now_ms)

    def _interrupting(self, start_ms: int, end_ms: int, now_ms: int) -> list[Conduct]:
        """Cut in: the agent was under way, the caller began, and the agent fell silent while the caller went on."""
        spec = self._spec
        cut = any(
            a.start_ms + spec.interrupt_after_ms <= start_ms < a.end_ms <= end_ms
            for a in self._turns[Side.AGENT]
            if a.end_ms is not None
        )
        if not cut:
            return []
        self._cut_in.append(start_ms)
        recent = [t for t in self._cut_in if t >= end_ms - spec.interrupt_within_ms]
        if len(recent) < spec.interrupt_count:
            return []
        return self._report(ConductKind.INTERRUPTING, recent[0], end_ms, float(len(recent)), now_ms)

    # --- both ---------------------------------------------------------------------------------------------------------

    def _report(self, kind: ConductKind, start_ms: int, end_ms: int, value: float, now_ms: int) -> list[Conduct]:
        last_ms = self._last_ms.get(kind)
        if last_ms is not None and now_ms - last_ms < self._spec.repeat_ms:
            return []
        self._last_ms[kind] = now_ms
        return [Conduct(kind, start_ms, end_ms, value)]

    def _forget(self, now_ms: int) -> None:
        since_ms = now_ms - KEEP_MS
        while self._levels and self._levels[0].t_ms < since_ms:
            self._levels.popleft()
        while self._loud and self._loud[0][0] < since_ms:
            self._loud.popleft()
        while self._cut_in and self._cut_in[0] < since_ms:
            self._cut_in.popleft()
        for turns in self._turns.values():
            while turns and turns[0].end_ms is not None and turns[0].end_ms < since_ms:
                turns.popleft()
