"""Files in, answers and scores out, through a finished run. An exported run needs no torch for it.

    for answer in answers("runs/reviews-onnx", "new.csv"): ...
    evaluate("runs/reviews-onnx", "labelled.csv")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.spec import DataSpec, check_data_spec
from ..core.values import Prediction, Row
from ..data.table import read_table, stream_rows
from ..runs import artifact
from ..runs.artifact import Artifact


def answers(folder: str | Path, source: str, settings: Mapping[str, Any] | None = None) -> Iterator[Prediction]:
    """Answer the rows of `source` (a file, or "-" for stdin) one by one, in order, in bounded memory."""
    rows, answer = open_rows(folder, source, settings)
    return answer(rows)


def open_rows(folder: str | Path, source: str, settings: Mapping[str, Any] | None = None,
              ) -> tuple[Iterable[Row], Callable[[Iterable[Row]], Iterator[Prediction]]]:
    """The rows of `source`, read one by one, and what answers them, one by one and in order."""
    loaded = artifact.load(folder)
    rows = stream_rows(source, data_spec(loaded, settings), loaded.task, gold="ignored", lenient=True)
    return (row for _, row in rows), loaded.stream


def evaluate(folder: str | Path, source: str, settings: Mapping[str, Any] | None = None,
             seed: int | None = None) -> dict[str, Any]:
    """Score a finished run on the labelled rows of `source`. seed: of the bootstrap; the run's own when absent."""
    loaded = artifact.load(folder)
    table = read_table(source, data_spec(loaded, settings), loaded.task, lenient=True)
    return loaded.evaluate(table.rows, seed)


def data_spec(loaded: Artifact, settings: Mapping[str, Any] | None) -> DataSpec:
    """How the artifact's own data was read, unless `settings` says otherwise."""
    return check_data_spec(loaded.spec.data.model_dump(), settings)
