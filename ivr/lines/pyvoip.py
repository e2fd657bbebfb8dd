"""The default SIP engine as a ``Line``: opens and closes what ``pyvoip_classes`` runs on, and registers."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
import socket
from collections import Counter

import structlog

from ivr.errors import LineError
from ivr.lines.base import LineEvents, LineOptions, LineStatus, RegistrationState
from ivr.lines.pyvoip_classes import Client, Phone
from ivr.lines.registration import Registrar, Registration
from ivr.lines.sipmessage import Address
from ivr.lines.transactions import Timers
from ivr.rtp import MediaPlane

log = structlog.get_logger("firmline.sip")

RECEIVE_BUFFER_BYTES = 1 << 20


class PyvoipLine:
    """The ``Line`` of ``ivr.lines.base`` on pyVoIP. ``counters`` are for metrics; keys appear when first counted."""

    def __init__(self, options: LineOptions, *, timers: Timers | None = None) -> None:
        self._options = options
        self._timers = timers or Timers()
        self.counters: Counter[str] = Counter()
        self._phone: Phone | None = None
        self._media: MediaPlane | None = None
        self._events: LineEvents | None = None
        self._bound: Address = (options.local_ip, options.local_port)

    def media_totals(self) -> dict[str, int]:
        """Counters of the media plane, for metrics; empty while the line is down."""
        return {} if self._media is None else self._media.totals()

    @property
    def media_ports(self) -> int:
        """RTP ports in use now."""
        return 0 if self._media is None else self._media.ports_in_use

    async def start(self, events: LineEvents) -> None:
        """Bind the SIP socket, start the media plane, begin to register.

        Raises:
            LineError: port taken, address not ours, or a user name that cannot stand in a SIP URI.
        """
        if self._phone is not None:
            raise LineError("the line is already started")
        options, loop = self._options, asyncio.get_running_loop()
        if not re.fullmatch(r"[A-Za-z0-9\-_.!~*'()&=+$,;?/%]+", options.username):
            raise LineError("line.username has a character that cannot stand in a SIP URI; use letters, digits, - _ .")
        sock = _bind(options.local_ip, options.local_port)
        media: MediaPlane | None = None
        try:
            advertised = _advertised_ip(options)
            self._bound = (advertised, sock.getsockname()[1])
            media = MediaPlane(options.local_ip, options.rtp_port_low, options.rtp_port_high)
            media.start(loop)
            phone = Phone(options, lambda phone: Client(phone, options, self._timers, self.counters))
            phone.sip.open(loop, events, media, self._bound)
            await loop.create_datagram_endpoint(lambda: phone.sip, sock=sock)
        except BaseException:
            sock.close()
            if media is not None:
                media.stop()
            raise
        self._phone, self._media, self._events = phone, media, events
        self._register(loop, phone)

    def _register(self, loop: asyncio.AbstractEventLoop, phone: Phone) -> None:
        options, sip = self._options, phone.sip
        if not options.server:
            loop.call_soon(self._tell_registration)
            return
        registrar = Registrar(
            host=options.server,
            port=options.server_port,
            username=options.username,
            auth_user=options.auth_user,
            password=options.password,
            expires_s=options.expires_s,
            new_branch=sip.gen_branch,
            next_cseq=sip.registerCounter.next,
        )
        sip.registration = Registration(
            loop, self._timers, registrar, sip.client_transactions, self._bound, self._tell_registration
        )
        sip.registration.start()

    async def stop(self) -> None:
        """BYE every leg, de-register, close everything; never raises and never takes two seconds."""
        phone, media = self._phone, self._media
        if phone is None or media is None:
            return
        self._phone = self._media = None
        sip = phone.sip
        try:
            for call in list(phone.calls.values()):
                call.hang_up()
                call.bye_now()
            if sip.registration is not None:
                sip.registration.stop()
            async with asyncio.timeout(self._timers.stop_ms / 1000):
                await sip.client_transactions.settled()
        except TimeoutError:
            log.warning("stopped_without_answers", open=len(phone.calls))
        except Exception:
            log.exception("stop_fault")
        finally:
            sip.close()
            media.stop()
        # One turn of the loop: the queued on_leg_down and the closing of the socket come before we return.
        turn = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(turn.set_result, None)
        await turn

    def register_again(self) -> None:
        """Register now instead of when it is due; without a registrar, or before ``start``, nothing."""
        if self._phone is not None and self._phone.sip.registration is not None:
            self._phone.sip.registration.again()

    def stand_back(self, why: str) -> None:
        """Give the registration up until ``register_again``; legs stay, and peers may still dial us directly."""
        if self._phone is not None and self._phone.sip.registration is not None:
            self._phone.sip.registration.stop(why)

    def status(self) -> LineStatus:
        """The present state."""
        phone = self._phone
        if phone is None:
            return LineStatus(RegistrationState.UNREGISTERED, "the line is not started", 0)
        registration = phone.sip.registration
        if registration is None:
            host, port = self._bound
            detail = f"no registrar: peers dial sip:{self._options.username}@{host}:{port}"
            return LineStatus(RegistrationState.REGISTERED, detail, len(phone.live))
        return LineStatus(registration.state, registration.detail, len(phone.live))

    @property
    def local_address(self) -> tuple[str, int]:
        """What peers dial, once started."""
        return self._bound

    def _tell_registration(self) -> None:
        if self._phone is None or self._events is None:
            return
        try:
            self._events.on_registration(self.status())
        except Exception:
            self.counters["owner_faults"] += 1
            log.exception("owner_fault")


def _bind(ip: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.bind((ip, port))
    except OSError as exc:
        sock.close()
        said = {
            errno.EADDRINUSE: f"SIP port {port}/udp on {ip} is taken by another program; "
            f"stop it (`ss -lunp sport = :{port}` names it) or set line.local_port to a free port",
            errno.EADDRNOTAVAIL: f"{ip} is not an address of this machine; set line.local_ip to one (`ip -4 addr`)",
            errno.EACCES: f"SIP port {port}/udp needs privileges; set line.local_port to 1024 or higher",
        }.get(exc.errno or 0, f"SIP port {port}/udp on {ip} cannot be opened: {exc.strerror}")
        raise LineError(said) from exc
    return sock


def _advertised_ip(options: LineOptions) -> str:
    """The address to put into Contact and session descriptions when we listen on all of them."""
    if options.local_ip != "0.0.0.0":
        return options.local_ip
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing: it only asks the kernel for a route.
            probe.connect(("192.0.2.1" if not _is_ipv4(options.server) else options.server, 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
