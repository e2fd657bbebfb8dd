"""Where a call stands, by its tap legs; the human call itself lives in the PBX and needs none of them.

::

    WAITING --caller leg--> LIVE <--caller leg-- DEAF
       |                     |  \\--caller leg gone, agent's still here--> DEAF
       +--no leg left--> CLOSING <--no leg left--+
                            |--a leg again--> LIVE / WAITING
                            +--linger over--> ENDED

CLOSING exists because a PBX may replace our legs within one call (a transfer, a park): rung and strikes must survive
that. An absent cell means: keep the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ivr.listener import Listener
from policies.types import Side


class Phase(StrEnum):
    """Where a call stands, by its tap legs."""

    WAITING = "waiting"
    LIVE = "live"
    DEAF = "deaf"
    CLOSING = "closing"
    ENDED = "ended"


class Happening(StrEnum):
    """What moves a call from phase to phase."""

    CALLER_UP = "caller_up"
    AGENT_UP = "agent_up"
    CALLER_LOST = "caller_lost"
    ALL_LOST = "all_lost"
    LINGER_OVER = "linger_over"
    CLOSED = "closed"


TABLE: Mapping[tuple[Phase, Happening], Phase] = {
    (Phase.WAITING, Happening.CALLER_UP): Phase.LIVE,
    (Phase.WAITING, Happening.ALL_LOST): Phase.CLOSING,
    (Phase.WAITING, Happening.CLOSED): Phase.ENDED,
    (Phase.LIVE, Happening.CALLER_LOST): Phase.DEAF,
    (Phase.LIVE, Happening.ALL_LOST): Phase.CLOSING,
    (Phase.LIVE, Happening.CLOSED): Phase.ENDED,
    (Phase.DEAF, Happening.CALLER_UP): Phase.LIVE,
    (Phase.DEAF, Happening.ALL_LOST): Phase.CLOSING,
    (Phase.DEAF, Happening.CLOSED): Phase.ENDED,
    (Phase.CLOSING, Happening.CALLER_UP): Phase.LIVE,
    (Phase.CLOSING, Happening.AGENT_UP): Phase.WAITING,
    (Phase.CLOSING, Happening.LINGER_OVER): Phase.ENDED,
    (Phase.CLOSING, Happening.CLOSED): Phase.ENDED,
}


@dataclass(slots=True)
class TapLeg:
    """One leg that hears one party, as far as its call knows it. Times on our clock."""

    id: str
    side: Side
    listener: Listener
    up_ms: int
    last_frame_ms: int | None = None
    silence_told: bool = False
    talking: bool = False
    raised: bool = False
    """Louder than this party usually is."""
