"""Windows on disk: token ids in flat files, and batches of like length under a token budget.

A million rows of fifteen tokens are 60 MB of int32 in a memory-mapped file, not a million Python lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .values import Batch, Window, collate


@dataclass(frozen=True)
class Field:
    """One field of all windows: flat values, and where each window's begin (None: one number a window)."""

    values: np.ndarray
    starts: np.ndarray | None

    def of(self, i: int) -> np.ndarray:
        """The value of window `i`, a number or [T]."""
        if self.starts is None:
            return np.asarray(self.values[i])
        return self.values[self.starts[i] : self.starts[i + 1]]


@dataclass(frozen=True)
class WindowStore:
    """Windows as flat memory-mapped arrays.

    lengths_N: tokens of each window.  rows_N: the row each came from.  cut_N: tokens of each that did not fit.
    together:  whether the windows of one row stay in one batch.
    """

    inputs: dict[str, Field]
    target: dict[str, Field]
    lengths_N: np.ndarray
    rows_N: np.ndarray
    cut_N: np.ndarray
    pad_id: int
    together: bool = False

    def __len__(self) -> int:
        return len(self.lengths_N)

    def targets(self, chosen: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The target's fields of the windows numbered `chosen`, lists of them one after the other; of all if absent."""
        if chosen is None:
            return {name: field.values for name, field in self.target.items()}
        return {name: field.values[chosen] if field.starts is None else
                np.concatenate([field.of(i) for i in chosen]) for name, field in self.target.items()}

    def n_cut_of_rows(self, n_rows: int) -> np.ndarray:
        """Tokens of each row that no window holds."""
        return np.bincount(self.rows_N, self.cut_N, minlength=n_rows).astype(np.int64)

    def batch(self, chosen: np.ndarray) -> Batch:
        """The windows numbered `chosen`, padded to the longest of them."""
        return collate({k: [f.of(i) for i in chosen] for k, f in self.inputs.items()},
                       {k: [f.of(i) for i in chosen] for k, f in self.target.items()}, self.pad_id)


def store(windows: Iterable[Window], folder: Path, pad_id: int, together: bool = False) -> WindowStore:
    """Write `windows` to flat files in `folder` (made, overwritten) and map them. One pass, bounded memory."""
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[str, _Writer] = {}
    lengths, rows, cut = [], [], []
    for window in windows:
        for kind, fields in (("inputs", window.inputs), ("target", window.target)):
            for name, value in fields.items():
                key = f"{kind}.{name}"
                if key not in writers:
                    writers[key] = _Writer(folder / f"{key}.bin", value)
                writers[key].append(value)
        lengths.append(len(window))
        rows.append(window.row)
        cut.append(window.notes.get("n_cut_tokens", 0))
    fields_of = {kind: {key.partition(".")[2]: w.close() for key, w in writers.items() if key.startswith(kind)}
                 for kind in ("inputs", "target")}
    return WindowStore(fields_of["inputs"], fields_of["target"], np.asarray(lengths, np.int32),
                       np.asarray(rows, np.int64), np.asarray(cut, np.int32), pad_id, together)


class _Writer:
    """One growing flat file."""

    def __init__(self, path: Path, example: object) -> None:
        self.path = path
        self.dtype = np.float32 if np.asarray(example).dtype.kind == "f" else np.int32
        self.ends: list[int] | None = None if np.ndim(example) == 0 else [0]  # type: ignore[arg-type]
        self.file = path.open("wb")

    def append(self, value: object) -> None:
        array = np.asarray(value, self.dtype)
        self.file.write(array.tobytes())
        if self.ends is not None:
            self.ends.append(self.ends[-1] + len(array))

    def close(self) -> Field:
        self.file.close()
        starts = None if self.ends is None else np.asarray(self.ends, np.int64)
        return Field(np.memmap(self.path, self.dtype, "r"), starts)


def by_length(lengths_N: np.ndarray, order: np.ndarray, tokens_per_batch: int,
              sizes_N: np.ndarray | None = None) -> list[np.ndarray]:
    """Cut `order`, sorted by length (stable), into batches of at most `tokens_per_batch` padded tokens.

    sizes_N: how many windows each stands for, all of its length; one when absent. What is longer than the budget gets
    a batch of its own.
    """
    if len(order) == 1:  # a lone text waits for every line here
        return [order]
    order = order[np.argsort(lengths_N[order], kind="stable")]
    lengths = lengths_N[order]
    n_before = np.arange(len(order) + 1) if sizes_N is None else np.append(0, np.cumsum(sizes_N[order]))
    batches, begin = [], 0
    while begin < len(order):
        # Lengths only grow, so rows * longest grows too: the end of the batch is found by bisection.
        low, high = begin + 1, len(order)
        while low < high:
            middle = (low + high + 1) // 2
            if int(lengths[middle - 1]) * int(n_before[middle] - n_before[begin]) <= tokens_per_batch:
                low = middle
            else:
                high = middle - 1
        batches.append(order[begin:low])
        begin = low
    return batches


@dataclass(frozen=True)
class Units:
    """What a batch takes whole: a window, or all windows of a row. U units; windows of a row are neighbours."""

    starts_U: np.ndarray
    sizes_U: np.ndarray
    lengths_U: np.ndarray  # the longest window of each

    @classmethod
    def of(cls, windows: WindowStore, chosen: np.ndarray | None = None) -> Units:
        """The units of all windows, or of those numbered `chosen` (whole units, in order); starts count in `chosen`."""
        lengths_N = windows.lengths_N if chosen is None else windows.lengths_N[chosen]
        if not windows.together:
            return cls(np.arange(len(lengths_N)), np.ones(len(lengths_N), np.int64), lengths_N)
        _, starts_U, sizes_U = np.unique(windows.rows_N if chosen is None else windows.rows_N[chosen],
                                         return_index=True, return_counts=True)
        return cls(starts_U, sizes_U, np.maximum.reduceat(lengths_N, starts_U))

    def by_length(self, order: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
        """The windows of each batch."""
        return [self._windows(batch) for batch in by_length(self.lengths_U, order, tokens_per_batch, self.sizes_U)]

    def _windows(self, units: np.ndarray) -> np.ndarray:
        if len(self.starts_U) == self.sizes_U.sum():
            return units
        return np.concatenate([np.arange(self.starts_U[u], self.starts_U[u] + self.sizes_U[u]) for u in units])
