"""One leg's media: a socket, what it hears, what it says, and the prompt under way.

Methods are called from the asyncio loop, :meth:`MediaStream.ingest` from the receiver thread and
:meth:`MediaStream.service` from the pacer thread; one lock a stream orders them, held for microseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from audio.dtmf import KeyPress
from audio.g711 import RATE_HZ, Law
from audio.types import AudioFrame, Pcm
from ivr import clock
from ivr.inbound import Heard, Inbound
from ivr.latch import Address
from ivr.lines.base import PlaybackResult
from ivr.outbound import FRAME_SAMPLES, Departure, Outbound

_log = structlog.get_logger("firmline.rtp")

FRAMES_WAITING_MAX = 150
"""Three seconds: a loop stalled for longer loses the oldest frames rather than memory."""

_KEYS_WAITING_MAX = 32
_DATAGRAMS_A_TURN = 64
"""One datagram a turn would let a stranger's flood of a thousand a second crowd out the peer's fifty; without a bound
one flooded leg would keep the receiver from all others."""
_CROWDED_NS = 10_000_000
"""A leg that is read again so soon has more than its fifty packets a second, or a backlog: then it is read until it is
empty. Asking every time whether there is a second datagram cost as much as reading the first."""
_SENDING = ("sendrecv", "sendonly")
_RECEIVING = ("sendrecv", "recvonly")


class StreamSink(Protocol):
    """Who hears a stream; called on the asyncio loop."""

    def on_frames(self, frames: Sequence[AudioFrame]) -> None:
        """Frames in playout order, ``t_ms`` non-decreasing."""

    def on_dtmf(self, digit: str, t_ms: int) -> None:
        """One key, at its release."""


class PlaneHooks(Protocol):
    """What a stream needs of the plane that opened it."""

    def departure_due(self, stream: MediaStream, due_ns: int | None) -> None:
        """The stream's next packet is due then."""

    def release(self, stream: MediaStream) -> None:
        """Forget the stream; its socket is about to close."""


@dataclass(frozen=True, slots=True)
class StreamStats:
    """Counters of one stream since it was opened. Packets unless said otherwise."""

    received: int
    lost: int
    reordered: int
    late: int
    duplicates: int
    malformed: int
    foreign: int
    """From a source that is not the latched peer."""
    rtcp: int
    unknown_payload: int
    unwanted: int
    """While our direction forbids receiving."""
    resyncs: int
    concealed: int
    """Frames made up for lost packets."""
    dropped: int
    """Frames lost because the loop stalled."""
    sent: int
    send_errors: int
    jitter_ms: float


