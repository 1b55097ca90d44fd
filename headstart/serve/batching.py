"""Waiting requests to batches: bounded, fair, and each with a deadline.

A model runs one batch at a time, and what arrives meanwhile is the next batch: under load batches grow by themselves,
and a lone request never waits. Batches take one window of each request in turn, so a request of a thousand
rows does not hold up a request of one.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from pydantic_core import to_json

from ..core.predict import decode, run
from ..core.reader import Reader
from ..core.task import Task
from ..core.values import Prediction, Row, Runtime, Window
from .errors import Refused, is_end
from .measures import Measures
from .settings import Settings

INLINE_CHARS = 4000  # of a request: fewer are tokenized faster than another thread is woken
MAX_RETRY_S = 30
COMPANY_S, COMPANY_SHARE = 0.004, 0.2  # how long a next batch waits for company at most; of the last one's seconds
PADDED_TOKENS = 1024  # of one call of the runtime, as in `artifact.predict`
# What a call of the runtime costs by itself, and how many pairs in attention cost as much as one token: measured with
# MiniLM-L6; half or twice as many make no difference that can be seen.
CALL_TOKENS, PAIRS_PER_TOKEN = 16, 256


@dataclass(eq=False)
class Job:
    """One request's rows on their way. The model's thread touches it only while its windows run."""

    rows: Sequence[Row]
    windows: Sequence[Window]
    done: asyncio.Future[list[bytes]]
    n_tokens: int
    n_cut_tokens: int
    came: float = field(default_factory=time.perf_counter)
    n_taken: int = 0
    logits: dict[int, np.ndarray] = field(default_factory=dict)


Taken = list[tuple[Job, int]]  # a window of a job, by its number; -1 where the job has none


class Batcher:
    """The queue of one model. All methods but `_run` belong to the event loop's thread.

    thread: where models run; one for all models, so that they do not fight for cores.
    encoders: where long texts are tokenized.
    """

    def __init__(self, name: str, task: Task, reader: Reader, runtime: Runtime, settings: Settings,
                 measures: Measures, thread: Executor, encoders: Executor) -> None:
        self.task, self.reader, self.runtime, self.settings = task, reader, runtime, settings
        self.thread, self.encoders = thread, encoders
        self.n_requests, self.n_tokens = 0, 0
        self.tokens_per_s = 0.0
        self.measures = measures
        self.queue_seconds, self.batch_seconds, self.batch_windows, self.batch_tokens = (
            m.labels(name) for m in (measures.queue_seconds, measures.batch_seconds, measures.batch_windows,
                                     measures.batch_tokens))
        self.requests_now, self.tokens_now = measures.queue_requests.labels(name), measures.queue_tokens.labels(name)
        self.tokens, self.cut_tokens, self.rows, self.cache_hits = (
            m.labels(name) for m in (measures.tokens, measures.cut_tokens, measures.rows, measures.cache_hits))
        self._jobs: deque[Job] = deque()
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self._worker: asyncio.Task[None] | None = None
        self._n_enough, self._enough = 0, asyncio.Event()  # jobs that a next batch waits for, and whether they are here

    async def answer(self, rows: Sequence[Row]) -> tuple[list[bytes], int, int]:
        """(answers as JSON, tokens read, tokens that did not fit). A cancelled call frees its place at once.

        Raises Refused: 429 when the queue is full, 413 when the rows have too many tokens.
        """
        if not self.settings.cache_answers:
            return await self._compute(rows)
        keys = [hashlib.blake2b(to_json(row), digest_size=16).digest() for row in rows]
        cached = [self._cache.get(key) for key in keys]
        missing = [i for i, answer in enumerate(cached) if answer is None]
        n_tokens = n_cut = 0
        if missing:
            answers, n_tokens, n_cut = await self._compute([rows[i] for i in missing])
            for i, answer in zip(missing, answers, strict=True):
                cached[i] = self._cache[keys[i]] = answer
        self.cache_hits.inc(len(rows) - len(missing))
        for key in keys:
            if key in self._cache:
                self._cache.move_to_end(key)
        while len(self._cache) > self.settings.cache_answers:
            self._cache.popitem(last=False)
        return [answer for answer in cached if answer is not None], n_tokens, n_cut

    async def _compute(self, rows: Sequence[Row]) -> tuple[list[bytes], int, int]:
        if self.n_requests >= self.settings.queue_requests:
            raise self._full()
        self.n_requests += 1
        self._show()
        job = None
        try:
            job = self._admit(rows, await self._encode(rows))
            answers = await job.done
        finally:
            self.n_requests -= 1
            if job is not None:
                self.n_tokens -= job.n_tokens
                if job in self._jobs:
                    self._jobs.remove(job)
            self._show()
        self.rows.inc(len(rows))
        return answers, job.n_tokens, job.n_cut_tokens

    async def _encode(self, rows: Sequence[Row]) -> list[Window]:
        def encode() -> list[Window]:
            return [w for i, row in enumerate(rows) for w in self.task.encode(i, row, self.reader)]

        n_chars = sum(len(value) if isinstance(value, str) else 10 * len(value) if isinstance(value, list) else 1
                      for row in rows for value in row.values())
        if n_chars <= INLINE_CHARS:
            return encode()
        return await asyncio.get_running_loop().run_in_executor(self.encoders, encode)

    def _admit(self, rows: Sequence[Row], windows: Sequence[Window]) -> Job:
        n_tokens = sum(map(len, windows))
        n_cut = sum(w.notes.get("n_cut_tokens", 0) for w in windows)
        if n_tokens + n_cut > self.settings.request_tokens:
            raise Refused(413, "too_many_tokens", f"the request has {n_tokens + n_cut:,} tokens; at most "
                          f"{self.settings.request_tokens:,} are read. Send fewer or shorter rows.")
        if self.n_tokens and self.n_tokens + n_tokens > self.settings.queue_tokens:
            raise self._full()
        job = Job(rows, windows, asyncio.get_running_loop().create_future(), n_tokens, n_cut)
        self.n_tokens += n_tokens
        self.tokens.inc(n_tokens)
        self.cut_tokens.inc(n_cut)
        self._jobs.append(job)
        if len(self._jobs) >= self._n_enough:
            self._enough.set()
        self._show()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())
        return job

    def _full(self) -> Refused:
        wait_s = self.n_tokens / self.tokens_per_s if self.tokens_per_s else 1
        return Refused(429, "queue_full", "as many requests wait as may; try again later.",
                       headers={"retry-after": str(min(MAX_RETRY_S, max(1, math.ceil(wait_s))))})

    def _show(self) -> None:
        self.requests_now.set(self.n_requests)
        self.tokens_now.set(self.n_tokens)

    async def _work(self) -> None:
        """Run batches until nothing waits."""
        loop = asyncio.get_running_loop()
        while self._jobs:
            taken, began = self._take(), time.perf_counter()
            finished = await loop.run_in_executor(self.thread, self._run, taken)
            seconds = time.perf_counter() - began
            n_tokens = sum(len(job.windows[i]) for job, i in taken if i >= 0)
            self.tokens_per_s = n_tokens / seconds if not self.tokens_per_s else (
                0.9 * self.tokens_per_s + 0.1 * n_tokens / seconds)
            self.batch_seconds.observe(seconds)
            self.batch_windows.observe(len(taken))
            self.batch_tokens.observe(n_tokens)
            for job, result in finished:
                if job.done.done():
                    continue
                if isinstance(result, BaseException):
                    job.done.set_exception(result)
                else:
                    job.done.set_result(result)
            if 1 < len(finished) > len(self._jobs):  # those who were answered together often ask again together
                self._n_enough = len(finished)
                self._enough.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(COMPANY_S, COMPANY_SHARE * seconds)):
                        await self._enough.wait()

    def _take(self) -> Taken:
        """The next batch: one window of each job in turn until the budget is used."""
        taken: Taken = []
        room, now = self.settings.batch_tokens, time.perf_counter()
        while self._jobs:
            job = self._jobs[0]
            if job.windows:
                size = len(job.windows[job.n_taken])
                if taken and size > room:
                    break
                room -= size
                taken.append((job, job.n_taken))
            if job.n_taken == 0:
                self.queue_seconds.observe(now - job.came)
            job.n_taken += 1
            self._jobs.popleft()
            if job.n_taken < len(job.windows):
                self._jobs.append(job)
            elif not job.windows:
                taken.append((job, -1))
        return taken

    def _run(self, taken: Taken) -> list[tuple[Job, list[bytes] | BaseException]]:
        """Run a batch in the model's thread; returns the jobs that are finished. One job's failure is its own."""
        finished: list[tuple[Job, list[bytes] | BaseException]] = []
        jobs = list(dict.fromkeys(job for job, _ in taken))
        try:
            windows = [(job, i) for job, i in taken if i >= 0]
            logits_of_windows = run_few([job.windows[i] for job, i in windows], self.reader, self.runtime)
            for (job, i), logits in zip(windows, logits_of_windows, strict=True):
                job.logits[i] = logits
        except BaseException as error:  # whatever it is, it must not end the queue
            if is_end(error):
                raise
            if len(jobs) == 1:
                return [(jobs[0], error)]
            return [pair for job in jobs for pair in self._run([window for window in taken if window[0] is job])]
        for job in jobs:
            if len(job.logits) < len(job.windows):
                continue
            try:
                in_order = [job.logits[k] for k in range(len(job.windows))]
                finished.append((job, self._written(decode(self.task, job.rows, job.windows, in_order))))
            except BaseException as error:  # noqa: BLE001 - the job's own
                finished.append((job, error))
        return finished

    def _written(self, answers: Iterable[Prediction]) -> list[bytes]:
        """Each answer as JSON: of many labels a fifth of the memory. Raises Refused (413)."""
        written, n_bytes = [], 0
        for answer in answers:
            written.append(to_json(answer))
            n_bytes += len(written[-1])
            if n_bytes > self.settings.answer_bytes:
                raise Refused(413, "answer_too_large", f"the answer has more than {self.settings.answer_bytes:,} "
                              "bytes. Send fewer rows.")
        return written


def run_few(windows: Sequence[Window], reader: Reader, runtime: Runtime) -> list[np.ndarray]:
    """The logits of each window, in order, by the calls of the runtime that cost least together."""
    order = sorted(range(len(windows)), key=lambda i: len(windows[i]))
    logits: list[np.ndarray] = [np.empty(0)] * len(windows)
    skips_padding = runtime.skips_padding
    for chosen in groups([len(windows[i]) for i in order], skips_padding):
        part = order[chosen]
        results = run([windows[i] for i in part], reader, runtime, PADDED_TOKENS)
        for i, result in zip(part, results, strict=True):
            logits[i] = result
    return logits


def groups(lengths: Sequence[int], skips_padding: bool = False) -> list[slice]:
    """Cut windows, whose `lengths` only grow, into the calls of the runtime that cost least together.

    A few windows that happened to come together differ in length more than those of a file do: padded to the longest
    they would cost up to three times their own tokens. A call costs CALL_TOKENS, and its windows times their longest;
    where the runtime skips padding, their own tokens and what attention does with padded windows.
    """
    lengths_N = np.asarray(lengths, np.int64)
    before_N = np.concatenate([[0], np.cumsum(lengths_N)])
    cost_N, begin_N = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, np.int64)
    for end in range(1, len(lengths) + 1):
        longest = int(lengths_N[end - 1])
        first = max(0, end - max(1, PADDED_TOKENS // longest))
        padded = np.arange(end - first, 0, -1) * longest
        own = before_N[end] - before_N[first:end] + padded * longest / PAIRS_PER_TOKEN if skips_padding else padded
        costs = cost_N[first:end] + CALL_TOKENS + own
        best = int(costs.argmin())
        cost_N[end], begin_N[end] = costs[best], first + best
    cuts, end = [], len(lengths)
    while end:
        cuts.append(slice(int(begin_N[end]), end))
        end = int(begin_N[end])
    return cuts[::-1]
