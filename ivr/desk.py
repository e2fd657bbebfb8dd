"""What the API asks of the service besides its calls: how it stands, what was, and an agent's pause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date
from typing import Any

import structlog

from ivr.api.incidents import incidents_of
from ivr.api.recent import Recent
from ivr.database import Database
from ivr.pbx.base import PbxControl
from ivr.types import JournalRow, LiveRow

log = structlog.get_logger("firmline.api")


class ServiceDesk:
    """Implements ``ivr.api.base.Desk`` over the parts of the service; ``status`` is the service's own."""

    def __init__(self, database: Database, control: PbxControl, status: Callable[[], dict[str, Any]]) -> None:
        self._database, self._control, self._status = database, control, status
        self._recent = Recent()

    def hear(self, row: JournalRow | LiveRow) -> None:
        """One row as it happens; never raises."""
        self._recent.add(row)

    def status(self) -> dict[str, Any]:
        """How the service stands."""
        return self._status()

    def recent(self, call_id: str) -> list[JournalRow | LiveRow]:
        """The latest rows of a live call."""
        return self._recent.of(call_id)

    async def incidents(self, day: date) -> list[dict[str, Any]]:
        """What happened on ``day``; read in a thread, for a disk may be slow."""
        return await asyncio.to_thread(incidents_of, self._database, day)

    async def pause(self, ext: str, *, paused: bool, by: str) -> None:
        """Queue pause without a call."""
        await self._control.set_paused(ext, paused=paused, why=f"{'pause' if paused else 'unpause'} pressed by {by}")
        log.info("agent paused" if paused else "agent given back", agent=ext, by=by)
