"""What was asked for and whether it happened: each action is confirmed by an event, or somebody is told within 2 s.

| action      | asked of             | confirmed by                            | else                             |
|-------------|----------------------|-----------------------------------------|----------------------------------|
| play        | the caller's tap leg | its first RTP packet left               | once more, also on a new leg     |
| transfer    | the PBX: Redirect    | the supervisor answered: one bridge     | next target; last: the agent     |
| hangup      | the PBX: Hangup      | the caller's channel is gone            | once more; then the call goes on |
| menu        | the PBX: Bridge      | the caller's choice is carried out      | next ending of the pack          |
| pause_agent | the PBX: QueuePause  | the queue shows the pause               | the agent is told                |

One action, by what happens to it (an absent cell: it changes nothing)::

    REQUESTED --sent--> SENT --confirmed--> CONFIRMED
        |                |  \\--late--> LATE (told) --confirmed--> CONFIRMED
        |                |               \\--failed--> FAILED
        +--late--> LATE  +--failed--> FAILED --again--> REQUESTED   (the next try, or the fallback)

A supervisor's phone may ring longer than 2 s: then the agent is told that it rings, and where. Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ivr import effects as fx
from ivr.types import JournalEvent

LATE_MS = 1_500
"""From the request to the word that it is not confirmed yet: people know within two seconds."""
START_MS = 700
"""A prompt's first packet leaves within some ten milliseconds, or something is wrong with the leg."""
LEG_MS = 1_200
"""How long a prompt waits for a new leg to be tried on: a PBX that replaces a leg takes some tenths of a second."""


class Stage(StrEnum):
    """How far an action has come."""

    REQUESTED = "requested"
    SENT = "sent"
    LATE = "late"
    CONFIRMED = "confirmed"
    FAILED = "failed"


class Step(StrEnum):
    """What happens to it."""

    SENT = "sent"
    LATE = "late"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    AGAIN = "again"


TABLE: Mapping[tuple[Stage, Step], Stage] = {
    (Stage.REQUESTED, Step.SENT): Stage.SENT,
    (Stage.REQUESTED, Step.LATE): Stage.LATE,
    (Stage.REQUESTED, Step.CONFIRMED): Stage.CONFIRMED,
    (Stage.REQUESTED, Step.FAILED): Stage.FAILED,
    (Stage.SENT, Step.SENT): Stage.SENT,
    (Stage.SENT, Step.LATE): Stage.LATE,
    (Stage.SENT, Step.CONFIRMED): Stage.CONFIRMED,
    (Stage.SENT, Step.FAILED): Stage.FAILED,
    (Stage.LATE, Step.SENT): Stage.LATE,
    (Stage.LATE, Step.CONFIRMED): Stage.CONFIRMED,
    (Stage.LATE, Step.FAILED): Stage.FAILED,
    (Stage.FAILED, Step.AGAIN): Stage.REQUESTED,
}

_WORDS = {
    "transfer": "The transfer",
    "hangup": "The end of the call",
    "menu": "The way into the menu",
    "pause_agent": "Your pause",
}
_PATIENT = frozenset({"menu"})
"""Confirmed when a caller has made up their mind: their time is no delay, and what they do is told as it happens."""


@dataclass(slots=True)
class _Action:
    kind: str
    asked_ms: int
    stage: Stage = Stage.REQUESTED
    told: bool = False

    def take(self, step: Step) -> bool:
        """Whether that changed anything."""
        before, self.stage = self.stage, TABLE.get((self.stage, step), self.stage)
        return (before, step) in TABLE

    @property
    def late_ms(self) -> int | None:
        waits = self.stage in (Stage.REQUESTED, Stage.SENT) and not self.told and self.kind not in _PATIENT
        return self.asked_ms + LATE_MS if waits else None


