"""The whole media plane over real loopback sockets and threads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

import numpy as np
import pytest

from audio.g711 import Law, decode, encode
from audio.types import AudioFrame, Pcm
from ivr import clock
from ivr.errors import LineError
from ivr.media import FRAMES_WAITING_MAX
from ivr.rtp import MediaPlane, MediaStream
from ivr.rtp_packet import RtpPacket, pack, parse
from ivr.rtp_ports import RtpPorts

CEILING_S = 5
CODECS = {0: "PCMU", 8: "PCMA"}
TONE: Pcm = (8000 * np.sin(np.arange(16_000) * 2 * np.pi * 440 / 8000)).astype(np.int16)


class Ear:
    """A sink that lets tests wait for what it heard."""

    def __init__(self) -> None:
        self.frames: list[AudioFrame] = []
        self.digits: list[str] = []
        self.batches = 0
        self.threads: set[int] = set()
        self._changed = asyncio.Event()

    def on_frames(self, frames: Sequence[AudioFrame]) -> None:
        self.frames += frames
        self.batches += 1
        self.threads.add(threading.get_ident())
        self._changed.set()

    def on_dtmf(self, digit: str, t_ms: int) -> None:
        self.digits.append(digit)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(CEILING_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Phone:
    """A bare RTP peer: one socket that sends what it is told and reads what comes."""

    def __init__(self, to_port: int, ssrc: int = 7) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(CEILING_S)
        self.port: int = self.socket.getsockname()[1]
        self.to = ("127.0.0.1", to_port)
        self.ssrc = ssrc

    def raw(self, datagram: bytes) -> None:
        self.socket.sendto(datagram, self.to)

    def voice(self, number: int, law: Law = Law.PCMU) -> None:
        samples = TONE[number % 100 * 160 :][:160]
        self.raw(pack(0 if law is Law.PCMU else 8, False, number, number * 160, self.ssrc, encode(samples, law)))

    def key(self, number: int, event: int, end: bool = False) -> None:
        self.raw(pack(101, False, number, 1600, self.ssrc, struct.pack("!BBH", event, 0x80 if end else 0, 400)))

    async def packet(self) -> tuple[RtpPacket, int]:
        """The next packet that arrives and when, read off the loop."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> tuple[RtpPacket, int]:
        datagram = self.socket.recv(2048)
        parsed = parse(datagram)
        assert isinstance(parsed, RtpPacket)
        return parsed, clock.monotonic_ns()


Leg = tuple[MediaStream, Ear, Phone]


@pytest.fixture
async def plane() -> AsyncIterator[MediaPlane]:
    made = MediaPlane("127.0.0.1", 0, 0)
    made.start(asyncio.get_running_loop())
    yield made
    made.stop()
    assert made.faults == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rtp-")]


@contextlib.contextmanager
def leg(plane: MediaPlane, direction: str = "sendrecv", codecs: Mapping[int, str] = CODECS) -> Iterator[Leg]:
    """A stream, its ear and a phone that it has been told about."""
    ear = Ear()
    stream = plane.open(ear)
    phone = Phone(stream.local_port)
    stream.set_remote("127.0.0.1", phone.port, codecs, 101, direction)
    try:
        yield stream, ear, phone
    finally:
        stream.close()
        phone.socket.close()


async def test_voice_is_heard_as_frames_on_the_loop_thread(plane: MediaPlane) -> None:
    """What the phone sends arrives sample-true, in order, timed, on the loop."""
    with leg(plane) as (stream, ear, phone):
        started_ms = clock.monotonic_ms()
        for number in range(25):
            phone.voice(number)
        await ear.until(lambda: len(ear.frames) == 25)
        heard = np.concatenate([frame.samples for frame in ear.frames])
        assert np.array_equal(heard, decode(encode(TONE[:4000], Law.PCMU), Law.PCMU))
        assert ear.threads == {threading.get_ident()}
        assert abs(ear.frames[0].t_ms - started_ms) < 200
        assert stream.stats().received == 25


async def test_totals_keep_what_closed_streams_counted(plane: MediaPlane) -> None:
    """A page of metrics must not go backwards when a call ends."""
    ear = Ear()
    stream = plane.open(ear)
    stream.set_remote("127.0.0.1", 9, CODECS, 101, "sendrecv")
    phone = Phone(stream.local_port)
    phone.raw(b"\x80" * 5)
    for number in range(5):
        phone.voice(number)
    await ear.until(lambda: len(ear.frames) >= 5)
    live = plane.totals()
    stream.close()
    phone.socket.close()
    closed = plane.totals()
    assert live["received"] == closed["received"] == 5 and closed["malformed"] == 1 and closed["faults"] == 0


