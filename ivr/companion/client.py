"""The companion's side of the API: is it armed, and press. Blocking; each thread has a client of its own."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from ivr.api.guard import is_loopback_host
from ivr.errors import ConfigError
from policies.types import Key

TIMEOUT_S = 3.0
"""A key that took longer is no key any more; the person is told and presses again."""


class Armed(StrEnum):
    """Whether a key would reach anything."""

    ARMED = "armed"
    """Connected; a call may be on or not."""
    NOT_CONNECTED = "not connected"
    """Nobody answers; tried again by itself."""
    REFUSED = "refused"
    """The token is wrong, or for another extension; trying again mends nothing, until somebody does."""


@dataclass(frozen=True, slots=True)
class Sight:
    """How it stands: ``detail`` is one plain clause, ``rung`` is of the call that is on, if one is."""

    armed: Armed
    detail: str
    rung: str | None = None


@dataclass(frozen=True, slots=True)
class Pressed:
    """What became of a key."""

    ok: bool
    detail: str


class ApiClient:
    """One agent at one Firmline.

    Raises:
        ConfigError: the address cannot be used, or would carry the token in the clear; ``ca`` cannot be read.
    """

    def __init__(self, url: str, ext: str, token: str, ca: Path | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ConfigError(f"--url: expected http://127.0.0.1:8080 or https://..., found {url!r}")
        if parts.scheme == "http" and token and not is_loopback_host(parts.netloc):
            raise ConfigError(f"--url: {url} would carry the token in the clear: use https")
        try:
            verify: ssl.SSLContext | bool = True if ca is None else ssl.create_default_context(cafile=str(ca))
        except OSError as exc:
            raise ConfigError(f"--ca: {ca} cannot be read: {exc.strerror or exc}") from exc
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._ext = ext
        # Environment proxies would send a request for this machine, and its token, to somebody else.
        self._http = httpx.Client(
            base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT_S, trust_env=False, verify=verify
        )

    def look(self) -> Sight:
        """Would a key reach anything now? Never raises."""
        try:
            answer = self._http.get(f"/api/agents/{self._ext}/call")
        except httpx.HTTPError as exc:
            return Sight(Armed.NOT_CONNECTED, _why(exc))
        if answer.status_code == 200:
            rung = str(answer.json().get("rung", ""))
            return Sight(Armed.ARMED, f"on a call, {rung}", rung)
        if answer.status_code == 404:
            return Sight(Armed.ARMED, "no call")
        refused = answer.status_code in (400, 401, 403, 422)
        return Sight(Armed.REFUSED if refused else Armed.NOT_CONNECTED, _error(answer))

    def press(self, key: Key) -> Pressed:
        """Press ``key`` in the agent's call. Never raises.

        Tried once more on a new connection when the old one was dead; the service takes two in a row for one.
        """
        for last in (False, True):
            try:
                answer = self._http.post(f"/api/agents/{self._ext}/{key.value}")
            except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as exc:
                if last:
                    return Pressed(False, _why(exc))
                continue
            except httpx.HTTPError as exc:
                return Pressed(False, _why(exc))
            if answer.status_code == 200:
                return Pressed(True, f"the call is at {answer.json().get('rung', '?')}")
            return Pressed(False, _error(answer))
        raise AssertionError("both tries return")

    def close(self) -> None:
        """Close every connection."""
        self._http.close()


def _error(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {answer.status_code}"


def _why(exc: httpx.HTTPError) -> str:
    if isinstance(exc, httpx.TimeoutException):
        return f"no answer within {TIMEOUT_S:g} s"
    return " ".join(str(exc).split())[:120] or type(exc).__name__
