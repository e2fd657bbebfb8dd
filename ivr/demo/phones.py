"""A softphone with a name: answers or dials, speaks given samples, and keeps what it heard on a true timeline.

Recordings grow by one frame each media tick from the moment the call is up, silence where nothing came, so that a
position in the file is a time in the call.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from audio.types import PTIME_MS, Pcm
from audio.wavio import write_wav
from ivr.demo.stack import FRAME_BYTES, RATE_HZ, Dialog, Extension, PhoneError, Stack

_SILENCE = bytes(FRAME_BYTES)
_STRETCH_GAP_FRAMES = 75
"""Pauses of up to 1.5 s belong to one stretch: a prompt with its own pauses stays whole."""
SPEECH_DBOV = -45.0
"""A frame louder than this is sound: telephone speech is near -26 dBov, mu-law idle noise below -70."""


@dataclass(slots=True)
class Tape:
    """What passed one ear or mouth, frame by frame. ``started_ms`` is the monotonic time of its first sample."""

    started_ms: int | None = None
    _frames: list[bytes] = field(default_factory=list)

    def put(self, frame: bytes | None, now_ms: int) -> None:
        """Append one tick's frame; ``None`` is silence."""
        if self.started_ms is None:
            self.started_ms = now_ms
        self._frames.append(frame or _SILENCE)

    @property
    def duration_ms(self) -> int:
        """Length so far."""
        return len(self._frames) * PTIME_MS

    def pcm(self) -> Pcm:
        """Everything so far, 8 kHz."""
        return np.frombuffer(b"".join(list(self._frames)), dtype=np.int16)

    def save(self, path: Path) -> Path:
        """Write it as a 8 kHz mono WAV; an empty tape becomes one silent frame."""
        samples = self.pcm()
        path.write_bytes(write_wav(samples if len(samples) else np.zeros(FRAME_BYTES // 2, np.int16), RATE_HZ))
        return path


class Earful:
    """Keeps only what was sound, in stretches, so that minutes of silence on many legs cost nothing."""

    def __init__(self) -> None:
        self.started_ms: int | None = None
        self.stretches: list[tuple[int, list[bytes]]] = []
        """Each with its offset in ms from the beginning."""
        self._frames = 0
        self._quiet = _STRETCH_GAP_FRAMES

    def put(self, frame: bytes | None, now_ms: int) -> None:
        """Append one tick's frame; ``None`` is silence."""
        if self.started_ms is None:
            self.started_ms = now_ms
        loud = frame is not None and frame != _SILENCE and is_sound(frame)
        self._quiet = 0 if loud else self._quiet + 1
        if loud and (not self.stretches or self._quiet_before_exceeded()):
            self.stretches.append((self._frames * PTIME_MS, []))
        if self._quiet < _STRETCH_GAP_FRAMES and self.stretches:
            self.stretches[-1][1].append(frame or _SILENCE)
        self._frames += 1

    def _quiet_before_exceeded(self) -> bool:
        offset_ms, frames = self.stretches[-1]
        return offset_ms // PTIME_MS + len(frames) < self._frames


class Phone:
    """One softphone, one call at a time. ``auto_answer`` phones pick up by themselves; a busy phone refuses."""

    def __init__(self, stack: Stack, extension: Extension, *, auto_answer: bool, keep: bool) -> None:
        self.earful: Earful | None = None
        """Set it to keep what is heard in stretches, with or without ``keep``."""
        self.name = extension.user
        self.uri = extension.uri
        self.heard = Tape()
        self.said = Tape()
        self.auto_answer = auto_answer
        self.headers: Mapping[str, str] = {}
        """Firmline's headers on the INVITE that was answered, by lower-case name."""
        self.ringing = asyncio.Event()
        """Somebody has called this phone since it was made."""
        self.in_call = asyncio.Event()
        self.over = asyncio.Event()
        self._stack = stack
        self._extension = extension
        self._keep = keep
        self._dialog: Dialog | None = None
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._lines: deque[_Line] = deque()
        self._quiet_ms = 0
        self._waiters: list[_QuietWaiter] = []

    @classmethod
    async def create(cls, stack: Stack, name: str, *, auto_answer: bool = True, keep: bool = True) -> Phone:
        """A phone at ``stack.uri(name)``. ``keep=False`` records nothing. Raises :class:`PhoneError`."""
        extension = await stack.extension(name)
        phone = cls(stack, extension, auto_answer=auto_answer, keep=keep)
        extension.on_incoming(phone.take)
        return phone

    async def dial(self, uri: str, headers: Mapping[str, str] | None = None, timeout_s: float = 10.0) -> None:
        """Call ``uri`` and return when it is answered.

        Raises:
            PhoneError: already in a call, refused, or no answer within ``timeout_s``.
        """
        if self._dialog is not None:
            raise PhoneError(f"{self.name} is already in a call")
        dialog = await self._extension.dial(uri, headers)
        self._adopt(dialog)
        await dialog.wait_up(timeout_s)
        self._talk(dialog)

    async def say(self, samples: Pcm) -> bool:
        """Speak ``samples`` (8 kHz) after whatever is being said; returns when the last one has been handed over.

        False when the call ended first.
        """
        if not self.in_call.is_set():
            return False
        line = _Line(samples.astype("<i2").tobytes(), self._loop.create_future())
        with self._lock:
            self._lines.append(line)
        if self.over.is_set():
            self._give_up()
        return await line.done

    async def wait_quiet(self, quiet_ms: int, ceiling_s: float) -> bool:
        """Wait until this ear has heard nothing for ``quiet_ms``; false at the ceiling or when the call ended."""
        if not self.in_call.is_set():
            return False
        waiter = _QuietWaiter(quiet_ms, self._loop.create_future())
        with self._lock:
            self._quiet_ms = 0
            self._waiters.append(waiter)
        try:
            async with asyncio.timeout(ceiling_s):
                return await waiter.done
        except TimeoutError:
            return False
        finally:
            with self._lock:
                self._waiters = [w for w in self._waiters if w is not waiter]

    def rewind(self) -> None:
        """Start both recordings anew; for between calls."""
        self.heard = Tape()
        self.said = Tape()

    async def hang_up(self) -> None:
        """End the call; harmless when there is none."""
        if self._dialog is not None:
            await self._dialog.hang_up()

    def take(self, dialog: Dialog) -> None:
        """An incoming call: answered by an auto-answer phone, left ringing by another, refused when busy."""
        if self._dialog is not None:
            self._stack.refuse(dialog)
            return
        self._adopt(dialog)
        self.ringing.set()
        self.headers = dialog.headers
        if self.auto_answer:
            self._stack.spawn(self._pick_up(dialog))

    async def _pick_up(self, dialog: Dialog) -> None:
        await dialog.answer()
        await dialog.wait_up(5.0)
        self._talk(dialog)

    def _adopt(self, dialog: Dialog) -> None:
        self._dialog = dialog
        self.over.clear()
        dialog.on_over(self._on_over)

    def _talk(self, dialog: Dialog) -> None:
        if dialog.over.is_set():
            return
        self.in_call.set()
        self._stack.clock.add(self._tick)

    def _on_over(self, _dialog: Dialog) -> None:
        self._stack.clock.remove(self._tick)
        self._dialog = None
        self.in_call.clear()
        self.over.set()
        self._give_up()

    def _give_up(self) -> None:
        with self._lock:
            lines, self._lines = list(self._lines), deque()
            waiters = list(self._waiters)
        _resolve_all(lines, waiters, False)

    def _tick(self, now_ms: int) -> None:
        """Media thread: one frame in, one frame out."""
        dialog = self._dialog
        if dialog is None:
            return
        heard = dialog.hear()
        said, finished = self._next_frame(dialog)
        if self._keep:
            self.heard.put(heard, now_ms)
            self.said.put(said, now_ms)
        if self.earful is not None:
            self.earful.put(heard, now_ms)
        quiet = self._listen(heard)
        if finished or quiet:
            self._loop.call_soon_threadsafe(_resolve_all, finished, quiet, True)

    def _next_frame(self, dialog: Dialog) -> tuple[bytes | None, list[_Line]]:
        with self._lock:
            if not self._lines:
                return None, []
            line = self._lines[0]
            frame = line.pcm[line.sent : line.sent + FRAME_BYTES].ljust(FRAME_BYTES, b"\0")
            if not dialog.speak(frame):
                return None, []  # the same frame goes next tick: a line may wait, but loses nothing
            line.sent += FRAME_BYTES
            if line.sent < len(line.pcm):
                return frame, []
            self._lines.popleft()
            return frame, [line]

    def _listen(self, heard: bytes | None) -> list[_QuietWaiter]:
        if not self._waiters:
            return []
        loud = heard is not None and is_sound(heard)
        with self._lock:
            self._quiet_ms = 0 if loud else self._quiet_ms + PTIME_MS
            return [w for w in self._waiters if self._quiet_ms >= w.quiet_ms]


@dataclass(slots=True, eq=False)
class _Line:
    pcm: bytes
    done: asyncio.Future[bool]
    sent: int = 0


@dataclass(slots=True, eq=False)
class _QuietWaiter:
    quiet_ms: int
    done: asyncio.Future[bool]


def _resolve_all(lines: list[_Line], waiters: list[_QuietWaiter], outcome: bool) -> None:
    for future in [line.done for line in lines] + [waiter.done for waiter in waiters]:
        if not future.done():
            future.set_result(outcome)


def is_sound(frame: bytes) -> bool:
    """Whether a frame is louder than ``SPEECH_DBOV``."""
    samples = np.frombuffer(frame, dtype=np.int16).astype(np.float64)
    return bool(np.mean(samples**2) > (32768.0 * 10 ** (SPEECH_DBOV / 20)) ** 2)
