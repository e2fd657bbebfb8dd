"""The stand-in exchange with real phones: who hears whom, what a tap may do, and what control really does."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Awaitable, Callable, Mapping

import httpx
import numpy as np
import pytest

from audio.types import Pcm
from ivr.demo.control import ControlServer
from ivr.demo.exchange import CallState, Exchange, ExchangeEvent
from ivr.demo.exchange import ExchangeEventKind as Kind
from ivr.demo.phones import Phone, Tape
from ivr.demo.stack import RATE_HZ, PhoneError, Stack
from ivr.errors import PbxError
from ivr.pbx.base import CallRef
from ivr.pbx.direct import DirectControl

pytestmark = pytest.mark.sip

OpenTaps = Callable[[], Awaitable[dict[str, Phone]]]
WaitFor = Callable[[Kind], Awaitable[ExchangeEvent]]
CALLER_HZ, AGENT_HZ, TAP_HZ, TARGET_HZ = 400.0, 700.0, 1100.0, 1500.0
HEARD_MS = 200
"""Of a 300 ms tone: who hears whom is the question here; a busy test machine slips a frame now and then."""


def tone(hz: float, ms: int = 300) -> Pcm:
    """A sine at 8 kHz, -16 dBov."""
    t = np.arange(RATE_HZ * ms // 1000) / RATE_HZ
    return (np.sin(2 * np.pi * hz * t) * 0.2 * 32767).astype(np.int16)


def tone_ms(tape: Tape, hz: float) -> int:
    """How many ms of ``tape`` hold a sine of ``hz`` above a quarter of what ``tone`` makes."""
    frames = tape.pcm()[: len(tape.pcm()) // 160 * 160].reshape(-1, 160) / 32767
    wave = np.exp(-2j * np.pi * hz * np.arange(160) / RATE_HZ)
    return int((2 * np.abs(frames @ wave) / 160 > 0.05).sum()) * 20


class Room:
    """A caller, an agent at 201, a supervisor at 900 and a tap phone for each leg."""

    def __init__(self, stack: Stack, exchange: Exchange, open_taps: OpenTaps) -> None:
        self.stack = stack
        self._open_taps = open_taps
        self.exchange = exchange
        self.taps: dict[str, Phone] = {}

    async def open(self, tapped: bool = True) -> None:
        self.caller = await Phone.create(self.stack, "pat")
        self.agent = await Phone.create(self.stack, "sam")
        self.supervisor = await Phone.create(self.stack, "alex")
        self.number = await self.exchange.add_extension("201", self.agent.uri)
        await self.exchange.add_extension("900", self.supervisor.uri)
        if tapped:
            self.taps = await self._open_taps()

    async def connect(self, wait_for: WaitFor) -> str:
        await self.caller.dial(self.number)
        call = (await wait_for(Kind.CALL_BRIDGED)).call
        if self.exchange.firmline_uri is not None:
            await wait_for(Kind.TAP_UP)
            await wait_for(Kind.TAP_UP)
            async with asyncio.timeout(5):
                await asyncio.gather(*(tap.in_call.wait() for tap in self.taps.values()))
        return call


@pytest.fixture
def room(stack: Stack, exchange: Exchange, open_taps: OpenTaps) -> Room:
    """Not opened yet."""
    return Room(stack, exchange, open_taps)


async def settle(*phones: Phone) -> None:
    """Let what was said arrive: 200 ms of quiet at each ear."""
    await asyncio.gather(*(phone.wait_quiet(200, 5) for phone in phones))


async def all_over(*phones: Phone) -> None:
    """Each phone's call has ended, or does within five seconds (its BYE is on the way)."""
    async with asyncio.timeout(5):
        await asyncio.gather(*(phone.over.wait() for phone in phones))


