"""From settings to the parts of the API: what ``run`` and ``check`` share."""

from __future__ import annotations

from pathlib import Path

from ivr.api.access import Access
from ivr.api.server import Reach
from ivr.config import Config
from ivr.errors import ConfigError
from ivr.tokens import TokenBook


def api_reach(config: Config) -> Reach:
    """How others than this machine get to the API."""
    api = config.api
    return Reach(api.tls_cert, api.tls_key, tuple(api.trusted_proxies))


def api_hosts(config: Config) -> tuple[str, ...]:
    """Names and addresses besides loopback under which we answer."""
    api = config.api
    bound = () if api.loopback or api.host == "0.0.0.0" else (api.host,)
    return (*api.public_hosts, *bound)


def api_access(config: Config) -> Access:
    """Who may use the API.

    Raises:
        ConfigError: the tokens cannot be used, or there are none where others than this machine can reach us.
    """
    api = config.api
    book = TokenBook(Path(api.tokens))
    if not api.only_here and book.empty:
        raise ConfigError(
            f"api.tokens: {api.tokens} holds no token, but others than this machine can reach the API (api.host, "
            "api.public_hosts or api.trusted_proxies): make one with  firmline token add --role ops"
        )
    return Access(book, open_without_tokens=api.only_here)
