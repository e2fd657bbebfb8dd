"""What is known of a call before anybody has spoken: whose it is, which queue it came by, from which number.

Every attachment tells it the same way, by optional headers of the first tap leg (``X-Firmline-Agent``, ``-Queue``,
``-Number``), so that nothing behind the line needs to know which PBX there is. What cannot be used is left out: a call
without these facts is heard and judged like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ivr.lines.base import HEADER_AGENT, HEADER_NUMBER, HEADER_QUEUE

MAX_AGENT_CHARS = 64
MAX_QUEUE_CHARS = 80
"""Asterisk's own bound on a queue's name (``AST_MAX_QUEUENAME`` is 80 with its end)."""
MAX_NUMBER_CHARS = 40
"""E.164 has 15 digits; a SIP user part may stand in its place."""
LAST_DIGITS = 4

_QUEUE = re.compile(r"[0-9A-Za-z_.+*#@-]+")
_NUMBER = re.compile(r"\+?[0-9A-Za-z_.*#-]+")
_SEPARATORS = re.compile(r"[\s()/-]+")
_NO_NUMBER = frozenset({"anonymous", "unknown", "restricted", "unavailable", "private", "withheld", "<unknown>", "s"})
"""What exchanges write where a caller keeps their number to themselves."""


class NumberKept(StrEnum):
    """How much of the caller's number is remembered (``journal.caller_number``)."""

    FULL = "full"
    LAST4 = "last4"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class CallFacts:
    """Facts of one call; ``None`` where the PBX did not say or what it said cannot be used."""

    agent_ext: str | None = None
    queue: str | None = None
    caller_number: str | None = None

    def headers(self) -> dict[str, str]:
        """The headers that tell these facts to :func:`from_headers`."""
        told = {HEADER_AGENT: self.agent_ext, HEADER_QUEUE: self.queue, HEADER_NUMBER: self.caller_number}
        return {name: value for name, value in told.items() if value}


def from_headers(headers: Mapping[str, str]) -> CallFacts:
    """The facts in a leg's ``headers`` (by lower-case name)."""
    agent = (headers.get(HEADER_AGENT.lower()) or "").strip()[:MAX_AGENT_CHARS] or None
    queue = queue_name(headers.get(HEADER_QUEUE.lower()) or "")
    return CallFacts(agent, queue, phone_number(headers.get(HEADER_NUMBER.lower()) or ""))


def queue_name(text: str) -> str | None:
    """``text`` as the name of a queue, or ``None``: up to 80 of the characters that dialplans allow in one."""
    name = text.strip()
    return name if len(name) <= MAX_QUEUE_CHARS and _QUEUE.fullmatch(name) else None


def phone_number(text: str) -> str | None:
    """``text`` as a number that can be dialled, separators taken out; ``None`` for none, withheld or unusable ones."""
    if text.strip().lower() in _NO_NUMBER:
        return None
    number = _SEPARATORS.sub("", text)
    return number if len(number) <= MAX_NUMBER_CHARS and _NUMBER.fullmatch(number) else None


def number_kept(number: str | None, kept: NumberKept) -> str | None:
    """What of a caller's ``number`` may be remembered: ``***4567`` with the last digits; nothing of a short one."""
    if number is None or kept is NumberKept.NONE:
        return None
    if kept is NumberKept.FULL:
        return number
    return "***" + (number[-LAST_DIGITS:] if len(number) > LAST_DIGITS else "")