async def test_burst_is_handed_over_in_few_batches(plane: MediaPlane) -> None:
    """A stalled loop gets what waited in one call, not one a packet."""
    with leg(plane) as (stream, ear, phone):
        for number in range(100):
            phone.voice(number)
        received = threading.Event()
        while stream.stats().received < 100:  # the loop is held here on purpose; the receiver works on
            received.wait(0.005)
        await ear.until(lambda: len(ear.frames) == 100)
        assert ear.batches == 1


async def test_loop_stalled_for_long_loses_the_oldest_frames_and_counts_them(plane: MediaPlane) -> None:
    """Memory is bounded: the newest three seconds are kept."""
    with leg(plane) as (stream, ear, phone):
        waiting = threading.Event()
        for number in range(FRAMES_WAITING_MAX + 40):
            phone.voice(number)
            while stream.stats().received <= number:
                waiting.wait(0.0005)
        await ear.until(lambda: len(ear.frames) == FRAMES_WAITING_MAX)
        assert stream.stats().dropped == 40
        expected = decode(encode(TONE[40 * 160 : 41 * 160], Law.PCMU), Law.PCMU)
        assert np.array_equal(ear.frames[0].samples, expected)


async def test_key_is_reported_once_even_when_its_ends_are_lost(plane: MediaPlane) -> None:
    """By its end packets, and by the receiver's own deadline without them."""
    with leg(plane) as (_, ear, phone):
        phone.key(0, 10)
        for number in range(1, 4):
            phone.key(number, 10, end=True)
        await ear.until(lambda: ear.digits == ["*"])
        phone.raw(pack(101, True, 4, 9600, 7, struct.pack("!BBH", 9, 0, 400)))
        await ear.until(lambda: ear.digits == ["*", "9"])
        assert ear.frames == []


async def test_packet_held_for_a_lost_one_is_released_though_nothing_follows(plane: MediaPlane) -> None:
    """The receiver wakes by the reorder deadline, not only by packets."""
    with leg(plane) as (_, ear, phone):
        phone.voice(0)
        phone.voice(2)
        await ear.until(lambda: len(ear.frames) == 3)
        assert [frame.concealed for frame in ear.frames] == [False, True, False]


async def test_peer_behind_nat_is_latched_and_answered_where_it_sends_from(plane: MediaPlane) -> None:
    """Symmetric RTP: the SDP port is dead, packets come from another, prompts go to that."""
    ear = Ear()
    stream = plane.open(ear)
    with contextlib.closing(Phone(stream.local_port).socket) as dead:
        stream.set_remote("127.0.0.1", dead.getsockname()[1], CODECS, 101, "sendrecv")
        phone = Phone(stream.local_port)
        phone.voice(0)
        await ear.until(lambda: len(ear.frames) == 1)
        playback = stream.play(TONE[:320])
        first, _ = await phone.packet()
        assert first.marker
        assert (await playback.done).completed
        phone.socket.close()
        stream.close()


async def test_prompt_arrives_whole_marked_and_reports_its_end(plane: MediaPlane) -> None:
    """Silence first (the latch packet), then every sample of the prompt; started and done say when and how much."""
    with leg(plane) as (stream, _, phone):
        silence, _ = await phone.packet()
        assert silence.payload == b"\xff" * 160
        asked_ms = clock.monotonic_ms()
        playback = stream.play(TONE[:1000])
        packets = [(await phone.packet())[0] for _ in range(7)]
        result = await asyncio.wait_for(playback.done, CEILING_S)
        assert [each.marker for each in packets] == [True] + [False] * 6
        assert b"".join(each.payload for each in packets)[:1000] == encode(TONE[:1000], Law.PCMU)
        assert result.completed
        assert result.played_ms == 125
        assert result.first_rtp_ms == await playback.started
        assert 0 <= result.first_rtp_ms - asked_ms < 100
        assert stream.stats().sent == 8


async def test_agreed_law_of_the_answer_is_the_one_sent(plane: MediaPlane) -> None:
    """The first G.711 codec in answer order, by its payload type."""
    with leg(plane, codecs={18: "G729", 8: "PCMA", 0: "PCMU"}) as (stream, _, phone):
        silence, _ = await phone.packet()
        assert (silence.payload_type, silence.payload) == (8, b"\xd5" * 160)
        await asyncio.wait_for(stream.play(TONE[:160]).done, CEILING_S)
        assert (await phone.packet())[0].payload == encode(TONE[:160], Law.PCMA)


