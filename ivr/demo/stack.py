"""Real SIP on loopback for the demo and its tests: one baresip stack, many extensions, one media clock.

Owns the process's only baresip runtime (libre's state is process-global) and the thread that ticks every 20 ms; never
knows what a phone or an exchange does with its frames. The only importer of ``baresip``.

Settings that matter, each measured: ``video_codecs=none`` (else baresip re-INVITEs every answered call),
``max_concurrent_calls=None`` (its own limit is four), jitter buffer off (stock costs 107 ms; loopback needs none).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any

from audio.types import PTIME_MS
from ivr.clock import monotonic_ns
from ivr.errors import FirmlineError
from ivr.lines.base import HEADER_AGENT, HEADER_CALL, HEADER_SIDE

RATE_HZ = 8000
FRAME_BYTES = RATE_HZ * PTIME_MS // 1000 * 2
LOOPBACK = "127.0.0.1"

_MAX_BUFFERED_FRAMES = 3
"""60 ms: more would be delay that never goes away, less turns scheduling jitter into gaps."""
_PRIME_BYTES = 2 * FRAME_BYTES
"""Sound starts once two frames wait, in and out, so that a late tick takes the spare one and leaves no gap."""
_SILENCE = bytes(FRAME_BYTES)
_READ_BYTES = 32768
_MAX_CATCH_UP_TICKS = 50
_COMMAND_CEILING_S = 5.0
_BACKGROUND_CEILING_S = 1.0
_MAX_EARLY = 256
_PORT_ATTEMPTS = 5

log = logging.getLogger(__name__)


class PhoneError(FirmlineError):
    """A softphone could not do what was asked: refused, busy, no answer, or the stack is missing."""


def _import_baresip() -> Any:
    try:
        import baresip
    except ImportError as exc:
        raise PhoneError("the demo's softphones need baresip: pip install 'firmline[baresip]'") from exc
    return baresip


class MediaClock:
    """Calls every registered tick each 20 ms, on its own thread, against absolute time so that it never drifts."""

    def __init__(self) -> None:
        self._ticks: list[Callable[[int], None]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-media", daemon=True)

    def start(self) -> None:
        """Start ticking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop ticking and join the thread; harmless when never started."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2)

    def add(self, tick: Callable[[int], None]) -> None:
        """From now on call ``tick(now_ms)`` every 20 ms on the media thread; ``now_ms`` is the tick's nominal time."""
        with self._lock:
            self._ticks = [*self._ticks, tick]

    def remove(self, tick: Callable[[int], None]) -> None:
        """Stop calling ``tick``; one call may still be under way. Harmless when it is not registered."""
        with self._lock:
            self._ticks = [t for t in self._ticks if t != tick]

    async def pause(self, ms: int) -> None:
        """Wait ``ms`` of media time: what a person does between two sentences, counted in frames."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        left = -(-ms // PTIME_MS)

        def count(_now_ms: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                loop.call_soon_threadsafe(_finish, done)

        self.add(count)
        try:
            await done
        finally:
            self.remove(count)

    def _run(self) -> None:
        period_ns = PTIME_MS * 1_000_000
        due_ns = monotonic_ns() + period_ns
        while not self._stop.wait(max(0.0, (due_ns - monotonic_ns()) / 1e9)):
            late = (monotonic_ns() - due_ns) // period_ns
            if late > _MAX_CATCH_UP_TICKS:  # suspended for over a second: catching up would only be a burst
                due_ns += late * period_ns
            for tick in self._ticks:
                try:
                    tick(due_ns // 1_000_000)
                except Exception:  # one broken phone must not silence the others
                    log.exception("media tick failed; this phone is dropped from the clock")
                    self.remove(tick)
            due_ns += period_ns


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Dialog:
    """One SIP call of ours, either direction, with its audio as 20 ms frames.

    ``hear`` and ``speak`` may be called from the media thread; everything else from the loop that opened the stack.
    """

    def __init__(self, call: Any, baresip: Any) -> None:
        self._call = call
        self._baresip = baresip
        self._fifo = bytearray()
        self._flowing = False
        self.headers: Mapping[str, str] = {k.lower(): v for k, v in call.headers.items()}
        self.peer: str = call.peer or ""
        self.up = asyncio.Event()
        """Set once the call is established."""
        self.over = asyncio.Event()
        """Set once the call is closed, whoever closed it."""
        self.why_over = ""
        self._changed = asyncio.Event()
        self._on_over: list[Callable[[Dialog], None]] = []
        call.on(self.on_event)

    def on_event(self, event: Any) -> None:
        """What the stack reports about this call."""
        events = self._baresip.Event
        if event.event is events.CALL_ESTABLISHED:
            self.up.set()
            self._changed.set()
        elif event.event is events.CALL_CLOSED:
            self._close(event.text or "no reason given")

    def _close(self, why: str) -> None:
        if self.over.is_set():
            return
        self.why_over = why
        self.over.set()
        self._changed.set()
        for callback in self._on_over:
            callback(self)

    def on_over(self, callback: Callable[[Dialog], None]) -> None:
        """Call ``callback(self)`` once when the call closes; at once if it already has."""
        if self.over.is_set():
            callback(self)
        else:
            self._on_over.append(callback)

    @property
    def live(self) -> bool:
        """Whether the call is established and not yet closed."""
        return self.up.is_set() and not self.over.is_set()

    async def answer(self) -> None:
        """Answer an incoming call. Raises :class:`PhoneError` when it is already gone."""
        try:
            await self._call.answer()
        except self._baresip.BaresipError as exc:
            raise PhoneError(f"could not answer: {exc}") from exc

    async def wait_up(self, timeout_s: float) -> None:
        """Wait until established. Raises :class:`PhoneError` when refused or not answered in time (then hung up)."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        if self.over.is_set():
            raise PhoneError(f"{self.peer}: {self.why_over}")
        if not self.up.is_set():
            await self.hang_up()
            raise PhoneError(f"{self.peer}: no answer in {timeout_s:g} s")

    async def hang_up(self) -> None:
        """BYE, CANCEL or refuse, whatever the state; waits for the close. Harmless when already over."""
        if self.over.is_set():
            return
        # Already gone is as good as hung up; a stack that answers nothing is closed with the stack.
        with contextlib.suppress(self._baresip.BaresipError):
            await self._call.hangup()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), _COMMAND_CEILING_S)

    def hear(self) -> bytes | None:
        """The next 20 ms (320 bytes, s16) this side received, or ``None`` when nothing came.

        What waits is bounded: beyond 60 ms the oldest goes, so delay never grows.
        """
        if not self.live:
            return None
        try:
            self._fifo += self._call.audio.read(_READ_BYTES)
        except self._baresip.BaresipError:  # media not up yet, gone, or renegotiated: next tick binds again
            return None
        excess = len(self._fifo) - _MAX_BUFFERED_FRAMES * FRAME_BYTES
        if excess > 0:
            del self._fifo[: excess + excess % 2]
        if len(self._fifo) < (FRAME_BYTES if self._flowing else _PRIME_BYTES):
            self._flowing = False
            return None
        self._flowing = True
        frame = bytes(self._fifo[:FRAME_BYTES])
        del self._fifo[:FRAME_BYTES]
        return frame

    def speak(self, frame: bytes) -> bool:
        """Queue one frame (320 bytes, s16) for sending; false when it was not taken (no media, or 60 ms wait)."""
        if not self.live:
            return False
        try:
            audio = self._call.audio
            waiting = audio.info().tx_buffered
            if waiting >= _MAX_BUFFERED_FRAMES * FRAME_BYTES:
                return False
            if waiting == 0:
                audio.write(_SILENCE)
            return bool(audio.write(frame) == len(frame))
        except self._baresip.BaresipError:
            return False


