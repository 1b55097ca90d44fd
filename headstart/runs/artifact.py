"""The folder of a finished run: it answers, it can be checked, and it never changes.

    model.safetensors, config.json, tokenizer.json ...   what a Hugging Face user expects; loads with AutoModel
    head.safetensors                                     the head's weights, when it is ours (pooling is not native)
    adapter/                                             what was learned beside unchanged weights of the backbone; then
                                                         model.safetensors is the backbone's own, or left out
    task.json, spec.yaml                                 the task with its labels, and the run's every setting
    scores.json, steps.jsonl, README.md                  the certificate, the training log, the model card
    outcomes.npy                                         gold and answer of each test row as numbers, in the source's
                                                         order: what paired tests between runs read
    golden.jsonl                                         ten inputs with their answers, re-answered at every load
    MANIFEST.json                                        sha256 of each of the above
    report.html, report.md                               may be written again at any time

An exported run (exporters/export.py) answers without torch. In the place of weights and Spec it has

    model.onnx, tokenizer.json                           the whole model, head and adapter included
    export.json                                          its graphs and their files, how it reads text, its Spec, and
                                                         what the parity gate measured

An ensemble (ensemble_folder.py) has ensemble.json and the folders of its members, whole, in the place of weights and
Spec.

Nothing here imports torch: weights.py does, where the folder is not an exported one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from .. import tasks
from ..core import manifest, statistics, writing
from ..core.errors import ArtifactError, DataError, Problem, shorten
from ..core.predict import is_close, predict
from ..core.reader import Reader
from ..core.scores import Scores
from ..core.spec import Spec, read_spec, resolve_layers
from ..core.task import Task
from ..core.untrusted import instance, parse_json, read_json, read_text
from ..core.values import Prediction, Row, Runtime
from ..data.columns import Gold
from ..data.frames import open_frame, row_of, rows_of
from ..data.table import stream_rows
from ..readers.text import TextReader
from ..readers.tokenizer import read_tokenizer
from . import runtime

N_GOLDEN, N_GOLDEN_TEXTS = 10, 2  # a text takes a second to write, and every load writes it again
GOLDEN_TOLERANCE = 1e-3  # of a score, between machines; on one machine answers are equal to the last bit
MAX_TOLERANCE = 1e-2  # of an export in 8 bits
MAX_GOLDEN_BYTES = 50_000_000  # ten rows of a million characters each
EXPORT, ENSEMBLE = "export.json", "ensemble.json"
# What headstart writes. Nothing that Python imports or unpickles, whatever a manifest says.
KINDS = (".json", ".jsonl", ".yaml", ".txt", ".md", ".npy", ".safetensors", ".onnx")
FORMER_GRAPHS = {"model": {"file": "model.onnx"}}  # of a folder that was exported before export.json listed them
GRAPH_FILE = re.compile(r"[a-z][a-z0-9_-]*\.onnx")


@dataclass(frozen=True)
class Artifact:
    """A loaded run: `predict` and `evaluate` are all that most users need.

    scores: what scores.json holds, as it stands there: artifact.scores["score"]. `certificate` has the same, typed.
    """

    folder: Path
    task: Task
    spec: Spec
    reader: Reader
    runtime: Runtime
    scores: dict[str, Any]

    @property
    def certificate(self) -> Scores:
        """What the run proved, typed. Raises ArtifactError when scores.json lacks what a certificate has."""
        return Scores.from_json(self.scores, str(self.folder / "scores.json"))

    def predict(self, texts_or_rows: Any) -> list[Prediction]:
        """One answer a row, in order.

        texts_or_rows: texts, or mappings with the task's columns; or a data frame of pandas or polars, whose columns
                       are looked for as those of a file. One text or one mapping alone is one row: [answer].
        """
        return list(self.stream(texts_or_rows))

    def stream(self, texts_or_rows: Any) -> Iterator[Prediction]:
        """`predict` for more rows than memory holds: answers come while rows are read."""
        from .judge import judge_of  # it is an artifact itself

        yield from predict(self.task, self._rows(texts_or_rows, "ignored"), self.reader, self.runtime,
                           tokens_per_batch=self.spec.evaluate.tokens_per_batch,
                           judge=judge_of(self.task))

    def evaluate(self, rows: Any, seed: int | None = None) -> dict[str, Any]:
        """All scores on labelled `rows`, mappings or a data frame, with an interval of the task's own metric.

        seed: of the bootstrap; the run's own when absent.
        """
        rows = list(self._rows(rows, "required"))
        if not rows:
            raise DataError("evaluate", "got no rows; a score needs at least one.",
                            "Name a file that has labelled rows.")
        self.check_gold(rows)
        blind = [self.task.without_gold(row) for row in rows]
        outcomes = self.task.outcomes(self.predict(blind), rows)
        metric = self.task.metric
        scored = statistics.paired(self.task, [outcomes], self.spec.evaluate.n_resamples,
                                   self.spec.seed if seed is None else seed)
        scores = self.task.score(outcomes)
        return {"metric": metric, "score": scores[metric], "interval": list(scored.interval(0)),
                "n": len(rows), "scores": scores}

    def outcomes(self) -> dict[str, np.ndarray]:
        """Of the test rows in the source's order, by system: "fitted" and, in artifacts that have them, the baselines.

        Two of them give a paired gain: `statistics.paired(task, [a, b], ...).difference(0, 1)`, with the
        certificate's n_folds.
        """
        saved: np.ndarray = np.load(self.folder / "outcomes.npy", allow_pickle=False)
        names = self.certificate.outcomes_of
        if len(names) < 2:
            return {"fitted": saved}
        return {name: part[:, 0] if part.shape[1] == 1 else part
                for name, part in zip(names, np.split(saved, len(names), axis=1), strict=True)}

    def check_gold(self, rows: Sequence[Row]) -> None:
        """Raise DataError for rows whose gold this artifact cannot mean, such as a label never seen."""
        problems = [Problem(f"row {i + 1}", what) for i, what in self.task.check_gold(rows)]
        if problems:
            known = ", ".join(getattr(self.task, "labels", ()))[:300]
            raise DataError.of(problems, f"This artifact knows: {known}" if known else "Leave these rows out, or give "
                               "them what is missing.")

    def _rows(self, values: Any, gold: Gold) -> Iterator[Row]:
        """What a caller holds as rows that the task takes: normalized and checked as those of a file are."""
        if frame := open_frame(values):
            data = self.spec.data.model_copy(update={"errors": "strict"})  # a row that is left out would shift answers
            reading = stream_rows("data frame", data, self.task, gold=gold, lenient=True, opened=frame)
            yield from (row for _, row in (reading if len(values) else ()))
            return
        columns = self.task.columns
        required = columns.required_inputs if gold == "ignored" else tuple(columns.required)
        for i, value in enumerate(rows_of(values, columns.inputs), 1):
            row = row_of(value, f"row {i}")
            if gold == "ignored":
                row = self.task.without_gold(row)
            if self.spec.data.normalize_labels:
                row |= {column: row[column].strip().casefold() for column in columns.gold
                        if isinstance(row.get(column), str)}
            row, _ = self.task.normalized(row)
            missing = [column for column in required if column not in row]
            if what := f"has no {', '.join(map(shorten, missing))}" if missing else self.task.check(row):
                raise DataError(f"row {i}", f"{what}.", f"Task \"{self.task.name}\" reads: " + ", ".join(
                    f"{c} ({columns.rules[c]})" for c in required or columns.inputs))
            yield row

    def _repr_html_(self) -> str:
        from ..report.page import html_summary  # a notebook asks for a picture; nothing else here knows the report

        return html_summary(self.certificate)


def load(folder: str | Path, device: str | None = None, n_threads: int | None = None,
         precision: str | None = None) -> Artifact:
    """Open a finished run, or an exported one. Its hashes are checked and its golden inputs answered again first.

    device:    "cpu", "cuda", ...; the best there is when absent. An exported run answers on the CPU.
    n_threads: that an exported run computes with; as many as the process may use when absent.
    precision: "auto", "fp32", "bf16" or "fp16" in place of the Spec's; 32 bits where this machine has not got it. An
               exported run has its own.
    Raises  ArtifactError when anything is missing, damaged, or does not answer as it did.
    """
    folder = Path(folder)
    if not folder.is_dir():
        unfinished = folder.with_name(folder.name + ".partial").exists()
        what = "is not a run's folder" + ("; its run was not finished." if unfinished else ".")
        raise ArtifactError(str(folder), what,
                            "Finish it with the same headstart fit command and --resume." if unfinished
                            else "Make one: headstart fit DATA --out FOLDER")
    check_seal(folder)
    return read_back(folder, device, n_threads, precision)


def check_seal(folder: Path) -> None:
    """Raise ArtifactError unless what lies in `folder` is what was sealed, and nothing that Python runs."""
    problems = manifest.verify(folder)
    if problems:
        raise ArtifactError(str(folder), "; ".join(problems[:10]) + ".", "Copy the folder again, or fit it again. "
                            f"Beside what is sealed may lie: {', '.join(manifest.FREE)}.")
    foreign = [name for name in manifest.read_manifest(folder) if PurePosixPath(name).suffix not in KINDS
               and not manifest.is_free(name)]
    if foreign:
        raise ArtifactError(str(folder), f"holds {shorten(foreign[0])}, a kind of file that headstart does not write.",
                            "Take the folder from where it was made.")


def read_back(folder: Path, device: str | None = None, n_threads: int | None = None,
              precision: str | None = None) -> Artifact:
    """`load` for a folder whose hashes this process has just written or checked: they are not computed again.

    Hashes say that a file is as it was written, not by whom: what each one says is checked before it is used.
    """
    task = read_task(folder)
    scores, inputs = read_json(folder / "scores.json", ArtifactError), golden(folder)
    Scores.from_json(scores, str(folder / "scores.json"))
    if (folder / ENSEMBLE).exists():
        from . import ensemble_folder  # it reads its members by this very function

        together = ensemble_folder.opened(folder, task, scores, device, n_threads, precision)
        _answer_golden(together.artifact, inputs, together.tolerance)
        return together.artifact
    if (folder / EXPORT).exists():
        facts = _exported(folder)
        if device not in (None, "cpu"):
            raise ArtifactError(str(folder), f"is exported and answers on the CPU, not on {shorten(device)}.",
                                "Load the run that it was exported from.")
        opened = runtime.open_runtime(_graph_files(folder), n_threads, task.head)
        artifact = Artifact(folder, task, facts.spec, _reader(folder, facts.reader), opened, scores)
        seconds, n_bytes = _limits(artifact, inputs)
        with runtime.limited(opened, seconds, n_bytes) as bounded:
            _answer_golden(replace(artifact, runtime=bounded), inputs, facts.tolerance)
        return artifact
    from . import weights  # torch

    spec, _ = resolve_layers((str(folder / "spec.yaml"), read_spec(folder / "spec.yaml")))
    reader, answer = weights.runtime(folder, task, spec, device)
    artifact = Artifact(folder, task, spec, reader, answer, scores)
    _answer_golden(artifact, inputs, GOLDEN_TOLERANCE)  # in 32 bits, as they were answered when it was made
    return replace(artifact, runtime=weights.in_precision(answer, precision or spec.train.precision, spec.cache))


@dataclass(frozen=True)
class _ReaderFacts:
    max_tokens: Annotated[int, Field(ge=4, le=1_000_000)]
    pad_id: Annotated[int, Field(ge=0)]
    has_types: bool = False


@dataclass(frozen=True)
class _Exported:
    """What of export.json decides how the artifact answers."""

    format: Literal[1]
    reader: _ReaderFacts
    spec: Spec
    tolerance: Annotated[float, Field(ge=0, le=MAX_TOLERANCE)]


def _exported(folder: Path) -> _Exported:
    return instance(_Exported, export_facts(folder), str(folder / EXPORT), ArtifactError)


def _reader(folder: Path, facts: _ReaderFacts) -> Reader:
    tokenizer = read_tokenizer(folder / "tokenizer.json", None, ArtifactError)  # the graph's own ids are not known
    return TextReader(tokenizer, facts.max_tokens, facts.pad_id, facts.has_types)


def export_facts(folder: Path) -> dict[str, Any]:
    """What export.json of an exported run holds, as it stands there."""
    return read_json(folder / EXPORT, ArtifactError)


def _graph_files(folder: Path) -> dict[str, Path]:
    """The file of each graph. Raises ArtifactError for one that the manifest does not hold, or that leads elsewhere."""
    graphs = export_facts(folder).get("graphs", FORMER_GRAPHS)
    hashes = manifest.read_manifest(folder)
    names: dict[str, str] = {}
    if isinstance(graphs, dict) and all(isinstance(graph, dict) for graph in graphs.values()):
        names = {name: str(graph.get("file")) for name, graph in graphs.items()}
    if "model" not in names or not all(GRAPH_FILE.fullmatch(file) and file in hashes for file in names.values()):
        raise ArtifactError(str(folder / EXPORT), f"lists graphs that cannot be opened: {shorten(graphs)}; "
                            f"\"model\" is one, and each a file of this folder that {manifest.MANIFEST} holds.",
                            "Export the run again.")
    return {name: folder / file for name, file in names.items()}


def _limits(artifact: Artifact, inputs: Sequence[Mapping[str, Any]]) -> tuple[float, int]:
    """Seconds and bytes that no honest model needs to answer its golden inputs.

    A large encoder takes a tenth of the seconds on a slow core; 256 bytes for each two tokens of a window are 64 heads.
    """
    n_chars = sum(len(json.dumps(entry["row"], ensure_ascii=False)) for entry in inputs)
    longest = min(artifact.reader.max_tokens, n_chars)
    n_bytes = (1 << 31) + 256 * longest * max(longest, artifact.spec.evaluate.tokens_per_batch)
    return 60 + 0.1 * n_chars, min(n_bytes, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def read_task(folder: Path) -> Task:
    """The task in task.json. Raises ArtifactError for one that headstart does not write."""
    where = str(folder / "task.json")
    described = read_json(folder / "task.json", ArtifactError)
    if described.get("format") != manifest.FORMAT:
        raise ArtifactError(where, f"has format {shorten(described.get('format'))}; this version reads "
                            f"{manifest.FORMAT}.",
                            "Use the version of headstart that wrote it (versions in scores.json).")
    return tasks.restore(described.get("name"), described.get("fields"), where)


def write_task(folder: Path, task: Task) -> None:
    """The task with all that it learned, as task.json."""
    described = {"format": manifest.FORMAT, "name": task.name, "fields": asdict(task)}  # type: ignore[call-overload]
    (folder / "task.json").write_text(json.dumps(described, ensure_ascii=False, indent=1), "utf-8")


def write_golden(folder: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """golden.jsonl; each entry as `golden` reads it."""
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    (folder / "golden.jsonl").write_text(lines, "utf-8")


def golden(folder: Path) -> list[dict[str, Any]]:
    """The artifact's own inputs, each {"row": ..., "prediction": ...}; there is one at least."""
    path, fix = folder / "golden.jsonl", "Copy the folder again, or make it again."
    lines = read_text(path, ArtifactError, MAX_GOLDEN_BYTES).split("\n")
    entries = [parse_json(line, f"{path}:{i}", ArtifactError) for i, line in enumerate(lines, 1) if line.strip()]
    for i, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), dict) for key in ("row", "prediction")):
            raise ArtifactError(str(path), f"input {i} is {shorten(entry)}; each has a row and its prediction.", fix)
    if not entries:
        raise ArtifactError(str(path), "holds no inputs: nothing proves that this folder answers as it did.", fix)
    return entries


