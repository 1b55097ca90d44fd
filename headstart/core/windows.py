"""Windows on disk: their inputs, targets and notes in flat files, and batches of like size under a token budget.

A million rows of fifteen tokens are 60 MB of int32 in a memory-mapped file, not a million Python lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from .values import Batch, Window, collate


@dataclass(frozen=True)
class Field:
    """One field of all windows: flat values, [sum T, ...], and where each window begins (None: one number each)."""

    values: np.ndarray
    starts: np.ndarray | None

    def of(self, i: int) -> np.ndarray:
        """The value of window `i`, a number or [T, ...]."""
        if self.starts is None:
            return np.asarray(self.values[i])
        return self.values[self.starts[i] : self.starts[i + 1]]


@dataclass(frozen=True)
class WindowStore(Sequence[Window]):
    """Windows as flat memory-mapped arrays; read one by one, each is what was written (without its target).

    lengths_N: positions of each window: what a head that reads tokens answers for.
    sizes_N:   what each takes of a batch's budget.
    rows_N:    the row each came from, in order.  cut_N: tokens of each that did not fit.
    keeps_rows_whole: whether the windows of one row stay in one batch.
    """

    inputs: dict[str, Field]
    target: dict[str, Field]
    notes: dict[str, Field]
    lengths_N: np.ndarray
    sizes_N: np.ndarray
    rows_N: np.ndarray
    cut_N: np.ndarray
    pad_id: int
    keeps_rows_whole: bool = False

    def __len__(self) -> int:
        return len(self.lengths_N)

    @overload
    def __getitem__(self, i: int) -> Window: ...
    @overload
    def __getitem__(self, i: slice) -> list[Window]: ...

    def __getitem__(self, i: int | slice) -> Window | list[Window]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return Window(int(self.rows_N[i]), {name: field.of(i) for name, field in self.inputs.items()}, {},
                      {"n_cut_tokens": int(self.cut_N[i]), **{name: field.of(i) for name, field in self.notes.items()}},
                      int(self.sizes_N[i]))

    def of_rows(self, start: int, stop: int) -> tuple[int, int]:
        """The numbers [first, end) of the windows of rows `start` to `stop` - 1."""
        first, end = np.searchsorted(self.rows_N, (start, stop))
        return int(first), int(end)

    def targets(self, chosen: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The target's fields of the windows numbered `chosen`, lists of them one after the other; of all if absent."""
        if chosen is None:
            return {name: field.values for name, field in self.target.items()}
        return {name: field.values[chosen] if field.starts is None else
                np.concatenate([field.of(i) for i in chosen]) for name, field in self.target.items()}

    def n_cut_of_rows(self, n_rows: int) -> np.ndarray:
        """Tokens of each row that no window holds."""
        return np.bincount(self.rows_N, self.cut_N, minlength=n_rows).astype(np.int64)

    def n_tokens_of_rows(self, n_rows: int, is_counted_V: np.ndarray) -> np.ndarray:
        """Tokens of each row whose id is counted. is_counted_V: whether each id of the vocabulary is."""
        if not len(self):
            return np.zeros(n_rows, np.int64)
        field = self.inputs["input_ids"]
        n_of_windows = np.add.reduceat(is_counted_V[field.values], field.starts[:-1], dtype=np.int64)  # type: ignore[index]
        return np.bincount(self.rows_N, n_of_windows, minlength=n_rows).astype(np.int64)

    def batch(self, chosen: np.ndarray) -> Batch:
        """The windows numbered `chosen`, padded to the longest of them."""
        batch = collate({k: [f.of(i) for i in chosen] for k, f in self.inputs.items()},
                        {k: [f.of(i) for i in chosen] for k, f in self.target.items()}, self.pad_id,
                        int(self.sizes_N[chosen].sum()))
        return replace(batch, rows_B=self.rows_N[chosen]) if self.keeps_rows_whole else batch


