"""Files in, answers and scores out, through a finished run. An exported run needs no torch for it.

    for answer in answers("runs/reviews-onnx", "new.csv"): ...
    evaluate("runs/reviews-onnx", "labelled.csv")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ..core.spec import DataSpec, check_data_spec
from ..core.values import Prediction
from ..data.table import read_table, stream_rows
from ..runs import artifact
from ..runs.artifact import Artifact


def answers(folder: str | Path, source: str, settings: Mapping[str, Any] | None = None,
            skip: int = 0) -> Iterator[Prediction]:
    """Answer the rows of `source` (a file, or "-" for stdin) one by one, in order, in bounded memory.

    skip: leave out so many rows at the front: an earlier process answered them.
    """
    loaded = artifact.load(folder)
    rows = stream_rows(source, data_spec(loaded, settings), loaded.task, gold="ignored", lenient=True)
    return loaded.stream(row for _, row in islice(rows, skip, None))


def evaluate(folder: str | Path, source: str, settings: Mapping[str, Any] | None = None,
             seed: int | None = None) -> dict[str, Any]:
    """Score a finished run on the labelled rows of `source`. seed: of the bootstrap; the run's own when absent."""
    loaded = artifact.load(folder)
    table = read_table(source, data_spec(loaded, settings), loaded.task, lenient=True)
    return loaded.evaluate(table.rows, seed)


def data_spec(loaded: Artifact, settings: Mapping[str, Any] | None) -> DataSpec:
    """How the artifact's own data was read, unless `settings` says otherwise."""
    return check_data_spec(loaded.spec.data.model_dump(), settings)
