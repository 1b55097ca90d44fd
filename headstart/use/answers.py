"""Files in, answers and scores out, through a finished run. An exported run needs no torch for it.

    for answer in answers("runs/reviews-onnx", "new.csv"): ...
    evaluate("runs/reviews-onnx", "labelled.csv")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.predict import beside_errors
from ..core.spec import DataSpec, check_data_spec
from ..core.values import Prediction, Row
from ..data.table import read_table, stream_rows
from ..runs import artifact
from ..runs.artifact import Artifact

Rows = Iterable[Row | tuple[int, str]]  # (number, what is wrong) in the place of a row that is skipped
Source = tuple[Rows, Callable[[Rows], Iterator[Prediction]]]


def answers(folder: str | Path, source: str, settings: Mapping[str, Any] | None = None) -> Iterator[Prediction]:
    """Answer the rows of `source` (a file, or "-" for stdin) one by one, in order, in bounded memory.

    Where `settings` skip bad rows, {"row": 3, "error": ...} stands in the place of the third one's answer.
    """
    rows, answer = open_rows(folder, source, settings)
    return answer(rows)


def open_rows(folder: str | Path, source: str, settings: Mapping[str, Any] | None = None,
              ) -> Source:
    """The rows of `source`, read one by one, and what answers them, one by one and in order."""
    loaded = artifact.load(folder)
    rows = stream_rows(source, data_spec(loaded, settings), loaded.task, gold="ignored", lenient=True)
    return rows.numbered(), lambda some: beside_errors(some, loaded.stream)


def evaluate(folder: str | Path, source: str, settings: Mapping[str, Any] | None = None,
             seed: int | None = None) -> dict[str, Any]:
    """Score a finished run on the labelled rows of `source`. seed: of the bootstrap; the run's own when absent.

    "n_skipped" counts the rows that `settings` left out, where there are any.
    """
    loaded = artifact.load(folder)
    table = read_table(source, data_spec(loaded, settings), loaded.task, lenient=True)
    n_skipped = table.counts["n_skipped"]
    return {**loaded.evaluate(table.rows, seed), **({"n_skipped": n_skipped} if n_skipped else {})}


def data_spec(loaded: Artifact, settings: Mapping[str, Any] | None) -> DataSpec:
    """How the artifact's own data was read, unless `settings` says otherwise."""
    return check_data_spec(loaded.spec.data.model_dump(), settings)
