"""Sequence order (RFC 3550 appendix A.1) with a reorder buffer that holds only what came too early.

A packet in order passes at once; a hole holds later packets until it is filled or ``WINDOW_NS`` have passed. Memory is
bounded by ``CAPACITY`` packets, whatever the sequence numbers say.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from ivr.rtp_packet import seq_delta

WINDOW_NS = 60_000_000
CAPACITY = 8
MAX_DROPOUT = 3000
MAX_MISORDER = 100
"""Both of RFC 3550 appendix A.1: a jump beyond them is a new sequence once a second packet confirms it."""

RESTART_RUN = 5
"""So many "late" packets in a row, with none in order between, are a sender that began again a little further back."""

_SEEN_MASK = (1 << 128) - 1

T = TypeVar("T")


class Released(NamedTuple, Generic[T]):
    """A packet in its turn; ``lost`` packets went missing right before it; ``resynced`` starts a new sequence."""

    item: T
    lost: int
    resynced: bool


class _Held(NamedTuple, Generic[T]):
    item: T
    due_ns: int


class ReorderBuffer(Generic[T]):
    """Order for one SSRC; the counters only grow."""

    def __init__(self) -> None:
        self.lost = self.reordered = self.late = self.duplicates = self.resyncs = 0
        self._next: int | None = None
        self._held: dict[int, _Held[T]] = {}
        self._seen = 0
        self._stray: tuple[int, T] | None = None
        self._stray_run = 0

    def push(self, sequence: int, item: T, now_ns: int) -> list[Released[T]]:
        """Take a packet; give back those whose turn has come, in order."""
        if self._next is None:
            self._next = sequence
        ahead = seq_delta(sequence, self._next)
        if ahead == 0:
            self._stray = None
            self._stray_run = 0
            if not self._held:
                self._advance(1)
                return [Released(item, 0, False)]
            self.reordered += 1
            self._held[sequence] = _Held(item, now_ns)
            return self._release(0)
        if 0 < ahead <= MAX_DROPOUT:
            return self._hold(sequence, item, now_ns)
        return self._astray(sequence, item, ahead)

    def restart(self) -> list[Released[T]]:
        """Another SSRC begins: release what is held, then take the next packet as the first."""
        released: list[Released[T]] = []
        while self._held:
            released += self._skip()
        self._next, self._stray, self._stray_run, self._seen = None, None, 0, 0
        return released

    def next_deadline_ns(self) -> int | None:
        """When the oldest held packet must go on without those missing before it."""
        return min(held.due_ns for held in self._held.values()) if self._held else None

    def on_deadline(self, now_ns: int) -> list[Released[T]]:
        """Give up on packets that are overdue."""
        released: list[Released[T]] = []
        while (due := self.next_deadline_ns()) is not None and due <= now_ns:
            released += self._skip()
        return released

    def _hold(self, sequence: int, item: T, now_ns: int) -> list[Released[T]]:
        if sequence in self._held:
            self.duplicates += 1
            return []
        self._held[sequence] = _Held(item, now_ns + WINDOW_NS)
        return self._skip() if len(self._held) > CAPACITY else []

    def _skip(self) -> list[Released[T]]:
        assert self._next is not None
        following = self._next
        missing = min(seq_delta(sequence, following) for sequence in self._held)
        self.lost += missing
        self._advance(missing, seen=False)
        return self._release(missing)

    def _release(self, lost: int) -> list[Released[T]]:
        released: list[Released[T]] = []
        while self._next is not None and (held := self._held.pop(self._next, None)) is not None:
            released.append(Released(held.item, 0 if released else lost, False))
            self._advance(1)
        return released

    def _advance(self, count: int, seen: bool = True) -> None:
        assert self._next is not None
        self._next = (self._next + count) & 0xFFFF
        self._seen = (self._seen << min(count, 128) | seen) & _SEEN_MASK

    def _astray(self, sequence: int, item: T, ahead: int) -> list[Released[T]]:
        near = -MAX_MISORDER <= ahead < 0
        if near and self._was_seen(-ahead):
            self.duplicates += 1
        else:
            self.late += 1
        following = self._stray is not None and seq_delta(sequence, self._stray[0]) == 1
        self._stray_run = self._stray_run + 1 if following else 1
        previous, self._stray = self._stray, (sequence, item)
        if self._stray_run < (RESTART_RUN if near else 2):
            return []
        self.resyncs += 1
        released = self.restart()
        self._next = sequence
        self._advance(1)
        parked = [] if near or previous is None else [previous[1]]
        self.late -= len(parked) + (not near)
        return released + [Released(each, 0, number == 0) for number, each in enumerate([*parked, item])]

    def _was_seen(self, back: int) -> bool:
        bit = 1 << (back - 1)
        seen = bool(self._seen & bit)
        self._seen |= bit
        return seen
