"""Queue and number of a call as a PBX tells them: what can be used is used, the rest costs nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr.facts import CallFacts, NumberKept, from_headers, number_kept, phone_number, queue_name


def test_facts_are_read_from_headers_and_written_the_same_way() -> None:
    """What one attachment writes, the other end reads; what is not there is not written."""
    facts = CallFacts("201", "support", "+441632960011")
    assert from_headers({name.lower(): value for name, value in facts.headers().items()}) == facts
    assert CallFacts().headers() == {} and from_headers({}) == CallFacts()


@pytest.mark.parametrize(
    ("told", "number"),
    [
        ("+44 (1632) 960-011", "+441632960011"),
        ("01632/960011", "01632960011"),
        ("pat.smith", "pat.smith"),
        ("Anonymous", None),
        ("<unknown>", None),
        ("", None),
        ("1" * 41, None),
        ("12;34", None),
        ("12\x0034", None),
        ("４４１６３２", None),
    ],
)
def test_number_is_taken_as_dialled_and_anything_else_is_none(told: str, number: str | None) -> None:
    """Separators of people are taken out; withheld, too long and unprintable ones are none."""
    assert phone_number(told) == number


@pytest.mark.parametrize(("told", "name"), [(" support ", "support"), ("a,b", None), ("q" * 81, None), ("a b", None)])
def test_queue_name_is_what_a_dialplan_could_hold(told: str, name: str | None) -> None:
    """A comma would end an argument at the PBX."""
    assert queue_name(told) == name


@given(st.text(max_size=60))
def test_facts_of_any_text_are_harmless(text: str) -> None:
    """Nothing raises, and nothing gets through that could begin a second header or argument."""
    facts = from_headers({"x-firmline-queue": text, "x-firmline-number": text, "x-firmline-agent": text})
    for value in (facts.queue, facts.caller_number):
        assert value is None or (value.isascii() and value.isprintable() and not set(value) & set(",;: ()"))


def test_number_is_kept_as_much_of_as_the_journal_may() -> None:
    """Whole, the last four, or nothing; a number of four digits would be whole in its last four."""
    number = "+441632960011"
    assert [number_kept(number, kept) for kept in NumberKept] == [number, "***0011", None]
    assert number_kept("1234", NumberKept.LAST4) == "***" and number_kept(None, NumberKept.FULL) is None
