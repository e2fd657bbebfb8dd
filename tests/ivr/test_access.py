"""Who may do what: tokens, roles, streams, limits, and how others than this machine get here."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import ssl
import subprocess
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from ivr.api.access import Access
from ivr.api.app import create_app
from ivr.api.base import Desk
from ivr.api.feed import EventFeed
from ivr.api.parts import api_access, api_hosts, api_reach
from ivr.api.rates import Buckets, Rate
from ivr.api.server import ApiServer, Reach
from ivr.config import ApiConfig, Config
from ivr.errors import ConfigError, FirmlineError
from ivr.log import configure_logging
from ivr.metrics import Metrics
from ivr.token_command import expiry
from ivr.tokens import Role, TokenBook, TokenFile
from ivr.types import JournalEvent, JournalRow, LiveEvent, LiveRow
from policies.types import Hotkey, Key
from tests.ivr.test_api import SUMMARY, Directory

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
ROW = JournalRow("c1", JournalEvent.UTTERANCE, "2026-01-01T00:00:01.000+00:00", 5, {"words": "you walnut"})


class Guarded:
    """An API with a call of 201 and one of 202, and tokens of every kind."""

    def __init__(
        self,
        folder: Path,
        *,
        only_here: bool = True,
        hosts: tuple[str, ...] = (),
        reach: Reach | None = None,
        desk: Desk | None = None,
    ) -> None:
        self.file = TokenFile(folder / "tokens.json")
        self.token = {
            "agent": self.file.add(Role.AGENT, "201", "Jo", None, NOW),
            "other": self.file.add(Role.AGENT, "202", "Al", None, NOW),
            "supervisor": self.file.add(Role.SUPERVISOR, "299", "Sam", None, NOW),
            "ops": self.file.add(Role.OPS, None, "", None, NOW),
        }
        self.directory = Directory()
        self.directory.calls["c2"] = replace(SUMMARY, id="c2", agent_ext="202")
        self.directory.calls["c3"] = replace(SUMMARY, id="c3", agent_ext=None)
        self.feed = EventFeed()
        self.feed.agent_of = self.directory.agent_of
        self.now_s, self.now_ms = NOW.timestamp(), 0
        access = Access(
            TokenBook(self.file.path),
            open_without_tokens=only_here,
            now_s=lambda: self.now_s,
            now_ms=lambda: self.now_ms,
        )
        self.app = create_app(self.directory, Metrics("1"), self.feed, access=access, desk=desk, hosts=hosts)
        self.server = ApiServer(self.app, "127.0.0.1", 0, reach or Reach())

    @property
    def origin(self) -> str:
        host, port = self.server.address
        return f"{self.server.scheme}://{host}:{port}"

    def watch(self, token: str | None, query: str = "", **kwargs: Any) -> connect:
        offered = [Subprotocol("firmline"), Subprotocol(f"bearer.{token}")] if token else None
        url = self.origin.replace("http", "ws") + "/api/events" + query
        return connect(url, proxy=None, subprotocols=offered, **kwargs)

    async def watched_by(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.feed) != count:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), 0.01)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Guarded]:
    running = Guarded(tmp_path)
    await running.server.start()
    yield running
    await running.server.stop()


@pytest.fixture
async def http(api: Guarded) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.origin, trust_env=False, timeout=5) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


# --- roles ------------------------------------------------------------------------------------------------------------


async def test_without_a_token_only_what_holds_no_data_answers(api: Guarded, http: httpx.AsyncClient) -> None:
    """Every route is either open on purpose or 401; the readiness probe tells nothing but whether."""
    schema = (await http.get("/openapi.json")).json()
    fill = {"{call_id}": "c1", "{ext}": "201", "{key}": "warn"}
    for path, operations in schema["paths"].items():
        for method in operations:
            url = path
            for name, value in fill.items():
                url = url.replace(name, value)
            answer = await http.request(method, url)
            if path in ("/healthz", "/readyz"):
                assert answer.status_code == 200 and answer.json().get("checks", []) == []
            else:
                assert answer.status_code == 401 and list(answer.json()) == ["error"], path
                assert answer.headers["www-authenticate"] == "Bearer"
                assert operations[method]["security"] == [{"HTTPBearer": []}], path
    assert api.directory.pressed == []
    with pytest.raises(InvalidStatus) as caught:
        async with api.watch(None):
            pass
    assert caught.value.response.status_code == 401


@pytest.mark.parametrize("wrong", ["nonsense", "firmline_" + "A" * 43, "x" * 4000])
async def test_wrong_token_is_401_on_http_and_websocket(api: Guarded, http: httpx.AsyncClient, wrong: str) -> None:
    """A token that is not known opens nothing."""
    answer = await http.get("/api/calls", headers=bearer(wrong))
    assert answer.status_code == 401 and "error" in answer.json()
    with pytest.raises(InvalidStatus) as caught:
        async with api.watch(wrong):
            pass
    assert caught.value.response.status_code == 401


async def test_each_role_is_told_who_it_is(api: Guarded, http: httpx.AsyncClient) -> None:
    """``/api/me`` says role, extension and name; the answer is nobody's to keep."""
    said = {}
    for role, token in api.token.items():
        answer = await http.get("/api/me", headers=bearer(token))
        said[role] = answer.json()
        assert answer.headers["cache-control"] == "no-store"
    assert said["agent"] == {"role": "agent", "ext": "201", "name": "Jo"}
    assert said["supervisor"] == {"role": "supervisor", "ext": "299", "name": "Sam"}
    assert said["ops"] == {"role": "ops", "ext": None, "name": ""}


