"""Does an exported model answer as the one it came from? The gate that every export must pass.

In 32 bits it must give every decoded answer, and every number in it to 1e-3. In 8 bits the task's own metric must be
proven to hold: the lower end of the one-sided 95 % interval of (exported - original), rows paired, must lie above
-max_loss points. That no loss was seen on a handful of rows is no proof, so few rows are refused rather than waved
through: half a point takes 540 rows that all agree. In both cases batches of 1 to 64 windows and lengths up to the
longest are tried.

Shape suffixes: B windows in a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import statistics
from ..core.errors import ParityError, shorten
from ..core.predict import is_close, predict, run
from ..core.reader import Reader
from ..core.task import Task
from ..core.values import Prediction, Row, Runtime, Window, collate

TOLERANCE = 1e-3
LARGEST_BATCH, N_LENGTHS, TOKENS, N_ROWS_TO_CUT = 64, 64, 512, 200

Function = Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Rows:
    """What both models answer. origin: where they came from, in words. is_labelled: whether all have their gold."""

    rows: list[Row]
    origin: str
    is_labelled: bool


@dataclass(frozen=True)
class Gate:
    """Two runtimes of one task, given the same rows. `answers` are those of the original, in the order of the rows."""

    task: Task
    reader: Reader
    original: Runtime
    rows: Rows
    answers: list[Prediction]
    tokens_per_batch: int

    @classmethod
    def of(cls, task: Task, reader: Reader, original: Runtime, rows: Rows, tokens_per_batch: int) -> Gate:
        answers = list(predict(task, blind(task, rows.rows), reader, original, tokens_per_batch=tokens_per_batch))
        return cls(task, reader, original, rows, answers, tokens_per_batch)

    def predict(self, exported: Runtime) -> list[Prediction]:
        """The exported model's answers to the rows."""
        return list(predict(self.task, blind(self.task, self.rows.rows), self.reader, exported,
                            tokens_per_batch=self.tokens_per_batch))

    def exact(self, exported: Runtime) -> dict[str, Any]:
        """Compare in 32 bits; returns the results. Raises ParityError that shows what differs."""
        return {**self.same_answers(exported), "shapes": self.try_shapes(exported, TOLERANCE)}

    def same_answers(self, exported: Runtime) -> dict[str, Any]:
        """The part of `exact` that looks at answers alone."""
        answers = self.predict(exported)
        different = [i for i, (a, b) in enumerate(zip(self.answers, answers, strict=True))
                     if not is_close(a, b, TOLERANCE)]
        if different:
            i = different[0]
            raise ParityError("export", f"{len(different):,} of {len(answers):,} rows are answered otherwise; row "
                              f"{i + 1} was answered {shorten(self.answers[i], 200)} and is now answered "
                              f"{shorten(answers[i], 200)}.", "Nothing was published. This is a bug: tell us.")
        return self.agreement(answers)

    def close(self, exported: Runtime, max_loss: float, n_resamples: int, seed: int) -> dict[str, Any]:
        """Compare the metric; returns the results, with "passed". max_loss: in points, hundredths of the metric."""
        return {**self.close_answers(exported, max_loss, n_resamples, seed),
                "shapes": self.try_shapes(exported, np.inf)}

    def close_answers(self, exported: Runtime, max_loss: float, n_resamples: int, seed: int) -> dict[str, Any]:
        """The part of `close` that looks at answers alone."""
        answers, metric = self.predict(exported), self.task.metric
        outcomes = [self.task.outcomes(predictions, self.rows.rows) for predictions in (self.answers, answers)]
        paired = statistics.paired(self.task, outcomes, n_resamples, seed)
        scores = paired.values_S.tolist()
        bound = 100 * statistics.least_difference(paired.difference(1, 0), paired.n)
        return {**self.agreement(answers), "metric": metric, "score": scores[1], "score_of_original": scores[0],
                "loss_points": 100 * (scores[0] - scores[1]), "loss_points_at_most": 0.0 - bound, "max_loss": max_loss,
                "passed": bound >= -max_loss}

    def agreement(self, answers: Sequence[Prediction]) -> dict[str, Any]:
        """How many rows, from where, and how alike their answers are."""
        same = [is_close(a, b, np.inf) for a, b in zip(self.answers, answers, strict=True)]
        gaps = [gap(a, b) for a, b in zip(self.answers, answers, strict=True)]
        return {"n_rows": len(answers), "rows": self.rows.origin, "agreement": float(np.mean(same)),
                "mean_difference": float(np.mean(gaps)), "largest_difference": max(gaps)}

    def windows(self) -> list[Window]:
        """Windows of the first rows: what batches of other shapes are cut from."""
        rows = blind(self.task, self.rows.rows[:N_ROWS_TO_CUT])
        return [w for i, row in enumerate(rows) for w in self.task.encode(i, row, self.reader)]

    def distance(self, exported: Runtime) -> float:
        """The mean difference between the logits of both, over the windows of the first rows."""
        windows = self.windows()
        both = [run(windows, self.reader, runtime, self.tokens_per_batch) for runtime in (self.original, exported)]
        return float(np.mean([np.abs(a - b).mean() for a, b in zip(*both, strict=True)]))

    def try_shapes(self, exported: Runtime, tolerance: float) -> dict[str, Any]:
        """The results of `try_graph` for each graph, by its name."""
        originals = functions(self.original)
        return {name: self.try_graph(name, originals[name], function, tolerance)
                for name, function in functions(exported).items()}

    def try_graph(self, name: str, original: Function, exported: Function, tolerance: float) -> dict[str, Any]:
        """Run every batch size and a cover of all lengths through both. Raises ParityError for one that differs."""
        windows, n, largest = self.windows(), 0, 0.0
        for n_windows, n_tokens in shapes(self.reader.max_tokens):
            inputs = batch(windows, n_windows, n_tokens, self.reader.pad_id)
            before, after = original(inputs), exported(inputs)
            where = f"export, graph \"{name}\", a batch of {n_windows} windows of up to {n_tokens} tokens"
            if before.shape != after.shape or not np.isfinite(after).all():
                raise ParityError(where, f"gives logits {list(after.shape)}, finite: {bool(np.isfinite(after).all())}; "
                                  f"the original gives {list(before.shape)}.", "Nothing was published.")
            if before.ndim == 3:  # a vector a token: nobody reads those of padding
                is_real_BT = inputs["attention_mask"] == 1
                before, after = before[is_real_BT], after[is_real_BT]
            difference = float(np.max(np.abs(before - after) / np.maximum(1, np.abs(before))))
            if difference > tolerance:
                raise ParityError(where, f"gives logits that are off by {difference:.2g}; at most {tolerance:g} is "
                                  "allowed.", "Nothing was published. This is a bug: tell us.")
            n, largest = n + 1, max(largest, difference)
        return {"n": n, "batches": [1, LARGEST_BATCH], "tokens": [1, self.reader.max_tokens],
                "largest_difference": largest}


