"""The verbs. Read this file first: `fit` is the whole story of a run, from a labelled file to a proven model.

    resolve the Spec -> read and split the rows -> load the backbone, put a head on -> solve the head on frozen
    features -> train, evaluate, stop early, keep the best -> test against the baselines -> save, read back, report
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from .. import tasks
from ..core import files as sealed, machine
from ..data import splits, table as data
from ..features import solve as features
from ..report import page as report
from . import artifact, evidence, resolve as resolving, weights
from ..training import batches, checkpoint as runfolder
from ..models import backbone as backbones
from ..core import spec as specs
from .artifact import Artifact
from ..core.errors import DataError, Problem, RunFolderError, shorten
from ..models.heads import Model, put_on
from ..training.learner import FIRST, Learner
from ..core.method import Method
from ..core.progress import Show
from ..training.signals import Stop, signals
from ..core.scores import Cost, DataCounts, Details, Evaluation, Kept, Scores
from ..core.spec import Origins, Spec
from ..data.splits import Splits
from ..core.task import Task
from ..core.values import LinearMap, Prediction, Window
from ..core.windows import WindowStore, store
from ..features.extract import extract
from ..report.model_card import model_card
from .folder import opened, remove

PARTS = ("train", "validation", "test")


def fit(spec_or_path: str | Path | Mapping[str, Any], *, out: str | Path | None = None, resume: bool = False,
        overwrite: bool = False, show: Show | None = None, layers: Sequence[tuple[str, Mapping[str, Any]]] = (),
        **overrides: Any) -> Artifact:
    """Turn labelled rows into a model that is proven better than what it started from, or is said not to be.

    spec_or_path: a Spec file (.yaml), a data file or source (columns and task are then inferred), or a mapping.
    out:       folder of the artifact; runs/NAME when absent.
    resume:    continue an interrupted run, to the same weights bit for bit.
    overwrite: replace what is at `out`; it stays until the new one is ready.
    layers:    more (origin, values) over the Spec; `overrides` are the last: fit("x.csv", train={"epochs": 2}).

    Returns  the artifact, read back from disk with its golden inputs answered.
    Raises   HeadstartError: SpecError, DataError, ModelError, RunFolderError, DivergenceError, Interrupted ...
    """
    began = time.perf_counter()
    show = show or Show(quiet=True)
    source = [resolving.first_layer(spec_or_path), *layers, (resolving.CALL, overrides)]
    spec, origins, method = resolving.resolve(source)
    final = Path(out) if out is not None else Path("runs") / _name(spec_or_path)
    if resume and final.exists() and not final.with_name(final.name + ".partial").exists():
        show.say(f"{final} is finished already.")
        return artifact.load(final)
    with (signals() as stop, sealed.disk_errors(final),
          opened(final, resume=resume, overwrite=overwrite) as work):
        run = prepare(spec, origins, method, work, stop, show, source)
        remember(run)
        baselines = solve_head(run)
        if run.trains:
            run.learner.learn(run.windows["train"], run.splits.validation.rows, resume=resume)
            if method.keeps_proven and run.learner.kept["what"] == FIRST:
                baselines.pop("frozen-backbone", None)  # the fitted model is this very one
        run.model, run.task = run.learner.finish(run.splits.validation.rows)
        learned = time.perf_counter()
        scores = certify(run, baselines)
        fitted = publish(run, scores, final, began, learned)
    show.end()
    return fitted


@dataclass
class Run:
    """What the stages of one fit hand to each other."""

    spec: Spec
    origins: Origins
    task: Task
    method: Method
    backbone: backbones.Backbone
    model: Model
    splits: Splits
    windows: dict[str, WindowStore]
    learner: Learner
    work: Path
    stop: Stop
    show: Show
    outcomes: np.ndarray | None = None  # of the fitted model on the test rows
    encoded: dict[str, list[list[Window]]] = dataclasses.field(default_factory=dict)  # rows that `decode` looks at

    @property
    def trains(self) -> bool:
        """Whether gradient steps are taken: by every method where the head cannot be solved."""
        return _trains(self.method, self.task)


def _trains(method: Method, task: Task) -> bool:
    return method.trains or not task.is_solvable


def _name(given: str | Path | Mapping[str, Any]) -> str:
    source = given.get("data", {}).get("train", "run") if isinstance(given, Mapping) else str(given)
    return Path(str(source).rpartition(":")[2]).name.split(".")[0] or "run"


def prepare(spec: Spec, origins: Origins, method: Method, work: Path, stop: Stop, show: Show,
            layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Run:
    """Rows read, checked and split; backbone loaded, head on; every row turned to token ids, once."""
    task = tasks.build(spec.task)
    tables = data.read_splits(spec.data, task)
    task.learn(tables["train"].rows)  # complaints about labels speak of the user's file, not of our part of it
    parts = splits.make(tables, spec.data, task, spec.seed)
    task = task.learn(parts.train.rows)
    for name in ("validation", "test"):
        table = getattr(parts, name)
        problems = [Problem(table.where(i), what) for i, what in task.check_gold(table.rows)]
        if problems:
            raise DataError.of(problems, f"Remove these {name} rows, or add train rows with their labels.")
    _tell(parts, show)
    backbone = backbones.load(spec.backbone, spec.data.max_tokens, method.n_extra_tokens)
    model = backbones.build(backbone, task, spec.head.pooling, spec.seed, spec.train.dropout)
    method.prepare(model)
    windows = {}
    for name in PARTS:
        rows = getattr(parts, name).rows
        encoded = (w for i, row in enumerate(rows) for w in task.encode(i, row, backbone.reader))
        windows[name] = store(encoded, work / "windows" / name, backbone.reader.pad_id, task.together)
    inferred = tables["train"].inferred
    chosen = {"epochs": batches.usual_epochs(windows["train"].lengths_N, spec.train.tokens_per_batch)}
    spec, origins = specs.resolve(
        (specs.DEFAULT, {"method": spec.method, "task": spec.task}), (f"task {task.name}", task.defaults),
        (f"method {method.name}", method.defaults),
        (f"inferred from {spec.data.train}", {"data": {"columns": inferred}} if inferred else {}),
        (f"chosen for {len(parts.train):,} rows", {"train": chosen} if _trains(method, task) else {}), *layers)
    _check_same_run(work, spec, origins, parts)
    learner = Learner(spec, task, method, model, backbone.reader, work, stop, show)
    return Run(spec, origins, task, method, backbone, model, parts, windows, learner, work, stop, show)


def _tell(parts: Splits, show: Show) -> None:
    """Say what was found in the data; nothing was skipped, cut or repaired without a count."""
    show.say(", ".join(f"{len(getattr(parts, name).rows):,} {name} rows" for name in PARTS))
    for name, n in parts.counts.items():
        if n and name not in ("n_read", "n_rows"):
            show.say(f"data: {name.removeprefix('n_').replace('_', ' ')}: {n:,}")


def _digest(table: data.Table) -> str:
    """sha256 (hex) of rows in their order."""
    digest = hashlib.sha256()
    for row in table.rows:
        digest.update(json.dumps(row, ensure_ascii=True).encode())
    return digest.hexdigest()


def _check_same_run(work: Path, spec: Spec, origins: Origins, parts: Splits) -> None:
    """A resumed run must ask the same of the same rows; otherwise it would not be one run."""
    asked = {"spec": spec.model_dump(), "rows": {name: _digest(getattr(parts, name)) for name in PARTS}}
    path = work / "asked.json"
    if path.exists():
        before = dict(specs.leaves(json.loads(path.read_text("utf-8"))))
        now = dict(specs.leaves(json.loads(json.dumps(asked))))
        changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        if changed:
            said = "; ".join(f"{key.removeprefix('spec.')} was {shorten(before.get(key))} and is now "
                             f"{shorten(now.get(key))}" for key in changed[:5])
            raise RunFolderError(str(work), f"cannot be resumed: {said}.",
                                 "Resume with the Spec and the data of the interrupted run, or start anew: --overwrite")
    path.write_text(json.dumps(asked), "utf-8")
    (work / "spec.yaml").write_text(specs.to_yaml(spec, origins), "utf-8")


def remember(run: Run) -> None:
    """Compute what the method leaves frozen, once for all epochs, or find that an earlier run did."""
    if run.trains:
        parts = [(windows, np.arange(len(windows))) for windows in run.windows.values()]
        run.learner.forward.remember(parts, run.method.depths(run.model, run.spec.train.epochs or 1),
                                     run.spec.evaluate.tokens_per_batch)


def solve_head(run: Run) -> dict[str, list[Prediction]]:
    """Solve a linear head on frozen features, and put it on if the method wants that.

    Returns the answers to the test rows of the fresh head and of the solved one, for the certificate; {} when neither
    head nor certificate asks for features.
    """
    spec = run.spec
    if not run.task.is_solvable:
        return {"before-training": settled(run, run.learner.answer(run.splits.validation.rows),
                                           run.learner.answer(run.splits.test.rows))} if spec.evaluate.baselines else {}
    if not (run.method.solves_head or spec.evaluate.baselines):
        return {}
    # Features of test rows serve the baselines, and a method that does not train: its answers follow from them.
    parts = PARTS if spec.evaluate.baselines or not run.method.trains else ("train", "validation")
    chosen = {name: np.arange(len(run.windows[name])) for name in parts}
    chosen["train"] = _enough(run)
    forward = run.learner.forward
    with run.method.as_pretrained(run.model):
        forward.remember_features([(run.windows[name], chosen[name]) for name in parts],
                                  spec.evaluate.tokens_per_batch)
        found = {name: _features(run, name, chosen[name]) for name in parts}
    output = run.model.output
    bias = output.bias.detach().cpu().numpy() if output.bias is not None else np.float32(0)
    fresh = LinearMap(output.weight.detach().cpu().numpy(), bias, 0.0)
    solved, answers = _solved_once(run, found, chosen["train"]), {}
    if spec.evaluate.baselines:
        heads = {"before-training": fresh, "frozen-backbone": solved}
        if not run.method.trains:
            heads.pop("frozen-backbone")  # the fitted model is this very one
        for name, head in heads.items():
            answers[name] = settled(run, *(decode(run, part, head(found[part])) for part in ("validation", "test")))
    run.encoded.clear()
    if run.method.solves_head:
        put_on(output, solved)
    if run.method.solves_again:

        def again() -> None:
            now = {name: _features(run, name, chosen[name]) for name in ("train", "validation")}
            put_on(run.model.output, _solved(run, now, chosen["train"]))

        run.learner.solve_head_again = again
    return answers


def _enough(run: Run) -> np.ndarray:
    """The numbers of the train windows that the head is solved on."""
    train = run.windows["train"]
    if run.model.per_token:
        return features.enough(train.lengths_N, None, run.spec.seed)
    return features.enough(np.ones(len(train), np.int64), run.task.classes(train.targets()), run.spec.seed)


def _features(run: Run, part: str, chosen: np.ndarray) -> np.ndarray:
    """What flows into the last linear layer now, for the chosen windows of `part`."""
    run.show.begin(f"features of {part} rows", len(chosen), "rows")
    return extract(run.learner.forward.features, run.model.output.in_features, run.windows[part], chosen,
                            run.work / f"features-{part}.bin", each=run.show.advance, per_token=run.model.per_token,
                            tokens_per_batch=run.spec.evaluate.tokens_per_batch)


def _solved(run: Run, found: Mapping[str, np.ndarray], chosen: np.ndarray) -> LinearMap:
    """The head that scores best on validation of those solved on train features."""
    task, rows = run.task, run.splits.validation.rows

    def score(head: LinearMap) -> float:
        answers = decode(run, "validation", head(found["validation"]))
        return task.score(task.outcomes(settled(run, answers, answers), rows))[task.metric]

    return task.solve(found["train"], run.windows["train"].targets(chosen), score, run.spec.train.class_weights)


def _solved_once(run: Run, found: Mapping[str, np.ndarray], chosen: np.ndarray) -> LinearMap:
    """The same, or what an earlier run solved for the same numbers."""
    if run.spec.cache == "off":
        return _solved(run, found, chosen)
    targets = run.windows["train"].targets(chosen)
    words = [run.task, run.spec.train.class_weights, _digest(run.splits.validation), list(targets)]
    numbers = [found["train"], found["validation"], *targets.values()]
    return features.once(repr(words), numbers, run.model.output.in_features, lambda: _solved(run, found, chosen),
                         run.show)


def settled(run: Run, validation: Sequence[Prediction], answers: Sequence[Prediction]) -> list[Prediction]:
    """`answers` with what can be tuned on the same model's answers to the validation rows tuned."""
    task = run.task.tune(validation, run.splits.validation.rows)
    return [task.settle(answer) for answer in answers]


