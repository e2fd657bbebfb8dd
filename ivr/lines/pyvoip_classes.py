"""pyVoIP's phone, client, call and message classes, hardened by subclassing: the inside of ``pyvoip.PyvoipLine``.

pyVoIP keeps the shape (who knows whom, the call table, the dispatch, the counters); what its 1.6.8 gets wrong on the
wire is overridden: parsing, transactions, dialogs, registration, session descriptions and all of the media. Nothing of
ours runs on a pyVoIP thread or timer: the SIP socket is a datagram endpoint of the asyncio loop, so there is one order
of events and no lock. Only this file imports pyVoIP (GPL-3; see docs/dependencies.md).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import structlog

from ivr.clock import monotonic_ms
from ivr.lines.base import LineEvents, LineOptions
from ivr.lines.registration import Registration
from ivr.lines.sdp import Description, SdpError, choose_audio, parse_sdp
from ivr.lines.sipdialog import Dialog, DialogState
from ivr.lines.sipleg import Inbound, SipLeg, Stream
from ivr.lines.sipmessage import (
    ALLOWED_METHODS,
    KNOWN_METHODS,
    Address,
    BadRequest,
    SipMessage,
    Unparseable,
    Via,
    build_request,
    build_response,
    parse,
    response_destination,
    sdp_part,
)
from ivr.lines.transactions import ClientTransactions, ServerTransactions, Timers, TxState
from ivr.rtp import MediaPlane

with warnings.catch_warnings():
    # pyVoIP imports audioop, whose deprecation must not stop whoever runs with warnings as errors.
    warnings.filterwarnings("ignore", message="'audioop' is deprecated", category=DeprecationWarning)
    # In this order: pyVoIP.SIP alone fails on a circular import of its own.
    from pyVoIP.VoIP import CallState, VoIPCall, VoIPPhone  # isort: skip
    from pyVoIP.SIP import SIPClient, SIPMessage, SIPMessageType, SIPStatus  # isort: skip

log = structlog.get_logger("firmline.sip")

ALLOW = ("Allow", ", ".join(ALLOWED_METHODS))
ACCEPT = ("Accept", "application/sdp")
SERVER = ("Server", "Firmline")
MAX_STRANGERS_A_SECOND = 100
"""Datagrams from outside the trusted networks that are read at all; enough to name a PBX that is missing there."""


class Message(SIPMessage):
    """pyVoIP's message with our parser under it: ``parsed`` holds everything, pyVoIP's own fields what pyVoIP reads.

    ``fault`` says how a request that breaks the rules must be refused; such a message has been read as far as it goes.
    """

    parsed: SipMessage
    fault: BadRequest | None = None
    inbound: Inbound

    def parse(self, data: bytes) -> None:
        """Raises: Unparseable: nobody to answer."""
        try:
            self.parsed = parse(data)
        except BadRequest as exc:
            self.fault, self.parsed = exc, exc.message
        parsed = self.parsed
        if parsed.status:
            self.type, self.status = SIPMessageType.RESPONSE, status_of(parsed.status)
        else:
            self.type, self.method = SIPMessageType.MESSAGE, parsed.method
        self.headers = {
            "Via": [{"type": f"SIP/2.0/{v.transport}", "address": (v.host, str(v.port or 5060))} for v in parsed.vias],
            "Call-ID": parsed.call_id,
            "CSeq": {"check": str(parsed.cseq), "method": parsed.cseq_method},
            "From": {"raw": parsed.sender.uri, "tag": parsed.sender.tag},
            "To": {"raw": parsed.to.uri, "tag": parsed.to.tag},
        }
        # Empty on purpose: VoIPCall would open its own RTP clients for every line it finds here.
        self.body = {"c": [], "m": []}


def status_of(code: int) -> Any:
    """pyVoIP's status for a code; an unknown one is its class's x00 (RFC 3261 section 8.1.3.2)."""
    try:
        return SIPStatus(code)
    except ValueError:
        return SIPStatus({1: 183, 2: 200, 3: 300}.get(code // 100, code // 100 * 100))


class Call(SipLeg, VoIPCall):
    """pyVoIP's call as a :class:`SipLeg`: its verbs lead to the leg, its state is read from the dialog."""

    def __init__(self, phone: Phone, message: Message, dialog: Dialog, offer: Description | None) -> None:
        SipLeg.__init__(self, phone.sip, message.inbound, dialog, offer)
        VoIPCall.__init__(self, phone, CallState.RINGING, message, 0, phone.myIP)

    @property
    def state(self) -> Any:
        """pyVoIP's word for where the dialog stands."""
        if self.dialog.state in (DialogState.ACCEPTED, DialogState.CONFIRMED):
            return CallState.ANSWERED
        ended = self.dialog.state in (DialogState.ENDING, DialogState.TERMINATED)
        return CallState.ENDED if ended else CallState.RINGING

    @state.setter
    def state(self, _value: Any) -> None:
        """The dialog alone decides; pyVoIP's constructor assigns here."""

    def deny(self) -> None:
        """pyVoIP's refusal."""
        self.reject(486, "denied")

    def hangup(self) -> None:
        """pyVoIP's hang-up."""
        self.hang_up()

    def bye(self) -> None:
        """pyVoIP's "the peer said BYE"."""
        self.hear_bye()

    def renegotiate(self, request: Message) -> None:  # type: ignore[override]  # narrower: only our own messages come here
        """pyVoIP's re-INVITE."""
        self.hear_reinvite(request.inbound)


