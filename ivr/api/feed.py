"""Journal rows and live words as they happen, for whoever watches; a watcher who cannot keep up is let go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ivr.mask import clean
from ivr.types import JournalRow, LiveEvent, LiveRow
from policies.types import Audience

MAX_WAITING = 256
"""Rows one watcher may be behind: more than ten seconds of the busiest call."""
MAX_WATCHERS = 512
"""A page for each agent of a large site and a few walls; each costs a queue and, for an agent, only their own rows."""


class FeedFull(Exception):
    """There are as many watchers as are allowed."""


class Watcher:
    """One watcher's queue; lives on the loop."""

    def __init__(self, words: bool, ext: str | None, max_waiting: int) -> None:
        self.words, self.ext = words, ext
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
        self.agent_of: Callable[[str], str | None] = lambda _call_id: None
        """The extension whose call that is."""

    def __len__(self) -> int:
        return len(self._watchers)

    def publish(self, row: JournalRow | LiveRow) -> None:
        """Never blocks and never raises: a row that cannot be written out is left out."""
        if not self._watchers:
            return
        texts: dict[bool, str] = {}
        ext = self.agent_of(row.call_id)
        for watcher in list(self._watchers):
            if watcher.ext is not None and (watcher.ext != ext or _not_for_agents(row)):
                continue
            if watcher.words not in texts:
                texts[watcher.words] = as_json(row, words=watcher.words)
            if not watcher.offer(texts[watcher.words]):
                self._watchers.discard(watcher)

    @contextmanager
    def watching(self, *, words: bool = False, ext: str | None = None) -> Iterator[Watcher]:
        """Rows published inside the ``with`` block reach the watcher; without ``words``, nobody's words are in them;
        with ``ext``, only those of calls of that extension.

        Raises:
            FeedFull: too many watchers.
        """
        if len(self._watchers) >= self._max_watchers:
            raise FeedFull
        watcher = Watcher(words, ext, self._max_waiting)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)


def _not_for_agents(row: JournalRow | LiveRow) -> bool:
    return row.event == LiveEvent.TOLD and row.data.get("audience") != Audience.AGENT


def as_json(row: JournalRow | LiveRow, *, words: bool) -> str:
    """A row as one JSON object: ``call_id``, ``event``, ``at``, ``t_ms``, ``data``; numbers masked."""
    data = clean(row.data, store_words=words)
    return json.dumps({"call_id": row.call_id, "event": row.event, "at": row.at, "t_ms": row.t_ms, "data": data})