def _free_port() -> int:
    """A port that is free for UDP and TCP now: baresip listens on both."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind((LOOPBACK, 0))
            port: int = udp.getsockname()[1]
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, contextlib.suppress(OSError):
                tcp.bind((LOOPBACK, port))
                return port


class Extension:
    """One SIP address on our stack (``sip:<user>@127.0.0.1:<port>``): dials, and is dialled."""

    def __init__(self, stack: Stack, user: str, agent: Any, baresip: Any) -> None:
        self._stack = stack
        self._agent = agent
        self._baresip = baresip
        self.user = user
        self.uri = stack.uri(user)

    def on_incoming(self, callback: Callable[[Dialog], None]) -> None:
        """Call ``callback(dialog)`` for each call to this address; it answers or hangs up, at once or later."""
        self._agent.on_incoming(lambda call: callback(self._stack.adopt(call)))

    async def dial(self, uri: str, headers: Mapping[str, str] | None = None) -> Dialog:
        """Send the INVITE and return at once; ``dialog.wait_up`` tells the outcome. Raises :class:`PhoneError`."""
        try:
            return self._stack.adopt(await self._agent.dial(uri, headers=dict(headers or {})))
        except (self._baresip.BaresipError, ValueError) as exc:
            raise PhoneError(f"could not dial {uri}: {exc}") from exc


class Stack:
    """The process's SIP stack on 127.0.0.1 and an ephemeral port. Use as ``async with Stack() as stack``.

    Only one may be open at a time in a process. Raises :class:`PhoneError` when baresip is missing or cannot start.
    """

    def __init__(self) -> None:
        self._baresip = _import_baresip()
        self._runtime: Any = None
        self._dialogs: set[Dialog] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._early: dict[int, Any] = {}
        self.port = 0
        self.clock = MediaClock()

    async def __aenter__(self) -> Stack:
        # A port that was free a moment ago may be somebody's by now: then another one.
        for attempt in range(_PORT_ATTEMPTS):
            try:
                self._runtime = await self._start_on(_free_port())
                break
            except self._baresip.BaresipError as exc:
                if attempt == _PORT_ATTEMPTS - 1:
                    raise PhoneError(f"the softphone stack did not start: {exc}") from exc
        self.clock.start()
        self._runtime.subscribe(self._keep_early)
        return self

    async def _start_on(self, port: int) -> Any:
        self.port = port
        runtime = self._baresip.Runtime(native_log_level="error")
        config = self._baresip.Config(
            net_interface=LOOPBACK,
            max_concurrent_calls=None,
            expose_headers=(HEADER_CALL, HEADER_SIDE, HEADER_AGENT),
            extra_config_text=f"sip_listen {LOOPBACK}:{port}\naudio_jitter_buffer_type off\n",
        )
        await runtime.start(config)
        return runtime

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await asyncio.gather(*(dialog.hang_up() for dialog in list(self._dialogs)))
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_BACKGROUND_CEILING_S)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.to_thread(self.clock.stop)
            with contextlib.suppress(self._baresip.BaresipError):
                await self._runtime.close()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in the background; closing the stack gives it a second. A fault is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("background work failed", exc_info=task.exception())

    def refuse(self, dialog: Dialog) -> None:
        """Decline an incoming call (486), without waiting."""
        self.spawn(dialog.hang_up())

    def uri(self, user: str) -> str:
        """How to dial ``user`` on this stack."""
        return f"sip:{user}@{LOOPBACK}:{self.port}"

    def _keep_early(self, event: Any) -> None:
        """On loopback a call can be refused before ``dial`` has returned, when nobody listens to it yet."""
        if event.event in (self._baresip.Event.CALL_ESTABLISHED, self._baresip.Event.CALL_CLOSED):
            self._early[event.call] = event
            while len(self._early) > _MAX_EARLY:
                self._early.pop(next(iter(self._early)))

    def adopt(self, call: Any) -> Dialog:
        """Wrap a baresip call, so that closing the stack hangs it up."""
        dialog = Dialog(call, self._baresip)
        if (early := self._early.get(call.handle)) is not None:
            dialog.on_event(early)
        self._dialogs.add(dialog)
        dialog.on_over(self._dialogs.discard)
        return dialog

    async def extension(self, user: str) -> Extension:
        """Open an address that can dial and be dialled. Raises :class:`PhoneError` when the stack refuses it."""
        try:
            account = self._baresip.Account(
                user=user,
                domain=f"{LOOPBACK}:{self.port}",
                password="",
                reg_interval=0,
                extra_params=("video_codecs=none",),
            )
            agent = await self._baresip.UserAgent.create(self._runtime, account)
        except (self._baresip.BaresipError, ValueError) as exc:
            raise PhoneError(f"no extension {user!r}: {exc}") from exc
        return Extension(self, user, agent, self._baresip)
