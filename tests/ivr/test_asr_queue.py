"""The order of recognition: urgency, company, deadlines and what is given up; without a model and without a clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.types import Segment, SegmentKind
from ivr.asr_queue import PRIORITY_OF, AsrQueue, Context, Job, Priority, QueueOptions

FINAL, OFFER, DRAFT = SegmentKind.FINAL, SegmentKind.OFFER, SegmentKind.DRAFT


class Maker:
    """Jobs with running numbers; ``unwanted`` are those that nobody asks for any more."""

    def __init__(self) -> None:
        self.count, self.unwanted = 0, set[int]()

    def __call__(self, kind: SegmentKind = FINAL, seconds: float = 2.0, at_ms: int = 0) -> Job:
        self.count += 1
        segment = Segment(np.zeros(int(8000 * seconds), np.int16), 8000, 0, int(1000 * seconds), 0, kind=kind)
        number = self.count
        return Job(number, segment, PRIORITY_OF[kind], at_ms, wanted=lambda: number not in self.unwanted)


@pytest.fixture
def job() -> Maker:
    return Maker()


def numbers(jobs: list[Job]) -> list[int]:
    return [each.number for each in jobs]


def test_queue_takes_finals_first_and_the_oldest_of_them(job: Maker) -> None:
    """Urgency before age, age before everything else."""
    queue = AsrQueue(QueueOptions(batch=1))
    for kind in (DRAFT, OFFER, FINAL, OFFER, FINAL):
        queue.add(job(kind))
    assert [numbers(queue.take(0)) for _ in range(6)] == [[3], [5], [2], [4], [1], []]


def test_queue_lets_similar_lengths_share_a_pass_and_leaves_others(job: Maker) -> None:
    """Padding the short to the long costs more than a pass of its own."""
    queue = AsrQueue()
    for seconds in (2.0, 11.0, 3.9, 10.0, 1.0):
        queue.add(job(seconds=seconds))
    assert numbers(queue.take(0)) == [1, 3, 5]
    assert numbers(queue.take(0)) == [2, 4]


def test_queue_never_takes_more_than_a_batch(job: Maker) -> None:
    """The rest waits for the next pass, in order."""
    queue = AsrQueue(QueueOptions(batch=3))
    for _ in range(5):
        queue.add(job())
    assert [numbers(queue.take(0)) for _ in range(2)] == [[1, 2, 3], [4, 5]]


def test_queue_shares_the_work_out_among_idle_workers(job: Maker) -> None:
    """Two workers that could both begin take half each."""
    queue = AsrQueue()
    for _ in range(4):
        queue.add(job())
    assert numbers(queue.take(0, idle_workers=2)) == [1, 2]


def test_queue_lets_the_less_urgent_come_along_only_while_the_final_is_early_enough(job: Maker) -> None:
    """A draft beside a final is free company only until it costs the final its time."""
    for at_ms, expected in ((0, [1, 2]), (390, [1])):
        maker = Maker()
        queue = AsrQueue(QueueOptions(due_ms=400))
        queue.add(maker(FINAL, 2.0))
        queue.add(maker(DRAFT, 4.5))
        assert numbers(queue.take(at_ms)) == expected


def test_queue_keeps_a_pass_of_drafts_short(job: Maker) -> None:
    """A final that arrives meanwhile waits for no longer than that."""
    queue = AsrQueue(QueueOptions(draft_pass_ms=300))
    for _ in range(8):
        queue.add(job(DRAFT))
    taken = queue.take(0)
    assert 1 < len(taken) < 8
    assert queue.predicted_ms(len(taken), 3.0) <= 300 < queue.predicted_ms(len(taken) + 1, 3.0)


def test_queue_learns_its_pace_from_what_passes_took(job: Maker) -> None:
    """A slower machine takes fewer drafts at once; one hiccup changes little."""
    queue = AsrQueue()
    before = queue.predicted_ms(1, 5.0)
    queue.measured([job()], 60_000)
    assert queue.predicted_ms(1, 5.0) < 2 * before
    for _ in range(40):
        queue.measured([job()], 500)
    assert queue.predicted_ms(1, 5.0) == pytest.approx(500, rel=0.05)


def test_queue_gives_back_stale_drafts_and_nothing_else(job: Maker) -> None:
    """Finals are late rather than lost."""
    queue = AsrQueue(QueueOptions(stale_ms=1_000))
    for kind in (DRAFT, OFFER, FINAL):
        queue.add(job(kind, at_ms=0))
    queue.add(job(DRAFT, at_ms=900))
    assert numbers(queue.stale(1_001)) == [1]
    assert sorted(numbers(queue.waiting)) == [2, 3, 4]


def test_queue_beyond_its_bound_gives_up_the_least_urgent_and_newest(job: Maker) -> None:
    """Drafts, then offers, then the newest final."""
    queue = AsrQueue(QueueOptions(max_waiting=2))
    lost = [numbers(queue.add(job(kind))) for kind in (DRAFT, FINAL, OFFER, FINAL, FINAL)]
    assert lost == [[], [], [1], [3], [5]]


def test_queue_forgets_what_nobody_wants_any_more(job: Maker) -> None:
    """A call that ended costs no decoding, and frees its place."""
    queue = AsrQueue(QueueOptions(max_waiting=2))
    queue.add(job())
    queue.add(job())
    job.unwanted.add(1)
    assert queue.add(job()) == []
    assert numbers(queue.take(0)) == [2, 3]


def test_queue_takes_a_promoted_offer_with_the_finals_by_its_own_age(job: Maker) -> None:
    """It has waited since its pause began."""
    queue = AsrQueue(QueueOptions(batch=1))
    offer, final = job(OFFER), job(FINAL)
    queue.add(offer)
    queue.add(final)
    offer.priority = Priority.FINAL
    assert numbers(queue.take(0)) == [1]


def test_context_is_what_the_recipe_encodes(job: Maker) -> None:
    """Least context, margin, cheaper drafts, and the window as the bound."""
    context = Context()
    lengths = [context.encoded_s(job(kind, seconds).segment) for kind in (FINAL, DRAFT) for seconds in (1, 6, 40)]
    assert lengths == [5, 7, 30, 3, 6.5, 30]
    assert context.encoded_s(replace(job().segment, rate_hz=0)) == 30


@pytest.mark.parametrize("wrong", [{"max_waiting": 0}, {"batch": 0}, {"padding": 0.5}])
def test_queue_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    """At least one of each."""
    with pytest.raises(ValueError, match="at least 1"):
        QueueOptions(**wrong)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.sampled_from([FINAL, OFFER, DRAFT]), st.floats(0.1, 30), st.integers(0, 3_000)), max_size=40),
    st.integers(1, 4),
)
def test_queue_answers_for_every_job_exactly_once(jobs: list[tuple[SegmentKind, float, int]], workers: int) -> None:
    """Taken, stale or given up: nothing is lost, nothing comes twice, and a pass never mixes unlike lengths."""
    maker, seen = Maker(), list[int]()
    queue = AsrQueue(QueueOptions(max_waiting=10))
    for kind, seconds, at_ms in jobs:
        seen += numbers(queue.add(maker(kind, seconds, at_ms)))
    seen += numbers(queue.stale(3_000))
    while taken := queue.take(3_000, workers):
        encoded = [queue.context.encoded_s(each.segment) for each in taken]
        assert max(encoded) <= 1.25 * min(encoded) and len(taken) <= queue.options.batch
        assert taken[0].order == min(each.order for each in taken)
        seen += numbers(taken)
    assert sorted(seen) == list(range(1, len(jobs) + 1))
