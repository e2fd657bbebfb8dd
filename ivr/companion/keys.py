"""Which combination is which key, and that a key which is held or hammered is one press. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ivr.errors import ConfigError
from policies.types import Key

DEFAULTS: Mapping[Key, str] = {
    Key.MINUTE: "<ctrl>+<shift>+<f8>",
    Key.WARN: "<ctrl>+<shift>+<f9>",
    Key.PARDON: "<ctrl>+<shift>+<f10>",
    Key.TRANSFER: "<ctrl>+<shift>+<f11>",
    Key.END: "<ctrl>+<shift>+<f12>",
}
"""Five in a row, warn and pardon in the middle. With Ctrl and Alt, Linux would switch consoles; letters with Ctrl and
Shift belong to browsers."""
NOTHING = "none"
DEBOUNCE_MS = 700


def combinations(given: Mapping[Key, str]) -> dict[str, Key]:
    """Keys by their combination; ``none`` leaves one out.

    Raises:
        ConfigError: none is left, or two keys share a combination.
    """
    found: dict[str, Key] = {}
    for key, default in DEFAULTS.items():
        combination = given.get(key) or default
        if combination == NOTHING:
            continue
        if combination in found:
            raise ConfigError(f"--{key.value} and --{found[combination].value} are both {combination}")
        found[combination] = key
    if not found:
        raise ConfigError("every key is none: there is nothing to press")
    return found


def spoken(combination: str) -> str:
    """``Ctrl+Shift+F9``, for people."""
    parts = combination.replace("<", "").replace(">", "").split("+")
    return "+".join(part.upper() if len(part) <= 3 and part[-1].isdigit() else part.capitalize() for part in parts)


class Debounce:
    """A key within ``DEBOUNCE_MS`` of itself is the same press."""

    def __init__(self) -> None:
        self._last_ms: dict[Key, int] = {}

    def fresh(self, key: Key, now_ms: int) -> bool:
        """Whether this is a press of its own."""
        last_ms = self._last_ms.get(key)
        self._last_ms[key] = now_ms
        return last_ms is None or now_ms - last_ms >= DEBOUNCE_MS
