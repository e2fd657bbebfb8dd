"""One call and the recogniser, sans-IO: what is asked, what may be forgotten, and in which order words count.

Finals reach the policy in the order in which they were spoken, whoever is decoded first. An *offer* (the audio of an
utterance, decoded while the rest of its pause is still waited for) becomes the final when the pause ends it with the
very same samples: then nothing is decoded twice and the wait overlaps the work. Otherwise its words are shown like
those of a draft, and nothing more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from audio.types import Segment, SegmentKind, Transcript
from ivr import effects as fx
from ivr.drafts import LOST, DraftOptions, Drafts
from policies.types import Side

_SENTENCE_ENDS = (".", "!", "?")


@dataclass(frozen=True, slots=True)
class Final:
    """Words that count, or the reason why there are none."""

    side: Side
    segment: Segment
    transcript: Transcript


@dataclass(frozen=True, slots=True)
class Shown:
    """Words to show while they may still change. ``complete``: they end a sentence, and nothing was said since."""

    side: Side
    start_ms: int
    segment: Segment
    text: str
    avg_logprob: float
    complete: bool = False


@dataclass(slots=True)
class _Pending:
    side: Side
    segment: Segment
    transcript: Transcript | None = None


@dataclass(slots=True)
class _Offer:
    token: int
    segment: Segment
    transcript: Transcript | None = None


@dataclass(slots=True)
class _Ear:
    drafts: Drafts
    offer: _Offer | None = None
    look: Segment | None = None
    """The audio of the draft under way."""
    start_ms: int = 0
    """Where the words that are shown begin."""


class Hearing:
    """See the module. Effects go to ``out`` in the order in which they are to be carried out."""

    def __init__(self, options: DraftOptions, make_token: Callable[[], int], out: Callable[[fx.Effect], None]) -> None:
        self._token, self._out = make_token, out
        self._pending: OrderedDict[int, _Pending] = OrderedDict()
        self._ears = {side: _Ear(Drafts(options)) for side in Side}

    def segment(self, side: Side, segment: Segment, now_ms: int) -> list[Final]:
        """An offer or a final out of the listener; returns the words that now count."""
        ear = self._ears[side]
        if segment.kind is SegmentKind.OFFER:
            self._forget(ear.drafts.forget())
            self._drop_offer(ear)
            ear.offer = _Offer(self._ask(side, segment), segment)
            ear.drafts.offered(now_ms)
            return []
        self._forget(ear.drafts.over())
        offer = ear.offer
        if offer is not None and _same_audio(offer.segment, segment):
            ear.offer = None
            self._pending[offer.token] = _Pending(side, segment, offer.transcript)
            if offer.transcript is None:
                self._out(fx.Promote(offer.token))
            return self._in_order()
        self._drop_offer(ear)
        self._pending[self._ask(side, segment)] = _Pending(side, segment)
        return []

    def speech_began(self, side: Side, now_ms: int) -> None:
        """An onset on that leg."""
        self._ears[side].drafts.began(now_ms)

    def look(self, side: Side, look_at: Callable[[int], Segment | None], now_ms: int, *, tense: bool) -> None:
        """Ask for a draft if one is due. ``look_at(from_ms)`` gives the running speech."""
        ear = self._ears[side]
        drafts = ear.drafts
        if not drafts.due(now_ms, tense=tense) or (ear.offer is not None and ear.offer.transcript is None):
            return
        segment = look_at(drafts.from_ms)
        if segment is None or (ear.offer is not None and segment.end_ms == ear.offer.segment.end_ms):
            return
        if not drafts.from_ms:
            drafts.from_ms, ear.start_ms = segment.audio_start_ms, segment.start_ms
        length_ms = len(segment.samples) * 1000 // segment.rate_hz
        ear.look = replace(segment, word_times=drafts.wants_word_times(length_ms))
        drafts.asked(self._ask(side, ear.look), segment.audio_start_ms + length_ms, now_ms)

    def transcribed(self, token: int, transcript: Transcript, now_ms: int) -> list[Final | Shown]:
        """The recogniser is done with one segment; returns what can be said now, in order."""
        if token in self._pending:
            self._pending[token].transcript = transcript
            return list(self._in_order())
        for side, ear in self._ears.items():
            if ear.offer is not None and ear.offer.token == token:
                return self._offer_heard(ear, ear.offer, side, transcript)
            if ear.drafts.token == token and ear.look is not None:
                text = ear.drafts.heard(transcript, now_ms)
                return [Shown(side, ear.start_ms, ear.look, text, transcript.avg_logprob)] if text else []
        return []

    # --- inside -------------------------------------------------------------------------------------------------------

    def _offer_heard(self, ear: _Ear, offer: _Offer, side: Side, transcript: Transcript) -> list[Final | Shown]:
        if transcript.dropped in LOST:
            # The final will be asked for on its own.
            ear.offer = None
            return []
        offer.transcript = transcript
        if not transcript.text:
            return []
        complete = transcript.text.rstrip("\"'").endswith(_SENTENCE_ENDS)
        segment = offer.segment
        return [Shown(side, segment.start_ms, segment, transcript.text, transcript.avg_logprob, complete)]

    def _in_order(self) -> list[Final]:
        found: list[Final] = []
        while self._pending:
            token, head = next(iter(self._pending.items()))
            if head.transcript is None:
                break
            del self._pending[token]
            found.append(Final(head.side, head.segment, head.transcript))
        return found

    def _ask(self, side: Side, segment: Segment) -> int:
        token = self._token()
        self._out(fx.Transcribe(token, side, segment))
        return token

    def _drop_offer(self, ear: _Ear) -> None:
        offer, ear.offer = ear.offer, None
        if offer is not None and offer.transcript is None:
            self._forget(offer.token)

    def _forget(self, token: int | None) -> None:
        if token is not None:
            self._out(fx.Forget(token))


def _same_audio(offer: Segment, final: Segment) -> bool:
    return not final.cut and (
        offer.audio_start_ms,
        offer.start_ms,
        offer.end_ms,
        len(offer.samples),
        offer.over_prompt,
    ) == (final.audio_start_ms, final.start_ms, final.end_ms, len(final.samples), final.over_prompt)
