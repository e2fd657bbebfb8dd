"""Nothing that arrives, fails or misbehaves on one stream is felt on another, and no thread dies of it."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import numpy as np
import pytest
import structlog

from audio.g711 import Law, encode
from audio.types import AudioFrame
from ivr.rtp import MediaPlane, MediaStream
from ivr.rtp_packet import pack

CEILING_S = 5
CODECS = {0: "PCMU", 8: "PCMA"}
PAYLOAD = encode(np.arange(160, dtype=np.int16), Law.PCMU)


class Ear:
    """Counts frames; may be told to raise."""

    def __init__(self, broken: bool = False) -> None:
        self.frames: list[AudioFrame] = []
        self.digits: list[str] = []
        self._broken = broken
        self._changed = asyncio.Event()

    def on_frames(self, frames: Sequence[AudioFrame]) -> None:
        if self._broken:
            raise RuntimeError("a sink with a bug")
        self.frames += frames
        self._changed.set()

    def on_dtmf(self, digit: str, t_ms: int) -> None:
        self.digits.append(digit)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(CEILING_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def plane() -> AsyncIterator[MediaPlane]:
    with structlog.testing.capture_logs():  # faults are injected here and log a traceback each
        made = MediaPlane("127.0.0.1", 0, 0)
        made.start(asyncio.get_running_loop())
        yield made
        made.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rtp-")]


@pytest.fixture
def phone() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def opened(plane: MediaPlane, phone: socket.socket, ear: Ear) -> MediaStream:
    stream = plane.open(ear)
    stream.set_remote("127.0.0.1", phone.getsockname()[1], CODECS, 101, "sendrecv")
    return stream


def voice(number: int, ssrc: int = 1) -> bytes:
    return pack(0, False, number & 0xFFFF, number * 160 & 0xFFFFFFFF, ssrc, PAYLOAD)


def hostile_datagrams() -> list[bytes]:
    """Every kind of bad datagram, then noise; the noise is the same in every run."""
    source = random.Random(20)
    valid = voice(1)
    made = [b"", b"\0", b"\0\0\0\0", valid[:11], b"\0" + valid[1:], b"\xc0" + valid[1:], valid + bytes(8000)]
    made += [b"\x9f" + valid[1:], b"\x90" + valid[1:12] + b"\0\0\xff\xff", b"\xa0" + valid[1:12] + b"\xff"]
    made += [struct.pack("!BBHI", 0x80, kind, 6, 1) + bytes(20) for kind in (200, 201, 202, 203)]
    made += [pack(0, False, 2, jump, 1, PAYLOAD) for jump in (0xFFFFFFFF, 0x80000000, 0)]
    made += [voice(number, ssrc=number) for number in range(50)]
    made += [source.randbytes(source.randrange(0, 1600)) for _ in range(150)]
    made += [b"\x80\0" + source.randbytes(source.randrange(10, 300)) for _ in range(150)]
    return made


async def test_hostile_datagrams_on_one_leg_leave_another_untouched(plane: MediaPlane, phone: socket.socket) -> None:
    """All the malformed, jumping and random packets we know, between the packets of a healthy call."""
    bad_ear, good_ear = Ear(), Ear()
    bad, good = opened(plane, phone, bad_ear), opened(plane, phone, good_ear)
    attacks = hostile_datagrams()
    for number, datagram in enumerate(attacks):
        phone.sendto(datagram, ("127.0.0.1", bad.local_port))
        phone.sendto(voice(number), ("127.0.0.1", good.local_port))
        if number % 20 == 19:
            await good_ear.until(lambda sent=number: len(good_ear.frames) > sent)  # type: ignore[misc]
    await good_ear.until(lambda: len(good_ear.frames) == len(attacks))
    stats = good.stats()
    assert (stats.received, stats.lost, stats.malformed, stats.foreign) == (len(attacks), 0, 0, 0)
    assert bad.stats().malformed > 100
    fresh = len(bad_ear.frames)
    for number in range(1000, 1010):
        phone.sendto(voice(number, ssrc=0xABCDEF), ("127.0.0.1", bad.local_port))
    await bad_ear.until(lambda: len(bad_ear.frames) >= fresh + 10)
    assert plane.faults == 0


async def test_flood_from_a_stranger_does_not_keep_the_peer_waiting(plane: MediaPlane, phone: socket.socket) -> None:
    """Two hundred foreign packets before each of the peer's: every one of the peer's is heard, and at once."""
    ear = Ear()
    stream = opened(plane, phone, ear)
    there = ("127.0.0.1", stream.local_port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.2", 0))
        async with asyncio.timeout(2):
            for number in range(26):
                for _ in range(200 if number else 0):
                    stranger.sendto(voice(number, ssrc=9), there)
                phone.sendto(voice(number), there)
                await ear.until(lambda number=number: len(ear.frames) > number)  # type: ignore[misc]
    assert (stream.stats().received, stream.stats().foreign) == (26, 5_000)


async def test_sink_that_raises_is_counted_and_others_go_on(plane: MediaPlane, phone: socket.socket) -> None:
    """A bug in one consumer is not felt by the next."""
    broken, ear = opened(plane, phone, Ear(broken=True)), Ear()
    good = opened(plane, phone, ear)
    for number in range(5):
        phone.sendto(voice(number), ("127.0.0.1", broken.local_port))
        phone.sendto(voice(number), ("127.0.0.1", good.local_port))
    await ear.until(lambda: len(ear.frames) == 5)
    assert plane.faults >= 1


async def test_key_is_told_to_a_sink_that_stumbles_over_audio(plane: MediaPlane, phone: socket.socket) -> None:
    """A key in the same batch as audio that the sink cannot take is not lost."""
    ear = Ear(broken=True)
    stream = opened(plane, phone, ear)
    phone.sendto(voice(0), ("127.0.0.1", stream.local_port))
    phone.sendto(pack(101, True, 1, 160, 1, struct.pack("!BBH", 10, 0x80, 400)), ("127.0.0.1", stream.local_port))
    await ear.until(lambda: ear.digits == ["*"])


async def test_fault_in_the_receiver_or_the_pacer_kills_neither(
    plane: MediaPlane, phone: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of our own on one stream: counted, the threads live, other streams hear and speak."""
    sick, ear = opened(plane, phone, Ear()), Ear()
    good = opened(plane, phone, ear)

    def explode(*_: object) -> None:
        raise ValueError("injected")

    monkeypatch.setattr(sick._in, "hear", explode)
    playback = sick.play(np.zeros(1600, np.int16))
    monkeypatch.setattr(sick._out, "depart", explode)
    for number in range(5):
        phone.sendto(voice(number), ("127.0.0.1", sick.local_port))
        phone.sendto(voice(number), ("127.0.0.1", good.local_port))
    await ear.until(lambda: len(ear.frames) == 5)
    assert (await asyncio.wait_for(good.play(np.zeros(1600, np.int16)).done, CEILING_S)).completed
    assert plane.faults >= 6
    sick.close()
    assert not (await asyncio.wait_for(playback.done, CEILING_S)).completed


