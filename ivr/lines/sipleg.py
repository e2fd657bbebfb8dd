"""One leg: a dialog, its media and its owner, driven by the table of ``sipdialog``.

Engine-free: the host (the SIP engine) sends bytes, opens media and forgets the leg; the leg decides. Everything runs on
the loop. ``on_leg_down`` is queued with ``call_soon``, so an owner is never called back from inside its own call.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from audio.types import AudioFrame, Pcm
from ivr.errors import LineError
from ivr.lines.base import HEADER_CALL, HEADER_SIDE, LineEvents, Playback, PlaybackResult
from ivr.lines.sdp import (
    CLOCK_HZ,
    AudioChoice,
    Description,
    LocalSession,
    SdpError,
    choose_audio,
    parse_sdp,
    still_audio,
)
from ivr.lines.sipdialog import ANSWERED, TABLE, UNANSWERED, Act, Dialog, DialogEvent, DialogState
from ivr.lines.sipmessage import Address, SipMessage, printable, sdp_part
from ivr.lines.transactions import Retransmitter, ServerTransaction, Timers

log = structlog.get_logger("firmline.sip")

_DTMF_TYPES = ("application/dtmf-relay", "application/dtmf")
_DTMF_SIGNAL = re.compile(rb"(?im)^\s*(?:signal\s*=\s*)?([0-9*#A-D])\s*$")


class Stream(Protocol):
    """The media plane's end of one leg (``ivr.rtp.MediaStream``)."""

    local_port: int

    def set_remote(
        self, ip: str, port: int, codecs: Mapping[int, str], telephone_event_pt: int | None, direction: str
    ) -> None: ...

    def play(self, samples: Pcm) -> Playback: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Inbound:
    """A request on its way through: the message (top Via stamped), its transaction and where it really came from."""

    message: SipMessage
    source: Address
    transaction: ServerTransaction


class LegHost(Protocol):
    """What a leg needs from the SIP engine."""

    loop: asyncio.AbstractEventLoop
    timers: Timers
    counters: Counter[str]
    events: LineEvents
    media_ip: str

    def respond(
        self,
        inbound: Inbound,
        status: int,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        dialog: Dialog | None = None,
    ) -> bytes: ...

    def resend(self, data: bytes, to: Address) -> None: ...

    def send_bye(self, leg: SipLeg) -> None: ...

    def send_probe(self, leg: SipLeg) -> None: ...

    def open_media(self, leg: SipLeg) -> Stream: ...

    def leg_over(self, leg: SipLeg) -> None: ...

    def clock_ms(self) -> int: ...


class DeadPlayback:
    """A playback that could not begin: ``done`` says why at once and ``started`` is cancelled."""

    def __init__(self, loop: asyncio.AbstractEventLoop, why: str) -> None:
        self.started: asyncio.Future[int] = loop.create_future()
        self.started.cancel()
        self.done: asyncio.Future[PlaybackResult] = loop.create_future()
        self.done.set_result(PlaybackResult(completed=False, played_ms=0, first_rtp_ms=None, why=why))

    def stop(self) -> None:
        """Nothing to stop."""