class RtpPlayback:
    """One prompt on one stream (see :class:`ivr.lines.base.Playback`).

    ``started`` is cancelled when the prompt ends before its first packet left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, samples: int, cancel: Callable[[RtpPlayback], None]) -> None:
        self.started: asyncio.Future[int] = loop.create_future()
        self.done: asyncio.Future[PlaybackResult] = loop.create_future()
        self._loop = loop
        self._samples = samples
        self._cancel = cancel
        self._sent_samples = 0
        self._first_rtp_ms: int | None = None
        self._over = False

    def stop(self) -> None:
        """Stop at once; harmless when already over."""
        self._cancel(self)

    def departed(self, left: bool, last: bool, now_ns: int) -> None:
        """One packet of it was handed to the network (``left``) or refused by it."""
        if left:
            self._sent_samples = min(self._samples, self._sent_samples + FRAME_SAMPLES)
            if self._first_rtp_ms is None:
                self._first_rtp_ms = now_ns // 1_000_000
                self._post(_resolve, self.started, self._first_rtp_ms)
        if last:
            self.finish(left, "" if left else "the network refused the last packet")

    def finish(self, completed: bool, why: str) -> None:
        """Resolve ``done``; only the first call counts."""
        if self._over:
            return
        self._over = True
        played_ms = self._sent_samples * 1000 // RATE_HZ
        if self._first_rtp_ms is None:
            self._post(self.started.cancel)
        self._post(_resolve, self.done, PlaybackResult(completed, played_ms, self._first_rtp_ms, why))

    def _post(self, callback: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *arguments)


def _resolve(future: asyncio.Future[object], value: object) -> None:
    if not future.done():
        future.set_result(value)


class MediaStream:
    """One leg's RTP. Opened by :meth:`ivr.rtp.MediaPlane.open`."""

    def __init__(
        self, sock: socket.socket, sink: StreamSink, loop: asyncio.AbstractEventLoop, plane: PlaneHooks
    ) -> None:
        self.local_port: int = sock.getsockname()[1]
        self.socket = sock
        self._sink = sink
        self._loop = loop
        self._plane = plane
        self._lock = threading.RLock()
        self._closed = False
        self._in = Inbound()
        self._out = Outbound()
        self._remote: Address | None = None
        self._why_silent = "no remote address is known yet"
        self._playback: RtpPlayback | None = None
        self._frames: deque[AudioFrame] = deque()
        self._keys: deque[KeyPress] = deque(maxlen=_KEYS_WAITING_MAX)
        self._dropped = self._sent = self._send_errors = 0
        self._read_ns = 0

    def set_remote(
        self, ip: str, port: int, codecs: Mapping[int, str], telephone_event_pt: int | None, direction: str
    ) -> None:
        """Take what offer and answer agreed (RFC 3264); call again for every re-INVITE.

        ``codecs`` maps payload type to encoding name, in answer order: the first G.711 one is sent, all are received.
        ``direction`` is ours. A prompt under way goes on if we may still send, else ends.
        """
        laws = {number: Law(name.upper()) for number, name in codecs.items() if name.upper() in Law.__members__}
        remote, why = _usable_remote(ip, port)
        if not laws:
            why = "no G.711 codec was agreed"
        elif direction not in _SENDING:
            why = f"the call is on hold ({direction})"
        now_ns = clock.monotonic_ns()
        with self._lock:
            if self._closed:
                return
            moved = remote is not None and remote != self._remote
            self._remote, self._why_silent = remote or self._remote, why
            self._in.configure(remote, laws, telephone_event_pt, direction in _RECEIVING)
            self._out.configure(None if why else next(iter(laws.items())), moved, now_ns)
            if why:
                self._end_playback(why)
            due_ns = self._depart(now_ns)
        self._plane.departure_due(self, due_ns)

    def play(self, samples: Pcm) -> RtpPlayback:
        """Send ``samples`` (mono s16 at 8 kHz) from this moment, after stopping what was playing.

        Never raises for the state of the call: a prompt that cannot be sent resolves at once and says why.
        """
        playback = RtpPlayback(self._loop, len(samples), self._stop_playback)
        due_ns = None
        with self._lock:
            self._end_playback("another prompt took its place")
            why = "the stream is closed" if self._closed else self._why_silent
            if not why and len(samples) == 0:
                why = "the prompt is empty"
            if why:
                playback.finish(False, why)
            else:
                now_ns = clock.monotonic_ns()
                self._playback = playback
                self._out.begin(samples, now_ns)
                due_ns = self._depart(now_ns)
        self._plane.departure_due(self, due_ns)
        return playback

    def close(self) -> None:
        """Give the port back; a prompt under way ends. Nothing is delivered afterwards. Harmless when repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._end_playback("the leg ended")
            self._frames.clear()
            self._keys.clear()
            self._plane.release(self)
            self.socket.close()

    def stats(self) -> StreamStats:
        """Counters as they stand."""
        with self._lock:
            heard, order = self._in, self._in.order
            return StreamStats(
                received=heard.received,
                lost=order.lost,
                reordered=order.reordered,
                late=order.late,
                duplicates=order.duplicates,
                malformed=heard.malformed,
                foreign=heard.foreign,
                rtcp=heard.rtcp,
                unknown_payload=heard.unknown_payload,
                unwanted=heard.unwanted,
                resyncs=heard.resyncs,
                concealed=heard.assembler.concealed,
                dropped=self._dropped,
                sent=self._sent,
                send_errors=self._send_errors,
                jitter_ms=heard.jitter_ms,
            )

    def ingest(self, buffer: memoryview) -> int | None:
        """Receiver thread: read what has come. Returns the deadline at which :meth:`on_deadline` is wanted."""
        with self._lock:
            if self._closed:
                return None
            now_ns = clock.monotonic_ns()
            most = _DATAGRAMS_A_TURN if now_ns - self._read_ns < _CROWDED_NS else 1
            self._read_ns = now_ns
            for _ in range(most):
                try:
                    size, source = self.socket.recvfrom_into(buffer)
                except BlockingIOError:
                    break
                self._queue(self._in.hear(buffer[:size], (source[0], source[1]), clock.monotonic_ns()))
            return self._in.next_deadline_ns()

    def on_deadline(self, now_ns: int) -> int | None:
        """Receiver thread: release what waited for a missing packet. Returns the next deadline."""
        with self._lock:
            if self._closed:
                return None
            self._queue(self._in.on_deadline(now_ns))
            return self._in.next_deadline_ns()

    @property
    def has_heard(self) -> bool:
        """Whether :meth:`deliver` has anything to hand over."""
        return bool(self._frames or self._keys)

    def deliver(self) -> None:
        """Loop: hand what was heard to the sink."""
        with self._lock:
            frames, keys = list(self._frames), list(self._keys)
            self._frames.clear()
            self._keys.clear()
        try:
            if frames:
                self._sink.on_frames(frames)
        finally:  # a sink that stumbles over audio still learns of the keys
            for key in keys:
                if not self._closed:  # the sink may have closed us
                    self._sink.on_dtmf(key.digit, key.t_ms)

    def service(self, now_ns: int) -> int | None:
        """Pacer thread: send what is due. Returns when the next packet is."""
        with self._lock:
            return None if self._closed else self._depart(now_ns)

    def _queue(self, heard: Iterable[Heard]) -> None:
        for each in heard:
            if isinstance(each, KeyPress):
                self._keys.append(each)
                continue
            if len(self._frames) >= FRAMES_WAITING_MAX:
                self._frames.popleft()
                self._dropped += 1
                if self._dropped == 1:
                    _log.warning("frames_dropped", local_port=self.local_port, reason="the event loop stalled")
            self._frames.append(each)

    def _depart(self, now_ns: int) -> int | None:
        while (departure := self._out.depart(now_ns)) is not None:
            left = self._send(departure)
            if departure.prompt and self._playback is not None:
                playback = self._playback
                if departure.last:
                    self._playback = None
                playback.departed(left, departure.last, now_ns)
        return self._out.next_due_ns()

    def _send(self, departure: Departure) -> bool:
        target = self._in.latch.source or self._remote
        try:
            if target is None:
                return False
            self.socket.sendto(departure.datagram, target)
        except OSError as error:
            self._send_errors += 1
            if self._send_errors == 1:
                _log.warning("send_failed", local_port=self.local_port, reason=error.strerror)
            return False
        self._sent += 1
        return True

    def _stop_playback(self, playback: RtpPlayback) -> None:
        with self._lock:
            if playback is self._playback:
                self._end_playback("stopped")

    def _end_playback(self, why: str) -> None:
        playback, self._playback = self._playback, None
        if playback is not None:
            self._out.cancel(clock.monotonic_ns())
            playback.finish(False, why)


def _usable_remote(ip: str, port: int) -> tuple[Address | None, str]:
    """The address to send to, or why there is none. A host name is not looked up: that would block the call path."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return None, f"the peer's media address is no IP address: {ip[:64]!r}"
    if address.is_unspecified:
        return None, "the call is on hold (media address 0.0.0.0)"
    if not 0 < port < 65536:
        return None, "the peer refused media (port 0)"
    return (str(address), port), ""
