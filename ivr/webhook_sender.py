"""Delivers webhook messages: signed, retried with back-off and jitter, kept over a restart, never in a call's way.

``hear`` only picks and queues, on the loop. One thread owns the outbox's SQL; one task keeps what is new, and one task
an endpoint delivers, so that a receiver which is slow or down delays nobody else:

    hear ──► queue ──keeper──► outbox ──one task an endpoint──► receiver
                                 ▲            │ not taken: later; too old: dead letter
                                 └────────────┘

Retries and the headers follow Standard Webhooks (standardwebhooks.com): the id stays, each try has its own timestamp
and signature. Redirects are not followed and no proxy of the environment is used: a message goes to the address that
ops wrote down, or nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import sqlalchemy as sa
import structlog

import ivr
from ivr import clock
from ivr.errors import StoreError
from ivr.types import JournalRow
from ivr.webhook_events import URGENT, HookEvent, HookEvents
from ivr.webhook_outbox import Letter, Outbox
from ivr.webhooks import sign

MAX_NEW = 2_000
"""Messages that may wait for the outbox while the disk does not take them."""
KEEP_AGAIN_MS = 1_000
PRUNE_EVERY_MS = 600_000
MAX_ANSWER_BYTES = 16_384
"""Read so that the connection can be used again; what the receiver says is of no interest."""
GONE = 410
"""The receiver says that it wants no more of this (Standard Webhooks): not tried again."""
STOP_S = 1.0
T = TypeVar("T")
_BROKEN = (sa.exc.SQLAlchemyError, StoreError, OSError)
_log = structlog.get_logger("firmline.webhooks")


@dataclass(frozen=True, slots=True)
class Hook:
    """One endpoint, validated, its secret resolved."""

    name: str
    url: str
    secret: str
    events: frozenset[HookEvent]
    words: bool = False


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """``timeout_ms`` bounds one try; ``max_waiting`` is per endpoint."""

    timeout_ms: int = 10_000
    retry_first_ms: int = 5_000
    retry_max_ms: int = 1_800_000
    max_age_ms: int = 24 * 3_600_000
    max_waiting: int = 10_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one try ended. ``endpoint_down``: the others for this endpoint would fare no better now."""

    taken: bool
    detail: str
    endpoint_down: bool = False
    final: bool = False


async def post(client: httpx.AsyncClient, hook: Hook, message_id: str, body: str, timeout_ms: int) -> Outcome:
    """One signed try; never raises."""
    content = body.encode()
    headers = {
        "content-type": "application/json",
        "user-agent": f"Firmline/{ivr.__version__}",
        **sign(hook.secret, message_id, int(clock.wall_s()), content),
    }
    try:
        # httpx times each phase and read by itself: a peer that drips bytes would never run out of time.
        async with asyncio.timeout(timeout_ms / 1000):
            async with client.stream("POST", hook.url, content=content, headers=headers, timeout=None) as answer:
                read = 0
                async for chunk in answer.aiter_raw():
                    if (read := read + len(chunk)) > MAX_ANSWER_BYTES:
                        break
    except TimeoutError:
        return Outcome(False, f"no answer within {timeout_ms} ms", endpoint_down=True)
    except (httpx.HTTPError, httpx.InvalidURL, RuntimeError, OSError) as exc:
        return Outcome(False, f"cannot be reached: {exc or type(exc).__name__}", endpoint_down=True)
    status = answer.status_code
    if 200 <= status < 300:
        return Outcome(True, f"answered {status}")
    return Outcome(
        False, f"answered {status}", endpoint_down=status in (408, 429) or status >= 500, final=status == GONE
    )


def new_client() -> httpx.AsyncClient:
    """Follows no redirect, uses no proxy of the environment."""
    return httpx.AsyncClient(trust_env=False, follow_redirects=False, limits=httpx.Limits(max_connections=2))


def backoff_ms(options: DeliveryOptions, attempts: int, spread: float) -> int:
    """The wait after ``attempts`` failed tries: three times longer each time, up to a bound; ``spread`` in 0..1."""
    base = min(options.retry_max_ms, options.retry_first_ms * 3 ** max(0, min(attempts - 1, 20)))
    return int(base * (0.8 + 0.4 * spread))


