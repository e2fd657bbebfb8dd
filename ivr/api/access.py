"""Who may do what: bearer tokens and roles, before any handler runs.

| role       | sees                                            | touches                        |
|------------|-------------------------------------------------|--------------------------------|
| open       | everything                                      | everything                     |
| agent      | calls, events, incidents of the own extension   | keys and pause of that one     |
| supervisor | all calls, events, incidents                    | all keys; where a call goes to |
| ops        | that, checks, configuration faults, ``/metrics``| the same                       |

``open`` is what everybody is while no token is defined and only this machine can reach us. A token stands in
``Authorization: Bearer`` or, for a browser's WebSocket, which cannot set headers, among the offered subprotocols as
``bearer.<token>``; never in an address, which ends up in logs and histories. Pages, their assets and the schema hold no
data and are open, probes are too (``/readyz`` without its details).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ivr.api.rates import FAILURES, KEYS, REQUESTS, Buckets
from ivr.clock import monotonic_ms, wall_s
from ivr.tokens import Role, Token, TokenBook

SUBPROTOCOL = "firmline"
BEARER = "bearer."
GUARDED = ("/api/", "/metrics")
_STATE = "firmline.principal"
_URL_SECRETS = frozenset({"token", "access_token", "bearer", "authorization"})

log = structlog.get_logger("firmline.api")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    role: Role
    ext: str | None = None
    name: str = ""
    token_id: str | None = None

    @property
    def own_ext(self) -> str | None:
        """The extension to which an agent is confined; ``None`` for everybody else."""
        return self.ext if self.role is Role.AGENT else None

    @property
    def by(self) -> str:
        """How the journal names whoever pressed a key."""
        if self.role is Role.AGENT:
            return f"agent:{self.ext}"
        if self.role is Role.OPEN:
            return str(Role.OPS)
        return f"{self.role}:{self.name}" if self.name else str(self.role)

    def may_see(self, ext: str | None) -> bool:
        """Whether a call of extension ``ext`` is any of their business."""
        return self.role is not Role.AGENT or (ext is not None and ext == self.ext)

    @property
    def operates(self) -> bool:
        """Whether they look after the service itself."""
        return self.role in (Role.OPEN, Role.OPS)


OPEN = Principal(Role.OPEN)


def known(connection: HTTPConnection) -> Principal | None:
    """Who asks, where nobody needs to be known."""
    found: Principal | None = connection.scope.get(_STATE)
    return found


def principal_of(connection: HTTPConnection) -> Principal:
    """Who asks, as :class:`AccessGuard` found; a dependency for the handlers of guarded paths."""
    found = known(connection)
    if found is None:
        raise HTTPException(401, "a token is needed")
    return found


def may_see(who: Principal, ext: str | None) -> None:
    """Raises a plain 403 when a call of extension ``ext`` is not theirs."""
    if not who.may_see(ext):
        raise HTTPException(403, f"this token is for extension {who.ext} only")


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request does not get through."""

    status: int
    why: str
    retry_after_s: int | None = None


class Access:
    """Decides who asks, and whether too often. ``open_without_tokens``: only this machine can reach us."""

    def __init__(
        self,
        book: TokenBook | None,
        *,
        open_without_tokens: bool = True,
        now_ms: Callable[[], int] = monotonic_ms,
        now_s: Callable[[], float] = wall_s,
    ) -> None:
        self._book, self._open = book, open_without_tokens
        self._now_ms, self._now_s = now_ms, now_s
        self._requests, self._keys, self._failures = Buckets(REQUESTS), Buckets(KEYS), Buckets(FAILURES)

    @property
    def problem(self) -> str | None:
        """What is wrong with the tokens, for those who look after the service."""
        return self._book.problem if self._book is not None else None

    @property
    def open(self) -> bool:
        """Whether no token is asked for now."""
        return self._book is None or (self._open and self._book.empty)

    def who(self, secret: str | None, client: str) -> Principal | Refused:
        """Whose token ``secret`` is; ``client`` is the address it came from."""
        if self._book is None or self.open:
            return OPEN
        token = self._book.find(secret, self._now_s()) if secret else None
        if token is not None:
            return _principal(token)
        if not secret:
            return Refused(401, "a token is needed: send it as  Authorization: Bearer <token>")
        if wait_ms := self._failures.take(client, self._now_ms()):
            return Refused(429, "too many wrong tokens from here", _seconds(wait_ms))
        log.warning("wrong token", client=client)
        return Refused(401, "this token is not known, or has expired")

    def still(self, who: Principal, secret: str | None) -> bool:
        """Whether a connection that was let in may stay: its token can be removed or expire meanwhile."""
        now = self.who(secret, "") if secret or who.role is Role.OPEN else None
        return now == who

    def too_often(self, who: Principal, client: str, method: str, path: str) -> Refused | None:
        """Whether this client asks faster than any person or page does."""
        client, now_ms = who.token_id or client, self._now_ms()
        wait_ms = self._requests.take(client, now_ms)
        if not wait_ms and method == "POST":
            wait_ms = self._keys.take(f"{client} {path.rpartition('/')[0]}", now_ms)
        return Refused(429, "too many requests; wait a moment", _seconds(wait_ms)) if wait_ms else None


def _principal(token: Token) -> Principal:
    return Principal(token.role, token.ext, token.name, token.id)


def _seconds(wait_ms: int) -> int:
    return max(1, -(-wait_ms // 1000))


class AccessGuard:
    """ASGI middleware: finds out who asks, and answers those who may not."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on with the principal noted, or refuse."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        client = (scope.get("client") or ("", 0))[0]
        path = scope["path"]
        found = self._access.who(secret_of(scope), client)
        guarded = path.startswith(GUARDED)
        refused = found if isinstance(found, Refused) else None
        if guarded and _secret_in_url(scope):
            refused = Refused(400, "a token never belongs into an address: send it as  Authorization: Bearer <token>")
        if isinstance(found, Principal):
            scope[_STATE] = found
            if guarded and refused is None:
                refused = self._access.too_often(found, client, scope.get("method", "GET"), path)
        if guarded and refused is not None:
            await refuse(scope, send, refused)
            return
        await self._app(scope, receive, _uncached(send) if guarded else send)


def secret_of(scope: Scope) -> str | None:
    """The token that a request carries, if any."""
    for key, value in scope["headers"]:
        if key == b"authorization":
            scheme, _, secret = value.decode("latin-1").strip().partition(" ")
            return str(secret.strip()) if scheme.lower() == "bearer" else None
    offered: list[str] = scope.get("subprotocols", [])
    return next((item.removeprefix(BEARER) for item in offered if item.startswith(BEARER)), None)


def _secret_in_url(scope: Scope) -> bool:
    keys = {key.lower() for key, _ in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)}
    return bool(keys & _URL_SECRETS)


def _uncached(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), (b"cache-control", b"no-store")]
            message = {**message, "headers": [*headers, (b"x-content-type-options", b"nosniff")]}
        await send(message)

    return sending


async def refuse(scope: Scope, send: Send, refused: Refused) -> None:
    """Answer with one plain sentence; a WebSocket's handshake too, before anything was accepted."""
    body = json.dumps({"error": refused.why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    if refused.retry_after_s is not None:
        headers.append((b"retry-after", str(refused.retry_after_s).encode()))
    prefix = "http"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": refused.why})
            return
        prefix = "websocket.http"
    await send({"type": f"{prefix}.response.start", "status": refused.status, "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": body})
