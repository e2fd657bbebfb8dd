"""The recogniser's processes: what they answer, and what happens when they die, hang, overflow or lose their parent."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from audio.types import Pcm, Segment, SegmentKind
from ivr import clock
from ivr.asr import AsrOptions, AsrPool, SyncAsr
from ivr.asr_queue import QueueOptions
from ivr.errors import ModelError
from ivr.models import ResolvedModel

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]
ROOT = Path(__file__).parents[2]


def segment(samples: Pcm, start_ms: int = 0) -> Segment:
    return Segment(samples, 8000, start_ms, start_ms + len(samples) // 8, start_ms)


@pytest.fixture(scope="module")
def useless(say: Callable[..., Pcm]) -> Segment:
    """A second or two of speech."""
    return segment(say("You people are completely useless.", "flite:slt"), 5_000)


@pytest.fixture(scope="module")
def long_talk(say: Callable[..., Pcm]) -> Segment:
    """Some twenty seconds: keeps a worker busy long enough to do something to it."""
    texts = (
        "I have been waiting for forty minutes and nobody called.",
        "The engineer said he would be here between nine and twelve.",
        "My mother is in hospital and I cannot get through to anyone.",
        "Can you please check my order number again?",
        "Just cancel the whole thing, I do not want it any more.",
    )
    return segment(np.concatenate([say(text, "flite:slt") for text in texts]))


@asynccontextmanager
async def running(model: ResolvedModel, workers: int = 1, options: AsrOptions | None = None) -> AsyncIterator[AsrPool]:
    pool = AsrPool(model, workers, options=options)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()
    assert pool.worker_pids() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(speech_model: ResolvedModel) -> AsyncIterator[AsrPool]:
    """One worker for all tests that leave it as they found it; loading takes a second or two."""
    async with running(speech_model) as started:
        yield started


async def until(condition: Callable[[], bool], ceiling_s: float = 10) -> None:
    """Yield to the loop until it holds; the ceiling only bounds a failure."""
    deadline = clock.monotonic_ms() + ceiling_s * 1000
    never = asyncio.Event()
    while not condition():
        assert clock.monotonic_ms() < deadline, "did not happen in time"
        try:
            await asyncio.wait_for(never.wait(), 0.01)
        except TimeoutError:
            continue


def alive(pid: int) -> bool:
    """A process that still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_pool_hears_words_keeps_times_and_counts(pool: AsrPool, useless: Segment) -> None:
    """One segment through a real worker process."""
    assert pool.about == {
        "kind": "tiny.en",
        "recipe": "short_context",
        "fallback": None,
        "device": "cpu",
        "compute_type": pool.about["compute_type"],
        "tokens": pool.about["tokens"],
        "second_opinion": True,
        "second_look": True,
    }
    # Of 50,363: what nobody says is left out.
    assert 35_000 < pool.about["tokens"] < 42_000
    found = await pool.submit(useless)
    assert found.text.lower().strip(".") == "you people are completely useless"
    assert (found.start_ms, found.end_ms, found.dropped) == (5_000, useless.end_ms, None)
    stats = pool.stats()
    assert (stats.decoded, stats.queued, stats.lag_ms, stats.restarts, stats.workers) == (1, 0, 0, 0, 1)
    assert stats.audio_ms == len(useless.samples) // 8
    assert 0 < stats.decode_ms == found.decode_ms


async def test_pool_and_in_process_recogniser_agree(pool: AsrPool, ears: SyncAsr, useless: Segment) -> None:
    """Replay and live call hear the same."""
    found = await pool.submit(useless)
    alone = ears.decode(useless)
    assert (found.text, found.start_ms, found.end_ms) == (alone.text, alone.start_ms, alone.end_ms)


async def test_finals_go_before_offers_and_offers_before_drafts(
    speech_model: ResolvedModel, useless: Segment, long_talk: Segment
) -> None:
    """While the worker is busy, the queue orders itself; an offer that became the final counts as one."""
    async with running(speech_model, options=AsrOptions(queue=QueueOptions(batch=1, stale_ms=60_000))) as pool:
        order: list[str] = []
        busy = pool.submit(long_talk)
        await until(lambda: pool.stats().queued == 0)
        kinds = [SegmentKind.DRAFT, SegmentKind.OFFER, SegmentKind.FINAL, SegmentKind.OFFER]
        futures = [pool.submit(replace(useless, kind=kind)) for kind in kinds]
        for name, future in zip(("draft", "offer", "final", "promoted"), futures, strict=True):
            future.add_done_callback(lambda _, name=name: order.append(name))
        pool.promote(futures[3])
        assert pool.stats().queued == 4
        found = await asyncio.gather(busy, *futures)
        assert order == ["final", "promoted", "offer", "draft"]
        assert [each.final for each in found] == [True, False, True, True, True]