async def test_agent_sees_and_touches_their_own_calls_only(api: Guarded, http: httpx.AsyncClient) -> None:
    """Another's call, and one that is nobody's, are 403 whatever is asked; keys there are not delivered."""
    mine = bearer(api.token["agent"])
    assert [c["id"] for c in (await http.get("/api/calls", headers=mine)).json()] == ["c1"]
    assert (await http.get("/api/calls/c1", headers=mine)).status_code == 200
    assert (await http.get("/api/agents/201/call", headers=mine)).json()["id"] == "c1"
    foreign = [("GET", "/api/calls/c2"), ("GET", "/api/calls/c3"), ("GET", "/api/agents/202/call")]
    foreign += [("POST", f"/api/{where}/{key}") for where in ("calls/c2", "calls/c3", "agents/202") for key in Key]
    for method, path in foreign:
        answer = await http.request(method, path, headers=mine)
        assert answer.status_code == 403 and answer.json() == {"error": "this token is for extension 201 only"}
    assert api.directory.pressed == []
    await http.post("/api/calls/c1/warn", headers=mine)
    await http.post("/api/agents/201/pardon", headers=mine)
    by = "agent:201"
    assert api.directory.pressed == [("c1", Hotkey(Key.WARN, by)), ("c1", Hotkey(Key.PARDON, by))]


async def test_supervisor_and_ops_reach_every_call_and_are_named(api: Guarded, http: httpx.AsyncClient) -> None:
    """All calls, all keys; the journal learns who it was."""
    for role in ("supervisor", "ops"):
        allowed = bearer(api.token[role])
        assert len((await http.get("/api/calls", headers=allowed)).json()) == 3
        await http.post("/api/agents/202/disarm", headers=allowed)
    assert [hotkey.by for _, hotkey in api.directory.pressed] == ["supervisor:Sam", "ops"]


async def test_metrics_and_checks_are_for_those_who_look_after_the_service(
    api: Guarded, http: httpx.AsyncClient
) -> None:
    """Metrics: ops. What is wrong: supervisors too. Agents: whether, not what."""
    seen = {}
    for role, token in api.token.items():
        metrics = await http.get("/metrics", headers=bearer(token))
        checks = (await http.get("/readyz", headers=bearer(token))).json()["checks"]
        seen[role] = (metrics.status_code, bool(checks))
    assert seen == {"agent": (403, False), "other": (403, False), "supervisor": (403, True), "ops": (200, True)}


