"""SIP transactions over UDP: retransmission, absorption, expiry (RFC 3261 section 17, RFC 6026).

Owns timers, never dialogs. Everything runs on the asyncio loop; every timer is a handle that ``close`` cancels.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from ivr.clock import monotonic_ms
from ivr.lines.sipmessage import Address, SipMessage

Send = Callable[[bytes, Address], None]

MAX_TRANSACTIONS = 10_000
"""Beyond this many at once, new requests are dropped and counted: memory stays bounded under a flood."""
COOKIE = "z9hG4bK"


@dataclass(frozen=True, slots=True)
class Timers:
    """The timers of RFC 3261 table 4 and our own patience. All in ms; tests shorten them, nothing else does."""

    t1_ms: int = 500
    t2_ms: int = 4_000
    t4_ms: int = 5_000
    ring_ms: int = 200
    """A 1xx is due when the owner has not decided by then (RFC 3261 section 17.2.1)."""
    no_answer_ms: int = 60_000
    """An offered leg that nobody answers is refused with 480 after this long."""
    probe_ms: int = 30_000
    """A leg from which no audio came for so long is asked whether its peer still knows it."""
    retry_min_ms: int = 2_000
    retry_max_ms: int = 60_000
    """Bounds of the back-off of a failed registration."""
    stop_ms: int = 1_500
    """How long ``stop`` waits for the answers to its BYEs and its de-registration."""

    @property
    def timeout_ms(self) -> int:
        """64*T1: timers B, F, H, J and L."""
        return 64 * self.t1_ms


class Retransmitter:
    """Sends the same bytes at T1, 2*T1, ... at most every T2, until stopped or 64*T1 have gone by."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timers: Timers, send: Callable[[], None], on_timeout: Callable[[], None]
    ) -> None:
        self._loop, self._timers, self._send, self._on_timeout = loop, timers, send, on_timeout
        self._interval_ms = timers.t1_ms
        self._next: asyncio.TimerHandle | None = loop.call_later(self._interval_ms / 1000, self._again)
        self._deadline: asyncio.TimerHandle | None = loop.call_later(timers.timeout_ms / 1000, self._over)

    def slow_down(self) -> None:
        """A provisional response came: from now on every T2 (RFC 3261 section 17.1.2.2)."""
        self._interval_ms = self._timers.t2_ms

    def stop(self) -> None:
        for handle in (self._next, self._deadline):
            if handle is not None:
                handle.cancel()
        self._next = self._deadline = None

    def _again(self) -> None:
        self._interval_ms = min(2 * self._interval_ms, self._timers.t2_ms)
        self._next = self._loop.call_later(self._interval_ms / 1000, self._again)
        self._send()

    def _over(self) -> None:
        self.stop()
        self._on_timeout()


class TxState(StrEnum):
    """Server transaction states (RFC 3261 figures 7 and 8; ACCEPTED from RFC 6026 section 7.1)."""

    PROCEEDING = "proceeding"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"


@dataclass(slots=True, eq=False)
class ServerTransaction:
    """One request being answered. ``destination`` is where its responses go."""

    key: tuple[str, ...]
    method: str
    destination: Address
    to_tag: str
    state: TxState = TxState.PROCEEDING
    last: bytes | None = None
    expires_ms: int | None = None
    retransmitter: Retransmitter | None = field(default=None, repr=False)


def transaction_key(request: SipMessage, method: str) -> tuple[str, ...]:
    """RFC 3261 section 17.2.3; the second form is for peers without the magic cookie (RFC 2543)."""
    via = request.vias[0]
    if via.branch.startswith(COOKIE):
        return (method, via.branch, via.sent_by)
    return (method, str(request.cseq), request.call_id, request.sender.tag, via.sent_by, via.branch, request.uri)


