"""What a teacher said before training: of train rows, and of rows that have no labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.values import Prediction
from ..core.windows import Field, WindowStore


@dataclass(frozen=True)
class Lessons:
    """The answers of one teacher, or the mean of several.

    windows:     of the train rows and, behind them, of the unlabeled ones; targets hold what the teacher said.
    n_labeled:   how many of the windows are of train rows.
    predictions: the teacher's own, to the rows of "validation" and "test".
    teachers:    their folders.
    identity:    what decides the answers: a resumed run must have the same.
    counts:      of unlabeled rows, and of those that were left out.
    n_bytes:     of their weights.
    """

    windows: WindowStore
    n_labeled: int
    predictions: Mapping[str, Sequence[Prediction]]
    teachers: Sequence[str]
    identity: Mapping[str, Any]
    counts: Mapping[str, int]
    n_bytes: int

    @property
    def n_unlabeled(self) -> int:
        """Rows that only the teacher answered."""
        return self.counts["n_unlabeled_rows"]

    def labeled(self) -> Lessons:
        """The same of the train rows alone."""
        return replace(self, windows=first(self.windows, self.n_labeled))


def first(windows: WindowStore, n: int) -> WindowStore:
    """The first `n` of some windows, where they lie."""

    def cut(fields: Mapping[str, Field]) -> dict[str, Field]:
        return {name: Field(field.values[:n], None) if field.starts is None else
                Field(field.values[: int(field.starts[n])], field.starts[: n + 1]) for name, field in fields.items()}

    def line(of_N: np.ndarray) -> np.ndarray:
        return of_N[:n]

    return replace(windows, inputs=cut(windows.inputs), target=cut(windows.target), notes=cut(windows.notes),
                   lengths_N=line(windows.lengths_N), sizes_N=line(windows.sizes_N), rows_N=line(windows.rows_N),
                   cut_N=line(windows.cut_N))