async def test_call_tapped_hears_each_side_once(room: Room, wait_for: WaitFor) -> None:
    """Both parties hear each other, each tap leg hears its side only, and nobody hears himself."""
    await room.open()
    await room.connect(wait_for)
    await asyncio.gather(room.caller.say(tone(CALLER_HZ)), room.agent.say(tone(AGENT_HZ)))
    await settle(room.caller, room.agent, *room.taps.values())
    ears = [room.caller.heard, room.agent.heard, room.taps["caller"].heard, room.taps["agent"].heard]
    assert [tone_ms(t, CALLER_HZ) >= HEARD_MS for t in ears] == [False, True, True, False]
    assert [tone_ms(t, AGENT_HZ) >= HEARD_MS for t in ears] == [True, False, False, True]
    assert tone_ms(room.caller.heard, CALLER_HZ) == 0
    assert room.taps["agent"].headers["x-firmline-agent"] == "201"


async def test_tap_speaking_is_heard_by_its_own_side_only(room: Room, wait_for: WaitFor) -> None:
    """What the caller's tap leg says reaches the caller's ear, over the agent's voice, and no other ear."""
    await room.open()
    await room.connect(wait_for)
    await asyncio.gather(room.taps["caller"].say(tone(TAP_HZ)), room.agent.say(tone(AGENT_HZ)))
    await settle(room.caller, room.agent)
    assert tone_ms(room.caller.heard, TAP_HZ) >= HEARD_MS
    assert tone_ms(room.caller.heard, AGENT_HZ) >= HEARD_MS
    assert tone_ms(room.agent.heard, TAP_HZ) == 0
    assert tone_ms(room.taps["agent"].heard, TAP_HZ) == 0


async def test_tap_hangs_up_call_goes_on(room: Room, wait_for: WaitFor) -> None:
    """Both tap legs leave in mid-call; the parties keep hearing each other."""
    await room.open()
    await room.connect(wait_for)
    await asyncio.gather(*(tap.hang_up() for tap in room.taps.values()))
    await asyncio.gather(room.caller.say(tone(CALLER_HZ)), room.agent.say(tone(AGENT_HZ)))
    await settle(room.caller, room.agent)
    assert tone_ms(room.agent.heard, CALLER_HZ) >= HEARD_MS
    assert tone_ms(room.caller.heard, AGENT_HZ) >= HEARD_MS


