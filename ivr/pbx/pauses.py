"""Agents kept out of their queues for a while, and given back in time, whatever happens to us meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from ivr.errors import PbxError
from ivr.pbx.ami import AmiClient, AmiMessage

log = structlog.get_logger("firmline.pbx")

PAUSE_REASON = "Firmline: a minute after a hard call"


class QueuePauses:
    """Pauses at one PBX. What an earlier run paused and never gave back is known by its reason."""

    def __init__(self, ami: AmiClient, pause_ms: int, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._ami, self._pause_ms, self._spawn = ami, pause_ms, spawn
        self._paused: dict[tuple[str, str], asyncio.TimerHandle] = {}

    async def pause(self, agent: str) -> None:
        """Pause the agent in every queue they are a member of, for ``pause_ms``; queues already paused stay so.

        Raises:
            PbxError: the agent is in no queue, or the pause did not take.
        """
        members = [row for row in await self._members() if _is_member(row, agent)]
        if not members:
            raise PbxError(f"pause: {agent or 'the agent'} is a member of no queue")
        for row in (row for row in members if row.get("Paused") != "1"):
            key = (row.get("Queue"), row.get("Location"))
            await self._set(*key, paused=True)
            self._give_back_later(*key)
        still = [row for row in await self._members() if _is_member(row, agent) and row.get("Paused") != "1"]
        if still:
            raise PbxError(f"pause: {agent} is still not paused in queue {still[0].get('Queue')}")

    async def unpause(self, agent: str) -> None:
        """Put the agent back into every queue where they are paused, by whomever: it is their own wish.

        Raises:
            PbxError: refused.
        """
        for row in await self._members():
            if _is_member(row, agent) and row.get("Paused") == "1":
                self._forget(row.get("Queue"), row.get("Location"))
                await self._set(row.get("Queue"), row.get("Location"), paused=False)

    async def adopt(self) -> None:
        """Agents that an earlier run of ours paused and never gave back are given back in time."""
        try:
            members = await self._members()
        except PbxError as exc:  # a PBX without queues
            log.debug("queues not read", error=str(exc))
            return
        for row in members:
            if row.get("Paused") == "1" and row.get("PausedReason") == PAUSE_REASON:
                self._give_back_later(row.get("Queue"), row.get("Location"))

    async def give_all_back(self) -> None:
        """We stop: nobody stays paused for it. Never raises."""
        for queue, interface in list(self._paused):
            try:
                await self._over(queue, interface)
            except PbxError as exc:
                log.warning("an agent stays paused", interface=interface, error=str(exc))

    def _give_back_later(self, queue: str, interface: str) -> None:
        if (queue, interface) not in self._paused:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self._pause_ms / 1000, lambda: self._spawn(self._over(queue, interface)))
            self._paused[queue, interface] = timer

    async def _over(self, queue: str, interface: str) -> None:
        if self._forget(queue, interface):
            await self._set(queue, interface, paused=False)

    def _forget(self, queue: str, interface: str) -> bool:
        timer = self._paused.pop((queue, interface), None)
        if timer is not None:
            timer.cancel()
        return timer is not None

    async def _set(self, queue: str, interface: str, *, paused: bool) -> None:
        await self._ami.action(
            "QueuePause",
            ("Queue", queue),
            ("Interface", interface),
            ("Paused", "true" if paused else "false"),
            ("Reason", PAUSE_REASON if paused else ""),
        )

    async def _members(self) -> list[AmiMessage]:
        return [row for row in await self._ami.event_list("QueueStatus") if row.event == "QueueMember"]


def _is_member(row: AmiMessage, agent: str) -> bool:
    device = f"PJSIP/{agent}"
    return bool(agent) and device in (row.get("StateInterface"), row.get("Location"))
