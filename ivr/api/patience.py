"""HTTP connections that say nothing are closed: uvicorn waits for the first request for ever.

One silent program (a port scan, a monitor that forgot to hang up) costs one descriptor, a few hundred of them the whole
service. A connection may be idle between its opening and the end of a request's headers for ``HEADER_TIMEOUT_S``;
between an answer and the next request uvicorn's own keep-alive time applies. Event streams have no such limit: their
headers are complete.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT_S = 10.0
"""The value of nginx and Apache is 60 and 20; whoever reaches us is on this machine or behind a proxy beside it."""


class PatientH11(H11Protocol):
    """uvicorn's HTTP/1.1 with an end to its patience."""

    header_timeout_s = HEADER_TIMEOUT_S
    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Opened: the first request is due."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Half a request's headers do not start the time anew."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget_headers()
        elif self.conn.trailing_data[0]:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed, by whomever."""
        self._forget_headers()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        if self._headers_due is None:
            self._headers_due = self.loop.call_later(self.header_timeout_s, self._give_up)

    def _forget_headers(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _give_up(self) -> None:
        self._headers_due = None
        self.transport.close()
