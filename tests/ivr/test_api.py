"""The HTTP API over a real server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ivr import clock
from ivr.api.app import create_app
from ivr.api.base import CallSummary, Check
from ivr.api.feed import EventFeed
from ivr.api.guard import is_loopback_host
from ivr.api.patience import PatientH11
from ivr.api.server import ApiServer
from ivr.errors import FirmlineError
from ivr.metrics import Metrics
from ivr.types import JournalEvent, JournalRow, LiveEvent, LiveRow
from policies.types import Hotkey, Key

SUMMARY = CallSummary(
    id="c1",
    call_ref="1700000000.12",
    agent_ext="201",
    state="listening",
    rung="clear",
    armed=True,
    strikes=0,
    started_at="2026-01-01T00:00:00.000+00:00",
    duration_ms=1_000,
    legs=("caller", "agent"),
    playing=None,
    countdown_ms=None,
)
ROW = JournalRow(
    "c1", JournalEvent.UTTERANCE, "2026-01-01T00:00:01.000+00:00", 5, {"text": "you walnut", "side": "caller"}
)


class Directory:
    """Live calls for the API, kept in memory as the real directory keeps them."""

    def __init__(self) -> None:
        self.calls = {"c1": SUMMARY}
        self.pressed: list[tuple[str, Hotkey]] = []
        self.check_list = [Check("line", True, "registered"), Check("model", True, "tiny.en is loaded")]

    def summaries(self) -> list[CallSummary]:
        return list(self.calls.values())

    def summary(self, call_id: str) -> CallSummary | None:
        return self.calls.get(call_id)

    def agent_of(self, call_id: str) -> str | None:
        return self.calls[call_id].agent_ext if call_id in self.calls else None

    def call_of_agent(self, ext: str) -> str | None:
        return next((c.id for c in self.calls.values() if c.agent_ext == ext), None)

    def press(self, call_id: str, hotkey: Hotkey) -> CallSummary:
        self.calls[call_id] = replace(self.calls[call_id], armed=hotkey.key is not Key.DISARM)
        self.pressed.append((call_id, hotkey))
        return self.calls[call_id]

    def checks(self) -> list[Check]:
        return self.check_list


class Service:
    """The API as it runs, with what is behind it."""

    def __init__(self) -> None:
        self.directory, self.metrics, self.feed = Directory(), Metrics("1"), EventFeed(max_waiting=8, max_watchers=2)
        self.server = ApiServer(create_app(self.directory, self.metrics, self.feed), "127.0.0.1", 0)

    @property
    def origin(self) -> str:
        host, port = self.server.address
        return f"http://{host}:{port}"

    def watch(self, query: str = "", **kwargs: Any) -> connect:
        return connect(self.origin.replace("http", "ws") + "/api/events" + query, proxy=None, **kwargs)

    async def watched_by(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.feed) != count:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), 0.01)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    running = Service()
    await running.server.start()
    yield running
    await running.server.stop()
    assert asyncio.all_tasks() <= {asyncio.current_task()} | {t for t in asyncio.all_tasks() if "fixture" in repr(t)}


@pytest.fixture
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.origin, trust_env=False, timeout=5) as client:
        yield client


async def test_healthz_answers_alive(http: httpx.AsyncClient) -> None:
    """The probe tells that the loop turns, and which version."""
    answer = await http.get("/healthz")
    assert answer.status_code == 200 and answer.json()["alive"] is True and "server" not in answer.headers


async def test_readyz_tells_each_check(service: Service, http: httpx.AsyncClient) -> None:
    """200 when every check is good; 503 with the same lines when one is not."""
    answer = await http.get("/readyz")
    assert answer.status_code == 200 and answer.json()["ready"] is True
    service.directory.check_list.append(Check("pbx", False, "set pbx.control_url"))
    answer = await http.get("/readyz")
    assert answer.status_code == 503 and answer.json()["ready"] is False
    assert answer.json()["checks"][-1] == {"name": "pbx", "ok": False, "detail": "set pbx.control_url"}


async def test_metrics_are_the_text_format(service: Service, http: httpx.AsyncClient) -> None:
    """Prometheus gets its own content type and the live numbers."""
    service.metrics.call_began()
    answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "firmline_calls_live 1.0" in answer.text


async def test_calls_are_listed_and_shown(http: httpx.AsyncClient) -> None:
    """The list and the single call are the same object; an unknown one is a plain 404."""
    listed, one = await http.get("/api/calls"), await http.get("/api/calls/c1")
    assert listed.json() == [one.json()] and one.json()["legs"] == ["caller", "agent"]
    missing = await http.get("/api/calls/nope")
    assert missing.status_code == 404 and missing.json() == {"error": "there is no live call 'nope'"}


@pytest.mark.parametrize("key", list(Key))
async def test_key_pressed_in_a_call_is_delivered(service: Service, http: httpx.AsyncClient, key: Key) -> None:
    """Each key reaches the call, by whom it was pressed, and the answer is the call afterwards."""
    by_call = await http.post(f"/api/calls/c1/{key}")
    by_agent = await http.post(f"/api/agents/201/{key}", content=b"")
    assert by_call.status_code == by_agent.status_code == 200
    assert service.directory.pressed == [("c1", Hotkey(key, "ops")), ("c1", Hotkey(key, "agent:201"))]
    assert by_call.json()["armed"] is (key is not Key.DISARM)
    assert f'firmline_hotkeys_total{{key="{key}"}} 2.0' in service.metrics.render().decode()


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("POST", "/api/calls/nope/warn", 404, "there is no live call 'nope'"),
        ("POST", "/api/agents/999/warn", 404, "agent 999 is not on a call"),
        ("POST", "/api/calls/c1/explode", 422, "key: Input should be 'warn', 'pardon'"),
        ("POST", "/api/agents/%00/warn", 422, "ext: String should match"),
        ("GET", "/api/calls/c1/warn", 405, "Method Not Allowed"),
        ("POST", "/api/calls", 405, "Method Not Allowed"),
        ("GET", "/nothing", 404, "Not Found"),
        ("GET", "/docs", 404, "Not Found"),
    ],
)
async def test_bad_request_is_plain_json(
    service: Service, http: httpx.AsyncClient, method: str, path: str, status: int, said: str
) -> None:
    """Every refusal is one sentence under ``error``, and no key is pressed."""
    answer = await http.request(method, path)
    assert answer.status_code == status and list(answer.json()) == ["error"] and said in answer.json()["error"]
    assert service.directory.pressed == []


async def test_fault_of_ours_is_a_plain_500_and_the_next_request_works(
    service: Service, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug costs one answer, and its text tells nothing."""
    monkeypatch.setattr(service.directory, "summaries", lambda: 1 / 0)
    answer = await http.get("/api/calls")
    assert answer.status_code == 500 and "division" not in answer.text and "error" in answer.json()
    assert (await http.get("/healthz")).status_code == 200


