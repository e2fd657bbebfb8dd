"""One leg's ears up to the recogniser: frames in, speech edges, segments and levels out. Sans-IO."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from audio.endpoint import Endpointer, EndpointOptions
from audio.level import LevelMeter, LevelOptions
from audio.types import AudioFrame, Segment, SpeechEvent
from audio.vad import RATES_HZ, TelephoneVad, Vad, VadOptions
from policies.types import Side


@dataclass(frozen=True, slots=True)
class LevelSample:
    """How loud a leg is at ``t_ms``; ``over_baseline_db`` is ``None`` while nobody speaks or no baseline is known."""

    t_ms: int
    dbov: float
    over_baseline_db: float | None
    voiced: bool


Heard = SpeechEvent | Segment | LevelSample


@dataclass(frozen=True, slots=True)
class ListenerOptions:
    """What one leg's ears need; ``level_every_ms`` is how often a :class:`LevelSample` is given."""

    endpoint: EndpointOptions = field(default_factory=EndpointOptions)
    vad: VadOptions = field(default_factory=VadOptions)
    level: LevelOptions = field(default_factory=LevelOptions)
    level_every_ms: int = 200


class Listener:
    """One leg. A change of rate in mid-call (a re-INVITE to another codec) ends the running segment, no more."""

    def __init__(
        self, options: ListenerOptions | None = None, side: Side = Side.CALLER, *, vad: Vad | None = None
    ) -> None:
        self.options = options or ListenerOptions()
        self.side = side
        self._vad: Vad = vad or TelephoneVad(self.options.vad)
        self._level = LevelMeter(self.options.level)
        self._endpoint = Endpointer(self.options.endpoint)
        self._over_prompt = False
        self._rate_hz: int | None = None
        self._level_due_ms: int | None = None

    def hear(self, frame: AudioFrame, now_ms: int) -> list[Heard]:
        """Next frame.

        :raises ValueError: when its rate is not 8,000 or 16,000 Hz or it is not 20 ms long; nothing is changed then.
        """
        if frame.rate_hz not in RATES_HZ:
            raise ValueError(f"a leg is heard at 8000 or 16000 Hz, got {frame.rate_hz}")
        voiced = self._vad.is_speech(frame)
        found: list[Heard] = []
        if self._rate_hz not in (None, frame.rate_hz):
            found += self.finish(now_ms)
        self._rate_hz = frame.rate_hz
        level = self._level.hear(frame, voiced)
        if self._level_due_ms is None or frame.t_ms >= self._level_due_ms:
            self._level_due_ms = frame.t_ms + self.options.level_every_ms
            found.append(LevelSample(frame.t_ms, level.dbov, level.over_baseline_db, voiced))
        return found + self._marked(self._endpoint.hear(frame, voiced))

    def next_deadline_ms(self) -> int | None:
        """When :meth:`on_deadline` is due if no frame comes; ``None`` while nothing is under way."""
        return self._endpoint.next_deadline_ms()

    def on_deadline(self, now_ms: int) -> list[Heard]:
        """Frames stopped coming: ends the speech under way. Harmless when called early."""
        return self._marked(self._endpoint.on_deadline(now_ms))

    def split(self, now_ms: int) -> list[Heard]:
        """End the running segment at once."""
        return self._marked(self._endpoint.split(now_ms))

    def finish(self, now_ms: int) -> list[Heard]:
        """The leg is over: what was being said is emitted as far as it was heard."""
        return self._marked(self._endpoint.finish(now_ms))

    def draft(self, from_ms: int) -> Segment | None:
        """A look at what is being said, from ``from_ms`` on; ``None`` while nothing is, or a pause lasts."""
        found = self._endpoint.draft(from_ms)
        return None if found is None else replace(found, over_prompt=self._over_prompt)

    def complete(self, end_ms: int) -> list[Heard]:
        """The words up to ``end_ms`` make a whole sentence: if nothing was said since, the utterance ends now."""
        return self._marked(self._endpoint.complete(end_ms))

    def set_over_prompt(self, over_prompt: bool, now_ms: int) -> list[Heard]:
        """Our own prompt starts or stops in this party's ear: what was heard before is cut off and keeps its mark."""
        if over_prompt == self._over_prompt:
            return []
        found = self.split(now_ms)
        self._over_prompt = over_prompt
        return found

    def _marked(self, found: list[SpeechEvent | Segment]) -> list[Heard]:
        if not self._over_prompt:
            return list(found)
        return [replace(each, over_prompt=True) if isinstance(each, Segment) else each for each in found]
