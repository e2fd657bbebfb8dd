"""One human call, sans-IO: audio, transcripts and keys go in; effects come out.

Owns: which legs there are, in which phase that leaves the call (``ivr.phases`` has the table), and how its parts are
put together: what was heard (``ivr.words``), what the policy asks for (``ivr.orders``), the prompt under way
(``ivr.prompting``), what was asked of the PBX (``ivr.actions``); all write into one ``ivr.diary``. Never: sockets,
threads, clocks, models. Time is an argument, so a replay runs this very file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audio.types import AudioFrame, Transcript
from ivr import effects as fx
from ivr.actions import Asked
from ivr.diary import Diary
from ivr.drafts import DraftOptions
from ivr.keys import HeldKeys
from ivr.listener import Listener
from ivr.memory import Recalled, about
from ivr.menu import Choice, Left, Outcome
from ivr.orders import Orders
from ivr.phases import TABLE, Happening, Phase, TapLeg
from ivr.prompting import Prompting
from ivr.types import JournalEvent
from ivr.words import Words
from policies import types as pol
from policies.engine import Engine
from policies.pack import Pack
from policies.resume import joined
from policies.types import Audience, EndKind, Side

ASKED: Mapping[Choice, tuple[str, str]] = {
    Choice.CALL_BACK: ("callback_asked", "the caller asks to be called back"),
    Choice.COMPLAINT: ("complaint_asked", "the caller wants to complain about this call"),
}
"""Choices of the menu that leave somebody with something to do."""
SILENT_MS = 400
"""Without a packet for so long a phone is sending none: a busy network's gaps are shorter."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Per-call settings, already validated.

    ``linger_ms``: how long a call without legs keeps its rung. ``echo_tail_ms``: how long after a prompt what is heard
    may still be its echo. ``no_audio_ms``: silence of RTP after which somebody is told. ``deaf_ms``: how long the
    caller's leg may be gone before that is a fault; at a normal end the two legs go one after the other. ``drafts``:
    words while they are said. ``end_at_sentence``: words that make a whole sentence end the utterance as soon as they
    are decoded, if the pause still lasts.
    """

    transcribe_agent: bool = False
    echo_tail_ms: int = 200
    no_audio_ms: int = 8_000
    linger_ms: int = 2_000
    deaf_ms: int = 1_500
    drafts: DraftOptions = DraftOptions()
    end_at_sentence: bool = False


class CallCore:
    """The whole of one call's logic. Every method returns the effects to carry out, in order."""

    def __init__(
        self,
        call_ref: str,
        agent_ext: str | None,
        engine: Engine,
        make_listener: Callable[[Side], Listener],
        options: CallOptions,
        now_ms: int,
    ) -> None:
        self.call_ref, self.agent_ext = call_ref, agent_ext
        self.queue: str | None = None
        self.number_may_be_kept = True
        self.caller_number: str | None = None
        """In full, for those who act on the call; how much of it the journal keeps is settled by ``ivr.calls``."""
        self.engine, self.options = engine, options
        self.phase = Phase.WAITING
        self._make_listener = make_listener
        self._token = itertools.count(1).__next__
        self._legs: dict[Side, TapLeg] = {}
        self._linger_until_ms: int | None = None
        self._deaf_since: tuple[int, str] = (now_ms, "")
        self._deaf_told = False
        self._held_keys = HeldKeys()
        self._diary = Diary(engine, now_ms)
        self._asked = Asked(self._diary.journal, lambda text: self._diary.tell(Audience.AGENT, text))
        self._prompting = Prompting(self._diary, self._token, self._judge, self._mark_over_prompt, options.echo_tail_ms)
        self._orders = Orders(engine, self._diary, self._prompting)
        self._words = Words(
            engine,
            self._diary,
            self._prompting,
            self._legs,
            self._token,
            self._act,
            sides=frozenset(Side) if options.transcribe_agent else frozenset({Side.CALLER}),
            drafts=options.drafts,
            end_at_sentence=options.end_at_sentence,
        )

    # --- what is known of it ------------------------------------------------------------------------------------------

    @property
    def started_ms(self) -> int:
        """When the call became known, on our clock."""
        return self._diary.started_ms

    @property
    def playing(self) -> str | None:
        """The prompt that plays, or is about to."""
        return self._prompting.playing

    @property
    def lag_ms(self) -> int | None:
        """From the end of the latest words to their transcript."""
        return self._words.lag_ms

    @property
    def leg_sides(self) -> tuple[str, ...]:
        """Sides that are tapped now."""
        return tuple(sorted(side.value for side in self._legs))

    @property
    def speaking(self) -> tuple[str, ...]:
        """Sides that are speaking now."""
        return tuple(sorted(side.value for side, leg in self._legs.items() if leg.talking))

    def agent_is_silent(self, now_ms: int) -> bool:
        """Whether the agent's phone sends no packet at all: muted, or saving bandwidth while nobody speaks."""
        leg = self._legs.get(Side.AGENT)
        return leg is not None and now_ms - (leg.last_frame_ms or leg.up_ms) > SILENT_MS

    # --- legs ---------------------------------------------------------------------------------------------------------

    def begin(self, data: Mapping[str, Any], now_ms: int) -> list[fx.Effect]:
        """The call is known: first row of its journal."""
        self._diary.journal(JournalEvent.CALL_STARTED, now_ms, {"agent": self.agent_ext, **data})
        return self._flush()

    def leg_up(self, leg_id: str, side: Side, now_ms: int) -> list[fx.Effect]:
        """A tap leg is answered. A second one for the same side replaces the first, which is hung up."""
        if self.phase is Phase.ENDED:
            return [fx.DropLeg(leg_id, "the call is over")]
        old = self._legs.get(side)
        if old is not None:
            self._diary.add(fx.DropLeg(old.id, "replaced by a newer tap leg"))
        self._legs[side] = TapLeg(leg_id, side, self._make_listener(side), now_ms)
        self._linger_until_ms = None
        self._diary.journal(JournalEvent.LEG_UP, now_ms, {"side": side.value, "leg": leg_id})
        self._move(Happening.CALLER_UP if side is Side.CALLER else Happening.AGENT_UP)
        if side is Side.CALLER:
            self._prompting.leg_up(now_ms)
        return self._flush()

    def leg_down(self, leg_id: str, why: str, now_ms: int) -> list[fx.Effect]:
        """A tap leg is gone. Legs that were replaced before are not missed."""
        leg = next((leg for leg in self._legs.values() if leg.id == leg_id), None)
        if leg is None or self.phase is Phase.ENDED:
            return self._flush()
        for heard in leg.listener.finish(now_ms):
            self._words.heard(leg, heard, now_ms)
        del self._legs[leg.side]
        if not self._legs:
            self._linger_until_ms = now_ms + self.options.linger_ms
            self._move(Happening.ALL_LOST)
        elif leg.side is Side.CALLER:
            self._move(Happening.CALLER_LOST)
            self._deaf_told, self._deaf_since = False, (now_ms, why)
        return self._flush()

    def close(self, why: str, now_ms: int) -> list[fx.Effect]:
        """The human call is over, or we are stopping: forget it."""
        if self.phase is not Phase.ENDED:
            self._finish(why, now_ms)
        return self._flush()

    def resume(self, recalled: Recalled, wall_ms: int, now_ms: int) -> list[fx.Effect]:
        """Go on where an earlier process left this call; people are told where it stands."""
        note, pack = recalled.note, self.engine.pack
        state = None if note is None else note.resumed(pack, now_ms, wall_ms)
        if self.phase is Phase.ENDED or (note is None and not recalled.problem):
            return self._flush()
        if note is None or state is None:
            why = "what was remembered of this call is too old" if note else "what was remembered cannot be read"
            self._diary.signal(now_ms, "not_resumed", f"{why}; its ladder starts afresh")
            return self._flush()
        before, self.engine.state = self.engine.rung, joined(state, self.engine.state)
        particulars = about(note, state, pack, wall_ms)
        self._diary.journal(JournalEvent.SIGNAL, now_ms, {"action": "resumed", **particulars})
        why = "remembered from before Firmline was restarted, or from the Firmline that had this call before"
        if self.engine.rung is not before:
            moved = {"from": before.value, "to": self.engine.rung.value, "cause": "resumed", "why": why, "by": "memory"}
            self._diary.journal(JournalEvent.RUNG, now_ms, {**moved, "pack": pack.version})
        cut = f"; {note.under_way} was cut off and is not carried on by itself" if note.under_way else ""
        self._diary.tell(Audience.AGENT, f"This call goes on at {self.engine.rung.value}{cut}.")
        return self._flush()

    # --- sound and words ----------------------------------------------------------------------------------------------

    def frames(self, leg_id: str, frames: Sequence[AudioFrame], now_ms: int) -> list[fx.Effect]:
        """Audio of one leg, in order."""
        leg = next((leg for leg in self._legs.values() if leg.id == leg_id), None)
        if leg is None or self.phase is Phase.ENDED:
            return []
        leg.last_frame_ms = now_ms
        if leg.silence_told:
            leg.silence_told = False
            self._diary.signal(now_ms, "audio_back", f"the {leg.side.value}'s audio is back")
        for frame in frames:
            for heard in leg.listener.hear(frame, now_ms):
                self._words.heard(leg, heard, now_ms)
        self._words.look(leg, now_ms)
        return self._flush()

    def transcribed(self, token: int, transcript: Transcript, now_ms: int) -> list[fx.Effect]:
        """A transcript is ready. Words that count reach the policy in the order in which they were spoken."""
        if self.phase is not Phase.ENDED:
            self._words.transcribed(token, transcript, now_ms)
        return self._flush()

    # --- people, prompts, PBX -----------------------------------------------------------------------------------------

    def hotkey(self, hotkey: pol.Hotkey, now_ms: int) -> list[fx.Effect]:
        """A person pressed a key: journalled first, then obeyed. A key that is held down is one press."""
        if not self._held_keys.fresh(hotkey, now_ms):
            return []
        self._diary.journal(JournalEvent.HOTKEY, now_ms, {"key": hotkey.key.value, "by": hotkey.by})
        self._judge(hotkey, now_ms)
        return self._flush()

    def prompt_started(self, token: int, t_ms: int, now_ms: int) -> list[fx.Effect]:
        """The first RTP packet of a prompt left at ``t_ms``."""
        if self.phase is not Phase.ENDED:
            self._prompting.started(token, t_ms, now_ms)
        return self._flush()

    def prompt_done(self, token: int, heard: bool, why: str, now_ms: int) -> list[fx.Effect]:
        """A prompt is over; ``heard`` only if all of it left on the caller's leg."""
        if self.phase is not Phase.ENDED:
            self._prompting.done(token, heard, why, now_ms)
        return self._flush()

    def ended(self, kind: EndKind | None, detail: str, now_ms: int) -> list[fx.Effect]:
        """The PBX confirmed an ending (``kind``), or no attempt succeeded (``None``): then the call goes on."""
        if self.phase is Phase.ENDED:
            return []
        self._orders.ending = False
        self._asked.settled()
        if kind is None and not self._legs and self._linger_until_ms is not None:
            self._linger_until_ms = now_ms + self.options.linger_ms  # they were ours to take away and to bring back
        if kind is None:
            self._judge(pol.EndingFailed(detail), now_ms)
            return self._flush()
        for leg in list(self._legs.values()):
            self._diary.add(fx.DropLeg(leg.id, f"the call was ended by {kind.value}"))
        self._finish(f"firmline: {kind.value}", now_ms)
        return self._flush()

    def menu_choice(self, outcome: Outcome, now_ms: int) -> list[fx.Effect]:
        """What the caller chose in the menu, before it is done: for the journal, and for who has to act on it.

        Who asks for a call back leaves their number with that request, whole, unless no number may be kept at all.
        """
        tries = {"invalid": outcome.invalid, "rounds": outcome.rounds}
        if isinstance(outcome, Left):
            self._diary.journal(JournalEvent.SIGNAL, now_ms, {"action": "menu_choice", "choice": "left", **tries})
            return self._flush()
        choice = {"choice": outcome.choice.value, "by": outcome.by}
        self._diary.journal(JournalEvent.SIGNAL, now_ms, {"action": "menu_choice", **choice, **tries})
        if asked := ASKED.get(outcome.choice):
            action, text = asked
            number = self.caller_number if self.number_may_be_kept else None
            about = {"agent": self.agent_ext, "queue": self.queue, "caller_number": number}
            self._diary.journal(JournalEvent.SIGNAL, now_ms, {"action": action, "why": text, **about})
            self._diary.tell(Audience.SUPERVISOR, text)
        return self._flush()

    def carries_on(self, now_ms: int) -> list[fx.Effect]:
        """The caller is with the agent again after an ending that was none: legs may take their time."""
        self._orders.ending = False
        self._asked.settled()
        if not self._legs:
            self._linger_until_ms = now_ms + self.options.linger_ms
        self._judge(pol.CarriedOn(), now_ms)
        return self._flush()

    def action_asked(self, kind: str, data: Mapping[str, Any], now_ms: int) -> list[fx.Effect]:
        """The PBX is about to be asked for something."""
        self._asked.asked(kind, data, now_ms)
        return self._flush()

    def action_sent(self, kind: str, text: str, now_ms: int) -> list[fx.Effect]:
        """The PBX is at it: ``text`` says what happens meanwhile."""
        if self.phase is not Phase.ENDED:
            self._asked.sent(kind, text, now_ms)
        return self._flush()

    def action_report(self, kind: str, ok: bool, data: Mapping[str, Any], now_ms: int) -> list[fx.Effect]:
        """What was asked of the PBX was confirmed, or failed."""
        self._asked.report(kind, ok, data, now_ms)
        return self._flush()

    def adopt(self, pack: Pack, now_ms: int) -> list[fx.Effect]:
        """The rule changed: judge by it from now on if its ladder has the same shape; the journal says which."""
        old = self.engine.pack
        took = self.engine.adopt(pack)
        if took:
            self._words.adopt(self.engine.pack)
        before = old.version.partition("+")[0]
        if self.phase is Phase.ENDED or (pack.version, pack.mode) == (before, old.mode):
            return self._flush()
        if took:
            action, why = "pack_changed", f"the pack changed from {before}"
        elif pack.version == before:
            action, why = (
                "pack_kept",
                f"the mode {pack.mode.value} is for new calls; this one stays in {old.mode.value}",
            )
        else:
            action, why = "pack_kept", f"the ladder of {pack.version} is built otherwise, or goes as far as {pack.mode}"
        self._diary.journal(JournalEvent.SIGNAL, now_ms, {"action": action, "why": why, **self._diary.by_pack()})
        return self._flush()

    # --- time ---------------------------------------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When ``on_deadline`` wants to be called next."""
        if self.phase is Phase.ENDED:
            return None
        linger_ms = None if self._orders.ending else self._linger_until_ms  # the menu takes the legs away, and its time
        times = [linger_ms, self.engine.next_deadline_ms()]
        times += [self._prompting.next_deadline_ms(), self._asked.next_deadline_ms()]
        if self.phase is Phase.DEAF and not self._deaf_told:
            times.append(self._deaf_since[0] + self.options.deaf_ms)
        for leg in self._legs.values():
            times.append(leg.listener.next_deadline_ms())
            if not leg.silence_told:
                times.append((leg.last_frame_ms or leg.up_ms) + self.options.no_audio_ms)
        return min((t for t in times if t is not None), default=None)

    def on_deadline(self, now_ms: int) -> list[fx.Effect]:
        """Whatever was due by ``now_ms``."""
        if self.phase is Phase.ENDED:
            return []
        for leg in list(self._legs.values()):
            for heard in leg.listener.on_deadline(now_ms):
                self._words.heard(leg, heard, now_ms)
            if not leg.silence_told and (leg.last_frame_ms or leg.up_ms) + self.options.no_audio_ms <= now_ms:
                leg.silence_told = True
                self._diary.signal(
                    now_ms, "no_audio", f"no audio from the {leg.side.value} leg: check RTP between PBX and us"
                )
        since_ms, why = self._deaf_since
        if self.phase is Phase.DEAF and not self._deaf_told and since_ms + self.options.deaf_ms <= now_ms:
            self._deaf_told = True
            self._diary.signal(now_ms, "deaf", f"we no longer hear the caller: {why}")
        self._prompting.on_deadline(now_ms, has_leg=Side.CALLER in self._legs)
        self._asked.on_deadline(now_ms)
        self._act(self.engine.on_deadline(now_ms), now_ms)
        if not self._orders.ending and self._linger_until_ms is not None and self._linger_until_ms <= now_ms:
            self._move(Happening.LINGER_OVER)
            self._finish("the call's legs are gone", now_ms)
        return self._flush()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _judge(self, event: pol.Event, now_ms: int) -> None:
        self._act(self.engine.hear(event, now_ms), now_ms)

    def _act(self, actions: Sequence[pol.Action], now_ms: int) -> None:
        """Engine actions become effects; the journal says which pack and which words asked for them."""
        for action in actions:
            if self.phase is Phase.ENDED:
                return
            self._orders.carry_out(action, now_ms)

    def _mark_over_prompt(self, over: bool, now_ms: int) -> None:
        leg = self._legs.get(Side.CALLER)
        if leg is not None:
            for heard in leg.listener.set_over_prompt(over, now_ms):
                self._words.heard(leg, heard, now_ms)

    def _finish(self, why: str, now_ms: int) -> None:
        rung = self.engine.rung.value
        self._prompting.cut_off(why, now_ms)
        self.engine.hear(pol.CallEnded(why), now_ms)
        self.phase = Phase.ENDED
        self._diary.journal(JournalEvent.CALL_ENDED, now_ms, {"why": why, "rung": rung})
        self._diary.add(fx.Finished(why))

    def _move(self, happening: Happening) -> None:
        self.phase = TABLE.get((self.phase, happening), self.phase)

    def _flush(self) -> list[fx.Effect]:
        return self._diary.flush()
