"""The companion as it runs: pynput's listener feeds a queue, one thread presses, one keeps looking whether it is armed.

pynput is imported here alone, and late: it opens the display as it is imported.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ivr.clock import monotonic_ms
from ivr.companion.client import ApiClient, Armed, Sight
from ivr.companion.keys import Debounce
from ivr.companion.signs import Signs
from ivr.errors import ConfigError, FirmlineError
from policies.types import Key

LOOK_S = 2.0
ALIVE_S = 0.5


class _Listener(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def is_alive(self) -> bool: ...


def listen(combinations: Mapping[str, Key], pressed: Callable[[Key], None]) -> _Listener:
    """A started listener for global keys.

    Raises:
        FirmlineError: there is no desktop, or the extra is not installed.
        ConfigError: a combination is none.
    """
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        raise FirmlineError(
            "there is no X display (DISPLAY is not set): run this in the agent's desktop session; on Wayland bind the "
            "curl line of docs/api.md to a key in the desktop's own settings"
        )
    try:
        from pynput import keyboard
    except ImportError as exc:
        if "pynput" in str(exc) and getattr(exc, "name", None) == "pynput":
            raise FirmlineError("global keys need an extra: pip install 'firmline[hotkey]'") from exc
        raise FirmlineError(f"the desktop's keyboard cannot be listened to: {exc}") from exc
    for combination in combinations:
        try:
            keyboard.HotKey.parse(combination)
        except ValueError:
            raise ConfigError(
                f"{combination!r} is no key combination: write it as <ctrl>+<shift>+<f9> or <cmd>+<alt>+w"
            ) from None

    def on(key: Key) -> Callable[[], None]:
        return lambda: pressed(key)

    listener: Any = keyboard.GlobalHotKeys({combination: on(key) for combination, key in combinations.items()})
    listener.start()
    listener.wait()
    return listener  # type: ignore[no-any-return]


def companion(
    make_client: Callable[[], ApiClient], combinations: Mapping[str, Key], signs: Signs, stop: threading.Event
) -> None:
    """Run until ``stop``.

    Raises:
        FirmlineError: the keyboard cannot be listened to, or no longer.
    """
    presses: queue.Queue[Key] = queue.Queue(64)
    debounce = Debounce()

    def take(key: Key) -> None:
        if debounce.fresh(key, monotonic_ms()) and not presses.full():
            presses.put_nowait(key)

    client = make_client()
    listener = listen(combinations, take)
    wake = threading.Event()
    looking = threading.Thread(target=_look, args=(make_client, signs, stop, wake), name="look", daemon=True)
    looking.start()
    try:
        while not stop.is_set():
            try:
                key = presses.get(timeout=ALIVE_S)
            except queue.Empty:
                if not listener.is_alive():
                    raise FirmlineError("the desktop's keyboard is gone: is the session over?") from None
                continue
            began_ms = monotonic_ms()
            outcome = client.press(key)
            signs.pressed(key, outcome, monotonic_ms() - began_ms)
            wake.set()  # the call moved, or the connection is gone: either shows at once
    finally:
        stop.set()
        wake.set()
        listener.stop()
        looking.join(5)
        client.close()


def _look(make_client: Callable[[], ApiClient], signs: Signs, stop: threading.Event, wake: threading.Event) -> None:
    """Tell every change of whether a key would reach anything."""
    client = make_client()
    known: Sight | None = None
    while not stop.is_set():
        sight = client.look()
        if sight != known:
            signs.sight(sight)
            if sight.armed is not Armed.ARMED and known is not None and known.armed is Armed.ARMED:
                signs.lost(sight)
            known = sight
        wake.wait(LOOK_S)
        wake.clear()
    client.close()
