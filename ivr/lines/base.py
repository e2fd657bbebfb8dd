"""The narrow interface between Firmline and a SIP engine: a Line registers and yields Legs.

Threading rule: every callback of :class:`LineEvents` and every future of :class:`Playback` is delivered on the asyncio
loop that called ``Line.start()``; every method of Line and Leg is called from that loop and returns at once. What an
engine does on its own threads is its own business.

One conformance suite (``tests/ivr/lines/``) is run against every engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from audio.types import AudioFrame, Pcm

HEADER_CALL = "X-Firmline-Call"
HEADER_SIDE = "X-Firmline-Side"
HEADER_AGENT = "X-Firmline-Agent"
"""Optional: the extension of the agent on this call, so that their hotkey finds it."""
HEADER_QUEUE = "X-Firmline-Queue"
"""Optional: the queue by which the call came."""
HEADER_NUMBER = "X-Firmline-Number"
"""Optional: the caller's number."""
HEADER_MENU = "X-Firmline-Menu"
"""The one-time id of a leg that we asked for ourselves, with the caller alone at its other end."""


@dataclass(frozen=True, slots=True)
class LineOptions:
    """What an engine needs to know, already validated (see ``ivr.config``).

    ``server`` empty means no registrar: peers dial ``local_ip:local_port`` directly. ``trusted_peers`` are networks in
    CIDR form that may send us requests; the server itself always may. Port 0 lets the system choose.
    """

    server: str
    server_port: int
    username: str
    password: str
    auth_user: str
    local_ip: str
    local_port: int
    rtp_port_low: int
    rtp_port_high: int
    expires_s: int = 120
    trusted_peers: tuple[str, ...] = ("127.0.0.0/8",)
    max_legs: int = 400


class RegistrationState(StrEnum):
    """Where we stand with the registrar (RFC 3261 section 10)."""

    UNREGISTERED = "unregistered"
    REGISTERING = "registering"
    REGISTERED = "registered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LineStatus:
    """For ``/readyz``, ``/metrics`` and the ready line. ``detail`` is one plain sentence, with the fix if any."""

    registration: RegistrationState
    detail: str
    legs: int


@dataclass(frozen=True, slots=True)
class PlaybackResult:
    """How a playback ended: ``completed`` only if its last sample left in an RTP packet."""

    completed: bool
    played_ms: int
    first_rtp_ms: int | None
    why: str = ""


class Playback(Protocol):
    """One prompt on its way out on one leg."""

    started: asyncio.Future[int]
    """Clock time in ms (``ivr.clock.monotonic_ms``) at which the first RTP packet left."""
    done: asyncio.Future[PlaybackResult]

    def stop(self) -> None:
        """Stop within one ptime; ``done`` resolves with ``completed=False``. Harmless when already over."""


class Leg(Protocol):
    """One dialog with its media and its party (RFC 3261 section 12)."""

    id: str
    """SIP Call-ID of the dialog; unique among live legs."""
    call_ref: str | None
    """Value of ``X-Firmline-Call``: which call this leg taps."""
    side: str | None
    """Value of ``X-Firmline-Side``, lower case: ``caller`` or ``agent``."""
    headers: Mapping[str, str]
    """Every header of the INVITE by lower-case name; the first value when repeated."""
    remote_uri: str
    rate_hz: int

    def answer(self) -> None:
        """Send 200 and open media. Errors end the leg with ``on_leg_down``; they are never raised."""

    def reject(self, status: int, reason: str) -> None:
        """Refuse an offered leg with a 4xx-6xx final response."""

    def play(self, samples: Pcm) -> Playback:
        """Start sending ``samples`` (mono s16 at ``rate_hz``) now, after stopping what was playing."""

    def hang_up(self) -> None:
        """Send BYE. ``on_leg_down`` follows exactly once, even when the peer never answers."""


class LineEvents(Protocol):
    """What a Line tells its owner."""

    def on_leg_offered(self, leg: Leg) -> None:
        """An INVITE came in; the owner calls ``leg.answer()`` or ``leg.reject()``, at once or later."""

    def on_leg_up(self, leg: Leg) -> None:
        """Answered and acknowledged: media may flow."""

    def on_frames(self, leg: Leg, frames: Sequence[AudioFrame]) -> None:
        """Decoded audio in playout order, ``t_ms`` on ``ivr.clock.monotonic_ms``'s timeline, non-decreasing."""

    def on_dtmf(self, leg: Leg, digit: str, t_ms: int) -> None:
        """One key press (RFC 4733), reported once, at its end."""

    def on_leg_down(self, leg: Leg, reason: str) -> None:
        """The dialog is over, whoever ended it. Last callback for this leg."""

    def on_registration(self, status: LineStatus) -> None:
        """Registration changed."""


class Line(Protocol):
    """A SIP engine."""

    async def start(self, events: LineEvents) -> None:
        """Bind sockets and start registering.

        Raises :class:`ivr.errors.LineError` when a port is taken or the address is not ours; a registrar that is
        silent or refuses is *not* an error here: it is reported by ``on_registration`` and tried again with back-off.
        """

    async def stop(self) -> None:
        """BYE every leg, de-register, close every socket and thread; bounded by two seconds, never raises."""

    def register_again(self) -> None:
        """Register now instead of when it is due: the PBX has come back, perhaps without our binding."""

    def stand_back(self, why: str) -> None:
        """Take our binding away from the registrar until ``register_again``; ``why`` becomes the status' detail."""

    def status(self) -> LineStatus:
        """The present state, for pages and checks."""

    @property
    def local_address(self) -> tuple[str, int]:
        """The SIP address that is really bound (after ``start``): what peers dial."""