def decode(run: Run, part: str, logits: np.ndarray) -> list[Prediction]:
    """The answers that logits of windows of `part` mean, a line a window or, from heads that read tokens, a token."""
    rows, windows = getattr(run.splits, part).rows, run.windows[part]
    ends_N = np.cumsum(windows.lengths_N) if run.model.per_token else np.arange(1, len(windows) + 1)
    of_window = np.split(logits, ends_N[:-1]) if run.model.per_token else list(logits)
    starts = np.searchsorted(windows.rows_N, np.arange(len(rows) + 1))
    if run.task.needs_windows and part not in run.encoded:  # heads of several strengths are compared: encode once
        run.encoded[part] = [run.task.encode(i, row, run.backbone.reader) for i, row in enumerate(rows)]
    encoded = run.encoded.get(part)
    return [run.task.decode(row, encoded[i] if encoded else (), of_window[starts[i] : starts[i + 1]])
            for i, row in enumerate(rows)]


def certify(run: Run, baselines: dict[str, list[Prediction]]) -> Scores:
    """Test the fitted model and everything it must beat on the same rows: the heart of scores.json."""
    spec, task, rows = run.spec, run.task, run.splits.test.rows
    run.show.begin("test", len(rows), "rows")
    fitted = run.learner.answer(rows)
    run.outcomes = task.outcomes(fitted, rows)
    answers: dict[str, list[Prediction]] = {}
    if spec.evaluate.baselines:
        run.show.begin("baselines", 1, "")
        answers = dict(task.baselines(run.splits.train.rows, run.splits.validation.rows, rows, spec.seed)) | baselines
    scores = evidence.certify(task, rows, fitted, answers, method=run.method.name,
                              n_resamples=spec.evaluate.n_resamples, seed=spec.seed)
    n_cut_N = {part: run.windows[part].n_cut_of_rows(len(getattr(run.splits, part).rows)) for part in ("train", "test")}
    n_tokens = {part: int(run.windows[part].lengths_N.sum()) for part in n_cut_N}
    truncation = evidence.truncation(task, fitted, rows, run.backbone.reader.max_tokens, n_cut_N, n_tokens)
    return dataclasses.replace(scores, details=Details.from_json(task.details(fitted, rows)), truncation=truncation)


