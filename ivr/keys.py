"""A key that is held down is one press.

A keyboard repeats a held key after 250 to 700 ms and then some thirty times a second; a person who keeps the warn key
down for the length of a warning would else have the final warning played right behind it.
"""

from __future__ import annotations

from policies.types import Hotkey, Key

HELD_MS = 1_000
"""Longer than any keyboard waits before it repeats. Two presses of one key so close together are one as well: pressing
warn twice in a second is impatience, not a second warning. Another key in between shows that the first was let go."""
MAX_SOURCES = 64
"""Of one call; sources are named by whoever presses, so they must not grow without bound."""


class HeldKeys:
    """The presses of one call: the last key of each source."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Key, int]] = {}

    def fresh(self, hotkey: Hotkey, now_ms: int) -> bool:
        """Whether this is a press of its own; each repetition keeps the key held for another ``HELD_MS``."""
        key, last_ms = self._last.pop(hotkey.by, (None, 0))
        self._last[hotkey.by] = hotkey.key, now_ms
        while len(self._last) > MAX_SOURCES:
            del self._last[next(iter(self._last))]
        return key is not hotkey.key or now_ms - last_ms >= HELD_MS
