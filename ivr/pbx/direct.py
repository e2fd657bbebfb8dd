"""Control of a PBX that offers no protocol of its own for it: one signed HTTP request for each action.

The peer gets ``POST`` JSON ``{"id", "call", "action", "target", "agent", "reason"}`` and confirms with a 2xx answer
``{"ok": true}`` *after* it has acted; anything else is a refusal. ``id`` is the same for every try of one action, so
that a peer which acted but whose answer was lost can recognise the repetition.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Literal

import httpx
import structlog

from ivr import clock
from ivr.errors import ConfigError, PbxError
from ivr.pbx.base import CallRef
from ivr.waiting import within
from ivr.webhooks import WebhookError, secret_key, sign

MAX_TRIES = 3
MAX_ANSWER_BYTES = 64 * 1024
"""An honest answer is one line; a peer that sends more must not fill our memory."""
BACKOFF_MS = 100
FIRST_TRY_SHARE = 0.6
"""Part of the time-out that the first try may use: a slow PBX is more common than a lost answer."""
RETRYABLE_STATUS = frozenset({408, 425, 429, *range(500, 600)})

ControlAction = Literal["transfer", "hangup", "pause_agent", "unpause_agent"]

_NOT_SET = (
    "no control URL is set, so calls cannot be transferred or ended: set pbx.control_url in config.yaml to the address "
    "of your PBX's control endpoint"
)
_log = structlog.get_logger("firmline.pbx")


class DirectControl:
    """A :class:`ivr.pbx.base.PbxControl` over HTTP.

    ``url`` None or empty means no control: every action fails with the key to set. ``secret`` (``whsec_...``) signs
    each request; None or empty sends them unsigned. ``timeout_ms`` bounds one action with all its tries.

    Raises:
        ConfigError: the secret is not usable.
    """

    def __init__(self, url: str | None, secret: str | None, timeout_ms: int) -> None:
        self._url = url or None
        self._secret = secret or None
        self._timeout_ms = timeout_ms
        self._client: httpx.AsyncClient | None = None
        self._stopped = asyncio.Event()
        self._problem: str | None = None if self._url else _NOT_SET
        if self._secret is not None:
            try:
                secret_key(self._secret)
            except WebhookError as exc:
                raise ConfigError(f"pbx.control_secret: {exc}") from None

    async def start(self) -> None:
        """Make the client; connects only when there is something to do."""
        self._stopped.clear()
        if self._url is not None and self._client is None:
            # Environment proxies would send a request for loopback to somebody else.
            self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False)

    async def stop(self) -> None:
        """Close every connection; an action under way fails at once."""
        self._stopped.set()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def transfer(self, call: CallRef, target: str, why: str) -> None:
        """Move the caller to ``target``."""
        await self._act("transfer", call, target, why)

    async def hang_up(self, call: CallRef, why: str) -> None:
        """End the human call."""
        await self._act("hangup", call, None, why)

    async def pause_agent(self, call: CallRef, why: str) -> None:
        """Take the agent out of the queue for a while."""
        await self._act("pause_agent", call, None, why)

    async def set_paused(self, ext: str, *, paused: bool, why: str) -> None:
        """The same without a call (``call`` is empty), or ``unpause_agent``."""
        await self._act("pause_agent" if paused else "unpause_agent", CallRef("", ext), None, why)

    def problem(self) -> str | None:
        """Why the last action did not reach the peer, or that no URL is set; ``None`` after one that did."""
        return self._problem

    async def _act(self, action: ControlAction, call: CallRef, target: str | None, why: str) -> None:
        if self._client is None:
            raise PbxError(_NOT_SET if self._url is None else "PBX control is not running")
        message_id = str(uuid.uuid4())
        body = json.dumps(
            {
                "id": message_id,
                "call": call.call_ref,
                "action": action,
                "target": target,
                "agent": call.agent_ext,
                "reason": why,
            }
        ).encode()
        try:
            await self._with_retries(message_id, body)
        except PbxError as exc:
            self._problem = f"PBX control at {self._shown_url()}: {exc}" if exc.retryable else None
            _log.warning("pbx control failed", action=action, call_ref=call.call_ref, error=str(exc))
            raise PbxError(f"{action}: {exc}", retryable=exc.retryable) from exc
        self._problem = None

    async def _with_retries(self, message_id: str, body: bytes) -> None:
        deadline_ms = clock.monotonic_ms() + self._timeout_ms
        for tries_left in range(MAX_TRIES - 1, -1, -1):
            remaining_ms = deadline_ms - clock.monotonic_ms()
            first = tries_left == MAX_TRIES - 1
            share = FIRST_TRY_SHARE if first else 1 / (tries_left + 1)
            try:
                await self._try_once(message_id, body, max(1, int(remaining_ms * share)))
                return
            except PbxError as exc:
                out_of_time = deadline_ms - clock.monotonic_ms() <= BACKOFF_MS
                if not exc.retryable or tries_left == 0 or out_of_time or await within(self._stopped, BACKOFF_MS):
                    raise

    async def _try_once(self, message_id: str, body: bytes, within_ms: int) -> None:
        if self._client is None or self._url is None:
            raise PbxError("PBX control was stopped")
        headers = {"content-type": "application/json"}
        if self._secret is not None:
            headers |= sign(self._secret, message_id, int(clock.wall_s()), body)
        try:
            # The client's own time-outs are per read: a peer that drips bytes would never run out of time.
            async with asyncio.timeout(within_ms / 1000):
                async with self._client.stream(
                    "POST", self._url, content=body, headers=headers, timeout=None
                ) as answer:
                    content = await _read(answer)
        except TimeoutError:
            raise PbxError(f"no answer within {within_ms} ms", retryable=True) from None
        except httpx.InvalidURL as exc:
            raise PbxError(f"pbx.control_url cannot be used: {exc}") from exc
        except (httpx.HTTPError, RuntimeError, OSError) as exc:
            # RuntimeError is what httpx raises when the client is closed under a request.
            raise PbxError(f"cannot be reached: {exc or type(exc).__name__}", retryable=True) from exc
        _judge(answer.status_code, content)

    def _shown_url(self) -> str:
        try:
            url = httpx.URL(self._url or "")
        except httpx.InvalidURL:
            return "pbx.control_url"
        # Without user, password and query: they may be secrets.
        return f"{url.scheme}://{url.netloc.decode()}{url.path}"


async def _read(answer: httpx.Response) -> bytes:
    content = b""
    async for chunk in answer.aiter_bytes():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise PbxError(f"answered with more than {MAX_ANSWER_BYTES} bytes")
    return content


def _judge(status: int, content: bytes) -> None:
    """Return when the peer confirmed.

    Raises:
        PbxError: it did not; with its own ``error`` text, if any.
    """
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    error = answer.get("error") if isinstance(answer, dict) else None
    told = f": {_one_line(error)}" if isinstance(error, str) and error.strip() else ""
    if not 200 <= status < 300:
        raise PbxError(f"answered {status}{told}", retryable=status in RETRYABLE_STATUS)
    if not isinstance(answer, dict):
        raise PbxError(f'answered {status} without a JSON object; expected {{"ok": true}}')
    if answer.get("ok") is not True:
        raise PbxError(f'answered {status} but did not confirm with {{"ok": true}}{told}')


def _one_line(text: str) -> str:
    return " ".join("".join(ch if ch.isprintable() else " " for ch in text).split())[:200]