TAP_PEER = """
import asyncio
from ivr.demo.phones import Phone
from ivr.demo.stack import Stack
async def main():
    async with Stack() as stack:
        phone = await Phone.create(stack, "firmline", keep=False)  # takes one leg, refuses the other
        print(phone.uri, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_tap_process_killed_leaves_no_gap(room: Room, wait_for: WaitFor) -> None:
    """The tap peer is killed without a BYE while both talk: no dead air.

    The floor leaves room for frames that a busy test machine slips; a call that hung on its tap would lose a second.
    """
    peer = await asyncio.create_subprocess_exec(sys.executable, "-c", TAP_PEER, stdout=asyncio.subprocess.PIPE)
    assert peer.stdout is not None
    try:
        async with asyncio.timeout(15):
            uri = (await peer.stdout.readline()).decode().strip()
        await room.open(tapped=False)
        room.exchange.firmline_uri = uri
        await room.caller.dial(room.number)
        await wait_for(Kind.TAP_UP)
        talk = asyncio.gather(room.caller.say(tone(CALLER_HZ, 1200)), room.agent.say(tone(AGENT_HZ, 1200)))
        peer.kill()
        await peer.wait()
        await talk
        await settle(room.caller, room.agent)
    finally:
        if peer.returncode is None:
            peer.kill()
            await peer.wait()
    assert tone_ms(room.agent.heard, CALLER_HZ) >= 1000
    assert tone_ms(room.caller.heard, AGENT_HZ) >= 1000


async def test_tap_nobody_there_call_goes_on(room: Room, wait_for: WaitFor) -> None:
    """Firmline is not there at all: the call is bridged as if it had never been dialled."""
    await room.open(tapped=False)
    room.exchange.firmline_uri = room.stack.uri("no-such-user")
    await room.caller.dial(room.number)
    await wait_for(Kind.TAP_DOWN)
    await wait_for(Kind.TAP_DOWN)
    await room.caller.say(tone(CALLER_HZ))
    await settle(room.agent)
    assert tone_ms(room.agent.heard, CALLER_HZ) >= HEARD_MS


async def post(url: str, order: Mapping[str, object]) -> tuple[int, dict[str, object]]:
    """One control request."""
    async with httpx.AsyncClient(timeout=20) as client:
        answer = await client.post(url, json=order)
    return answer.status_code, answer.json()


async def test_control_transfer_moves_caller_to_target(room: Room, wait_for: WaitFor) -> None:
    """Answered only when the target talks to the caller; agent and taps are released; a repeat is not done again."""
    await room.open()
    call = await room.connect(wait_for)
    async with ControlServer(room.exchange) as server:
        order = {"id": "t-1", "call": call, "action": "transfer", "target": "900", "reason": "policy"}
        assert await post(server.url, order) == (200, {"ok": True})
        await all_over(room.agent, *room.taps.values())
        assert await post(server.url, order) == (200, {"ok": True})
    await asyncio.gather(room.caller.say(tone(CALLER_HZ)), room.supervisor.say(tone(TARGET_HZ)))
    await settle(room.caller, room.supervisor)
    assert tone_ms(room.supervisor.heard, CALLER_HZ) >= HEARD_MS
    assert tone_ms(room.caller.heard, TARGET_HZ) >= HEARD_MS
    assert tone_ms(room.agent.heard, TARGET_HZ) == 0
    assert [e.kind for e in room.exchange.events].count(Kind.TRANSFERRED) == 1


@pytest.mark.parametrize("target", ["901", "555"])
async def test_control_transfer_without_answer_leaves_bridge(room: Room, wait_for: WaitFor, target: str) -> None:
    """A missing extension or a phone that refuses: 409, and caller and agent still hear each other."""
    await room.open()
    await room.exchange.add_extension("901", room.stack.uri("unplugged"))
    call = await room.connect(wait_for)
    async with ControlServer(room.exchange) as server:
        status, answer = await post(server.url, {"id": "t", "call": call, "action": "transfer", "target": target})
    assert status == 409 and answer["ok"] is False and answer["error"]
    assert room.exchange.calls[call].state is CallState.BRIDGED
    await asyncio.gather(room.caller.say(tone(CALLER_HZ)), room.agent.say(tone(AGENT_HZ)))
    await settle(room.caller, room.agent)
    assert tone_ms(room.agent.heard, CALLER_HZ) >= HEARD_MS
    assert tone_ms(room.caller.heard, AGENT_HZ) >= HEARD_MS


async def test_control_transfer_unanswered_gives_up(room: Room, wait_for: WaitFor) -> None:
    """A phone that rings for ever is given up after ``ring_s``, and a second order finds the call ready for it."""
    await room.open(tapped=False)
    silent = await Phone.create(room.stack, "away", auto_answer=False)
    await room.exchange.add_extension("902", silent.uri)
    call = await room.connect(wait_for)
    room.exchange.ring_s = 0.3
    async with ControlServer(room.exchange) as server:
        order = {"id": "1", "call": call, "action": "transfer", "target": "902"}
        assert (await post(server.url, order))[0] == 409
        assert await post(server.url, {**order, "id": "2", "target": "900"}) == (200, {"ok": True})
    await all_over(silent, room.agent)
    assert room.supervisor.in_call.is_set()


async def test_control_hangup_ends_every_leg(room: Room, wait_for: WaitFor) -> None:
    """Both parties and both tap legs are over when the answer comes."""
    await room.open()
    call = await room.connect(wait_for)
    async with ControlServer(room.exchange) as server:
        assert await post(server.url, {"id": "h", "call": call, "action": "hangup"}) == (200, {"ok": True})
        assert (await post(server.url, {"id": "h2", "call": call, "action": "hangup"}))[0] == 404
    await all_over(room.caller, room.agent, *room.taps.values())


async def test_control_pause_agent_refuses_next_call(room: Room, wait_for: WaitFor) -> None:
    """A paused agent's present call goes on, the next caller is refused, and resuming lets calls in again."""
    await room.open(tapped=False)
    await room.connect(wait_for)
    other = await Phone.create(room.stack, "kim")
    async with ControlServer(room.exchange) as server:
        assert await post(server.url, {"id": "p", "action": "pause_agent", "agent": "201"}) == (200, {"ok": True})
        assert (await post(server.url, {"id": "q", "action": "pause_agent", "agent": "7"}))[0] == 409
    await room.caller.say(tone(CALLER_HZ, 200))
    assert room.agent.in_call.is_set()
    await room.caller.hang_up()
    await wait_for(Kind.CALL_OVER)
    with pytest.raises(PhoneError):
        await other.dial(room.number)
    room.exchange.resume_agent("201")
    await all_over(room.agent)
    await other.dial(room.number)
    assert room.agent.in_call.is_set()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"id":"1"}', b'{"id":"1","action":"explode"}', b'{"id":"","action":"hangup"}']
)
async def test_control_bad_request_is_refused(exchange: Exchange, body: bytes) -> None:
    """What is not an order gets 400 and a reason, and does nothing."""
    async with ControlServer(exchange) as server, httpx.AsyncClient() as client:
        answer = await client.post(server.url, content=body)
    assert answer.status_code == 400 and answer.json()["ok"] is False and answer.json()["error"]
    assert exchange.events == []


