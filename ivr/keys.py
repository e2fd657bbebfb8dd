"""A key that is held down is one press.

A keyboard repeats a held key after 250 to 700 ms and then some thirty times a second; a person who keeps the warn key
down for the length of a warning would else have the final warning played right behind it.
"""

from __future__ import annotations

from policies.types import Hotkey, Key

HELD_MS = 1_000
"""Longer than any keyboard waits before it repeats. Two presses of one key so close together are one as well: pressing
warn twice in a second is impatience, not a second warning."""
MAX_SOURCES = 64
"""Of one call; sources are named by whoever presses, so they must not grow without bound."""


class HeldKeys:
    """The presses of one call, by source and key."""

    def __init__(self) -> None:
        self._last_ms: dict[tuple[str, Key], int] = {}

    def fresh(self, hotkey: Hotkey, now_ms: int) -> bool:
        """Whether this is a press of its own; each repetition keeps the key held for another ``HELD_MS``."""
        source = (hotkey.by, hotkey.key)
        last_ms = self._last_ms.pop(source, None)
        self._last_ms[source] = now_ms
        while len(self._last_ms) > MAX_SOURCES:
            del self._last_ms[next(iter(self._last_ms))]
        return last_ms is None or now_ms - last_ms >= HELD_MS
