"""What the watch over an Asterisk knows of a call, and what it wants done."""

from __future__ import annotations

from dataclasses import dataclass, field

from policies.types import Side

# --- what to do -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlaceTap:
    """Originate a ``ChanSpy`` of ``channel`` to ourselves; ``tap_id`` becomes the tap channel's Uniqueid.

    ``action_id`` is this attempt's alone: every manager user is told how it ended. ``was_elsewhere``: another Firmline
    had the call, and may have moved the caller on for good.
    """

    tap_id: str
    call_ref: str
    side: Side
    channel: str
    agent_ext: str
    action_id: str = ""
    was_elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class DropTap:
    """Hang up one tap leg; ``channel`` is its name."""

    channel: str
    why: str


@dataclass(frozen=True, slots=True)
class CallOver:
    """The human call is over: nothing of it needs to be remembered."""

    call_ref: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """Another Firmline is beside this call: it is theirs."""

    call_ref: str
    by: str


Command = PlaceTap | DropTap | CallOver | Claimed


# --- what is known ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tap:
    """One tap of a call."""

    tap_id: str = ""
    """Empty: no tap."""
    channel: str = ""
    bridge: str = ""
    since_ms: int = 0
    dropping: bool = False
    action_id: str = ""
    made: str = ""
    """Its channel's name once it is there: then the claim is ours."""
    failures: int = 0
    not_before_ms: int = 0


@dataclass(slots=True)
class WatchedCall:
    """One call that was tapped at least once; ``caller`` is the Uniqueid of the caller's channel."""

    ref: str
    caller: str
    agent: str = ""
    agent_ext: str = ""
    taps: dict[Side, Tap] = field(default_factory=lambda: {Side.CALLER: Tap(), Side.AGENT: Tap()})
    apart_since_ms: int | None = None
    held: bool = False
    """We are moving the caller ourselves: leave the taps as they are."""
    handed_on: bool = False
    """We have moved the caller: whoever speaks with them now is not our business."""
    owner: str = ""
    """Endpoint of the Firmline that tapped the caller last."""
    wanted_since_ms: int | None = None
    """Since when nobody taps the caller although somebody should."""

    @property
    def wanted(self) -> bool:
        """Whether it should be tapped now."""
        return not self.held and not self.handed_on and self.apart_since_ms is None

    @property
    def tapped(self) -> bool:
        """Whether a tap is there, or on its way."""
        return any(tap.tap_id and not tap.dropping for tap in self.taps.values())
