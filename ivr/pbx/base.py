"""What a PBX does for us: the one interface behind ``direct`` (HTTP control), Asterisk and whatever comes next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ivr.errors import PbxError


@dataclass(frozen=True, slots=True)
class CallRef:
    """Names a human call to the PBX: ``call_ref`` is the PBX's own id (``X-Firmline-Call``)."""

    call_ref: str
    agent_ext: str | None = None


class PbxControl(Protocol):
    """Acts on the human call. Each method returns once the PBX has *confirmed*; else raises ``ivr.errors.PbxError``."""

    async def start(self) -> None:
        """Open what is needed; a PBX that is down is not an error here, it is reported by ``problem``."""

    async def stop(self) -> None:
        """Close everything; never raises."""

    async def transfer(self, call: CallRef, target: str, why: str) -> None:
        """Move the caller to ``target`` (an extension); the agent is released."""

    async def hang_up(self, call: CallRef, why: str) -> None:
        """End the human call for both parties."""

    async def pause_agent(self, call: CallRef, why: str) -> None:
        """Take the agent out of the queue for a while, where the PBX has one."""

    async def set_paused(self, ext: str, *, paused: bool, why: str) -> None:
        """As ``pause_agent``, without a call; or give the agent back to their queues now."""

    def problem(self) -> str | None:
        """Why the PBX cannot be used now, in one sentence with the fix, or ``None``."""


class CallerGone(PbxError):
    """The caller has hung up: there is nobody left to do anything for."""


class NobodyThere(PbxError):
    """Nobody that a caller could be sent to can be reached; they were not moved."""


class GuestHost(Protocol):
    """A PBX that can bring the caller alone to our line and send them on again. A guest is known by an id of ours."""

    transfer_to: str
    """The supervisor's extension."""
    on_guest_digit: Callable[[str, str], None]
    """Told guest and key when the PBX itself hears the caller press one."""

    async def bring(self, call: CallRef, guest_id: str, headers: Mapping[str, str]) -> None:
        """Take the caller out of the call and put them together with us, on a new leg that carries ``headers``."""

    async def wake(self, call: CallRef, guest_id: str, headers: Mapping[str, str]) -> None:
        """Put a silent leg of ours into the call, so that a prompt is heard though the other party sends nothing."""

    async def keep(self, guest_id: str) -> None:
        """We are still there: the PBX takes a guest back to the agent by itself after a while without this."""

    async def send_on(self, call: CallRef, *, agent_first: bool) -> str:
        """Send the caller to the agent or a supervisor, else to the other; returns the extension that answered."""

    async def dismiss(self, call: CallRef) -> None:
        """Hang up on the caller."""

    def let_go(self, call: CallRef, guest_id: str) -> None:
        """The stay is over, however it ended."""
