"""What is wrong with a data set, said before a model learns it: leaks, twins, contradictions, lengths, odd rows.

    audit("reviews.csv")                          everything, as one mapping of JSON values
    audit("specs/tweets.yaml", suspects=False)    without the part that needs a backbone's features

Nothing is changed and nothing is left out silently: rows that cannot be used at all are listed with their lines.

Shape suffixes: N rows of all parts, K labels, D width.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .. import tasks
from ..core.errors import DataError, ModelError
from ..core.files import scratch_errors
from ..core.outputs import check_output
from ..core.pretrained import BackboneSpec
from ..core.progress import Progress
from ..core.spec import Spec
from ..core.task import Task
from ..core.untrusted import library_errors
from ..core.values import Row
from ..data import duplicates
from ..data.table import Table, read_splits
from ..models.backbone import load_backbone
from ..readers import vocabulary
from ..report.audit import MAX_LISTED, write
from ..runs import language
from ..runs.folder import sources_of
from ..runs.resolve import first_layer, resolve
from ..tasks.inference import read_as
from ..use.vectors import Extractor
from .label_errors import N_FOLDS, label_errors

Finding = dict[str, Any]

LIMITS = (32, 64, 128, 256, 512)  # tokens: what each would cut
MAX_SUSPECT_ROWS = 20_000  # of train, drawn by seed: cross-validation takes minutes with more
MIN_WRONG = 1 / 3  # the probability from which a label is worth a look
MAX_LANGUAGE_ROWS = 2_000
MIN_LANGUAGE_SHARE = 0.01  # short texts are often taken for a neighbor of their language
TWIN = {True: "same text", False: "nearly the same"}


def audit(spec_or_path: str | Path | Mapping[str, Any], *, suspects: bool = True, out: str | Path | None = None,
          overwrite: bool = False, progress: Progress | None = None,
          layers: Sequence[tuple[str, Mapping[str, Any]]] = ()) -> dict[str, Any]:
    """Look through the rows that a Spec (or a data file) names, as they are, before any split is made.

    suspects: also look for labels that are probably wrong; the Spec's backbone reads the train rows for that.
    out:      folder for audit.json, audit.html and audit.md, whole or not there.
    overwrite: replace a folder that an audit wrote.
    Returns   JSON values: parts, unusable, balance, twins, leaks, conflicts, lengths, unknown_tokens, languages, odd,
              suspects.
    Raises    SpecError and DataError as `fit` does, but for bad rows: those are listed.
    """
    progress = progress or Progress(quiet=True)
    lenient = ("audit", {"data": {"errors": "skip"}})  # beneath what the caller says: bad rows are a finding here
    spec, origins, _ = resolve([lenient, first_layer(spec_or_path), *layers])
    if out is not None:
        inputs = sources_of(spec, spec_or_path)
        check_output(Path(out), overwrite, inputs, folder=True)
    task = tasks.build(spec.task)
    tables = read_splits(spec.data, task)
    progress.say(read_as(task, origins, tables["train"]))
    with suppress(DataError):  # what cannot be learned is a finding of its own: the balance shows it
        task = task.learn(tables["train"].rows)
    rows = _Rows(tables, task, spec.data.near_duplicate)
    by_language = language.layer(spec, origins, task, tables["train"].rows)
    spec = spec.model_copy(update={name: BackboneSpec(name=value) for name, value in by_language[1].items()})
    result = {
        "source": spec.data.train, "task": task.name, "parts": {name: len(table) for name, table in tables.items()},
        "unusable": _unusable(tables), "balance": _balance(tables, task), "twins": rows.twins(), "leaks": rows.leaks(),
        "conflicts": rows.conflicts(), **_tokens(rows.texts, spec),
        "odd": _odd(rows), "suspects": _suspects(tables["train"], task, spec, progress) if suspects else None,
    }
    progress.end()
    if out is not None:
        write(result, Path(out), overwrite)
    return result


class _Rows:
    """The rows of all parts in one line, with the group of duplicates that each belongs to."""

    def __init__(self, tables: Mapping[str, Table], task: Task, near: float) -> None:
        self.where = [table.where(i) for table in tables.values() for i in range(len(table))]
        self.part = [name for name, table in tables.items() for _ in table.rows]
        self.texts = [task.text(row) for table in tables.values() for row in table.rows]
        self.gold = [_gold(row, task) for table in tables.values() for row in table.rows]
        self.exact_N = duplicates.groups(self.texts, 1.0)
        self.group_N = self.exact_N if near == 1 else duplicates.groups(self.texts, near)

    def _groups(self, of_N: np.ndarray) -> Iterator[list[int]]:
        """The rows of each group that has several, in the order of the first."""
        members = defaultdict(list)
        for i, group in enumerate(of_N.tolist()):
            members[group].append(i)
        return (some for some in members.values() if len(some) > 1)

    def _pair(self, i: int, j: int) -> Finding:
        return {"first": self.where[i], "second": self.where[j], "kind": TWIN[bool(self.exact_N[i] == self.exact_N[j])],
                "text": self.texts[i], "other_text": self.texts[j]}

    def twins(self) -> Finding:
        """Rows with a twin in their own part, exact or near; listed: each with the first of its group."""
        parts = np.unique(self.part, return_inverse=True)[1]
        some = list(self._groups(self.group_N * (parts.max() + 1) + parts))
        pairs = ((group[0], i) for group in some for i in group[1:])
        return {"n_groups": len(some), "n_rows": sum(map(len, some)),
                **duplicates.count_duplicates(self.exact_N, self.group_N,
                                              np.unique(self.gold, return_inverse=True)[1]),
                "pairs": [self._pair(i, j) for i, j in itertools.islice(pairs, MAX_LISTED)]}

    def leaks(self) -> Finding:
        """Rows of validation and test with a twin in train: a score on them shows what was learned by heart."""
        first: dict[int, int] = {}
        for i, (group, part) in enumerate(zip(self.group_N.tolist(), self.part, strict=True)):
            if part == "train":
                first.setdefault(group, i)
        leaked = [(first[group], i) for i, group in enumerate(self.group_N.tolist())
                  if self.part[i] != "train" and group in first]
        n = Counter(self.part[i] for _, i in leaked)
        return {"n_rows": dict(n), "pairs": [self._pair(i, j) for i, j in leaked[:MAX_LISTED]]}

    def conflicts(self) -> Finding:
        """Texts that stand there more than once with different gold."""
        conflicts = []
        for some in self._groups(self.exact_N):
            if len({self.gold[i] for i in some}) > 1:
                conflicts.append({"text": self.texts[some[0]],
                              "rows": [{"where": self.where[i], "gold": self.gold[i]} for i in some[:MAX_LISTED]]})
        return {"n_texts": len(conflicts), "texts": conflicts[:MAX_LISTED]}


def _gold(row: Row, task: Task) -> str:
    """All that a row says is right, as one string."""
    gold = {column: row[column] for column in task.columns.gold if row.get(column) is not None}
    return json.dumps(gold, ensure_ascii=False, sort_keys=True) if len(gold) != 1 else str(next(iter(gold.values())))


def _unusable(tables: Mapping[str, Table]) -> Finding:
    """Rows that no run can take, and what was replaced in others, as reading counted them."""
    counts = Counter[str]()
    for table in tables.values():
        counts.update(table.counts)
    rows = [{"where": problem.where, "what": problem.what} for table in tables.values() for problem in table.skipped]
    return {"counts": {name: n for name, n in counts.items() if n and name != "n_read"}, "rows": rows}


def _balance(tables: Mapping[str, Table], task: Task) -> dict[str, dict[str, int]]:
    """How often every label stands in every part, the most frequent of train first."""
    counts = {name: Counter(label for row in table.rows for label in task.labels_of(row))
              for name, table in tables.items()}
    every = sorted({label for count in counts.values() for label in count}, key=lambda k: (-counts["train"][k], k))
    return {label: {name: count[label] for name, count in counts.items()} for label in every}


def _tokens(texts: Sequence[str], spec: Spec) -> dict[str, Any]:
    """Lengths in tokens of the Spec's backbone, what each limit would cut, and how many tokens it does not know."""
    reader = load_backbone(spec.backbone.name, max_tokens=10**6).reader
    n_NK = np.zeros((len(texts), 3), np.int64)  # all tokens, those of the text, unknown ones
    is_text_V, is_unknown_V = reader.which_tokens()
    with library_errors(spec.backbone.name, "cannot read these texts", ModelError, "Take another backbone."):
        encodings = reader.tokenizer.encode_batch_fast(list(texts), add_special_tokens=True)
    for i, encoded in enumerate(encodings):
        ids = encoded.ids
        n_NK[i] = len(ids), is_text_V[ids].sum(), is_unknown_V[ids].sum()
    n_N = n_NK[:, 0]
    at = {name: int(np.quantile(n_N, share)) for name, share in
          (("shortest", 0.0), ("median", 0.5), ("95 %", 0.95), ("99 %", 0.99), ("longest", 1.0))}
    lengths = {"backbone": spec.backbone.name, "n_tokens": at, "max_tokens": spec.data.max_tokens, "limits": [
        {"max_tokens": limit, "n_cut": int((n_N > limit).sum()),
         "cut_tokens_share": float(np.maximum(n_N - limit, 0).sum() / n_N.sum())}
        for limit in sorted({*LIMITS, spec.data.max_tokens})]}
    unknown = vocabulary.by_script(texts, n_NK[:, 1], n_NK[:, 2])
    return {"lengths": lengths, "unknown_tokens": [count.to_json() for count in unknown],
            "languages": _languages(texts, n_NK[:, 1:])}


