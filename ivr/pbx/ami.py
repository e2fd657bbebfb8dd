"""The Asterisk Manager Interface as a client: blocks of ``Key: value`` lines over one TCP connection.

Two parts. :class:`AmiReader` is sans-IO: bytes in, messages out. :class:`AmiClient` keeps one connection: banner, MD5
login (plain on loopback where a server offers no challenge), answers matched by ActionID, event lists, pings, and a new
connection with back-off whenever the old one is lost. What was missed meanwhile is not replayed by the PBX, so
``on_up`` is where the owner asks for the present state.

Protocol: https://docs.asterisk.org/Configuration/Interfaces/Asterisk-Manager-Interface-AMI/AMI-v2-Specification/
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import itertools
import random
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog

from ivr.errors import PbxError
from ivr.waiting import within

log = structlog.get_logger("firmline.ami")

MAX_LINE_BYTES = 64 * 1024
"""A longer line is no manager interface: Asterisk's own limit for what it reads is 8 KiB."""
MAX_MESSAGE_LINES = 2_000
BANNER = "Asterisk Call Manager/"
RETRY_MIN_MS, RETRY_MAX_MS = 250, 10_000
STOP_MS = 500

Fields = Iterable[tuple[str, str]]


class AmiProtocolError(PbxError):
    """The peer does not speak the manager protocol."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


@dataclass(frozen=True, slots=True)
class AmiMessage:
    """One block. Names are compared without case; a name may come several times."""

    fields: tuple[tuple[str, str], ...]

    def get(self, name: str, default: str = "") -> str:
        """First value of ``name``."""
        wanted = name.lower()
        return next((value for key, value in self.fields if key.lower() == wanted), default)

    @property
    def event(self) -> str:
        """Name of the event; empty for an answer."""
        return self.get("Event")


class AmiReader:
    """Bytes to messages; keeps what is not yet a whole block."""

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[tuple[str, str]] = []

    def feed(self, data: bytes) -> list[AmiMessage]:
        """Every block that ``data`` completes, in order.

        Raises:
            AmiProtocolError: a line or block beyond all measure.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise AmiProtocolError("the PBX sent a line that never ends")
        out: list[AmiMessage] = []
        for raw in lines:
            line = raw.rstrip(b"\r").decode("utf-8", "replace")
            if line:
                key, _, value = line.partition(":")
                self._lines.append((key.strip(), value.strip()))
                if len(self._lines) > MAX_MESSAGE_LINES:
                    raise AmiProtocolError("the PBX sent a message that never ends")
            elif self._lines:
                out.append(AmiMessage(tuple(self._lines)))
                self._lines = []
        return out


def render(action: str, action_id: str, fields: Fields) -> bytes:
    """One action on the wire.

    Raises:
        PbxError: a name or value holds a line break or another control character: it would become a second action.
    """
    lines = [("Action", action), ("ActionID", action_id), *fields]
    for key, value in lines:
        if not key.isidentifier() or re.search(r"[\x00-\x1f\x7f]", value):
            raise PbxError(f"{action}: {key} holds characters that the PBX must not be sent")
    return "".join(f"{key}: {value}\r\n" for key, value in lines).encode() + b"\r\n"


def escaped(value: str) -> str:
    """``value`` for a ``Variable`` of ``Originate``, which Asterisk reads as a list of assignments with quotes."""
    return re.sub(r'([\\",()\[\]])', r"\\\1", value)


@dataclass(frozen=True, slots=True)
class AmiOptions:
    """Where and as whom to log in; already validated. ``ping_ms``: how long silence is believed. ``tls``: how to
    encrypt the connection, if at all; ``tls_name``: the name that the certificate must hold, if not ``host``."""

    host: str
    port: int
    username: str
    secret: str
    timeout_ms: int = 5_000
    ping_ms: int = 10_000
    tls: ssl.SSLContext | None = None
    tls_name: str = ""


@dataclass(slots=True)
class _Waiting:
    answer: asyncio.Future[AmiMessage]
    rows: list[AmiMessage] | None = None
    """Filled for an event list; ``None`` for an action with a single answer."""
    started: AmiMessage | None = field(default=None)