async def test_openapi_describes_every_path(http: httpx.AsyncClient) -> None:
    """The schema is served, with a summary for each operation."""
    schema = (await http.get("/openapi.json")).json()
    operations = [op for path in schema["paths"].values() for op in path.values()]
    assert {"/healthz", "/readyz", "/metrics", "/api/calls", "/api/calls/{call_id}/{key}"} <= schema["paths"].keys()
    assert all(op["summary"] for op in operations) and "/api/events" in schema["info"]["description"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.0.2.1:80", "", "a@127.0.0.1", "[::1"])
async def test_foreign_host_is_refused_everywhere(service: Service, http: httpx.AsyncClient, host: str) -> None:
    """A name that an attacker points at loopback opens nothing, not even reading."""
    for method, path in (("GET", "/api/calls"), ("POST", "/api/agents/201/end")):
        answer = await http.request(method, path, headers={"host": host})
        assert answer.status_code == 403 and "loopback names only" in answer.json()["error"]
    assert service.directory.pressed == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://localhost"},
        {"sec-fetch-site": "cross-site"},
    ],
)
async def test_key_pressed_by_a_foreign_page_is_refused(
    service: Service, http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    """Another site's page, or another program's page on this machine, presses no key and opens no stream."""
    answer = await http.post("/api/agents/201/end", headers=headers)
    assert answer.status_code == 403 and service.directory.pressed == []
    with pytest.raises(InvalidStatus) as caught:
        async with service.watch(additional_headers=headers):
            pass
    assert caught.value.response.status_code == 403


async def test_own_page_and_programs_may_press(service: Service, http: httpx.AsyncClient) -> None:
    """The same origin passes, under either name of this machine; a program without an origin does too."""
    port = service.server.address[1]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"):
        answer = await http.post("/api/agents/201/warn", headers={"host": host, "origin": f"http://{host.lower()}"})
        assert answer.status_code == 200
    assert is_loopback_host("127.8.9.1") and not is_loopback_host("127.1:80:80") and not is_loopback_host("127.0.0.1/x")


async def test_events_stream_without_words_unless_asked(service: Service) -> None:
    """Each row comes as one JSON object; words only with ``?words=1``."""
    async with service.watch() as quiet, service.watch("?words=1") as full:
        await service.watched_by(2)
        service.feed.publish(ROW)
        without, with_words = json.loads(await quiet.recv()), json.loads(await full.recv())
    assert with_words["data"] == {"text": "you walnut", "side": "caller"}
    assert without["data"] == {"side": "caller"}
    assert (without["call_id"], without["event"], without["t_ms"]) == ("c1", "utterance", 5)
    await service.watched_by(0)


async def test_live_words_come_in_the_same_form_masked_and_only_to_those_who_ask(service: Service) -> None:
    """What may still change is treated with the same care as what is kept."""
    data = {"side": "caller", "words": "my card is 4111 1111 1111 1111", "start_ms": 0, "end_ms": 900}
    async with service.watch() as quiet, service.watch("?words=1") as full:
        await service.watched_by(2)
        service.feed.publish(LiveRow("c1", LiveEvent.PARTIAL, ROW.at, 1_000, data))
        without, with_words = json.loads(await quiet.recv()), json.loads(await full.recv())
    assert (with_words["event"], with_words["call_id"], with_words["t_ms"]) == ("partial", "c1", 1_000)
    assert with_words["data"]["words"].startswith("my card is") and "4111" not in with_words["data"]["words"]
    assert "words" not in without["data"]
    await service.watched_by(0)


async def test_events_too_many_watchers_are_told_to_come_later(service: Service) -> None:
    """The number of watchers is bounded."""
    async with service.watch(), service.watch():
        await service.watched_by(2)
        async with service.watch() as third:
            with pytest.raises(ConnectionClosed) as caught:
                await third.recv()
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1013


async def test_events_slow_client_is_dropped_and_the_others_go_on(service: Service, http: httpx.AsyncClient) -> None:
    """A client that does not read is let go; publishing never waits, and a reader misses nothing."""
    big = replace(ROW, data={"side": "x" * 19_000})
    reader, writer = await _raw_watch(service)
    async with service.watch() as good:
        await service.watched_by(2)
        async with asyncio.timeout(20):
            for _ in range(2_000):
                service.feed.publish(big)
                await good.recv()
                if len(service.feed) == 1:
                    break
        assert len(service.feed) == 1
        assert (await http.get("/healthz")).status_code == 200
    writer.transport.abort()
    del reader


async def _raw_watch(service: Service) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket client that stops reading after the handshake."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, service.server.address)
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    writer.write(
        b"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b"101" in await reader.readuntil(b"\r\n\r\n")
    transport: Any = writer.transport
    transport.pause_reading()
    return reader, writer


async def test_event_client_that_vanishes_is_forgotten(service: Service) -> None:
    """A cut connection leaves no watcher behind."""
    client: ClientConnection = await service.watch()
    await service.watched_by(1)
    client.transport.abort()
    await service.watched_by(0)
    await client.wait_closed()


async def test_server_port_taken_is_a_clear_error(service: Service) -> None:
    """A second program on the port is told apart, by address and with the fix."""
    host, port = service.server.address
    second = ApiServer(create_app(service.directory, service.metrics, service.feed), host, port)
    with pytest.raises(FirmlineError, match=rf"cannot listen on 127\.0\.0\.1:{port}: the port is taken .* api\.port"):
        await second.start()
    await second.stop()
    with pytest.raises(FirmlineError, match="not one of this machine"):
        await ApiServer(second._app, "192.0.2.1", 0).start()


async def test_server_stop_is_quick_with_open_clients() -> None:
    """Idle connections, a stream and a client that never reads do not hold up the stop; the port is free after."""
    service = Service()
    await service.server.start()
    host, port = service.server.address
    idle_reader, idle = await asyncio.open_connection(host, port)
    idle.write(b"GET / HT")
    _, stuck = await _raw_watch(service)
    async with service.watch() as client:
        await service.watched_by(2)
        for _ in range(8):
            service.feed.publish(replace(ROW, data={"side": "x" * 19_000}))
        began = clock.monotonic_ms()
        await service.server.stop()
        assert clock.monotonic_ms() - began < 2_000
        with pytest.raises(ConnectionClosed):
            while True:
                await client.recv()
    await service.server.stop()
    idle.transport.abort()
    stuck.transport.abort()
    again = ApiServer(create_app(service.directory, service.metrics, service.feed), host, port)
    await again.start()
    await again.stop()
    del idle_reader


async def test_server_leaves_signal_handlers_alone() -> None:
    """Ctrl-C belongs to the service."""
    import signal

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    service = Service()
    await service.server.start()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    await service.server.stop()


async def test_server_closes_connections_that_never_finish_a_request(
    service: Service, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence and half a request are given up; an event stream and a slow answer's connection are not."""
    monkeypatch.setattr(PatientH11, "header_timeout_s", 0.3)
    host, port = service.server.address
    async with service.watch() as watcher:
        silent_reader, silent = await asyncio.open_connection(host, port)
        half_reader, half = await asyncio.open_connection(host, port)
        half.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        again_reader, again = await asyncio.open_connection(host, port)
        again.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in await again_reader.readuntil(b"\r\n\r\n")
        again.write(b"GET /heal")
        async with asyncio.timeout(3):
            assert await silent_reader.read() == b"" and await half_reader.read() == b""
            assert (await again_reader.read()).endswith(b"}")
        for writer in (silent, half, again):
            writer.close()
        service.feed.publish(ROW)
        assert json.loads(await asyncio.wait_for(watcher.recv(), 2))["call_id"] == "c1"
    assert (await http.get("/healthz")).status_code == 200
