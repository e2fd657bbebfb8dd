"""How often one client may ask: token buckets, sans-I/O. A person in need of a key must never meet one of these."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_CLIENTS = 10_000
"""Buckets kept; beyond it the one unused for longest is forgotten, which only ever forgives."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` at once, then ``per_s`` a second."""

    burst: int
    per_s: float


REQUESTS = Rate(200, 50.0)
"""A supervisor's page that opens beside 200 calls asks for each once."""
KEYS = Rate(20, 5.0)
"""For one client and one call or agent: faster than anybody hammers on a key, slow enough for a prompt to be one."""
FAILURES = Rate(10, 0.1)
"""Wrong tokens from one address. 256 bits need no such help, logs do. A good token is never held up by it."""


class Buckets:
    """One bucket a client."""

    def __init__(self, rate: Rate, *, max_clients: int = MAX_CLIENTS) -> None:
        self._rate, self._max = rate, max_clients
        self._levels: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, client: str, now_ms: int) -> int:
        """Take one; 0 when it was there, else the milliseconds until it will be."""
        level, since_ms = self._levels.pop(client, (float(self._rate.burst), now_ms))
        level = min(self._rate.burst, level + max(0, now_ms - since_ms) * self._rate.per_s / 1000)
        wait_ms = 0 if level >= 1 else max(1, round((1 - level) / self._rate.per_s * 1000))
        self._levels[client] = (level if wait_ms else level - 1, now_ms)
        if len(self._levels) > self._max:
            self._levels.popitem(last=False)
        return wait_ms
