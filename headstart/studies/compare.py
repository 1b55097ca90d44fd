"""Which way to carry knowledge over is best for these rows and this budget?

    compare("specs/tweets.yaml", ["linear-probe", "fine-tuning:last_blocks=2"], seeds=3, out="runs/compare")

Every method gets the same rows, split once, and answers the same test rows. What lies in OUT:

    data/            the three splits             cells.jsonl    a line for every finished cell; it is not run again
    outcomes/        answers of each cell, as numbers: the paired tests read them
    compare.html, compare.md, compare.json

A cell is one `fit` in a process of its own, so that its peak memory is its own; they are forked from one process that
has loaded the libraries already.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from .. import tasks
from ..core import machine, statistics
from ..core.errors import RunFolderError, SpecError
from ..core.files import disk_errors, refuse_existing, sha256, write_file
from ..core.progress import Progress
from ..core.spec import Spec, parse_set
from ..core.untrusted import MAX_JSON_BYTES, check_regular, parse_json, read_json
from ..data import splits
from ..data.table import read_splits
from ..models.backbone import load_backbone
from ..report.compare import BUDGETS, write
from ..runs import resolve
from ..runs.fit import fit
from ..runs.request import EXACT, changed, digest, flat, hashes
from ..training.checkpoint import warn
from ..training.job import PARTS
from .jobs import Jobs, LocalJobs

RUN_CELL = "headstart.studies.compare:run_cell"
REQUEST = "request.json"
N_LATENCY = 30  # single texts answered one by one, after five to warm up

# How our own split files are read, whatever the Spec says of the user's.
AS_SPLIT = {"encoding": "utf-8", "delimiter": None, "validation_limit": None, "test_limit": None, "errors": "strict"}
Layers = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Cell:
    """One fit: a method with its options, how many train rows, and a seed."""

    method: str
    rows: int
    seed: int

    @property
    def name(self) -> str:
        """What its files are called."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.method}, {self.rows:,} rows, seed {self.seed}"


def parse_method(text: str) -> dict[str, Any]:
    """"lora:rank=4:targets=[query]" as {"name": "lora", "rank": 4, "targets": ["query"]}."""
    name, *options = text.split(":")
    return {"name": name, **parse_set(options)}


def compare(spec_or_path: str | Path | Mapping[str, Any], wanted: Sequence[str], *, seeds: int = 1,
            rows: Sequence[int] = (), out: str | Path = "runs/compare", resume: bool = False, overwrite: bool = False,
            progress: Progress | None = None, layers: Layers = (), jobs: Jobs | None = None) -> dict[str, Any]:
    """Fit every method with every seed (and every number of train rows); compare them on the same test rows.

    wanted: method names, with options behind colons.  rows: numbers of train rows; all of them when absent.
    jobs:   where the fits run; one after another on this machine when absent.
    Returns  the table as JSON values; it lies in OUT/compare.json too.
    Raises   SpecError before anything is fitted when a method or an option is not known.
    """
    progress, out = progress or Progress(quiet=True), Path(out)
    layers = [resolve.first_layer(spec_or_path), *layers]
    spec, _, _ = resolve.resolve(layers)
    for text in wanted:
        resolve.resolve([*layers, ("--methods", {"method": parse_method(text)})])
    if len(set(wanted)) < len(wanted) or not wanted:
        raise SpecError("--methods", f"names {', '.join(wanted) or 'nothing'}; each once is the rule.",
                        "For example: --methods linear-probe,lora,fine-tuning")
    if not (resume and out.is_dir() and (out / REQUEST).exists()):
        refuse_existing(out, overwrite)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        parts, n_train = _split_once(spec, out, overwrite and not resume)
        for n in rows:
            if not 1 <= n <= n_train:
                raise SpecError("--rows", f"{n} is not a number of train rows; there are {n_train:,}.",
                                f"Choose 1 to {n_train:,}.")
        cells = [Cell(method, n, spec.seed + seed) for n in rows or [n_train] for seed in range(seeds)
                 for method in wanted]
        _run_missing(cells, out, parts, layers, progress, jobs or LocalJobs())
        finished = _finished(out)
        table = _summarize([(cell, finished[cell.name]) for cell in cells], wanted, out, spec)
        write(table, out)
    return table