class Phone(VoIPPhone):
    """pyVoIP's phone: the call table and the dispatch of INVITE and BYE. Ports and threads are not its business."""

    calls: dict[str, Call]  # type: ignore[assignment]  # narrower: every call is ours
    sip: Client

    def __init__(self, options: LineOptions, sip: Callable[[Phone], Client]) -> None:
        super().__init__(
            options.server,
            options.server_port,
            options.username,
            options.password,
            myIP=options.local_ip,
            sipPort=options.local_port,
            rtpPortLow=options.rtp_port_low,
            rtpPortHigh=options.rtp_port_high,
        )
        self.sip = sip(self)
        self.max_legs = options.max_legs

    def release_ports(self, call: Any = None) -> None:
        """Called by pyVoIP's destructor; ports belong to the media plane."""

    def request_port(self, blocking: bool = True) -> int:
        """Ports belong to the media plane; pyVoIP's own search would block the loop."""
        raise NotImplementedError("media ports are opened by ivr.rtp")

    @property
    def live(self) -> list[Call]:
        """The legs that their owner still has."""
        return [call for call in self.calls.values() if call.live]

    def _callback_MSG_Invite(self, request: Message) -> None:  # type: ignore[override]  # narrower: only our own messages come here
        inbound = request.inbound
        message, sip = inbound.message, self.sip
        if message.to.tag:
            call = self._in_dialog(inbound)
            if call is not None and call.in_order(inbound):
                call.renegotiate(request)
            return
        known = self.calls.get(message.call_id)
        if known is not None and known.dialog.state is not DialogState.TERMINATED:
            # Forked and come together again (RFC 3261 section 8.2.2.2), or a second caller with a stolen Call-ID.
            sip.respond(inbound, 482)
        elif not re.fullmatch(r"[\x21-\x7e]{1,512}", message.call_id):
            sip.respond(inbound, 400)
        elif len(self.live) >= self.max_legs:
            sip.counters["legs_over_limit"] += 1
            sip.respond(inbound, 486)
        else:
            self._create_Call(request, 0)

    def _create_Call(self, request: Message, sess_id: int) -> None:  # type: ignore[override]  # narrower: only our own messages come here
        inbound = request.inbound
        try:
            offer = self._offer(inbound)
            dialog = Dialog.from_invite(inbound.message, inbound.transaction.to_tag, inbound.source)
        except SdpError as exc:
            self.sip.counters["offers_refused"] += 1
            log.info("offer_refused", leg=inbound.message.call_id, why=str(exc))
            self.sip.respond(inbound, 488, headers=[("Warning", f'399 firmline "{exc}"')])
            return
        except UnsupportedBody:
            self.sip.respond(inbound, 415, headers=[ACCEPT])
            return
        except ValueError:
            self.sip.respond(inbound, 400)
            return
        call = Call(self, request, dialog, offer)
        self.calls[dialog.call_id] = call
        self.sip.counters["legs_offered"] += 1
        try:
            self.sip.events.on_leg_offered(call)
        except Exception:
            self.sip.counters["owner_faults"] += 1
            log.exception("owner_fault", leg=call.id)
            call.reject(500, "fault in the owner")
        call.offered()

    def _offer(self, inbound: Inbound) -> Description | None:
        """The offer, checked, or ``None`` for an INVITE without one."""
        message = inbound.message
        if not message.body:
            return None
        body = sdp_part(message)
        if body is None or message.first("content-encoding"):
            raise UnsupportedBody
        offer = parse_sdp(body)
        choose_audio(offer)
        return offer

    def _callback_MSG_Bye(self, request: Message) -> None:  # type: ignore[override]  # narrower: only our own messages come here
        inbound = request.inbound
        call = self._in_dialog(inbound)
        if call is not None and call.in_order(inbound):
            self.sip.respond(inbound, 200)
            call.bye()

    def _in_dialog(self, inbound: Inbound) -> Call | None:
        """The call an in-dialog request belongs to; 481 has been sent when there is none (section 12.2.2)."""
        call = self.calls.get(inbound.message.call_id)
        if call is not None and call.dialog.matches(inbound.message):
            return call
        self.sip.counters["dialog_unknown"] += 1
        self.sip.respond(inbound, 481)
        return None


