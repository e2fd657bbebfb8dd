"""The manager protocol: blocks, logins, lists, and what happens when the other side is strange, slow or gone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr.errors import PbxError
from ivr.pbx.ami import MAX_LINE_BYTES, AmiClient, AmiMessage, AmiOptions, AmiProtocolError, AmiReader, render

BANNER = b"Asterisk Call Manager/11.0.0\r\n"
Answer = Callable[[AmiMessage], list[str]]


def test_reader_joins_blocks_from_any_pieces_and_keeps_repeated_names() -> None:
    """A block is whole at its empty line, wherever the network cut it; values keep their colons."""
    reader = AmiReader()
    assert reader.feed(b"Event: BridgeEnter\r\nVar") == []
    (message,) = reader.feed(b"iable: a=1:2\r\nVariable: b\r\n\r\nEvent: ")
    assert message.event == "BridgeEnter" and message.get("variable") == "a=1:2"
    assert [value for key, value in message.fields if key == "Variable"] == ["a=1:2", "b"]
    assert reader.feed(b"X\r\n\r\n\r\n\r\n")[0].event == "X"


@given(st.binary(max_size=300))
def test_reader_takes_any_bytes(data: bytes) -> None:
    """Nonsense is no reason to raise anything but the one error there is."""
    with contextlib.suppress(AmiProtocolError):
        for message in AmiReader().feed(data + b"\r\n\r\n"):
            message.get("Event")


def test_reader_refuses_what_never_ends() -> None:
    """A line without an end, or a block without one, must not fill the memory."""
    with pytest.raises(AmiProtocolError, match="line that never ends"):
        AmiReader().feed(b"x" * (MAX_LINE_BYTES + 1))
    with pytest.raises(AmiProtocolError, match="message that never ends"):
        AmiReader().feed(b"a: b\r\n" * 2001)


@pytest.mark.parametrize("value", ["a\r\nAction: Hangup", "a\nb", "a\rb", "a\0b"])
def test_render_refuses_a_value_that_would_be_a_second_action(value: str) -> None:
    """A caller's number must never become a command."""
    with pytest.raises(PbxError, match="Channel holds characters"):
        render("Redirect", "1", [("Channel", value)])


@dataclass
class Pbx:
    """A manager interface that answers by a script; real sockets, no Asterisk."""

    answer: Answer
    banner: bytes = BANNER
    port: int = 0
    got: list[AmiMessage] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    connections: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        writer.write(self.banner)
        parser = AmiReader()
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                for message in parser.feed(data):
                    self.got.append(message)
                    self.changed.set()
                    for block in self.answer(message):
                        self.send(f"{block}\r\nActionID: {message.get('ActionID')}" if block else "")
        writer.close()

    def send(self, block: str) -> None:
        if block:
            self.writers[-1].write(block.encode() + b"\r\n\r\n")

    def asked(self, action: str) -> list[AmiMessage]:
        return [m for m in self.got if m.get("Action") == action]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


def polite(message: AmiMessage) -> list[str]:
    """An Asterisk in a good mood."""
    if message.get("Action") == "Challenge":
        return ["Response: Success\r\nChallenge: 123456"]
    return ["Response: Success"]


@contextlib.asynccontextmanager
async def talking(pbx: Pbx, **changes: Any) -> AsyncIterator[tuple[AmiClient, list[AmiMessage], list[str]]]:
    """A client on that PBX; its events, and what it was told of logins and losses."""
    server = await asyncio.start_server(pbx.serve, "127.0.0.1", 0)
    pbx.port = server.sockets[0].getsockname()[1]
    events: list[AmiMessage] = []
    told: list[str] = []

    async def up() -> None:
        told.append("up")
        pbx.changed.set()

    def down(why: str) -> None:
        told.append(why)
        pbx.changed.set()

    def heard(event: AmiMessage) -> None:
        events.append(event)
        pbx.changed.set()

    base: dict[str, Any] = {"host": "127.0.0.1", "port": pbx.port, "username": "firmline", "secret": "s3cret"}
    options = AmiOptions(**{**base, "timeout_ms": 300, "ping_ms": 5000, **changes})
    client = AmiClient(options, on_event=heard, on_up=up, on_down=down)
    client.start()
    try:
        yield client, events, told
    finally:
        await client.stop()
        for writer in pbx.writers:
            writer.close()
        server.close()
        await server.wait_closed()


async def test_client_logs_in_with_a_digest_and_never_sends_the_secret() -> None:
    """MD5 of challenge and secret, as the specification says."""
    pbx = Pbx(polite)
    async with talking(pbx) as (client, _events, told):
        await pbx.until(lambda: told == ["up"])
        assert client.problem is None and client.version == "11.0.0"
    login = pbx.asked("Login")[0]
    assert login.get("Key") == hashlib.md5(b"123456s3cret").hexdigest() and login.get("Events") == "call,dtmf,user"
    assert not any("s3cret" in value for message in pbx.got for _, value in message.fields)
    assert pbx.asked("Logoff")


async def test_client_logs_in_plainly_on_loopback_where_there_is_no_challenge() -> None:
    """Old or trimmed servers refuse Challenge; on this machine the secret may then be sent as it is."""
    pbx = Pbx(lambda m: ["Response: Error\r\nMessage: no"] if m.get("Action") == "Challenge" else polite(m))
    async with talking(pbx) as (_client, _events, told):
        await pbx.until(lambda: told == ["up"])
    assert pbx.asked("Login")[0].get("Secret") == "s3cret"


