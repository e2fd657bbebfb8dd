"""A call in a test: says things, hears prompts out, moves time; collects what came out."""

from __future__ import annotations

from collections.abc import Sequence

from policies.engine import Engine
from policies.pack import Mode, Pack
from policies.types import (
    Action,
    EndCall,
    Hotkey,
    Key,
    PlayPrompt,
    PromptDone,
    PromptStarted,
    Record,
    Side,
    Utterance,
)

PROMPT_MS = 3_000


class Bench:
    """One engine with a clock of its own."""

    def __init__(self, pack: Pack, *, mode: Mode | None = None, adjustment: str | None = None) -> None:
        if mode is not None:
            spec = pack.spec.model_copy(update={"mode": mode})
            pack = Pack(spec, pack.version, pack.lexicon)
        self.engine = Engine(pack, adjustment=adjustment, agent_ext="201")
        self.now_ms = 1_000
        self.log: list[Action] = []

    def wait(self, ms: int) -> list[Action]:
        """Time passes; deadlines are kept."""
        until, out = self.now_ms + ms, list[Action]()
        while (due := self.engine.next_deadline_ms()) is not None and due <= until:
            self.now_ms = max(self.now_ms, due)
            out += self.engine.on_deadline(self.now_ms)
        self.now_ms = until
        self.log += out
        return out

    def say(
        self,
        text: str,
        *,
        side: Side = Side.CALLER,
        final: bool = True,
        speech_confirmed: bool = True,
        over_prompt: bool = False,
        avg_logprob: float = 0.0,
    ) -> list[Action]:
        """An utterance of one second, ending now."""
        start_ms, self.now_ms = self.now_ms, self.now_ms + 1_000
        heard = Utterance(
            text, side, start_ms, self.now_ms, final, speech_confirmed, over_prompt, avg_logprob, id=f"u{start_ms}"
        )
        out = self.engine.hear(heard, self.now_ms)
        self.log += out
        return out

    def done(self, prompt: str, heard: bool = True) -> list[Action]:
        """``prompt`` starts and ends."""
        self.engine.hear(PromptStarted(prompt, self.now_ms), self.now_ms)
        self.now_ms += PROMPT_MS
        out = self.engine.hear(PromptDone(prompt, self.now_ms, heard), self.now_ms)
        self.log += out
        return out

    def press(self, key: Key, by: str = "agent:201") -> list[Action]:
        """A key press."""
        self.now_ms += 100
        out = self.engine.hear(Hotkey(key, by), self.now_ms)
        self.log += out
        return out

    def strike(self, text: str, heard: bool = True) -> str | None:
        """Say it, hear the prompt it brings to its end, let the grace time pass; the prompt's name."""
        played = prompts(self.say(text))
        if not played:
            return None
        self.done(played[-1], heard)
        self.wait(self.engine.pack.spec.timing.grace_ms + 1)
        return played[-1]

    def to_ending(self) -> list[Action]:
        """Insulted, warned, insulted again: the closing prompt has begun."""
        self.strike("you useless idiot")
        return self.say("you stupid moron")


def prompts(actions: Sequence[Action]) -> list[str]:
    """Names of the prompts among ``actions``."""
    return [a.prompt for a in actions if isinstance(a, PlayPrompt)]


def ends(actions: Sequence[Action]) -> list[EndCall]:
    """The endings among ``actions``."""
    return [a for a in actions if isinstance(a, EndCall)]


def records(actions: Sequence[Action], event: str) -> list[Record]:
    """The journal records of one kind among ``actions``."""
    return [a for a in actions if isinstance(a, Record) and a.event == event]
