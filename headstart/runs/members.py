"""Finished runs that are to become one: whether they answer one question, and what each computes of the same rows.

Nothing of the test rows, and nothing of the rows that choose, may have been trained on by any of them. Their Specs name
the data; it is read again as each run read it, and must be what the run recorded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from .. import tasks
from ..core import manifest
from ..core.errors import ArtifactError, DataError, SpecError, shorten
from ..core.predict import ROWS_AT_ONCE, run
from ..core.task import Task
from ..core.values import MemberLogits, Prediction, Row
from ..data import splits
from ..data.splits import Splits
from ..data.table import read_splits
from . import artifact
from .artifact import ENSEMBLE, Artifact

SAME_ROWS = ("Fit all members with one seed on one file, or name the rows: --set data.validation=FILE --set "
             "data.test=FILE")


@dataclass(frozen=True)
class Candidate:
    """A finished run, opened, and its rows, read again. name: as the caller wrote its folder."""

    name: str
    loaded: Artifact
    splits: Splits

    @property
    def task(self) -> Task:
        return self.loaded.task

    @cached_property
    def keys(self) -> dict[str, list[str]]:
        """Each row of each part as a string that is the same wherever it came from."""
        return {part: [json.dumps(row, sort_keys=True) for row in getattr(self.splits, part).rows]
                for part in ("train", "validation", "test")}

    def compute(self, rows: Sequence[Row]) -> list[MemberLogits]:
        """Windows and logits of each row, which it sees without its gold."""
        loaded, computed = self.loaded, list[MemberLogits]()
        for start in range(0, len(rows), ROWS_AT_ONCE):
            chunk = [self.task.without_gold(row) for row in rows[start : start + ROWS_AT_ONCE]]
            of_rows = [self.task.encode(i, row, loaded.reader) for i, row in enumerate(chunk)]
            logits = run([w for windows in of_rows for w in windows], loaded.reader, loaded.runtime,
                         loaded.spec.evaluate.tokens_per_batch)
            ends = np.cumsum([len(windows) for windows in of_rows]).tolist()
            computed += [MemberLogits(self.task, windows, logits[end - len(windows) : end])
                         for windows, end in zip(of_rows, ends, strict=True)]
        return computed

    def answers(self, rows: Sequence[Row], computed: Sequence[MemberLogits]) -> list[Prediction]:
        """Its own answers, from what it computed."""
        return [of_row.answer(self.task.without_gold(row)) for row, of_row in zip(rows, computed, strict=True)]


def read(folders: Sequence[str | Path]) -> list[Candidate]:
    """The runs as candidates, whose question and rows are the same.

    Raises HeadstartError for fewer than two, for one named twice, and for what does not fit; it names the member.
    """
    if len(folders) < 2:
        raise SpecError("ensemble", f"got {len(folders)} run{'s' * (len(folders) != 1)}; it takes two at least.",
                        "Name more finished runs: headstart ensemble RUN RUN --out OUT")
    seen: dict[str, str] = {}
    for folder in map(Path, folders):
        identity = manifest.identity(folder) or str(folder)
        if identity in seen:
            raise SpecError(f"ensemble {folder}", f"is the same run as {seen[identity]}; each counts once.",
                            "Leave one of them out, or fit another with its own seed.")
        seen[identity] = str(folder)
    parts: dict[str, Splits] = {}
    candidates = [_read(Path(folder), parts) for folder in folders]
    for other in candidates[1:]:
        _check_question(candidates[0], other)
    for other in candidates[1:]:
        _check_rows(candidates[0], other)
    return candidates


def _read(folder: Path, parts: dict[str, Splits]) -> Candidate:
    """parts: rows that were read already, by how."""
    if (folder / ENSEMBLE).exists():
        raise SpecError(f"ensemble {folder}", "is an ensemble itself; members are single models.",
                        f"Name the runs in it: {' '.join(map(str, sorted((folder / 'members').glob('*'))))}")
    loaded = artifact.load(folder, precision="fp32")
    if loaded.task.generation is not None or not loaded.task.is_blendable:
        raise SpecError(f"ensemble {folder}", f'is of task "{loaded.task.name}", whose answers have no mean.',
                        "Name runs of a task that answers with labels, numbers, spans or vectors.")
    if loaded.certificate.n_folds:
        raise SpecError(f"ensemble {folder}", f"was tested by {loaded.certificate.n_folds}-fold cross-validation: no "
                        "test row was held out from what it learned.",
                        "Fit it with test rows of their own: --set data.test=FILE --overwrite")
    return Candidate(str(folder), loaded, _splits(folder, loaded, parts))


def _splits(folder: Path, loaded: Artifact, parts: dict[str, Splits]) -> Splits:
    """The run's rows, read again. Raises DataError where they are not those that it recorded."""
    spec, recorded = loaded.spec, loaded.certificate.data
    if spec.data.train == "-":
        raise DataError(str(folder), "was fitted on standard input, which cannot be read again.",
                        "Write the rows to a file and fit it again.")
    how = json.dumps([spec.data.model_dump(), spec.task, spec.seed], sort_keys=True)
    if how not in parts:
        question = tasks.build(spec.task)
        parts[how] = splits.make(read_splits(spec.data, question), spec.data, question, spec.seed)
    now = parts[how]
    for part in ("validation", "test"):
        table, n, sha256 = getattr(now, part), getattr(recorded, f"n_{part}"), getattr(recorded, f"{part}_sha256")
        if len(table) != n or (sha256 and sha256 != table.digest()):
            raise DataError(spec.data.train, f"no longer holds the {part} rows that {folder} was fitted with.",
                            "Bring the rows back as they were, or fit the member again.")
    return now


