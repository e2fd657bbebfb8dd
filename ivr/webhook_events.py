"""Journal rows as webhook messages: which row is which event, and what of it leaves the house. Pure.

Message form (Standard Webhooks): ``{"type", "timestamp", "data"}``. ``data`` names the call and holds the row's own
data with numbers masked; words are in it only for an endpoint that asks for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ivr.incidents import CallStory, is_safeguard
from ivr.mask import clean
from ivr.types import JournalEvent, JournalRow

HookEvent = Literal[
    "rung",
    "action_done",
    "action_failed",
    "callback_asked",
    "complaint_asked",
    "safeguard",
    "incident",
    "call_ended",
]
HOOK_EVENTS: tuple[HookEvent, ...] = get_args(HookEvent)
URGENT: HookEvent = "safeguard"
MAX_STORIES = 20_000
"""Calls followed at once: far more than a process can hear; a bound in case call ends go missing."""

_ROWS: dict[JournalEvent, HookEvent] = {
    JournalEvent.RUNG: "rung",
    JournalEvent.ACTION_DONE: "action_done",
    JournalEvent.ACTION_FAILED: "action_failed",
}
_ASKED: tuple[HookEvent, ...] = ("callback_asked", "complaint_asked")
"""Choices of the menu: signals that leave somebody with something to do."""


@dataclass(frozen=True, slots=True)
class HookMessage:
    """One event on its way out; ``body`` for endpoints with and without words is made once each."""

    event: HookEvent
    at: str
    data: dict[str, Any]

    def body(self, *, words: bool) -> str:
        """The JSON text that is signed and sent."""
        return message_body(f"call.{'ended' if self.event == 'call_ended' else self.event}", self.at, self.data, words)


def message_body(kind: str, at: str, data: dict[str, Any], words: bool) -> str:
    """``kind`` is the message's ``type``, such as ``call.rung``; ``at`` is ISO 8601."""
    return json.dumps({"type": kind, "timestamp": at, "data": clean(data, store_words=words)}, ensure_ascii=False)


class HookEvents:
    """Follows the live calls and says what of each row is worth telling."""

    def __init__(self) -> None:
        self._stories: dict[str, CallStory] = {}

    def hear(self, row: JournalRow) -> Iterator[HookMessage]:
        """The messages that ``row`` gives rise to, in order."""
        story = self._stories.get(row.call_id)
        if story is None:
            if len(self._stories) >= MAX_STORIES:
                self._stories.pop(next(iter(self._stories)))
            story = self._stories[row.call_id] = CallStory(row.call_id)
        first = is_safeguard(row) and not story.safeguard
        story.hear(row)
        about = {
            "call_id": row.call_id,
            "call_ref": story.call_ref,
            "agent_ext": story.agent_ext,
            "queue": story.queue,
            "t_ms": row.t_ms,
        }
        if first:
            yield HookMessage("safeguard", row.at, {**about, **row.data})
        elif (event := _ROWS.get(row.event)) is not None:
            yield HookMessage(event, row.at, {**about, **row.data})
        elif row.event is JournalEvent.SIGNAL and row.data.get("action") in _ASKED:
            yield HookMessage(_ASKED[_ASKED.index(row.data["action"])], row.at, {**about, **row.data})
        elif row.event is JournalEvent.CALL_ENDED:
            del self._stories[row.call_id]
            if story.is_incident:
                yield HookMessage("incident", row.at, story.summary())
            yield HookMessage("call_ended", row.at, story.summary())
