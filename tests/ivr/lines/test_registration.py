"""Registering with a registrar that challenges, refuses, shortens, forgets or says nothing."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from ivr.lines.base import RegistrationState
from ivr.lines.registration import TABLE, RegEvent
from ivr.lines.transactions import Timers

pytestmark = pytest.mark.sip

QUICK = Timers(t1_ms=10, t2_ms=40, t4_ms=50, retry_min_ms=30, retry_max_ms=60, stop_ms=500)
Answer = Callable[["Registrar", "Asked"], list[str] | None]


class Asked:
    """A REGISTER as the registrar got it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in text.split("\r\n")[1:])}
        value = self.headers.get("authorization") or self.headers.get("proxy-authorization") or ""
        self.auth = {k: v.strip('"') for k, v in re.findall(r'(\w+)=("[^"]*"|[^,\s]+)', value)}
        self.expires = int(self.headers["expires"])
        self.contact = self.headers["contact"].partition(">")[0] + ">"


class Registrar(asyncio.DatagramProtocol):
    """Answers by a script; checks digests by its own arithmetic."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.more = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        asked = Asked(data.decode())
        self.asked.append(asked)
        self.more.set()
        reply = self.answer(self, asked)
        if reply is None:
            return
        kept = [f"{k}: {asked.headers[k]}" for k in ("via", "from", "to", "call-id", "cseq")]
        self.transport.sendto("\r\n".join([f"SIP/2.0 {reply[0]}", *kept, *reply[1:], "", ""]).encode(), addr)

    async def until(self, number: int) -> Asked:
        while len(self.asked) < number:
            self.more.clear()
            await asyncio.wait_for(self.more.wait(), 5)
        return self.asked[number - 1]


def right(asked: Asked, password: str = "secret", user: str = "firmline") -> bool:
    """Whether the digest is right (RFC 7616 section 3.4.1)."""
    a = asked.auth
    if not a:
        return False
    name = a.get("algorithm", "MD5").upper()
    digest = hashlib.sha256 if name.startswith("SHA-256") else hashlib.md5

    def h(*parts: str) -> str:
        return digest(":".join(parts).encode()).hexdigest()

    secret = h(user, a["realm"], password)
    if name.endswith("-SESS"):
        secret = h(secret, a["nonce"], a["cnonce"])
    middle = (a["nonce"], a["nc"], a["cnonce"], a["qop"]) if "qop" in a else (a["nonce"],)
    return a["response"] == h(secret, *middle, h("REGISTER", a["uri"])) and a["username"] == user


def ok(asked: Asked, expires: int = 60) -> list[str]:
    return ["200 OK", f"Contact: <sip:else@192.0.2.1>;expires=5, {asked.contact};expires={expires}"]


@pytest.fixture
async def registrar() -> AsyncIterator[Callable[..., Any]]:
    made: list[Registrar] = []

    async def make(answer: Answer) -> Registrar:
        loop = asyncio.get_running_loop()
        _, registrar = await loop.create_datagram_endpoint(lambda: Registrar(answer), local_addr=("127.0.0.1", 0))
        made.append(registrar)
        return registrar

    yield make
    for each in made:
        each.transport.close()


CHALLENGES = {
    "plain": 'WWW-Authenticate: Digest realm="pbx", nonce="n1"',
    "qop": 'WWW-Authenticate: Digest realm="a, b", nonce="n1", algorithm=MD5, qop="auth,auth-int", opaque="o"',
    "sess": 'WWW-Authenticate: Digest realm="pbx", nonce="n1", algorithm=MD5-sess, qop="auth"',
    "sha": 'WWW-Authenticate: Digest realm="pbx", nonce="n1", algorithm=SHA-256, qop="auth"',
    "choice": 'WWW-Authenticate: Digest realm="pbx", nonce="n0", algorithm=SHA-512-256\r\n'
    'WWW-Authenticate: Digest realm="pbx",nonce="n1",algorithm=SHA-256,qop="auth"',
    "proxy": 'Proxy-Authenticate: Digest realm="pbx", nonce="n1", qop="auth"',
}


@pytest.mark.parametrize("kind", sorted(CHALLENGES))
async def test_challenge_is_answered_and_the_line_registers(started: Any, registrar: Any, kind: str) -> None:
    """401 and 407, MD5 and SHA-256, with and without qop and -sess, the first of several that we can do."""
    status = "407 Proxy Authentication Required" if kind == "proxy" else "401 Unauthorized"
    pbx = await registrar(lambda _, asked: ok(asked) if right(asked) else [status, CHALLENGES[kind]])
    line, events = await started(timers=QUICK, server="127.0.0.1", server_port=pbx.port)
    reached = await events.wait("registration:registered")
    assert "registered firmline" in reached.detail and len(pbx.asked) == 2
    assert ("proxy-authorization" in pbx.asked[1].headers) == (kind == "proxy")
    first, second = (int(a.headers["cseq"].split()[0]) for a in pbx.asked)
    assert second > first and pbx.asked[0].headers["call-id"] == pbx.asked[1].headers["call-id"]
    await line.stop()
    assert pbx.asked[-1].expires == 0 and right(pbx.asked[-1])


async def test_auth_user_is_the_name_in_the_digest(started: Any, registrar: Any) -> None:
    """line.auth_user, where it differs from line.username."""
    pbx = await registrar(lambda _, asked: ok(asked) if right(asked, user="trunk7") else ["401 No", CHALLENGES["qop"]])
    _, events = await started(timers=QUICK, server="127.0.0.1", server_port=pbx.port, auth_user="trunk7")
    await events.wait("registration:registered")


async def test_binding_is_refreshed_in_time_with_the_kept_nonce(started: Any, registrar: Any) -> None:
    """Refreshed before the granted second is over, nonce count going up, no new state told."""
    pbx = await registrar(lambda _, asked: ok(asked, 1) if right(asked) else ["401 No", CHALLENGES["qop"]])
    _, events = await started(timers=QUICK, server="127.0.0.1", server_port=pbx.port)
    third = await pbx.until(3)
    assert third.auth["nc"] == "00000002" and right(third)
    assert events.count("registration:registered") == 1


async def test_stale_nonce_is_replaced_without_a_failure(started: Any, registrar: Any) -> None:
    """stale=true means the password was right (RFC 7616 section 3.3)."""

    def answer(pbx: Registrar, asked: Asked) -> list[str]:
        if not asked.auth:
            return ["401 No", CHALLENGES["qop"]]
        if asked.auth["nonce"] == "n1":
            return ["401 No", 'WWW-Authenticate: Digest realm="pbx", nonce="n2", qop="auth", stale=TRUE']
        return ok(asked)

    pbx = await registrar(answer)
    _, events = await started(timers=QUICK, server="127.0.0.1", server_port=pbx.port)
    await events.wait("registration:registered")
    assert events.count("registration:failed") == 0 and len(pbx.asked) == 3


async def test_wrong_password_is_said_plainly_and_tried_again_with_back_off(started: Any, registrar: Any) -> None:
    """FAILED with what to check; the right password on the PBX's side later registers by itself."""
    accept = [False]
    pbx = await registrar(lambda _, asked: ok(asked) if accept[0] and right(asked) else ["401 No", CHALLENGES["qop"]])
    line, events = await started(timers=QUICK, server="127.0.0.1", server_port=pbx.port)
    status = await events.wait("registration:failed")
    assert (
        "refused the password of firmline (401); check line.username" in status.detail and "secret" not in status.detail
    )
    await pbx.until(4)
    accept[0] = True
    await events.wait("registration:registered")
    assert line.status().registration is RegistrationState.REGISTERED


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (["403 Forbidden"], "status 403; check line.username and line.password"),
        (["404 Not Found"], "does not know line.username"),
        (["503 Busy", "Retry-After: 0"], "status 503"),
        (["401 No"], "without a challenge"),
        (["401 No", 'WWW-Authenticate: Basic realm="x"'], "no digest authentication"),
        (["401 No", 'WWW-Authenticate: Digest realm="x", nonce="n", algorithm=FOO'], "other than MD5 and SHA-256"),
        (["401 No", 'WWW-Authenticate: Digest realm="x", nonce="n", qop="auth-int"'], "other than qop=auth"),
        (["401 No", 'WWW-Authenticate: Digest realm="x"'], "no realm or no nonce"),
        (["423 Brief"], "too short (423)"),
    ],
)
async def test_refusal_is_told_with_the_fix_and_tried_again(
    started: Any, registrar: Any, reply: list[str], said: str
) -> None:
    """Each kind of refusal has its sentence; the line keeps trying."""
    pbx = await registrar(lambda _, asked: reply)
    _, events = await started(timers=QUICK, server="127.0.0.1", server_port=pbx.port)
    assert said in (await events.wait("registration:failed")).detail
    await pbx.until(2)


