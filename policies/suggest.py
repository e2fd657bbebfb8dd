"""What the policy would do and leaves to a person: offered, not done, and truthful about it.

A withheld step moves nothing: a warning that nobody played was not heard, an ending that nobody confirmed leaves the
rung where it is. The offer says which key carries it out and until when; past that, the key does what it always does.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.pack import Pack, Step
from policies.types import EndKind, Key, Suggest

OFFER_MS = 15_000
"""An agent under stress needs a moment; much later, the words that caused it are forgotten."""
_SAYS = {
    Step.GENTLE_REQUEST: "play the gentle request",
    Step.WARNING: "play the warning",
    Step.FINAL_WARNING: "play the final warning",
    Step.END: "end the call",
}


@dataclass(frozen=True, slots=True)
class Offer:
    """One withheld step. ``kind`` is that of a withheld ending."""

    step: Step
    key: Key
    track: str
    why: str
    until_ms: int
    kind: EndKind | None = None

    def action(self) -> Suggest:
        """What pages are told."""
        return Suggest(self.step.value, self.key, self.kind, self.why, self.until_ms)

    def text(self) -> str:
        """The same in one sentence, for the agent."""
        key = self.key.value.capitalize()
        return f"The policy would {_SAYS[self.step]}: {self.why}. Press {key} to do so."


def offer(pack: Pack, step: Step, track: str, why: str, now_ms: int) -> Offer:
    """``step`` as an offer under ``pack``."""
    until_ms = now_ms + max(OFFER_MS, pack.spec.timing.grace_ms)
    if step is not Step.END:
        return Offer(step, Key.WARN, track, why, until_ms)
    kind = pack.spec.ending.kind
    return Offer(step, Key.TRANSFER if kind is EndKind.TRANSFER else Key.END, track, why, until_ms, kind)


GONE = Suggest(None, None, None, "", 0)
"""Nothing is offered any more."""
ENDS_OFFER = frozenset({Key.WARN, Key.PARDON, Key.END, Key.TRANSFER, Key.DISARM})
"""Keys by which a person has decided, one way or the other."""