async def test_words_have_times_when_they_are_asked_for(pool: AsrPool, useless: Segment) -> None:
    """On the call's clock, in order, within the speech; and none where nobody asked."""
    found = await pool.submit(replace(useless, word_times=True))
    assert [word.text.lower().strip(".") for word in found.words] == ["you", "people", "are", "completely", "useless"]
    assert all(before.end_ms <= after.start_ms for before, after in itertools.pairwise(found.words))
    assert useless.start_ms <= found.words[0].start_ms and found.words[-1].end_ms <= useless.end_ms + 200
    assert (await pool.submit(useless)).words == ()


async def test_batch_of_waiting_segments_is_decoded_in_one_pass(speech_model: ResolvedModel, useless: Segment) -> None:
    """Each still gets its own words and times."""
    async with running(speech_model, options=AsrOptions(queue=QueueOptions(batch=4))) as pool:
        moved = [replace(useless, start_ms=at, end_ms=at + 1) for at in range(4)]
        found = await asyncio.gather(*(pool.submit(each) for each in moved))
        assert [each.start_ms for each in found] == [0, 1, 2, 3]
        assert {each.text.lower().strip(".") for each in found} == {"you people are completely useless"}
        assert pool.stats().passes < pool.stats().decoded == 4


async def test_killed_worker_is_replaced_and_its_segment_tried_again(pool: AsrPool, long_talk: Segment) -> None:
    """A crash in native code costs a call a second, not its words."""
    future = pool.submit(long_talk)
    await until(lambda: pool.stats().queued == 0)
    first, before = pool.worker_pids(), pool.stats().restarts
    os.kill(first[0], signal.SIGKILL)
    found = await asyncio.wait_for(future, 30)
    assert "order number again" in found.text.lower()
    assert pool.stats().restarts == before + 1 and pool.worker_pids() != first


async def test_segment_that_kills_twice_is_given_up_and_the_next_is_heard(
    pool: AsrPool, long_talk: Segment, useless: Segment
) -> None:
    """Never an exception in a call, never a third try."""
    future = pool.submit(long_talk)
    following = pool.submit(useless)
    before = pool.stats()
    for kill in range(2):
        await until(lambda kill=kill: pool.stats().restarts == before.restarts + kill and pool.stats().queued == 1, 20)
        await until(lambda: len(pool.worker_pids()) == 1)
        os.kill(pool.worker_pids()[0], signal.SIGKILL)
    found = await asyncio.wait_for(future, 30)
    assert (found.text, found.dropped, found.end_ms) == ("", "asr_failed", long_talk.end_ms)
    assert "useless" in (await asyncio.wait_for(following, 30)).text
    assert pool.stats().failed == before.failed + 1


async def test_hanging_worker_is_killed_and_replaced(speech_model: ResolvedModel, say: Callable[..., Pcm]) -> None:
    """A worker that stops answering is no better than a dead one."""
    async with running(speech_model, options=AsrOptions(decode_timeout_s=0.5)) as pool:
        stopped = pool.worker_pids()[0]
        os.kill(stopped, signal.SIGSTOP)
        found = await asyncio.wait_for(pool.submit(segment(say("Stop it now.", "flite:slt"))), 30)
        assert "stop" in found.text.lower()
        assert not alive(stopped)


async def test_overload_keeps_the_oldest_finals(
    speech_model: ResolvedModel, useless: Segment, long_talk: Segment
) -> None:
    """Beyond the bound partials go first, then the newest."""
    async with running(speech_model, options=AsrOptions(queue=QueueOptions(max_waiting=2))) as pool:
        busy = pool.submit(long_talk)
        await until(lambda: pool.stats().queued == 0)
        partial = pool.submit(replace(useless, kind=SegmentKind.DRAFT))
        finals = [pool.submit(useless) for _ in range(3)]
        assert partial.result().dropped == "overload"
        assert finals[2].result().dropped == "overload"
        assert pool.stats().overload == 2 and pool.stats().queued == 2
        assert [each.dropped for each in await asyncio.gather(busy, *finals[:2])] == [None] * 3


async def test_cancelled_segment_leaves_the_queue(pool: AsrPool, useless: Segment, long_talk: Segment) -> None:
    """A call that ended wants nothing decoded any more."""
    busy = pool.submit(long_talk)
    await until(lambda: pool.stats().queued == 0)
    unwanted, wanted = pool.submit(useless), pool.submit(useless)
    before = pool.stats().decoded
    unwanted.cancel()
    assert pool.stats().queued == 1
    await asyncio.gather(busy, wanted)
    assert pool.stats().decoded == before + 2


async def test_stop_resolves_what_waits_and_later_submissions(speech_model: ResolvedModel, long_talk: Segment) -> None:
    """Nobody waits for ever on a pool that is gone."""
    pool = AsrPool(speech_model)
    await pool.start()
    futures = [pool.submit(long_talk) for _ in range(3)]
    await pool.stop()
    futures.append(pool.submit(long_talk))
    assert [future.result().dropped for future in futures] == ["asr_failed"] * 4
    await pool.stop()


