"""Which source a leg's media may come from: symmetric RTP with a preference for what signalling said.

An SDP address behind NAT is often not where packets come from, so the first valid source may stand in for it; but
whoever is not the leg's peer must not take the leg over. Hence ranks: a better-ranked source displaces a lesser one at
once, an equal or lesser one only after silence. (Asterisk's ``strictrtp`` solves the same problem with a probation.)
"""

from __future__ import annotations

Address = tuple[str, int]

SILENT_MS = 2000
"""A latched source that sent nothing for so long may be replaced by one of equal or lesser rank."""

_EXACT, _SAME_HOST, _OTHER, _MOVED_AWAY = 3, 2, 1, 0


class SourceLatch:
    """Accepts or refuses the source address of each valid packet."""

    def __init__(self) -> None:
        self._signalled: Address | None = None
        self._left: Address | None = None
        self._latched: Address | None = None
        self._rank = _OTHER
        self._heard_ms = self._since_ms = 0

    @property
    def source(self) -> Address | None:
        """The latched source, unless signalling has since moved media away from it: where to send to."""
        return self._latched if self._rank > _MOVED_AWAY else None

    def expect(self, signalled: Address) -> None:
        """The peer's SDP names this address; a changed one means that media moved, so the latch opens."""
        if signalled == self._signalled:
            return
        if self._signalled is not None:
            self._left = self._latched or self._signalled
        self._signalled, self._latched = signalled, None

    def accept(self, source: Address, now_ms: int) -> bool:
        """Whether a valid packet from ``source`` is the peer's; latches to it when it may."""
        if source == self._latched:
            self._heard_ms = now_ms
            if self._rank == _MOVED_AWAY and now_ms - self._since_ms >= SILENT_MS:
                self._rank = _OTHER  # nothing came from elsewhere: only the address in the SDP moved, behind a NAT
            return True
        rank = self._rank_of(source)
        if self._latched is not None and rank <= self._rank and now_ms - self._heard_ms < SILENT_MS:
            return False
        self._latched, self._rank, self._heard_ms, self._since_ms = source, rank, now_ms, now_ms
        return True

    def _rank_of(self, source: Address) -> int:
        signalled = self._signalled
        if signalled is not None and source == signalled:
            return _EXACT
        if source == self._left:
            return _MOVED_AWAY
        if signalled is not None and source[0] == signalled[0]:
            return _SAME_HOST
        return _OTHER
