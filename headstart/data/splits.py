"""Train, validation and test: made where they are missing, and never by position.

Every choice rests on a hash of (seed, content), so the same rows in another order give the same three sets, in the same
order. Duplicates, exact and near, stay on one side; every label stands on every side. Splits that were given are not
changed: what they share with train is counted instead. Few rows are dealt into folds, too, so that all of them can
choose, and be tested, without having been learned from.

Shape suffixes: N rows of all tables, G groups of duplicates, K labels (strata).
"""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from ..core.errors import DataError, Problem, shorten
from ..core.spec import DataSpec
from ..core.values import Row
from . import duplicates
from .table import Table

MAX_MADE_VALIDATION = 2_000  # rows: a score of so many is known to a point; more would only be missing from train
MIN_ROWS = 100  # that choose or test: a score of fewer is not known to 8 points, and a gain of 10 rarely proven
MAX_FOLD_ROWS = 2_000  # of train and validation together: of more, solving a head for each fold takes minutes
N_FOLDS = 5


class Question(Protocol):
    """What this file asks of a task."""

    def stratum(self, row: Row) -> str: ...

    def text(self, row: Row) -> str: ...


@dataclass(frozen=True)
class Splits:
    """The rows of a run, in an order that does not depend on the files'. counts: of all that was not taken as is.

    is_seen_N: whether each test row has a twin in train: the same text, or one nearly the same.
    fold_N:    the fold of each row of train and validation, by part; twins share one. {} unless validation is few rows,
               and train not many. It has "test", too, where test is few rows of the same source: see `pooled`.
    is_pooled: whether train and test both hold all rows, validation some of them: each row is tested by what was
               learned without its fold.
    """

    train: Table
    validation: Table
    test: Table
    counts: dict[str, int]
    is_seen_N: np.ndarray
    fold_N: Mapping[str, np.ndarray] = field(default_factory=dict)
    is_pooled: bool = False

    @property
    def n_folds(self) -> int:
        """How many folds the rows are dealt into; 0 where there are none."""
        return 1 + max((int(fold_N.max(initial=0)) for fold_N in self.fold_N.values()), default=-1)

    def pooled(self) -> Splits:
        """The same rows, all of them learned from and all of them tested: a certificate is cross-validated."""
        parts = [self.train, self.validation, self.test]
        together = replace(self.train, rows=[row for part in parts for row in part.rows],
                           lines_N=np.concatenate([part.lines_N for part in parts]))
        fold_N = np.concatenate([self.fold_N[name] for name in ("train", "validation", "test")])
        counts = {name: n for name, n in self.counts.items() if "_seen_in_train_" not in name}
        return Splits(together, self.validation, together, counts, np.zeros(len(fold_N), bool),
                      {"train": fold_N, "test": fold_N}, is_pooled=True)


@dataclass(frozen=True)
class _Facts:
    """All rows of all tables as numbers: what decides where a row goes."""

    labels: list[str]  # K of them, sorted
    label_N: np.ndarray
    group_N: np.ndarray
    exact_N: np.ndarray
    key_N: np.ndarray  # uint64, a hash of the seed and the row's content: the order of every draw


def make(tables: Mapping[str, Table], data: DataSpec, task: Question, seed: int) -> Splits:
    """The three splits out of one to three tables, limits applied.

    What is missing is carved out of train, in proportion for every label and with one row of it at least. Raises
    DataError for labels with too few different texts to stand in every part.

    Cost  one pass of `duplicates.groups` over all rows.
    """
    facts = _facts([row for table in tables.values() for row in table.rows], data, task, seed)
    ends = np.cumsum([len(table) for table in tables.values()])
    rows = {name: np.arange(end - len(tables[name]), end) for name, end in zip(tables, ends, strict=True)}
    first = {name: int(end) - len(tables[name]) for name, end in zip(tables, ends, strict=True)}
    counts = Counter[str]()
    for table in tables.values():
        counts.update(table.counts)
    counts.update(duplicates.count_duplicates(facts.exact_N, facts.group_N, facts.label_N))

    shares = {"test": data.test_share, "validation": data.validation_share}
    missing = {name: share for name, share in shares.items() if name not in tables}
    if missing:
        often = _without_rare(rows["train"], facts, 1 + len(missing), data.rare_labels)
        rare = np.setdiff1d(rows["train"], often)
        counts["n_rare_label_rows"] = len(rare)
        rows |= _carve(often, missing, facts)
        if data.rare_labels == "train":
            rows["train"] = np.union1d(rows["train"], rare)

    out = {}
    for name, limit in (("train", data.limit), ("validation", data.validation_limit), ("test", data.test_limit)):
        origin = name if name in tables else "train"
        rows[name] = _draw(rows[name], limit, facts)
        out[name] = tables[origin].take(rows[name] - first[origin])
    for name in ("validation", "test"):
        counts.update(_seen_in_train(name, rows, facts))
    is_seen_N = np.isin(facts.group_N[rows["test"]], facts.group_N[rows["train"]])
    return Splits(out["train"], out["validation"], out["test"], dict(counts), is_seen_N,
                  _folds(rows, facts, is_one_source=len(missing) == 2))


