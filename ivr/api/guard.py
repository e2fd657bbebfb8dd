"""Keeps web pages of other origins from pressing keys on a service that trusts whoever can reach it.

Until there are access tokens the API listens on loopback only, but so does the operator's browser. Two attacks need no
access to the machine: a page that sends a request here (CSRF, also by WebSocket, which no same-origin rule covers) and
a name of the attacker's that resolves to 127.0.0.1 (DNS rebinding), which makes a page ours in the browser's eyes. The
``Origin`` header tells the first, the ``Host`` header the second.
"""

from __future__ import annotations

import ipaddress
import json
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class OriginGuard:
    """ASGI middleware: 403 for a foreign ``Host``, and for a foreign ``Origin`` on anything that acts or streams."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is ours, answer the rest."""
        if scope["type"] in ("http", "websocket") and (problem := _problem(scope)) is not None:
            await _refuse(scope, send, problem)
            return
        await self._app(scope, receive, send)


def _problem(scope: Scope) -> str | None:
    hosts, origins, sites = (_values(scope, name) for name in (b"host", b"origin", b"sec-fetch-site"))
    if len(hosts) != 1 or not is_loopback_host(hosts[0]):
        return "this service answers to loopback names only, such as http://127.0.0.1: use one in the address"
    if scope["type"] == "http" and scope["method"] in _SAFE_METHODS:
        return None
    if any(not _same_origin(origin, hosts[0]) for origin in origins) or "cross-site" in sites:
        return "requests from pages of other sites are refused"
    return None


def is_loopback_host(host: str) -> bool:
    """Whether a ``Host`` header (``name[:port]``) can only mean this machine."""
    name = _hostname(f"//{host}")
    if name is None:
        return False
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _same_origin(origin: str, host: str) -> bool:
    # The scheme is not compared: a proxy on this machine may speak TLS to the browser and plain HTTP to us.
    parts = origin.partition("://")
    return parts[0] in ("http", "https") and parts[2].lower() == host.lower()


def _hostname(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname if parts.username is None and not (parts.path or parts.query or parts.fragment) else None


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]


async def _refuse(scope: Scope, send: Send, problem: str) -> None:
    if scope["type"] == "websocket":
        # Before ``accept`` this makes the server answer the handshake with 403.
        await send({"type": "websocket.close", "code": 1008, "reason": problem})
        return
    body = json.dumps({"error": problem}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