async def test_interval_too_brief_is_lengthened(started: Any, registrar: Any) -> None:
    """423 with Min-Expires (RFC 3261 section 10.3)."""
    pbx = await registrar(
        lambda _, asked: ok(asked, asked.expires) if asked.expires >= 300 else ["423 Brief", "Min-Expires: 300"]
    )
    _, events = await started(timers=QUICK, server="127.0.0.1", server_port=pbx.port)
    await events.wait("registration:registered")
    assert [a.expires for a in pbx.asked] == [120, 300]


async def test_silent_registrar_is_retransmitted_to_then_reported_then_found(started: Any, registrar: Any) -> None:
    """Timers E and F, FAILED with what to check, and back to REGISTERED when it answers."""
    awake = [False]
    pbx = await registrar(lambda _, asked: ok(asked) if awake[0] else None)
    _, events = await started(timers=QUICK, server="127.0.0.1", server_port=pbx.port)
    status = await events.wait("registration:failed")
    assert "did not answer within 0.64 s" in status.detail and len(pbx.asked) > 5
    assert len({a.text for a in pbx.asked}) == 1, "a retransmission is the same request"
    awake[0] = True
    await events.wait("registration:registered")


async def test_provisional_answer_slows_the_repeats(started: Any, registrar: Any) -> None:
    """100 to a REGISTER: repeats every T2 (RFC 3261 section 17.1.2.2), and the final still counts."""
    seen: list[int] = []

    def answer(pbx: Registrar, asked: Asked) -> list[str]:
        seen.append(1)
        return ["100 Trying"] if len(seen) < 3 else ok(asked)

    pbx = await registrar(answer)
    _, events = await started(timers=QUICK, server="127.0.0.1", server_port=pbx.port)
    await events.wait("registration:registered")


