"""Where an utterance begins and ends: voiced and unvoiced frames in, speech events and segments out.

Sans-IO. All of its moves are in :data:`TABLE`; what the table omits is decided in ``_cue``, which turns a frame and the
run of silence or voice before it into one word:

    VOICE      a voiced frame                        (in STARTING: the onset is not complete yet)
    ONSET      a voiced frame that completes the onset
    LULL       an unvoiced frame, the pause still short
    HUSH       an unvoiced frame that makes the pause ``tail_ms`` long: all the audio a final would have is there
    PAUSE      an unvoiced frame that completes the pause (``onset_ms`` in STARTING, ``hangover_ms`` after speech)
    FULL       the segment has reached its longest
    SPLIT      the owner asks for a cut, now
    COMPLETE   the owner knows that the sentence is complete, so a shorter pause may end it

Missing frames are silence: a gap in the timeline, or frames that stop coming, end speech just as a pause does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import takewhile

import numpy as np

from audio.level import dbov
from audio.types import PTIME_MS, AudioFrame, Segment, SegmentKind, SpeechEvent, SpeechKind

LULL_MS = 60
"""A gap between two words; the closure of a stop consonant is shorter."""


class State(StrEnum):
    """Where one leg's speech stands."""

    QUIET = "quiet"
    STARTING = "starting"
    SPEAKING = "speaking"
    STOPPING = "stopping"


class Cue(StrEnum):
    """What one frame, or the owner, means for the state."""

    VOICE = "voice"
    ONSET = "onset"
    LULL = "lull"
    HUSH = "hush"
    PAUSE = "pause"
    FULL = "full"
    SPLIT = "split"
    COMPLETE = "complete"


class Move(StrEnum):
    """What a transition does, besides changing the state."""

    NOTHING = "nothing"
    OPEN = "open"
    """The frames kept as pre-roll become the head of a segment."""
    FORGET = "forget"
    """Too short to be speech: its frames are pre-roll again."""
    BEGIN = "begin"
    """Tell that speech began."""
    OFFER = "offer"
    """Emit what the segment will be if nothing more is said."""
    CUT_QUIET = "cut_quiet"
    """Emit up to the quietest recent frame and go on with the rest."""
    CUT_HERE = "cut_here"
    """Emit all and go on with an empty segment."""
    CLOSE = "close"
    """Emit the segment and tell that speech ended."""
    CLOSE_CUT = "close_cut"
    """The same, but by request and not by a pause."""


