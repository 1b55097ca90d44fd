"""Rows in, answers out, through any Runtime. Bounded memory, order kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from . import writing
from .reader import Reader
from .task import Task
from .values import Judge, Prediction, Row, Runtime, Window, collate
from .windows import by_length

ROWS_AT_ONCE = 4096  # enough to sort by length, few enough to hold


def predict(task: Task, rows: Iterable[Row], reader: Reader, runtime: Runtime, *,
            tokens_per_batch: int = 1024, judge: Judge | None = None) -> Iterator[Prediction]:
    """Answer `rows` in their order; they are read, encoded, run and decoded a few thousand at a time.

    judge: tells whether texts are what their rows ask for; None: nobody looks.
    """
    iterator = iter(rows)
    while chunk := list(islice(iterator, ROWS_AT_ONCE)):
        windows = [w for i, row in enumerate(chunk) for w in task.encode(i, row, reader)]
        if task.generation is not None:
            yield from writing.predictions(task, chunk, windows, reader, runtime.stepper(), tokens_per_batch,
                                           judge=judge)
            continue
        yield from decode(task, chunk, windows, run(windows, reader, runtime, tokens_per_batch))


def beside_errors(rows: Iterable[Row | tuple[int, str]],
                  answer: Callable[[Iterable[Row]], Iterable[Prediction]]) -> Iterator[Prediction]:
    """`answer` to the rows in their order, and {"row": its number, "error": ...} in the place of one that is none.

    rows: as data.table.Stream.numbered gives them: a row, or (number, what is wrong with it).
    """
    waiting: deque[tuple[int, str]] = deque()  # a place for each row that was read and not answered; "": nothing wrong

    def sound() -> Iterator[Row]:
        for row in rows:
            waiting.append((0, "") if isinstance(row, dict) else row)
            if isinstance(row, dict):
                yield row

    def errors() -> Iterator[Prediction]:
        while waiting and waiting[0][1]:
            n, error = waiting.popleft()
            yield {"row": n, "error": error}

    for prediction in answer(sound()):
        yield from errors()
        waiting.popleft()
        yield prediction
    yield from errors()


def decode(task: Task, rows: Sequence[Row], windows: Sequence[Window],
           logits: Sequence[np.ndarray], first: int = 0) -> Iterator[Prediction]:
    """The answer to each row from the logits of its windows; windows stand in the order of the rows.

    first: the number that the windows give to the first of `rows`.
    """
    at = 0
    for i, row in enumerate(rows, first):
        end = at
        while end < len(windows) and windows[end].row == i:
            end += 1
        yield task.decode(row, windows[at:end], logits[at:end])
        at = end


def run(windows: list[Window], reader: Reader, runtime: Runtime, tokens_per_batch: int) -> list[np.ndarray]:
    """The logits of each window, in order; batches are of like length."""

    def logits(chosen: np.ndarray) -> np.ndarray:
        inputs: dict[str, Sequence[list[int]]] = {
            name: [windows[i].inputs[name] for i in chosen] for name in windows[chosen[0]].inputs}
        return runtime.logits(collate(inputs, {}, reader.pad_id).inputs)

    return by_batches(np.fromiter((len(w) for w in windows), np.int64, len(windows)), tokens_per_batch, logits)


def by_batches(sizes_N: np.ndarray, tokens_per_batch: int,
               logits: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """The logits of N windows, in order, computed in batches of like size.

    logits: the numbers of some windows -> theirs, one entry a window.
    """
    in_order: list[np.ndarray] = [np.empty(0)] * len(sizes_N)
    for chosen in by_length(sizes_N, np.arange(len(sizes_N)), tokens_per_batch):
        for i, of_window in zip(chosen, logits(chosen), strict=True):
            in_order[i] = of_window
    return in_order


def is_close(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two answers are equal, numbers up to `tolerance`; of numbers beyond 1, up to that share of them."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(is_close(a[k], b[k], tolerance) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(is_close(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= tolerance * max(1.0, abs(a))
    return bool(a == b)
