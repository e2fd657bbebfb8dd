"""Offers and drafts in a call: nothing decoded twice, nothing counted before it is final, nothing left behind."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from audio.endpoint import EndpointOptions
from audio.types import SegmentKind, Transcript
from ivr import effects as fx
from ivr.call import CallOptions
from ivr.drafts import DraftOptions
from ivr.listener import ListenerOptions
from ivr.types import JournalEvent, LiveEvent
from policies.types import Side
from tests.ivr.calls import Bench, silence, speech

LISTENER = ListenerOptions(endpoint=EndpointOptions(offers=True, tail_ms=160, hangover_ms=300))
DRAFTS = DraftOptions(every_ms=500)
INSULT = "You are a useless idiot."


@pytest.fixture
def bench() -> Bench:
    """A call whose listener makes offers; no drafts."""
    return Bench(listener=LISTENER)


def kinds(bench: Bench) -> list[str]:
    return [each.segment.kind.value for each in bench.open_segments()]


def lives(bench: Bench, event: LiveEvent = LiveEvent.PARTIAL) -> list[str]:
    return [each.data.get("words", "") for each in bench.all(fx.Live) if each.event is event]


def utterances(bench: Bench) -> list[str]:
    return [row["words"] for row in bench.rows(JournalEvent.UTTERANCE)]


def test_offer_becomes_the_final_and_is_decoded_once(bench: Bench) -> None:
    """The pause ended with the same samples: what is under way is promoted, nothing new is asked."""
    bench.hear(np.concatenate([speech("pat_insult"), silence(600)]))
    assert set(kinds(bench)) == {"offer"}
    last = bench.open_segments()[-1]
    assert [each.token for each in bench.all(fx.Promote)] == [last.token]
    bench.said(last, INSULT)
    assert utterances(bench) == [INSULT]
    assert [play.prompt for play in bench.all(fx.Play)] == ["warning"]


def test_offer_answered_within_the_pause_is_shown_and_counts_when_the_pause_is_over(bench: Bench) -> None:
    """The words wait for the pause, and then for nothing else."""
    bench.hear(speech("pat_insult"))
    while bench.open_segments() == [] or bench.now_ms - bench.open_segments()[-1].segment.end_ms < 200:
        bench.hear(silence(20))
    offer = bench.open_segments()[-1]
    bench.said(offer, INSULT)
    assert (lives(bench), utterances(bench), bench.all(fx.Play)) == ([INSULT], [], [])
    assert len(lives(bench, LiveEvent.PARTIAL_SIGNAL)) == 1
    bench.hear(silence(200))
    [row] = bench.rows(JournalEvent.UTTERANCE)
    assert (row["words"], row["lag_ms"]) == (INSULT, LISTENER.endpoint.hangover_ms)
    assert bench.all(fx.Promote) == []
    assert len(bench.all(fx.Play)) == 1


def test_speech_that_goes_on_takes_the_offer_back(bench: Bench) -> None:
    """The unfinished offer is forgotten, and its late answer says nothing."""
    whole = speech("pat_billing")
    loud = np.flatnonzero(np.abs(whole) > 500)
    half = whole[loud[0] : loud[-1]]
    bench.hear(np.concatenate([half, silence(180), half, silence(600)]))
    offers = bench.open_segments()
    assert len(offers) >= 2
    assert {each.token for each in bench.all(fx.Forget)} == {each.token for each in offers[:-1]}
    bench.said(offers[0], "late")
    assert (utterances(bench), lives(bench)) == ([], [])
    bench.said(offers[-1], "all of it")
    assert utterances(bench) == ["all of it"]


def test_offer_that_the_recogniser_gave_up_is_asked_again_as_final(bench: Bench) -> None:
    """An offer may be lost, a final not."""
    bench.hear(speech("pat_insult"))
    while bench.open_segments() == [] or bench.now_ms - bench.open_segments()[-1].segment.end_ms < 200:
        bench.hear(silence(20))
    bench.said(bench.open_segments()[-1], "", dropped="overload")
    bench.hear(silence(400))
    assert kinds(bench)[-1] == "final"
    bench.said(bench.open_segments()[-1], INSULT)
    assert utterances(bench) == [INSULT]


def test_words_that_end_a_sentence_end_the_utterance_where_that_is_wanted() -> None:
    """As soon as they are decoded, if the pause still lasts; and an open sentence waits."""
    for text, ended in (("You are a useless", False), (INSULT, True)):
        bench = Bench(listener=LISTENER, options=CallOptions(end_at_sentence=True))
        bench.hear(speech("pat_insult"))
        while bench.open_segments() == [] or bench.now_ms - bench.open_segments()[-1].segment.end_ms < 200:
            bench.hear(silence(20))
        bench.said(bench.open_segments()[-1], text)
        assert (utterances(bench) == [text]) is ended


def test_drafts_are_shown_one_at_a_time_and_never_journalled_nor_counted() -> None:
    """An insult in words that may still change reaches watchers as a sign, and nobody else."""
    bench = Bench(listener=LISTENER, options=CallOptions(drafts=DRAFTS))
    bench.hear(speech("pat_billing"))
    asked = [each for each in bench.open_segments() if each.segment.kind is SegmentKind.DRAFT]
    assert len(asked) == 1
    bench.said(asked[0], INSULT, final=False)
    assert lives(bench) == [INSULT]
    assert len(lives(bench, LiveEvent.PARTIAL_SIGNAL)) == 1
    assert bench.all(fx.Play) == [] and bench.core.engine.rung.value == "clear"
    assert [row.event for row in bench.all(fx.Journal)] == [JournalEvent.LEG_UP] * 2


def test_draft_under_way_is_forgotten_when_its_final_or_offer_is_asked() -> None:
    """Nobody looks at it any more."""
    bench = Bench(listener=LISTENER, options=CallOptions(drafts=DRAFTS))
    bench.hear(np.concatenate([speech("pat_insult"), silence(600)]))
    drafts = [each.token for each in bench.open_segments() if each.segment.kind is SegmentKind.DRAFT]
    assert drafts and set(drafts) <= {each.token for each in bench.all(fx.Forget)}
    for token in drafts:
        bench.take(bench.core.transcribed(token, Transcript("late", 0, 0, final=False), bench.now_ms))
    assert lives(bench) == []


def test_agent_leg_is_neither_offered_nor_drafted_by_default() -> None:
    """It serves turn-taking only."""
    bench = Bench(listener=LISTENER, options=CallOptions(drafts=DRAFTS))
    bench.hear(np.concatenate([speech("sam_greeting"), silence(600)]), leg="a")
    assert bench.open_segments() == []


def test_two_people_talking_over_each_other_both_keep_their_words() -> None:
    """Each leg has offers and drafts of its own; nothing of one ends up in the other."""
    options = CallOptions(transcribe_agent=True, drafts=DRAFTS)
    bench = Bench(listener=LISTENER, options=options)
    caller, agent = speech("pat_billing"), speech("sam_refund")
    length = max(len(caller), len(agent)) + 8 * 600
    legs = {
        name: np.concatenate([samples, np.zeros(length - len(samples), np.int16)])
        for name, samples in (("c", caller), ("a", agent))
    }
    for at in range(0, length - 160, 160):
        now_ms = bench.now_ms
        for name, samples in legs.items():
            bench.now_ms = now_ms
            bench.hear(samples[at : at + 160], name)
    for each in bench.open_segments():
        bench.said(each, f"words of {each.side.value}")
    by_side = {row["side"]: row["words"] for row in bench.rows(JournalEvent.UTTERANCE)}
    assert by_side == {side.value: f"words of {side.value}" for side in Side}


def test_caller_who_gets_louder_is_looked_at_more_often() -> None:
    """Six decibels over their own usual level; and as rarely as before once the voice is down again."""
    options = CallOptions(drafts=DraftOptions(every_ms=2_000, tense_every_ms=200))
    bench = Bench(listener=LISTENER, options=options, both=False)

    def looks(loudness: float) -> int:
        talk = np.concatenate([(speech("pat_billing") * loudness).astype(np.int16), silence(600)])
        first = answered = len(bench.open_segments())
        for at in range(0, len(talk), 800):
            bench.hear(talk[at : at + 800])
            for each in bench.open_segments()[answered:]:
                bench.said(each, "words", final=each.segment.kind is not SegmentKind.DRAFT)
            answered = len(bench.open_segments())
        return sum(each.segment.kind is SegmentKind.DRAFT for each in bench.open_segments()[first:])

    usual = [looks(0.1) for _ in range(3)][-1]
    assert 1 <= usual <= 3
    assert looks(0.5) > 2 * usual


@pytest.mark.slow
def test_ten_minutes_of_monologue_keep_window_queue_and_lag_where_they_were() -> None:
    """Faster than real time: no look gets longer, nothing piles up, and the last words come as soon as the first."""
    bench = Bench(listener=LISTENER, options=CallOptions(drafts=DRAFTS), both=False)
    talk = np.concatenate([speech("pat_billing"), silence(80), speech("kim_angry"), silence(120)])
    answered, longest_ms = 0, []
    while bench.now_ms < 600_000:
        bench.hear(talk)
        asked = bench.open_segments()
        longest_ms.append(max(len(each.segment.samples) // 8 for each in asked[answered:]))
        for each in asked[answered:]:
            bench.said(each, "something or other", final=each.segment.kind is not SegmentKind.DRAFT)
        answered = len(asked)
        assert len(bench.core._words._hearing._pending) <= 1
    assert max(longest_ms) <= LISTENER.endpoint.max_utterance_ms
    lags = [row["lag_ms"] for row in bench.rows(JournalEvent.UTTERANCE)]
    ends = [row["end_ms"] for row in bench.rows(JournalEvent.UTTERANCE)]
    assert len(lags) > 20 and all(before <= after for before, after in pairwise(ends))
    assert max(lags[-10:]) <= max(lags[:10]) + 20
