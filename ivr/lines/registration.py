"""Keeping one address-of-record registered (RFC 3261 section 10): the states as a table, the requests, the waiting.

A refresh does not leave REGISTERED and a retry does not leave FAILED: what people see changes only when the truth does.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import structlog

from ivr.lines.base import RegistrationState
from ivr.lines.digest import Challenge, UnsupportedChallenge, read_challenge
from ivr.lines.sipdialog import next_hop
from ivr.lines.sipmessage import (
    ALLOWED_METHODS,
    Address,
    SipMessage,
    SipUri,
    build_request,
    parse_name_addr,
    parse_uri,
)
from ivr.lines.transactions import ClientTransactions, Timers

log = structlog.get_logger("firmline.sip")

REFRESH_AT = 0.7
"""Share of the binding's life after which it is refreshed: of 120 s that leaves 36 s, longer than timer F's 32 s."""
MAX_CHALLENGES = 3
MAX_EXPIRES_S = 86_400


class RegEvent(StrEnum):
    """What can happen to a registration."""

    START = "start"
    ACCEPTED = "accepted"
    CHALLENGED = "challenged"
    TOO_BRIEF = "too_brief"
    REFUSED = "refused"
    SILENT = "silent"
    REFRESH_DUE = "refresh_due"
    RETRY_DUE = "retry_due"
    STOP = "stop"


class RegAct(StrEnum):
    """What is done about it."""

    SEND = "send"
    SEND_AGAIN = "send_again"
    ARM_REFRESH = "arm_refresh"
    ARM_RETRY = "arm_retry"
    SEND_REMOVAL = "send_removal"
    DISARM = "disarm"


R, E, A = RegistrationState, RegEvent, RegAct
Cell = tuple[RegistrationState, tuple[RegAct, ...]]

TABLE: Mapping[RegistrationState, Mapping[RegEvent, Cell]] = {
    R.UNREGISTERED: {
        E.START: (R.REGISTERING, (A.SEND,)),
        E.STOP: (R.UNREGISTERED, ()),
    },
    R.REGISTERING: {
        E.ACCEPTED: (R.REGISTERED, (A.ARM_REFRESH,)),
        E.CHALLENGED: (R.REGISTERING, (A.SEND_AGAIN,)),
        E.TOO_BRIEF: (R.REGISTERING, (A.SEND_AGAIN,)),
        E.REFUSED: (R.FAILED, (A.ARM_RETRY,)),
        E.SILENT: (R.FAILED, (A.ARM_RETRY,)),
        # The first answer may still be on its way: without a removal a binding could outlive us.
        E.STOP: (R.UNREGISTERED, (A.DISARM, A.SEND_REMOVAL)),
    },
    R.REGISTERED: {
        E.REFRESH_DUE: (R.REGISTERED, (A.SEND,)),
        E.ACCEPTED: (R.REGISTERED, (A.ARM_REFRESH,)),
        E.CHALLENGED: (R.REGISTERED, (A.SEND_AGAIN,)),
        E.TOO_BRIEF: (R.REGISTERED, (A.SEND_AGAIN,)),
        E.REFUSED: (R.FAILED, (A.ARM_RETRY,)),
        E.SILENT: (R.FAILED, (A.ARM_RETRY,)),
        E.STOP: (R.UNREGISTERED, (A.DISARM, A.SEND_REMOVAL)),
    },
    R.FAILED: {
        E.RETRY_DUE: (R.FAILED, (A.SEND,)),
        E.ACCEPTED: (R.REGISTERED, (A.ARM_REFRESH,)),
        E.CHALLENGED: (R.FAILED, (A.SEND_AGAIN,)),
        E.TOO_BRIEF: (R.FAILED, (A.SEND_AGAIN,)),
        E.REFUSED: (R.FAILED, (A.ARM_RETRY,)),
        E.SILENT: (R.FAILED, (A.ARM_RETRY,)),
        E.STOP: (R.UNREGISTERED, (A.DISARM,)),
    },
}


@dataclass(frozen=True, slots=True)
class Registrar:
    """Where and as whom to register. ``new_branch`` and ``next_cseq`` come from the SIP engine."""

    host: str
    port: int
    username: str
    auth_user: str
    password: str
    expires_s: int
    new_branch: Callable[[], str]
    next_cseq: Callable[[], int]

    @property
    def uri(self) -> str:
        return f"sip:{self.host}" if self.port == 5060 else f"sip:{self.host}:{self.port}"

    @property
    def aor(self) -> str:
        return f"sip:{self.username}@{self.host}"


class Registration:
    """Registers, refreshes, tries again with back-off, de-registers. All on the loop; no threads, no waiting inside."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        registrar: Registrar,
        transactions: ClientTransactions,
        local: Address,
        on_change: Callable[[], None],
    ) -> None:
        self._loop, self._timers, self._registrar = loop, timers, registrar
        self._transactions, self._local, self._on_change = transactions, local, on_change
        self.state = RegistrationState.UNREGISTERED
        self.detail = "not started"
        self.address: Address | None = None
        """The registrar's resolved address: it may always send us requests."""
        self._call_id = f"{secrets.token_hex(16)}@{local[0]}"
        self._tag = secrets.token_hex(8)
        self._challenge: Challenge | None = None
        self._challenges = 0
        self._expires_s = registrar.expires_s
        self._granted_s = registrar.expires_s
        self._retry_ms = timers.retry_min_ms
        self._retry_after_ms = 0
        self._timer: asyncio.TimerHandle | None = None
        self._lookup: asyncio.Task[None] | None = None
        self._acts: dict[RegAct, Callable[[], None]] = {
            A.SEND: self._send_first,
            A.SEND_AGAIN: self._send,
            A.ARM_REFRESH: self._arm_refresh,
            A.ARM_RETRY: self._arm_retry,
            A.SEND_REMOVAL: self._send_removal,
            A.DISARM: self._disarm,
        }

    def start(self) -> None:
        """Begin; the outcome is told through ``on_change``."""
        self._hear(E.START, f"registering {self._registrar.username} at {self._where()}")

    def stop(self, why: str = "stopped") -> None:
        """Take the binding away; the request is one of the transactions the owner waits for."""
        self._hear(E.STOP, why)

    def again(self) -> None:
        """Register now instead of when it is due: the registrar may have come back without its bindings.

        Nothing happens while a request is under way; after ``stop`` it begins anew.
        """
        if self.state is R.UNREGISTERED:
            self.start()
        if self._timer is not None:
            self._disarm()
            self._hear(E.REFRESH_DUE if self.state is R.REGISTERED else E.RETRY_DUE)

    def close(self) -> None:
        """Cancel every timer and lookup."""
        self._disarm()

    # --- the machine ----------------------------------------------------------------------------------------------

    def _hear(self, event: RegEvent, detail: str = "") -> None:
        cell = TABLE[self.state].get(event)
        if cell is None:
            log.info("registration_event_ignored", state=self.state.value, registration_event=event.value)
            return
        before = (self.state, self.detail)
        self.state, acts = cell
        if detail:
            self.detail = detail
        for act in acts:
            self._acts[act]()
        if (self.state, self.detail) != before:
            log.info("registration", state=self.state.value, detail=self.detail)
            self._on_change()

    def _arm_refresh(self) -> None:
        self._retry_ms = self._timers.retry_min_ms
        self._arm(int(self._granted_s * 1000 * REFRESH_AT), lambda: self._hear(E.REFRESH_DUE))

    def _arm_retry(self) -> None:
        self._challenge = None
        delay_ms = max(self._retry_ms, self._retry_after_ms)
        self._retry_ms = min(2 * self._retry_ms, self._timers.retry_max_ms)
        self._retry_after_ms = 0
        # Spread, so that a registrar that comes back is not met by every client in the same instant.
        self._arm(int(delay_ms * random.uniform(0.75, 1.25)), lambda: self._hear(E.RETRY_DUE))

    def _arm(self, delay_ms: int, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_ms / 1000, self._due, then)

    def _due(self, then: Callable[[], None]) -> None:
        self._timer = None
        then()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lookup is not None:
            self._lookup.cancel()
            self._lookup = None

    # --- sending --------------------------------------------------------------------------------------------------

    def _send_first(self) -> None:
        self._challenges = 0
        literal = next_hop(SipUri("sip", "", self._registrar.host, self._registrar.port), ("", 0))
        if literal[0]:
            self.address = literal
            self._send()
        else:
            self._lookup = self._loop.create_task(self._look_up_and_send())

    async def _look_up_and_send(self) -> None:
        try:
            found = await self._loop.getaddrinfo(
                self._registrar.host, self._registrar.port, family=socket.AF_INET, type=socket.SOCK_DGRAM
            )
        except (OSError, UnicodeError):
            found = []
        self._lookup = None
        if not found:
            self._hear(
                E.REFUSED,
                f"the name {self._registrar.host} cannot be resolved to an IPv4 address; check line.server",
            )
            return
        self.address = (str(found[0][4][0]), self._registrar.port)
        self._send()

    def _send(self) -> None:
        self._transmit(self._expires_s, self._heard)

    def _send_removal(self) -> None:
        self._challenges = 0
        if self.address is not None:
            self._transmit(0, self._removal_heard)

    def _transmit(self, expires_s: int, on_final: Callable[[SipMessage | None], None]) -> None:
        if self.address is None:
            return
        me, branch = self._registrar, self._registrar.new_branch()
        host, port = self._local
        headers = [
            ("From", f"<{me.aor}>;tag={self._tag}"),
            ("To", f"<{me.aor}>"),
            ("Call-ID", self._call_id),
            ("CSeq", f"{me.next_cseq()} REGISTER"),
            ("Contact", f"<sip:{me.username}@{host}:{port}>;expires={expires_s}"),
            ("Expires", str(expires_s)),
            ("Allow", ", ".join(ALLOWED_METHODS)),
            ("User-Agent", "Firmline"),
        ]
        if self._challenge is not None:
            user = me.auth_user or me.username
            cnonce = secrets.token_hex(8)
            headers.append(
                self._challenge.authorization(
                    username=user, password=me.password, method="REGISTER", uri=me.uri, cnonce=cnonce
                )
            )
        via = f"SIP/2.0/UDP {host}:{port};branch={branch};rport"
        data = build_request("REGISTER", me.uri, via, headers)
        self._transactions.send(branch, "REGISTER", data, self.address, on_final)

    # --- hearing --------------------------------------------------------------------------------------------------

    def _heard(self, response: SipMessage | None) -> None:
        if self.state is RegistrationState.UNREGISTERED:
            return
        if response is None:
            seconds = self._timers.timeout_ms / 1000
            self._hear(
                E.SILENT,
                f"{self._where()} did not answer within {seconds:g} s; "
                "check line.server, line.server_port and any firewall",
            )
        elif response.status < 300:
            self._granted_s = self._granted(response)
            self._hear(E.ACCEPTED, f"registered {self._registrar.username} at {self._where()}")
        elif response.status in (401, 407):
            self._challenged(response)
        elif response.status == 423:
            self._too_brief(response)
        else:
            self._refused(response)

    def _challenged(self, response: SipMessage) -> None:
        why = self._take_challenge(response)
        if why:
            self._hear(E.REFUSED, why)
        else:
            self._hear(E.CHALLENGED)

    def _take_challenge(self, response: SipMessage) -> str:
        """Use the new nonce, or say why it is no use to try: the same credentials were refused already."""
        try:
            challenge = read_challenge(response)
        except UnsupportedChallenge as exc:
            return f"{self._where()} refused the registration: {exc}"
        self._challenges += 1
        old = self._challenge
        # A nonce kept from an earlier registration may have aged without the server saying stale; a fresh one may not.
        fresh = old is not None and (old.uses <= 1 or self._challenges > 1)
        refused = fresh and not challenge.stale
        self._challenge = challenge
        if refused or self._challenges > MAX_CHALLENGES:
            return (
                f"{self._where()} refused the password of {self._registrar.auth_user or self._registrar.username} "
                f"({response.status}); check line.username, line.auth_user and line.password"
            )
        return ""

    def _too_brief(self, response: SipMessage) -> None:
        value = response.first("min-expires") or ""
        minimum_s = int(value) if re.fullmatch(r"\d{1,9}", value) else 0
        if not self._expires_s < minimum_s <= MAX_EXPIRES_S:
            self._hear(E.REFUSED, f"{self._where()} refused line.expires_s={self._expires_s} as too short (423)")
            return
        self._expires_s = minimum_s
        self._hear(E.TOO_BRIEF)

    def _refused(self, response: SipMessage) -> None:
        value = re.match(r"\d{1,6}", response.first("retry-after") or "")
        self._retry_after_ms = min(int(value[0]), 3600) * 1000 if value else 0
        advice = {
            403: "; check line.username and line.password, and that this account may register",
            404: "; it does not know line.username",
        }.get(response.status, "")
        self._hear(E.REFUSED, f"{self._where()} refused the registration with status {response.status}{advice}")

    def _removal_heard(self, response: SipMessage | None) -> None:
        if response is not None and response.status in (401, 407) and not self._take_challenge(response):
            self._transmit(0, self._removal_heard)

    def _granted(self, response: SipMessage) -> int:
        """Seconds granted to our own binding (RFC 3261 section 10.2.4), else the Expires header, else what we asked."""
        for value in response.listed("contact"):
            try:
                contact = parse_name_addr(value)
                uri = parse_uri(contact.uri)
            except ValueError:
                continue
            ours = (uri.user, uri.host, uri.port or 5060) == (self._registrar.username, *self._local)
            expires = contact.params.get("expires")
            if ours and expires and re.fullmatch(r"\d{1,9}", expires):
                return _bounded(int(expires))
        value = response.first("expires") or ""
        return _bounded(int(value)) if re.fullmatch(r"\d{1,9}", value) else self._expires_s

    def _where(self) -> str:
        return f"the registrar {self._registrar.host}:{self._registrar.port}"


def _bounded(seconds: int) -> int:
    return max(1, min(seconds, MAX_EXPIRES_S))