async def test_words_said_while_the_model_is_loaded_wait_and_are_heard(
    speech_model: ResolvedModel, useless: Segment
) -> None:
    """A restarted service is beside its calls before it has ears."""
    pool = AsrPool(speech_model)
    await pool.begin()
    said = pool.submit(useless)
    assert pool.loading and (pool.stats().queued, pool.stats().decoded) == (1, 0)
    await pool.loaded()
    assert pool.loading and not said.done()
    pool.open()
    assert "useless" in (await asyncio.wait_for(said, 20)).text.lower() and not pool.loading
    await pool.stop()


async def test_stop_while_the_model_is_loaded_leaves_no_process_and_no_question_open(
    speech_model: ResolvedModel, useless: Segment
) -> None:
    """A service that is told to stop while it starts."""
    pool = AsrPool(speech_model, 2)
    await pool.begin()
    pids, said = pool.worker_pids(), pool.submit(useless)
    assert len(pids) == 2
    await pool.stop()
    assert said.result().dropped == "asr_failed"
    assert not any(alive(pid) for pid in pids)


async def test_odd_segments_get_an_answer_and_hurt_nobody(pool: AsrPool, useless: Segment) -> None:
    """Empty audio is dropped; a rate of zero is refused by the recogniser, and the same worker hears the next."""
    pids = pool.worker_pids()
    empty = await pool.submit(segment(np.zeros(0, np.int16)))
    wrong = await pool.submit(replace(useless, rate_hz=0))
    assert (empty.dropped, wrong.dropped) == ("empty", "asr_failed")
    assert "useless" in (await pool.submit(useless)).text
    assert pool.worker_pids() == pids


async def test_loop_is_never_held_up_while_workers_decode(pool: AsrPool, long_talk: Segment) -> None:
    """The loop's own ticks stay on time, whatever is decoded."""
    futures = [pool.submit(long_talk) for _ in range(2)]
    late_ms, never = [], asyncio.Event()
    while not all(future.done() for future in futures):
        due = clock.monotonic_ms() + 10
        try:
            await asyncio.wait_for(never.wait(), 0.01)
        except TimeoutError:
            late_ms.append(clock.monotonic_ms() - due)
    assert sorted(late_ms)[len(late_ms) * 9 // 10] < 20


async def test_interrupt_from_the_terminal_is_left_to_the_service(pool: AsrPool, useless: Segment) -> None:
    """Control-C reaches the whole group: the workers go on until they are told."""
    before = pool.stats().restarts
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pool.worker_pids()[0], number)
    assert "useless" in (await pool.submit(useless)).text
    assert pool.stats().restarts == before


async def test_second_opinion_that_cannot_be_had_is_told_and_calls_are_heard_without_it(
    speech_model: ResolvedModel, useless: Segment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A package without the network, or with another."""

    def missing() -> None:
        raise FileNotFoundError("silero_vad.onnx is not here")

    monkeypatch.setattr("audio.silero.get_vad_model", missing)
    asr = SyncAsr(speech_model)
    assert asr.about["second_opinion"] is False
    assert "ears.second_opinion does nothing: Silero cannot be used: silero_vad.onnx is not here" in caplog.text
    assert "useless" in asr.decode(useless).text.lower()


async def test_unusable_model_is_an_error_at_start_and_leaves_no_process(tmp_path: Path) -> None:
    """The message names the model, the folder and the loader's reason."""
    pool = AsrPool(ResolvedModel("broken", str(tmp_path), "path"), workers=2)
    with pytest.raises(ModelError, match=rf"broken \({tmp_path}\) cannot be used: .*model\.bin"):
        await pool.start()
    assert pool.worker_pids() == []
    with pytest.raises(ModelError, match="cannot be used"):
        SyncAsr(ResolvedModel("broken", str(tmp_path), "path"))


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (1, 0), (-1, 1)])
async def test_pool_without_worker_or_thread_is_refused(workers: int, threads: int) -> None:
    """Configured away is a mistake, not a wish."""
    with pytest.raises(ValueError, match="at least 1"):
        AsrPool(ResolvedModel("x", "/x", "path"), workers, threads)


_ORPHAN = """
import asyncio, sys
from ivr.asr import AsrPool
from ivr.models import resolve_model
async def main():
    pool = AsrPool(resolve_model("tiny.en", offline=True), workers=2)
    await pool.start()
    print(*pool.worker_pids(), flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def service() -> Iterator[subprocess.Popen[str]]:
    """A process of its own with two workers; its first line names their process ids."""
    process = subprocess.Popen(
        [sys.executable, "-c", _ORPHAN],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


async def test_killed_service_leaves_no_worker_behind(service: subprocess.Popen[str]) -> None:
    """kill -9 gives the service no chance to clean up; its workers go with it all the same."""
    assert service.stdout is not None
    line = await asyncio.wait_for(asyncio.to_thread(service.stdout.readline), 60)
    pids = [int(each) for each in line.split()]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    service.kill()
    await until(lambda: not any(alive(pid) for pid in pids), 5)
