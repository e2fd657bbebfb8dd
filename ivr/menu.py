"""The menu of a caller who was taken off a call, sans-I/O: keys, ends of prompts and time go in; what to do comes out.

A person who may no longer shout at the agent still has a matter to settle, so the menu offers every way on that there
is. Nobody is dropped for pressing nothing: after some repeats the default choice is taken.

    state       event                          next        what is done
    ----------  -----------------------------  ----------  ---------------------------------------------
    TELLING     the prompt is over             next in line or WAITING, deadline armed
    TELLING     prompt's ceiling passed        the same as its end
    TELLING     a choice's key                 PARTING     its prompt cuts in
    TELLING     another key                    TELLING     counted; "not one of the choices", the options
    WAITING     a choice's key                 PARTING     its prompt
    WAITING     another key                    TELLING     counted; the same
    WAITING     deadline                       TELLING     the options again, or, after the last repeat, the default
    PARTING     the prompt is over, ceiling    DONE        Chosen
    PARTING     any key                        PARTING     ignored: the choice has been confirmed in the caller's ear
    any         the caller is gone             DONE        Left

An absent cell means: keep the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

DOUBLE_MS = 1_500
"""One press may reach us twice, as RFC 4733 on our leg and as the PBX's own event: the same key from the other way
within this time is the same press."""
PROMPT_CEILING_MS = 20_000
"""A prompt whose end nobody reports is taken as over: the caller must not be left in a silent menu."""


class Choice(StrEnum):
    """Where a caller can go from the menu."""

    CARRY_ON = "carry_on"
    CALL_BACK = "call_back"
    SUPERVISOR = "supervisor"
    COMPLAINT = "complaint"


KEYS: Mapping[str, Choice] = {
    "1": Choice.CARRY_ON,
    "2": Choice.CALL_BACK,
    "3": Choice.SUPERVISOR,
    "4": Choice.COMPLAINT,
}
"""As the prompt ``menu_options`` says them."""
PARTING: Mapping[Choice, str] = {choice: f"menu_{choice.value}" for choice in Choice}
OPTIONS, INVALID, NO_NUMBER = "menu_options", "menu_invalid", "menu_no_number"
MENU_PROMPTS = (OPTIONS, INVALID, NO_NUMBER, "menu_nobody", *PARTING.values())


@dataclass(frozen=True, slots=True)
class MenuOptions:
    """``wait_ms``: for a key, after the options were told. ``repeats``: how often they are told again. ``max_invalid``:
    wrong keys after which the default is taken."""

    wait_ms: int = 6_000
    repeats: int = 2
    max_invalid: int = 3
    default: Choice = Choice.SUPERVISOR


class Phase(StrEnum):
    """Where the menu stands."""

    TELLING = "telling"
    WAITING = "waiting"
    PARTING = "parting"
    DONE = "done"


# --- what to do -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Say:
    """Play this prompt now, in place of what is playing; report its end under ``token``."""

    token: int
    prompt: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """The caller has chosen, and has heard that they have. ``by``: ``key``, or why the default was taken."""

    choice: Choice
    by: str
    invalid: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Left:
    """The caller is gone."""

    invalid: int
    rounds: int


Outcome = Chosen | Left
Action = Say | Outcome


class Menu:
    """One caller's way through the menu."""

    def __init__(self, options: MenuOptions, *, number_known: bool) -> None:
        """``number_known``: whether a call back can be promised."""
        self._options, self._number_known = options, number_known
        self.phase = Phase.TELLING
        self._token = 0
        self._line: list[str] = []
        self._deadline_ms: int | None = None
        self._rounds = 0
        self._invalid = 0
        self._parting: tuple[Choice, str] = (options.default, "")
        self._last_key: tuple[str, str, int] = ("", "", -DOUBLE_MS)

    def begin(self, now_ms: int) -> list[Action]:
        """The caller is with us."""
        self._rounds = 1
        return self._tell([OPTIONS], now_ms)

    def on_digit(self, digit: str, via: str, now_ms: int) -> list[Action]:
        """A key, and the way (``via``) on which it came."""
        last, last_via, last_ms = self._last_key
        if digit == last and via != last_via and now_ms - last_ms < DOUBLE_MS:
            self._last_key = ("", "", now_ms)  # a third one is a new press
            return []
        self._last_key = (digit, via, now_ms)
        if self.phase in (Phase.PARTING, Phase.DONE):
            return []
        choice = KEYS.get(digit)
        if choice is Choice.CALL_BACK and not self._number_known:
            return self._not_that(NO_NUMBER, now_ms)
        return self._not_that(INVALID, now_ms) if choice is None else self._part(choice, "key", now_ms)

    def on_prompt_over(self, token: int, now_ms: int) -> list[Action]:
        """The prompt of ``token`` is over, heard or not; those that were cut off by a later one are not missed."""
        if token != self._token or self.phase in (Phase.WAITING, Phase.DONE):
            return []
        if self.phase is Phase.PARTING:
            return self._done(Chosen(*self._parting, self._invalid, self._rounds))
        if self._line:
            return self._tell(self._line, now_ms)
        self.phase, self._deadline_ms = Phase.WAITING, now_ms + self._options.wait_ms
        return []

    def on_caller_gone(self) -> list[Action]:
        """The leg is over."""
        return [] if self.phase is Phase.DONE else self._done(Left(self._invalid, self._rounds))

    def next_deadline_ms(self) -> int | None:
        """When ``on_deadline`` wants to be called."""
        return self._deadline_ms

    def on_deadline(self, now_ms: int) -> list[Action]:
        """Whatever was due by ``now_ms``."""
        if self._deadline_ms is None or now_ms < self._deadline_ms:
            return []
        if self.phase is not Phase.WAITING:
            return self.on_prompt_over(self._token, now_ms)
        if self._rounds > self._options.repeats:
            return self._part(self._options.default, "nothing was pressed", now_ms)
        self._rounds += 1
        return self._tell([OPTIONS], now_ms)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _not_that(self, said: str, now_ms: int) -> list[Action]:
        self._invalid += 1
        if self._invalid >= self._options.max_invalid:
            return self._part(self._options.default, f"{self._invalid} keys that are no choice", now_ms)
        return self._tell([said, OPTIONS], now_ms)

    def _part(self, choice: Choice, by: str, now_ms: int) -> list[Action]:
        if choice is Choice.CALL_BACK and not self._number_known:  # as a default
            choice = Choice.SUPERVISOR
        self._parting, self.phase = (choice, by), Phase.PARTING
        return [self._say(PARTING[choice], now_ms)]

    def _tell(self, prompts: list[str], now_ms: int) -> list[Action]:
        self.phase, self._line = Phase.TELLING, prompts[1:]
        return [self._say(prompts[0], now_ms)]

    def _say(self, prompt: str, now_ms: int) -> Say:
        self._token += 1
        self._deadline_ms = now_ms + PROMPT_CEILING_MS
        return Say(self._token, prompt)

    def _done(self, outcome: Outcome) -> list[Action]:
        self.phase, self._deadline_ms = Phase.DONE, None
        return [outcome]