async def test_name_that_does_not_resolve_is_told(started: Any) -> None:
    """.invalid never resolves (RFC 2606)."""
    _, events = await started(timers=QUICK, server="pbx.invalid")
    assert "cannot be resolved" in (await events.wait("registration:failed")).detail


async def test_name_that_resolves_is_used(started: Any, registrar: Any) -> None:
    """localhost, looked up without blocking the loop."""
    pbx = await registrar(lambda _, asked: ok(asked))
    _, events = await started(timers=QUICK, server="localhost", server_port=pbx.port)
    await events.wait("registration:registered")
    assert pbx.asked[0].text.startswith(f"REGISTER sip:localhost:{pbx.port} SIP/2.0")


async def test_no_registrar_is_registered_at_once_and_says_so(started: Any) -> None:
    """server empty: peers dial us."""
    line, events = await started()
    status = await events.wait("registration:registered")
    assert status.detail == f"no registrar: peers dial sip:firmline@127.0.0.1:{line.local_address[1]}"


async def test_stop_while_the_registrar_is_silent_is_quick(engine: Any, options_of: Any, events_of: Any) -> None:
    """Bounded by the timer of stop, not by timer F."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        timers = replace(QUICK, t1_ms=500, stop_ms=100)
        line = engine(options_of(server="127.0.0.1", server_port=deaf.getsockname()[1]), timers=timers)
        await line.start(events_of())
        await asyncio.wait_for(line.stop(), 1)
        assert line.status().registration is RegistrationState.UNREGISTERED


async def test_registrar_may_always_send_us_calls(started: Any, registrar: Any) -> None:
    """The server's address counts as trusted without being listed."""
    pbx = await registrar(lambda _, asked: ok(asked))
    line, events = await started(
        timers=QUICK, server="127.0.0.1", server_port=pbx.port, trusted_peers=("192.0.2.0/24",)
    )
    await events.wait("registration:registered")
    assert line._phone.sip._is_trusted("127.0.0.1") and not line._phone.sip._is_trusted("127.0.0.2")


def test_registration_table_reaches_every_state_and_every_state_can_stop() -> None:
    """Walk the table: no dead end, no orphan, every state knows STOP."""
    reached = {RegistrationState.UNREGISTERED}
    for _ in RegistrationState:
        reached |= {cell[0] for state in reached for cell in TABLE[state].values()}
    assert reached == set(RegistrationState) == set(TABLE)
    assert all(TABLE[state][RegEvent.STOP][0] is RegistrationState.UNREGISTERED for state in TABLE)
    waiting = set(RegistrationState) - {RegistrationState.UNREGISTERED}
    for event in (RegEvent.ACCEPTED, RegEvent.CHALLENGED, RegEvent.TOO_BRIEF, RegEvent.REFUSED, RegEvent.SILENT):
        assert all(event in TABLE[state] for state in waiting), event