async def test_fault_in_the_wait_itself_or_at_a_deadline_does_not_end_the_receiver(
    plane: MediaPlane, phone: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The selector fails once, then a stream's deadline does: both counted, the next packet is heard."""
    ear, sick = Ear(), opened(plane, phone, Ear())
    good = opened(plane, phone, ear)
    wait = plane._selector.select
    failures = iter([OSError("injected")])

    def select_after_a_failure(timeout: float | None) -> object:
        for failure in failures:
            raise failure
        return wait(timeout)

    def explode(_now_ns: int) -> None:
        raise ValueError("injected")

    monkeypatch.setattr(plane._selector, "select", select_after_a_failure)
    monkeypatch.setattr(sick._in, "on_deadline", explode)
    for number in (0, 2):
        phone.sendto(voice(number), ("127.0.0.1", sick.local_port))
        phone.sendto(voice(number), ("127.0.0.1", good.local_port))
    await ear.until(lambda: len(ear.frames) == 3)
    for number in range(3, 6):
        phone.sendto(voice(number), ("127.0.0.1", good.local_port))
    await ear.until(lambda: len(ear.frames) == 6)
    assert plane.faults == 2


async def test_loop_that_closed_before_the_plane_stops_nothing(phone: socket.socket) -> None:
    """Packets and prompts after the loop is gone are nobody's business; stop() still ends both threads."""

    def run_elsewhere() -> None:
        loop = asyncio.new_event_loop()
        plane = MediaPlane("127.0.0.1", 0, 0)
        plane.start(loop)
        stream = plane.open(Ear())
        stream.set_remote("127.0.0.1", phone.getsockname()[1], CODECS, 101, "sendrecv")
        loop.close()
        phone.sendto(voice(0), ("127.0.0.1", stream.local_port))
        waiting = threading.Event()
        while stream.stats().received == 0:
            waiting.wait(0.005)
        plane.stop()
        assert plane.faults == 0
        stream.set_remote("127.0.0.1", 9, CODECS, 101, "sendrecv")
        assert stream.stats().sent == 1

    await asyncio.wait_for(asyncio.to_thread(run_elsewhere), CEILING_S)


async def test_send_errors_are_counted_and_the_prompt_says_it_did_not_arrive(
    plane: MediaPlane, phone: socket.socket
) -> None:
    """The system refuses to send to a broadcast address; the leg goes on hearing."""
    ear = Ear()
    stream = plane.open(ear)
    stream.set_remote("255.255.255.255", 9, CODECS, None, "sendrecv")
    result = await asyncio.wait_for(stream.play(np.zeros(320, np.int16)).done, CEILING_S)
    assert (result.completed, result.played_ms, result.first_rtp_ms) == (False, 0, None)
    assert result.why
    assert stream.stats().send_errors == 3
    phone.sendto(voice(0), ("127.0.0.1", stream.local_port))
    await ear.until(lambda: len(ear.frames) == 1)


async def test_peer_whose_port_is_closed_does_not_end_the_prompt(plane: MediaPlane) -> None:
    """ICMP port unreachable in answer to our packets is the peer's business."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        port = gone.getsockname()[1]
    stream = plane.open(Ear())
    stream.set_remote("127.0.0.1", port, CODECS, None, "sendrecv")
    assert (await asyncio.wait_for(stream.play(np.zeros(800, np.int16)).done, CEILING_S)).completed


async def test_streams_opened_and_closed_under_traffic_leave_nothing_behind(
    plane: MediaPlane, phone: socket.socket
) -> None:
    """Legs come and go while packets for them are in flight; nothing leaks, nothing is delivered after close."""
    source = random.Random(3)
    live: list[tuple[MediaStream, Ear]] = []
    ended: list[tuple[Ear, int]] = []
    for number in range(600):
        while len(live) < 10:
            ear = Ear()
            live.append((opened(plane, phone, ear), ear))
        stream, _ = live[source.randrange(len(live))]
        phone.sendto(voice(number), ("127.0.0.1", stream.local_port))
        if number % 3 == 0:
            stream.play(np.zeros(1600, np.int16))
        if number % 4 == 0:
            stream, ear = live.pop(source.randrange(len(live)))
            stream.close()
            ended.append((ear, len(ear.frames)))
        if number % 50 == 0:
            await asyncio.wait_for(live[0][0].play(np.zeros(160, np.int16)).done, CEILING_S)
    for stream, _ in live:
        stream.close()
    assert all(len(ear.frames) == heard for ear, heard in ended)
    assert plane.faults == 0
    assert not plane._streams
    assert not plane._pacer._due
