"""Control of a PBX over HTTP, against real servers on loopback: honest, slow, refusing, talking nonsense, dead."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response

from ivr import clock
from ivr.api.server import ApiServer
from ivr.errors import ConfigError, PbxError
from ivr.pbx.base import CallRef, PbxControl
from ivr.pbx.direct import DirectControl
from ivr.webhooks import verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CALL = CallRef("1700000000.12", "201")
Answer = Callable[[int], Awaitable[Response] | Response]


@dataclass
class Peer:
    """A control endpoint: what it answers to try number n, and what it was asked."""

    answer: Answer
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Peer]:
    peer, app = Peer(answer), FastAPI()

    @app.post("/control")
    async def control(request: Request) -> Response:
        body = await request.body()
        peer.asked.append(json.loads(body))
        peer.bodies.append((dict(request.headers), body))
        found = peer.answer(len(peer.asked))
        return found if isinstance(found, Response) else await found

    server = ApiServer(app, "127.0.0.1", 0)
    await server.start()
    host, port = server.address
    peer.url = f"http://{host}:{port}/control"
    try:
        yield peer
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def controlling(
    url: str | None, secret: str | None = None, timeout_ms: int = 2_000
) -> AsyncIterator[DirectControl]:
    control = DirectControl(url, secret, timeout_ms)
    await control.start()
    try:
        yield control
    finally:
        await control.stop()


def says(status: int, content: object) -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda _n: Response(body, status, media_type="application/json")


async def test_confirmed_actions_ask_once_as_documented() -> None:
    """Each action is one signed request in the documented form."""
    async with serving(says(200, {"ok": True})) as peer, controlling(peer.url, SECRET) as control:
        as_protocol: PbxControl = control
        await as_protocol.transfer(CALL, "299", "second insult")
        await as_protocol.hang_up(CALL, "why")
        await as_protocol.pause_agent(CallRef("x"), "why")
        assert control.problem() is None
    ids = [a.pop("id") for a in peer.asked]
    assert len(set(ids)) == 3
    assert peer.asked == [
        {"call": "1700000000.12", "action": "transfer", "target": "299", "agent": "201", "reason": "second insult"},
        {"call": "1700000000.12", "action": "hangup", "target": None, "agent": "201", "reason": "why"},
        {"call": "x", "action": "pause_agent", "target": None, "agent": None, "reason": "why"},
    ]
    for (headers, body), message_id in zip(peer.bodies, ids, strict=True):
        assert verify(SECRET, headers, body, clock.wall_s()) == message_id


@pytest.mark.parametrize(
    ("status", "content", "said", "tries", "retryable"),
    [
        (
            200,
            {"ok": False, "error": "no such\nextension \x1b[31m299"},
            r"did not confirm .*: no such extension",
            1,
            False,
        ),
        (200, {}, "did not confirm", 1, False),
        (200, {"ok": 1}, "did not confirm", 1, False),
        (200, [True], "without a JSON object", 1, False),
        (200, b"\xff\xfe<html>", "without a JSON object", 1, False),
        (200, b"[" * 60_000, "without a JSON object", 1, False),
        (200, b" " * 100_000, "more than 65536 bytes", 1, False),
        (204, b"", "without a JSON object", 1, False),
        (302, b"", "answered 302", 1, False),
        (404, {"error": "no such call"}, "answered 404: no such call", 1, False),
        (401, b"nope", "answered 401", 1, False),
        (503, {"error": "reloading"}, "answered 503: reloading", 3, True),
        (429, b"", "answered 429", 3, True),
    ],
)
async def test_refusal_raises_with_the_peers_words(
    status: int, content: object, said: str, tries: int, retryable: bool
) -> None:
    """What is not a confirmation fails; only what may pass by itself is tried again, with the same id."""
    async with serving(says(status, content)) as peer, controlling(peer.url) as control:
        with pytest.raises(PbxError, match=f"^transfer: .*{said}") as caught:
            await control.transfer(CALL, "299", "why")
        assert caught.value.retryable is retryable and "\n" not in str(caught.value)
        assert (control.problem() is not None) is retryable
    assert len(peer.asked) == tries and len({a["id"] for a in peer.asked}) == 1


async def test_passing_failure_is_tried_again_and_confirmed() -> None:
    """A PBX that is back on the third try has done it, and nobody needs to know."""
    answer: Answer = lambda n: Response(b'{"ok": true}' if n == 3 else b"", 200 if n == 3 else 502)  # noqa: E731
    async with serving(answer) as peer, controlling(peer.url) as control:
        await control.hang_up(CALL, "why")
        assert control.problem() is None
    assert len(peer.asked) == 3


async def test_slow_peer_times_out_within_the_bound() -> None:
    """A peer that never answers costs the time-out and no more; what was tried carries one id."""
    gone = asyncio.Event()

    async def never(_n: int) -> Response:
        await gone.wait()
        return Response(b'{"ok": true}')

    async with serving(never) as peer, controlling(peer.url, timeout_ms=600) as control:
        began = clock.monotonic_ms()
        with pytest.raises(PbxError, match="no answer within") as caught:
            await control.hang_up(CALL, "why")
        assert clock.monotonic_ms() - began < 900 and caught.value.retryable
        gone.set()
    assert 2 <= len(peer.asked) <= 3 and len({a["id"] for a in peer.asked}) == 1


async def test_stop_during_an_action_fails_it_at_once() -> None:
    """Shutting down does not wait for a silent PBX."""
    asked = asyncio.Event()
    gone = asyncio.Event()

    async def never(_n: int) -> Response:
        asked.set()
        await gone.wait()
        return Response(b"")

    async with serving(never) as peer, controlling(peer.url, timeout_ms=20_000) as control:
        acting = asyncio.create_task(control.hang_up(CALL, "why"))
        async with asyncio.timeout(5):
            await asked.wait()
            await control.stop()
            with pytest.raises(PbxError):
                await acting
        gone.set()


@contextlib.asynccontextmanager
async def raw_peer(
    behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A peer of bare sockets; gives its URL, and leaves no connection behind."""
    served_tasks: set[asyncio.Task[None]] = set()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served_tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await behave(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async with await asyncio.start_server(served, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        server.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*served_tasks)


@pytest.mark.parametrize("sent", [b"", b"\x00\x01garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"])
async def test_peer_that_does_not_speak_http_is_an_error_not_a_crash(sent: bytes) -> None:
    """A cut or senseless answer is a connection failure: tried again, then told."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(sent)

    async with raw_peer(behave) as url, controlling(url) as control:
        with pytest.raises(PbxError, match="cannot be reached") as caught:
            await control.hang_up(CALL, "why")
        assert caught.value.retryable


async def test_peer_that_drips_bytes_runs_out_of_time() -> None:
    """Single bytes for ever do not keep an action alive."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await reader.read(1)

    async with raw_peer(behave) as url, controlling(url, timeout_ms=400) as control:
        began = clock.monotonic_ms()
        with pytest.raises(PbxError, match="no answer within"):
            await control.hang_up(CALL, "why")
        assert clock.monotonic_ms() - began < 700


async def test_dead_peer_is_told_and_the_environments_proxy_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listening is a plain sentence; credentials in the URL are not shown in it."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1/")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with controlling(f"http://user:hunter2@127.0.0.1:{port}/control?key=hunter2") as control:
        with pytest.raises(PbxError, match="hangup: cannot be reached") as caught:
            await control.hang_up(CALL, "why")
        assert caught.value.retryable
        told = control.problem()
        assert told is not None and f"http://127.0.0.1:{port}/control" in told and "hunter2" not in told


@pytest.mark.parametrize("url", [None, ""])
async def test_no_url_names_the_key_to_set(url: str | None) -> None:
    """Without control, each action fails with the fix, and the checks show it."""
    async with controlling(url) as control:
        with pytest.raises(PbxError, match=r"set pbx\.control_url in config\.yaml"):
            await control.transfer(CALL, "299", "why")
        assert "pbx.control_url" in (control.problem() or "")


async def test_unusable_secret_is_a_config_error() -> None:
    """Found at start, by key."""
    with pytest.raises(ConfigError, match=r"^pbx\.control_secret: .*openssl"):
        DirectControl("http://127.0.0.1:9/", "hunter2", 500)