async def test_without_any_token_the_api_is_open_on_this_machine_and_shut_to_others(tmp_path: Path) -> None:
    """As before there were tokens; but where others could reach us, no token means nobody."""
    for only_here, status in ((True, 200), (False, 401)):
        service = (
            Guarded(tmp_path / str(only_here), only_here=only_here) if (tmp_path / str(only_here)).mkdir() else None
        )
        service = Guarded(tmp_path / str(only_here), only_here=only_here)
        for token in service.file.read():
            service.file.remove(token.id)
        await service.server.start()
        try:
            async with httpx.AsyncClient(base_url=service.origin, trust_env=False) as client:
                answer = await client.get("/api/me")
                assert answer.status_code == status
                assert not only_here or answer.json() == {"role": "open", "ext": None, "name": ""}
        finally:
            await service.server.stop()


async def test_token_in_an_address_is_refused_and_no_log_holds_one(api: Guarded, http: httpx.AsyncClient) -> None:
    """Addresses end up in histories; the log, at its most talkative, holds neither tokens nor words."""
    token, out, root = api.token["ops"], io.StringIO(), logging.getLogger()
    kept = root.handlers[:], root.level
    configure_logging("debug", json=False, pii=True, stream=out)
    try:
        for query in ({"token": token}, {"access_token": token}):
            answer = await http.get("/api/calls", params=query, headers=bearer(token))
            assert answer.status_code == 400 and "never belongs into an address" in answer.json()["error"]
        assert (await http.get("/api/calls", headers=bearer(token))).status_code == 200
        async with api.watch(token, "?words=1") as watching:
            await api.watched_by(1)
            api.feed.publish(ROW)
            assert "walnut" in str(await watching.recv())
    finally:
        root.handlers[:], root.level = kept
        logging.captureWarnings(False)
    assert "/api/events" in out.getvalue() and "/api/calls" in out.getvalue()
    assert token not in out.getvalue() and "walnut" not in out.getvalue()


# --- the stream -------------------------------------------------------------------------------------------------------


async def test_agents_stream_holds_their_own_calls_only(api: Guarded) -> None:
    """Words, live words and sentences of another's call never reach an agent; a supervisor gets them all."""
    rows: list[JournalRow | LiveRow] = [
        replace(ROW, call_id="c2"),
        LiveRow("c2", LiveEvent.PARTIAL, ROW.at, 1, {"words": "not yours"}),
        replace(ROW, call_id="c3"),
        replace(ROW, call_id="unknown"),
        LiveRow("c1", LiveEvent.TOLD, ROW.at, 1, {"audience": "supervisor", "detail": "join", "page": True}),
        LiveRow("c1", LiveEvent.TOLD, ROW.at, 1, {"audience": "agent", "detail": "hello", "page": False}),
        ROW,
    ]
    async with (
        api.watch(api.token["agent"], "?words=1") as mine,
        api.watch(api.token["supervisor"], "?words=1") as wall,
    ):
        assert mine.subprotocol == "firmline"
        await api.watched_by(2)
        for row in rows:
            api.feed.publish(row)
        seen = [json.loads(await mine.recv()) for _ in range(2)]
        everything = [json.loads(await wall.recv()) for _ in rows]
    assert [(row["call_id"], row["event"]) for row in seen] == [("c1", "told"), ("c1", "utterance")]
    assert seen[0]["data"] == {"audience": "agent", "detail": "hello", "page": False}
    assert [row["call_id"] for row in everything] == [row.call_id for row in rows]


async def test_header_opens_a_stream_too(api: Guarded) -> None:
    """Programs need no subprotocol."""
    async with api.watch(None, additional_headers=bearer(api.token["agent"])) as mine:
        assert mine.subprotocol is None
        await api.watched_by(1)


