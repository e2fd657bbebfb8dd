"""Which Firmline has which call, when several watch one PBX. Sans-I/O: what the PBX shows and the time go in.

**The claim** is the tap on the caller's channel itself. Its Uniqueid is made of the caller's Uniqueid alone
(``firmline-tap-<caller>-caller``), and Asterisk refuses a second channel of the same Uniqueid while it holds the lock
on its list of channels: of two Firmlines that ask at once, one gets the leg and the other a failed ``Originate``. So at
no moment can two of them be beside one call, and no third place has to agree with the PBX about who is.

**The lease.** A killed process leaves its legs behind; the PBX keeps them up. So each Firmline beats: it counts up a
global variable of its own (``Setvar``, class ``call``, which it needs anyway), and reads the variables of the others
(``Getvar``), who have written their names down in another one or whose taps it has seen. Whose beat stands still for
``LEASE_MS`` is dead: its legs are hung up, which frees the claims, and whoever comes first takes them. A process that
was only asleep finds its legs gone and the claims taken.

**Who comes first.** Where others are known to be alive, the one with the highest hash of (endpoint, call) taps a new
call at once and the others leave it ``DEFER_MS``; a call that somebody had before is left to them for ``STICKY_MS``.
Both only spread the work and keep the PBX's log clean: right and wrong do not depend on them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

BEAT_MS = 1_000
LEASE_MS = 3_000
"""Three beats: one may be late on a busy machine, two may be lost with a connection that is made anew."""
DEFER_MS = 500
STICKY_MS = 1_500
FORGET_MS = 60_000
"""Whose beat has stood still that long, and who has no taps, is no longer asked for."""


@dataclass(slots=True)
class _Peer:
    beat: str
    changed_ms: int
    alive: bool = True


class Claims:
    """What one Firmline knows of the others. ``us``: our own endpoint."""

    def __init__(self, us: str) -> None:
        self._us = us
        self._peers: dict[str, _Peer] = {}
        self.taken: dict[str, tuple[str, str]] = {}
        """Tap legs that are there and are not this process's: Uniqueid to endpoint (our own: of an earlier run) and
        channel. A leg is hung up by its channel's name alone: the next one of the same Uniqueid may be another's."""

    def saw(self, uniqueid: str, endpoint: str, channel: str, now_ms: int) -> None:
        """A tap of somebody else is there; they are believed alive until their beat says otherwise."""
        self.taken[uniqueid] = endpoint, channel
        if endpoint != self._us and (endpoint not in self._peers or not self._peers[endpoint].alive):
            self._peers[endpoint] = _Peer("", now_ms)

    def heard_of(self, endpoint: str, now_ms: int) -> None:
        """Somebody wrote that name down at the PBX, perhaps long ago: their beat tells."""
        if endpoint != self._us and endpoint not in self._peers:
            self._peers[endpoint] = _Peer("", now_ms, alive=False)

    def gone(self, uniqueid: str) -> None:
        """A channel is gone."""
        self.taken.pop(uniqueid, None)

    def beat(self, endpoint: str, value: str, now_ms: int) -> None:
        """What the PBX holds as the beat of ``endpoint`` now."""
        peer = self._peers.get(endpoint)
        if peer is not None and value != peer.beat:
            # The first value read may be years old; the second one is not.
            self._peers[endpoint] = _Peer(value, now_ms, alive=peer.alive or peer.beat != "")

    def alive(self, endpoint: str) -> bool:
        """Whether that Firmline is believed to be there."""
        return endpoint in self._peers and self._peers[endpoint].alive

    def presumed_alive(self, endpoint: str, now_ms: int) -> bool:
        """As ``alive``, and of one never heard of yes, until its beat was waited for."""
        if endpoint not in self._peers:
            self._peers[endpoint] = _Peer("", now_ms)
        return self._peers[endpoint].alive

    @property
    def alone(self) -> bool:
        """Nobody else is known to be there."""
        return not any(peer.alive for peer in self._peers.values())

    def to_ask(self) -> list[str]:
        """Whose beat is worth reading."""
        return list(self._peers)

    def died(self, now_ms: int) -> list[str]:
        """Those whose lease has run out since this was asked last."""
        dead = [e for e, peer in self._peers.items() if peer.alive and now_ms - peer.changed_ms >= LEASE_MS]
        for endpoint in dead:
            self._peers[endpoint].alive = False
        return dead

    def forget(self, now_ms: int) -> list[str]:
        """Those who have been still for so long that nobody need look any more."""
        forgotten = [
            endpoint
            for endpoint, peer in self._peers.items()
            if not peer.alive and now_ms - peer.changed_ms >= FORGET_MS and not self.taps_of(endpoint)
        ]
        for endpoint in forgotten:
            del self._peers[endpoint]
        return forgotten

    def taps_of(self, endpoint: str) -> list[str]:
        """Channels of the taps that endpoint has."""
        return [channel for owner, channel in self.taken.values() if owner == endpoint]

    def owner(self, uniqueid: str) -> str:
        """Whose that tap is; empty for nobody else's."""
        return self.taken.get(uniqueid, ("", ""))[0]

    def wait_ms(self, caller: str, owner: str) -> int:
        """How long to leave a call that wants to be tapped to others; ``owner`` had it last (empty: nobody)."""
        if owner:
            return STICKY_MS if owner != self._us and self.alive(owner) else 0
        others = [endpoint for endpoint, peer in self._peers.items() if peer.alive]
        first = max((self._us, *others), key=lambda endpoint: _weight(endpoint, caller))
        return 0 if first == self._us else DEFER_MS


def _weight(endpoint: str, caller: str) -> bytes:
    return hashlib.sha256(f"{endpoint}\n{caller}".encode()).digest()
