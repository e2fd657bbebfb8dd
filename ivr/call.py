"""One human call, sans-IO: audio, transcripts and keys go in; effects come out.

Owns: which legs there are, the order in which words reach the policy, what plays, what was asked of the PBX, and the
call's journal. Never: sockets, threads, clocks, models. Time is an argument, so a replay runs this very file.

The life of a call, by its tap legs (the human call itself lives in the PBX and needs none of them):

    WAITING --caller leg--> LIVE <--caller leg-- DEAF
       |                     |  \\--caller leg gone, agent's still here--> DEAF
       +--no leg left--> CLOSING <--no leg left--+
                            |--a leg again--> LIVE / WAITING
                            +--linger over--> ENDED

CLOSING exists because a PBX may replace our legs within one call (a transfer, a park): rung and strikes must survive
that. An absent cell means: keep the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from audio.types import AudioFrame, Segment, SpeechEvent, SpeechKind, Transcript
from ivr import effects as fx
from ivr.actions import Asked, PromptTry
from ivr.drafts import DraftOptions
from ivr.hearing import Final, Hearing, Shown
from ivr.keys import HeldKeys
from ivr.listener import LevelSample, Listener
from ivr.memory import Recalled, about
from ivr.menu import Choice, Left, Outcome
from ivr.types import JournalEvent, LiveEvent
from policies import types as pol
from policies.conduct import ConductWatch, LevelHeard, Measured, TurnHeard, WordsHeard
from policies.engine import Engine
from policies.ladder import Rung
from policies.pack import Pack
from policies.resume import joined
from policies.types import Audience, EndKind, Side


class Phase(StrEnum):
    """Where a call stands, by its tap legs."""

    WAITING = "waiting"
    LIVE = "live"
    DEAF = "deaf"
    CLOSING = "closing"
    ENDED = "ended"


class Happening(StrEnum):
    """What moves a call from phase to phase."""

    CALLER_UP = "caller_up"
    AGENT_UP = "agent_up"
    CALLER_LOST = "caller_lost"
    ALL_LOST = "all_lost"
    LINGER_OVER = "linger_over"
    CLOSED = "closed"


TABLE: Mapping[tuple[Phase, Happening], Phase] = {
    (Phase.WAITING, Happening.CALLER_UP): Phase.LIVE,
    (Phase.WAITING, Happening.ALL_LOST): Phase.CLOSING,
    (Phase.WAITING, Happening.CLOSED): Phase.ENDED,
    (Phase.LIVE, Happening.CALLER_LOST): Phase.DEAF,
    (Phase.LIVE, Happening.ALL_LOST): Phase.CLOSING,
    (Phase.LIVE, Happening.CLOSED): Phase.ENDED,
    (Phase.DEAF, Happening.CALLER_UP): Phase.LIVE,
    (Phase.DEAF, Happening.ALL_LOST): Phase.CLOSING,
    (Phase.DEAF, Happening.CLOSED): Phase.ENDED,
    (Phase.CLOSING, Happening.CALLER_UP): Phase.LIVE,
    (Phase.CLOSING, Happening.AGENT_UP): Phase.WAITING,
    (Phase.CLOSING, Happening.LINGER_OVER): Phase.ENDED,
    (Phase.CLOSING, Happening.CLOSED): Phase.ENDED,
}


ASKED: Mapping[Choice, tuple[str, str]] = {
    Choice.CALL_BACK: ("callback_asked", "the caller asks to be called back"),
    Choice.COMPLAINT: ("complaint_asked", "the caller wants to complain about this call"),
}
"""Choices of the menu that leave somebody with something to do."""
SILENT_MS = 400
"""Without a packet for so long a phone is sending none: a busy network's gaps are shorter."""
CLOCK_KEYS = frozenset({"heard_ms", "decided_ms", "start_ms", "end_ms"})
"""Keys of the engine's records that hold times on the clock."""


RAISED_DB = 6.0
"""So far over the usual level of this party, what is said is looked at more often."""


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


