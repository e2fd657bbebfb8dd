"""Who speaks when in the capacity bench: shares, turns and insults by a made-up material."""

from __future__ import annotations

import numpy as np
import pytest

from ivr.bench_capacity import faults_of
from ivr.bench_ears import Truth
from ivr.bench_load import complaints
from ivr.bench_speech import RATE_HZ, Line
from ivr.bench_traffic import Call, Material, Said, clips_of, plan_calls


def line(text: str, ms: int) -> tuple[Line, Truth]:
    """Something said for ``ms``, its one word ending with it."""
    tone = (np.sin(np.arange(RATE_HZ * ms // 1000)) * 3_000).astype(np.int16)
    return Line(text, "tone", tone), Truth((text,), 0, ms, (ms,))


CIVIL = [line("short", 800), line("longer", 2_400), line("longest", 3_600)]
INSULT = line("insult", 1_500)
MATERIAL = Material(CIVIL, [INSULT])


def spans(said: tuple[Said, ...]) -> list[tuple[int, int]]:
    """When each is said, ms of the leg."""
    return [(each.frame * 20, each.frame * 20 + each.truth.end_ms) for each in said]


@pytest.fixture(scope="module")
def planned() -> list[Call]:
    """Twenty calls of three minutes, a tenth of them abusive."""
    return plan_calls(MATERIAL, 20, 180, 0.4, 0.1)


def test_callers_speak_the_share_that_is_asked_for(planned: list[Call]) -> None:
    """Over all calls, their quiet first and last moments included."""
    spoken_ms = sum(end - start for call in planned for start, end in spans(call.caller))
    assert spoken_ms / (20 * 180_000) == pytest.approx(0.4, abs=0.04)


def test_one_call_in_ten_holds_one_insult_with_quiet_after_it(planned: list[Call]) -> None:
    """So that the warning is heard, and nothing but it."""
    assert [call.insult is not None for call in planned].count(True) == 2
    for call in planned:
        insults = [at for at, each in enumerate(call.caller) if each.line is INSULT[0]]
        assert len(insults) == (call.insult is not None)
        for at in insults:
            assert call.caller[at] is call.insult
            assert spans(call.caller)[at + 1][0] - spans(call.caller)[at][1] >= 8_980


def test_nobody_talks_over_the_other(planned: list[Call]) -> None:
    """Double talk is conduct and brings prompts of its own."""
    for call in planned:
        turns = sorted(spans(call.caller) + spans(call.agent))
        assert all(end < start for (_, end), (start, _) in zip(turns, turns[1:], strict=False))
        assert call.agent and turns[-1][1] < 180_000


def test_plan_refuses_what_cannot_be_held() -> None:
    """A share of more than everything; calls too short for an insult and its warning."""
    for seconds, speak, abusive in ((180, 1.2, 0.1), (180, 0.4, 1.5), (20, 0.4, 0.1)):
        with pytest.raises(ValueError):
            plan_calls(MATERIAL, 2, seconds, speak, abusive)


def test_truth_lies_where_the_last_sound_left() -> None:
    """A packet leaves when the last of its 20 ms has been spoken."""
    said = Said(*CIVIL[0], frame=50)
    assert said.on_the_clock(10_000).end_ms == 10_000 + 49 * 20 + 800


def test_clips_hold_every_sound_once(planned: list[Call]) -> None:
    """By name, as mu-law, and what is sent in between."""
    clips = clips_of(planned)
    assert set(clips) == {"noise", *(f"tone: {each.text}" for each, _ in [*CIVIL, INSULT])}
    assert len(clips["tone: short"]) == len(CIVIL[0][0].samples)


def test_faults_say_in_words_what_went_wrong() -> None:
    """Nothing for a good run; one clause for each fault; threads of the pool are none."""
    good = {
        "calls": 2,
        "legs held to the end": 4,
        "warnings expected": 1,
        "warnings heard": 1,
        "other sounds": 0,
        "finals lost": 0,
        "left over": {"calls": 0, "sockets": -1, "threads": 5},
    }
    assert faults_of(good) == []
    bad = {**good, "legs held to the end": 3, "other sounds": 2, "left over": {"tasks": 2}}
    assert faults_of(bad) == [
        "not every leg was held to the end",
        "a sound was heard that nobody expected",
        "left over afterwards: 2 tasks",
    ]


def test_sipps_log_is_told_without_what_is_no_fault() -> None:
    """The end of a leg's time, which the scenario waits for, and a late answer to a call that is over."""
    over = "2026-11-22\t02:35:12.295841\t1795314912.29: Call-Id: 1-8477@127.0.0.1, receive timeout on message legs:5, "
    log = "The following events occurred:\n" + (over + "jumping to label 6") * 2
    log += "2026-11-22\t03:02:33\t17: Dead call 58-1@127.0.0.1 (successful), received 'SIP/2.0 200 OK\nCSeq: 2 BYE\n\n'"
    assert complaints(log) == ""
    refused = "2026-11-22\t03:02\t17: Aborting call on unexpected message: 'SIP/2.0 486 Busy Here\n'"
    assert complaints(log + refused) == refused
