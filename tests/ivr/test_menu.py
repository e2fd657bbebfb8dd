"""The menu without a telephone: every key, no key, wrong keys, prompts that never end, a caller who hangs up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr.menu import (
    DOUBLE_MS,
    KEYS,
    MENU_PROMPTS,
    PARTING,
    PROMPT_CEILING_MS,
    Action,
    Choice,
    Chosen,
    Left,
    Menu,
    MenuOptions,
    Phase,
    Say,
)
from ivr.prompts import load_catalogue
from ivr.types import JournalEvent, JournalRow
from ivr.webhook_events import HookEvents

QUICK = MenuOptions(wait_ms=1_000, repeats=1, max_invalid=2)


class Caller:
    """Hears prompts to their end and presses keys."""

    def __init__(self, options: MenuOptions = QUICK, *, number_known: bool = True) -> None:
        self.now_ms, self.menu, self.heard = 0, Menu(options, number_known=number_known), list[str]()
        self.outcome: Chosen | Left | None = None
        self._token = 0
        self._take(self.menu.begin(0))

    def _take(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Say):
                self.heard.append(action.prompt)
                self._token = action.token
            else:
                assert self.outcome is None, "one outcome"
                self.outcome = action

    def hear_out(self) -> None:
        self.now_ms += 3_000
        self._take(self.menu.on_prompt_over(self._token, self.now_ms))

    def press(self, digit: str, via: str = "leg", after_ms: int = 2_000) -> None:
        self.now_ms += after_ms
        self._take(self.menu.on_digit(digit, via, self.now_ms))

    def wait(self) -> None:
        due_ms = self.menu.next_deadline_ms()
        assert due_ms is not None
        self._take(self.menu.on_deadline(due_ms - 1))
        self.now_ms = due_ms
        self._take(self.menu.on_deadline(due_ms))

    def leave(self) -> None:
        self._take(self.menu.on_caller_gone())


def test_every_prompt_of_the_menu_is_shipped() -> None:
    """A menu that cannot speak would be dead air."""
    assert load_catalogue().missing(list(MENU_PROMPTS)) == []


@pytest.mark.parametrize(("key", "choice"), KEYS.items())
def test_each_key_is_confirmed_in_the_callers_ear_and_then_done(key: str, choice: Choice) -> None:
    """At once, in the middle of the options; further keys change nothing."""
    caller = Caller()
    caller.press(key)
    assert caller.heard == ["menu_options", PARTING[choice]] and caller.outcome is None
    caller.press("3")
    caller.press("9")
    assert len(caller.heard) == 2
    caller.hear_out()
    assert caller.outcome == Chosen(choice, "key", 0, 1) and caller.menu.next_deadline_ms() is None


def test_nothing_pressed_repeats_the_options_and_then_takes_the_default() -> None:
    """Told, waited, told again, waited, then on to the supervisor."""
    caller = Caller()
    for _ in range(2):
        caller.hear_out()
        caller.wait()
    caller.hear_out()
    assert caller.heard == ["menu_options", "menu_options", "menu_supervisor"]
    assert caller.outcome == Chosen(Choice.SUPERVISOR, "nothing was pressed", 0, 2)


def test_wrong_keys_are_told_counted_and_lead_to_the_default() -> None:
    """The first is told and the options come again; the second is enough."""
    caller = Caller()
    caller.press("7")
    caller.hear_out()
    caller.hear_out()
    caller.press("*")
    caller.hear_out()
    assert caller.heard == ["menu_options", "menu_invalid", "menu_options", "menu_supervisor"]
    assert caller.outcome == Chosen(Choice.SUPERVISOR, "2 keys that are no choice", 2, 1)


def test_call_back_without_a_number_is_not_promised() -> None:
    """Neither by key nor as the default."""
    caller = Caller(number_known=False)
    caller.press("2")
    caller.press("1")
    caller.hear_out()
    assert caller.heard == ["menu_options", "menu_no_number", "menu_carry_on"]
    assert caller.outcome == Chosen(Choice.CARRY_ON, "key", 1, 1)
    silent = Caller(MenuOptions(1_000, 0, 3, Choice.CALL_BACK), number_known=False)
    silent.hear_out()
    silent.wait()
    assert silent.heard[-1] == "menu_supervisor"


def test_one_press_that_comes_on_two_ways_counts_once() -> None:
    """RFC 4733 and the PBX's event tell of the same key; pressed again it is a new one."""
    caller = Caller(MenuOptions(max_invalid=9))
    caller.press("7", "leg")
    caller.press("7", "pbx", after_ms=40)
    assert caller.heard.count("menu_invalid") == 1
    caller.press("7", "leg", after_ms=200)
    caller.press("7", "pbx", after_ms=40)
    assert caller.heard.count("menu_invalid") == 2
    caller.press("7", "leg", after_ms=DOUBLE_MS)
    caller.press("8", "pbx", after_ms=40)
    assert caller.heard.count("menu_invalid") == 4


def test_prompt_whose_end_is_never_told_does_not_hold_the_caller() -> None:
    """At the ceiling it is taken as over, in every state."""
    caller = Caller()
    caller.wait()
    assert caller.now_ms == PROMPT_CEILING_MS and caller.menu.phase is Phase.WAITING
    caller.press("4")
    caller.wait()
    assert caller.outcome == Chosen(Choice.COMPLAINT, "key", 0, 1)


def test_caller_who_hangs_up_is_left_alone() -> None:
    """In any state, once."""
    caller = Caller()
    caller.press("7")
    caller.leave()
    caller.leave()
    assert caller.outcome == Left(1, 1)
    caller.press("1")
    assert caller.menu.next_deadline_ms() is None and caller.menu.on_deadline(10**9) == []


STEPS = st.lists(st.sampled_from(["hear", "wait", "leave", *"1234567890*#"]), max_size=30)


@given(STEPS, st.booleans(), st.sampled_from(list(Choice)))
def test_menu_always_ends_and_ends_once(steps: list[str], number_known: bool, default: Choice) -> None:
    """Whatever is pressed: at most one outcome, and who then waits is through after a bounded time."""
    caller = Caller(MenuOptions(1_000, 2, 3, default), number_known=number_known)
    for step in steps:
        if caller.outcome is not None:
            break
        if step == "hear":
            caller.hear_out()
        elif step == "wait":
            caller.wait()
        elif step == "leave":
            caller.leave()
        else:
            caller.press(step)
    for _ in range(20):
        if caller.outcome is None:
            caller.wait()
    assert caller.outcome is not None and caller.menu.phase is Phase.DONE
    if isinstance(caller.outcome, Chosen) and not number_known:
        assert caller.outcome.choice is not Choice.CALL_BACK


def test_what_a_caller_asks_for_is_a_webhook_event_of_its_own() -> None:
    """With the number to call: somebody has to."""
    data = {"action": "callback_asked", "caller_number": "+441632960011"}
    hooks = HookEvents()
    (message,) = hooks.hear(JournalRow("c1", JournalEvent.SIGNAL, "2026-01-01T00:00:00.000+00:00", 5, data))
    assert message.event == "callback_asked" and '"caller_number": "+441632960011"' in message.body(words=False)
    other = JournalRow("c1", JournalEvent.SIGNAL, "2026-01-01T00:00:00.000+00:00", 6, {"action": "menu_choice"})
    assert list(hooks.hear(other)) == []