class SipLeg:
    """A leg as ``ivr.lines.base`` describes it. Its methods for the engine begin with ``hear_``."""

    rate_hz = CLOCK_HZ

    def __init__(self, host: LegHost, inbound: Inbound, dialog: Dialog, offer: Description | None) -> None:
        invite = inbound.message
        self.id = dialog.call_id
        self.headers: Mapping[str, str] = readable_headers(invite)
        self.call_ref = self.headers.get(HEADER_CALL.lower()) or None
        side = self.headers.get(HEADER_SIDE.lower())
        self.side = side.strip().lower() if side else None
        self.remote_uri = printable(invite.sender.uri)
        self.dialog = dialog
        self._host, self._invite, self._offer = host, inbound, offer
        self._audio: AudioChoice | None = None
        self._audio_index = 0
        self._session = LocalSession(host.media_ip, secrets.randbelow(2**31) + 1)
        self._stream: Stream | None = None
        self._unacked: tuple[int, Retransmitter] | None = None
        self._answer_due = False
        self._refusal = (480, "")
        self._reason = ""
        self._told_up = self._told_down = False
        self._timers: list[asyncio.TimerHandle] = []
        self._probe_timer: asyncio.TimerHandle | None = None
        self._heard_audio = False
        self._acts: dict[Act, Callable[[], None]] = {
            Act.SEND_100: lambda: self._provisional(100),
            Act.SEND_180: lambda: self._provisional(180),
            Act.SEND_200: self._send_200,
            Act.SEND_REFUSAL: lambda: self._refuse(*self._refusal),
            Act.SEND_480: lambda: self._refuse(480),
            Act.SEND_487: lambda: self._refuse(487),
            Act.SEND_BYE: lambda: host.send_bye(self),
            Act.STOP_200: self._stop_200,
            Act.CLOSE_MEDIA: self._close_media,
            Act.REPORT_UP: self._report_up,
            Act.REPORT_DOWN: self._report_down,
        }

    # --- the owner's side -----------------------------------------------------------------------------------------

    def answer(self) -> None:
        """Send 200 and open media; a fault ends the leg with ``on_leg_down``."""
        if self.dialog.state not in UNANSWERED:
            return
        try:
            self._stream = self._host.open_media(self)
            if self._offer is not None:
                self._listen_to(choose_audio(self._offer))
        except (LineError, SdpError) as exc:
            log.warning("leg_not_answered", leg=self._log_id, why=str(exc))
            self._refusal, self._reason = (503, "5"), f"could not be answered: {exc}"
            self._hear(DialogEvent.REJECT)
            return
        self._hear(DialogEvent.ANSWER)

    def reject(self, status: int, reason: str) -> None:
        """Refuse an offered leg; ``reason`` is for the log, the phrase is the RFC's own."""
        if self.dialog.state in UNANSWERED:
            self._refusal, self._reason = (status if 400 <= status <= 699 else 480, ""), f"refused: {reason}"
            self._hear(DialogEvent.REJECT)

    def play(self, samples: Pcm) -> Playback:
        """Start sending ``samples``; on a leg without media the playback is over at once, with the reason."""
        if self._stream is None or self.dialog.state not in ANSWERED:
            return DeadPlayback(self._host.loop, "the leg has no media: it is not answered or already down")
        return self._stream.play(samples)

    def hang_up(self) -> None:
        """End it from our side, whatever its state."""
        if self.dialog.state is not DialogState.TERMINATED:
            self._reason = self._reason or "hung up by us"
            self._hear(DialogEvent.HANG_UP)

    # --- the media's side -----------------------------------------------------------------------------------------

    def on_frames(self, frames: Sequence[AudioFrame]) -> None:
        """Pass audio on while the leg is up; what arrives before the ACK or after the end is nobody's."""
        self._heard_audio = True
        if self._told_up and not self._told_down:
            self._host.events.on_frames(self, frames)

    def on_dtmf(self, digit: str, t_ms: int) -> None:
        """Pass a key press on while the leg is up."""
        if self._told_up and not self._told_down:
            self._host.events.on_dtmf(self, digit, t_ms)

    # --- the engine's side ----------------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether the owner still has this leg."""
        return not self._told_down

    def offered(self) -> None:
        """The owner has been told and did not decide at once: say 100 now and 180 soon, and do not wait for ever."""
        if self.dialog.state is not DialogState.TRYING:
            return
        self._hear(DialogEvent.DEFER)
        loop, timers = self._host.loop, self._host.timers
        self._timers = [
            loop.call_later(timers.ring_ms / 1000, self._ring),
            loop.call_later(timers.no_answer_ms / 1000, self._nobody),
        ]

    def hear_ack(self, ack: SipMessage) -> None:
        """The ACK of a 200 of ours, with the answer when the offer was ours (RFC 3261 section 13.2.2.4)."""
        if self._unacked is None or self._unacked[0] != ack.cseq:
            self._host.counters["acks_late"] += 1
            return
        if self._answer_due:
            self._answer_due = False
            fault = self._take_answer(ack)
            if fault:
                self._host.counters["answers_unusable"] += 1
                log.info("answer_unusable", leg=self._log_id, why=fault)
            if fault and not self._told_up:
                self._reason = f"no usable answer in the ACK: {fault}"
                self._hear(DialogEvent.HANG_UP)
        self._hear(DialogEvent.ACK)

    def hear_cancel(self) -> None:
        """A CANCEL of the INVITE, already answered 200."""
        self._reason = self._reason or "cancelled by the peer before the answer"
        self._hear(DialogEvent.CANCEL)

    def hear_bye(self) -> None:
        """A BYE of this dialog, already answered 200."""
        self._reason = self._reason or "hung up by the peer"
        self._hear(DialogEvent.BYE)

    def in_order(self, inbound: Inbound) -> bool:
        """Check and take the CSeq; an old one is answered 500 (RFC 3261 section 12.2.2)."""
        if inbound.message.cseq <= self.dialog.remote_cseq:
            self._host.counters["cseq_out_of_order"] += 1
            self._host.respond(inbound, 500)
            return False
        self.dialog.remote_cseq = inbound.message.cseq
        return True

    def hear_reinvite(self, inbound: Inbound) -> None:
        """Hold, resume, media move, session refresh (RFC 3261 section 14.2); races by RFC 5407 section 3.1."""
        if self.dialog.state in UNANSWERED:
            self._later(inbound)
        elif self.dialog.state not in ANSWERED:
            self._host.respond(inbound, 481)
        elif self._answer_due:
            self._host.respond(inbound, 491)
        else:
            if self._unacked is not None:
                # The peer would not re-INVITE without having acknowledged: its ACK is lost or late (RFC 5407 3.1.4).
                self._hear(DialogEvent.ACK)
            self._renegotiate(inbound, is_invite=True)

    def hear_update(self, inbound: Inbound) -> None:
        """RFC 3311: like a re-INVITE without ACK, and allowed before the answer when it carries no offer."""
        has_offer = bool(inbound.message.body)
        if self.dialog.state not in ANSWERED and self.dialog.state not in UNANSWERED:
            self._host.respond(inbound, 481)
        elif not has_offer:
            self.dialog.refresh_target(inbound.message)
            self._host.respond(inbound, 200, dialog=self.dialog)
        elif self.dialog.state in UNANSWERED:
            self._later(inbound)
        elif self._answer_due:
            self._host.respond(inbound, 491)
        else:
            self._renegotiate(inbound, is_invite=False)

    def hear_info(self, inbound: Inbound) -> None:
        """RFC 2976 with its two DTMF bodies, which some PBXs send in place of RFC 4733."""
        message = inbound.message
        if self.dialog.state not in ANSWERED and self.dialog.state not in UNANSWERED:
            self._host.respond(inbound, 481)
        elif message.first("info-package") is not None:
            self._host.respond(inbound, 469, headers=[("Recv-Info", "")])
        elif not message.body:
            self._host.respond(inbound, 200)
        elif message.content_type() not in _DTMF_TYPES:
            self._host.respond(inbound, 415, headers=[("Accept", ", ".join(_DTMF_TYPES))])
        else:
            self._host.respond(inbound, 200)
            found = _DTMF_SIGNAL.search(message.body)
            if found:
                self.on_dtmf(found[1].decode().upper(), self._host.clock_ms())

    def hear_probe(self, status: int | None) -> None:
        """The answer to our OPTIONS; ``None`` when none came. Whoever answers at all is alive and knows the dialog,
        unless he says that he does not (RFC 5057 section 5.1)."""
        if self.dialog.state not in ANSWERED:
            return
        if status in (None, 408, 481):
            self._reason = "the peer no longer knows this leg" if status else "no audio, and no answer from the peer"
            self._hear(DialogEvent.HANG_UP)
        else:
            self._arm_probe()

    def bye_now(self) -> None:
        """The engine stops: a BYE that waits for an ACK waits no longer."""
        if self.dialog.state is DialogState.ENDING:
            self._hear(DialogEvent.ACK_TIMEOUT)

    def release(self) -> None:
        """Drop timers and media without a word to anybody: the engine is closing."""
        self._cancel_timers()
        self._stop_200()
        self._close_media()

    # --- the machine ----------------------------------------------------------------------------------------------

    def _hear(self, event: DialogEvent) -> None:
        state = self.dialog.state
        cell = TABLE[state].get(event)
        if cell is None:
            log.info("dialog_event_ignored", leg=self._log_id, state=state.value, dialog_event=event.value)
            return
        self.dialog.state, acts = cell
        if self.dialog.state not in UNANSWERED:
            self._cancel_timers()
        for act in acts:
            self._acts[act]()
        if self.dialog.state is DialogState.TERMINATED and state is not DialogState.TERMINATED:
            self._host.leg_over(self)

    def _ring(self) -> None:
        self._hear(DialogEvent.RING)
        # RFC 3261 section 13.3.1.1: proxies give up on an INVITE that stays silent for minutes.
        self._timers[0] = self._host.loop.call_later(60, self._ring)

    def _nobody(self) -> None:
        self._reason = "nobody answered it in time"
        self._hear(DialogEvent.NO_ANSWER)

    def _unacknowledged(self) -> None:
        self._host.counters["acks_missing"] += 1
        self._reason = self._reason or "the peer never acknowledged our answer"
        self._hear(DialogEvent.ACK_TIMEOUT)

    def _provisional(self, status: int) -> None:
        self._host.respond(self._invite, status, dialog=None if status == 100 else self.dialog)

    def _refuse(self, status: int, retry_after: str = "") -> None:
        self._host.respond(self._invite, status, headers=[("Retry-After", retry_after)] if retry_after else [])

    def _send_200(self) -> None:
        if self._offer is not None:
            body = self._session.answer(self._offer, self._audio, self._port)
        else:
            body, self._answer_due = self._session.offer(self._port, None, 0), True
        self._final(self._invite, body)

    def _final(self, inbound: Inbound, body: bytes) -> None:
        """Send a 200 with a description and repeat it until its ACK comes (RFC 3261 section 13.3.1.4)."""
        data = self._host.respond(inbound, 200, body=body, dialog=self.dialog)
        to = inbound.transaction.destination

        def repeat() -> None:
            self._host.counters["responses_repeated"] += 1
            self._host.resend(data, to)

        self._stop_200()
        again = Retransmitter(self._host.loop, self._host.timers, repeat, self._unacknowledged)
        self._unacked = (inbound.message.cseq, again)

    def _stop_200(self) -> None:
        if self._unacked is not None:
            self._unacked[1].stop()
            self._unacked = None

    def _arm_probe(self) -> None:
        self._heard_audio = False
        self._probe_timer = self._host.loop.call_later(self._host.timers.probe_ms / 1000, self._probe)

    def _probe(self) -> None:
        """A PBX that died or was restarted sends no BYE: without this its legs would hold their places for ever."""
        if self._heard_audio:
            self._arm_probe()
        else:
            self._host.send_probe(self)

    def _close_media(self) -> None:
        if self._probe_timer is not None:
            self._probe_timer.cancel()
            self._probe_timer = None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _report_up(self) -> None:
        if not self._told_up and not self._told_down:
            self._told_up = True
            self._arm_probe()
            log.info("leg_up", leg=self._log_id)
            self._tell(lambda: self._host.events.on_leg_up(self))

    def _report_down(self) -> None:
        if not self._told_down:
            self._told_down = True
            reason = self._reason or "ended"
            log.info("leg_down", leg=self._log_id, why=reason)
            self._host.loop.call_soon(self._tell, lambda: self._host.events.on_leg_down(self, reason))

    def _tell(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            # The owner's fault must not cost the peer an answer or another leg anything.
            self._host.counters["owner_faults"] += 1
            log.exception("owner_fault", leg=self._log_id)

    # --- offer and answer -----------------------------------------------------------------------------------------

    def _renegotiate(self, inbound: Inbound, *, is_invite: bool) -> None:
        message = inbound.message
        if not message.body:
            body, self._answer_due = self._session.offer(self._port, self._offer, self._audio_index), True
        else:
            description = sdp_part(message)
            if description is None:
                self._host.respond(inbound, 415, headers=[("Accept", "application/sdp")])
                return
            try:
                offer = parse_sdp(description)
                choice = still_audio(offer, self._audio_index)
            except SdpError as exc:
                # The session stays as it was (RFC 3261 section 14.2).
                log.info("renegotiation_refused", leg=self._log_id, why=str(exc))
                self._host.respond(inbound, 488)
                return
            self._offer = offer
            self._listen_to(choice)
            body = self._session.answer(offer, choice, self._port)
        self.dialog.refresh_target(message)
        if is_invite:
            self._final(inbound, body)
        else:
            self._host.respond(inbound, 200, body=body, dialog=self.dialog)

    def _take_answer(self, ack: SipMessage) -> str:
        """Use the answer to our offer; the text says what is wrong with it."""
        description = sdp_part(ack)
        if description is None:
            return "there is none"
        try:
            answer = parse_sdp(description)
            choice = still_audio(answer, self._audio_index)
        except SdpError as exc:
            return str(exc)
        if choice is None and not self._told_up:
            return "it declines audio"
        self._offer = answer
        self._listen_to(choice)
        return ""

    def _listen_to(self, choice: AudioChoice | None) -> None:
        """Point the media where the peer wants it; ``None`` (port 0) silences it and keeps the last address."""
        if self._stream is None:
            return
        if choice is None:
            old = self._audio
            if old is not None:
                self._stream.set_remote(old.remote_ip, old.remote_port, old.codecs, old.telephone_event_pt, "inactive")
                self._audio = None
            return
        if choice != self._audio:
            self._stream.set_remote(
                choice.remote_ip, choice.remote_port, choice.codecs, choice.telephone_event_pt, choice.direction
            )
        self._audio, self._audio_index = choice, choice.index

    def _later(self, inbound: Inbound) -> None:
        self._host.respond(inbound, 500, headers=[("Retry-After", str(random.randint(1, 10)))])

    @property
    def _port(self) -> int:
        return self._stream.local_port if self._stream is not None else 0

    @property
    def _log_id(self) -> str:
        return printable(self.id)

    def _cancel_timers(self) -> None:
        for handle in self._timers:
            handle.cancel()
        self._timers = []


def readable_headers(message: SipMessage) -> dict[str, str]:
    """Every header by lower-case name, first value, as text that can be stored and shown anywhere."""
    out: dict[str, str] = {}
    for name, value in message.headers:
        out.setdefault(name, printable(value))
    return out
