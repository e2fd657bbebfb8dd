"""One thread that wakes every stream when its next packet is due, by absolute deadlines on the monotonic clock."""

from __future__ import annotations

import heapq
import itertools
import threading
from typing import Protocol

import structlog

from ivr import clock

_log = structlog.get_logger("firmline.rtp")

_FAULT_RETRY_NS = 20_000_000
_JOIN_S = 1.0


class Paced(Protocol):
    """Something with deadlines."""

    def service(self, now_ns: int) -> int | None:
        """Do what is due at ``now_ns``; return the next deadline, or ``None`` to be left alone."""


class Pacer:
    """A deadline queue with its thread. :meth:`schedule` may be called from any thread."""

    def __init__(self) -> None:
        self.faults = 0
        self._changed = threading.Condition()
        self._heap: list[tuple[int, int, Paced]] = []
        self._due: dict[Paced, int] = {}
        self._serial = itertools.count()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="rtp-pacer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End and join the thread; harmless when repeated."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            self._thread = None

    def schedule(self, item: Paced, due_ns: int | None) -> None:
        """Have ``item.service`` called at ``due_ns``, or earlier if it is already to be called earlier."""
        if due_ns is None:
            return
        with self._changed:
            known_ns = self._due.get(item)
            if known_ns is not None and known_ns <= due_ns:
                return
            first_ns = self._heap[0][0] if self._heap else None
            self._due[item] = due_ns
            heapq.heappush(self._heap, (due_ns, next(self._serial), item))
            if first_ns is None or due_ns < first_ns:
                self._changed.notify()

    def forget(self, item: Paced) -> None:
        """Drop what is scheduled for ``item``."""
        with self._changed:
            self._due.pop(item, None)
            if len(self._heap) > 64 + 4 * len(self._due):  # entries of closed streams go once they outnumber live ones
                self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
                heapq.heapify(self._heap)

    def take_due(self, now_ns: int) -> list[Paced]:
        """Remove and return everything due at ``now_ns``, most overdue first."""
        due: list[Paced] = []
        with self._changed:
            while self._heap and self._heap[0][0] <= now_ns:
                due_ns, _, item = heapq.heappop(self._heap)
                if self._due.get(item) == due_ns:
                    del self._due[item]
                    due.append(item)
        return due

    def _run(self) -> None:
        while not self._stopping:
            with self._changed:
                if not self._stopping:
                    self._changed.wait(self._wait_s(clock.monotonic_ns()))
            for item in self.take_due(clock.monotonic_ns()):
                self._service(item)

    def _wait_s(self, now_ns: int) -> float | None:
        return max(0, self._heap[0][0] - now_ns) / 1e9 if self._heap else None

    def _service(self, item: Paced) -> None:
        now_ns = clock.monotonic_ns()
        try:
            next_ns = item.service(now_ns)
        except Exception:
            self.faults += 1
            _log.exception("pacer_fault", faults=self.faults)
            next_ns = now_ns + _FAULT_RETRY_NS
        self.schedule(item, next_ns)
