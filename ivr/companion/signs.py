"""What the person sees and hears: terminal title, status line, a desktop notification, a sound. None of it can fail."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from audio.wavio import write_wav
from ivr.companion.client import Armed, Pressed, Sight
from policies.types import Key

RATE_HZ = 16_000
PLAYERS = (("pw-play",), ("paplay",), ("aplay", "-q"), ("afplay",))
_TITLES = {Armed.ARMED: "armed", Armed.NOT_CONNECTED: "NOT CONNECTED", Armed.REFUSED: "REFUSED"}
_COLOURS = {Armed.ARMED: "\x1b[32m", Armed.NOT_CONNECTED: "\x1b[31m", Armed.REFUSED: "\x1b[31m"}


class Signs:
    """``as_json``: an object a line instead of a status line. ``sound``: auto (a player, else the bell), bell, none."""

    def __init__(self, ext: str, *, sound: str, notify: bool, as_json: bool, out: TextIO | None = None) -> None:
        self._ext, self._notify, self._json = ext, notify, as_json
        self._out = out or sys.stdout
        self._tty = not as_json and self._out.isatty()
        self._player = next((p for p in PLAYERS if sound == "auto" and shutil.which(p[0])), None)
        self._bell = sound != "none"
        self._folder = tempfile.TemporaryDirectory(prefix="firmline-hotkey-") if self._player else None
        self._sounds = {ok: self._render(ok) for ok in (True, False)} if self._player else {}

    def sight(self, sight: Sight) -> None:
        """How it stands now; called on changes."""
        if self._json:
            self._emit({"event": "state", "state": sight.armed.value, "detail": sight.detail, "ext": self._ext})
            return
        if self._tty:
            self._say(f"\x1b]0;Firmline {self._ext}: {_TITLES[sight.armed]}\x07\r\x1b[2K")
            self._say(f"{_COLOURS[sight.armed]}\u25cf\x1b[0m {sight.armed.value}: {self._ext}, {sight.detail} ")
        else:
            self._say(f"{sight.armed.value}: {self._ext}, {sight.detail}\n")

    def lost(self, sight: Sight) -> None:
        """No longer armed: that must be noticed before the key is needed."""
        self._pop(f"Hotkeys are off: {sight.detail}")
        self._ring(False)

    def pressed(self, key: Key, pressed: Pressed, took_ms: int) -> None:
        """What became of a key."""
        if self._json:
            detail = {"ok": pressed.ok, "detail": pressed.detail, "took_ms": took_ms}
            self._emit({"event": "pressed", "key": key.value, **detail})
        else:
            start = "\r\x1b[2K" if self._tty else ""
            done = f"{key.value}: done in {took_ms} ms, {pressed.detail}"
            self._say(f"{start}{done if pressed.ok else f'{key.value} DID NOT WORK: {pressed.detail}'}\n")
        if not pressed.ok:
            self._pop(f"{key.value} did not work: {pressed.detail}")
        self._ring(pressed.ok)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._tty:
            self._say("\x1b]0;\x07\n")
        if self._folder is not None:
            self._folder.cleanup()

    def _emit(self, row: dict[str, Any]) -> None:
        self._say(json.dumps(row) + "\n")

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._out.write(text)
            self._out.flush()

    def _ring(self, ok: bool) -> None:
        if self._player is not None:
            self._run(*self._player, str(self._sounds[ok]))
        elif self._bell and self._tty:
            self._say("\a" if ok else "\a\a")
        elif self._bell and sys.platform == "win32":
            import winsound

            winsound.MessageBeep(winsound.MB_OK if ok else winsound.MB_ICONHAND)

    def _pop(self, text: str) -> None:
        if not self._notify:
            return
        if shutil.which("notify-send"):
            self._run("notify-send", "--urgency=critical", "Firmline", text)
        elif sys.platform == "darwin":
            self._run("osascript", "-e", f'display notification {json.dumps(text)} with title "Firmline"')

    def _run(self, *command: str) -> None:
        with contextlib.suppress(OSError):
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _render(self, ok: bool) -> Path:
        """Two rising tones, or one low one; quiet enough for a headset."""
        assert self._folder is not None
        t = np.arange(RATE_HZ * 90 // 1000) / RATE_HZ
        fade = np.minimum(1, np.minimum(t, t[::-1]) * 100)
        tones = [np.sin(2 * np.pi * hz * t) * fade * 0.15 for hz in ((660, 990) if ok else (220, 220))]
        path = Path(self._folder.name) / ("done.wav" if ok else "failed.wav")
        path.write_bytes(write_wav((np.concatenate(tones) * 32767).astype(np.int16), RATE_HZ))
        return path
