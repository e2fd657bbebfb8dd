"""Speech recognition for all calls: one queue, a few worker processes, and nothing that can hurt a call.

``submit`` gives a future that always resolves to a transcript. A worker that dies or hangs is replaced and its segment
tried once more; what cannot be recognised resolves with ``dropped`` set to ``asr_failed``, ``overload``, or ``stale``
(a draft that would come too late to be shown), never with an exception. Everything here lives on one asyncio loop; what
comes next is decided in :mod:`ivr.asr_queue`, the decoding is in :mod:`ivr.asr_worker`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from audio.types import Segment, SegmentKind, Transcript
from ivr import clock
from ivr.asr_queue import PRIORITY_OF, AsrQueue, Context, Job, Priority, QueueOptions
from ivr.asr_worker import LENGTH, WorkerSettings, decode_timed, load_transcriber, pack_segments, transcript_from
from ivr.errors import ModelError
from ivr.models import ResolvedModel

ASR_FAILED = "asr_failed"
OVERLOAD = "overload"
STALE = "stale"

_LOG = logging.getLogger("firmline.asr")
_LOAD_TIMEOUT_S = 120.0
_BACKOFF_S = (0.0, 0.2, 1.0, 5.0)
_GONE = (asyncio.IncompleteReadError, ConnectionError, TimeoutError, BrokenPipeError, ValueError)


@dataclass(frozen=True, slots=True)
class AsrOptions:
    """``queue``: how the work of all legs is put in order. ``decode_timeout_s``: a worker that needs longer than this,
    plus twice the audio, hangs."""

    device: str = "cpu"
    compute_type: str = "auto"
    language: str = "en"
    initial_prompt: str | None = None
    vocabulary: str = "spoken"
    second_opinion: bool = True
    second_look: bool = True
    queue: QueueOptions = QueueOptions()
    decode_timeout_s: float = 20.0
    nice: int = 5

    def __post_init__(self) -> None:
        """:raises ValueError: when a number is out of range."""
        if self.decode_timeout_s <= 0:
            raise ValueError("decode_timeout_s must be positive")


@dataclass(frozen=True, slots=True)
class AsrStats:
    """``queued``: waiting; ``lag_ms``: age of the oldest final that waits or is being decoded. The rest counts since
    the start: ``decode_ms`` is the workers' own time over ``audio_ms`` of audio, ``decoded / passes`` the mean batch,
    ``stale`` the drafts that were not decoded because they came too late."""

    queued: int
    lag_ms: int
    decoded: int
    passes: int
    stale: int
    audio_ms: int
    decode_ms: int
    restarts: int
    failed: int
    overload: int
    workers: int


class _RefusedError(Exception):
    """The worker is well, but the recogniser raised on this input."""


class AsrPool:
    """See the module. ``model`` comes from :func:`ivr.models.resolve_model`."""

    def __init__(
        self, model: ResolvedModel, workers: int = 1, threads: int = 1, *, options: AsrOptions | None = None
    ) -> None:
        """:raises ValueError: when there would be no worker or no thread."""
        if workers < 1 or threads < 1:
            raise ValueError(f"workers and threads must be at least 1, got {workers} and {threads}")
        self.model = model
        self.about: dict[str, Any] = {}
        """After ``start``: ``kind``, ``recipe`` and ``fallback`` of the model, for the ready line."""
        self._options = options or AsrOptions()
        settings = WorkerSettings(
            path=model.path,
            device=self._options.device,
            compute_type=self._options.compute_type,
            threads=threads,
            language=self._options.language,
            initial_prompt=self._options.initial_prompt,
            vocabulary=self._options.vocabulary,
            second_opinion=self._options.second_opinion,
            second_look=self._options.second_look,
            nice=self._options.nice,
            parent_pid=os.getpid(),
        )
        self._workers = [_Worker(settings) for _ in range(workers)]
        self.loading = False
        """Between ``begin`` and ``open``: nobody decodes yet, and what is submitted waits."""
        self._loads: list[asyncio.Task[dict[str, Any]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._queue = AsrQueue(self._options.queue)
        self._jobs: dict[int, Job] = {}
        self._futures: dict[int, asyncio.Future[Transcript]] = {}
        self._idle = 0
        self._wake = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._number = 0
        self._count = dict.fromkeys(
            ("decoded", "passes", "stale", "audio_ms", "decode_ms", "restarts", "failed", "overload"), 0
        )

    async def start(self) -> None:
        """Start the workers, load and self-test the model in each, and decode from now on.

        :raises ModelError: when the model cannot be loaded; no worker is left behind.
        """
        await self.begin()
        await self.loaded()
        self.open()

    async def begin(self) -> None:
        """Have the workers load the model and return: what is submitted meanwhile waits for ``open``."""
        self.loading = True
        self._loads = [asyncio.create_task(worker.start()) for worker in self._workers]
        await asyncio.gather(*(worker.spawned.wait() for worker in self._workers))

    async def loaded(self) -> None:
        """Wait until every worker has its model.

        :raises ModelError: when one cannot load it; no worker is left behind, and what waits is given up.
        """
        try:
            found = await asyncio.gather(*self._loads, return_exceptions=True)
            for each in found:
                if isinstance(each, BaseException):
                    raise each
                self._queue.context = Context(**each.pop("context"))
                self.about = each
        except BaseException as error:
            await self.stop()
            if isinstance(error, _GONE):
                raise ModelError(f"speech model {self.model.name}: the worker ended while loading it") from error
            if isinstance(error, ModelError):
                raise ModelError(
                    f"speech model {self.model.name} ({self.model.path}) cannot be used: {error}"
                ) from error
            raise

    def open(self) -> None:
        """Decode from now on, what waits first."""
        self.loading = False
        self._tasks = [asyncio.create_task(self._serve(worker)) for worker in self._workers]

    def submit(self, segment: Segment) -> asyncio.Future[Transcript]:
        """Queue a segment. The future always gets a transcript; cancelling it takes the segment out of the queue."""
        future: asyncio.Future[Transcript] = asyncio.get_running_loop().create_future()
        self._number += 1
        job = Job(
            self._number, segment, PRIORITY_OF[segment.kind], clock.monotonic_ms(), wanted=lambda: not future.done()
        )
        self._jobs[job.number], self._futures[job.number] = job, future
        future.add_done_callback(lambda _: self._forget(job))
        if self._stop_asked.is_set() or segment.rate_hz <= 0:
            self._give_up(job, ASR_FAILED)
            return future
        for each in self._queue.add(job):
            self._give_up(each, OVERLOAD)
        self._wake.set()
        return future

    def promote(self, future: asyncio.Future[Transcript]) -> None:
        """The offer behind ``future`` has become the final: it waits no longer than any other final."""
        for number, each in self._futures.items():
            if each is future:
                self._jobs[number].priority = Priority.FINAL

    async def stop(self) -> None:
        """End the workers; what still waits resolves as ``asr_failed``. Bounded by a second or so, never raises."""
        self._stop_asked.set()
        tasks = [*self._loads, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loads, self._tasks = [], []
        await asyncio.gather(*(worker.stop() for worker in self._workers))
        for job in list(self._jobs.values()):
            self._give_up(job, ASR_FAILED)
        self._queue.take_all()

    def stats(self) -> AsrStats:
        """The present load, for ``/metrics`` and the agent's page."""
        finals = (job for job in self._jobs.values() if job.priority is Priority.FINAL and job.wanted())
        oldest = min((job.submitted_ms for job in finals), default=None)
        return AsrStats(
            queued=len(self._queue.waiting),
            lag_ms=0 if oldest is None else clock.monotonic_ms() - oldest,
            workers=sum(worker.pid is not None for worker in self._workers),
            **self._count,
        )

    def worker_pids(self) -> list[int]:
        """Process ids of the live workers."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _serve(self, worker: _Worker) -> None:
        while True:
            jobs = await self._next()
            timeout_s = self._options.decode_timeout_s + sum(2 * _audio_ms(job.segment) / 1000 for job in jobs)
            try:
                found = await asyncio.wait_for(worker.decode([job.segment for job in jobs]), timeout_s)
            except _RefusedError as error:
                _LOG.error("a segment cannot be decoded: %s", error)
                self._again(jobs)
                continue
            except _GONE as error:
                _LOG.warning("speech worker %s is gone or hangs (%s): replacing it", worker.pid, type(error).__name__)
                self._again(jobs)
                await self._replace(worker)
                continue
            self._answer(jobs, found)

    def _answer(self, jobs: list[Job], found: list[Transcript]) -> None:
        self._queue.measured(jobs, sum(each.decode_ms for each in found))
        self._count["passes"] += 1
        for job, transcript in zip(jobs, found, strict=True):
            self._count["decoded"] += 1
            self._count["audio_ms"] += _audio_ms(job.segment)
            self._count["decode_ms"] += transcript.decode_ms
            future = self._futures.get(job.number)
            if future is not None and not future.done():
                future.set_result(transcript)

    async def _next(self) -> list[Job]:
        """The next pass; waits until there is one."""
        self._idle += 1
        try:
            while True:
                now_ms = clock.monotonic_ms()
                for job in self._queue.stale(now_ms):
                    self._give_up(job, STALE)
                jobs = self._queue.take(now_ms, self._idle)
                if jobs:
                    return jobs
                self._wake.clear()
                await self._wake.wait()
        finally:
            self._idle -= 1

    def _again(self, jobs: list[Job]) -> None:
        """Each segment has two tries: one that kills its worker must not kill them all, one after the other."""
        for job in jobs:
            job.attempts += 1
            if job.attempts >= 2:
                self._give_up(job, ASR_FAILED)
            elif job.wanted():
                for each in self._queue.add(job):
                    self._give_up(each, OVERLOAD)
        self._wake.set()

    async def _replace(self, worker: _Worker) -> None:
        """Until it runs again. While no worker runs at all, what waits is given up rather than kept for ever."""
        for attempt in range(sys.maxsize):
            self._count["restarts"] += 1
            try:
                await worker.stop()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop_asked.wait(), _BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
                await worker.start()
                return
            except (*_GONE, OSError, ModelError) as error:
                _LOG.error("speech worker cannot be started again: %s", error)
                if attempt >= 1 and not self.worker_pids():
                    for job in self._queue.take_all():
                        self._give_up(job, ASR_FAILED)

    def _give_up(self, job: Job, why: str) -> None:
        future = self._futures.get(job.number)
        if future is None or future.done():
            return
        self._count["failed" if why == ASR_FAILED else why] += 1
        segment = job.segment
        final = segment.kind is not SegmentKind.DRAFT
        future.set_result(Transcript("", segment.start_ms, segment.end_ms, final=final, dropped=why))

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.number, None)
        self._futures.pop(job.number, None)


class _Worker:
    """One worker process, as seen from the loop."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self.spawned = asyncio.Event()
        """``start`` has made the process, or could not."""

    @property
    def pid(self) -> int | None:
        """Of the live process, else ``None``."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> dict[str, Any]:
        """:raises ModelError: with the loader's words; :raises ConnectionError, IncompleteReadError: when it dies."""
        try:
            await self._spawn()
        finally:
            self.spawned.set()
        answer = await asyncio.wait_for(self._read(), _LOAD_TIMEOUT_S)
        if "error" in answer:
            raise ModelError(answer["error"])
        about: dict[str, Any] = answer["ready"]
        return about

    async def _spawn(self) -> None:
        root = str(Path(__file__).parents[1])
        threads = str(self._settings.threads)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ivr.asr_worker",
            json.dumps(asdict(replace(self._settings, parent_pid=os.getpid()))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
                "OMP_NUM_THREADS": threads,
                "OPENBLAS_NUM_THREADS": "1",
            },
        )

    async def decode(self, segments: list[Segment]) -> list[Transcript]:
        """:raises ConnectionError, IncompleteReadError: when the process is gone; :raises _RefusedError: it says so."""
        if self._process is None or self._process.stdin is None:
            raise ConnectionError("no worker process")
        self._process.stdin.write(pack_segments(segments))
        await self._process.stdin.drain()
        answer = await self._read()
        if "failed" in answer:
            raise _RefusedError(answer["failed"])
        return [transcript_from(each) for each in answer["transcripts"]]

    async def stop(self) -> None:
        """Closing its input asks it to end; one that has not within half a second is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 0.5)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _read(self) -> dict[str, Any]:
        if self._process is None or self._process.stdout is None:
            raise ConnectionError("no worker process")
        (length,) = LENGTH.unpack(await self._process.stdout.readexactly(LENGTH.size))
        answer: dict[str, Any] = json.loads(await self._process.stdout.readexactly(length))
        return answer


class SyncAsr:
    """The same recogniser in this process, for replay and ``firmline transcribe``.

    :raises ModelError: when the model cannot be loaded.
    """

    def __init__(self, model: ResolvedModel, threads: int = 1, *, options: AsrOptions | None = None) -> None:
        chosen = options or AsrOptions()
        settings = WorkerSettings(
            path=model.path,
            device=chosen.device,
            compute_type=chosen.compute_type,
            threads=threads,
            language=chosen.language,
            initial_prompt=chosen.initial_prompt,
            vocabulary=chosen.vocabulary,
            second_opinion=chosen.second_opinion,
            second_look=chosen.second_look,
        )
        self.model = model
        try:
            self._transcriber, self.about = load_transcriber(settings)
            del self.about["context"]
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"speech model {model.name} ({model.path}) cannot be used: {error}") from error

    def decode(self, segment: Segment) -> Transcript:
        """One segment, here and now."""
        return self.decode_batch([segment])[0]

    def decode_batch(self, segments: list[Segment]) -> list[Transcript]:
        """Several segments; those of similar length share a pass."""
        return decode_timed(self._transcriber, segments)


def _audio_ms(segment: Segment) -> int:
    return len(segment.samples) * 1000 // segment.rate_hz