async def test_removed_token_ends_its_open_stream_and_its_requests(
    api: Guarded, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service notices the file by itself; nobody else is disturbed."""
    monkeypatch.setattr("ivr.api.stream.RECHECK_S", 0.02)
    async with api.watch(api.token["agent"]) as mine, api.watch(api.token["other"]):
        await api.watched_by(2)
        api.file.remove(api.file.read()[0].id)
        with pytest.raises(ConnectionClosed) as caught:
            await mine.recv()
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1008
        assert (await http.get("/api/me", headers=bearer(api.token["agent"]))).status_code == 401
        assert (await http.get("/api/me", headers=bearer(api.token["other"]))).status_code == 200
        assert len(api.feed) == 1


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_keys_too_often_are_held_up_for_that_call_and_client_only(api: Guarded, http: httpx.AsyncClient) -> None:
    """429 with Retry-After; another call and another person are not affected, and time forgives."""
    mine = bearer(api.token["agent"])
    answers = [await http.post("/api/agents/201/warn", headers=mine) for _ in range(21)]
    assert [a.status_code for a in answers] == [200] * 20 + [429]
    assert answers[-1].headers["retry-after"] == "1" and list(answers[-1].json()) == ["error"]
    assert (await http.post("/api/agents/202/warn", headers=bearer(api.token["other"]))).status_code == 200
    assert (await http.post("/api/agents/201/warn", headers=bearer(api.token["supervisor"]))).status_code == 200
    assert (await http.get("/api/me", headers=mine)).status_code == 200
    api.now_ms += 200
    assert (await http.post("/api/agents/201/warn", headers=mine)).status_code == 200


async def test_guessing_is_slowed_down_and_good_tokens_are_not(api: Guarded, http: httpx.AsyncClient) -> None:
    """After ten wrong tokens from one address: 429; whoever has a right one gets in from there all the same."""
    answers = [await http.get("/api/me", headers=bearer(f"guess{n}")) for n in range(12)]
    assert [a.status_code for a in answers] == [401] * 10 + [429] * 2
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert (await http.get("/api/me", headers=bearer(api.token["agent"]))).status_code == 200


@given(st.lists(st.integers(0, 3_000), max_size=60), st.integers(1, 20), st.floats(0.1, 50))
def test_bucket_never_lets_more_through_than_its_rate(waits: list[int], burst: int, per_s: float) -> None:
    """Over any stretch: at most the burst and what flowed in; and after the wait it names, it gives."""
    buckets, now_ms, taken = Buckets(Rate(burst, per_s)), 0, 0
    for wait in waits:
        now_ms += wait
        wait_ms = buckets.take("a", now_ms)
        if wait_ms:
            now_ms += wait_ms + 1
            assert buckets.take("a", now_ms) == 0
        taken += 1
        assert taken <= burst + now_ms * per_s / 1000 + 1e-6
    assert buckets.take("b", now_ms) == 0


def test_buckets_stay_bounded() -> None:
    """A sweep through many addresses costs no memory."""
    buckets = Buckets(Rate(1, 1), max_clients=100)
    for number in range(1_000):
        buckets.take(f"client {number}", 0)
    assert len(buckets._levels) == 100


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Certificate and key for 127.0.0.1."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", "req", *kind, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


# --- how others get here ----------------------------------------------------------------------------------------------


async def _through(service: Guarded, headers: dict[str, str]) -> httpx.Response:
    await service.server.start()
    try:
        async with httpx.AsyncClient(base_url=service.origin, trust_env=False) as client:
            return await client.get("/api/me", headers=headers)
    finally:
        await service.server.stop()


async def test_forwarded_address_is_believed_from_a_declared_proxy_only(tmp_path: Path) -> None:
    """Guessing behind one proxy counts by the guesser's address; a forged header from elsewhere changes nothing."""
    for proxies, statuses in ((("127.0.0.1/32",), [401] * 12), ((), [401] * 10 + [429] * 2)):
        folder = tmp_path / str(len(proxies))
        folder.mkdir()
        service = Guarded(folder, reach=Reach(proxies=proxies))
        await service.server.start()
        async with httpx.AsyncClient(base_url=service.origin, trust_env=False) as client:
            got = [
                (
                    await client.get("/api/me", headers={**bearer("guess"), "x-forwarded-for": f"192.0.2.{n}"})
                ).status_code
                for n in range(12)
            ]
        await service.server.stop()
        assert got == statuses


async def test_whoever_comes_past_the_proxy_from_outside_is_refused_without_tls() -> None:
    """Their token would have crossed the network in the clear."""
    passed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["client"][0])

    async def send(message: Any) -> None:
        answers.append(message)

    from ivr.api.server import FromProxies

    answers: list[Any] = []
    door = FromProxies(app, Reach(proxies=("10.0.0.0/24",)))
    forwarded = [(b"x-forwarded-for", b"203.0.113.9")]
    for client in ("10.0.0.7", "10.0.1.7", "127.0.0.1"):
        await door({"type": "http", "client": (client, 1), "headers": forwarded}, None, send)  # type: ignore[arg-type]
    assert passed == ["203.0.113.9", "127.0.0.1"] and answers[0]["status"] == 403