async def test_real_pacing_drifts_under_250_ppm(plane: MediaPlane) -> None:
    """Three seconds on the real clock: the least delayed packets of both halves fit one 20 ms grid.

    The least delay, because a busy machine makes packets late but never early.
    """
    with leg(plane) as (stream, _, phone):
        await phone.packet()
        playback = stream.play(np.zeros(24_000, np.int16))

        def read() -> list[int]:
            return [phone._read()[1] for _ in range(150)]

        arrivals = np.array(await asyncio.to_thread(read))
        await playback.done
        delay_ns = arrivals - arrivals[0] - np.arange(150) * 20_000_000
        drift_ppm = abs(delay_ns[75:].min() - delay_ns[:75].min()) / (75 * 20_000_000) * 1e6
        assert drift_ppm < 250


async def test_stop_ends_a_prompt_within_a_ptime(plane: MediaPlane) -> None:
    """No packet leaves after stop(); done says it was not completed."""
    with leg(plane) as (stream, _, phone):
        playback = stream.play(TONE)
        await playback.started
        playback.stop()
        result = await asyncio.wait_for(playback.done, CEILING_S)
        assert (result.completed, result.why) == (False, "stopped")
        playback.stop()
        sent = stream.stats().sent
        await asyncio.wait_for(stream.play(TONE[:160]).done, CEILING_S)
        assert stream.stats().sent == sent + 1
        assert phone.port


async def test_second_prompt_replaces_the_first(plane: MediaPlane) -> None:
    """One mouth: the first resolves as replaced, the second plays."""
    with leg(plane) as (stream, _, _phone):
        first, second = stream.play(TONE), stream.play(TONE[:320])
        result = await asyncio.wait_for(first.done, CEILING_S)
        assert not result.completed
        assert "another prompt" in result.why
        assert (await asyncio.wait_for(second.done, CEILING_S)).completed


async def test_prompt_that_cannot_be_sent_resolves_at_once_and_says_why(plane: MediaPlane) -> None:
    """No remote, no samples, hold, no codec, refused port, host name, closed: never an exception, never a hang."""
    stream = plane.open(Ear())
    reasons = {}

    async def attempt(name: str, samples: Pcm = TONE) -> None:
        playback = stream.play(samples)
        result = await asyncio.wait_for(playback.done, CEILING_S)
        assert not result.completed
        assert result.first_rtp_ms is None
        assert playback.started.cancelled()
        reasons[name] = result.why

    await attempt("unknown remote")
    stream.set_remote("127.0.0.1", 9, CODECS, None, "sendrecv")
    await attempt("empty", np.empty(0, np.int16))
    for direction in ("recvonly", "inactive"):
        stream.set_remote("127.0.0.1", 9, CODECS, None, direction)
        await attempt(direction)
    stream.set_remote("127.0.0.1", 9, {18: "G729"}, None, "sendrecv")
    await attempt("codec")
    stream.set_remote("127.0.0.1", 0, CODECS, None, "sendrecv")
    await attempt("port")
    stream.set_remote("0.0.0.0", 9, CODECS, None, "sendrecv")
    await attempt("null address")
    stream.set_remote("phone.example", 9, CODECS, None, "sendrecv")
    await attempt("name")
    stream.close()
    await attempt("closed")
    assert len(set(reasons.values())) == len(reasons), reasons


async def test_hold_in_mid_prompt_ends_it_and_resume_may_play_again(plane: MediaPlane) -> None:
    """A re-INVITE that forbids sending is obeyed at once."""
    with leg(plane) as (stream, _, phone):
        playback = stream.play(TONE)
        await playback.started
        stream.set_remote("127.0.0.1", phone.port, CODECS, 101, "recvonly")
        result = await asyncio.wait_for(playback.done, CEILING_S)
        assert not result.completed
        assert "hold" in result.why
        stream.set_remote("127.0.0.1", phone.port, CODECS, 101, "sendrecv")
        assert (await asyncio.wait_for(stream.play(TONE[:160]).done, CEILING_S)).completed