def _facts(rows: Sequence[Row], data: DataSpec, task: Question, seed: int) -> _Facts:
    texts, strata = [task.text(row) for row in rows], [task.stratum(row) for row in rows]
    labels = sorted(set(strata))
    index = {label: k for k, label in enumerate(labels)}
    exact_N = duplicates.groups(texts, 1.0)
    group_N = exact_N if data.near_duplicate == 1 else duplicates.groups(texts, data.near_duplicate)
    keys = (hashlib.blake2b(f"{seed}\n{sorted(row.items())!r}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
            for row in rows)
    return _Facts(labels, np.array([index[label] for label in strata], np.int64), group_N, exact_N,
                  np.frombuffer(b"".join(keys), "<u8"))


@dataclass(frozen=True)
class _Groups:
    """Groups of duplicates among some rows: each goes to one part as a whole."""

    group_N: np.ndarray  # the group of each of the rows, counted from 0
    size_G: np.ndarray
    label_G: np.ndarray  # the label that most of its rows have
    key_G: np.ndarray


def _grouped(rows: np.ndarray, facts: _Facts) -> _Groups:
    _, group_N, size_G = np.unique(facts.group_N[rows], return_inverse=True, return_counts=True)
    key_G = np.full(len(size_G), np.iinfo(np.uint64).max)
    np.minimum.at(key_G, group_N, facts.key_N[rows])
    pairs, n = np.unique(np.stack((group_N, facts.label_N[rows]), 1), axis=0, return_counts=True)
    last_wins = np.lexsort((-pairs[:, 1], n, pairs[:, 0]))  # the most frequent label; of equals, the first
    label_G = np.zeros(len(size_G), np.int64)
    label_G[pairs[last_wins, 0]] = pairs[last_wins, 1]
    return _Groups(group_N, size_G, label_G, key_G)


def _without_rare(rows: np.ndarray, facts: _Facts, n_parts: int, rare_labels: str) -> np.ndarray:
    """`rows` without the labels that cannot stand in every part, or a DataError that names them."""
    n_rows_K = np.bincount(facts.label_N[rows], minlength=len(facts.labels))
    n_texts_K = np.bincount(_grouped(rows, facts).label_G, minlength=len(facts.labels))
    rare = np.flatnonzero((n_rows_K > 0) & (n_texts_K < n_parts))
    if len(rare) == 0:
        return rows
    if len(facts.labels) == 1:
        raise DataError("rows", f"are {n_rows_K[rare[0]]:,} with {n_texts_K[rare[0]]:,} different "
                        f"text{'s'[:n_texts_K[rare[0]] ^ 1]}, those nearly alike counted once; to make {n_parts} parts "
                        f"of them takes {n_parts}.", "Add other rows, or count only equal texts as one, if there are "
                        f"{n_parts} of them: --set data.near_duplicate=1")
    fix = ("Add rows with these labels, or leave them out and have them counted: --set data.rare_labels=skip "
           "(or train: they stay there)")
    if rare_labels != "error":
        kept = rows[~np.isin(facts.label_N[rows], rare)]
        if len(kept):
            return kept
        fix = "Add rows: no label has enough of them."
    problems = [Problem("labels", f"{shorten(facts.labels[k])} has {n_rows_K[k]:,} row{'s'[:n_rows_K[k] ^ 1]} and "
                        f"{n_texts_K[k]:,} different text{'s'[:n_texts_K[k] ^ 1]}; "
                        f"to stand in each of {n_parts} parts it needs {n_parts}.") for k in rare]
    raise DataError.of(problems, fix)


def _carve(rows: np.ndarray, shares: Mapping[str, float], facts: _Facts) -> dict[str, np.ndarray]:
    """The rows of each part in `shares`, and of what remains as "train"."""
    groups = _grouped(rows, facts)
    n_rows_K = np.bincount(groups.label_G, groups.size_G, minlength=len(facts.labels)).astype(np.int64)
    wanted = {name: round(share * len(rows)) for name, share in shares.items()}
    if "validation" in wanted:
        wanted["validation"] = min(wanted["validation"], MAX_MADE_VALIDATION)
    quotas = {name: apportion(n_rows_K, n) for name, n in wanted.items()}
    part_G = np.full(len(groups.size_G), "train", object)
    order = np.lexsort((groups.key_G, groups.label_G))
    starts = np.searchsorted(groups.label_G[order], np.arange(len(facts.labels) + 1))
    for k, (start, end) in enumerate(itertools.pairwise(starts)):
        free = order[start:end].tolist()
        for n_after, (name, quota_K) in zip(range(len(shares), 0, -1), quotas.items(), strict=True):
            taken = _take(free, groups.size_G, int(quota_K[k]), n_after) if free else []
            part_G[taken] = name
            free = [group for group in free if part_G[group] == "train"]
    part_N = part_G[groups.group_N]
    return {name: rows[part_N == name] for name in ("train", *shares)}


def _take(free: list[int], size_G: np.ndarray, n_rows: int, n_keep: int) -> list[int]:
    """Groups from the front of `free` that fit into `n_rows`, one at least, with `n_keep` left for the other parts."""
    taken: list[int] = []
    n_taken = 0
    for group in free:
        if n_taken >= n_rows or len(free) - len(taken) <= n_keep:
            break
        if n_taken + size_G[group] <= n_rows:
            taken.append(group)
            n_taken += int(size_G[group])
    return taken or [min(free, key=lambda group: int(size_G[group]))]


def apportion(n_rows_K: np.ndarray, total: int) -> np.ndarray:
    """`total` rows shared out in proportion to `n_rows_K` by largest remainder; where it can be, one to each at least.

    >>> apportion(np.array([90, 9, 1]), 10).tolist()
    [8, 1, 1]
    """
    total = min(total, int(n_rows_K.sum()))
    exact_K = n_rows_K * (total / max(1, int(n_rows_K.sum())))
    least_K: np.ndarray = np.minimum(n_rows_K, 1) if total >= np.count_nonzero(n_rows_K) else np.zeros_like(n_rows_K)
    quota_K: np.ndarray = np.maximum(np.floor(exact_K + 1e-9).astype(np.int64), least_K)
    quota_K[np.argsort(quota_K - exact_K, kind="stable")[:max(0, total - quota_K.sum())]] += 1
    while quota_K.sum() > total:  # the rows that were given to the smallest come from the largest
        quota_K[np.argmax(np.where(quota_K > least_K, quota_K, -1))] -= 1
    return quota_K


def _draw(rows: np.ndarray, limit: int | None, facts: _Facts) -> np.ndarray:
    """At most `limit` of `rows`, labels in proportion, in the order of their keys."""
    rows = rows[np.argsort(facts.key_N[rows], kind="stable")]
    if limit is None or limit >= len(rows):
        return rows
    label_N = facts.label_N[rows]
    quota_K = apportion(np.bincount(label_N, minlength=len(facts.labels)), limit)
    order = np.argsort(label_N, kind="stable")
    starts_K = np.searchsorted(label_N[order], np.arange(len(facts.labels)))
    rank_N = np.empty(len(rows), np.int64)
    rank_N[order] = np.arange(len(rows)) - starts_K[label_N[order]]
    chosen: np.ndarray = rows[rank_N < quota_K[label_N]]
    return chosen


def _folds(rows: Mapping[str, np.ndarray], facts: _Facts, is_one_source: bool) -> dict[str, np.ndarray]:
    """`Splits.fold_N`."""
    if len(rows["validation"]) >= MIN_ROWS or len(rows["train"]) + len(rows["validation"]) > MAX_FOLD_ROWS:
        return {}
    from sklearn.model_selection import StratifiedGroupKFold

    is_poolable = is_one_source and len(rows["test"]) < MIN_ROWS
    parts = {name: rows[name] for name in ("train", "validation", *(["test"] if is_poolable else []))}
    every = np.concatenate(list(parts.values()))
    n_folds = min(N_FOLDS, int(np.bincount(_grouped(every, facts).label_G).max()))
    if n_folds < 2:
        return {}
    fold_N = np.empty(len(every), np.int64)
    with warnings.catch_warnings():  # a label of fewer rows than folds is missing in some: they score it so
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, tested) in enumerate(StratifiedGroupKFold(n_folds).split(
                every, facts.label_N[every], facts.group_N[every])):
            fold_N[tested] = fold
    ends = np.cumsum([len(chosen) for chosen in parts.values()])
    return dict(zip(parts, np.split(fold_N, ends[:-1]), strict=True))


def _seen_in_train(name: str, rows: Mapping[str, np.ndarray], facts: _Facts) -> dict[str, int]:
    """How many rows of a part have a twin in train: the same text, or one nearly the same."""
    is_exact = np.isin(facts.exact_N[rows[name]], facts.exact_N[rows["train"]])
    is_near = np.isin(facts.group_N[rows[name]], facts.group_N[rows["train"]])
    return {f"n_{name}_rows_seen_in_train_exact": int(is_exact.sum()),
            f"n_{name}_rows_seen_in_train_near": int((is_near & ~is_exact).sum())}
