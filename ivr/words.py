"""What the ears of one call found, on its way to the policy: speech, levels, words that count, words that may change.

Owns: which words are journalled and which are only shown, and what each is for the policy. Never: which segment is
decoded when, and in which order words count; that is :mod:`ivr.hearing`. Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from audio.types import Segment, SpeechEvent, SpeechKind, Transcript
from ivr.diary import Diary
from ivr.drafts import DraftOptions
from ivr.hearing import Final, Hearing, Shown
from ivr.listener import LevelSample
from ivr.phases import TapLeg
from ivr.prompting import Prompting
from ivr.types import JournalEvent, LiveEvent
from policies import types as pol
from policies.conduct import ConductWatch, LevelHeard, Measured, TurnHeard, WordsHeard
from policies.engine import Engine
from policies.ladder import Rung
from policies.pack import Pack
from policies.types import Side

RAISED_DB = 6.0
"""So far over the usual level of this party, what is said is looked at more often."""


class Words:
    """See the module.

    ``legs``: those of the call, as they come and go. ``sides``: whose words are decoded. ``act`` carries out what the
    policy asks for. ``end_at_sentence``: see ``ivr.call.CallOptions``.
    """

    def __init__(
        self,
        engine: Engine,
        diary: Diary,
        prompting: Prompting,
        legs: Mapping[Side, TapLeg],
        make_token: Callable[[], int],
        act: Callable[[Sequence[pol.Action], int], None],
        *,
        sides: frozenset[Side],
        drafts: DraftOptions,
        end_at_sentence: bool,
    ) -> None:
        self.lag_ms: int | None = None
        """From the end of the latest words to their transcript."""
        self._engine, self._diary, self._prompting, self._legs, self._act = engine, diary, prompting, legs, act
        self._sides, self._end_at_sentence = sides, end_at_sentence
        self._hearing = Hearing(drafts, make_token, diary.add)
        self._conduct = ConductWatch(engine.pack.spec.conduct)
        self._failed_told = False

    def heard(self, leg: TapLeg, heard: object, now_ms: int) -> None:
        """Something that ``leg``'s listener found."""
        if isinstance(heard, SpeechEvent):
            leg.talking = heard.kind is SpeechKind.ONSET
            if leg.talking:
                self._hearing.speech_began(leg.side, now_ms)
            self._diary.live(LiveEvent.SPEAKING, now_ms, {"side": leg.side.value, "speaking": leg.talking})
            self._measured(TurnHeard(leg.side, leg.talking, heard.t_ms), now_ms)
        elif isinstance(heard, LevelSample):
            if heard.over_baseline_db is not None:
                leg.raised = heard.over_baseline_db >= RAISED_DB
            if leg.side is Side.CALLER:
                self._measured(LevelHeard(heard.t_ms, heard.dbov, heard.over_baseline_db), now_ms)
        elif isinstance(heard, Segment) and leg.side in self._sides:
            for said in self._hearing.segment(leg.side, heard, now_ms):
                self._count(said, now_ms)

    def look(self, leg: TapLeg, now_ms: int) -> None:
        """At what is being said on ``leg``, if a draft is due."""
        if leg.talking and leg.side in self._sides:
            tense = leg.raised or self._engine.rung is not Rung.CLEAR
            self._hearing.look(leg.side, leg.listener.draft, now_ms, tense=tense)

    def transcribed(self, token: int, transcript: Transcript, now_ms: int) -> None:
        """The recogniser is done with one segment: words that count reach the policy in the order of speaking."""
        for said in self._hearing.transcribed(token, transcript, now_ms):
            if isinstance(said, Final):
                self._count(said, now_ms)
            else:
                self._show(said, now_ms)

    def adopt(self, pack: Pack) -> None:
        """Conduct is measured by ``pack`` from now on."""
        self._conduct.adopt(pack.spec.conduct)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _measured(self, event: Measured, now_ms: int) -> None:
        """Levels, turns and words as conduct; over our own prompt nobody talks over anybody."""
        for episode in self._conduct.hear(event, now_ms):
            if self._prompting.playing is None:
                self._act(self._engine.hear(episode, now_ms), now_ms)

    def _show(self, said: Shown, now_ms: int) -> None:
        """Words that may still change: shown, and judged as such; nothing of it is journalled, nothing counts."""
        segment, diary = said.segment, self._diary
        times = {"start_ms": said.start_ms - diary.started_ms, "end_ms": segment.end_ms - diary.started_ms}
        data = {"side": said.side.value, "words": said.text, **times, "over_prompt": segment.over_prompt}
        diary.live(LiveEvent.PARTIAL, now_ms, data)
        utterance = pol.Utterance(
            said.text,
            said.side,
            said.start_ms,
            segment.end_ms,
            final=False,
            over_prompt=segment.over_prompt,
            avg_logprob=said.avg_logprob,
        )
        for action in self._engine.hear(utterance, now_ms):
            if isinstance(action, pol.Record) and action.event == JournalEvent.SIGNAL:
                diary.live(LiveEvent.PARTIAL_SIGNAL, now_ms, diary.since_start(action.data))
            else:
                self._act([action], now_ms)
        leg = self._legs.get(said.side)
        if said.complete and self._end_at_sentence and leg is not None:
            for heard in leg.listener.complete(segment.end_ms):
                self.heard(leg, heard, now_ms)

    def _count(self, item: Final, now_ms: int) -> None:
        """Words that count: journalled first, then judged."""
        segment, transcript = item.segment, item.transcript
        self.lag_ms = now_ms - segment.end_ms
        self._diary.journal(JournalEvent.UTTERANCE, now_ms, self._row(item, self.lag_ms))
        if transcript.dropped == "asr_failed" and not self._failed_told:
            self._failed_told = True
            text = "Firmline could not decode what the caller said; the call goes on"
            self._diary.signal(now_ms, "hearing_failed", text)
        if transcript.text and not transcript.dropped:
            utterance = pol.Utterance(
                transcript.text,
                item.side,
                segment.start_ms,
                segment.end_ms,
                over_prompt=segment.over_prompt,
                avg_logprob=transcript.avg_logprob,
            )
            self._act(self._engine.hear(utterance, now_ms), now_ms)
            if item.side is Side.CALLER and not segment.over_prompt:
                words = WordsHeard(segment.start_ms, segment.end_ms, len(transcript.text.split()))
                self._measured(words, now_ms)

    def _row(self, item: Final, lag_ms: int) -> dict[str, object]:
        segment, transcript, started_ms = item.segment, item.transcript, self._diary.started_ms
        return {
            "side": item.side.value,
            "words": transcript.text,
            "start_ms": segment.start_ms - started_ms,
            "end_ms": segment.end_ms - started_ms,
            "over_prompt": segment.over_prompt,
            "cut": segment.cut,
            "dropped": transcript.dropped,
            "avg_logprob": round(transcript.avg_logprob, 2),
            "lag_ms": lag_ms,
        }
