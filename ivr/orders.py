"""What the policy asks for, as effects of one call: which row, which prompt, which ending, told to whom. Sans-I/O.

The policy knows neither tokens nor legs nor the journal's clock; the rows say which pack and which words asked.
"""

from __future__ import annotations

from ivr import effects as fx
from ivr.diary import Diary
from ivr.prompting import Prompting
from ivr.types import JournalEvent, LiveEvent
from policies import types as pol
from policies.engine import Engine
from policies.types import EndKind


class Orders:
    """One order after the other; ``ending``: an ending was asked for and is not settled, so no second one is."""

    def __init__(self, engine: Engine, diary: Diary, prompting: Prompting) -> None:
        self.ending = False
        self._engine, self._diary, self._prompting = engine, diary, prompting

    def carry_out(self, action: pol.Action, now_ms: int) -> None:
        """One action of the engine."""
        diary = self._diary
        match action:
            case pol.PlayPrompt():
                self._prompting.ask(action, now_ms)
            case pol.StopPrompt():
                self._prompting.stop(action.why, now_ms)
            case pol.EndCall():
                self._end(action, now_ms)
            case pol.PauseAgent():
                diary.add(fx.PauseAgent(action.why))
            case pol.Notify():
                diary.add(fx.Tell(action.audience, action.text, action.page))
            case pol.Suggest():
                self._suggest(action, now_ms)
            case pol.StartCountdown():
                data = {"action": "countdown", "kind": action.kind.value, "why": action.why, **diary.by_pack()}
                deadline_ms = action.deadline_ms - diary.started_ms
                diary.journal(JournalEvent.SIGNAL, now_ms, {**data, "deadline_ms": deadline_ms})
            case pol.StopCountdown():
                data = {"action": "countdown_stopped", "why": action.why, **diary.by_pack()}
                diary.journal(JournalEvent.SIGNAL, now_ms, data)
            case pol.Record():
                diary.journal(JournalEvent(action.event), now_ms, diary.since_start(action.data))

    def _end(self, action: pol.EndCall, now_ms: int) -> None:
        if self.ending:
            return
        self.ending = True
        attempts = self._attempts(action.kind)
        self._diary.add(fx.End(attempts, action.why, action.heard_ms, now_ms, action.target))

    def _attempts(self, kind: EndKind) -> tuple[EndKind, ...]:
        """The ending asked for, then the pack's fallbacks if it is the pack's own ending."""
        ending = self._engine.pack.spec.ending
        return (kind, *ending.fallbacks) if kind is ending.kind else (kind,)

    def _suggest(self, action: pol.Suggest, now_ms: int) -> None:
        """Pages are told; what became of it, the journal knows by the key that was pressed."""
        diary = self._diary
        if action.step is None or action.key is None:
            diary.live(LiveEvent.SUGGESTION_GONE, now_ms, {})
            return
        kind = None if action.kind is None else action.kind.value
        what = {"step": action.step, "key": action.key.value, "kind": kind, "why": action.why, **diary.by_pack()}
        diary.live(LiveEvent.SUGGESTION, now_ms, {**what, "until_ms": action.until_ms - diary.started_ms})
