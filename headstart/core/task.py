"""A task is one kind of question asked of text. It never trains, reads no file and sees no screen.

The life of a row:

    row --check--> row --encode--> windows --(model)--> logits --decode--> answer --outcomes--> array --score--> numbers

`aligned` turns logits and targets into scores_NK and gold_N, what ANY loss compares: padding is dropped there, and
label smoothing, class weights or distillation work for every task at once. Losses are (sum, count): gradients of sums
add up exactly over micro-batches, gradients of means do not.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from ..readers.text import Reader
from .errors import shorten
from .values import Prediction, Row, Window

if TYPE_CHECKING:
    import torch

    from ..models.heads import Head
    from .values import LinearMap

N_MISTAKES_SHOWN = 12  # in a report
LARGEST = 1e9  # of a score: beyond it float32 has no digits left for what comes after


class Task(abc.ABC):
    """One kind of question. Subclasses are frozen dataclasses; their fields are what `learn` found, and `options`."""

    name: ClassVar[str]
    columns: ClassVar[dict[str, str]]  # column -> what it must hold, in words: errors and docs use it
    gold: ClassVar[tuple[str, ...]]  # the columns that are absent when predicting
    optional: ClassVar[tuple[str, ...]] = ()  # the columns that a file may lack as a whole
    usual_names: ClassVar[dict[str, tuple[str, ...]]]  # column -> what files often call it
    signs: ClassVar[tuple[tuple[str, ...], ...]] = ()  # columns that, all together, mean this task when none is named
    options: ClassVar[tuple[str, ...]] = ()  # the fields that a Spec may set: task: {name: ..., stride: 64}
    reads: ClassVar[Literal["encoder"]] = "encoder"
    native: ClassVar[str | None] = "AutoModelForSequenceClassification"  # for `head.pooling: native`
    metric: ClassVar[str]  # the one that chooses checkpoints, 1 is perfect, larger is better
    together: ClassVar[bool] = False  # whether the loss compares a row's windows with each other: one batch holds all
    contrasts: ClassVar[bool] = False  # whether the loss compares a batch's rows: then it cannot be summed in pieces
    needs_windows: ClassVar[bool] = True  # whether `decode` looks at windows and not only at their logits
    examples: ClassVar[tuple[Row, ...]]  # rows that show the task; contract tests and docs run them

    @property
    def defaults(self) -> dict[str, Any]:
        """Spec fields that this task presets, such as {"train": {"lr": 2e-5}}; what the method presets goes before."""
        return {}

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that every row must have even when predicting; optional ones when they were learned with."""
        return tuple(column for column in self.columns if column not in (*self.gold, *self.optional))

    @abc.abstractmethod
    def check(self, row: Row) -> str | None:
        """What is wrong with one row, in words that follow the column's name; None when nothing is."""

    @abc.abstractmethod
    def learn(self, rows: Sequence[Row]) -> Self:
        """The task with what only the data tells (labels, ranges). Raises DataError when they cannot be."""

    @abc.abstractmethod
    def check_gold(self, rows: Sequence[Row]) -> list[tuple[int, str]]:
        """(index, complaint) for rows whose gold this learned task cannot mean, such as a label never seen."""

    @abc.abstractmethod
    def stratum(self, row: Row) -> str:
        """What splits keep in proportion."""

    def labels_of(self, row: Row) -> list[str]:
        """The classes that a row's gold holds, one by one: what an audit counts."""
        return [stratum] if (stratum := self.stratum(row)) else []

    @abc.abstractmethod
    def text(self, row: Row) -> str:
        """All that the model reads of a row, as one string: duplicates and baselines look at it."""

    @abc.abstractmethod
    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        """Row number `i` as model inputs, with targets when its gold is there. No torch."""

    @property
    @abc.abstractmethod
    def n_outputs(self) -> int:
        """K, the width of the logits."""

    @abc.abstractmethod
    def head(self, width: int, pooling: str) -> Head:
        """New weights: hidden_BTD and mask_BT to logits. Its last linear layer is called `out`."""

    @abc.abstractmethod
    def aligned(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and target of a batch as (scores_NK, gold_N), padding dropped."""

    def loss(self, logits: torch.Tensor, target: dict[str, torch.Tensor], *, weights_K: torch.Tensor | None = None,
             label_smoothing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy as (sum, count); with class weights the count is the sum of the gold labels' weights."""
        from torch.nn.functional import cross_entropy

        scores_NK, gold_N = self.aligned(logits, target)
        summed = cross_entropy(scores_NK.float(), gold_N, weight=weights_K, label_smoothing=label_smoothing,
                               reduction="sum")
        count = gold_N.new_tensor(len(gold_N)) if weights_K is None else weights_K[gold_N].sum()
        return summed, count

    def classes(self, target: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """gold_N of all windows' targets, in any order: what class weights count. None where there are no classes."""
        return None

    def alike(self, target: dict[str, torch.Tensor]) -> torch.Tensor:
        """same_BB in [0, 1]: how alike the answers of each two rows of a batch are. Methods that contrast rows ask."""
        raise NotImplementedError

    def solve(self, features_MD: np.ndarray, target: dict[str, np.ndarray], score: Callable[[LinearMap], float],
              class_weights: str) -> LinearMap:
        """The linear head that `score` likes best of those solved exactly on what flows into the last linear layer.

        features_MD: one line a window, or a token where the head reads tokens. target: the same windows' targets.
        A task without this has its head trained by gradient, by every method.
        """
        raise NotImplementedError

    @property
    def asked(self) -> tuple[str, ...]:
        """The columns that a question has: those that it needs or, where one of several will do, all but the gold."""
        return self.needed or tuple(column for column in self.columns if column not in self.gold)

    def blind(self, row: Row) -> Row:
        """A row without its answer."""
        return {column: value for column, value in row.items() if column not in self.gold}

    @property
    def is_solvable(self) -> bool:
        """Whether this task has a `solve`."""
        return type(self).solve is not Task.solve

    @property
    def is_comparable(self) -> bool:
        """Whether this task has an `alike`."""
        return type(self).alike is not Task.alike

    @abc.abstractmethod
    def decode(self, row: Row, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> Prediction:
        """The answer to one row from the logits of its windows. numpy only: the server runs this very function."""

    @abc.abstractmethod
    def outcomes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """What scoring needs of each row, as numbers: outcomes_N or outcomes_NM, one line a row."""

    @abc.abstractmethod
    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        """Scores of any multiset of rows: a bootstrap calls it on resamples, a slice on its rows."""

    def tune(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Self:
        """The task with what is best chosen on answers to validation rows, such as a threshold."""
        return self

    def settle(self, prediction: Prediction) -> Prediction:
        """An answer as it is after `tune`; `decode` ends with it."""
        return prediction

    def baselines(self, train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row],
                  seed: int) -> Iterator[tuple[str, list[Prediction]]]:
        """(name, answers on `test`) of what a model must beat without any pretrained knowledge."""
        yield from ()

    @property
    def baseline_titles(self) -> Mapping[str, str]:
        """Names of `baselines` in the words of a verdict, such as {"majority": "the majority class"}."""
        return {}

    def details(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
        """What the report shows beside the score: confusion, scores by label, worst mistakes. JSON values."""
        return {}

    def describe(self) -> dict[str, Any]:
        """The keys that config.json carries for this task."""
        return {}

    def extra_files(self, folder: Path, head: Head, reader: Reader) -> None:
        """Write to an artifact's folder what lets another library load it; called where the weights stand there whole
        and the head is ours."""
        return


def flaw_of_text(column: str, value: Any) -> str | None:
    """What is wrong with a value that must be a string and not empty, in words that begin with its column."""
    if not isinstance(value, str):
        return f'"{column}" is {shorten(value)}, not a string'
    return None if value.strip() else f'"{column}" is empty'


def finite_number(value: Any) -> float | None:
    """A finite number, also one that a CSV file holds as a string; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def listed(value: Any, separator: str) -> list[Any] | None:
    """A list as it is, a string cut at `separator` (CSV files hold no lists), None for anything else.

    An empty separator takes every character for an item.
    """
    if isinstance(value, str):
        return [part.strip() for part in (value.split(separator) if separator else value) if part.strip()]
    return list(value) if isinstance(value, list | tuple) else None
