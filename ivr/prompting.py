"""The prompt under way in one call: asked for, begun, over, or not heard, and told. Sans-I/O.

::

    --ask--> ASKED --first packet--> PLAYING --heard, stopped, cut off--> over; its echo may linger
               |--no packet in time, or its leg is gone--> ASKED   (once more, also on a new leg)
               +--nor the second time--> over, not heard

The policy hears of the beginning and of the end; what the caller says meanwhile, and while the echo lasts, is marked.
``ivr.actions.PromptTry`` knows the times and whether another try is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ivr import effects as fx
from ivr.actions import PromptTry
from ivr.diary import Diary
from ivr.types import JournalEvent
from policies import types as pol
from policies.types import Audience


class Prompting:
    """See the module.

    ``judge`` hands an event to the policy and carries out what it asks for; ``mark`` says to the caller's ears whether
    our own prompt is in them. ``echo_tail_ms``: how long after a prompt what is heard may still be its echo.
    """

    def __init__(
        self,
        diary: Diary,
        make_token: Callable[[], int],
        judge: Callable[[pol.Event, int], None],
        mark: Callable[[bool, int], None],
        echo_tail_ms: int,
    ) -> None:
        self.playing: str | None = None
        self.echo_until_ms: int | None = None
        self._diary, self._token, self._judge, self._mark = diary, make_token, judge, mark
        self._echo_tail_ms = echo_tail_ms
        self._try = PromptTry()
        self._play: fx.Play | None = None
        self._stopping = False

    def ask(self, wanted: pol.PlayPrompt, now_ms: int) -> None:
        """In place of what is playing."""
        play = fx.Play(self._token(), wanted.prompt, wanted.why, wanted.heard_ms, now_ms)
        self._try.begin(play, now_ms)
        self._start(play, now_ms)

    def stop(self, why: str, now_ms: int) -> None:
        """A prompt that still waits for a leg is over at once; else its end is reported by whoever plays it."""
        self._stopping = True
        if self._try.waits and self._play is not None:
            self._over(self._play, False, why, now_ms)
        self._diary.add(fx.StopPlaying(why))

    def leg_up(self, now_ms: int) -> None:
        """A leg to the caller is there: the prompt may have waited for one."""
        if (again := self._try.leg_up(self._token(), now_ms)) is not None:
            self._start(again, now_ms, again=True)

    def started(self, token: int, t_ms: int, now_ms: int) -> None:
        """The first RTP packet left at ``t_ms``."""
        play = self._play
        if play is None or play.token != token:
            return
        self._try.started()
        self.echo_until_ms = None
        self._mark(True, now_ms)
        first_ms = t_ms - self._diary.started_ms
        self._diary.journal(JournalEvent.ACTION_DONE, now_ms, self._timing(play, first_rtp_ms=first_ms))
        self._judge(pol.PromptStarted(play.prompt, t_ms), now_ms)

    def done(self, token: int, heard: bool, why: str, now_ms: int) -> None:
        """It is over; ``heard`` only if all of it left on the caller's leg."""
        play = self._play
        if play is None or play.token != token:
            return
        if not heard and not self._stopping and self._try.failed_to_start(why):
            return  # the PBX may be about to give us a new leg
        self._over(play, heard, why, now_ms)

    def cut_off(self, why: str, now_ms: int) -> None:
        """The call is over: the PBX was quicker than our own leg to say so."""
        if self._play is not None:
            self._failed(self._play, why, now_ms)
            self._play = None
            self._try.over()

    def next_deadline_ms(self) -> int | None:
        """When ``on_deadline`` wants to be called next."""
        times = (self.echo_until_ms, self._try.next_deadline_ms())
        return min((t for t in times if t is not None), default=None)

    def on_deadline(self, now_ms: int, *, has_leg: bool) -> None:
        """The echo is over, or a first packet is overdue; ``has_leg``: whether there is one to the caller now."""
        if self.echo_until_ms is not None and self.echo_until_ms <= now_ms:
            self.echo_until_ms = None
            self._mark(False, now_ms)
        due_ms, play = self._try.next_deadline_ms(), self._play
        if due_ms is None or play is None or due_ms > now_ms:
            return
        if not self._try.waits:
            self._diary.add(fx.StopPlaying("no packet of it left"))
        if self._try.may_again and has_leg:
            self._start(self._try.again(self._token(), now_ms), now_ms, again=True)
        else:
            self._over(play, False, self._try.why or "no packet of it left on the caller's leg", now_ms)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _start(self, play: fx.Play, now_ms: int, *, again: bool = False) -> None:
        self._play, self.playing, self._stopping = play, play.prompt, False
        more = {"again": True} if again else {}
        self._diary.journal(JournalEvent.ACTION_REQUESTED, now_ms, self._timing(play, **more))
        self._diary.add(play)

    def _over(self, play: fx.Play, heard: bool, why: str, now_ms: int) -> None:
        """Heard in full, stopped, or not heard; what was not heard although it should have been is told."""
        self._play, self.playing = None, None
        self._try.over()
        self.echo_until_ms = now_ms + self._echo_tail_ms
        if not heard:
            self._failed(play, why or "stopped", now_ms)
            if not self._stopping:
                text = f"The prompt {play.prompt} was not heard in full: {why or 'it stopped'}."
                self._diary.tell(Audience.AGENT, text)
        self._judge(pol.PromptDone(play.prompt, now_ms, heard), now_ms)

    def _failed(self, play: fx.Play, error: str, now_ms: int) -> None:
        self._diary.journal(JournalEvent.ACTION_FAILED, now_ms, {**self._timing(play), "error": error})

    def _timing(self, play: fx.Play, **more: Any) -> dict[str, Any]:
        started_ms = self._diary.started_ms
        heard_ms = None if play.heard_ms is None else play.heard_ms - started_ms
        return {
            "action": "play",
            "prompt": play.prompt,
            "why": play.why,
            **self._diary.by_pack(),
            "heard_ms": heard_ms,
            "decided_ms": play.decided_ms - started_ms,
            **more,
        }
