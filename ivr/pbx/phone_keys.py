"""Keys that agents press on their own phones, sans-I/O: digits or user events of the PBX in, what was meant out.

Two ways, and both may be used at once:

* ``features.conf`` on the PBX watches for the digits and sends ``UserEvent(Firmline,Key: warn)``; the other party never
  hears them. The event is believed on the agent's own channel only.
* The manager's ``DTMFEnd`` events of the agent's channel, put together here. Needs nothing at the PBX, but the caller's
  phone gets the digits too.

What a caller presses is never looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from policies.types import Key

MAX_DIGITS = 8
USER_EVENT = "Firmline"


class PhoneKey(StrEnum):
    """What a phone's key can mean: those of :class:`policies.types.Key`, and the agent's own place in their queues."""

    WARN = Key.WARN.value
    PARDON = Key.PARDON.value
    END = Key.END.value
    TRANSFER = Key.TRANSFER.value
    DISARM = Key.DISARM.value
    ARM = Key.ARM.value
    MINUTE = Key.MINUTE.value
    PAUSE = "pause"
    UNPAUSE = "unpause"


@dataclass(frozen=True, slots=True)
class PhoneKeyOptions:
    """``digits``: sequence to meaning, for all; ``agents``: the same for one extension, in place of those for all.
    ``timeout_ms``: longest pause within a sequence."""

    digits: Mapping[str, PhoneKey] = field(default_factory=dict)
    agents: Mapping[str, Mapping[str, PhoneKey]] = field(default_factory=dict)
    timeout_ms: int = 2_000

    def of(self, agent_ext: str) -> Mapping[str, PhoneKey]:
        """The sequences of one agent."""
        return self.agents.get(agent_ext, self.digits)


class PhoneKeys:
    """What the agents' phones are typing."""

    def __init__(self, options: PhoneKeyOptions) -> None:
        self._options = options
        self._typed: dict[str, tuple[str, int]] = {}

    def on_digit(self, channel: str, agent_ext: str, digit: str, now_ms: int) -> PhoneKey | None:
        """One digit of an agent's own ``channel``; the key that it completes, if any."""
        typed, last_ms = self._typed.pop(channel, ("", now_ms))
        if now_ms - last_ms > self._options.timeout_ms:
            typed = ""
        typed = (typed + digit)[-MAX_DIGITS:]
        for digits, key in self._options.of(agent_ext).items():
            if typed.endswith(digits):
                return key
        self._typed[channel] = (typed, now_ms)
        return None

    def on_user_event(self, agent_ext: str, key: str, digits: str) -> PhoneKey | None:
        """A feature of the PBX was pressed: ``Key: warn``, or ``Digits: *9`` to be read by the agent's own map."""
        if key.lower() in {known.value for known in PhoneKey}:
            return PhoneKey(key.lower())
        return self._options.of(agent_ext).get(digits)

    def forget(self, channel: str) -> None:
        """The channel is gone."""
        self._typed.pop(channel, None)
