"""What the demo makes of Firmline's journal rows: cues for the scene, the ladder for the eye, times for the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audio.prompts import Catalogue
from audio.wavio import read_wav
from ivr.demo.recordings import Hit, find_prompt
from ivr.demo.scene import Cues, SceneResult
from ivr.demo.service import Row, monotonic_of
from ivr.demo.stack import RATE_HZ

CUES = {"warning": "warning", "closing_transfer": "closing", "closing_hangup": "closing", "closing_menu": "closing"}


@dataclass(frozen=True, slots=True)
class Reaction:
    """One prompt: from the mouth's last sound to the first RTP packet, and the steps between, in ms.

    ``words_to_rtp_ms`` is from the end of the abusive words as they left the caller's phone; ``heard_to_decided_ms``
    and ``decided_to_rtp_ms`` are Firmline's own account.
    """

    prompt: str
    words_to_rtp_ms: int
    heard_to_decided_ms: int
    decided_to_rtp_ms: int


@dataclass(slots=True)
class Story:
    """One call as told by the journal."""

    cues: Cues = field(default_factory=Cues)
    rung: str = "clear"
    rows: list[Row] = field(default_factory=list)
    plays: list[tuple[str, int, int, int]] = field(default_factory=list)
    """Prompt, heard, decided, first RTP: monotonic ms."""
    _began_ms: int = 0

    def take(self, row: Row) -> None:
        """Take in one journal row."""
        self.rows.append(row)
        data: Mapping[str, Any] = row["data"]
        if row["event"] == "call_started":
            self._began_ms = monotonic_of(row["at"]) - int(row["t_ms"])
        elif row["event"] == "rung":
            self.rung = str(data["to"])
        elif row["event"] == "action_done" and data.get("action") == "play":
            prompt = str(data["prompt"])
            if data["heard_ms"] is not None:
                heard, decided, rtp = (
                    self._began_ms + int(data[k]) for k in ("heard_ms", "decided_ms", "first_rtp_ms")
                )
                self.plays.append((prompt, heard, decided, rtp))
            self.cues.resolve(CUES.get(prompt, prompt))

    def count(self, event: str) -> int:
        """How many rows of one kind there were."""
        return sum(row["event"] == event for row in self.rows)

    def reactions(self, result: SceneResult) -> list[Reaction]:
        """Each prompt against the caller's line that was last said before it."""
        found = []
        caller = next((spoken.who for spoken in result.spoken if spoken.line.startswith(("pat", "kim"))), "")
        for prompt, heard_ms, decided_ms, rtp_ms in self.plays:
            ends = [s.end_ms for s in result.spoken if s.who == caller and s.end_ms <= decided_ms]
            if ends:
                found.append(Reaction(prompt, rtp_ms - max(ends), decided_ms - heard_ms, rtp_ms - decided_ms))
        return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that should be so, and whether it is."""

    what: str
    ok: bool
    detail: str = ""


def prompts_in(path: Path, catalogue: Catalogue) -> dict[str, Hit]:
    """Which of our prompts are in a recording (the best hit of each)."""
    samples = read_wav(path.read_bytes(), str(path)).channels[0]
    found: dict[str, Hit] = {}
    for name in catalogue:
        hits = find_prompt(samples, catalogue.samples(name, RATE_HZ), RATE_HZ)
        if hits:
            found[name] = max(hits, key=lambda hit: hit.score)
    return found


def verdicts(result: SceneResult, story: Story, catalogue: Catalogue) -> list[Verdict]:
    """Hold what happened against what should have, by the recordings and not by our own word."""
    caller = prompts_in(result.recordings["caller_heard"], catalogue)
    agent = prompts_in(result.recordings["agent_heard"], catalogue)
    heard = ", ".join(f"{name} at {hit.offset_ms / 1000:.1f} s" for name, hit in caller.items()) or "no prompt"
    quiet = Verdict("nothing of ours in the agent's ear", not agent, ", ".join(agent))
    if result.name == "upset":
        return [
            Verdict("nothing of ours in the caller's ear", not caller, heard if caller else ""),
            quiet,
            Verdict("no strike, ladder untouched", story.count("strike") == 0 and story.rung == "clear", story.rung),
            Verdict("the call ran its course", result.as_expected),
        ]
    told = all(name in caller and caller[name].heard_share > 0.8 for name in ("warning", "closing_transfer"))
    return [
        Verdict("warning and closing prompt whole in the caller's ear", told, heard),
        quiet,
        Verdict("exactly two strikes", story.count("strike") == 2, f"{story.count('strike')} strikes"),
        Verdict("the caller now talks to the supervisor", result.transferred),
        Verdict("every line said, every step came", result.as_expected),
    ]
