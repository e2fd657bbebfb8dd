"""Helpers for tests of calls: real ears, real engine, real demo speech, and time as the only thing made up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from audio.types import PTIME_MS, AudioFrame, Pcm, Transcript
from audio.wavio import frames, read_wav
from ivr import effects as fx
from ivr.call import CallCore, CallOptions
from ivr.judge import load_pack
from ivr.listener import Listener, ListenerOptions
from ivr.types import JournalEvent
from policies.engine import Engine
from policies.types import Side

SPEECH = Path(__file__).parents[2] / "ivr" / "data" / "demo"
EffectT = TypeVar("EffectT")


def speech(name: str) -> Pcm:
    """One line of the demo, 8 kHz."""
    return read_wav((SPEECH / f"{name}.wav").read_bytes(), name).channels[0]


def silence(ms: int) -> Pcm:
    """Digital silence, 8 kHz."""
    return np.zeros(8 * ms, np.int16)


class Bench:
    """A call on a hand-driven clock: ``hear`` feeds audio, ``say`` feeds a transcript for the oldest open segment."""

    def __init__(
        self,
        *,
        pack: str = "standard",
        both: bool = True,
        options: CallOptions | None = None,
        listener: ListenerOptions | None = None,
    ) -> None:
        self.listener = listener
        self.now_ms = 1_000
        self.seen: list[fx.Effect] = []
        self.core = CallCore("ref", "201", Engine(load_pack(pack)), self._listener, options or CallOptions(), 1_000)
        self.take(self.core.leg_up("c", Side.CALLER, self.now_ms))
        if both:
            self.take(self.core.leg_up("a", Side.AGENT, self.now_ms))

    def _listener(self, side: Side) -> Listener:
        return Listener(self.listener, side)

    def take(self, effects: Sequence[fx.Effect]) -> list[fx.Effect]:
        """Keep what the core asked for."""
        self.seen += effects
        return list(effects)

    def hear(self, samples: Pcm, leg: str = "c") -> list[fx.Effect]:
        """Feed audio at the speed of speech; deadlines fire as they come due."""
        out: list[fx.Effect] = []
        for frame in self._frames(samples):
            self.now_ms = frame.end_ms
            out += self.core.frames(leg, [frame], self.now_ms)
            due_ms = self.core.next_deadline_ms()
            if due_ms is not None and due_ms <= self.now_ms:
                out += self.core.on_deadline(self.now_ms)
        return self.take(out)

    def _frames(self, samples: Pcm) -> Iterator[AudioFrame]:
        return frames(samples, 8_000, start_ms=self.now_ms)

    def wait(self, ms: int) -> list[fx.Effect]:
        """Let time pass without audio."""
        out: list[fx.Effect] = []
        until_ms = self.now_ms + ms
        while self.now_ms < until_ms:
            self.now_ms = min(until_ms, self.now_ms + PTIME_MS)
            due_ms = self.core.next_deadline_ms()
            if due_ms is not None and due_ms <= self.now_ms:
                out += self.core.on_deadline(self.now_ms)
        return self.take(out)

    def open_segments(self) -> list[fx.Transcribe]:
        """Segments asked for, oldest first."""
        return self.all(fx.Transcribe)

    def said(self, asked: fx.Transcribe, text: str, **more: Any) -> list[fx.Effect]:
        """The recogniser answers."""
        segment = asked.segment
        return self.take(
            self.core.transcribed(asked.token, Transcript(text, segment.start_ms, segment.end_ms, **more), self.now_ms)
        )

    def utter(self, text: str) -> list[fx.Effect]:
        """The caller speaks for two seconds and is understood as ``text``."""
        before = len(self.open_segments())
        self.hear(np.concatenate([speech("pat_insult"), silence(600)]))
        asked = self.open_segments()[before:]
        assert asked, "the ears found no speech"
        return [effect for each in asked for effect in self.said(each, text if each is asked[-1] else "")]

    def play_out(self, *, heard: bool = True) -> list[fx.Effect]:
        """The prompt that is playing starts and ends."""
        play = self.all(fx.Play)[-1]
        self.take(self.core.prompt_started(play.token, self.now_ms, self.now_ms))
        self.wait(3_000)
        return self.take(self.core.prompt_done(play.token, heard, "", self.now_ms))

    def all(self, kind: type[EffectT]) -> list[EffectT]:
        """Every effect of one kind so far."""
        return [effect for effect in self.seen if isinstance(effect, kind)]

    def rows(self, event: JournalEvent) -> list[dict[str, Any]]:
        """Journal rows of one kind so far."""
        return [dict(row.data) for row in self.all(fx.Journal) if row.event is event]