def _run_missing(cells: Sequence[Cell], out: Path, parts: Mapping[str, str], layers: Layers, progress: Progress,
                 jobs: Jobs) -> None:
    """Run the cells that are not finished; a line of cells.jsonl is appended for each."""
    finished = _finished(out)
    missing = [cell for cell in cells if cell.name not in finished]
    # A line that was cut off by a kill would take the next one with it.
    write_file(out / "cells.jsonl", (json.dumps(result) + "\n" for result in finished.values()))

    def orders() -> Iterator[dict[str, Any]]:
        for cell in missing:
            progress.say(f"compare {cells.index(cell) + 1}/{len(cells)}: {cell}")
            yield {"out": str(out), "cell": asdict(cell), "layers": [list(layer) for layer in layers],
                   "baselines": cell.method == cells[0].method,
                   "data": {**parts, **AS_SPLIT, "limit": cell.rows, "columns": _columns(parts["train"])}}

    for cell, result in zip(missing, jobs.map(RUN_CELL, orders()), strict=True):
        values = result.get(str(cell))
        with (out / "cells.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**values, "sha256": _digest_of(values)}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def run_cell(order: Mapping[str, Any]) -> dict[str, Any]:
    """Fit one cell and measure what it is worth and what it costs; its folder is deleted."""
    out, cell = Path(order["out"]), Cell(**order["cell"])
    folder = out / f"cell-{cell.name}"
    changes = {"method": parse_method(cell.method), "data": order["data"], "seed": cell.seed,
               "evaluate": {"baselines": order["baselines"]}}
    artifact = fit({}, out=folder, overwrite=True, progress=Progress(quiet=True),
                             layers=[*((origin, values) for origin, values in order["layers"]), ("compare", changes)])
    (out / "outcomes").mkdir(exist_ok=True)
    outcomes = shutil.copyfile(folder / "outcomes.npy", out / "outcomes" / f"{cell.name}.npy")
    with open(order["data"]["test"], encoding="utf-8") as file:
        rows = [json.loads(line) for line in itertools.islice(file, N_LATENCY + 5)]
    seconds = []
    for row in rows:
        began = time.perf_counter()
        artifact.predict([row])
        seconds.append(time.perf_counter() - began)
    scores = artifact.certificate
    fitted, cost = scores.fitted, scores.cost
    shutil.rmtree(folder)
    return {"name": cell.name, **asdict(cell), "metric": scores.metric, "score": fitted.value,
            "interval": fitted.interval, "n_test": fitted.n,
            "baselines": {name: score.to_json() for name, score in scores.baselines.items()},
            "seconds": cost.model_seconds, "bytes": cost.artifact_bytes, "latency_s": median(seconds[5:]),
            "peak_rss_mb": cost.peak_rss_mb, "n_trainable": cost.n_trainable, "machine": scores.machine,
            "versions": scores.versions, "outcomes_sha256": sha256(outcomes)}


def _columns(path: str) -> dict[str, str]:
    """Our own split files call every column as the task does, whatever the Spec says of the user's."""
    with open(path, encoding="utf-8") as file:
        return {column: column for column in json.loads(file.readline())}


def _split_once(spec: Spec, out: Path, anew: bool) -> tuple[dict[str, str], int]:
    """The splits as files, the same for every cell. Only what began a comparison goes on: Spec, rows and backbone."""
    folder, task = out / "data", tasks.build(spec.task)
    parts = splits.make(read_splits(spec.data, task), spec.data, task, spec.seed)
    contract = flat({"spec": spec.model_dump(), "rows": {name: getattr(parts, name).digest() for name in PARTS},
                     "backbone": hashes(load_backbone(spec.backbone, spec.data.max_tokens)),
                     "version": {name: machine.versions().get(name) for name in EXACT}})
    if not anew and (out / REQUEST).exists():
        try:
            changes = changed(read_json(out / REQUEST, RunFolderError), contract)
        except RunFolderError as error:
            raise RunFolderError(error.where, error.what, "Start anew: --overwrite") from None
        if changes:
            raise SpecError(str(out), f"was begun with other data or another seed, Spec or backbone: {changes}.",
                            "Resume with what began it, or start anew: --overwrite")
    else:
        (out / "cells.jsonl").unlink(missing_ok=True)
    for name in PARTS:
        write_file(folder / f"{name}.jsonl", (json.dumps(row, ensure_ascii=False) + "\n"
                                              for row in getattr(parts, name).rows))
    write_file(out / REQUEST, [json.dumps(contract)])
    return {name: str(folder / f"{name}.jsonl") for name in PARTS}, len(parts.train)


def _finished(out: Path) -> dict[str, dict[str, Any]]:
    """The results of cells whose line and outcomes are what was written; the others are named, and run again."""
    path, results = out / "cells.jsonl", dict[str, dict[str, Any]]()
    if not path.exists():
        return results
    check_regular(path, RunFolderError, MAX_JSON_BYTES)
    for i, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            result = parse_json(line, f"{path}:{i}", RunFolderError)
        except RunFolderError:
            result = {}
        if isinstance(result, dict) and result.get("sha256") == _digest_of(result):
            outcomes = out / "outcomes" / f"{result['name']}.npy"
            if outcomes.is_file() and sha256(outcomes) == result["outcomes_sha256"]:
                results[result["name"]] = result
                continue
        warn(f"{path}:{i}: is damaged, or its outcomes are; its cell is run again.")
    return results


def _digest_of(result: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in result.items() if key != "sha256"})