def functions(runtime: Runtime) -> dict[str, Function]:
    """What a runtime computes, by the names of the graphs that an export has of it."""
    return {"model": runtime.logits}


def blind(task: Task, rows: Sequence[Row]) -> list[Row]:
    """Rows without their gold."""
    return [task.without_gold(row) for row in rows]


def gap(a: Any, b: Any) -> float:
    """The largest difference between two numbers that stand in the same place of two answers."""
    if isinstance(a, dict) and isinstance(b, dict):
        return max((gap(a[k], b[k]) for k in a.keys() & b.keys()), default=0.0)
    if isinstance(a, list) and isinstance(b, list):
        return max((gap(x, y) for x, y in zip(a, b, strict=False)), default=0.0)
    return abs(a - b) if isinstance(a, float) and isinstance(b, float) else 0.0


def shapes(max_tokens: int) -> Iterator[tuple[int, int]]:
    """(windows, tokens): every batch size up to 64, and lengths from 1 to the longest, all where they are few."""
    for n_windows in range(1, LARGEST_BATCH + 1):
        yield n_windows, min(max_tokens, TOKENS // n_windows)
    for k, n_tokens in enumerate(np.unique(np.linspace(1, max_tokens, N_LENGTHS).round().astype(int)).tolist()):
        yield 1 + k % 2, n_tokens


def batch(windows: Sequence[Window], n_windows: int, n_tokens: int, pad_id: int) -> dict[str, np.ndarray]:
    """A batch of that shape out of pieces of real windows; the first is full, the others end where they end."""
    rng = np.random.default_rng((n_windows, n_tokens))
    lengths = [n_tokens, *rng.integers(1, n_tokens + 1, n_windows - 1).tolist()]
    flat = {name: [x for w in windows for x in w.inputs[name]] for name in windows[0].inputs}
    n = len(flat["input_ids"])
    starts = rng.integers(n, size=n_windows).tolist()
    inputs: dict[str, Sequence[Any]] = {name: [[values[(start + t) % n] for t in range(length)] for start, length in
                     zip(starts, lengths, strict=True)] for name, values in flat.items()}
    return collate(inputs, {}, pad_id).inputs
