"""A live call: carries out the core's effects on real legs, recogniser, PBX and journal, and brings back what happened.

Owns: one :class:`~ivr.call.CallCore`, its legs, its timer, its playback and its tasks. Never decides anything.
Everything runs on the loop. A fault in here is logged and counted, and the human call goes on: nothing that goes wrong
in this file may end a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from audio.prompts import Catalogue
from audio.types import AudioFrame, Segment, SegmentKind, Transcript
from ivr import effects as fx
from ivr.call import CallCore
from ivr.clock import monotonic_ms, wall_iso, wall_s
from ivr.errors import PbxError
from ivr.lines.base import Leg, Playback, PlaybackResult
from ivr.memory import Memory, Note
from ivr.menu import Chosen, Outcome
from ivr.menu_desk import MenuDesk, MenuEnd
from ivr.metrics import Metrics
from ivr.pbx.base import CallRef, PbxControl
from ivr.phases import Phase
from ivr.types import JournalEvent, JournalRow, LiveEvent, LiveRow
from policies.ladder import LadderState
from policies.pack import Pack
from policies.types import EndKind, Hotkey, Side

log = structlog.get_logger("firmline.call")

CALL_OVER = "the call is over"


class Recogniser(Protocol):
    """What a session needs of the speech recogniser."""

    def submit(self, segment: Segment) -> asyncio.Future[Transcript]:
        """Queue a segment; the future never raises."""

    def promote(self, future: asyncio.Future[Transcript]) -> None:
        """The offer behind ``future`` has become the final."""


class Sink(Protocol):
    """Where journal rows go; must neither block nor raise."""

    def write(self, row: JournalRow) -> None:
        """Take one row."""

    def live(self, row: LiveRow) -> None:
        """Take what watchers may see now and nobody keeps."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything a session acts on; one for all calls."""

    loop: asyncio.AbstractEventLoop
    asr: Recogniser
    catalogue: Catalogue
    control: PbxControl
    sink: Sink
    metrics: Metrics
    transfer_to: str
    memory: Memory = field(default_factory=Memory)
    menus: MenuDesk | None = None
    """Where there is one; else a call cannot end in a menu."""


