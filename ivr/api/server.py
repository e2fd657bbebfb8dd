"""Runs an ASGI application inside the service's own loop, without taking over its signals or its exit."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ivr.api.access import Refused, refuse
from ivr.api.patience import PatientH11
from ivr.errors import FirmlineError

GRACE_S = 1
"""How long open requests may take to finish at stop."""
STOP_S = 1.7
"""After this everything still open is cut, so that ``stop`` keeps within two seconds."""
UNREAD_TIMEOUT_MS = 15_000
"""A peer that acknowledges nothing for this long is gone (TCP_USER_TIMEOUT, RFC 5482); its socket is freed."""

_log = structlog.get_logger("firmline.api")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the service: uvicorn's handlers would stop the API alone and keep calls without keys."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@dataclass(frozen=True, slots=True)
class Reach:
    """How others than this machine get here: by TLS (PEM files), or through proxies in these networks."""

    tls_cert: str = ""
    tls_key: str = ""
    proxies: tuple[str, ...] = ()


class FromProxies:
    """ASGI middleware: believes ``X-Forwarded-For`` of declared proxies only and, where there is no TLS of our own,
    refuses whoever comes past them: their token would have crossed the network in the clear."""

    def __init__(self, app: ASGIApp, reach: Reach) -> None:
        self._app = app
        self._networks = [ipaddress.ip_network(proxy) for proxy in reach.proxies]
        self._behind: ASGIApp = ProxyHeadersMiddleware(app, list(reach.proxies))  # type: ignore[arg-type,assignment]
        self._tls = bool(reach.tls_cert)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on with the client's own address, or refuse."""
        if scope["type"] in ("http", "websocket") and self._networks:
            peer = _address((scope.get("client") or ("", 0))[0])
            declared = peer is not None and any(peer in network for network in self._networks)
            if declared:
                await self._behind(scope, receive, send)
                return
            if not self._tls and not (peer is not None and peer.is_loopback):
                await refuse(scope, send, Refused(403, "come through the proxy: this port takes no one else"))
                return
        await self._app(scope, receive, send)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


class ApiServer:
    """One listening socket and the application behind it. ``port`` 0 lets the system choose; ``listener``: a socket
    that ``listen_at`` made before."""

    def __init__(
        self, app: ASGIApp, host: str, port: int, reach: Reach = Reach(), listener: socket.socket | None = None
    ) -> None:
        self._app = FromProxies(app, reach)
        self._host, self._port, self._reach = host, port, reach
        self._listener = listener
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._address: tuple[str, int] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are really bound.

        Raises:
            RuntimeError: not started.
        """
        if self._address is None:
            raise RuntimeError("the API server has not been started")
        return self._address

    @property
    def scheme(self) -> str:
        """``https`` with TLS of our own, else ``http``."""
        return "https" if self._reach.tls_cert else "http"

    async def start(self) -> None:
        """Bind, then serve.

        Raises:
            FirmlineError: the address cannot be bound, or certificate and key cannot be used; with the fix.
        """
        listener = self._listener or listen_at(self._host, self._port, self._reach)
        self._address = listener.getsockname()[:2]
        config = uvicorn.Config(
            self._app,
            log_config=None,
            lifespan="off",
            loop="asyncio",
            http=PatientH11,
            ws="websockets-sansio",
            ws_max_size=64 * 1024,
            server_header=False,
            # Its default believes anybody on loopback; FromProxies believes those declared.
            proxy_headers=False,
            ssl_certfile=self._reach.tls_cert or None,
            ssl_keyfile=self._reach.tls_key or None,
            timeout_graceful_shutdown=GRACE_S,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="api-server")
        self._task.add_done_callback(_tell_if_failed)
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({self._task, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            listening.cancel()
            listener.close()
            raise FirmlineError(f"api: the server on {self._host}:{self._port} ended at start; the log says why")

    async def stop(self) -> None:
        """Finish open requests for a moment, then close everything; within two seconds, never raises."""
        server, task = self._server, self._task
        self._server = self._task = None
        if server is None or task is None:
            return
        server.should_exit = True
        await asyncio.wait({task}, timeout=STOP_S)
        for connection in list(server.server_state.connections):
            _abort(connection)
        task.cancel()
        leftovers: list[asyncio.Future[Any]] = [task, *server.server_state.tasks]
        for leftover in leftovers:
            leftover.cancel()
        await asyncio.wait(leftovers, timeout=0.2)


def check_tls(reach: Reach) -> None:
    """Raises :class:`FirmlineError` when certificate and key cannot be used, with the fix."""
    if not reach.tls_cert:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(reach.tls_cert, reach.tls_key)
    except (OSError, ssl.SSLError) as exc:
        raise FirmlineError(
            f"api: api.tls_cert {reach.tls_cert} and api.tls_key {reach.tls_key} cannot be used: {exc}; "
            "both must be PEM files that this user may read, the key the certificate's own"
        ) from exc


def listen_at(host: str, port: int, reach: Reach) -> socket.socket:
    """The listening socket alone, so that a port that is taken is known before anything else is begun.

    Raises:
        FirmlineError: the address cannot be bound, or certificate and key cannot be used; with the fix.
    """
    check_tls(reach)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_TIMEOUT_MS)
        listener.bind((host, port))
        # Listening here and not later: with SO_REUSEADDR two sockets may bind to one port, only one may listen.
        listener.listen(128)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        raise FirmlineError(f"api: cannot listen on {host}:{port}: {_reason(exc)}") from exc
    return listener


def _reason(exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        return "the port is taken by another program; stop that one, or set api.port to a free one (0 chooses one)"
    if exc.errno == errno.EADDRNOTAVAIL:
        return "the address is not one of this machine; set api.host to 127.0.0.1"
    if exc.errno == errno.EACCES:
        return "ports below 1024 need a privilege; set api.port to 1024 or above"
    return f"{exc.strerror or exc}; check api.host and api.port"


def _abort(connection: Any) -> None:
    transport = getattr(connection, "transport", None)
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


def _tell_if_failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (exc := task.exception()) is not None:
        _log.error("api server failed; calls go on without it", error=f"{type(exc).__name__}: {exc}")
