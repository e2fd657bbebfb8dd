"""The latest rows of each live call, in memory, so that a page which opens in the middle of a call can draw it."""

from __future__ import annotations

from collections import OrderedDict, deque

from ivr.types import JournalEvent, JournalRow, LiveEvent, LiveRow

ROWS = 200
"""Of one call: some minutes of a lively one. Where the call stands is told besides, so nothing is lost beyond them."""
MAX_CALLS = 2_000
_PASSING = frozenset({LiveEvent.PARTIAL, LiveEvent.PARTIAL_SIGNAL, LiveEvent.SPEAKING})
"""What the next moment replaces."""


class Recent:
    """Lives on the loop. A call's rows are forgotten when it ends: what is kept, is kept by the journal."""

    def __init__(self, *, rows: int = ROWS, max_calls: int = MAX_CALLS) -> None:
        self._rows, self._max = rows, max_calls
        self._calls: OrderedDict[str, deque[JournalRow | LiveRow]] = OrderedDict()

    def add(self, row: JournalRow | LiveRow) -> None:
        """One row as it happens."""
        if row.event is JournalEvent.CALL_ENDED:
            self._calls.pop(row.call_id, None)
            return
        known = self._calls.get(row.call_id)
        if known is None:
            if row.event is not JournalEvent.CALL_STARTED:
                return  # what comes after the end belongs to nobody's page
            known = self._calls[row.call_id] = deque(maxlen=self._rows)
            if len(self._calls) > self._max:
                self._calls.popitem(last=False)
        if row.event not in _PASSING:
            known.append(row)

    def of(self, call_id: str) -> list[JournalRow | LiveRow]:
        """The rows of a live call, oldest first; none of any other."""
        return list(self._calls.get(call_id, ()))