class CallSession:
    """One live call."""

    def __init__(self, call_id: str, core: CallCore, world: World, on_finished: Callable[[CallSession], None]) -> None:
        self.id, self.core, self.started_at = call_id, core, wall_iso()
        self._world, self._on_finished = world, on_finished
        self._legs: dict[str, Leg] = {}
        self._sides: dict[Side, str] = {}
        self._playback: Playback | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: dict[int, asyncio.Future[Transcript]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_ms = 0
        self._ending_tasks = 0
        self._over_meanwhile = False
        self._menu_end: MenuEnd | None = None
        self._waking = 0
        """Token of the prompt for which the PBX is being made to send; 0: none."""
        self._ending_kind: EndKind | None = None
        self._kept = LadderState()
        self._recalled = False
        self.leaving = False
        """We go and the call lives on: what its ladder left is for whoever comes next."""
        self._log = log.bind(call=call_id, call_ref=core.call_ref)

    # --- what happens to the call -------------------------------------------------------------------------------------

    def begin(self, **data: Any) -> None:
        """First row of the journal; what an earlier process left of this call is looked up meanwhile."""
        self._do(self.core.begin, data)
        self._spawn(self._recall())

    async def _recall(self) -> None:
        recalled = await self._world.memory.recall(self.core.call_ref)
        self._recalled = True
        self._do(self.core.resume, recalled, round(wall_s() * 1000))

    def leg_up(self, leg: Leg, side: Side) -> None:
        """A tap leg is answered."""
        self._legs[leg.id] = leg
        self._sides[side] = leg.id
        self._do(self.core.leg_up, leg.id, side)

    def leg_down(self, leg: Leg, why: str) -> None:
        """A tap leg is gone, whoever ended it."""
        self._legs.pop(leg.id, None)
        self._do(self.core.leg_down, leg.id, why)

    def frames(self, leg: Leg, frames: Sequence[AudioFrame]) -> None:
        """Audio of one leg."""
        self._do(self.core.frames, leg.id, frames)

    def hotkey(self, hotkey: Hotkey) -> None:
        """A person pressed a key."""
        self._do(self.core.hotkey, hotkey)

    def adopt(self, pack: Pack) -> bool:
        """The pack changed; whether this call judges by it now."""
        self._do(self.core.adopt, pack)
        now = self.core.engine.pack
        return now.version.startswith(pack.version) and now.mode is pack.mode

    def ending_sent(self, text: str) -> None:
        """The PBX is at the ending that we asked for; ``text`` says what happens meanwhile."""
        if self._ending_tasks and self._ending_kind is not None:
            self._do(self.core.action_sent, self._ending_kind.value, text)

    def human_call_over(self) -> None:
        """The PBX says that the human call is over. While we are ending it ourselves, that is for the ending to say."""
        if self._ending_tasks:
            self._over_meanwhile = True
        else:
            self.close(CALL_OVER)

    def leave(self, why: str) -> None:
        """We go, the call lives on: its tap legs are hung up, and its ladder is remembered."""
        self.leaving = True
        self.close(why)

    def close(self, why: str) -> None:
        """Forget the call; its tap legs are hung up, the human call is not touched."""
        self._do(self.core.close, why)
        for leg in list(self._legs.values()):
            leg.hang_up()

    # --- carrying out -------------------------------------------------------------------------------------------------

    def _do(self, step: Callable[..., list[fx.Effect]], *args: Any) -> None:
        """Run one step of the core and its effects; a fault costs this step, never the call."""
        now_ms = monotonic_ms()
        try:
            effects = step(*args, now_ms)
        except Exception:
            self._world.metrics.internal_error("call")
            self._log.exception("a step of the call failed; the call goes on", step=step.__name__)
            effects = []
        for effect in effects:
            try:
                self._carry_out(effect)
            except Exception:
                self._world.metrics.internal_error("call")
                self._log.exception("an effect failed; the call goes on", effect=type(effect).__name__)
        self._remember(now_ms)
        self._arm_timer()

    def _remember(self, now_ms: int) -> None:
        """Leave a note of the ladder as it stands, if it moved; not before its past was read."""
        state = self.core.engine.state
        if not self._recalled or state == self._kept or self.core.phase is Phase.ENDED:
            return
        self._kept = state
        note = Note.of(self.id, self.core.engine.pack, state, now_ms, round(wall_s() * 1000))
        self._world.memory.keep(self.core.call_ref, note)

    def _arm_timer(self) -> None:
        """Wake at the core's next deadline. A timer that is due sooner stays: waking early is harmless, and a deadline
        that every frame pushes on would else cost a new timer a frame."""
        due_ms = self.core.next_deadline_ms()
        if self._timer is not None:
            if due_ms is not None and self._timer_due_ms <= due_ms:
                return
            self._timer.cancel()
            self._timer = None
        if due_ms is not None:
            self._timer_due_ms = due_ms
            self._timer = self._world.loop.call_later(max(1, due_ms - monotonic_ms()) / 1000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._do(self.core.on_deadline)

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Transcribe() | fx.Promote() | fx.Forget():
                self._recognise(effect)
            case fx.Play():
                self._play(effect)
            case fx.StopPlaying():
                self._stop_playing()
            case fx.End():
                self._spawn(self._end(effect))
            case fx.PauseAgent():
                self._spawn(self._pause_agent(effect))
            case fx.DropLeg():
                leg = self._legs.get(effect.leg_id)
                if leg is not None:
                    leg.hang_up()
            case fx.Journal():
                self._journal(effect)
            case fx.Live():
                self._world.sink.live(LiveRow(self.id, effect.event, wall_iso(), effect.t_ms, effect.data))
            case fx.Tell():
                self._log.info("told", audience=effect.audience.value, detail=effect.text, page=effect.page)
                self._world.metrics.told(effect.audience.value, page=effect.page)
                told = {"audience": effect.audience.value, "detail": effect.text, "page": effect.page}
                t_ms = monotonic_ms() - self.core.started_ms
                self._world.sink.live(LiveRow(self.id, LiveEvent.TOLD, wall_iso(), t_ms, told))
            case fx.Finished():
                self._on_finished(self)

    def _journal(self, effect: fx.Journal) -> None:
        self._count(effect)
        self._world.sink.write(JournalRow(self.id, effect.event, wall_iso(), effect.t_ms, effect.data))

    def _count(self, effect: fx.Journal) -> None:
        metrics, data = self._world.metrics, effect.data
        match effect.event:
            case JournalEvent.STRIKE:
                metrics.strike(str(data.get("track")))
            case JournalEvent.ACTION_DONE:
                metrics.action(str(data.get("action")), "done")
            case JournalEvent.ACTION_FAILED:
                metrics.action(str(data.get("action")), "failed")
            case JournalEvent.UTTERANCE:
                metrics.utterance(str(data.get("side")), data.get("dropped"))

    def _recognise(self, effect: fx.ForRecogniser) -> None:
        if isinstance(effect, fx.Transcribe):
            self._transcribe(effect)
            return
        future = self._asked.get(effect.token)
        if future is None:
            return
        if isinstance(effect, fx.Promote):
            self._world.asr.promote(future)
        else:
            future.cancel()

    def _transcribe(self, effect: fx.Transcribe) -> None:
        future = self._world.asr.submit(effect.segment)
        asked_ms = monotonic_ms()
        self._asked[effect.token] = future

        def done(result: asyncio.Future[Transcript]) -> None:
            self._asked.pop(effect.token, None)
            if not result.cancelled():
                transcript = result.result()
                if effect.segment.kind is SegmentKind.DRAFT:
                    self._do(self.core.transcribed, effect.token, transcript)
                    return
                self._world.metrics.asr_decoded(monotonic_ms() - asked_ms, transcript.decode_ms)
                self._spawn(self._understood(effect, transcript))

        future.add_done_callback(done)

    async def _understood(self, effect: fx.Transcribe, transcript: Transcript) -> None:
        """Read the meaning in a thread first (some milliseconds), so that judging it holds nobody up on the loop."""
        meaning = self.core.engine.pack.meaning
        if meaning is not None and effect.side is Side.CALLER and transcript.text:
            try:
                await asyncio.to_thread(meaning.prepare, transcript.text)
            except Exception:
                self._world.metrics.internal_error("meaning")
                self._log.exception("the meaning could not be read ahead")
        self._do(self.core.transcribed, effect.token, transcript)

    def _stop_playing(self) -> None:
        self._waking = 0
        if self._playback is not None:
            self._playback.stop()

    def _play(self, effect: fx.Play) -> None:
        menus = self._world.menus
        self._waking = 0
        if menus is not None and self.core.agent_is_silent(monotonic_ms()):
            self._waking = effect.token
            self._spawn(self._play_awake(effect, menus))
        else:
            self._start_playing(effect)

    async def _play_awake(self, effect: fx.Play, menus: MenuDesk) -> None:
        """The agent's phone sends nothing, so a prompt beside it would not be heard: the PBX is made to send first."""
        asleep: Callable[[], None] = lambda: None  # noqa: E731
        try:
            asleep = await menus.wake(CallRef(self.core.call_ref, self.core.agent_ext))
        except PbxError as exc:
            self._log.warning("the caller may not hear this prompt", prompt=effect.prompt, error=str(exc))
        if self._waking != effect.token:
            asleep()
            self._do(self.core.prompt_done, effect.token, False, "stopped before it began")
            return
        playback = self._start_playing(effect)
        if playback is None:
            asleep()
        else:
            playback.done.add_done_callback(lambda _over: asleep())

    def _start_playing(self, effect: fx.Play) -> Playback | None:
        leg = self._legs.get(self._sides.get(Side.CALLER, ""))
        if leg is None:
            self._world.loop.call_soon(
                self._do, self.core.prompt_done, effect.token, False, "no leg to the caller to play on"
            )
            return None
        playback = leg.play(self._world.catalogue.samples(effect.prompt, leg.rate_hz))
        self._playback = playback

        def started(result: asyncio.Future[int]) -> None:
            if not result.cancelled() and result.exception() is None:
                self._world.metrics.reaction(effect.prompt, effect.heard_ms, effect.decided_ms, result.result())
                self._do(self.core.prompt_started, effect.token, result.result())

        def done(result: asyncio.Future[PlaybackResult]) -> None:
            if not result.cancelled():
                outcome = result.result()
                self._do(self.core.prompt_done, effect.token, outcome.completed, outcome.why)

        playback.started.add_done_callback(started)
        playback.done.add_done_callback(done)
        return playback

    # --- the PBX ------------------------------------------------------------------------------------------------------

    async def _end(self, effect: fx.End) -> None:
        """Try each ending in turn until the PBX confirms one."""
        self._ending_tasks += 1
        try:
            await self._end_in_turn(effect)
        finally:
            self._ending_tasks -= 1
        if self._over_meanwhile:
            self.close(CALL_OVER)

    async def _end_in_turn(self, effect: fx.End) -> None:
        ref = CallRef(self.core.call_ref, self.core.agent_ext)
        last = "no ending is configured"
        for kind in effect.attempts:
            failure = await self._attempt(kind, ref, effect)
            if failure is None:
                if self._menu_end is not None and self._menu_end.with_agent:
                    self._do(self.core.carries_on)
                else:
                    self._do(self.core.ended, kind, "confirmed by the PBX")
                return
            last = failure
        self._do(self.core.ended, None, last)

    async def _attempt(self, kind: EndKind, ref: CallRef, effect: fx.End) -> str | None:
        started = self.core.started_ms
        data: dict[str, Any] = {
            "action": kind.value,
            "why": effect.why,
            "pack": self.core.engine.pack.version,
            "mode": self.core.engine.pack.mode.value,
            "target": (effect.target or self._world.transfer_to) if kind is EndKind.TRANSFER else None,
            "heard_ms": None if effect.heard_ms is None else effect.heard_ms - started,
            "decided_ms": effect.decided_ms - started,
        }
        self._do(self.core.action_asked, kind.value, data)
        self._ending_kind = kind
        try:
            if kind is EndKind.HANGUP:
                await self._world.control.hang_up(ref, effect.why)
            elif kind is EndKind.TRANSFER:
                await self._world.control.transfer(ref, effect.target or self._world.transfer_to, effect.why)
            elif self._world.menus is None:
                raise PbxError("this attachment has no menu")
            else:
                data |= await self._menu(self._world.menus, ref)
        except PbxError as exc:
            self._do(self.core.action_report, kind.value, False, {**data, "error": str(exc)})
            return str(exc)
        except Exception as exc:
            self._world.metrics.internal_error("control")
            self._log.exception("the control call failed; the human call goes on")
            self._do(self.core.action_report, kind.value, False, {**data, "error": f"{type(exc).__name__}"})
            return f"internal fault: {type(exc).__name__}"
        self._do(self.core.action_report, kind.value, True, {**data, "confirmed_ms": monotonic_ms() - started})
        return None

    async def _menu(self, menus: MenuDesk, ref: CallRef) -> dict[str, Any]:
        """The caller's time in the menu; returns what the journal's row about it holds besides."""
        self._menu_end = None

        def chose(outcome: Outcome) -> None:
            self._do(self.core.menu_choice, outcome)

        number_known = self.core.caller_number is not None
        self._menu_end = end = await menus.offer(ref, number_known=number_known, on_choice=chose)
        choice = end.outcome.choice.value if isinstance(end.outcome, Chosen) else "left"
        return {"choice": choice, "reached": end.reached or None}

    async def _pause_agent(self, effect: fx.PauseAgent) -> None:
        kind, pack = "pause_agent", self.core.engine.pack
        data = {"action": kind, "why": effect.why, "pack": pack.version, "mode": pack.mode.value}
        self._do(self.core.action_asked, kind, data)
        try:
            await self._world.control.pause_agent(CallRef(self.core.call_ref, self.core.agent_ext), effect.why)
        except PbxError as exc:
            self._do(self.core.action_report, kind, False, {**data, "error": str(exc)})
        except Exception as exc:
            self._world.metrics.internal_error("control")
            self._log.exception("the pause could not be asked for; the call goes on")
            self._do(self.core.action_report, kind, False, {**data, "error": f"{type(exc).__name__}"})
        else:
            self._do(self.core.action_report, kind, True, data)

    def _spawn(self, coroutine: Any) -> None:
        task = self._world.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Wait for control calls under way (used at shutdown, bounded by the caller)."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