TABLE: dict[tuple[State, Cue], tuple[State, Move]] = {
    (State.QUIET, Cue.VOICE): (State.STARTING, Move.OPEN),
    (State.QUIET, Cue.LULL): (State.QUIET, Move.NOTHING),
    (State.QUIET, Cue.PAUSE): (State.QUIET, Move.NOTHING),
    (State.QUIET, Cue.SPLIT): (State.QUIET, Move.NOTHING),
    (State.QUIET, Cue.COMPLETE): (State.QUIET, Move.NOTHING),
    (State.STARTING, Cue.VOICE): (State.STARTING, Move.NOTHING),
    (State.STARTING, Cue.ONSET): (State.SPEAKING, Move.BEGIN),
    (State.STARTING, Cue.LULL): (State.STARTING, Move.NOTHING),
    (State.STARTING, Cue.PAUSE): (State.QUIET, Move.FORGET),
    (State.STARTING, Cue.SPLIT): (State.QUIET, Move.FORGET),
    (State.STARTING, Cue.COMPLETE): (State.STARTING, Move.NOTHING),
    (State.SPEAKING, Cue.VOICE): (State.SPEAKING, Move.NOTHING),
    (State.SPEAKING, Cue.LULL): (State.STOPPING, Move.NOTHING),
    (State.SPEAKING, Cue.HUSH): (State.STOPPING, Move.OFFER),
    (State.SPEAKING, Cue.PAUSE): (State.QUIET, Move.CLOSE),
    (State.SPEAKING, Cue.FULL): (State.SPEAKING, Move.CUT_QUIET),
    (State.SPEAKING, Cue.SPLIT): (State.SPEAKING, Move.CUT_HERE),
    (State.SPEAKING, Cue.COMPLETE): (State.SPEAKING, Move.NOTHING),
    (State.STOPPING, Cue.VOICE): (State.SPEAKING, Move.NOTHING),
    (State.STOPPING, Cue.LULL): (State.STOPPING, Move.NOTHING),
    (State.STOPPING, Cue.HUSH): (State.STOPPING, Move.OFFER),
    (State.STOPPING, Cue.PAUSE): (State.QUIET, Move.CLOSE),
    (State.STOPPING, Cue.FULL): (State.STOPPING, Move.CUT_QUIET),
    (State.STOPPING, Cue.SPLIT): (State.QUIET, Move.CLOSE_CUT),
    (State.STOPPING, Cue.COMPLETE): (State.QUIET, Move.CLOSE),
}
"""ONSET needs STARTING, HUSH and FULL need a segment: the cells that are missing cannot be asked for."""


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """All in milliseconds.

    ``onset_ms``: voiced audio that makes it speech. ``hangover_ms``: pause that ends it. ``tail_ms``: how much of that
    pause the segment keeps, so that a soft last consonant survives; with ``offers``, the segment is emitted as an offer
    when that much has passed, so that it can be decoded while the rest of the pause is waited for. ``pre_roll_ms``:
    kept from before the first voiced frame, for a soft first consonant. ``min_speech_ms``: less voiced audio than this
    yields no segment (a click, the edge of a tone). ``max_utterance_ms``: longest segment; longer talk is cut at the
    quietest frame of its last ``cut_search_ms``. ``late_ms``: how long after its time a frame may still come.
    """

    onset_ms: int = 60
    hangover_ms: int = 300
    tail_ms: int = 160
    offers: bool = False
    pre_roll_ms: int = 200
    min_speech_ms: int = 120
    max_utterance_ms: int = 10_000
    cut_search_ms: int = 2_000
    late_ms: int = 60

    def __post_init__(self) -> None:
        """:raises ValueError: when a value is out of range or two contradict each other."""
        for name in ("onset_ms", "hangover_ms", "tail_ms"):
            if getattr(self, name) < PTIME_MS:
                raise ValueError(f"{name} must be at least one frame ({PTIME_MS} ms), got {getattr(self, name)}")
        for name in ("pre_roll_ms", "min_speech_ms", "late_ms"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.cut_search_ms < PTIME_MS:
            raise ValueError(f"cut_search_ms must be at least one frame, got {self.cut_search_ms}")
        if self.max_utterance_ms < 2 * (self.cut_search_ms + self.pre_roll_ms):
            raise ValueError(
                f"max_utterance_ms ({self.max_utterance_ms}) must be at least twice "
                f"cut_search_ms + pre_roll_ms ({self.cut_search_ms + self.pre_roll_ms})"
            )


@dataclass(frozen=True, slots=True)
class _Kept:
    frame: AudioFrame
    voiced: bool


class Endpointer:
    """One leg's endpointing. Frames come in order; one that lies before what was heard already is ignored."""

    def __init__(self, options: EndpointOptions | None = None) -> None:
        self.options = options or EndpointOptions()
        self.state = State.QUIET
        self._pre_roll: deque[_Kept] = deque(maxlen=self.options.pre_roll_ms // PTIME_MS + 1)
        self._kept: list[_Kept] = []
        self._voiced_run_ms = 0
        self._silence_ms = 0
        self._heard_to_ms: int | None = None
        self._tail_frames = -(-self.options.tail_ms // PTIME_MS)
        self._last_voiced_ms = 0
        self._moves: dict[Move, Callable[[], list[SpeechEvent | Segment]]] = {
            Move.NOTHING: list,
            Move.OPEN: self._open,
            Move.FORGET: self._forget,
            Move.BEGIN: self._begin,
            Move.OFFER: self._offer,
            Move.CUT_QUIET: self._cut_quiet,
            Move.CUT_HERE: self._cut_here,
            Move.CLOSE: self._close,
            Move.CLOSE_CUT: partial(self._close, cut=True),
        }

    def hear(self, frame: AudioFrame, voiced: bool) -> list[SpeechEvent | Segment]:
        """Next frame of this leg, and whether it is speech."""
        if self._heard_to_ms is not None and frame.end_ms <= self._heard_to_ms:
            return []
        found = self._bridge_gap(frame)
        self._heard_to_ms = frame.end_ms
        found += self._take(_Kept(frame, voiced and not frame.concealed))
        return found

    def next_deadline_ms(self) -> int | None:
        """When to call :meth:`on_deadline` if no frame comes before; ``None`` while nothing is under way."""
        if self.state is State.QUIET or self._heard_to_ms is None:
            return None
        return self._heard_to_ms + max(0, self._pause_needed_ms() - self._silence_ms) + self.options.late_ms

    def on_deadline(self, now_ms: int) -> list[SpeechEvent | Segment]:
        """Frames stopped coming: the silence ends what was under way. Harmless when called early."""
        deadline = self.next_deadline_ms()
        if deadline is None or now_ms < deadline:
            return []
        return self._apply(Cue.PAUSE)

    def split(self, now_ms: int) -> list[SpeechEvent | Segment]:
        """End the running segment at once; speech that goes on begins a new one without a second onset event."""
        found = self.on_deadline(now_ms) + self._apply(Cue.SPLIT)
        # What lies before the cut must not come back as the head of what follows it.
        self._pre_roll.clear()
        return found

    def complete(self, end_ms: int) -> list[SpeechEvent | Segment]:
        """The words up to ``end_ms`` make a whole sentence: the pause after them, if it still is one, ends the segment
        now. Harmless when something was said since."""
        return self._apply(Cue.COMPLETE) if end_ms == self._last_voiced_ms else []

    def draft(self, from_ms: int) -> Segment | None:
        """The running segment from ``from_ms`` to now, or ``None`` while there is none or nothing voiced in it.

        Also ``None`` once a pause has lasted :data:`LULL_MS`: nothing new is said in it, and either an offer comes,
        which shows all words, or it is over in a moment.
        """
        if self.state not in (State.SPEAKING, State.STOPPING) or self._silence_ms >= LULL_MS:
            return None
        first = next((at for at, kept in enumerate(self._kept) if kept.frame.end_ms > from_ms), len(self._kept))
        found = self._segment(self._kept[first:], cut=False, kind=SegmentKind.DRAFT)
        return found[0] if found else None

    def finish(self, now_ms: int) -> list[SpeechEvent | Segment]:
        """The leg is over: the running segment is emitted as it is, and speech ended."""
        found = self.on_deadline(now_ms) + self._apply(Cue.PAUSE)
        self._pre_roll.clear()
        self._heard_to_ms = None
        return found

    def _take(self, kept: _Kept) -> list[SpeechEvent | Segment]:
        if kept.voiced:
            self._voiced_run_ms += PTIME_MS
            self._silence_ms = 0
            self._last_voiced_ms = kept.frame.end_ms
        else:
            self._silence_ms += PTIME_MS
        if self.state is State.QUIET:
            self._pre_roll.append(kept)
        else:
            self._kept.append(kept)
        found = self._apply(self._cue(kept.voiced))
        if self._length_ms() >= self.options.max_utterance_ms and self.state in (State.SPEAKING, State.STOPPING):
            found += self._apply(Cue.FULL)
        return found

    def _cue(self, voiced: bool) -> Cue:
        if voiced:
            complete = self.state is State.STARTING and self._voiced_run_ms >= self.options.onset_ms
            return Cue.ONSET if complete else Cue.VOICE
        over = self.state is not State.QUIET and self._silence_ms >= self._pause_needed_ms()
        if over:
            return Cue.PAUSE
        running = self.state in (State.SPEAKING, State.STOPPING)
        hush = self.options.offers and running and self._silence_ms == self._tail_frames * PTIME_MS
        return Cue.HUSH if hush else Cue.LULL

    def _pause_needed_ms(self) -> int:
        return self.options.onset_ms if self.state is State.STARTING else self.options.hangover_ms

    def _apply(self, cue: Cue) -> list[SpeechEvent | Segment]:
        self.state, move = TABLE[self.state, cue]
        return self._moves[move]()

    def _bridge_gap(self, frame: AudioFrame) -> list[SpeechEvent | Segment]:
        """Silence in place of frames that never came; no more of it than ends the speech under way."""
        found: list[SpeechEvent | Segment] = []
        if self._heard_to_ms is None:
            return found
        silence = np.zeros(len(frame.samples), dtype=np.int16)
        while self.state is not State.QUIET and frame.t_ms - self._heard_to_ms >= PTIME_MS:
            missing = AudioFrame(self._heard_to_ms, frame.rate_hz, silence, concealed=True)
            self._heard_to_ms = missing.end_ms
            found += self._take(_Kept(missing, voiced=False))
        if frame.t_ms - self._heard_to_ms >= PTIME_MS:
            self._pre_roll.clear()
        return found

    # --- moves --------------------------------------------------------------------------------------------------------

    def _open(self) -> list[SpeechEvent | Segment]:
        self._kept = list(self._pre_roll)
        self._pre_roll.clear()
        self._voiced_run_ms = PTIME_MS
        return self._apply(Cue.ONSET) if self._voiced_run_ms >= self.options.onset_ms else []

    def _forget(self) -> list[SpeechEvent | Segment]:
        self._pre_roll.extend(_Kept(kept.frame, voiced=False) for kept in self._kept)
        self._kept = []
        return []

    def _begin(self) -> list[SpeechEvent | Segment]:
        first = next(kept.frame.t_ms for kept in self._kept if kept.voiced)
        return [SpeechEvent(SpeechKind.ONSET, first)]

    def _offer(self) -> list[SpeechEvent | Segment]:
        return list(self._segment(self._kept, cut=False, kind=SegmentKind.OFFER))

    def _close(self, *, cut: bool = False) -> list[SpeechEvent | Segment]:
        trailing = list(takewhile(lambda kept: not kept.voiced, reversed(self._kept)))
        spare = max(0, len(trailing) - self._tail_frames)
        found = self._segment(self._kept[: len(self._kept) - spare], cut=cut)
        self._pre_roll.extend(reversed(trailing))
        self._kept = []
        return [*found, SpeechEvent(SpeechKind.OFFSET, self._last_voiced_ms)]

    def _cut_here(self) -> list[SpeechEvent | Segment]:
        found = self._segment(self._kept, cut=True)
        self._kept = []
        return list(found)

    def _cut_quiet(self) -> list[SpeechEvent | Segment]:
        search = self.options.cut_search_ms // PTIME_MS
        levels = np.array([10 ** (dbov(kept.frame.samples) / 10) for kept in self._kept[-search:]])
        smooth = np.convolve(levels, np.ones(3) / 3, mode="same")
        at = len(self._kept) - len(levels) + int(smooth[1:-1].argmin()) + 2 if len(levels) > 2 else len(self._kept)
        found = self._segment(self._kept[:at], cut=True)
        self._kept = self._kept[at:]
        return list(found)

    def _segment(self, kept: list[_Kept], *, cut: bool, kind: SegmentKind = SegmentKind.FINAL) -> list[Segment]:
        voiced = [each.frame for each in kept if each.voiced]
        if not voiced or len(voiced) * PTIME_MS < self.options.min_speech_ms:
            return []
        return [
            Segment(
                samples=np.concatenate([each.frame.samples for each in kept]),
                rate_hz=voiced[0].rate_hz,
                start_ms=voiced[0].t_ms,
                end_ms=voiced[-1].end_ms,
                audio_start_ms=kept[0].frame.t_ms,
                cut=cut,
                kind=kind,
            )
        ]

    def _length_ms(self) -> int:
        return len(self._kept) * PTIME_MS