# ---- what it means ---------------------------------------------------------------------------------------------------


def _summarize(runs: Sequence[tuple[Cell, dict[str, Any]]], wanted: Sequence[str], out: Path,
               spec: Spec) -> dict[str, Any]:
    """Scores with intervals, costs, the Pareto fronts, and every pair of methods tested on the same rows."""
    tables = []
    for n in dict.fromkeys(cell.rows for cell, _ in runs):
        chosen = {m: [(cell, result) for cell, result in runs if cell.rows == n and cell.method == m] for m in wanted}
        tables.append({"rows": n, **_one_size(chosen, out, spec)})
    _, first = runs[0]
    return {"metric": first["metric"], "n_test": first["n_test"], "seeds": sorted({c.seed for c, _ in runs}),
            "backbone": spec.backbone, "task": spec.task["name"], "data": spec.data.train, "sizes": tables,
            "machine": first["machine"], "versions": first["versions"]}


def _one_size(chosen: Mapping[str, Sequence[tuple[Cell, dict[str, Any]]]], out: Path,
              spec: Spec) -> dict[str, Any]:
    outcomes = {m: [np.load(out / "outcomes" / f"{cell.name}.npy", allow_pickle=False) for cell, _ in results]
                for m, results in chosen.items()}
    seeds_of = {m: len(of_seeds) for m, of_seeds in outcomes.items()}
    task = resolve.learned(spec, out / "data" / "train.jsonl")
    flat = [outcome for of_seeds in outcomes.values() for outcome in of_seeds]
    scores_SR = statistics.bootstrap(lambda o: task.score(o)[task.metric], flat, spec.evaluate.n_resamples, spec.seed)
    ends = np.cumsum(list(seeds_of.values()))
    resampled = {m: scores_SR[end - seeds_of[m] : end].mean(0) for m, end in zip(outcomes, ends, strict=True)}
    systems = []
    for m, results in chosen.items():
        scores = [result["score"] for _, result in results]
        systems.append({"method": m, "score": mean(scores), "interval": statistics.interval(resampled[m]),
                        "scores": scores, "deviation": stdev(scores) if len(scores) > 1 else None,
                        **{key: median(result[key] for _, result in results)
                           for key in (*BUDGETS, "peak_rss_mb", "n_trainable")}})
    for budget in BUDGETS:
        for system in systems:
            system.setdefault("fronts", {})[budget] = not any(
                other["score"] >= system["score"] and other[budget] <= system[budget]
                and (other["score"], -other[budget]) != (system["score"], -system[budget]) for other in systems)
    baselines = next(results[0][1]["baselines"] for results in chosen.values() if results[0][1]["baselines"])
    return {"systems": systems, "baselines": baselines, "pairs": _pairs(resampled, systems)}


def _pairs(resampled: Mapping[str, np.ndarray], systems: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every pair, tested on the same resamples; p values after Holm's correction for many comparisons.

    Source  Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    score = {system["method"]: system["score"] for system in systems}
    pairs = []
    for a, b in itertools.combinations(sorted(score, key=lambda m: -score[m]), 2):
        difference_R = resampled[a] - resampled[b]
        tail = min((difference_R <= 0).sum(), (difference_R >= 0).sum())
        pairs.append({"better": a, "worse": b, "difference": score[a] - score[b],
                      "interval": statistics.interval(difference_R),
                      "p": float(min(1.0, 2 * (tail + 1) / (len(difference_R) + 1)))})
    worst = 0.0
    for rank, pair in enumerate(sorted(pairs, key=lambda pair: pair["p"])):
        worst = max(worst, min(1.0, pair["p"] * (len(pairs) - rank)))
        pair["p_holm"] = worst
    return pairs
