"""Words while they are said: when to look, what is settled, and what overload does; no model, no clock."""

from __future__ import annotations

import pytest

from audio.types import Transcript, Word
from ivr.drafts import DraftOptions, Drafts

OPTIONS = DraftOptions(every_ms=700, tense_every_ms=400, slowest_ms=5_600, settle_from_ms=3_000, keep_ms=1_000)


def words(text: str, start_ms: int = 0, each_ms: int = 500) -> tuple[Word, ...]:
    """One word each half second."""
    return tuple(
        Word(word, start_ms + at * each_ms, start_ms + (at + 1) * each_ms, 0.9) for at, word in enumerate(text.split())
    )


def heard(text: str, *, times_from_ms: int | None = None, dropped: str | None = None) -> Transcript:
    timed = () if times_from_ms is None else words(text, times_from_ms)
    return Transcript("" if dropped else text, 0, 0, final=False, words=timed, dropped=dropped)


def looked(drafts: Drafts, transcript: Transcript, end_ms: int, now_ms: int, took_ms: int = 100) -> str | None:
    drafts.asked(1, end_ms, now_ms)
    return drafts.heard(transcript, now_ms + took_ms)


def test_drafts_switched_off_are_never_due() -> None:
    """Finals only."""
    drafts = Drafts(DraftOptions(every_ms=0))
    drafts.began(0)
    assert not drafts.due(100_000, tense=True)


def test_draft_is_due_one_interval_after_the_onset_and_after_each_look() -> None:
    """Sooner in a call whose ladder has moved, and never while a look is under way."""
    drafts = Drafts(OPTIONS)
    drafts.began(1_000)
    assert (drafts.due(1_399, tense=True), drafts.due(1_400, tense=True)) == (False, True)
    assert (drafts.due(1_699, tense=False), drafts.due(1_700, tense=False)) == (False, True)
    drafts.asked(7, 1_700, 1_700)
    assert not drafts.due(9_000, tense=True)
    drafts.heard(heard("I have"), 1_800)
    assert (drafts.due(2_399, tense=False), drafts.due(2_400, tense=False)) == (False, True)


def test_draft_after_an_offer_waits_one_interval() -> None:
    """The offer showed every word so far."""
    drafts = Drafts(OPTIONS)
    drafts.began(1_000)
    drafts.offered(1_600)
    assert (drafts.due(2_299, tense=False), drafts.due(2_300, tense=False)) == (False, True)


def test_drafts_are_looked_at_more_rarely_while_the_recogniser_does_not_come_to_them() -> None:
    """Twice as rare at once, up to the slowest; back little by little."""
    drafts = Drafts(OPTIONS)
    now_ms = 0
    for _ in range(6):
        assert looked(drafts, heard("", dropped="stale"), now_ms, now_ms) is None
    assert (drafts.due(now_ms + 5_599, tense=False), drafts.due(now_ms + 5_600, tense=False)) == (False, True)
    for _ in range(12):
        looked(drafts, heard("hello"), now_ms, now_ms)
    assert drafts.due(now_ms + 700, tense=False)


def test_slow_answer_makes_the_next_look_rarer_too() -> None:
    """Lag shows before anything is thrown away."""
    drafts = Drafts(OPTIONS)
    looked(drafts, heard("hello"), 0, 0, took_ms=1_500)
    assert (drafts.due(1_399, tense=False), drafts.due(1_400, tense=False)) == (False, True)


def test_words_that_two_looks_agree_on_and_that_lie_back_are_settled() -> None:
    """The next window begins after them, and they stay in what is shown."""
    drafts = Drafts(OPTIONS)
    drafts.from_ms = 10_000
    looked(drafts, heard("You have told me for three"), 13_000, 13_000)
    shown = looked(drafts, heard("You have told me four weeks now", times_from_ms=10_000), 13_500, 13_700)
    assert shown == "You have told me four weeks now"
    # Four words agree; all of them end a second or more before the window's end.
    assert drafts.from_ms == 12_000
    assert looked(drafts, heard("for weeks now that"), 14_200, 14_400) == "You have told me for weeks now that"


def test_last_second_is_never_settled_however_much_two_looks_agree() -> None:
    """A word at the window's end may be half a word."""
    drafts = Drafts(OPTIONS)
    drafts.from_ms = 10_000
    looked(drafts, heard("one two three four five six"), 13_000, 13_000)
    looked(drafts, heard("one two three four five six", times_from_ms=10_000), 13_000, 13_700)
    assert drafts.from_ms == 12_000


def test_window_stays_bounded_when_looks_never_agree_or_hear_nothing() -> None:
    """The cost of a second of speech stays the same, whatever is heard."""
    for text, timed in (("", False), ("mm", True)):
        drafts = Drafts(OPTIONS)
        drafts.from_ms = 1
        longest = 0
        for now_ms in range(700, 600_000, 700):
            found = heard(f"{text} {now_ms}", times_from_ms=drafts.from_ms) if timed else heard("", dropped="no_speech")
            longest = max(longest, now_ms - drafts.from_ms)
            looked(drafts, found, now_ms, now_ms)
        assert longest <= 2 * OPTIONS.settle_from_ms + 700


def test_end_of_the_utterance_forgets_all_and_names_the_look_under_way() -> None:
    """Nothing of it may show up in the next."""
    drafts = Drafts(OPTIONS)
    drafts.began(0)
    drafts.asked(9, 700, 700)
    assert drafts.over() == 9
    assert (drafts.over(), drafts.token, drafts.from_ms) == (None, None, 0)
    assert looked(drafts, heard("next"), 5_000, 5_000) == "next"


def test_word_times_are_asked_for_only_when_the_window_is_to_be_cut() -> None:
    """They cost a second pass."""
    drafts = Drafts(OPTIONS)
    assert (drafts.wants_word_times(2_999), drafts.wants_word_times(3_000)) == (False, True)


@pytest.mark.parametrize("wrong", [{"every_ms": -1}, {"every_ms": 7_000}, {"tense_every_ms": 9_000}])
def test_draft_options_that_contradict_are_refused(wrong: dict[str, int]) -> None:
    """The slowest interval is no shorter than the usual ones."""
    with pytest.raises(ValueError, match="every_ms"):
        DraftOptions(**wrong)
