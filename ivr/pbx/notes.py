"""What a call's ladder left, in a variable of the caller's channel: it goes where the call goes, and ends with it.

A Firmline on another machine that takes a call over finds it there without a common database. No words of anybody are
in it (``ivr.memory``), but whoever may read channel variables of the PBX may read where a call stands.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from ivr.errors import PbxError
from ivr.memory import Note, shortened
from ivr.pbx.ami import AmiClient
from ivr.pbx.watch import CallWatch

log = structlog.get_logger("firmline.pbx")

VARIABLE = "FIRMLINE_LADDER"
MAX_CHARS = 900
"""The manager interface refuses lines of more than 1,024 bytes."""


class ChannelNotes:
    """A :class:`ivr.memory.Keeper` on an Asterisk."""

    def __init__(self, ami: AmiClient, watch: CallWatch, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._ami, self._watch, self._spawn = ami, watch, spawn

    def key(self, call_ref: str) -> str:
        """What identifies the call for good: its Linkedid may change, its caller's channel does not."""
        call = self._watch.call(call_ref)
        return call_ref if call is None else call.caller

    def keep(self, key: str, note: Note) -> None:
        """See :class:`ivr.memory.Keeper`."""
        strikes = len(note.state.strikes)
        text = note.to_text()
        while len(text) > MAX_CHARS and strikes:
            strikes //= 2
            text = shortened(note, strikes).to_text()
        self._spawn(self._set(key, text))

    def forget(self, key: str) -> None:
        """See :class:`ivr.memory.Keeper`. A channel that is gone took its variables with it."""
        if self._watch.channel(key) is not None:
            self._spawn(self._set(key, ""))

    async def recall(self, key: str) -> str | None:
        """See :class:`ivr.memory.Keeper`.

        Raises:
            PbxError: the PBX did not answer.
        """
        channel = self._watch.channel(key)
        if channel is None:
            return None
        answer = await self._ami.action("Getvar", ("Channel", channel.name), ("Variable", VARIABLE))
        return answer.get("Value") or None

    async def _set(self, key: str, text: str) -> None:
        channel = self._watch.channel(key)
        if channel is None:
            return
        try:
            await self._ami.action("Setvar", ("Channel", channel.name), ("Variable", VARIABLE), ("Value", text))
        except PbxError as exc:  # the channel is gone, or the PBX: the journal's database has it too
            log.debug("note not kept at the PBX", error=str(exc))
