"""The media plane: one receiver thread and one pacer thread for every leg of this process.

The receiver waits on all sockets at once, decodes in place and hands whole batches to the asyncio loop; the pacer sends
prompts by absolute deadlines. Neither thread can die of a packet, a stream or a sink: each is guarded, counted, logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import threading
from collections import Counter
from dataclasses import asdict

import structlog

from ivr import clock
from ivr.errors import LineError
from ivr.media import MediaStream, RtpPlayback, StreamSink, StreamStats
from ivr.pacer import Pacer
from ivr.rtp_ports import RtpPorts

__all__ = ["MediaPlane", "MediaStream", "RtpPlayback", "StreamSink", "StreamStats"]

_log = structlog.get_logger("firmline.rtp")

_BUFFER_OCTETS = 2048
"""Over the largest datagram we accept, so that a larger one is seen to be too large."""

_GATHER_NS = 1_000_000
_GATHER_LEGS = 40
_GATHER_MOST_NS = 4_000_000
"""Under load the receiver looks at most once a millisecond, so that packets of many legs share one wake of the loop; a
packet that comes after a quiet time is not delayed. One millisecond more for each 40 legs, up to four: a wake costs
what a few packets do, and it is paid out of the time that judging has."""

_JOIN_S = 1.0
_FAULT_PAUSE_S = 0.01


class MediaPlane:
    """Opens streams on even ports ``port_low``..``port_high`` of ``local_ip``; ``port_low`` 0: the system chooses."""

    def __init__(self, local_ip: str, port_low: int, port_high: int) -> None:
        self._ports = RtpPorts(local_ip, port_low, port_high)
        self._pacer = Pacer()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._stopping = threading.Event()
        self._receiver: threading.Thread | None = None
        self._streams: set[MediaStream] = set()
        self._timed: dict[MediaStream, int] = {}
        self._looked_ns = 0
        self._handing_over = threading.Lock()
        self._heard: set[MediaStream] = set()
        self._delivery_pending = False
        self._faults = 0
        self._closed: Counter[str] = Counter()

    @property
    def faults(self) -> int:
        """Exceptions caught in either thread or in a sink: always a bug of ours, never a reason to stop."""
        return self._faults + self._pacer.faults

    @property
    def ports_in_use(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start both threads; sinks and futures are served on ``loop``."""
        self._loop = loop
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._receiver = threading.Thread(target=self._run_receiver, name="rtp-receiver", daemon=True)
        self._receiver.start()
        self._pacer.start()

    def stop(self) -> None:
        """Close every stream, join both threads, close every socket. Bounded by two seconds; harmless when repeated."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        for stream in list(self._streams):
            stream.close()
        self._wake_out.send(b"x")
        if self._receiver is not None:
            self._receiver.join(_JOIN_S)
        self._pacer.stop()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def open(self, sink: StreamSink) -> MediaStream:
        """Bind the next free even port.

        Raises:
            LineError: the range is used up, the address is not ours, or the plane does not run.
        """
        if self._loop is None or self._stopping.is_set():
            raise LineError("the media plane is not running")
        stream = MediaStream(self._ports.bind(), sink, self._loop, self)
        self._streams.add(stream)
        self._selector.register(stream.socket, selectors.EVENT_READ, stream)
        return stream

    def totals(self) -> dict[str, int]:
        """Counters of every stream there was, summed, and the faults of our own threads: for metrics."""
        out = Counter(self._closed)
        for stream in list(self._streams):
            out.update(_countable(stream.stats()))
        return {**out, "faults": self.faults}

    def departure_due(self, stream: MediaStream, due_ns: int | None) -> None:
        """A stream's next packet is due then."""
        self._pacer.schedule(stream, due_ns)

    def release(self, stream: MediaStream) -> None:
        """A stream closes: no thread looks at its socket any more."""
        if stream in self._streams:
            self._closed.update(_countable(stream.stats()))
        self._streams.discard(stream)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(stream.socket)
        self._pacer.forget(stream)

    def _run_receiver(self) -> None:
        buffer = memoryview(bytearray(_BUFFER_OCTETS))
        while not self._stopping.is_set():
            try:
                self._receive(buffer)
            except Exception:
                self._count_fault("receiver_fault")
                self._stopping.wait(_FAULT_PAUSE_S)

    def _receive(self, buffer: memoryview) -> None:
        self._gather()
        heard: list[MediaStream] = []
        for key, _ in self._selector.select(self._timeout_s()):
            stream: MediaStream | None = key.data
            if stream is None:
                continue
            try:
                deadline_ns = stream.ingest(buffer)
            except Exception:
                self._count_fault("stream_fault", local_port=stream.local_port)
                continue
            self._note_deadline(stream, deadline_ns)
            if stream.has_heard:
                heard.append(stream)
        if self._timed:
            self._pass_deadlines(heard)
        if heard:
            self._hand_over(heard)

    def _gather(self) -> None:
        now_ns = clock.monotonic_ns()
        gather_ns = min(_GATHER_MOST_NS, _GATHER_NS * (1 + len(self._streams) // _GATHER_LEGS))
        early_ns = self._looked_ns + gather_ns - now_ns
        if early_ns > 0:
            self._stopping.wait(early_ns / 1e9)
            now_ns += early_ns
        self._looked_ns = now_ns

    def _timeout_s(self) -> float | None:
        if not self._timed:
            return None
        return max(0, min(self._timed.values()) - clock.monotonic_ns()) / 1e9

    def _note_deadline(self, stream: MediaStream, deadline_ns: int | None) -> None:
        if deadline_ns is not None:
            self._timed[stream] = deadline_ns
        else:
            self._timed.pop(stream, None)

    def _pass_deadlines(self, heard: list[MediaStream]) -> None:
        now_ns = clock.monotonic_ns()
        for stream, due_ns in list(self._timed.items()):
            if due_ns > now_ns:
                continue
            self._timed.pop(stream)
            try:
                self._note_deadline(stream, stream.on_deadline(now_ns))
            except Exception:
                self._count_fault("stream_fault", local_port=stream.local_port)
                continue
            if stream.has_heard:
                heard.append(stream)

    def _hand_over(self, heard: list[MediaStream]) -> None:
        with self._handing_over:
            self._heard.update(heard)
            pending, self._delivery_pending = self._delivery_pending, True
        if not pending and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop closed before stop(): nobody listens
                self._delivery_pending = False

    def _deliver(self) -> None:
        with self._handing_over:
            heard, self._heard = self._heard, set()
            self._delivery_pending = False
        for stream in heard:
            try:
                stream.deliver()
            except Exception:
                self._count_fault("sink_fault", local_port=stream.local_port)

    def _count_fault(self, event: str, **context: object) -> None:
        self._faults += 1
        _log.exception(event, faults=self._faults, **context)


def _countable(stats: StreamStats) -> dict[str, int]:
    """The counters of a stream without its jitter, which does not add up."""
    return {name: count for name, count in asdict(stats).items() if name != "jitter_ms"}
