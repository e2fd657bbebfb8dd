"""Sequences on a telephone's keys: what completes one, what does not, and whose they are."""

from __future__ import annotations

import pytest

from ivr.config import parse_config
from ivr.errors import ConfigError
from ivr.pbx.phone_keys import PhoneKey, PhoneKeyOptions, PhoneKeys

OPTIONS = PhoneKeyOptions({"*9": PhoneKey.WARN, "#00": PhoneKey.PARDON}, {"202": {"*9": PhoneKey.END}}, 1_000)


def typed(digits: str, *, agent: str = "201", gap_ms: int = 100) -> list[PhoneKey]:
    """The keys that these digits complete."""
    keys = PhoneKeys(OPTIONS)
    found = [keys.on_digit("c1", agent, digit, at * gap_ms) for at, digit in enumerate(digits)]
    return [key for key in found if key is not None]


def test_sequence_counts_when_complete_and_each_time_anew() -> None:
    """Digits before it do not matter; half of it does nothing; it takes a whole one for a second press."""
    assert typed("12*9") == [PhoneKey.WARN] and typed("*8") == [] and typed("**9*9") == [PhoneKey.WARN] * 2
    assert typed("#00*9") == [PhoneKey.PARDON, PhoneKey.WARN] and typed("#0") == []


def test_sequence_with_a_pause_in_it_is_none() -> None:
    """Who stops in the middle has changed their mind."""
    assert typed("*9", gap_ms=1_000) == [PhoneKey.WARN] and typed("*9", gap_ms=1_001) == []


def test_agents_own_map_stands_in_place_of_the_common_one() -> None:
    """The same digits, another meaning; what is not in it means nothing for them."""
    assert typed("*9", agent="202") == [PhoneKey.END] and typed("#00", agent="202") == []


def test_digits_of_two_phones_are_not_mixed_and_a_channel_that_goes_is_forgotten() -> None:
    """Two agents typing at once; a new call on the phone begins anew."""
    keys = PhoneKeys(OPTIONS)
    assert keys.on_digit("c1", "201", "*", 0) is None and keys.on_digit("c2", "203", "9", 1) is None
    assert keys.on_digit("c1", "201", "9", 2) is PhoneKey.WARN
    assert keys.on_digit("c1", "201", "*", 3) is None
    keys.forget("c1")
    assert keys.on_digit("c1", "201", "9", 4) is None


def test_user_event_is_read_by_name_or_by_digits() -> None:
    """The name counts for everybody; digits are read by the agent's own map; anything else is nothing."""
    keys = PhoneKeys(OPTIONS)
    assert keys.on_user_event("201", "Minute", "") is PhoneKey.MINUTE
    assert keys.on_user_event("202", "", "*9") is PhoneKey.END and keys.on_user_event("201", "explode", "") is None


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('digits: {"*9": warn, "*91": pardon}', r"\*9 is part of \*91"),
        ('agents: {"201": {"*1": warn, "**1": end}}', r"agents.201: \*1 is part of \*\*1"),
        ('digits: {"9": warn}', "digits"),
        ('digits: {"*9": explode}', "warn"),
    ],
)
def test_key_maps_that_cannot_work_are_refused_at_start(keys: str, said: str) -> None:
    """A sequence inside another, a plain digit that any menu asks for, a meaning that there is not."""
    with pytest.raises(ConfigError, match=said):
        parse_config(f"pbx: {{asterisk: {{keys: {{{keys}}}}}}}", "x.yaml")