class UnsupportedBody(Exception):
    """An INVITE whose body is not a session description."""


class Client(SIPClient, asyncio.DatagramProtocol):
    """pyVoIP's client as a datagram protocol of the loop: receives, matches transactions, dispatches, sends."""

    def __init__(self, phone: Phone, options: LineOptions, timers: Timers, counters: Counter[str]) -> None:
        super().__init__(
            options.server,
            options.server_port,
            options.username,
            options.password,
            phone=phone,
            myIP=options.local_ip,
            myPort=options.local_port,
            callCallback=phone.callback,
        )
        self.timers, self.counters = timers, counters
        self.phone: Phone = phone
        self.registration: Registration | None = None
        self._trusted = [ipaddress.ip_network(peer, strict=False) for peer in options.trusted_peers]
        self._bye_pending: set[Call] = set()
        self._strangers = (0, 0)
        self._transport: asyncio.DatagramTransport | None = None
        self._methods: dict[str, Callable[[Message], None]] = {
            "INVITE": phone.callback,
            "BYE": phone.callback,
            "OPTIONS": lambda m: self._in_or_out(m, self._hear_options),
            "UPDATE": self._hear_update,
            "INFO": self._hear_info,
            "PRACK": lambda m: self._refuse(m, 481),
        }

    def open(self, loop: asyncio.AbstractEventLoop, events: LineEvents, media: MediaPlane, bound: Address) -> None:
        """Everything that exists only between start and stop."""
        self.loop, self.events, self.media = loop, events, media
        self.media_ip, self.bound = bound[0], bound
        self.server_transactions = ServerTransactions(loop, self.timers, self.resend, self.counters)
        self.client_transactions = ClientTransactions(loop, self.timers, self.resend, self.counters)

    # --- pyVoIP's verbs that must never run -----------------------------------------------------------------------

    def start(self) -> None:
        """The line opens the endpoint."""
        raise NotImplementedError("PyvoipLine.start opens the SIP socket")

    def stop(self) -> None:
        """The line closes the endpoint."""

    def gen_tag(self) -> str:
        """64 random bits; pyVoIP keeps every tag it ever made."""
        return secrets.token_hex(8)

    # --- the wire -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def error_received(self, exc: Exception) -> None:
        """An ICMP error about something we sent: the timers deal with it."""
        self.counters["icmp_errors"] += 1

    def resend(self, data: bytes, to: Address) -> None:
        """Put bytes on the wire; a send that fails is a lost datagram, which the timers deal with."""
        if self._transport is None or self._transport.is_closing():
            return
        try:
            self._transport.sendto(data, to)
        except (OSError, ValueError) as exc:
            self.counters["send_errors"] += 1
            log.warning("send_failed", to=f"{to[0]}:{to[1]}", why=str(exc))

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """One datagram; whatever is in it, the socket and the other legs go on."""
        self.counters["datagrams"] += 1
        try:
            self._receive(data, (addr[0], addr[1]))
        except Exception:
            self.counters["faults"] += 1
            log.exception("sip_fault", source=addr[0])

    def _receive(self, data: bytes, source: Address) -> None:
        if not data.strip(b"\r\n\0"):
            self.counters["keepalives"] += 1
            return
        trusted = self._is_trusted(source[0])
        if not trusted and not self._heed_stranger():
            self.counters["untrusted_ignored"] += 1
            return
        try:
            message = Message(data)
        except Unparseable:
            self.counters["unparseable"] += 1
            return
        if message.parsed.status:
            if not trusted or not self.client_transactions.hear(message.parsed):
                self.counters["responses_stray"] += 1
            return
        via = message.parsed.vias[0].stamped(source)
        message.parsed = stamped = replace_via(message.parsed, via)
        destination = response_destination(via, source)
        if not trusted:
            self.counters["untrusted"] += 1
            if stamped.method == "INVITE":
                self._log_untrusted(source[0])
                self._answer_statelessly(stamped, 403, status_of(403).phrase, destination)
        elif message.fault is not None:
            self.counters["malformed"] += 1
            if stamped.method != "ACK":
                self._answer_statelessly(stamped, message.fault.status, message.fault.reason, destination)
        else:
            self._match(message, source, destination)

    def _log_untrusted(self, ip: str) -> None:
        """At the 1st, 2nd, 4th, 8th ... only: a scanner must not fill the disk."""
        self.counters["untrusted_invites"] += 1
        count = self.counters["untrusted_invites"]
        if count & (count - 1) == 0:
            fix = "add it to line.trusted_peers if it is yours"
            log.warning("untrusted_invite", source=ip, count=count, fix=fix)

    def _heed_stranger(self) -> bool:
        """Whether there is time to read what a stranger sent: reading costs a hundred times what dropping does, so that
        a flood of it would hold up every call; and answering it would make us a mirror for forged sources."""
        second = monotonic_ms() // 1_000
        if second != self._strangers[0]:
            self._strangers = (second, 0)
        self._strangers = (second, self._strangers[1] + 1)
        return self._strangers[1] <= MAX_STRANGERS_A_SECOND

    def _is_trusted(self, ip: str) -> bool:
        registrar = self.registration.address if self.registration is not None else None
        if registrar is not None and ip == registrar[0]:
            return True
        address = ipaddress.ip_address(ip)
        return any(address in network for network in self._trusted)

    def _match(self, message: Message, source: Address, destination: Address) -> None:
        """Transactions first (RFC 3261 section 17.2.3): a repeat is answered from memory, an ACK confirms."""
        request, known = message.parsed, self.server_transactions
        if request.method == "ACK":
            self._hear_ack(request)
            return
        transaction = known.find(request)
        if transaction is not None:
            known.repeat(transaction)
            return
        transaction = known.create(request, destination, self.gen_tag())
        if transaction is not None:
            message.inbound = Inbound(request, source, transaction)
            try:
                self.parse_message(message)
            except Exception:
                if transaction.last is None:
                    # Our bug must not leave the peer waiting, nor the transaction open for ever.
                    self.respond(message.inbound, 500)
                raise

    def _hear_ack(self, ack: SipMessage) -> None:
        transaction = self.server_transactions.find(ack, "INVITE")
        if transaction is not None and transaction.state in (TxState.COMPLETED, TxState.CONFIRMED):
            self.server_transactions.acknowledge(transaction)
            return
        call = self.phone.calls.get(ack.call_id)
        if call is not None and call.dialog.matches(ack):
            call.hear_ack(ack)
        else:
            self.counters["acks_stray"] += 1

    def parse_message(self, message: Message) -> None:  # type: ignore[override]  # narrower: only our own messages come here
        """Dispatch a new request (RFC 3261 section 8.2): method, URI, required extensions, then its own rules."""
        request = message.parsed
        if request.method == "CANCEL":
            self._hear_cancel(message)
            return
        handler = self._methods.get(request.method)
        required = request.listed("require")
        if handler is None:
            self.counters["methods_refused"] += 1
            self._refuse(message, 405 if request.method in KNOWN_METHODS else 501, [ALLOW])
        elif not re.match(r"(?i)(sips?|tel):", request.uri):
            self._refuse(message, 416)
        elif required:
            self._refuse(message, 420, [("Unsupported", ", ".join(required))])
        else:
            handler(message)

    def _refuse(self, message: Message, status: int, headers: Sequence[tuple[str, str]] = ()) -> None:
        self.respond(message.inbound, status, headers=headers)

    def _hear_cancel(self, message: Message) -> None:
        """RFC 3261 section 9.2: always answered; it ends only an INVITE that has no final answer yet."""
        invite = self.server_transactions.find(message.parsed, "INVITE")
        if invite is None:
            self._refuse(message, 481)
            return
        message.inbound.transaction.to_tag = invite.to_tag
        self.respond(message.inbound, 200)
        call = self.phone.calls.get(message.parsed.call_id)
        if call is not None and call.dialog.local_tag == invite.to_tag:
            call.hear_cancel()

    def _in_or_out(self, message: Message, then: Callable[[Message], None]) -> None:
        """A request that is welcome without a dialog and must match one when it claims to have one."""
        if not message.parsed.to.tag or self.phone._in_dialog(message.inbound) is not None:
            then(message)

    def _hear_options(self, message: Message) -> None:
        self._refuse(message, 200, [ACCEPT, ("Accept-Encoding", "identity"), ("Supported", "")])

    def _hear_update(self, message: Message) -> None:
        call = self.phone._in_dialog(message.inbound)
        if call is not None and call.in_order(message.inbound):
            call.hear_update(message.inbound)

    def _hear_info(self, message: Message) -> None:
        call = self.phone._in_dialog(message.inbound)
        if call is not None and call.in_order(message.inbound):
            call.hear_info(message.inbound)

    # --- sending --------------------------------------------------------------------------------------------------

    def _answer_statelessly(self, request: SipMessage, status: int, reason: str, to: Address) -> None:
        data = build_response(request, status, reason, to_tag=self.gen_tag(), headers=[SERVER, ALLOW])
        self.resend(data, to)

    def respond(
        self,
        inbound: Inbound,
        status: int,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        dialog: Dialog | None = None,
    ) -> bytes:
        """Answer a request through its transaction. ``dialog`` adds what a dialog needs: Contact and Record-Route."""
        out = list(headers)
        if dialog is not None:
            routes = [value for name, value in inbound.message.headers if name == "record-route"]
            out += [("Record-Route", route) for route in routes]
            out.append(("Contact", f"<sip:{self.username}@{self.bound[0]}:{self.bound[1]}>"))
        if (dialog is not None or inbound.message.method == "OPTIONS") and 200 <= status < 300:
            out.append(ALLOW)
        if body:
            out.append(("Content-Type", "application/sdp"))
        out.append(SERVER)
        tag = inbound.transaction.to_tag if status > 100 else ""
        data = build_response(inbound.message, status, status_of(status).phrase, to_tag=tag, headers=out, body=body)
        self.server_transactions.respond(inbound.transaction, status, data)
        return data

    def send_bye(self, leg: SipLeg) -> None:
        """Our BYE, with the dialog's route set and target; the call stays known until it is answered or given up."""
        assert isinstance(leg, Call)
        self._bye_pending.add(leg)

        def done(response: SipMessage | None) -> None:
            if response is None:
                self.counters["byes_unanswered"] += 1
            self._bye_pending.discard(leg)
            self._forget(leg)

        self._send_inside(leg, "BYE", done)

    def send_probe(self, leg: SipLeg) -> None:
        """Our OPTIONS inside the dialog; the leg is told how it was answered."""
        self.counters["probes"] += 1
        self._send_inside(leg, "OPTIONS", lambda answer: leg.hear_probe(answer.status if answer else None))

    def _send_inside(self, leg: SipLeg, method: str, done: Callable[[SipMessage | None], None]) -> None:
        uri, headers, to = leg.dialog.next_request(method)
        branch = self.gen_branch()
        via = f"SIP/2.0/UDP {self.bound[0]}:{self.bound[1]};branch={branch};rport"
        data = build_request(method, uri, via, [*headers, ("User-Agent", "Firmline")])
        self.client_transactions.send(branch, method, data, to, done)

    def open_media(self, leg: SipLeg) -> Stream:
        """A stream of the media plane whose sink is the leg. Raises: LineError: ports used up."""
        return self.media.open(leg)

    def leg_over(self, leg: SipLeg) -> None:
        """The dialog has ended; while our BYE is out, a BYE that crosses it still finds its dialog (RFC 5407 3.2.1)."""
        assert isinstance(leg, Call)
        if leg not in self._bye_pending:
            self._forget(leg)

    def clock_ms(self) -> int:
        """The clock of the line contract."""
        return monotonic_ms()

    def _forget(self, leg: Call) -> None:
        if self.phone.calls.get(leg.dialog.call_id) is leg:
            del self.phone.calls[leg.dialog.call_id]

    def close(self) -> None:
        """Cancel every timer and close the socket."""
        for call in self.phone.calls.values():
            call.release()
        self.phone.calls.clear()
        self._bye_pending.clear()
        if self.registration is not None:
            self.registration.close()
        self.client_transactions.close()
        self.server_transactions.close()
        if self._transport is not None:
            self._transport.close()


def replace_via(message: SipMessage, top: Via) -> SipMessage:
    """``message`` with its top Via stamped."""
    return replace(message, vias=(top, *message.vias[1:]))