def store(windows: Iterable[Window], folder: Path, pad_id: int, keeps_rows_whole: bool = False,
          with_notes: bool = False) -> WindowStore:
    """Write `windows` to flat files in `folder` (made, overwritten), map and unlink them. One pass, bounded memory.

    with_notes: keep what `Task.decode` reads of a window beside its logits.
    Raises  ValueError for a field whose arrays differ in more than their first axis.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[str, dict[str, _Writer]] = {"inputs": {}, "target": {}, "notes": {}}
    lengths, sizes, rows, cut = [], [], [], []
    for window in windows:
        notes = {k: v for k, v in window.notes.items() if k != "n_cut_tokens"} if with_notes else {}
        for kind, fields in (("inputs", window.inputs), ("target", window.target), ("notes", notes)):
            for name, value in fields.items():
                if name not in writers[kind]:
                    writers[kind][name] = _Writer(folder / f"{kind}.{name}.bin", value)
                writers[kind][name].append(value)
        lengths.append(len(window))
        sizes.append(window.size)
        rows.append(window.row)
        cut.append(window.notes.get("n_cut_tokens", 0))
    inputs, target, notes = ({name: writer.close() for name, writer in of_kind.items()} for of_kind in writers.values())
    return WindowStore(inputs, target, notes, np.asarray(lengths, np.int32), np.asarray(sizes, np.int32),
                       np.asarray(rows, np.int64), np.asarray(cut, np.int32), pad_id, keeps_rows_whole)


class _Writer:
    """One growing flat file of numbers: float32 for fractions, bytes as they are, int32 for all other numbers."""

    def __init__(self, path: Path, example: Any) -> None:
        first = np.asarray(example)
        self.path, self.shape = path, first.shape[1:]
        self.dtype = np.dtype(np.float32 if first.dtype.kind == "f" else np.uint8 if first.dtype == np.uint8
                              else np.int32)
        self.ends: list[int] | None = [0] if first.ndim else None
        self.file = path.open("wb")

    def append(self, value: Any) -> None:
        array = np.asarray(value, self.dtype)
        if array.shape[1:] != self.shape and array.size:
            raise ValueError(f"{self.path.stem}: an array of shape {array.shape} among arrays [T, "
                             f"{', '.join(map(str, self.shape))}]; only the first axis may differ")
        self.file.write(array.tobytes())
        if self.ends is not None:
            self.ends.append(self.ends[-1] + len(array))

    def close(self) -> Field:
        n_bytes = self.file.tell()
        self.file.close()
        values = np.memmap(self.path, self.dtype, "r") if n_bytes else np.empty(0, self.dtype)  # no map of nothing
        self.path.unlink()  # the map keeps it; who cut it under the map would end this process
        return Field(values.reshape(-1, *self.shape), None if self.ends is None else np.asarray(self.ends, np.int64))


def by_length(lengths_N: np.ndarray, order: np.ndarray, tokens_per_batch: int,
              counts_N: np.ndarray | None = None) -> list[np.ndarray]:
    """Cut `order`, sorted by length (stable), into batches of at most `tokens_per_batch` padded tokens.

    counts_N: how many windows each stands for, all of its length; one when absent. What is longer than the budget gets
    a batch of its own.
    """
    if len(order) == 1:  # a lone text waits for every line here
        return [order]
    order = order[np.argsort(lengths_N[order], kind="stable")]
    lengths = lengths_N[order]
    n_before = np.arange(len(order) + 1) if counts_N is None else np.append(0, np.cumsum(counts_N[order]))
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
    """What a batch takes whole: a window, or all windows of a row. U units; windows of a row are neighbors."""

    starts_U: np.ndarray
    counts_U: np.ndarray
    sizes_U: np.ndarray  # of the largest window of each

    @classmethod
    def of(cls, windows: WindowStore, chosen: np.ndarray | None = None) -> Units:
        """The units of all windows, or of those numbered `chosen` (whole units, in order); starts count in `chosen`."""
        sizes_N = windows.sizes_N if chosen is None else windows.sizes_N[chosen]
        if not windows.keeps_rows_whole:
            return cls(np.arange(len(sizes_N)), np.ones(len(sizes_N), np.int64), sizes_N)
        _, starts_U, counts_U = np.unique(windows.rows_N if chosen is None else windows.rows_N[chosen],
                                         return_index=True, return_counts=True)
        return cls(starts_U, counts_U, np.maximum.reduceat(sizes_N, starts_U))

    def by_length(self, order: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
        """The windows of each batch."""
        return [self._windows(batch) for batch in by_length(self.sizes_U, order, tokens_per_batch, self.counts_U)]

    def _windows(self, units: np.ndarray) -> np.ndarray:
        if len(self.starts_U) == self.counts_U.sum():
            return units
        return np.concatenate([np.arange(self.starts_U[u], self.starts_U[u] + self.counts_U[u]) for u in units])