def _answer_golden(artifact: Artifact, inputs: Sequence[Mapping[str, Any]], tolerance: float) -> None:
    """Raise ArtifactError when a golden input is not answered as it was when the artifact was made."""
    try:
        # Without a judge, which answers for itself: a run can be opened where its judge is not at hand.
        answers = list(predict(artifact.task, artifact._rows([entry["row"] for entry in inputs], "ignored"),
                               artifact.reader, artifact.runtime,
                               tokens_per_batch=artifact.spec.evaluate.tokens_per_batch))
    except DataError as error:
        raise ArtifactError(str(artifact.folder / "golden.jsonl"), f"{error.where}: {error.what}",
                            "Copy the folder again, or make it again.") from None
    for i, (entry, answer) in enumerate(zip(inputs, answers, strict=True)):
        if not is_close(entry["prediction"], answer, tolerance) and not (
                artifact.task.generation is not None and _is_as_likely(artifact, entry)):
            raise ArtifactError(str(artifact.folder), f"golden input {i + 1} was answered "
                                f"{shorten(entry['prediction'])} and is now answered {shorten(answer)}.",
                                "Versions differ from those in scores.json, or the machine computes wrongly.")


def _is_as_likely(artifact: Artifact, entry: Mapping[str, Any]) -> bool:
    """Whether each token of a golden text is as likely as it was: where two are nearly equally so, rounding chooses."""
    ids, before = entry.get("ids"), entry.get("log_probabilities")
    n_ids = artifact.reader.n_ids
    if not isinstance(ids, list) or not isinstance(before, list) or len(ids) != len(before) or not all(
            type(i) is int and 0 <= i < n_ids for i in ids) or not ids:
        return False
    now = writing.log_probabilities(artifact.task, entry["row"], ids, artifact.reader, artifact.runtime)
    return is_close(before, now, GOLDEN_TOLERANCE)