SECRET = "whsec_" + base64.b64encode(b"a secret for tests, 24 B").decode()


@pytest.mark.parametrize("secret", [None, SECRET])
async def test_control_by_firmlines_own_client_is_obeyed(room: Room, wait_for: WaitFor, secret: str | None) -> None:
    """The ``direct`` control that Firmline itself uses moves the call, and learns of a refusal; signed or not."""
    await room.open(tapped=False)
    call = await room.connect(wait_for)
    async with ControlServer(room.exchange, secret) as server:
        control = DirectControl(server.url, secret, 5_000)
        await control.start()
        try:
            with pytest.raises(PbxError, match="555"):
                await control.transfer(CallRef(call, "201"), "555", "policy")
            await control.pause_agent(CallRef(call, "201"), "policy")
            await control.transfer(CallRef(call, "201"), "900", "policy")
            assert room.supervisor.in_call.is_set() and room.exchange.paused == {"201"}
            await control.hang_up(CallRef(call, "201"), "policy")
        finally:
            await control.stop()
    await all_over(room.caller, room.supervisor)


async def test_control_unsigned_is_refused(exchange: Exchange) -> None:
    """With a secret set, a request without a fitting signature gets 401 and does nothing."""
    order = {"id": "1", "action": "pause_agent", "agent": "201"}
    async with ControlServer(exchange, SECRET) as server:
        status, answer = await post(server.url, order)
    assert status == 401 and answer["ok"] is False and exchange.events == []


async def test_agent_leaves_caller_is_released(room: Room, wait_for: WaitFor) -> None:
    """The agent hangs up: the caller's call and the taps end, and nothing is left."""
    await room.open()
    await room.connect(wait_for)
    await room.agent.hang_up()
    await wait_for(Kind.CALL_OVER)
    await all_over(room.caller, *room.taps.values())
    assert room.exchange.calls == {}


async def test_phone_over_delay_stays_bounded(room: Room, wait_for: WaitFor) -> None:
    """A tone said at a known time arrives within 200 ms of it through exchange and two calls."""
    await room.open(tapped=False)
    await room.connect(wait_for)
    await room.caller.say(tone(CALLER_HZ))
    await settle(room.agent)
    starts = []
    for tape in (room.caller.said, room.agent.heard):
        assert tape.started_ms is not None
        starts.append(tape.started_ms + int(np.argmax(np.abs(tape.pcm()) > 3000)) * 1000 // RATE_HZ)
    assert 0 <= starts[1] - starts[0] <= 200
