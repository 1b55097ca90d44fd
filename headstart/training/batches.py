"""Windows to steps: token ids in flat files on disk, batches of like length under a token budget.

A million rows of fifteen tokens are 60 MB of int32 in a memory-mapped file, not a million Python lists. The order of an
epoch is a pure function of (lengths, budget, seed, epoch), so a run can be entered again at any step.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import count

import numpy as np

from ..core.task import Task
from ..core.values import Batch
from ..core.windows import Units, WindowStore

USUAL_EPOCHS, MAX_EPOCHS, MIN_STEPS = 3, 12, 600
POOL_BATCHES = 50  # batches' worth of shuffled windows that are sorted by length together


def epoch(windows: WindowStore, tokens_per_batch: int, seed: int, number: int) -> list[np.ndarray]:
    """The batches of epoch `number`, from 0: every window once, in an order drawn from (seed, number)."""
    rng = np.random.default_rng((seed, number))
    units = Units.of(windows)
    order = rng.permutation(len(units.starts_U))
    in_pool = max(1, round(POOL_BATCHES * tokens_per_batch / float((units.sizes_U * units.counts_U).mean())))
    batches = [b for at in range(0, len(order), in_pool)
               for b in units.by_length(order[at : at + in_pool], tokens_per_batch)]
    return [batches[i] for i in rng.permutation(len(batches))]


def steps(windows: WindowStore, tokens_per_batch: int, tokens_per_micro_batch: int | None, seed: int,
          first: int = 1) -> Generator[list[Batch], None, None]:
    """Batches of step `first`, `first` + 1, ... without end; each a list of micro-batches whose losses are summed."""
    n = 0
    for number in count():
        for chosen in epoch(windows, tokens_per_batch, seed, number):
            n += 1
            if n < first:
                continue
            if tokens_per_micro_batch is None:
                yield [windows.batch(chosen)]
                continue
            chosen = np.sort(chosen)
            units = Units.of(windows, chosen)
            yield [windows.batch(chosen[piece]) for piece in
                   units.by_length(np.arange(len(units.starts_U)), tokens_per_micro_batch)]


def corrupted(steps: Generator[list[Batch], None, None], task: Task, seed: int,
              first: int = 1) -> Generator[list[Batch], None, None]:
    """`steps` as the task learns from them; what is drawn for a step is a function of (seed, its number)."""
    if type(task).corrupt is Task.corrupt:
        yield from steps
        return
    for n, micro_batches in enumerate(steps, first):
        rng = np.random.default_rng((seed, n))
        yield [task.corrupt(batch, rng) for batch in micro_batches]


def usual_epochs(sizes_N: np.ndarray, tokens_per_batch: int) -> int:
    """How often to pass over the data when nobody says: three times, more often when that gives few steps.

    Source  Mosbach et al. 2021, "On the Stability of Fine-tuning BERT": few steps, not few rows, make it unstable.
    """
    in_epoch = max(1, round(float(sizes_N.sum()) / tokens_per_batch))
    return min(MAX_EPOCHS, max(USUAL_EPOCHS, round(MIN_STEPS / in_epoch)))


def plan(windows: WindowStore, tokens_per_batch: int, seed: int, epochs: int, max_steps: int | None,
         evaluations_per_epoch: int) -> tuple[int, dict[int, float], list[int]]:
    """How many steps there will be; after which to evaluate, {step: epochs done by then}, the last is one; and how many
    steps come before each epoch."""
    n, evaluate_at, epochs_at = 0, {0: 0.0}, []
    for number in count():
        epochs_at.append(n)
        in_epoch = len(epoch(windows, tokens_per_batch, seed, number))
        for j in range(1, evaluations_per_epoch + 1):
            evaluate_at[n + round(in_epoch * j / evaluations_per_epoch)] = number + j / evaluations_per_epoch
        n += in_epoch
        if (number + 1 == epochs) if max_steps is None else (n >= max_steps):
            break
    if max_steps is not None and n > max_steps:
        share = (max_steps - (n - in_epoch)) / in_epoch
        evaluate_at = {step: at for step, at in evaluate_at.items() if step < max_steps} | {max_steps: number + share}
        n = max_steps
    return n, evaluate_at, epochs_at


def padding_share(sizes_N: np.ndarray, batches: Iterable[np.ndarray]) -> float:
    """The share of padded tokens that are padding."""
    padded = sum(int(sizes_N[b].max()) * len(b) for b in batches)
    return 1 - float(sizes_N.sum()) / padded
