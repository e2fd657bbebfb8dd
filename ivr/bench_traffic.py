"""What callers and agents say in ``firmline bench capacity``: who speaks when, and when each word ends.

Owns no I/O. Every caller speaks a given share of the time in an order of their own; every so many calls one holds an
insult, with silence after it so that the warning can be heard.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from audio.g711 import Law, encode
from audio.types import PTIME_MS
from ivr.bench_ears import Truth
from ivr.bench_load import LoadLeg
from ivr.bench_speech import LINE_NOISE_DBOV, RATE_HZ, Line, white

_SETTLE_MS = 1_500
"""Nobody speaks in the first moments of a call, nor in the last."""
_LAST_MS = 4_000
_AFTER_INSULT_MS = 9_000
_LEAST_PAUSE_MS = 600
_TURN_MS = 400


@dataclass(frozen=True, slots=True)
class Said:
    """One line from frame ``frame`` of its leg on; ``truth`` is relative to the line's own beginning."""

    line: Line
    truth: Truth
    frame: int

    @property
    def clip(self) -> str:
        """Name of its sound."""
        return f"{self.line.voice}: {self.line.text}"

    def on_the_clock(self, leg_start_ms: int) -> Truth:
        """Its truth on the clock on which its leg's frame 0 *left* at ``leg_start_ms``: a packet leaves when the last
        of its 20 ms has been spoken."""
        return self.truth.later(leg_start_ms + (self.frame - 1) * PTIME_MS)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of two legs. ``insult`` is among what the caller says, if this call holds one."""

    call_ref: str
    agent_ext: str
    caller: tuple[Said, ...]
    agent: tuple[Said, ...]
    insult: Said | None = None

    def legs(self) -> list[LoadLeg]:
        """As the load dials them."""
        return [
            LoadLeg(self.call_ref, side, self.agent_ext, tuple((each.frame, each.clip) for each in said))
            for side, said in (("caller", self.caller), ("agent", self.agent))
        ]


@dataclass(frozen=True, slots=True)
class Material:
    """Lines with their truths: what civil people say, and insults."""

    civil: Sequence[tuple[Line, Truth]]
    insults: Sequence[tuple[Line, Truth]]


def plan_calls(material: Material, calls: int, seconds: float, speak: float, abusive: float) -> list[Call]:
    """``calls`` calls of ``seconds``; callers speak ``speak`` of the time, agents in between; ``abusive`` of the calls
    hold one insult. The same every time.

    :raises ValueError: a share is out of range, or the calls are too short for what they should hold.
    """
    if not 0 < speak < 1 or not 0 <= abusive <= 1:
        raise ValueError("speak must lie between 0 and 1, abusive from 0 to 1")
    if seconds < 40:
        raise ValueError("calls under 40 s hold no usual talk")
    planned = []
    for number in range(calls):
        # By rounding, the insults are spread evenly over the calls whatever the share is.
        insulting = round((number + 1) * abusive) > round(number * abusive)
        chosen = material.insults[number % len(material.insults)] if insulting else None
        caller = _talk(material.civil, seconds, speak, 2 * number, chosen)
        agent = _replies(material.civil, caller, 2 * number + 1)
        insult = next((said for said in caller if chosen is not None and said.line is chosen[0]), None)
        planned.append(Call(f"bench-{number + 1}", str(300 + number), tuple(caller), tuple(agent), insult))
    return planned


def _talk(
    lines: Sequence[tuple[Line, Truth]], seconds: float, speak: float, seed: int, insult: tuple[Line, Truth] | None
) -> list[Said]:
    random = np.random.default_rng(seed)
    order = [int(at) for at in random.permutation(len(lines))]
    insult_ms = seconds * 1000 * random.uniform(0.2, 0.45)
    at_ms = _SETTLE_MS + random.uniform(0, 6_000)
    said: list[Said] = []
    due = insult
    for turn in itertools.count():
        line, truth = lines[order[turn % len(order)]]
        after_ms = 0
        if due is not None and at_ms >= insult_ms:
            (line, truth), due, after_ms = due, None, _AFTER_INSULT_MS
        if at_ms + truth.end_ms + after_ms > seconds * 1000 - _LAST_MS:
            break
        said.append(Said(line, truth, round(at_ms / PTIME_MS)))
        spoken_ms = truth.end_ms - truth.start_ms
        # What the sound itself has before and after the words is part of the pause.
        pause_ms = spoken_ms * (1 / speak - 1) * random.uniform(0.7, 1.3) - truth.start_ms
        at_ms += truth.end_ms + max(_LEAST_PAUSE_MS, pause_ms, after_ms)
    return said


def _replies(lines: Sequence[tuple[Line, Truth]], caller: Sequence[Said], seed: int) -> list[Said]:
    """The agent speaks in the caller's pauses, where a line fits: people who talk over each other are conduct, which
    brings prompts of its own."""
    order = [int(at) for at in np.random.default_rng(seed).permutation(len(lines))]
    said = []
    for turn, (before, following) in enumerate(itertools.pairwise(caller)):
        from_ms = before.frame * PTIME_MS + before.truth.end_ms + _TURN_MS
        room_ms = following.frame * PTIME_MS - _TURN_MS - from_ms
        fitting = (lines[order[(turn + at) % len(order)]] for at in range(len(order)))
        chosen = next(((line, truth) for line, truth in fitting if truth.end_ms <= room_ms), None)
        if chosen is not None:
            said.append(Said(*chosen, round(from_ms / PTIME_MS)))
    return said


def clips_of(calls: Sequence[Call]) -> dict[str, bytes]:
    """Every sound of these calls as mu-law with the line's own noise on it, and ``noise`` for the pauses."""
    floor = white(5 * RATE_HZ, LINE_NOISE_DBOV)
    sounds = {"noise": encode(floor.astype(np.int16), Law.PCMU)}
    for call in calls:
        for said in (*call.caller, *call.agent):
            if said.clip not in sounds:
                noisy = said.line.samples + np.resize(floor, len(said.line.samples))
                sounds[said.clip] = encode(np.clip(noisy, -32768, 32767).astype(np.int16), Law.PCMU)
    return sounds
