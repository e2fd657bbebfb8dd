"""Journal rows and live words as they happen, for whoever watches; a watcher who cannot keep up is let go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager

from ivr.mask import clean
from ivr.types import JournalRow, LiveRow

MAX_WAITING = 256
"""Rows one watcher may be behind: more than ten seconds of the busiest call."""
MAX_WATCHERS = 64


class FeedFull(Exception):
    """There are as many watchers as are allowed."""


class Watcher:
    """One watcher's queue; lives on the loop."""

    def __init__(self, words: bool, max_waiting: int) -> None:
        self.words = words
        self.dropped = asyncio.Event()
        """Set once when the watcher fell behind; nothing more is queued then."""
        self._queue: asyncio.Queue[str] = asyncio.Queue(max_waiting)

    async def next(self) -> str:
        """The next row as one JSON object."""
        return await self._queue.get()

    def offer(self, text: str) -> bool:
        """Queue one row; false, and ``dropped``, when the watcher is too far behind."""
        try:
            self._queue.put_nowait(text)
        except asyncio.QueueFull:
            self.dropped.set()
            return False
        return True


class EventFeed:
    """Hands each published row to every watcher. Use it from the loop only."""

    def __init__(self, *, max_waiting: int = MAX_WAITING, max_watchers: int = MAX_WATCHERS) -> None:
        self._max_waiting = max_waiting
        self._max_watchers = max_watchers
        self._watchers: set[Watcher] = set()

    def __len__(self) -> int:
        return len(self._watchers)

    def publish(self, row: JournalRow | LiveRow) -> None:
        """Never blocks and never raises: a row that cannot be written out is left out."""
        if not self._watchers:
            return
        texts: dict[bool, str] = {}
        for watcher in list(self._watchers):
            if watcher.words not in texts:
                texts[watcher.words] = as_json(row, words=watcher.words)
            if not watcher.offer(texts[watcher.words]):
                self._watchers.discard(watcher)

    @contextmanager
    def watching(self, *, words: bool = False) -> Iterator[Watcher]:
        """Rows published inside the ``with`` block reach the watcher; without ``words``, nobody's words are in them.

        Raises:
            FeedFull: too many watchers.
        """
        if len(self._watchers) >= self._max_watchers:
            raise FeedFull
        watcher = Watcher(words, self._max_waiting)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)


def as_json(row: JournalRow | LiveRow, *, words: bool) -> str:
    """A row as one JSON object: ``call_id``, ``event``, ``at``, ``t_ms``, ``data``; numbers masked."""
    data = clean(row.data, store_words=words)
    return json.dumps({"call_id": row.call_id, "event": row.event, "at": row.at, "t_ms": row.t_ms, "data": data})