class Asked:
    """What one call has asked of the PBX. ``journal`` and ``tell`` take what people and the journal must know."""

    def __init__(
        self, journal: Callable[[JournalEvent, int, Mapping[str, Any]], None], tell: Callable[[str], None]
    ) -> None:
        self._journal, self._tell = journal, tell
        self._actions: dict[str, _Action] = {}

    def asked(self, kind: str, data: Mapping[str, Any], now_ms: int) -> None:
        """Requested: of an ending that failed, this is the next."""
        endings = (a for a in self._actions.values() if a.kind != "pause_agent")
        failed = next((a for a in endings if a.stage is Stage.FAILED), None)
        if failed is not None and kind != "pause_agent":
            failed.take(Step.AGAIN)
            data = {**data, "instead_of": failed.kind}
            self._tell(f"{_word(failed.kind)} did not work; {_word(kind).lower()} is tried instead.")
        self._actions = {kind: _Action(kind, now_ms), **self._pause(kind)}
        self._journal(JournalEvent.ACTION_REQUESTED, now_ms, data)

    def sent(self, kind: str, text: str, now_ms: int) -> None:
        """The PBX has taken it; ``text`` says what happens now. The agent waits, so they are told at once."""
        action = self._actions.get(kind)
        if action is not None and action.take(Step.SENT):
            action.told = True
            self._say(action, text, now_ms)

    def report(self, kind: str, ok: bool, data: Mapping[str, Any], now_ms: int) -> None:
        """It happened, or it did not."""
        action = self._actions.get(kind)
        if action is not None:
            action.take(Step.CONFIRMED if ok else Step.FAILED)
        self._journal(JournalEvent.ACTION_DONE if ok else JournalEvent.ACTION_FAILED, now_ms, data)
        if not ok and kind == "pause_agent":
            self._tell(f"You could not be paused: {data.get('error')}.")

    def settled(self) -> None:
        """The ending is over, whichever way: what comes next is no fallback of it."""
        self._actions = self._pause("")

    def next_deadline_ms(self) -> int | None:
        """When somebody would have to be told."""
        return min((due for a in self._actions.values() if (due := a.late_ms) is not None), default=None)

    def on_deadline(self, now_ms: int) -> None:
        """Tell whatever was not confirmed in time."""
        for action in self._actions.values():
            due_ms = action.late_ms
            if due_ms is not None and due_ms <= now_ms and action.take(Step.LATE):
                self._say(action, f"{_word(action.kind)} is not confirmed by the PBX yet; the call goes on", now_ms)

    def _say(self, action: _Action, text: str, now_ms: int) -> None:
        data = {"action": "waiting", "of": action.kind, "stage": action.stage.value, "why": text}
        self._journal(JournalEvent.SIGNAL, now_ms, data)
        self._tell(f"{text}.")

    def _pause(self, besides: str) -> dict[str, _Action]:
        return {kind: a for kind, a in self._actions.items() if kind == "pause_agent" != besides}


def _word(kind: str) -> str:
    return _WORDS.get(kind, kind)


class PromptTry:
    """One prompt on its way to its first packet: tried once more when that does not leave, also on a new leg."""

    def __init__(self) -> None:
        self._play: fx.Play | None = None
        self._started = self._again = self._no_leg = False
        self._asked_ms = self._due_ms = 0
        self.why = ""
        """Why the first try failed."""

    def begin(self, play: fx.Play, now_ms: int) -> None:
        """Asked for."""
        self._play, self._asked_ms, self._due_ms, self.why = play, now_ms, now_ms + START_MS, ""
        self._started = self._again = self._no_leg = False

    def started(self) -> None:
        """The first packet left."""
        self._started = True

    def over(self) -> None:
        """Nothing to wait for any more."""
        self._play = None

    def failed_to_start(self, why: str) -> bool:
        """It ended without a packet: whether a leg may still come to try it on."""
        if self._play is None or self._started or self._again:
            return False
        self._no_leg, self.why, self._due_ms = True, why, self._asked_ms + LEG_MS
        return True

    def leg_up(self, token: int, now_ms: int) -> fx.Play | None:
        """A leg to the caller is there: the prompt, if it waits for one; under a token of its own."""
        if self._play is None or not self._no_leg:
            return None
        return self.again(token, now_ms)

    def again(self, token: int, now_ms: int) -> fx.Play:
        """The second try."""
        assert self._play is not None
        old = self._play
        self._play = fx.Play(token, old.prompt, old.why, old.heard_ms, old.decided_ms)
        self._again, self._no_leg, self._due_ms = True, False, now_ms + START_MS
        return self._play

    @property
    def waits(self) -> bool:
        """For a leg to be tried on again."""
        return self._play is not None and self._no_leg

    @property
    def may_again(self) -> bool:
        """Whether this was the first try."""
        return not self._again

    def next_deadline_ms(self) -> int | None:
        """When a packet should have left."""
        return None if self._play is None or self._started else self._due_ms