class ServerTransactions:
    """Every request we are answering or have lately answered, so that a repeat gets the same answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timers: Timers, send: Send, counters: Counter[str]) -> None:
        self._loop, self._timers, self._send, self._counters = loop, timers, send, counters
        self._live: dict[tuple[str, ...], ServerTransaction] = {}
        self._ageing: dict[tuple[str, ...], ServerTransaction] = {}

    def find(self, request: SipMessage, method: str | None = None) -> ServerTransaction | None:
        """The transaction that ``request`` belongs to; ``method`` as for ACK and CANCEL, which aim at an INVITE."""
        key = transaction_key(request, method or request.method)
        found = self._live.get(key) or self._ageing.get(key)
        if found is not None and found.expires_ms is not None and found.expires_ms <= monotonic_ms():
            self._ageing.pop(key, None)
            return None
        return found

    def create(self, request: SipMessage, destination: Address, to_tag: str) -> ServerTransaction | None:
        """A new transaction, or ``None`` when there are too many already."""
        self._sweep()
        if len(self._live) + len(self._ageing) >= MAX_TRANSACTIONS:
            self._counters["overload_dropped"] += 1
            return None
        transaction = ServerTransaction(transaction_key(request, request.method), request.method, destination, to_tag)
        self._live[transaction.key] = transaction
        return transaction

    def respond(self, transaction: ServerTransaction, status: int, data: bytes) -> None:
        """Send a response and move on: provisional, 2xx, or a final that an ACK has to confirm."""
        transaction.last = data
        self._send(data, transaction.destination)
        if status < 200:
            return
        if transaction.method != "INVITE":
            self._age(transaction, TxState.COMPLETED, self._timers.timeout_ms)
        elif status < 300:
            self._age(transaction, TxState.ACCEPTED, self._timers.timeout_ms)
        else:
            transaction.state = TxState.COMPLETED
            transaction.retransmitter = Retransmitter(
                self._loop, self._timers, lambda: self.repeat(transaction), lambda: self._unacknowledged(transaction)
            )

    def repeat(self, transaction: ServerTransaction) -> None:
        """Answer a retransmission, or retransmit by timer G."""
        if transaction.last is not None and transaction.state is not TxState.CONFIRMED:
            self._counters["responses_repeated"] += 1
            self._send(transaction.last, transaction.destination)

    def acknowledge(self, transaction: ServerTransaction) -> None:
        """The ACK of a non-2xx final came: stop timer G, absorb further ACKs for T4 (timer I)."""
        if transaction.retransmitter is not None:
            transaction.retransmitter.stop()
            transaction.retransmitter = None
            self._age(transaction, TxState.CONFIRMED, self._timers.t4_ms)

    def close(self) -> None:
        """Cancel every timer."""
        for transaction in self._live.values():
            if transaction.retransmitter is not None:
                transaction.retransmitter.stop()
        self._live.clear()
        self._ageing.clear()

    def _unacknowledged(self, transaction: ServerTransaction) -> None:
        self._counters["finals_unacknowledged"] += 1
        self._live.pop(transaction.key, None)

    def _age(self, transaction: ServerTransaction, state: TxState, for_ms: int) -> None:
        transaction.state = state
        transaction.expires_ms = monotonic_ms() + for_ms
        self._live.pop(transaction.key, None)
        self._ageing[transaction.key] = transaction

    def _sweep(self) -> None:
        """Drop what has aged out. Oldest first, so each sweep costs only what it frees."""
        now_ms = monotonic_ms()
        while self._ageing:
            key = next(iter(self._ageing))
            expires_ms = self._ageing[key].expires_ms
            if expires_ms is not None and expires_ms > now_ms and len(self._ageing) < MAX_TRANSACTIONS // 2:
                return
            del self._ageing[key]


class ClientTransactions:
    """Requests of ours that wait for a final response: REGISTER, BYE, OPTIONS (RFC 3261 section 17.1.2)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timers: Timers, send: Send, counters: Counter[str]) -> None:
        self._loop, self._timers, self._send, self._counters = loop, timers, send, counters
        self._pending: dict[str, tuple[str, Retransmitter, Callable[[SipMessage | None], None]]] = {}
        self._idle: asyncio.Future[None] | None = None

    def send(
        self, branch: str, method: str, data: bytes, to: Address, on_final: Callable[[SipMessage | None], None]
    ) -> None:
        """Send and retransmit until a final response, which goes to ``on_final``; ``None`` when 64*T1 passed."""

        def repeat() -> None:
            self._counters["requests_repeated"] += 1
            self._send(data, to)

        retransmitter = Retransmitter(self._loop, self._timers, repeat, lambda: self._finish(branch, None))
        self._pending[branch] = (method, retransmitter, on_final)
        self._send(data, to)

    def hear(self, response: SipMessage) -> bool:
        """Deliver a response; false when it answers nothing that we asked."""
        branch = response.vias[0].branch
        pending = self._pending.get(branch)
        if pending is None or pending[0] != response.cseq_method:
            return False
        if response.status < 200:
            pending[1].slow_down()
        else:
            self._finish(branch, response)
        return True

    async def settled(self) -> None:
        """Wait until nothing is pending."""
        while self._pending:
            self._idle = self._loop.create_future()
            await self._idle

    def close(self) -> None:
        """Give up on everything pending; no callback follows."""
        for _, retransmitter, _ in self._pending.values():
            retransmitter.stop()
        self._pending.clear()
        self._wake()

    def _finish(self, branch: str, response: SipMessage | None) -> None:
        _, retransmitter, on_final = self._pending.pop(branch)
        retransmitter.stop()
        try:
            on_final(response)
        finally:
            if not self._pending:
                self._wake()

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
