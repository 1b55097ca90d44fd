"""Reading on: a backbone reads texts without labels before it sees a label, and says what that was worth.

    texts -> split -> the objective's windows -> the loop -> held-out texts before and after -> what it forgot, what it
    gained downstream -> a folder that is a backbone like any other, with its certificate

It trains by the one loop: an objective is a Task (tasks/objectives), and pairs of texts are rows of
sentence-similarity.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import methods, tasks
from ..core import files, machine, manifest
from ..core.errors import DataError, RunFolderError, SpecError, nearest, shorten
from ..core.files import write_file
from ..core.model import Model
from ..core.outputs import LOCK, clear_work
from ..core.progress import Progress
from ..core.reader import Reader
from ..core.registry import build
from ..core.scores import Cost, DataCounts, Downstream, Evaluation, Scores
from ..core.spec import DEFAULT, Origins, Spec, resolve_layers, to_yaml
from ..core.task import Task
from ..core.untrusted import read_json
from ..core.values import Row, Window
from ..core.windows import WindowStore, store
from ..data import columns, crops, duplicates, splits
from ..data.splits import Splits
from ..data.table import Table, read_splits
from ..features.forward import CachedForward
from ..features.store import folder_if_kept
from ..models import adapters, precision
from ..models.backbone import Backbone, build_masked_model, build_model, hub_id, load_backbone
from ..models.device import to_device
from ..models.masked import MaskedModel, solve_head
from ..report.page import write as write_report
from ..tasks.objectives import CausalLanguage, MaskedLanguage, Objective
from ..training import batches
from ..training.evaluator import Evaluator
from ..training.head import HeadSolver
from ..training.job import Job, accelerator
from ..training.learner import Learner
from ..training.signals import Stop, signals
from . import downstream, evidence, weights
from .folder import opened, remove, work_of
from .request import check_same, request

OBJECTIVES: dict[str, type[Objective]] = {"masked": MaskedLanguage, "causal": CausalLanguage}
CONTRASTIVE = "contrastive"
NAMES = (*OBJECTIVES, CONTRASTIVE)
TEXT_DEFAULTS: dict[str, Any] = {
    "data": {"max_tokens": 128, "validation_limit": 500, "test_limit": 1000},
    "method": {"name": "fine-tuning", "head_first": False, "average": "none"},
    "train": {"epochs": 1, "lr": 5e-5, "tokens_per_batch": 2048, "tokens_per_micro_batch": 1024, "label_smoothing": 0.0,
              "dropout": None, "evaluations_per_epoch": 2, "patience": 100},
    "evaluate": {"tokens_per_batch": 2048}}
CONTRASTIVE_DEFAULTS: dict[str, Any] = {"train": {"lr": 2e-5, "tokens_per_micro_batch": None}}
SOLVE_TOKENS = 20_000  # hidden words that a head is solved on
WORDS = ("reads on better", "negative transfer")
MIN_TEXTS = 30  # of fewer nothing can be held out that tells a difference


@dataclass(frozen=True)
class Pretrained:
    """A backbone that read on. folder: what --backbone takes."""

    folder: Path
    scores: Scores


def pretrain(texts: str | Path, *, backbone: str, objective: str, out: str | Path, probe: str | None = None,
             proof: str | None = None, pairs: str = "same", resume: bool = False, overwrite: bool = False,
             progress: Progress | None = None, layers: Sequence[tuple[str, Mapping[str, Any]]] = ()) -> Pretrained:
    """Let a backbone read texts without labels; prove what that changed.

    texts:     a file or another source of texts; labels in it are never read.
    objective: "masked" (hidden words), "causal" (each next token) or "contrastive" (texts against others).
    out:       folder of the new backbone.
    probe:     a Spec or a labeled file: what a linear probe on frozen features loses or gains, so what was forgotten.
    proof:     the same, fitted by its own method: the gain that reading on was for. The verdict is then of this one.
    pairs:     of contrastive: "same" text twice, "crops" of it, or "neighbors" in it.

    Returns  the new backbone's folder, and what is known of it.
    Raises   HeadstartError. Interrupted runs go on with `resume`, to the same weights bit for bit.
    """
    began, final, progress = time.perf_counter(), Path(out), progress or Progress(quiet=True)
    spec, origins = _spec(str(texts), backbone, objective, layers)
    if pairs not in crops.KINDS:
        raise SpecError("--pairs", f"{shorten(pairs)} is none; {nearest(pairs, crops.KINDS)}", "Correct the name.")
    tested = [text for source in (probe, proof) if source is not None for text in downstream.test_texts(source)]
    if resume and final.exists() and not work_of(final).exists():
        return _finished_already(final, spec, progress)
    inputs = [name for name in (str(texts), backbone, probe, proof) if name]
    with (signals() as stop, files.disk_errors(final),
          opened(final, inputs, resume=resume, overwrite=overwrite) as work):
        clear_work(work, ("windows",), keep=(LOCK,))
        job = _prepare(spec, origins, work, stop, progress, pairs, tested)
        _solve(job)
        before = _outcomes(job)
        learner = Learner(job, Evaluator(job), HeadSolver(job, Evaluator(job)))
        learner.learn(resume=resume)
        job = dataclasses.replace(job, model=job.method.finish(job.model))
        _solve(job)
        scores = _certify(job, _outcomes(job), before)
        made = _publish(job, learner, scores, (probe, proof), final, overwrite or resume, began)
    progress.end()
    return made


def _finished_already(final: Path, spec: Spec, progress: Progress) -> Pretrained:
    """The backbone that is there, which is to be the one that is asked for."""
    scores = Scores.from_json(read_json(final / "scores.json", RunFolderError), str(final / "scores.json"))
    if scores.spec_sha256 != spec.identity():
        raise RunFolderError(str(final), "is finished already, and of another Spec.",
                             "Choose another --out, or replace it: --overwrite")
    progress.say(f"{final} is finished already.")
    return Pretrained(final, scores)


def _spec(texts: str, backbone: str, objective: str, layers: Sequence[tuple[str, Mapping[str, Any]]],
          ) -> tuple[Spec, Origins]:
    """The resolved Spec. Raises SpecError for an objective that is none."""
    if objective not in NAMES:
        raise SpecError("--objective", f"{shorten(objective)} is none; {nearest(objective, NAMES)}",
                        "Correct the name.")
    kind = [(f"objective {objective}", CONTRASTIVE_DEFAULTS)] if objective == CONTRASTIVE else []
    ours = {"data": {"train": texts}, "backbone": backbone, "task": {"name": objective}}
    named = [("texts without labels", TEXT_DEFAULTS), *kind, ("pretrain", ours), *layers]
    method = methods.build(resolve_layers(*named)[0].method)
    return resolve_layers((DEFAULT, {"method": methods.options_of(method)}),
                          (f"method {method.name}", method.defaults), *named)


def _prepare(spec: Spec, origins: Origins, work: Path, stop: Stop, progress: Progress, pairs: str,
             tested: Sequence[str]) -> Job:
    """Texts read and split, the backbone with what answers the objective, every text turned to windows.

    tested: texts that stand in test rows of a probe or a proof: these, and near twins, are not read.
    """
    name = spec.task["name"]
    reads = build(OBJECTIVES.get(name, CausalLanguage), {k: v for k, v in spec.task.items() if k != "name"}, "task",
                  OBJECTIVES.get(name, CausalLanguage).options)
    parts = splits.make(_read(spec, reads, tested, progress), spec.data, reads, spec.seed)
    _check_texts(parts, spec)
    backbone = load_backbone(spec.backbone.name, spec.data.max_tokens)
    task, parts, model = _asked(name, reads, parts, backbone, spec, pairs)
    method = methods.build(spec.method)
    method.prepare(model)
    windows = _windows(task, parts, backbone.reader, work / "windows", spec.seed)
    _check_windows(windows, parts, spec)
    progress.say(", ".join(f"{len(windows[part]):,} windows of {len(getattr(parts, part)):,} {part} texts"
                           for part in windows))
    accelerate = accelerator(spec.train.precision)
    precision.put_in(model, spec.train.precision, accelerate.device, folder_if_kept(spec.cache))
    now = request(spec, parts, backbone, model.precision, accelerate.device)
    check_same(work, now)
    write_file(work / "spec.yaml", [to_yaml(spec, origins)])
    model.to(accelerate.device)
    forward = CachedForward(model, accelerate.device, "off", progress)  # masks differ each time
    return Job(spec, origins, task, method, backbone, model, forward, parts, windows, accelerate, work, now.identity,
               stop, progress)


def _read(spec: Spec, reads: Objective, tested: Sequence[str], progress: Progress) -> dict[str, Table]:
    """The texts, without those that are tested on later; what is left out, and what is not read, is said."""
    tables = {}
    for part, table in read_splits(spec.data, reads).items():
        texts = [row["text"] for row in table.rows]
        group_N = duplicates.groups([*texts, *tested], spec.data.near_duplicate)
        kept = np.flatnonzero(~np.isin(group_N[: len(texts)], group_N[len(texts):]))
        if n_out := len(texts) - len(kept):
            progress.say(f"data: {n_out:,} of {len(texts):,} {part} texts stand in test rows, or nearly so: left out")
        left = table.take(kept)
        tables[part] = dataclasses.replace(left, counts={**left.counts, "n_texts_of_test_rows": n_out})
    with suppress(DataError):  # a source without columns has no others
        others = set(columns.sample(spec.data, 1)[0]) - set(tables["train"].columns.values())
        if others:
            progress.say(f"data: never read: {', '.join(map(shorten, sorted(others)[:10]))}")
    return tables


def _check_texts(parts: Splits, spec: Spec) -> None:
    n = len(parts.train) + len(parts.validation) + len(parts.test)
    if n < MIN_TEXTS:
        raise DataError(spec.data.train, f"has {n:,} texts; reading on takes {MIN_TEXTS} at least, some of which are "
                        "held out.", "Add texts, one a line or a row.")


def _asked(name: str, reads: Objective, parts: Splits, backbone: Backbone, spec: Spec,
           pairs: str) -> tuple[Task, Splits, Model]:
    """(the task, its rows, the model) of an objective."""
    if name == CONTRASTIVE:
        parts = _paired(parts, pairs, spec)
        task = tasks.build({"name": "sentence-similarity"}).learn(parts.train.rows)
        model = build_model(backbone, task, spec.head.pooling, spec.seed, spec.train.dropout)
        if pairs == "same" and not any(isinstance(m, torch.nn.Dropout) and m.p for m in model.modules()):
            raise SpecError("--pairs", '"same" tells a text from itself by dropout, and this backbone has none.',
                            "Give it some: --set train.dropout=0.1, or use --pairs crops")
        return task, parts, model
    reads = reads.fitted_to(backbone.reader, lambda: None)
    if name == "masked":
        return reads, parts, build_masked_model(backbone, spec.seed, spec.train.dropout)
    return reads, parts, build_model(backbone, reads, spec.head.pooling, spec.seed, spec.train.dropout)


def _paired(parts: Splits, how: str, spec: Spec) -> Splits:
    """Texts as pairs. Those that are held out are always crops: the same text twice would be found by anyone."""
    tables = {}
    for part in ("train", "validation", "test"):
        table = getattr(parts, part)
        texts = [row["text"] for row in table.rows]
        rows = list(crops.pairs(texts, how if part == "train" else "crops", spec.seed))
        if not rows:
            raise DataError(spec.data.train, f"holds no {part} text of {crops.MIN_WORDS} words, of which a pair could "
                            "be made.", "Give longer texts, or use --objective masked.")
        tables[part] = dataclasses.replace(table, rows=rows, lines_N=np.arange(len(rows)))
    return dataclasses.replace(parts, **tables, is_seen_N=np.zeros(len(tables["test"].rows), bool), fold_N={})


def _windows(task: Task, parts: Splits, reader: Reader, folder: Path, seed: int) -> dict[str, WindowStore]:
    """Windows of each part; of held-out texts the same question each time."""
    def of(part: int, i: int, row: Row) -> list[Window]:
        windows = task.encode(i, row, reader)
        if not part or not isinstance(task, Objective):
            return windows
        return [task.for_test(window, reader.pad_id, (seed, part, i, k)) for k, window in enumerate(windows)]

    return {name: store((w for i, row in enumerate(getattr(parts, name).rows) for w in of(part, i, row)),
                        folder / name, reader.pad_id, task.keeps_rows_whole, with_notes=task.needs_windows and part > 0)
            for part, name in enumerate(("train", "validation", "test"))}


def _check_windows(windows: Mapping[str, WindowStore], parts: Splits, spec: Spec) -> None:
    for part, of_part in windows.items():
        if not len(of_part):
            raise DataError(spec.data.train, f"holds no {part} text that is long enough to ask anything of: "
                            f"{len(getattr(parts, part)):,} texts gave no window.",
                            "Give longer texts: whole sentences, not single words.")


def _solve(job: Job) -> None:
    """Where words are hidden: solve the head on what the encoder computes now, on the same words each time."""
    if not isinstance(job.model, MaskedModel):
        return
    windows, rng, n, hidden = job.windows["train"], np.random.default_rng((job.spec.seed, 0)), 0, []
    gold = []
    for chosen in batches.epoch(windows, job.spec.train.tokens_per_micro_batch or 1024, job.spec.seed, 0):
        batch = job.task.corrupt(windows.batch(chosen), rng)
        hidden.append(to_device(batch.inputs, job.device))
        labels = torch.from_numpy(batch.target["labels"])
        gold.append(labels[labels >= 0].to(job.device))
        n += len(gold[-1])
        if n >= SOLVE_TOKENS:
            break
    solve_head(job.model, hidden, gold)


def _outcomes(job: Job) -> np.ndarray:
    """Of the held-out texts, one line each."""
    evaluator, rows = Evaluator(job), job.rows("test")
    if job.task.generation is None:
        return job.task.outcomes(evaluator.predictions("test"), rows)
    of_windows, lines_N2 = evaluator.likelihoods(job.windows["test"]), np.zeros((len(rows), 2))
    nats = [(answer["negative_log_likelihood"], answer["n_tokens"]) for answer in of_windows]
    np.add.at(lines_N2, job.windows["test"].rows_N, np.array(nats))
    return lines_N2[lines_N2[:, 1] > 0]  # texts too short to ask anything of


def _certify(job: Job, after: np.ndarray, before: np.ndarray) -> Scores:
    evaluate, seed = job.spec.evaluate, job.spec.seed
    if job.task.generation is not None:
        return evidence.certify_texts(after, before, evaluate.n_resamples, seed)
    return evidence.certify(job.task, after, {"before-reading": before}, method="reading on", words=WORDS,
                            n_resamples=evaluate.n_resamples, seed=seed)


def _verdict(scores: Scores, results: Sequence[Downstream]) -> tuple[str, str]:
    """(kind, words): of the labeled rows where there is a proof, else of the held-out texts."""
    kind, words = scores.verdict_kind, scores.verdict
    for result in results:
        gain = downstream.difference(result)
        low, high = (100 * end for end in gain.interval)
        points = (f"{100 * gain.value:+.1f} points of {result.metric} of {result.source} ({result.method}) "
                  f"[{low:+.1f}, {high:+.1f}]")
        if result.kind == "proof":
            kind = "undecided" if not gain.is_proven else "positive" if gain.value > 0 else "negative"
            lead = {"undecided": "no proof that reading on helps", "positive": "positive transfer",
                    "negative": "negative transfer"}[kind]
            words = f"{lead}: {points}; {words}"
        else:
            words += f"; {'forgot' if gain.is_proven and gain.value < 0 else 'probe'}: {points}"
    return kind, words


def _publish(job: Job, learner: Learner, scores: Scores, sources: tuple[str | None, str | None], final: Path,
             overwrite: bool, began: float) -> Pretrained:
    """Write the backbone whole or not at all: first its weights, then what they are worth, measured on them."""
    spec, parts = job.spec, job.splits
    model = job.model.to("cpu")
    if adapters.is_on(model):
        raise SpecError("method.name", f'"{spec.method["name"]}" leaves an adapter beside the weights; a backbone has '
                        "none.", "Use fine-tuning, or lora, which is added to the weights.")
    steps = job.work / "steps.jsonl"
    with files.write_folder(final, overwrite) as folder:
        model.save_pretrained(folder, weights.NO_LABELS)
        weights.save_reader(job.backbone, folder)
        after = load_backbone(str(folder), spec.data.max_tokens)  # it is a backbone, or nothing is published
        results = [downstream.measure(kind, source, spec.backbone.name, folder, job.progress)
                   for kind, source in zip(("probe", "proof"), sources, strict=True) if source is not None]
        kind, words = _verdict(scores, results)
        state = learner.state
        scores = dataclasses.replace(
            scores, verdict_kind=kind, verdict=words, downstream=results, task=f"{spec.task['name']} reading",
            backbone=str(spec.backbone), base_model=hub_id(spec.backbone.name), method=job.method.name,
            kept=learner.kept,
            curve=[Evaluation(**entry) for entry in state.curve],
            data=DataCounts(spec.data.train, parts.counts, len(parts.train), len(parts.validation), len(parts.test),
                            validation_sha256=parts.validation.digest(), test_sha256=parts.test.digest()),
            cost=Cost(train_seconds=state.seconds, evaluate_seconds=state.evaluate_seconds, n_steps=state.step,
                      train_tokens_per_s=state.n_tokens / state.seconds if state.seconds else None,
                      peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                      total_seconds=time.perf_counter() - began),
            machine={**machine.describe(job.device), **model.precision.facts()}, versions=machine.versions(),
            spec_sha256=spec.identity(), backbone_sha256=after.sha256,
            created=datetime.now(UTC).isoformat(timespec="seconds"))
        for name, text in {"scores.json": json.dumps(scores.to_json(), ensure_ascii=False, indent=1),
                           "spec.yaml": to_yaml(spec, job.origins), "steps.jsonl": steps.read_text("utf-8")}.items():
            (folder / name).write_text(text, "utf-8")
        manifest.seal(folder)
    write_report(final)
    remove(job.work)
    return Pretrained(final, scores)