class AmiClient:
    """Keeps one manager connection up. Everything runs on the loop that called ``start``.

    ``on_event`` must not block. ``on_up`` runs after each login, before events reach ``on_event`` again in time: events
    that arrive while it waits for its own answers are delivered as they come, so it must reconcile, not assume. A
    ``PbxError`` of it ends the session. ``on_down`` gets one sentence each time a connection is lost.
    """

    def __init__(
        self,
        options: AmiOptions,
        *,
        on_event: Callable[[AmiMessage], None],
        on_up: Callable[[], Awaitable[None]],
        on_down: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self._options = options
        self._on_event, self._on_up, self._on_down = on_event, on_up, on_down
        self._ids = itertools.count(1)
        self._prefix = f"firmline-{random.getrandbits(32):08x}"
        self._waiting: dict[str, _Waiting] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._runner: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._logged_in = False
        self._md5_refused = False
        self.version = ""
        """Protocol version of the last banner, such as ``11.0.0``."""
        self.problem: str | None = "not connected to the PBX's manager interface yet"
        """Why the PBX cannot be used now; ``None`` while logged in, once ``on_up`` is through."""

    def start(self) -> None:
        """Begin to connect; a PBX that is down is reported by ``problem`` and tried again for ever."""
        self._stopped.clear()
        self._runner = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Log off and close; bounded, never raises."""
        self._stopped.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            if self._logged_in:
                with contextlib.suppress(PbxError, TimeoutError):
                    async with asyncio.timeout(STOP_MS / 1000):
                        await self.action("Logoff")
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)

    # --- asking -------------------------------------------------------------------------------------------------------

    async def action(self, name: str, *fields: tuple[str, str], action_id: str = "") -> AmiMessage:
        """Send one action and return its answer. A given ``action_id`` is found again in the events that follow.

        Raises:
            PbxError: refused (with the PBX's own words), no answer in time, or not connected (``retryable``).
        """
        self._must_be_logged_in()
        return (await self._ask(name, fields, rows=None, action_id=action_id))[0]

    async def event_list(self, name: str, *fields: tuple[str, str]) -> list[AmiMessage]:
        """Send an action that is answered by a list of events; returns those between start and complete.

        Raises:
            PbxError: as :meth:`action`.
        """
        self._must_be_logged_in()
        return (await self._ask(name, fields, rows=[]))[1]

    def _must_be_logged_in(self) -> None:
        if not self._logged_in:
            raise PbxError(self.problem or "the PBX's manager interface is not connected", retryable=True)

    async def _ask(
        self, name: str, fields: Fields, *, rows: list[AmiMessage] | None, action_id: str = ""
    ) -> tuple[AmiMessage, list[AmiMessage]]:
        writer = self._writer
        if writer is None or writer.is_closing():
            raise PbxError(self.problem or "the PBX's manager interface is not connected", retryable=True)
        action_id = action_id or f"{self._prefix}-{next(self._ids)}"
        data = render(name, action_id, fields)
        waiting = _Waiting(asyncio.get_running_loop().create_future(), rows)
        self._waiting[action_id] = waiting
        try:
            writer.write(data)
            async with asyncio.timeout(self._options.timeout_ms / 1000):
                answer = await waiting.answer
        except TimeoutError:
            raise PbxError(f"{name}: the PBX did not answer in {self._options.timeout_ms} ms", retryable=True) from None
        finally:
            self._waiting.pop(action_id, None)
        if answer.get("Response") in ("Error", "Failure"):
            raise PbxError(f"{name}: the PBX said {answer.get('Message', 'no')!r}")
        return answer, waiting.rows or []

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        retry_ms = RETRY_MIN_MS
        while not self._stopped.is_set():
            try:
                await self._session()
                why = "the PBX closed the manager connection"
            except PbxError as exc:
                why = str(exc)
            except ssl.SSLError as exc:
                why = _tls_words(exc, self._where)
            except (OSError, TimeoutError) as exc:
                # asyncio puts its own words ("Connect call failed") in the place of the system's.
                refused = isinstance(exc, ConnectionRefusedError)
                reason = "connection refused" if refused else getattr(exc, "strerror", None) or "no answer"
                why = f"the manager interface at {self._where} cannot be reached: {reason}; is Asterisk up, and "
                why += "enabled=yes in manager.conf?"
            if self._logged_in and self.problem is None:
                retry_ms = RETRY_MIN_MS  # it was of use: else it is tried less and less often
            self._lost(why)
            # Spread, so that a PBX that comes back is not met by every client in the same instant.
            if await within(self._stopped, int(retry_ms * random.uniform(0.75, 1.25))):
                return
            retry_ms = min(2 * retry_ms, RETRY_MAX_MS)

    def _lost(self, why: str) -> None:
        known, self.problem, self._logged_in = self.problem, why, False
        for waiting in list(self._waiting.values()):
            if not waiting.answer.done():
                waiting.answer.set_exception(PbxError(why, retryable=True))
                waiting.answer.exception()  # its owner may be gone; then nobody is left to retrieve it
        if why != known and not self._stopped.is_set():
            log.warning("manager connection lost", reason=why)
        self._on_down(why)

    async def _session(self) -> None:
        seconds = self._options.timeout_ms / 1000
        async with asyncio.timeout(seconds):
            options = self._options
            tls: dict[str, Any] = {}
            if options.tls is not None:
                # An empty name would mean that none is looked at: the host's own is what is meant.
                tls = {"ssl": options.tls, "server_hostname": options.tls_name or options.host}
            reader, writer = await asyncio.open_connection(options.host, options.port, limit=2 * MAX_LINE_BYTES, **tls)
        self._writer = writer
        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(seconds):
                await self._read_banner(reader)
            loop = asyncio.get_running_loop()
            tasks.append(loop.create_task(self._read(reader)))
            tasks.append(loop.create_task(self._live()))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._writer = None
            writer.close()  # before anything that waits: a cancel must not leave it open
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(STOP_MS / 1000):
                    await writer.wait_closed()

    async def _read_banner(self, reader: asyncio.StreamReader) -> None:
        try:
            line = (await reader.readline()).decode("utf-8", "replace").strip()
        except ValueError:
            line = ""
        if not line.startswith(BANNER):
            raise AmiProtocolError(f"{self._where} is no Asterisk manager interface: check pbx.asterisk.port")
        self.version = line.removeprefix(BANNER)[:40]

    async def _live(self) -> None:
        await self._log_in()
        self._logged_in = True
        log.info("manager connected", at=self._where, version=self.version)
        await self._on_up()
        self.problem = None
        while not await within(self._stopped, self._options.ping_ms):
            await self.action("Ping")

    async def _log_in(self) -> None:
        options = self._options
        who = ("Username", options.username)
        confidential = options.tls is not None or _is_loopback(options.host)
        challenge = ""
        if not (self._md5_refused and confidential):
            try:
                answer, _ = await self._ask("Challenge", [("AuthType", "MD5")], rows=None)
                challenge = answer.get("Challenge")
            except PbxError as exc:
                if exc.retryable:
                    raise
        if challenge:
            digest = hashlib.md5((challenge + options.secret).encode(), usedforsecurity=False).hexdigest()
            proof = [("AuthType", "MD5"), ("Key", digest)]
        elif confidential:
            proof = [("Secret", options.secret)]
        else:
            raise PbxError(
                f"{self._where} offers no MD5 login, and the secret is not sent in clear over a network: set "
                "pbx.asterisk.tls.enabled"
            )
        try:
            await self._ask("Login", [who, *proof, ("Events", "call,dtmf,user")], rows=None)
        except PbxError as exc:
            if exc.retryable:
                raise
            self._md5_refused = bool(challenge)  # the PBX hangs up now; the next login is the other way
            raise PbxError(
                f"the manager interface at {self._where} refused user {options.username}: check pbx.asterisk.username "
                "and secret, and permit= of that user in manager.conf"
            ) from exc

    async def _read(self, reader: asyncio.StreamReader) -> None:
        parser = AmiReader()
        while data := await reader.read(MAX_LINE_BYTES):
            for message in parser.feed(data):
                self._hear(message)

    def _hear(self, message: AmiMessage) -> None:
        waiting = self._waiting.get(message.get("ActionID"))
        if waiting is not None and not waiting.answer.done():
            if self._answers(waiting, message):
                return
        if message.event:
            try:
                self._on_event(message)
            except Exception:
                log.exception("an event could not be handled; the connection goes on", event_name=message.event)

    @staticmethod
    def _answers(waiting: _Waiting, message: AmiMessage) -> bool:
        """Whether the message belongs to the action; resolves it when it was the last one."""
        listing = waiting.rows is not None
        if message.get("Response"):
            if not listing or message.get("EventList").lower() != "start":
                waiting.answer.set_result(message)
            waiting.started = message
            return True
        if waiting.rows is None or waiting.started is None:
            return False
        if message.get("EventList").lower() in ("complete", "cancelled"):
            waiting.answer.set_result(waiting.started)
        else:
            waiting.rows.append(message)
        return True

    @property
    def _where(self) -> str:
        return f"{self._options.host}:{self._options.port}"


def _tls_words(exc: ssl.SSLError, where: str) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return (
            f"the certificate of the manager interface at {where} is not trusted ({exc.verify_message}): check "
            "pbx.asterisk.tls.ca_file and server_name"
        )
    return f"the manager interface at {where} does not answer with TLS ({exc.reason}): check pbx.asterisk.port (5039?)"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
