"""Callers who are with us for a while: the menu played and heard on a leg of the caller's own.

Owns: the legs that come because we asked for them (each known by a one-time id), what plays on them, the keys pressed
there and the clock of each menu. Decides nothing: ``ivr.menu`` does; moves nobody: the PBX does (``GuestHost``).

If this process dies, the leg dies with it and the PBX sends the caller back to the agent by itself.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog

from audio.prompts import Catalogue
from ivr.clock import monotonic_ms
from ivr.errors import PbxError
from ivr.lines.base import HEADER_MENU, Leg, PlaybackResult
from ivr.menu import Action, Choice, Chosen, Left, Menu, MenuOptions, Outcome, Say
from ivr.pbx.base import CallerGone, CallRef, GuestHost, NobodyThere

log = structlog.get_logger("firmline.menu")

LEG_UP_MS = 5_000
NOBODY_TRIES, NOBODY_WAIT_MS = 3, 3_000
"""How often somebody to speak with is looked for, when nobody can be reached, and the pause between."""


@dataclass(frozen=True, slots=True)
class MenuEnd:
    """How it ended: ``outcome`` is what the caller chose, ``with_agent`` whether they are with the agent again, and
    ``reached`` the extension where they are, if they are still there."""

    outcome: Outcome
    with_agent: bool = False
    reached: str = ""


@dataclass(slots=True)
class _Guest:
    id: str
    up: asyncio.Future[Leg]
    leg: Leg | None = None
    menu: Menu | None = None
    outcome: asyncio.Future[Outcome] | None = None
    timer: asyncio.TimerHandle | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class MenuDesk:
    """The menus of all calls."""

    def __init__(self, host: GuestHost, catalogue: Catalogue, options: MenuOptions) -> None:
        self._host, self._catalogue, self._options = host, catalogue, options
        self._guests: dict[str, _Guest] = {}
        self._by_leg: dict[str, _Guest] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        host.on_guest_digit = self.digit_from_pbx

    def use(self, catalogue: Catalogue, transfer_to: str) -> None:
        """Settings were read anew; menus that are under way take them up with the next prompt."""
        self._catalogue, self._host.transfer_to = catalogue, transfer_to

    # --- legs, as the line tells of them ------------------------------------------------------------------------------

    def take(self, leg: Leg) -> bool:
        """Whether this offered leg is one that we asked for; then it is answered. Each id opens the door once."""
        guest = self._guests.get(leg.headers.get(HEADER_MENU.lower(), ""))
        if guest is None or guest.leg is not None:
            return False
        guest.leg = leg
        self._by_leg[leg.id] = guest
        leg.answer()
        return True

    def owns(self, leg: Leg) -> bool:
        """Whether the leg is one of ours."""
        return leg.id in self._by_leg

    def leg_up(self, leg: Leg) -> None:
        """Media may flow."""
        guest = self._by_leg[leg.id]
        if not guest.up.done():
            guest.up.set_result(leg)

    def leg_down(self, leg: Leg) -> None:
        """The leg is over: the caller hung up, was sent on, or we are stopping."""
        guest = self._by_leg.pop(leg.id)
        guest.gone.set()
        if not guest.up.done():
            guest.up.cancel()
        if guest.menu is not None:
            self._do(guest, guest.menu.on_caller_gone())

    def digit(self, leg: Leg, digit: str) -> None:
        """A key on the leg itself (RFC 4733)."""
        self._digit(self._by_leg[leg.id], digit, "leg")

    def digit_from_pbx(self, guest_id: str, digit: str) -> None:
        """The same key as the PBX saw it on the caller's channel, for phones whose digits do not travel as events."""
        guest = self._guests.get(guest_id)
        if guest is not None:
            self._digit(guest, digit, "pbx")

    # --- the menu -----------------------------------------------------------------------------------------------------

    async def offer(self, call: CallRef, *, number_known: bool, on_choice: Callable[[Outcome], None]) -> MenuEnd:
        """Bring the caller here, let them choose, and do as they say. ``on_choice`` is told before it is done.

        Raises:
            PbxError: the caller could not be brought here (and was not moved), or nobody could be reached afterwards
                (and the PBX was left to take them back to the agent).
        """
        guest = self._expect()
        try:
            await self._bring(call, guest)
            outcome = await self._ask(guest, number_known)
            on_choice(outcome)
            return await self._obey(call, guest, outcome)
        except CallerGone:
            return MenuEnd(Left(0, 0))
        finally:
            self._dismissed(call, guest)

    async def wake(self, call: CallRef) -> Callable[[], None]:
        """Have the PBX send to the caller all the time, by a silent leg of ours; call the answer when that may end.

        Raises:
            PbxError: it did not come to that.
        """
        guest = self._expect()
        try:
            await self._host.wake(call, guest.id, {HEADER_MENU: guest.id})
        except BaseException:
            self._dismissed(call, guest)
            raise
        return lambda: self._dismissed(call, guest)

    def _expect(self) -> _Guest:
        guest = _Guest(f"firmline-menu-{uuid.uuid4().hex}", asyncio.get_running_loop().create_future())
        self._guests[guest.id] = guest
        return guest

    async def _bring(self, call: CallRef, guest: _Guest) -> Leg:
        await self._host.bring(call, guest.id, {HEADER_MENU: guest.id})
        try:
            async with asyncio.timeout(LEG_UP_MS / 1000):
                return await asyncio.shield(guest.up)
        except (TimeoutError, asyncio.CancelledError):
            if guest.gone.is_set():
                raise CallerGone("the caller hung up on the way to the menu") from None
            if not guest.up.done():
                raise PbxError("menu: the caller's leg did not come up") from None
            raise

    def _dismissed(self, call: CallRef, guest: _Guest) -> None:
        if guest.timer is not None:
            guest.timer.cancel()
        del self._guests[guest.id]
        if guest.leg is not None and not guest.gone.is_set():
            guest.leg.hang_up()
        self._host.let_go(call, guest.id)

    async def _ask(self, guest: _Guest, number_known: bool) -> Outcome:
        guest.menu = Menu(self._options, number_known=number_known)
        guest.outcome = asyncio.get_running_loop().create_future()
        if guest.gone.is_set():
            return Left(0, 0)
        self._do(guest, guest.menu.begin(monotonic_ms()))
        return await guest.outcome

    def _digit(self, guest: _Guest, digit: str, via: str) -> None:
        if guest.menu is not None:
            self._do(guest, guest.menu.on_digit(digit, via, monotonic_ms()))

    def _do(self, guest: _Guest, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Say):
                self._say(guest, action)
            elif guest.outcome is not None and not guest.outcome.done():
                guest.outcome.set_result(action)
        if guest.timer is not None:
            guest.timer.cancel()
            guest.timer = None
        due_ms = guest.menu.next_deadline_ms() if guest.menu is not None else None
        if due_ms is not None:
            wait_s = max(1, due_ms - monotonic_ms()) / 1000
            guest.timer = asyncio.get_running_loop().call_later(wait_s, self._on_timer, guest)

    def _on_timer(self, guest: _Guest) -> None:
        guest.timer = None
        if guest.menu is not None:
            self._do(guest, guest.menu.on_deadline(monotonic_ms()))

    def _say(self, guest: _Guest, say: Say) -> None:
        if guest.leg is None or guest.menu is None:
            return
        menu = guest.menu

        def over(result: asyncio.Future[PlaybackResult]) -> None:
            if not result.cancelled():
                self._do(guest, menu.on_prompt_over(say.token, monotonic_ms()))

        self._spawn(self._host.keep(guest.id))
        guest.leg.play(self._catalogue.samples(say.prompt, guest.leg.rate_hz)).done.add_done_callback(over)

    # --- and then -----------------------------------------------------------------------------------------------------

    async def _obey(self, call: CallRef, guest: _Guest, outcome: Outcome) -> MenuEnd:
        if isinstance(outcome, Chosen) and outcome.choice in (Choice.CARRY_ON, Choice.SUPERVISOR):
            reached = await self._send_on(call, guest, agent_first=outcome.choice is Choice.CARRY_ON)
            return MenuEnd(outcome, reached == call.agent_ext, reached)
        if isinstance(outcome, Chosen):
            await self._host.dismiss(call)
        return MenuEnd(outcome)

    async def _send_on(self, call: CallRef, guest: _Guest, *, agent_first: bool) -> str:
        for tries_left in range(NOBODY_TRIES - 1, -1, -1):
            try:
                return await self._host.send_on(call, agent_first=agent_first)
            except NobodyThere:
                if tries_left == 0 or guest.leg is None or guest.gone.is_set():
                    raise
            self._spawn(self._host.keep(guest.id))
            await guest.leg.play(self._catalogue.samples("menu_nobody", guest.leg.rate_hz)).done
            try:
                async with asyncio.timeout(NOBODY_WAIT_MS / 1000):
                    await guest.gone.wait()
                raise CallerGone("the caller hung up while nobody could be reached")
            except TimeoutError:
                pass
        raise NobodyThere("nobody can be reached")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            log.warning("the PBX was not told to wait", error=str(error))
