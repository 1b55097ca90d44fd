"""The next steps' batches made ready while the device computes: in a thread, in order, into pinned memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import torch

from ..core.values import Batch
from ..models.device import pinned

N_AHEAD = 2  # steps whose batches wait: a step's takes milliseconds to make, so two hide any hiccup of the disk
T = TypeVar("T")


def for_device(steps: Generator[list[Batch], None, None], device: torch.device) -> Generator[list[Batch], None, None]:
    """`steps` themselves for a CPU, where a second thread would only take time from the first; else made ahead and
    pinned. Close it when no more steps are wanted."""
    if device.type != "cuda":
        return steps

    def ready(step: list[Batch]) -> list[Batch]:
        with torch.cuda.device(device):  # of a thread: each begins on the first GPU
            return [replace(batch, inputs=pinned(batch.inputs), target=pinned(batch.target)) for batch in step]

    return ahead(steps, ready)


def ahead(items: Iterator[T], ready: Callable[[T], T], n_ahead: int = N_AHEAD) -> Generator[T, None, None]:
    """`ready(item)` of each item, in order, made by a thread that is at most `n_ahead` items ahead.

    What `items` or `ready` raises is raised here, in its place. The thread ends with the items or when this generator
    is closed.
    """

    def make() -> T | None:
        item = next(items, None)
        return None if item is None else ready(item)

    with ThreadPoolExecutor(1, "prefetch") as pool:  # one thread: items are made one after the other
        futures = deque(pool.submit(make) for _ in range(n_ahead))
        try:
            while True:
                futures.append(pool.submit(make))
                item = futures.popleft().result()
                if item is None:
                    return
                yield item
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
