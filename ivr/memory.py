"""What a call's ladder leaves behind for the next process, and how it is found again.

A :class:`Note` is written at each change of a ladder and kept in every :class:`Keeper` there is (the journal's
database; on Asterisk also a variable of the caller's channel, where a Firmline on another machine finds it).
``kill -9`` costs what had not reached a keeper: some milliseconds. The newest note of all keepers counts. Nothing here
blocks the loop, and nothing raises: a call whose past cannot be read starts afresh, and that is said.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from policies.ladder import CLIMB, LadderState, Rung
from policies.pack import Pack
from policies.resume import at_rest, shifted, under

log = structlog.get_logger("firmline.memory")

VERSION = 1
MAX_AGE_MS = 12 * 3_600_000
"""A note that nothing was added to for so long is of another call: some PBXs count their ids from one again."""
_RUNGS = frozenset((*CLIMB[:4], Rung.DISARMED))


@dataclass(frozen=True, slots=True)
class Note:
    """One ladder at rest. Times in ``state`` count from the moment of writing (negative: before); no words in here."""

    call_id: str
    """Of the journal's rows that led there."""
    pack: str
    wall_ms: int
    under_way: str
    state: LadderState

    @classmethod
    def of(cls, call_id: str, pack: Pack, state: LadderState, now_ms: int, wall_ms: int) -> Note:
        """The note that ``state`` leaves."""
        rest, under_way = at_rest(state)
        return cls(call_id, pack.version, wall_ms, under_way, shifted(rest, -now_ms))

    def to_text(self) -> str:
        """Compact JSON."""
        data = {
            "v": VERSION,
            "call": self.call_id,
            "pack": self.pack,
            "at": self.wall_ms,
            "was": self.under_way,
            "state": self.state.to_json(),
        }
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Note:
        """What ``to_text`` gave.

        Raises:
            ValueError: anything else.
        """
        try:
            data = json.loads(text)
            if data["v"] != VERSION:
                raise ValueError(f"version {data['v']!r} is not known")
            state, _ = at_rest(LadderState.from_json(data["state"]))
            _must_hold(state)
            return cls(str(data["call"]), str(data["pack"]), int(data["at"]), str(data["was"]), state)
        except (KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise ValueError(f"not a note of a ladder: {type(exc).__name__}") from exc

    def resumed(self, pack: Pack, now_ms: int, wall_ms: int) -> LadderState | None:
        """The state to go on from now under ``pack``; ``None`` when the note is too old."""
        age_ms = max(0, wall_ms - self.wall_ms)  # a clock that was set back made nothing younger
        if age_ms > MAX_AGE_MS:
            return None
        return under(pack, shifted(self.state, now_ms - age_ms), self.pack)


def _must_hold(state: LadderState) -> None:
    """Raises ValueError where the pieces are of the wrong kind: JSON brings anything."""
    times = (state.quiet_until_ms, state.civil_since_ms, state.calmed_ms, *(s.t_ms for s in state.strikes))
    whole = all(isinstance(t, int) and not isinstance(t, bool) for t in times if t is not None)
    texts = all(isinstance(s.track, str) and isinstance(s.by, str) for s in state.strikes)
    flags = isinstance(state.reassured, bool) and all(isinstance(s.taken, bool) for s in state.strikes)
    if state.rung not in _RUNGS or not (whole and texts and flags):
        raise ValueError("not a ladder at rest")


class Keeper(Protocol):
    """One place where notes are kept."""

    def keep(self, call_ref: str, note: Note) -> None:
        """Replace the note of ``call_ref``; returns at once, and neither blocks nor raises."""

    def forget(self, call_ref: str) -> None:
        """The call is over."""

    async def recall(self, call_ref: str) -> str | None:
        """The text kept for ``call_ref``, or ``None``. May raise; that is logged."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """What was found: a note, or why there is none that can be used."""

    note: Note | None = None
    problem: str = ""


class Memory:
    """All keepers as one."""

    """``key`` gives what identifies a call for good, where its reference may change in its life."""

    def __init__(self, keepers: Sequence[Keeper] = (), key: Callable[[str], str] = str) -> None:
        self._keepers, self._key = tuple(keepers), key
        self._keys: dict[str, str] = {}
        """Of live calls: once the call is over, nobody can tell any more."""

    def keep(self, call_ref: str, note: Note) -> None:
        """Leave a note."""
        for keeper in self._keepers:
            keeper.keep(self._key_of(call_ref), note)

    def forget(self, call_ref: str) -> None:
        """The call is over: nothing of it is needed."""
        key = self._keys.pop(call_ref, call_ref)
        for keeper in self._keepers:
            keeper.forget(key)

    def let_go(self, call_ref: str) -> None:
        """The call lives on without us: its note stays for whoever has it now."""
        self._keys.pop(call_ref, None)

    def _key_of(self, call_ref: str) -> str:
        return self._keys.setdefault(call_ref, self._key(call_ref))

    async def recall(self, call_ref: str) -> Recalled:
        """The newest note of ``call_ref``; never raises."""
        key = self._key_of(call_ref)
        found = await asyncio.gather(*(_ask(keeper, key) for keeper in self._keepers))
        notes = [each.note for each in found if each.note is not None]
        if notes:
            return Recalled(max(notes, key=lambda note: note.wall_ms))
        return Recalled(problem="; ".join(each.problem for each in found if each.problem))


async def _ask(keeper: Keeper, call_ref: str) -> Recalled:
    try:
        text = await keeper.recall(call_ref)
        return Recalled(Note.from_text(text) if text else None)
    except Exception as exc:
        log.warning("what a call's ladder left cannot be read", call_ref=call_ref, error=str(exc))
        return Recalled(problem=str(exc) or type(exc).__name__)


def shortened(note: Note, strikes: int) -> Note:
    """With the last ``strikes`` strikes only, for a keeper with little room."""
    kept = tuple(replace(s, by=s.by[:24]) for s in note.state.strikes[-strikes:])
    return replace(note, state=replace(note.state, strikes=kept))


def about(note: Note, state: LadderState, pack: Pack, wall_ms: int) -> dict[str, Any]:
    """The particulars of a ladder that goes on, for the journal."""
    return {
        "rung": state.rung.value,
        "strikes": len(state.strikes),
        "continues": note.call_id,
        "age_ms": max(0, wall_ms - note.wall_ms),
        "under_way": note.under_way,
        "pack_changed": note.pack != pack.version,
    }
