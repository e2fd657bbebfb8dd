"""UDP sockets for RTP out of a configured range: even ports, the odd one above each left for RTCP (RFC 3550, 11)."""

from __future__ import annotations

import errno
import secrets
import socket

from ivr.errors import LineError

_EXPEDITED_FORWARDING = 46 << 2
"""DSCP EF in the TOS octet: voice, as RFC 4594 section 4.1 marks it."""

_EPHEMERAL_TRIES = 64


class RtpPorts:
    """Hands out bound sockets, moving through the range so that a freed port rests before it is used again."""

    def __init__(self, local_ip: str, low: int, high: int) -> None:
        self._local_ip = local_ip
        self._even = range(low + low % 2, high, 2) if low else range(0)
        self._ephemeral = low == 0
        self._next = secrets.randbelow(len(self._even)) if self._even else 0

    def bind(self) -> socket.socket:
        """A non-blocking socket on a free even port.

        Raises:
            LineError: the range is used up, or ``local_ip`` is not an address of this machine.
        """
        if self._ephemeral:
            return self._bind_ephemeral()
        for _ in range(len(self._even)):
            port = self._even[self._next]
            self._next = (self._next + 1) % len(self._even)
            bound = self._try(port)
            if bound is not None:
                return bound
        raise LineError(
            f"every RTP port in use: {len(self._even)} even ports in {self._even.start}-{self._even.stop}; "
            "widen the RTP port range or allow fewer legs"
        )

    def _bind_ephemeral(self) -> socket.socket:
        odd: list[socket.socket] = []
        try:
            for _ in range(_EPHEMERAL_TRIES):
                bound = self._try(0)
                if bound is None:
                    break
                if bound.getsockname()[1] % 2 == 0:
                    return bound
                odd.append(bound)  # kept until the end, else the system offers it again
        finally:
            for each in odd:
                each.close()
        raise LineError("the system has no free even UDP port for RTP")

    def _try(self, port: int) -> socket.socket | None:
        family = socket.AF_INET6 if ":" in self._local_ip else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            raise LineError(f"no more sockets for RTP: {error.strerror}") from error
        try:
            sock.bind((self._local_ip, port))
        except OSError as error:
            sock.close()
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return None
            raise LineError(f"cannot bind RTP to {self._local_ip}:{port}: {error.strerror}") from error
        sock.setblocking(False)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _EXPEDITED_FORWARDING)
        return sock