async def test_client_gets_answers_by_id_and_lists_without_foreign_events_in_them() -> None:
    """Events that happen meanwhile reach the owner; a refusal holds the PBX's own words."""
    pbx = Pbx(polite)

    def answer(message: AmiMessage) -> list[str]:
        match message.get("Action"):
            case "Status":
                pbx.send("Response: Success\r\nEventList: start\r\nActionID: " + message.get("ActionID"))
                pbx.send("Event: Hangup\r\nUniqueid: 7")
                return ["Event: Status\r\nUniqueid: 1", "Event: StatusComplete\r\nEventList: Complete"]
            case "Redirect":
                return ["Response: Error\r\nMessage: Channel not existent"]
        return polite(message)

    pbx.answer = answer
    async with talking(pbx) as (client, events, told):
        await pbx.until(lambda: told == ["up"])
        rows, pong = await asyncio.gather(client.event_list("Status"), client.action("Ping"))
        assert [row.get("Uniqueid") for row in rows] == ["1"] and pong.get("Response") == "Success"
        assert [event.get("Uniqueid") for event in events] == ["7"]
        with pytest.raises(PbxError, match="Redirect: the PBX said 'Channel not existent'"):
            await client.action("Redirect", ("Channel", "x"))


async def test_client_whose_pings_are_not_answered_connects_anew() -> None:
    """A connection that is only half there is found out and replaced; the owner resynchronises."""
    pbx = Pbx(lambda m: [] if m.get("Action") == "Ping" and pbx.connections == 1 else polite(m))
    async with talking(pbx, ping_ms=50, timeout_ms=100) as (client, _events, told):
        await pbx.until(lambda: told.count("up") == 2)
        assert "Ping: the PBX did not answer in 100 ms" in told[1] and client.problem is None


async def test_client_whose_pbx_goes_away_fails_what_was_asked_and_comes_back() -> None:
    """Nobody waits for an answer on a dead connection."""
    pbx = Pbx(lambda m: [] if m.get("Action") == "Originate" else polite(m))
    async with talking(pbx, timeout_ms=5000) as (client, _events, told):
        await pbx.until(lambda: told == ["up"])
        asking = asyncio.create_task(client.action("Originate"))
        await pbx.until(lambda: bool(pbx.asked("Originate")))
        pbx.writers[-1].close()
        with pytest.raises(PbxError, match="closed the manager connection") as caught:
            await asyncio.wait_for(asking, 2)
        assert caught.value.retryable
        await pbx.until(lambda: told.count("up") == 2)


async def test_client_before_login_or_without_a_pbx_says_why() -> None:
    """Nothing is sent on a connection that may not be used yet."""
    pbx = Pbx(lambda _m: [])
    async with talking(pbx, timeout_ms=100) as (client, _events, told):
        with pytest.raises(PbxError, match="not connected"):
            await client.action("Ping")
        await pbx.until(lambda: bool(told))
        assert "Challenge: the PBX did not answer" in told[0]
    gone = AmiClient(
        AmiOptions("127.0.0.1", pbx.port, "u", "s"), on_event=lambda _m: None, on_up=_nothing, on_down=told.append
    )
    gone.start()
    async with asyncio.timeout(3):
        while "cannot be reached" not in told[-1]:
            await asyncio.wait({gone._runner}, timeout=0.02)  # type: ignore[type-var]
    await gone.stop()


async def _nothing() -> None: ...


async def test_client_refused_by_its_password_names_the_keys() -> None:
    """The message says where to look, and it is tried again."""
    refusal = ["Response: Error\r\nMessage: Authentication failed"]
    pbx = Pbx(lambda m: refusal if m.get("Action") == "Login" else polite(m))
    async with talking(pbx) as (client, _events, told):
        await pbx.until(lambda: len(told) >= 2)
        assert "refused user firmline: check pbx.asterisk.username and secret" in (client.problem or "")


async def test_client_refused_by_md5_tries_the_plain_login_where_that_is_safe() -> None:
    """Some servers keep only a hash, and offer a challenge all the same; over a network the secret is never sent."""

    def hashed(message: AmiMessage) -> list[str]:
        refused = message.get("Action") == "Login" and not message.get("Secret")
        return ["Response: Error\r\nMessage: Authentication failed"] if refused else polite(message)

    pbx = Pbx(hashed)
    async with talking(pbx) as (client, _events, told):
        await pbx.until(lambda: "up" in told)
        assert client.problem is None
    assert [m.get("Secret") for m in pbx.asked("Login")] == ["", "s3cret"]


async def test_client_over_a_network_without_tls_never_sends_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the digest is refused."""
    monkeypatch.setattr("ivr.pbx.ami._is_loopback", lambda _host: False)
    refusal = ["Response: Error\r\nMessage: Authentication failed"]
    pbx = Pbx(lambda m: refusal if m.get("Action") == "Login" else polite(m))
    async with talking(pbx) as (_client, _events, told):
        await pbx.until(lambda: len(told) >= 3)
    assert {m.get("Secret") for m in pbx.asked("Login")} == {""}


async def test_client_on_another_kind_of_server_says_so() -> None:
    """A web server's port is no manager interface."""
    pbx = Pbx(polite, banner=b"HTTP/1.1 400 Bad Request\r\n\r\n")
    async with talking(pbx) as (client, _events, told):
        await pbx.until(lambda: bool(told))
        assert "is no Asterisk manager interface: check pbx.asterisk.port" in (client.problem or "")


async def test_client_survives_an_owner_that_stumbles_over_an_event() -> None:
    """One bad event costs itself only."""
    pbx = Pbx(polite)
    seen: list[str] = []

    def heard(event: AmiMessage) -> None:
        seen.append(event.event)
        pbx.changed.set()
        raise ValueError("a bug of the owner")

    async with talking(pbx) as (client, _events, told):
        client._on_event = heard
        await pbx.until(lambda: told == ["up"])
        pbx.send("Event: A")
        pbx.send("Event: B")
        await pbx.until(lambda: seen == ["A", "B"])
        assert client.problem is None