def publish(run: Run, scores: Scores, final: Path, began: float, learned: float) -> Artifact:
    """Write the artifact whole or not at all; its scores hold where it came from and what it cost.

    Returns  what was written, read back.
    """
    spec, parts, learner = run.spec, run.splits, run.learner
    cost = Cost(**learner.cost(run.windows["train"]), model_seconds=learned - began,
                total_seconds=time.perf_counter() - began)
    scores = dataclasses.replace(
        scores, task=run.task.name, backbone=spec.backbone, method=run.method.name,
        base_model=backbones.hub_id(spec.backbone), head=spec.head.model_dump(),
        curve=[Evaluation(**entry) for entry in learner.progress.curve],
        kept=Kept(**learner.kept) if learner.kept else None,
        data=DataCounts(spec.data.train, parts.counts, len(parts.train), len(parts.validation), len(parts.test)),
        machine=machine.describe(learner.device), versions=machine.versions(), spec_sha256=spec.identity(),
        backbone_sha256=run.backbone.sha256, created=datetime.now(UTC).isoformat(timespec="seconds"))
    steps = run.work / "steps.jsonl"
    spec_yaml = specs.to_yaml(spec, run.origins)
    with sealed.writing(final) as folder:
        golden = parts.validation.rows[: artifact.N_GOLDEN]
        weights.save(folder, run.model, run.task, run.backbone, golden, run.method.stores_backbone)
        n_bytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        scores = dataclasses.replace(scores, cost=dataclasses.replace(cost, artifact_bytes=n_bytes))
        for name, text in {"scores.json": json.dumps(scores.to_json(), ensure_ascii=False, indent=1),
                           "spec.yaml": spec_yaml,
                           "steps.jsonl": steps.read_text("utf-8") if steps.exists() else "",
                           "README.md": model_card(scores, spec_yaml)}.items():
            (folder / name).write_text(text, "utf-8")
        in_source_order = np.argsort(parts.test.lines_N, kind="stable")  # so that runs with other seeds line up
        np.save(folder / "outcomes.npy", np.asarray(run.outcomes)[in_source_order], allow_pickle=False)
        sealed.seal(folder)
        fitted = artifact.load(folder, "cpu")  # what was written is read back and asked again before anyone sees it
    report.write(final)
    remove(run.work)
    return dataclasses.replace(fitted, folder=final) if learner.device.type == "cpu" else artifact.load(final)