def _check_question(first: Candidate, other: Candidate) -> None:
    """Raise ArtifactError unless both answer one question; it says what differs."""
    where, a, b = f"ensemble {other.name}", first.task, other.task
    fix = "Name runs that were fitted for the same question, on the same rows."
    if a.name != b.name:
        raise ArtifactError(where, f'is of task "{b.name}", and {first.name} of "{a.name}".', fix)
    labels_a, labels_b = (set(getattr(task, "labels", ())) for task in (a, b))
    if labels_a != labels_b:
        differences = [f"{name} alone has {', '.join(map(shorten, sorted(labels)[:5]))}" for name, labels in (
            (other.name, labels_b - labels_a), (first.name, labels_a - labels_b)) if labels]
        raise ArtifactError(where, f"knows other labels than {first.name}: {'; '.join(differences)}.", fix)
    for name in ("metric", "columns"):
        if getattr(a, name) != getattr(b, name):
            raise ArtifactError(where, f"was fitted with another {name} than {first.name}.", fix)


def _check_rows(first: Candidate, other: Candidate) -> None:
    """Raise DataError unless both chose on and were tested on the same rows, in any order."""
    for part in ("test", "validation"):
        of_first, of_other = sorted(first.keys[part]), sorted(other.keys[part])
        if of_first == of_other:
            continue
        n_trained = len(set(of_first) & set(other.keys["train"]))
        n_other = len(set(of_first) - set(of_other))
        words = {"test": "tested", "validation": "chosen"}[part]
        raise DataError(f"ensemble {other.name}", f"was {words} on other rows than {first.name}: {n_other:,} of its "
                        f"{len(of_first):,} {part} rows are not among them, and {n_trained:,} of them it was trained "
                        "on. No number on these rows would be of rows that nobody trained on.", SAME_ROWS)


def is_seen(candidates: Sequence[Candidate]) -> np.ndarray:
    """Which test rows of the first candidate have a twin among the train rows of any, [N]."""
    seen = {key for candidate in candidates
            for key, is_seen in zip(candidate.keys["test"], candidate.splits.is_seen_N, strict=True) if is_seen}
    return np.array([key in seen for key in candidates[0].keys["test"]], bool)