def _languages(texts: Sequence[str], n_NK: np.ndarray) -> Finding:
    """The language of each of some texts, drawn evenly, by py3langid (naive Bayes over byte n-grams).

    n_NK: tokens of each text, and unknown ones.
    """
    import py3langid

    drawn = slice(0, MAX_LANGUAGE_ROWS * (step := max(1, len(texts) // MAX_LANGUAGE_ROWS)), step)
    with scratch_errors():  # it unpacks its model there
        names = [str(py3langid.classify(text)[0]) for text in texts[drawn]]
    counts, n_tokens = Counter(names), defaultdict[str, np.ndarray](lambda: np.zeros(2, np.int64))
    for name, n_K in zip(names, n_NK[drawn], strict=True):
        n_tokens[name] += n_K
    often = {name: n for name, n in counts.most_common() if n >= MIN_LANGUAGE_SHARE * len(names)}
    shares = {name: float(n_tokens[name][1] / max(1, n_tokens[name][0])) for name in often}
    return {"n_looked_at": len(names), "n_rows": often, "n_rarer": len(names) - sum(often.values()),
            "unknown_share": shares}


def _odd(rows: _Rows) -> Finding:
    """Texts that can be used and hardly say anything, or say it in a broken way."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(rows.texts):
        if not any(c.isalnum() for c in text):
            kinds["no letter and no digit"].append(i)
        elif len(text.split()) == 1 and "://" in text:
            kinds["a link alone"].append(i)
        if "\N{REPLACEMENT CHARACTER}" in text:
            kinds["a replacement character: the encoding was wrong once"].append(i)
        if not text.isascii() and any(unicodedata.category(c) in ("Cc", "Cf", "Co") and c not in "\n\t\r\u200d\ufeff"
                                      for c in text):
            kinds["invisible control or private characters"].append(i)
    return {kind: {"n_rows": len(some), "rows": [{"where": rows.where[i], "text": rows.texts[i]}
                                                  for i in some[:MAX_LISTED]]} for kind, some in kinds.items()}


def _suspects(train: Table, task: Task, spec: Spec, progress: Progress) -> Finding:
    """Train rows whose label is wrong with a probability above MIN_WRONG, all of them, the most probably wrong first.

    n_expected: how many of them are wrong, by the sum of their probabilities.  rate: of wrong labels, see LabelErrors.
    """
    chosen = np.arange(len(train))
    if len(chosen) > MAX_SUSPECT_ROWS:
        chosen = np.sort(np.random.default_rng(spec.seed).choice(chosen, MAX_SUSPECT_ROWS, replace=False))
    gold = np.array([task.stratum(train.rows[i]) for i in chosen])
    labels, gold_N, n_K = np.unique(gold, return_inverse=True, return_counts=True)
    often_N = (n_K >= N_FOLDS)[gold_N]  # a label must stand in every fold
    chosen, gold = chosen[often_N], gold[often_N]
    labels, gold_N = np.unique(gold, return_inverse=True)
    if len(labels) < 2:
        return {"n_looked_at": 0, "n_rows": 0, "n_expected": 0.0, "rate": None, "rows": []}
    texts = [task.text(train.rows[i]) for i in chosen]
    features_ND = Extractor(spec.backbone.name, max_tokens=spec.data.max_tokens, store=spec.cache,
                            progress=progress)(texts)
    scaled_ND = features_ND / np.sqrt(np.mean(features_ND**2) * features_ND.shape[1] / 16)
    errors = label_errors(scaled_ND, gold_N, spec.seed)
    listed = np.argsort(-errors.wrong_N, kind="stable")[: int((errors.wrong_N > MIN_WRONG).sum())]
    rather_N = np.where(np.arange(len(labels)) == gold_N[:, None], -1, errors.shares_NK).argmax(1)
    rows = [{"where": train.where(int(chosen[i])), "text": texts[i], "wrong": float(errors.wrong_N[i]),
             "gold": str(labels[gold_N[i]]), "gold_share": float(errors.shares_NK[i, gold_N[i]]),
             "predicted": str(labels[rather_N[i]]), "predicted_share": float(errors.shares_NK[i, rather_N[i]])}
            for i in listed]
    return {"n_looked_at": len(chosen), "n_rows": len(rows), "n_expected": float(errors.wrong_N[listed].sum()),
            "rate": errors.rate, "rows": rows}
