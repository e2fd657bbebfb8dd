"""Whose calls are guarded: by the agent's endpoint, by the caller's queue, or by a word of the dialplan.

Endpoints are known from every event. Queue and variable must be asked for, once for each channel that could matter
(``Status``), and are kept here as a *mark* until that channel is gone: a caller who left the queue with an agent is
still the queue's caller.

| told by                                  | the marked channel is | its other party is                              |
|------------------------------------------|-----------------------|-------------------------------------------------|
| the channel runs ``Queue(<a name>,...)`` | the caller            | the agent, whoever answered                     |
| ``FIRMLINE=1`` (or ``caller``)           | the caller            | the agent                                       |
| ``FIRMLINE=agent``                       | the agent             | the caller                                      |

The variable counts on the channel that began the call alone (its Uniqueid is the Linkedid): with ``_`` or ``__`` before
its name the dialled channels inherit it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ivr.pbx.ami import AmiMessage

if TYPE_CHECKING:
    from ivr.pbx.channels import Channel

INTERNAL = ("Local/", "Message/", "AsyncGoto/", "Surrogate/", "CBAnn/", "CBRec/", "ConfBridge", "Announcer/")
"""Technologies that are nobody's phone."""
CALLER_WORDS, AGENT_WORDS = frozenset({"1", "yes", "true", "on", "caller"}), frozenset({"agent"})


@dataclass(frozen=True, slots=True)
class MarkOptions:
    """``queues``: shell patterns of names. ``variable``: the dialplan's; empty for none. ``<variable>_AGENT`` may hold
    the agent's extension."""

    queues: tuple[str, ...] = ()
    variable: str = ""

    def __bool__(self) -> bool:
        return bool(self.queues or self.variable)

    def asked(self) -> str:
        """For ``Status``: the variables to tell."""
        return f"{self.variable},{self.variable}_AGENT" if self.variable else ""


@dataclass(frozen=True, slots=True)
class Mark:
    """What was found on a channel. ``agent_ext`` empty: the agent's endpoint is their extension."""

    is_agent: bool
    agent_ext: str = ""


def mark_of(row: AmiMessage, options: MarkOptions) -> Mark | None:
    """The mark in one row of ``Status``, if any."""
    told = (value.partition("=") for key, value in row.fields if key.lower() == "variable")
    # Asterisk's word for a variable that is not set.
    variables = {name: "" if value.strip() == "(null)" else value.strip() for name, _, value in told}
    word = variables.get(options.variable, "").lower()
    if options.variable and row.get("Uniqueid") == row.get("Linkedid") and word in CALLER_WORDS | AGENT_WORDS:
        return Mark(word in AGENT_WORDS, variables.get(f"{options.variable}_AGENT", ""))
    queue = row.get("Data").split(",")[0] if row.get("Application").lower() == "queue" else ""
    return Mark(False) if matches(queue, options.queues) else None


class Guarded:
    """Who is an agent, and who is a caller."""

    def __init__(self, us: str, agents: Sequence[str], colleagues: Sequence[str]) -> None:
        self._us, self._agents, self._colleagues = us, tuple(agents), tuple(colleagues)
        self.marks: dict[str, Mark] = {}

    def could_matter(self, channel: Channel) -> bool:
        """Whether a mark on this channel would change anything."""
        return self._is_phone(channel) and not self._named_agent(channel) and channel.uniqueid not in self.marks

    def is_caller(self, channel: Channel) -> bool:
        """Whether a call may be theirs."""
        mark = self.marks.get(channel.uniqueid)
        if mark is not None:
            return not mark.is_agent
        return self._is_phone(channel) and not self._named_agent(channel) and not self._colleague(channel)

    def agents_of(self, caller: Channel, channels: Iterable[Channel]) -> list[Channel]:
        """The guarded agents among ``channels`` for this caller."""
        own = self.marks.get(caller.uniqueid)
        return [each for each in channels if each is not caller and self._is_agent(each, own is not None)]

    def ext_of(self, caller: Channel, agent: Channel) -> str:
        """The agent's extension."""
        for uniqueid in (agent.uniqueid, caller.uniqueid):
            mark = self.marks.get(uniqueid)
            if mark is not None and mark.agent_ext:
                return mark.agent_ext
        return agent.endpoint

    def _is_agent(self, channel: Channel, of_marked_caller: bool) -> bool:
        if not self._is_phone(channel):
            return False
        mark = self.marks.get(channel.uniqueid)
        if mark is not None:
            return mark.is_agent
        return self._named_agent(channel) or (of_marked_caller and not self._colleague(channel))

    def _is_phone(self, channel: Channel) -> bool:
        return channel.endpoint != self._us and not channel.name.startswith(INTERNAL)

    def _named_agent(self, channel: Channel) -> bool:
        return matches(channel.endpoint, self._agents)

    def _colleague(self, channel: Channel) -> bool:
        return matches(channel.endpoint, self._colleagues)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether ``name`` is one of the shell ``patterns``; an empty one never is."""
    return bool(name) and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
