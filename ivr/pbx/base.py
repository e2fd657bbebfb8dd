"""What a PBX does for us: the one interface behind ``direct`` (HTTP control), Asterisk and whatever comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


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

    def problem(self) -> str | None:
        """Why the PBX cannot be used now, in one sentence with the fix, or ``None``."""