class WebhookSender:
    """Every endpoint's deliveries. Lives on the loop; ``use`` may change the endpoints while it runs."""

    def __init__(self, hooks: Iterable[Hook], outbox: Outbox, options: DeliveryOptions | None = None) -> None:
        self._hooks = {hook.name: hook for hook in hooks}
        self._outbox, self._options = outbox, options or DeliveryOptions()
        self._events = HookEvents()
        self._new: deque[Letter] = deque()
        self._waiting: Counter[str] = Counter()
        self._totals: Counter[str] = Counter({"delivered": 0, "failed": 0, "dead": 0, "dropped": 0})
        self._problems: dict[str, str] = {}
        self._taken: set[str] = set()
        """Delivered, while the outbox cannot be told so: not to be sent twice for a full disk's sake."""
        self._sql = ThreadPoolExecutor(1, "webhooks")
        self._wakes: dict[str, asyncio.Event] = {}
        self._wake_keeper = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to keep and to deliver, with what an earlier process left."""
        self._keeper = asyncio.create_task(self._keep(), name="webhooks")
        for name in self._hooks:
            self._begin(name)

    async def stop(self) -> None:
        """Stop delivering; what is not delivered is in the outbox for the next process. Bounded, never raises."""
        tasks = [task for task in (self._keeper, *self._tasks.values()) if task is not None]
        self._keeper, self._tasks = None, {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError, *_BROKEN):
            async with asyncio.timeout(STOP_S):
                await self._keep_new()
        if self._new:
            _log.error("webhook messages lost at stop: the outbox could not be written", count=len(self._new))
        self._sql.shutdown(wait=False, cancel_futures=True)

    def use(self, hooks: Iterable[Hook], options: DeliveryOptions) -> None:
        """Other endpoints from now on. What waits for a name that stays goes to its new address."""
        before, self._hooks, self._options = self._hooks, {hook.name: hook for hook in hooks}, options
        for name in [name for name in self._tasks if self._hooks.get(name) != before.get(name)]:
            self._tasks.pop(name).cancel()
            self._problems.pop(name, None)
        for name in self._hooks:
            if name not in self._tasks:
                self._begin(name)

    def hear(self, row: JournalRow) -> None:
        """One journal row. Never blocks and never raises: a call must not notice its watchers."""
        try:
            for message in self._events.hear(row):  # without endpoints too: one may be added in mid-call
                bodies: dict[bool, str] = {}
                for hook in self._hooks.values():
                    if message.event in hook.events:
                        if hook.words not in bodies:
                            bodies[hook.words] = message.body(words=hook.words)
                        self._queue(hook, message.event, bodies[hook.words])
        except Exception:
            self._totals["dropped"] += 1
            _log.exception("a row could not be made into a webhook message")

    def totals(self) -> Mapping[str, float]:
        """For metrics: delivered, failed tries, dead letters, dropped for want of room."""
        return dict(self._totals)

    def waiting(self) -> Mapping[str, float]:
        """For metrics: undelivered messages by endpoint."""
        return {name: self._waiting[name] for name in self._hooks}

    def problem(self) -> str | None:
        """What ails deliveries now, one sentence, or ``None``."""
        return "; ".join(f"webhook {name}: {why}" for name, why in sorted(self._problems.items())) or None

    # --- keeping ------------------------------------------------------------------------------------------------------

    def _queue(self, hook: Hook, event: HookEvent, body: str) -> None:
        if self._waiting[hook.name] >= self._options.max_waiting or len(self._new) >= MAX_NEW:
            self._totals["dropped"] += 1
            if self._problems.get(hook.name, "").startswith("its outbox is full"):
                return
            self._problems[hook.name] = "its outbox is full; new messages are dropped until it takes some"
            _log.error("webhook outbox is full; new messages are dropped", endpoint=hook.name)
            return
        self._waiting[hook.name] += 1
        self._new.append(Letter(hook.name, event, body, _now_ms(), urgent=event == URGENT))
        self._wake_keeper.set()

    async def _keep(self) -> None:
        next_prune_ms = 0
        while True:
            try:
                await self._keep_new()
                if clock.monotonic_ms() >= next_prune_ms:
                    next_prune_ms = clock.monotonic_ms() + PRUNE_EVERY_MS
                    if buried := await self._in_thread(self._outbox.prune, _now_ms(), self._options.max_age_ms):
                        self._totals["dead"] += buried
                        _log.error("webhook messages given up: too old", count=buried)
                    kept = await self._in_thread(self._outbox.waiting)
                    self._waiting = Counter(kept) + Counter(letter.endpoint for letter in self._new)
            except Exception as exc:
                _log.warning("webhook outbox cannot be written now", error=_first_line(exc))
                await _wait(asyncio.Event(), KEEP_AGAIN_MS)
                continue
            await _wait(self._wake_keeper, PRUNE_EVERY_MS)
            self._wake_keeper.clear()

    async def _keep_new(self) -> None:
        while batch := list(self._new)[:500]:
            await self._in_thread(self._outbox.add, batch)
            for _ in batch:
                self._new.popleft()
            for name in {letter.endpoint for letter in batch}:
                if name in self._wakes:
                    self._wakes[name].set()

    # --- delivering ---------------------------------------------------------------------------------------------------

    def _begin(self, name: str) -> None:
        self._wakes[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._deliver(name), name=f"webhook-{name}")

    async def _deliver(self, name: str) -> None:
        failures, begun = 0, False
        async with new_client() as client:
            while True:
                self._wakes[name].clear()
                try:
                    if not begun:
                        await self._in_thread(self._outbox.due_now, name)
                        begun = True
                    found = await self._in_thread(self._outbox.next_of, name, _now_ms())
                    if not isinstance(found, Letter):
                        wait_ms = PRUNE_EVERY_MS if found is None else max(1, found - _now_ms())
                        await _wait(self._wakes[name], wait_ms)
                        continue
                    outcome = await self._post(client, name, found)
                    failures = 0 if outcome.taken else failures + 1
                    await self._settle(name, found, outcome)
                    if outcome.endpoint_down:
                        # Nothing else would fare better now; not woken by new messages, or a dead receiver is hammered.
                        await _wait(asyncio.Event(), backoff_ms(self._options, failures, random.random()))
                except Exception as exc:  # a disk's fault or ours: the endpoint must not be forgotten for it
                    _log.warning("webhook outbox cannot be used now", endpoint=name, error=_first_line(exc))
                    await _wait(asyncio.Event(), max(KEEP_AGAIN_MS, backoff_ms(self._options, failures, 0.5)))

    async def _post(self, client: httpx.AsyncClient, name: str, letter: Letter) -> Outcome:
        if letter.message_id in self._taken:
            return Outcome(True, "taken before, but still in the outbox")
        outcome = await post(client, self._hooks[name], letter.message_id, letter.body, self._options.timeout_ms)
        if outcome.taken:
            self._taken.add(letter.message_id)
        return outcome

    async def _settle(self, name: str, letter: Letter, outcome: Outcome) -> None:
        if outcome.taken:
            self._problems.pop(name, None)
            await self._in_thread(self._outbox.delivered, letter.message_id)
            self._taken.discard(letter.message_id)
            self._waiting[name] -= 1
            self._totals["delivered"] += 1
            return
        self._totals["failed"] += 1
        self._problems[name] = outcome.detail
        attempts, now_ms = letter.attempts + 1, _now_ms()
        too_old = now_ms - letter.created_ms >= self._options.max_age_ms
        if outcome.final or too_old:
            await self._in_thread(self._bury, letter.message_id, attempts, outcome.detail)
            self._waiting[name] -= 1
            self._totals["dead"] += 1
            _log.error("webhook message given up", endpoint=name, id=letter.message_id, error=outcome.detail)
            return
        wait_ms = backoff_ms(self._options, attempts, random.random())
        await self._in_thread(self._later, letter.message_id, attempts, now_ms + wait_ms, outcome.detail)
        log = _log.warning if attempts == 1 else _log.info
        log("webhook not taken; tried again later", endpoint=name, error=outcome.detail, attempts=attempts)

    def _bury(self, message_id: str, attempts: int, error: str) -> None:
        self._outbox.bury(message_id, attempts=attempts, error=error)

    def _later(self, message_id: str, attempts: int, next_try_ms: int, error: str) -> None:
        self._outbox.again(message_id, attempts=attempts, next_try_ms=next_try_ms, error=error)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._sql, work, *args)


async def _wait(event: asyncio.Event, ceiling_ms: int) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ceiling_ms / 1000):
            await event.wait()


def _first_line(exc: Exception) -> str:
    """Without statement or parameters of SQL: they hold what is in the message."""
    return (str(exc).splitlines() or [""])[0][:200] or type(exc).__name__


def _now_ms() -> int:
    """Wall time: what is due must still be due after a restart."""
    return int(clock.wall_s() * 1000)