async def test_media_move_sends_the_prompt_to_the_new_address(plane: MediaPlane) -> None:
    """A re-INVITE moves the far end in mid-prompt: the rest goes there, the prompt completes."""
    with leg(plane) as (stream, ear, old), contextlib.closing(Phone(stream.local_port).socket) as moved:
        old.voice(0)
        await ear.until(lambda: bool(ear.frames))
        playback = stream.play(TONE[:1600])
        await playback.started
        stream.set_remote("127.0.0.1", moved.getsockname()[1], CODECS, 101, "sendrecv")
        moved.settimeout(CEILING_S)
        assert isinstance(parse(await asyncio.to_thread(moved.recv, 2048)), RtpPacket)
        assert (await asyncio.wait_for(playback.done, CEILING_S)).completed


async def test_closing_ends_the_prompt_and_gives_the_port_back() -> None:
    """A range of one even port serves leg after leg; used up it says so; a port of somebody else is skipped."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
        low = free_even_pair(other)
        plane = MediaPlane("127.0.0.1", low, low + 3)
        plane.start(asyncio.get_running_loop())
        try:
            for _ in range(3):
                stream = plane.open(Ear())
                assert stream.local_port == low + 2
                with pytest.raises(LineError, match="every RTP port in use"):
                    plane.open(Ear())
                stream.set_remote("127.0.0.1", 9, CODECS, None, "sendrecv")
                playback = stream.play(TONE)
                stream.close()
                stream.close()
                assert not (await asyncio.wait_for(playback.done, CEILING_S)).completed
        finally:
            plane.stop()


def free_even_pair(taken: socket.socket) -> int:
    """Bind ``taken`` to an even port whose next even port is free too, and return it."""
    for low in range(42_000, 44_000, 4):
        with (
            contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe,
            contextlib.suppress(OSError),
        ):
            probe.bind(("127.0.0.1", low + 2))
            taken.bind(("127.0.0.1", low))
            return low
    raise AssertionError("no two free even ports")


async def test_address_that_is_not_ours_is_a_clear_error() -> None:
    """Bad configuration is told apart from a full range."""
    plane = MediaPlane("203.0.113.1", 40_000, 40_100)
    plane.start(asyncio.get_running_loop())
    try:
        with pytest.raises(LineError, match=r"cannot bind RTP to 203\.0\.113\.1"):
            plane.open(Ear())
    finally:
        plane.stop()


def test_range_without_an_even_pair_says_so() -> None:
    """A range of one port, or of an odd pair, holds no RTP port with its RTCP port."""
    for low, high in ((40_000, 40_000), (40_001, 40_002)):
        with pytest.raises(LineError, match="every RTP port in use"):
            RtpPorts("127.0.0.1", low, high).bind()


async def test_ipv6_leg_hears_and_speaks() -> None:
    """Both families; the latch compares addresses in one spelling."""
    try:
        probe = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 loopback on this machine: {error}")
    plane = MediaPlane("::1", 0, 0)
    plane.start(asyncio.get_running_loop())
    with contextlib.closing(probe):
        ear = Ear()
        stream = plane.open(ear)
        stream.set_remote("0:0:0:0:0:0:0:1", probe.getsockname()[1], CODECS, 101, "sendrecv")
        probe.sendto(pack(0, False, 0, 0, 1, bytes(160)), ("::1", stream.local_port))
        await ear.until(lambda: len(ear.frames) == 1)
        assert (await asyncio.wait_for(stream.play(TONE[:160]).done, CEILING_S)).completed
        plane.stop()


async def test_stop_is_quick_repeatable_and_ends_everything() -> None:
    """Both threads are joined, prompts resolve, and a stopped plane opens nothing."""
    plane = MediaPlane("127.0.0.1", 0, 0)
    with pytest.raises(LineError):
        plane.open(Ear())
    plane.start(asyncio.get_running_loop())
    streams: list[MediaStream] = [plane.open(Ear()) for _ in range(20)]
    for stream in streams:
        stream.set_remote("127.0.0.1", 9, CODECS, None, "sendrecv")
    playbacks = [stream.play(TONE) for stream in streams]
    before_ms = clock.monotonic_ms()
    plane.stop()
    plane.stop()
    assert clock.monotonic_ms() - before_ms < 1000
    for playback in playbacks:
        assert not (await asyncio.wait_for(playback.done, CEILING_S)).completed
    with pytest.raises(LineError):
        plane.open(Ear())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rtp-")]


async def test_plane_that_never_started_stops() -> None:
    """A failed start-up is cleaned up like any other."""
    MediaPlane("127.0.0.1", 0, 0).stop()
