"""Tells systemd how we are (sd_notify(3)): ready, a status line, alive, stopping. Without systemd nothing happens.

The keep-alive is sent from the event loop, so it stops when the loop does; systemd then restarts us, and the human
calls notice nothing. Twenty lines of a datagram socket; the libraries for it are unkept or bind to libsystemd.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping


class Systemd:
    """Our side of ``Type=notify``; ``environ`` holds ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC`` if systemd started us."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]  # an abstract socket (unix(7))
        self._every_s = _interval_s(environ)
        self._timer: asyncio.TimerHandle | None = None

    def ready(self, status: str) -> None:
        """Start-up is over; begin to say that the loop turns. Call it on the loop."""
        self._tell("READY=1", f"STATUS={status}")
        if self._every_s:
            self._alive()

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._tell(f"STATUS={text}")

    def stopping(self) -> None:
        """Shutting down on purpose."""
        if self._timer is not None:
            self._timer.cancel()
        self._tell("STOPPING=1")

    def _alive(self) -> None:
        self._tell("WATCHDOG=1")
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._alive)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), self._address)
        except OSError:
            return  # systemd is reloading or gone: nobody to tell, and no reason to stop


def _interval_s(environ: Mapping[str, str]) -> float:
    """A third of the time that systemd allows; 0 when it does not watch this process (sd_watchdog_enabled(3))."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
    watched = microseconds.isdigit() and pid == str(os.getpid())
    return int(microseconds) / 3_000_000 if watched else 0.0
