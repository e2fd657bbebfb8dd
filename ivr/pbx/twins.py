"""Two processes under one endpoint: settings copied to a second machine, or a restart beside one that still runs.

The PBX keeps one registration of an endpoint, so only one of them can have taps; and each would hang up the other's
legs as those of a dead process. So one works and the other stands by, and both say so. Sans-I/O: what the endpoint's
own beat (``ivr.pbx.claims``) holds at the PBX goes in.

A beat that is another run's *and* has changed since we looked or wrote last is the beat of a living one; what a dead
run left there never changes again.

| we are      | the other is | then                                                          |
|-------------|--------------|---------------------------------------------------------------|
| active      | active       | who was started first stays; the other one stands by          |
| active      | standing by  | stay                                                          |
| standing by | active       | stay                                                          |
| standing by | standing by  | who was started first becomes active                          |
| either      | silent for a lease, or has said goodbye | active                             |
| active, but silent for a lease | active | stand by: we were asleep, and it has taken over    |

A login begins standing by, until it is known whether the beat found there is alive.
"""

from __future__ import annotations

from dataclasses import dataclass

from ivr.pbx.claims import LEASE_MS

FRESH_MS = 1_200
"""A living run's beat is at most this old: one beat, and the way of it."""


@dataclass(frozen=True, slots=True)
class Beat:
    """One value of an endpoint's beat. ``wall_ms``: when it was written, by the writer's clock; ``place``: where
    (``ivr.pbx.place``)."""

    run_id: str
    started_ms: int
    number: int
    active: bool
    twin: bool
    wall_ms: int
    place: str = ""

    def to_text(self) -> str:
        """For the PBX."""
        role = ("a" if self.active else "s") + ("+" if self.twin else "")
        return f"{self.run_id}/{self.started_ms}/{self.number}/{role}/{self.wall_ms}/{self.place}"

    @classmethod
    def from_text(cls, text: str) -> Beat | None:
        """What ``to_text`` gave; ``None`` for anything else."""
        parts = text.split("/")
        if len(parts) != 6 or not all(part.isdigit() for part in (parts[1], parts[2], parts[4])):
            return None
        run_id, started, number, role, wall, place = parts
        return cls(run_id, int(started), int(number), role.startswith("a"), role.endswith("+"), int(wall), place)


class Twins:
    """Us, and perhaps another under our name. ``started_ms``: wall clock."""

    def __init__(self, run_id: str, started_ms: int, place: str = "") -> None:
        self._run_id, self._started_ms, self._place = run_id, started_ms, place
        self._number = 0
        self._last: str | None = None
        self._other: Beat | None = None
        self._seen_ms = self._said_ms = 0
        self.active = False

    def enter(self) -> None:
        """A new login: what was known may be long ago."""
        self._last, self._other, self.active = None, None, False

    def look(self, text: str, now_ms: int) -> None:
        """What our endpoint's beat holds now."""
        beat = Beat.from_text(text)
        if not text:
            self._other = None
        elif beat is not None and beat.run_id != self._run_id and self._last is not None and text != self._last:
            self._other, self._seen_ms = beat, now_ms
        self._last = text

    def may_be_alive(self, wall_ms: int) -> str | None:
        """The place of whose beat was found after the login, if it is so fresh that the next one has to be waited for
        (or that place asked)."""
        beat = Beat.from_text(self._last or "")
        if beat is None or beat.run_id == self._run_id or not 0 <= wall_ms - beat.wall_ms < FRESH_MS:
            return None
        return beat.place

    def say(self, now_ms: int, wall_ms: int) -> str:
        """Our next beat."""
        self._number += 1
        self._said_ms = now_ms
        twin = self.other(now_ms) is not None
        self._last = Beat(
            self._run_id, self._started_ms, self._number, self.active, twin, wall_ms, self._place
        ).to_text()
        return self._last

    def other(self, now_ms: int) -> Beat | None:
        """The last beat of another living run, if there is one."""
        return self._other if now_ms - self._seen_ms < LEASE_MS else None

    def decide(self, now_ms: int) -> bool:
        """Whether we are the one that works, from now on."""
        other = self.other(now_ms)
        if other is not None and other.active and now_ms - self._said_ms >= LEASE_MS:
            self.active = False  # we were asleep, and it has taken over
        if other is None:
            self.active = True
        elif other.active is self.active:
            self.active = (self._started_ms, self._run_id) < (other.started_ms, other.run_id)
        return self.active


def two_alive(first: Beat | None, later: Beat | None) -> bool:
    """Whether two looks, more than a beat apart, show that two runs have this endpoint."""
    return first is not None and later is not None and later != first and (later.twin or later.run_id != first.run_id)