async def test_declared_names_are_answered_and_others_are_not(tmp_path: Path) -> None:
    """Host and Origin: declared or loopback; an origin declared passes where the proxy rewrote Host."""
    service = Guarded(tmp_path, hosts=("firmline.example", "other.example:8443"))
    await service.server.start()
    token = bearer(service.token["ops"])
    port = service.server.address[1]
    cases = [
        ({"host": "firmline.example"}, 200),
        ({"host": "FIRMLINE.example:443"}, 200),
        ({"host": "other.example:8443"}, 200),
        ({"host": "other.example"}, 403),
        ({"host": "evil.example"}, 403),
        ({"origin": "https://firmline.example"}, 200),
        ({"host": "firmline.example", "origin": "https://evil.example"}, 403),
        ({"host": f"127.0.0.1:{port}", "origin": f"http://localhost:{port}"}, 403),
    ]
    async with httpx.AsyncClient(base_url=service.origin, trust_env=False) as client:
        for headers, status in cases:
            answer = await client.post("/api/agents/201/warn", headers={**token, **headers})
            assert answer.status_code == status, headers
    await service.server.stop()


async def test_tls_of_our_own_serves_pages_and_streams(tmp_path: Path) -> None:
    """With certificate and key the same port speaks TLS; a key that is none is told before anything listens."""
    cert, key = self_signed(tmp_path)
    trust = ssl.create_default_context(cafile=str(cert))
    service = Guarded(tmp_path, reach=Reach(str(cert), str(key)))
    await service.server.start()
    async with httpx.AsyncClient(base_url=service.origin, verify=trust, trust_env=False) as client:
        assert (await client.get("/api/me", headers=bearer(service.token["ops"]))).json()["role"] == "ops"
    async with service.watch(service.token["agent"], ssl=trust):
        await service.watched_by(1)
    await service.server.stop()
    broken = ApiServer(service.app, "127.0.0.1", 0, Reach(str(cert), str(cert)))
    with pytest.raises(FirmlineError, match="api.tls_cert .* cannot be used: .* both must be PEM"):
        await broken.start()


def test_reachable_from_outside_without_tokens_is_refused_at_start(tmp_path: Path) -> None:
    """The error names the command that mends it; with a token, or on loopback, it starts."""
    path = tmp_path / "tokens.json"
    exposed = {"trusted_proxies": ["127.0.0.1/32"], "tokens": str(path)}
    outside = Config(api=ApiConfig.model_validate(exposed))
    with pytest.raises(ConfigError, match="holds no token, but others .*firmline token add --role ops"):
        api_access(outside)
    assert api_access(Config(api=ApiConfig(tokens=str(path)))).open
    TokenFile(path).add(Role.OPS, None, "", None, NOW)
    assert not api_access(outside).open and not api_access(Config(api=ApiConfig(tokens=str(path)))).open
    wide = Config(api=ApiConfig(host="192.0.2.20", tls_cert="c", tls_key="k", public_hosts=["a.example"]))
    assert api_hosts(wide) == ("a.example", "192.0.2.20") and api_reach(wide).tls_cert == "c"


# --- the file ---------------------------------------------------------------------------------------------------------


