"""Keeps web pages of other origins from pressing keys on a service that trusts whoever can reach it.

Without tokens the API listens on loopback only, but so does the operator's browser. Two attacks need no access to the
machine: a page that sends a request here (CSRF, also by WebSocket, which no same-origin rule covers) and a name of the
attacker's that resolves to 127.0.0.1 (DNS rebinding), which makes a page ours in the browser's eyes. The ``Origin``
header tells the first, the ``Host`` header the second. Names under which others reach us are declared
(``api.public_hosts``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from ivr.api.access import Refused, refuse

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class OriginGuard:
    """ASGI middleware: 403 for a foreign ``Host``, and for a foreign ``Origin`` on anything that acts or streams."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is ours, answer the rest."""
        if scope["type"] in ("http", "websocket") and (problem := self._problem(scope)) is not None:
            await refuse(scope, send, Refused(403, problem))
            return
        await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> str | None:
        hosts, origins, sites = (_values(scope, name) for name in (b"host", b"origin", b"sec-fetch-site"))
        if len(hosts) != 1 or not self._ours(hosts[0]):
            named = ", ".join(sorted(self._hosts))
            known = f"{named} and loopback names" if named else "loopback names only, such as http://127.0.0.1"
            return f"this service answers to {known}: use one in the address, or declare yours in api.public_hosts"
        if scope["type"] == "http" and scope["method"] in _SAFE_METHODS:
            return None
        if any(not self._same_origin(origin, hosts[0]) for origin in origins) or "cross-site" in sites:
            return "requests from pages of other sites are refused"
        return None

    def _ours(self, host: str) -> bool:
        return is_loopback_host(host) or self._declared(host)

    def _declared(self, host: str) -> bool:
        name = _hostname(f"//{host}")
        return name is not None and (name in self._hosts or host.lower() in self._hosts)

    def _same_origin(self, origin: str, host: str) -> bool:
        # The scheme is not compared: a proxy may speak TLS to the browser and plain HTTP to us. It may also have put
        # its own name for us into Host: then the declared names say which pages are ours.
        scheme, _, origin_host = origin.partition("://")
        same = origin_host.lower() == host.lower() or self._declared(origin_host)
        return scheme in ("http", "https") and same


def is_loopback_host(host: str) -> bool:
    """Whether a ``Host`` header (``name[:port]``) can only mean this machine."""
    name = _hostname(f"//{host}")
    if name is None:
        return False
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _hostname(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname if parts.username is None and not (parts.path or parts.query or parts.fragment) else None


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]
