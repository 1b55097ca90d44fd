"""A teacher's answers, once, before the student trains: computed or found in the cache, and stored as targets.

    lessons = learn_from(...)        job.lessons: windows whose targets hold "teacher_logits"

A teacher is a finished run. Where its head reads a window as one vector, it reads rows with its own tokenizer; where
answers or hidden states belong to tokens, both tokenizers must be the same. Shape suffixes: B windows, T tokens,
D width, K labels, L layers, N windows.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core import manifest
from ..core.errors import SpecError, shorten
from ..core.method import Method
from ..core.model import Model
from ..core.predict import ROWS_AT_ONCE, by_batches, decode
from ..core.progress import Progress
from ..core.reader import Reader
from ..core.spec import Spec
from ..core.task import Task
from ..core.teaching import ATTENTION, HIDDEN, IS_LABELED, LOGITS, TEACHER
from ..core.values import Prediction, Row, Window, collate
from ..core.windows import WindowStore, store
from ..data.splits import Splits
from ..data.unlabeled import gold_columns, read_unlabeled
from ..features.store import ActivationStore, key_of, make_room
from ..models import projections
from ..models.device import to_device
from ..models.runtime import TorchRuntime
from ..training.lessons import Lessons
from . import artifact
from .artifact import Artifact

DEEPER = "Match logits alone, keep fewer blocks of the student, or name a deeper teacher."
Values = dict[str, list[np.ndarray]]  # field of the target -> an array a window


def learn_from(spec: Spec, task: Task, method: Method, parts: Splits, windows: Mapping[str, WindowStore],
               reader: Reader, model: Model, work: Path, progress: Progress) -> Lessons | None:
    """What the method's teachers say of all rows; None for a method without any.

    model: the student; where hidden states are matched it gets projections to the teacher's width.
    Raises  SpecError for a teacher that is not there, answers something else, or does not fit the student; DataError
            for unlabeled rows that cannot be used.
    """
    plan = method.plan
    if not plan.teachers:
        return None
    of_parts = {name: getattr(parts, name) for name in ("test", "validation", "train")}
    unlabeled: Sequence[Row] = ()
    counts, digest = {"n_unlabeled_rows": 0}, ""
    if plan.unlabeled:
        table, counts = read_unlabeled(plan.unlabeled, spec.data, task, of_parts)
        unlabeled, digest = table.rows, table.digest()
        _tell(plan.unlabeled, gold_columns(plan.unlabeled, spec.data, task), counts, progress)
    teachers = [_open(folder, task, parts, plan.matches, spec.cache, progress) for folder in plan.teachers]
    layers = _layers(teachers, model, plan.matches, spec.seed)
    for teacher in teachers:
        teacher.begin(layers, reader, task)
    answers = Answers(task, teachers, reader, spec.evaluate.tokens_per_batch)
    predictions = {name: answers.predictions(of_parts[name].rows, windows[name]) for name in ("validation", "test")}
    n_rows = sum(map(len, (parts.train.rows, unlabeled)))
    progress.begin("the teacher's answers", n_rows, "rows")
    lines = answers.windows(parts.train.rows, unlabeled, progress)
    taught = store(lines, work / "windows" / "taught", reader.pad_id, task.keeps_rows_whole)
    lessons = Lessons(taught, len(windows["train"]), predictions, plan.teachers,
                      {**{f"teacher {i}": t.digest for i, t in enumerate(teachers)}, "unlabeled": digest}, counts,
                      sum(t.n_bytes for t in teachers))
    del teachers, answers  # they are not in memory while the student trains
    gc.collect()
    return lessons


def _tell(source: str, gold: Sequence[str], counts: Mapping[str, int], progress: Progress) -> None:
    progress.say(f"{source}: {counts['n_unlabeled_rows']:,} rows that only the teacher answers" + (
        f"; {', '.join(gold)} there is not read" if gold else ""))
    for name, n in counts.items():
        if name != "n_unlabeled_rows":
            progress.say(f"{source}: {n:,} {name.removeprefix('n_').replace('_', ' ').replace('unlabeled ', '')}")


@dataclass
class Teacher:
    """One finished run. digest: sha256 of its manifest, which names its answers in the cache."""

    artifact: Artifact
    digest: str
    cache: str
    progress: Progress
    layers: tuple[int, ...] = ()  # whose hidden states are wanted, 0 are the embeddings; () none
    fields: tuple[str, ...] = (LOGITS,)
    reads_ours: bool = False  # whether it answers the student's own windows

    @property
    def n_bytes(self) -> int:
        """Of its weights."""
        return sum(path.stat().st_size for path in self.artifact.folder.rglob("*")
                   if path.suffix in (".safetensors", ".onnx"))

    def begin(self, layers: Sequence[int], reader: Reader, task: Task) -> None:
        """Check that it can read what it is to answer. layers: whose hidden states are wanted."""
        self.layers = tuple(layers)
        self.reads_ours = task.head.kind == "tokens" or self.fields != (LOGITS,)
        if self.reads_ours:
            self._check_reader(reader)

    def _check_reader(self, reader: Reader) -> None:
        ours, theirs = reader, self.artifact.reader
        where, name = TEACHER, shorten(str(self.artifact.folder))
        if getattr(ours, "described", "") != getattr(theirs, "described", None) or (
                getattr(ours, "has_types", False) != getattr(theirs, "has_types", False)):
            raise SpecError(where, f"{name} reads with another tokenizer than the student, and what is matched belongs "
                            "to tokens.", "Name a teacher and a student of one vocabulary"
                            + ("." if self.fields == (LOGITS,) else ", or match logits alone."))
        if ours.max_tokens > theirs.max_tokens:
            raise SpecError(where, f"{name} reads windows of {theirs.max_tokens:,} tokens, and the student's have "
                            f"{ours.max_tokens:,}.", f"Let them be as long: --set data.max_tokens={theirs.max_tokens}")

    def answers(self, windows: Sequence[Window], tokens_per_batch: int) -> Values:
        """What it says of some windows, found in the cache or computed and kept there. Equal windows count once."""
        keys_N = np.fromiter((key_of(dict(w.inputs)) for w in windows), np.uint64, len(windows))
        stores = self._stores() if self.cache != "off" else {}
        known = {name: stored.get(keys_N) for name, stored in stores.items()}
        if stores and all(values is not None for values in known.values()):
            return {name: [self._shaped(name, value) for value in values or ()] for name, values in known.items()}
        unique, first_N, place_N = np.unique(keys_N, return_index=True, return_inverse=True)
        computed = self._computed([windows[i] for i in first_N], tokens_per_batch)
        for name, stored in stores.items():
            self._keep(stored, unique, [self._flat(name, value) for value in computed[name]])
        return {name: [values[i] for i in place_N] for name, values in computed.items()}

    def _stores(self) -> dict[str, ActivationStore]:
        widths = {LOGITS: self._n_outputs, HIDDEN: self._width * len(self.layers), ATTENTION: 1}
        which = "-".join(map(str, self.layers))
        names = {LOGITS: "logits", HIDDEN: f"hidden-{which}", ATTENTION: "attention"}
        return {name: ActivationStore(f"{self.digest[:24]}-teacher-{names[name]}", widths[name], "<f4")
                for name in self.fields}

    @property
    def _n_outputs(self) -> int:
        runtime = self.artifact.runtime
        if self.artifact.task.n_outputs:
            return self.artifact.task.n_outputs
        return int(runtime.model.output.out_features) if isinstance(runtime, TorchRuntime) else self._probed

    @property
    def _probed(self) -> int:
        """How many numbers an exported model of vectors gives."""
        task = self.artifact.task
        window = task.encode(0, task.without_gold(task.examples[0]), self.artifact.reader)[0]
        inputs = collate({name: [value] for name, value in window.inputs.items()}, {}, self.artifact.reader.pad_id)
        return int(self.artifact.runtime.logits(inputs.inputs).shape[-1])

    @property
    def _width(self) -> int:
        runtime = self.artifact.runtime
        return projections.width_of(runtime.model) if isinstance(runtime, TorchRuntime) else 0

    def _flat(self, name: str, value: np.ndarray) -> np.ndarray:
        """[n, D] as a store has it."""
        return value.reshape(-1, 1) if name == ATTENTION else value.reshape(-1, value.shape[-1]) if (
            name == LOGITS) else value.reshape(len(value), -1)

    def _shaped(self, name: str, value: np.ndarray) -> np.ndarray:
        """The same as the target has it."""
        if name == LOGITS:
            return value if self.artifact.task.head.kind == "tokens" else value[0]
        return value.reshape(-1) if name == ATTENTION else value.reshape(len(value), len(self.layers), -1)

    def _keep(self, stored: ActivationStore, keys_N: np.ndarray, values: Sequence[np.ndarray]) -> None:
        """Publish what is not there yet as one segment; where it cannot be written the run goes on without."""
        try:
            with stored.locked(self.progress):
                new = np.flatnonzero(~stored.contains(keys_N)).tolist()
                sizes_N = np.array([len(values[i]) for i in new], np.int64)
                n_bytes = int(sizes_N.sum()) * stored.width * stored.dtype.itemsize
                if len(new) and make_room(n_bytes, stored.folder):
                    stored.write(keys_N[new], sizes_N, iter([(np.arange(len(new)), [values[i] for i in new])]))
        except OSError as error:
            self.progress.say(stored.unwritable(error))
            self.cache = "off"

    def _computed(self, windows: Sequence[Window], tokens_per_batch: int) -> Values:
        out: dict[str, list[Any]] = {name: [None] * len(windows) for name in self.fields}
        sizes_N = np.fromiter((w.size for w in windows), np.int64, len(windows))

        def answer(chosen: np.ndarray) -> np.ndarray:
            inputs = collate({name: [windows[i].inputs[name] for i in chosen] for name in windows[0].inputs}, {},
                             self.artifact.reader.pad_id).inputs
            for i, values in zip(chosen, self._of_batch(inputs, [len(windows[i]) for i in chosen]), strict=True):
                for name, value in values.items():
                    out[name][i] = value
            return np.zeros(len(chosen))

        by_batches(sizes_N, tokens_per_batch, answer)
        return out

    def _of_batch(self, inputs: dict[str, np.ndarray], lengths: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
        """The values of each window, without padding."""
        is_per_token, runtime = self.artifact.task.head.kind == "tokens", self.artifact.runtime
        if self.fields == (LOGITS,):
            for n, line in zip(lengths, runtime.logits(inputs), strict=True):
                yield {LOGITS: line[:n] if is_per_token else line}
            return
        assert isinstance(runtime, TorchRuntime), "_open lets no other pass"
        with torch.inference_mode():
            outputs = runtime.model.eval()(to_device(inputs, runtime.device),
                                           want=frozenset({"hidden", "attentions"}))
        for b, n in enumerate(lengths):
            values = {LOGITS: outputs.logits[b, :n] if is_per_token else outputs.logits[b]}
            if HIDDEN in self.fields:
                values[HIDDEN] = torch.stack([outputs.hidden[layer][b, :n] for layer in self.layers], 1)
            if ATTENTION in self.fields:
                values[ATTENTION] = outputs.attentions[-1][b, :, :n, :n].mean(0).reshape(-1)
            yield {name: values[name].float().cpu().numpy() for name in self.fields}


def _open(folder: str, task: Task, parts: Splits, matches: Sequence[str], cache: str, progress: Progress) -> Teacher:
    """A teacher that gives the answers of `task`. Raises SpecError where it does not."""
    path = Path(folder)
    if not path.is_dir():
        raise SpecError(TEACHER, f"{shorten(folder)} is not the folder of a finished run.",
                        "Name one, such as runs/big; make one: headstart fit DATA --out runs/big")
    loaded = artifact.load(path)
    if loaded.task.name != task.name:
        raise SpecError(TEACHER, f'{shorten(folder)} answers "{loaded.task.name}", and the student learns '
                        f'"{task.name}".', "Name a run of the same task.")
    if set(loaded.task.columns.inputs) != set(task.columns.inputs):
        raise SpecError(TEACHER, f"{shorten(folder)} reads {', '.join(loaded.task.columns.inputs)}, and the rows have "
                        f"{', '.join(task.columns.inputs)}.", "Name a run that was fitted to rows of the same columns.")
    fields = tuple(field for part, field in (("logits", LOGITS), ("hidden", HIDDEN), ("attention", ATTENTION))
                   if part in matches)
    if fields != (LOGITS,) and not isinstance(loaded.runtime, TorchRuntime):
        raise SpecError("method.match", f"wants {', '.join(part for part in matches if part != 'logits')}, and "
                        f"{shorten(folder)} is exported: it tells its logits alone.",
                        "Name the run that it was exported from, or match logits alone.")
    if loaded.certificate.data.validation_sha256 != parts.validation.digest() or loaded.certificate.n_folds:
        progress.say(f"{folder}: was fitted to other splits than these; if it learned from these test rows, its score "
                     "and the student's are too high. The same data and seed give the same splits.")
    task.from_teacher(loaded.task, np.zeros((1, loaded.task.n_outputs or 1), np.float32))  # raises for other labels
    return Teacher(loaded, manifest.sha256(path / manifest.MANIFEST), cache, progress, fields=(fields or (LOGITS,)))


def _layers(teachers: Sequence[Teacher], model: Model, matches: Sequence[str], seed: int) -> tuple[int, ...]:
    """The teacher's layers that stand for the student's, embeddings first; () where hidden states are not matched."""
    if "hidden" not in matches and "attention" not in matches:
        return ()
    if len(teachers) > 1:
        raise SpecError("method.match", f"wants more than logits, and there are {len(teachers)} teachers: hidden "
                        "states of several have no mean.", "Name one teacher, or match logits alone.")
    runtime = teachers[0].artifact.runtime
    assert isinstance(runtime, TorchRuntime), "_open lets no other pass"
    ours, theirs = (projections.n_layers(m) for m in (model, runtime.model))
    if ours > theirs:
        raise SpecError("method.match", f"wants more than logits, and the student has {ours} blocks, its teacher "
                        f"{theirs}.", DEEPER)
    if "hidden" not in matches:
        return ()
    projections.add(model, projections.width_of(runtime.model), seed)
    return tuple(round(i * theirs / ours) for i in range(ours + 1))


@dataclass(frozen=True)
class Answers:
    """The answers of all teachers in the order and scale of the student's task."""

    task: Task
    teachers: Sequence[Teacher]
    reader: Reader
    tokens_per_batch: int

    def windows(self, labeled: Sequence[Row], unlabeled: Sequence[Row], progress: Progress) -> Iterator[Window]:
        """The student's windows of all rows, labeled ones first, with what the teachers say among the targets."""
        n = len(labeled)
        for start in range(0, n + len(unlabeled), ROWS_AT_ONCE):
            chunk = [(i, labeled[i] if i < n else self.task.placeholder(unlabeled[i - n]))
                     for i in range(start, min(start + ROWS_AT_ONCE, n + len(unlabeled)))]
            windows = [window for i, row in chunk for window in self.task.encode(i, row, self.reader)]
            values = self.of(chunk, windows)
            for k, window in enumerate(windows):
                yield replace(window, target={**window.target, IS_LABELED: int(window.row < n),
                                              **{name: of_field[k] for name, of_field in values.items()}})
            progress.advance(len(chunk))

    def predictions(self, rows: Sequence[Row], windows: WindowStore) -> list[Prediction]:
        """The teachers' own answers to the rows of a part, before any threshold is chosen."""
        blind = [self.task.without_gold(row) for row in rows]
        logits = [line for start in range(0, len(rows), ROWS_AT_ONCE) for line in self.of(
            list(enumerate(blind))[start : start + ROWS_AT_ONCE],
            windows[slice(*windows.of_rows(start, start + ROWS_AT_ONCE))], logits_only=True)[LOGITS]]
        return list(decode(self.task, blind, windows, logits))

    def of(self, chunk: Sequence[tuple[int, Row]], windows: Sequence[Window], logits_only: bool = False) -> Values:
        """What is said of the student's windows of some rows."""
        of_teachers = []
        for teacher in self.teachers:
            read = windows if teacher.reads_ours else [
                window for i, row in chunk for window in teacher.artifact.task.encode(
                    i, self.task.without_gold(row), teacher.artifact.reader)]
            narrowed = replace(teacher, fields=(LOGITS,)) if logits_only else teacher
            values = narrowed.answers(read, self.tokens_per_batch) if read else {name: [] for name in narrowed.fields}
            if LOGITS in values:
                values[LOGITS] = [self.task.from_teacher(teacher.artifact.task, line) for line in values[LOGITS]]
            of_teachers.append(values)
        return {name: [_mean(lines, is_vector=not self.task.n_outputs) for lines in zip(
            *(values[name] for values in of_teachers), strict=True)] for name in of_teachers[0]}


def _mean(lines: Sequence[np.ndarray], is_vector: bool) -> np.ndarray:
    """The mean of several teachers' logits; of vectors, which may differ in width, one whose cosines are the mean."""
    if len(lines) == 1:
        return np.asarray(lines[0], np.float32)
    return np.asarray(np.concatenate(lines, -1) if is_vector else np.mean(lines, 0), np.float32)