def test_file_holds_no_token_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Hashes only; 0600; nothing is left beside it but the lock."""
    file = TokenFile(tmp_path / "tokens.json")
    secret = file.add(Role.AGENT, "201", "Jo", None, NOW)
    text = file.path.read_text()
    assert secret not in text and secret.startswith("firmline_") and len(secret) > 50
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tokens.json", "tokens.json.lock"]
    assert TokenBook(file.path).find(secret, NOW.timestamp()) == file.read()[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_token_made_by_root_stays_readable_for_the_services_user(tmp_path: Path) -> None:
    """The file belongs to whom it belonged, at first to the owner of its folder."""
    os.chown(tmp_path, 12_345, 12_345)
    file = TokenFile(tmp_path / "tokens.json")
    for _ in range(2):
        file.add(Role.OPS, None, "", None, NOW)
        assert {(p.stat().st_uid, p.stat().st_mode & 0o777) for p in tmp_path.iterdir()} == {(12_345, 0o600)}


def test_many_commands_at_once_lose_no_token(tmp_path: Path) -> None:
    """Each adds under the lock; all are there at the end."""
    path = tmp_path / "tokens.json"

    def add(_number: int) -> str:
        return TokenFile(path).add(Role.OPS, None, "", None, NOW)

    with ThreadPoolExecutor(4) as pool:  # flock holds between open files, whichever process or thread they are of
        secrets = list(pool.map(add, range(20)))
    book = TokenBook(path)
    assert all(book.find(secret, NOW.timestamp()) for secret in secrets) and len(TokenFile(path).read()) == 20


def test_book_follows_the_file_and_keeps_what_it_had_when_it_breaks(tmp_path: Path) -> None:
    """A new token works at once; a broken, loosened or vanished file changes nothing and is told."""
    file = TokenFile(tmp_path / "tokens.json")
    book = TokenBook(file.path)
    assert book.empty
    now_s = NOW.timestamp()
    secret = file.add(Role.OPS, None, "", None, NOW)
    good = file.path.read_text()
    assert not book.empty and book.find(secret, now_s) is not None and book.find(secret + "x", now_s) is None
    for breaking, said in (
        (lambda: file.path.write_text("{"), "tokens.json: file: Invalid JSON"),
        (lambda: file.path.unlink(), "is gone"),
        (lambda: (file.path.write_text(good), file.path.chmod(0o666)), "run  chmod 600"),
    ):
        breaking()
        assert book.find(secret, now_s) is not None and said in str(book.problem)
    file.path.chmod(0o600)
    assert book.find(secret, now_s) is not None and book.problem is None
    file.remove(file.read()[0].id)
    assert book.find(secret, now_s) is None and book.empty


def test_expired_token_is_as_good_as_none_but_keeps_the_door_shut(tmp_path: Path) -> None:
    """Past its time it opens nothing; and the API does not become open because the last one lapsed."""
    file = TokenFile(tmp_path / "tokens.json")
    secret = file.add(Role.OPS, None, "", NOW + timedelta(hours=1), NOW)
    book, now_s = TokenBook(file.path), NOW.timestamp()
    assert book.find(secret, now_s + 3_599) is not None
    assert book.find(secret, now_s + 3_600) is None and not book.empty


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"tokens": [{"id": "x"}]}', "tokens.0"),
        ('{"version": 2}', "version"),
        ("[]", "Input should be an object"),
    ],
)
def test_broken_token_file_is_told_by_place(tmp_path: Path, text: str, said: str) -> None:
    """At start that is an error of the configuration."""
    path = tmp_path / "tokens.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=said):
        TokenBook(path)


@pytest.mark.parametrize(("role", "ext"), [(Role.AGENT, None), (Role.AGENT, "2 1"), (Role.OPEN, None)])
def test_token_that_makes_no_sense_is_refused(tmp_path: Path, role: Role, ext: str | None) -> None:
    """An agent's token without an extension would see nothing, or everything."""
    file = TokenFile(tmp_path / "tokens.json")
    with pytest.raises(ConfigError, match="token: "):
        file.add(role, ext, "", None, NOW)
    assert not file.path.exists()


def test_expiry_reads_spans_and_days() -> None:
    """A day is the last one on which the token works, local time."""
    assert expiry("12h", NOW) - NOW == timedelta(hours=12) and expiry("2w", NOW) - NOW == timedelta(days=14)
    local = datetime(2027, 2, 1).astimezone()
    assert expiry("2027-01-31", NOW) == local
    for wrong in ("soon", "2026-02-30", "0d", "2026-05-01"):
        with pytest.raises(click.BadParameter):
            expiry(wrong, NOW)