@dataclass(slots=True)
class _Leg:
    id: str
    side: Side
    listener: Listener
    up_ms: int
    last_frame_ms: int | None = None
    silence_told: bool = False
    talking: bool = False
    raised: bool = False
    """Louder than this party usually is."""


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
        self.started_ms = now_ms
        self.phase = Phase.WAITING
        self.playing: str | None = None
        self.lag_ms: int | None = None
        """From the end of the latest words to their transcript."""
        self._make_listener = make_listener
        self._conduct = ConductWatch(engine.pack.spec.conduct)
        self._legs: dict[Side, _Leg] = {}
        self._hearing = Hearing(options.drafts, self._token, lambda effect: self._out.append(effect))
        self._held_keys = HeldKeys()
        self._try = PromptTry()
        self._asked = Asked(
            lambda event, now_ms, data: self._journal(event, now_ms, data),
            lambda text: self._out.append(fx.Tell(Audience.AGENT, text)),
        )
        self._last_token = 0
        self._play: fx.Play | None = None
        self._stopping = False
        self._echo_until_ms: int | None = None
        self._linger_until_ms: int | None = None
        self._deaf_since: tuple[int, str] = (now_ms, "")
        self._deaf_told = False
        self._ending = False
        self._hearing_failed_told = False
        self._out: list[fx.Effect] = []

    # --- legs ---------------------------------------------------------------------------------------------------------

    def begin(self, data: Mapping[str, Any], now_ms: int) -> list[fx.Effect]:
        """The call is known: first row of its journal."""
        self._journal(JournalEvent.CALL_STARTED, now_ms, {"agent": self.agent_ext, **data})
        return self._flush()

    def leg_up(self, leg_id: str, side: Side, now_ms: int) -> list[fx.Effect]:
        """A tap leg is answered. A second one for the same side replaces the first, which is hung up."""
        if self.phase is Phase.ENDED:
            return [fx.DropLeg(leg_id, "the call is over")]
        old = self._legs.get(side)
        if old is not None:
            self._out.append(fx.DropLeg(old.id, "replaced by a newer tap leg"))
        self._legs[side] = _Leg(leg_id, side, self._make_listener(side), now_ms)
        self._linger_until_ms = None
        self._journal(JournalEvent.LEG_UP, now_ms, {"side": side.value, "leg": leg_id})
        self._move(Happening.CALLER_UP if side is Side.CALLER else Happening.AGENT_UP)
        if side is Side.CALLER and (again := self._try.leg_up(self._token(), now_ms)) is not None:
            self._start(again, now_ms, again=True)
        return self._flush()

    def leg_down(self, leg_id: str, why: str, now_ms: int) -> list[fx.Effect]:
        """A tap leg is gone. Legs that were replaced before are not missed."""
        leg = next((leg for leg in self._legs.values() if leg.id == leg_id), None)
        if leg is None or self.phase is Phase.ENDED:
            return self._flush()
        for heard in leg.listener.finish(now_ms):
            self._heard(leg, heard, now_ms)
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
            self._signal(now_ms, "not_resumed", f"{why}; its ladder starts afresh")
            return self._flush()
        before, self.engine.state = self.engine.rung, joined(state, self.engine.state)
        particulars = about(note, state, pack, wall_ms)
        self._journal(JournalEvent.SIGNAL, now_ms, {"action": "resumed", **particulars})
        why = "remembered from before Firmline was restarted, or from the Firmline that had this call before"
        if self.engine.rung is not before:
            moved = {"from": before.value, "to": self.engine.rung.value, "cause": "resumed", "why": why, "by": "memory"}
            self._journal(JournalEvent.RUNG, now_ms, {**moved, "pack": pack.version})
        cut = f"; {note.under_way} was cut off and is not carried on by itself" if note.under_way else ""
        self._out.append(fx.Tell(Audience.AGENT, f"This call goes on at {self.engine.rung.value}{cut}."))
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
            self._signal(now_ms, "audio_back", f"the {leg.side.value}'s audio is back")
        for frame in frames:
            for heard in leg.listener.hear(frame, now_ms):
                self._heard(leg, heard, now_ms)
        if leg.talking and self._transcribes(leg.side):
            tense = leg.raised or self.engine.rung is not Rung.CLEAR
            self._hearing.look(leg.side, leg.listener.draft, now_ms, tense=tense)
        return self._flush()

    def transcribed(self, token: int, transcript: Transcript, now_ms: int) -> list[fx.Effect]:
        """A transcript is ready. Words that count reach the policy in the order in which they were spoken."""
        for said in self._hearing.transcribed(token, transcript, now_ms):
            if isinstance(said, Final):
                self._words(said, now_ms)
            else:
                self._show(said, now_ms)
        return self._flush()

    def _transcribes(self, side: Side) -> bool:
        return side is Side.CALLER or self.options.transcribe_agent

    def _heard(self, leg: _Leg, heard: object, now_ms: int) -> None:
        if isinstance(heard, SpeechEvent):
            leg.talking = heard.kind is SpeechKind.ONSET
            if leg.talking:
                self._hearing.speech_began(leg.side, now_ms)
            data = {"side": leg.side.value, "speaking": leg.talking}
            self._out.append(fx.Live(LiveEvent.SPEAKING, now_ms - self.started_ms, data))
            self._measured(TurnHeard(leg.side, leg.talking, heard.t_ms), now_ms)
        elif isinstance(heard, LevelSample):
            if heard.over_baseline_db is not None:
                leg.raised = heard.over_baseline_db >= RAISED_DB
            if leg.side is Side.CALLER:
                self._measured(LevelHeard(heard.t_ms, heard.dbov, heard.over_baseline_db), now_ms)
        elif isinstance(heard, Segment) and self._transcribes(leg.side):
            for said in self._hearing.segment(leg.side, heard, now_ms):
                self._words(said, now_ms)

    def _measured(self, event: Measured, now_ms: int) -> None:
        """Levels, turns and words as conduct; over our own prompt nobody talks over anybody."""
        for episode in self._conduct.hear(event, now_ms):
            if self.playing is None:
                self._act(self.engine.hear(episode, now_ms), now_ms)

    def _show(self, said: Shown, now_ms: int) -> None:
        """Words that may still change: shown, and judged as such; nothing of it is journalled, nothing counts."""
        if self.phase is Phase.ENDED:
            return
        segment = said.segment
        times = {"start_ms": said.start_ms - self.started_ms, "end_ms": segment.end_ms - self.started_ms}
        data = {"side": said.side.value, "words": said.text, **times, "over_prompt": segment.over_prompt}
        self._out.append(fx.Live(LiveEvent.PARTIAL, now_ms - self.started_ms, data))
        utterance = pol.Utterance(
            said.text,
            said.side,
            said.start_ms,
            segment.end_ms,
            final=False,
            over_prompt=segment.over_prompt,
            avg_logprob=said.avg_logprob,
        )
        for action in self.engine.hear(utterance, now_ms):
            if isinstance(action, pol.Record) and action.event == JournalEvent.SIGNAL:
                row = {k: self._since_start(k, v) for k, v in action.data.items()}
                self._out.append(fx.Live(LiveEvent.PARTIAL_SIGNAL, now_ms - self.started_ms, row))
            else:
                self._act([action], now_ms)
        leg = self._legs.get(said.side)
        if said.complete and self.options.end_at_sentence and leg is not None:
            for heard in leg.listener.complete(segment.end_ms):
                self._heard(leg, heard, now_ms)

    def _words(self, item: Final, now_ms: int) -> None:
        if self.phase is Phase.ENDED:
            return
        segment, transcript = item.segment, item.transcript
        self.lag_ms = now_ms - segment.end_ms
        self._journal(
            JournalEvent.UTTERANCE,
            now_ms,
            {
                "side": item.side.value,
                "words": transcript.text,
                "start_ms": segment.start_ms - self.started_ms,
                "end_ms": segment.end_ms - self.started_ms,
                "over_prompt": segment.over_prompt,
                "cut": segment.cut,
                "dropped": transcript.dropped,
                "avg_logprob": round(transcript.avg_logprob, 2),
                "lag_ms": now_ms - segment.end_ms,
            },
        )
        if transcript.dropped == "asr_failed" and not self._hearing_failed_told:
            self._hearing_failed_told = True
            self._signal(now_ms, "hearing_failed", "Firmline could not decode what the caller said; the call goes on")
        if transcript.text and not transcript.dropped:
            utterance = pol.Utterance(
                transcript.text,
                item.side,
                segment.start_ms,
                segment.end_ms,
                over_prompt=segment.over_prompt,
                avg_logprob=transcript.avg_logprob,
            )
            self._act(self.engine.hear(utterance, now_ms), now_ms)
            if item.side is Side.CALLER and not segment.over_prompt:
                words = WordsHeard(segment.start_ms, segment.end_ms, len(transcript.text.split()))
                self._measured(words, now_ms)

    # --- people, prompts, PBX -----------------------------------------------------------------------------------------

    def hotkey(self, hotkey: pol.Hotkey, now_ms: int) -> list[fx.Effect]:
        """A person pressed a key: journalled first, then obeyed. A key that is held down is one press."""
        if not self._held_keys.fresh(hotkey, now_ms):
            return []
        self._journal(JournalEvent.HOTKEY, now_ms, {"key": hotkey.key.value, "by": hotkey.by})
        self._act(self.engine.hear(hotkey, now_ms), now_ms)
        return self._flush()

    def prompt_started(self, token: int, t_ms: int, now_ms: int) -> list[fx.Effect]:
        """The first RTP packet of a prompt left at ``t_ms``."""
        play = self._play
        if play is None or play.token != token or self.phase is Phase.ENDED:
            return self._flush()
        self._try.started()
        self._echo_until_ms = None
        self._mark_over_prompt(True, now_ms)
        self._journal(JournalEvent.ACTION_DONE, now_ms, self._timing(play, first_rtp_ms=t_ms - self.started_ms))
        self._act(self.engine.hear(pol.PromptStarted(play.prompt, t_ms), now_ms), now_ms)
        return self._flush()

    def prompt_done(self, token: int, heard: bool, why: str, now_ms: int) -> list[fx.Effect]:
        """A prompt is over; ``heard`` only if all of it left on the caller's leg."""
        play = self._play
        if play is None or play.token != token or self.phase is Phase.ENDED:
            return self._flush()
        if not heard and not self._stopping and self._try.failed_to_start(why):
            return self._flush()  # the PBX may be about to give us a new leg
        self._prompt_over(play, heard, why, now_ms)
        return self._flush()

    def _prompt_over(self, play: fx.Play, heard: bool, why: str, now_ms: int) -> None:
        """Heard in full, stopped, or not heard; what was not heard although it should have been is told."""
        self._play, self.playing = None, None
        self._try.over()
        self._echo_until_ms = now_ms + self.options.echo_tail_ms
        if not heard:
            self._journal(JournalEvent.ACTION_FAILED, now_ms, {**self._timing(play), "error": why or "stopped"})
            if not self._stopping:
                text = f"The prompt {play.prompt} was not heard in full: {why or 'it stopped'}."
                self._out.append(fx.Tell(Audience.AGENT, text))
        self._act(self.engine.hear(pol.PromptDone(play.prompt, now_ms, heard), now_ms), now_ms)

    def _start(self, play: fx.Play, now_ms: int, *, again: bool) -> None:
        """Ask for a prompt on the caller's leg."""
        self._play, self.playing, self._stopping = play, play.prompt, False
        if not again:
            self._try.begin(play, now_ms)
        more = {"again": True} if again else {}
        self._journal(JournalEvent.ACTION_REQUESTED, now_ms, self._timing(play, **more))
        self._out.append(play)

    def _prompt_due(self, now_ms: int) -> None:
        """No packet of the prompt has left although it should have: once more if there is a leg, else that was it."""
        due_ms, play = self._try.next_deadline_ms(), self._play
        if due_ms is None or play is None or due_ms > now_ms:
            return
        if not self._try.waits:
            self._out.append(fx.StopPlaying("no packet of it left"))
        if self._try.may_again and Side.CALLER in self._legs:
            self._start(self._try.again(self._token(), now_ms), now_ms, again=True)
        else:
            self._prompt_over(play, False, self._try.why or "no packet of it left on the caller's leg", now_ms)

    def ended(self, kind: EndKind | None, detail: str, now_ms: int) -> list[fx.Effect]:
        """The PBX confirmed an ending (``kind``), or no attempt succeeded (``None``): then the call goes on."""
        if self.phase is Phase.ENDED:
            return []
        self._ending = False
        self._asked.settled()
        if kind is None and not self._legs and self._linger_until_ms is not None:
            self._linger_until_ms = now_ms + self.options.linger_ms  # they were ours to take away and to bring back
        if kind is None:
            self._act(self.engine.hear(pol.EndingFailed(detail), now_ms), now_ms)
            return self._flush()
        for leg in list(self._legs.values()):
            self._out.append(fx.DropLeg(leg.id, f"the call was ended by {kind.value}"))
        self._finish(f"firmline: {kind.value}", now_ms)
        return self._flush()

    def menu_choice(self, outcome: Outcome, now_ms: int) -> list[fx.Effect]:
        """What the caller chose in the menu, before it is done: for the journal, and for who has to act on it.

        Who asks for a call back leaves their number with that request, whole, unless no number may be kept at all.
        """
        tries = {"invalid": outcome.invalid, "rounds": outcome.rounds}
        if isinstance(outcome, Left):
            self._journal(JournalEvent.SIGNAL, now_ms, {"action": "menu_choice", "choice": "left", **tries})
            return self._flush()
        choice = {"choice": outcome.choice.value, "by": outcome.by}
        self._journal(JournalEvent.SIGNAL, now_ms, {"action": "menu_choice", **choice, **tries})
        if asked := ASKED.get(outcome.choice):
            action, text = asked
            number = self.caller_number if self.number_may_be_kept else None
            about = {"agent": self.agent_ext, "queue": self.queue, "caller_number": number}
            self._journal(JournalEvent.SIGNAL, now_ms, {"action": action, "why": text, **about})
            self._out.append(fx.Tell(Audience.SUPERVISOR, text))
        return self._flush()

    def carries_on(self, now_ms: int) -> list[fx.Effect]:
        """The caller is with the agent again after an ending that was none: legs may take their time."""
        self._ending = False
        self._asked.settled()
        if not self._legs:
            self._linger_until_ms = now_ms + self.options.linger_ms
        self._act(self.engine.hear(pol.CarriedOn(), now_ms), now_ms)
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
            self._conduct.adopt(self.engine.pack.spec.conduct)
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
        self._journal(JournalEvent.SIGNAL, now_ms, {"action": action, "why": why, **self._by_pack()})
        return self._flush()

    # --- time ---------------------------------------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When ``on_deadline`` wants to be called next."""
        if self.phase is Phase.ENDED:
            return None
        linger_ms = None if self._ending else self._linger_until_ms  # the menu takes the legs away, and its time
        times = [self._echo_until_ms, linger_ms, self.engine.next_deadline_ms()]
        times += [self._try.next_deadline_ms(), self._asked.next_deadline_ms()]
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
                self._heard(leg, heard, now_ms)
            if not leg.silence_told and (leg.last_frame_ms or leg.up_ms) + self.options.no_audio_ms <= now_ms:
                leg.silence_told = True
                self._signal(
                    now_ms, "no_audio", f"no audio from the {leg.side.value} leg: check RTP between PBX and us"
                )
        since_ms, why = self._deaf_since
        if self.phase is Phase.DEAF and not self._deaf_told and since_ms + self.options.deaf_ms <= now_ms:
            self._deaf_told = True
            self._signal(now_ms, "deaf", f"we no longer hear the caller: {why}")
        if self._echo_until_ms is not None and self._echo_until_ms <= now_ms:
            self._echo_until_ms = None
            self._mark_over_prompt(False, now_ms)
        self._prompt_due(now_ms)
        self._asked.on_deadline(now_ms)
        self._act(self.engine.on_deadline(now_ms), now_ms)
        if not self._ending and self._linger_until_ms is not None and self._linger_until_ms <= now_ms:
            self._move(Happening.LINGER_OVER)
            self._finish("the call's legs are gone", now_ms)
        return self._flush()

    def agent_is_silent(self, now_ms: int) -> bool:
        """Whether the agent's phone sends no packet at all: muted, or saving bandwidth while nobody speaks."""
        leg = self._legs.get(Side.AGENT)
        return leg is not None and now_ms - (leg.last_frame_ms or leg.up_ms) > SILENT_MS

    @property
    def leg_sides(self) -> tuple[str, ...]:
        """Sides that are tapped now."""
        return tuple(sorted(side.value for side in self._legs))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _act(self, actions: Sequence[pol.Action], now_ms: int) -> None:
        """Engine actions become effects; the journal says which pack and which words asked for them."""
        for action in actions:
            if self.phase is Phase.ENDED:
                return
            self._act_one(action, now_ms)

    def _act_one(self, action: pol.Action, now_ms: int) -> None:
        match action:
            case pol.PlayPrompt():
                play = fx.Play(self._token(), action.prompt, action.why, action.heard_ms, now_ms)
                self._start(play, now_ms, again=False)
            case pol.StopPrompt():
                self._stopping = True
                if self._try.waits and self._play is not None:
                    self._prompt_over(self._play, False, action.why, now_ms)
                self._out.append(fx.StopPlaying(action.why))
            case pol.EndCall():
                if self._ending:
                    return
                self._ending = True
                attempts = self._attempts(action.kind)
                self._out.append(fx.End(attempts, action.why, action.heard_ms, now_ms, action.target))
            case pol.PauseAgent():
                self._out.append(fx.PauseAgent(action.why))
            case pol.Notify():
                self._out.append(fx.Tell(action.audience, action.text, action.page))
            case pol.Suggest():
                self._suggest(action, now_ms)
            case pol.StartCountdown():
                data = {"action": "countdown", "kind": action.kind.value, "why": action.why, **self._by_pack()}
                deadline_ms = action.deadline_ms - self.started_ms
                self._journal(JournalEvent.SIGNAL, now_ms, {**data, "deadline_ms": deadline_ms})
            case pol.StopCountdown():
                data = {"action": "countdown_stopped", "why": action.why, **self._by_pack()}
                self._journal(JournalEvent.SIGNAL, now_ms, data)
            case pol.Record():
                row = {k: self._since_start(k, v) for k, v in action.data.items()}
                self._journal(JournalEvent(action.event), now_ms, row)

    def _suggest(self, action: pol.Suggest, now_ms: int) -> None:
        """Pages are told; what became of it, the journal knows by the key that was pressed."""
        t_ms = now_ms - self.started_ms
        if action.step is None or action.key is None:
            self._out.append(fx.Live(LiveEvent.SUGGESTION_GONE, t_ms))
            return
        kind = None if action.kind is None else action.kind.value
        what = {"step": action.step, "key": action.key.value, "kind": kind, "why": action.why, **self._by_pack()}
        until_ms = action.until_ms - self.started_ms
        self._out.append(fx.Live(LiveEvent.SUGGESTION, t_ms, {**what, "until_ms": until_ms}))

    @property
    def speaking(self) -> tuple[str, ...]:
        """Sides that are speaking now."""
        return tuple(sorted(side.value for side, leg in self._legs.items() if leg.talking))

    def _since_start(self, key: str, value: object) -> object:
        """The engine speaks in clock time; the journal counts from the call's start."""
        return value - self.started_ms if key in CLOCK_KEYS and isinstance(value, int) else value

    def _by_pack(self) -> dict[str, str]:
        return {"pack": self.engine.pack.version, "mode": self.engine.pack.mode.value}

    def _attempts(self, kind: EndKind) -> tuple[EndKind, ...]:
        """The ending asked for, then the pack's fallbacks if it is the pack's own ending."""
        ending = self.engine.pack.spec.ending
        return (kind, *ending.fallbacks) if kind is ending.kind else (kind,)

    def _timing(self, play: fx.Play, **more: Any) -> dict[str, Any]:
        heard = None if play.heard_ms is None else play.heard_ms - self.started_ms
        return {
            "action": "play",
            "prompt": play.prompt,
            "why": play.why,
            **self._by_pack(),
            "heard_ms": heard,
            "decided_ms": play.decided_ms - self.started_ms,
            **more,
        }

    def _mark_over_prompt(self, over: bool, now_ms: int) -> None:
        leg = self._legs.get(Side.CALLER)
        if leg is not None:
            for heard in leg.listener.set_over_prompt(over, now_ms):
                self._heard(leg, heard, now_ms)

    def _signal(self, now_ms: int, what: str, text: str) -> None:
        self._journal(JournalEvent.SIGNAL, now_ms, {"action": what, "why": text})
        self._out.append(fx.Tell(Audience.SUPERVISOR, text))

    def _finish(self, why: str, now_ms: int) -> None:
        rung = self.engine.rung.value
        if self._play is not None:  # the PBX was quicker than our own leg to say that the call is over
            self._journal(JournalEvent.ACTION_FAILED, now_ms, {**self._timing(self._play), "error": why})
            self._play = None
            self._try.over()
        self.engine.hear(pol.CallEnded(why), now_ms)
        self.phase = Phase.ENDED
        self._journal(JournalEvent.CALL_ENDED, now_ms, {"why": why, "rung": rung})
        self._out.append(fx.Finished(why))

    def _move(self, happening: Happening) -> None:
        self.phase = TABLE.get((self.phase, happening), self.phase)

    def _token(self) -> int:
        self._last_token += 1
        return self._last_token

    def _journal(self, event: JournalEvent, now_ms: int, data: Mapping[str, Any]) -> None:
        self._out.append(fx.Journal(event, now_ms - self.started_ms, data))

    def _flush(self) -> list[fx.Effect]:
        out, self._out = self._out, []
        return out
