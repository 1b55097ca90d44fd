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
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from .. import tasks
from ..core import machine, statistics
from ..core.comparison import CellResult, Comparison, Costs, Pair, Size, System
from ..core.errors import RunFolderError, SpecError
from ..core.files import append_line, new_file, remove_folder, write_file
from ..core.manifest import sha256
from ..core.outputs import check_place, work_folder
from ..core.progress import Progress
from ..core.spec import Spec, parse_set
from ..core.untrusted import MAX_JSON_BYTES, check_regular, parse_json, read_json
from ..data import splits
from ..data.table import Table, read_splits
from ..models.backbone import load_backbone
from ..report.compare import BUDGETS, write
from ..runs import language, request, resolve
from ..runs.fit import fit
from ..runs.folder import sources_of
from ..runs.request import EXACT, changed, digest, flat, hashes
from ..tasks.inference import read_as
from ..training.checkpoint import warn
from ..training.job import PARTS
from .jobs import Jobs, LocalJobs

FILES = ("request.json", "asked.json", "data", "outcomes", "cells.jsonl", "cell-*", "compare.*")  # what lies in OUT
RUN_CELL = "headstart.studies.compare:run_cell"
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
    spec, origins, _ = resolve.resolve(layers)
    layers = [(origins["task.name"], {"task": spec.task["name"]}), *layers]  # cells read files of our own names
    for text in wanted:
        resolve.resolve([*layers, ("--methods", {"method": parse_method(text)})])
    if len(set(wanted)) < len(wanted) or not wanted:
        raise SpecError("--methods", f"names {', '.join(wanted) or 'nothing'}; each once is the rule.",
                        "For example: --methods linear-probe,lora,fine-tuning")
    inputs = sources_of(spec, spec_or_path)
    check_place(out, inputs)
    with work_folder(out, FILES, "a comparison", resume=resume, overwrite=overwrite):
        tables = read_splits(spec.data, task := tasks.build(spec.task))
        progress.say(read_as(task, origins, tables["train"]))
        by_language = language.layer(spec, origins, task, tables["train"].rows)
        layers = [*([by_language] if by_language[1] else []), *layers]
        spec = resolve.resolve(layers)[0]
        parts, n_train = _split_once(spec, tables, out, overwrite and not resume)
        for n in rows:
            if not 1 <= n <= n_train:
                raise SpecError("--rows", f"{n} is not a number of train rows; there are {n_train:,}.",
                                f"Choose 1 to {n_train:,}.")
        cells = [Cell(method, n, spec.seed + seed) for n in rows or [n_train] for seed in range(seeds)
                 for method in wanted]
        _run_missing(cells, out, parts, layers, progress, jobs or LocalJobs())
        finished = _finished(out)
        results = [CellResult.from_json(finished[cell.name], str(out / "cells.jsonl")) for cell in cells]
        comparison = _summarize(results, wanted, out, spec)
        write(comparison, out)
    return comparison.to_json()


def _run_missing(cells: Sequence[Cell], out: Path, parts: Mapping[str, str], layers: Layers, progress: Progress,
                 jobs: Jobs) -> None:
    """Run the cells that are not finished; a line of cells.jsonl is appended for each."""
    finished = _finished(out)
    missing = [cell for cell in cells if cell.name not in finished]
    if missing:  # a line that was cut off by a kill would take the next one with it
        write_file(out / "cells.jsonl", (_line(result) + "\n" for result in finished.values()))

    def orders() -> Iterator[dict[str, Any]]:
        for cell in missing:
            progress.say(f"compare {cells.index(cell) + 1}/{len(cells)}: {cell}")
            yield {"out": str(out), "cell": asdict(cell), "layers": [list(layer) for layer in layers],
                   "baselines": cell.method == cells[0].method,
                   "data": {**parts, **AS_SPLIT, "limit": cell.rows, "columns": _columns(parts["train"])}}

    for cell, result in zip(missing, jobs.map(RUN_CELL, orders()), strict=True):
        append_line(out / "cells.jsonl", _line(result.get(str(cell))))


def run_cell(order: Mapping[str, Any]) -> dict[str, Any]:
    """Fit one cell and measure what it is worth and what it costs; its folder is deleted."""
    out, cell = Path(order["out"]), Cell(**order["cell"])
    folder = out / f"cell-{cell.name}"
    changes = {"method": parse_method(cell.method), "data": order["data"], "seed": cell.seed,
               "evaluate": {"baselines": order["baselines"]}}
    artifact = fit({}, out=folder, overwrite=True, progress=Progress(quiet=True),
                             layers=[*((origin, values) for origin, values in order["layers"]), ("compare", changes)])
    copy = out / "outcomes" / f"{cell.name}.npy"
    with new_file(copy) as new, new.open("wb") as file:  # np.save would put ".npy" behind the name
        np.save(file, artifact.outcomes()["fitted"], allow_pickle=False)
    with open(order["data"]["test"], encoding="utf-8") as file:
        rows = [json.loads(line) for line in itertools.islice(file, N_LATENCY + 5)]
    seconds = []
    for row in rows:
        began = time.perf_counter()
        artifact.predict([row])
        seconds.append(time.perf_counter() - began)
    scores = artifact.certificate
    cost = scores.cost
    values = {**asdict(cost), "seconds": cost.model_seconds, "bytes": cost.artifact_bytes,
              "latency_s": median(seconds[5:] or seconds)}
    costs = Costs(**{part.name: values[part.name] for part in fields(Costs)})
    result = CellResult(cell.name, cell.method, cell.rows, scores.metric, scores.fitted, scores.baselines, costs,
                        scores.machine, scores.versions, sha256(copy))
    remove_folder(folder)
    return result.to_json()


def _columns(path: str) -> dict[str, str]:
    """Our own split files call every column as the task does, whatever the Spec says of the user's."""
    with open(path, encoding="utf-8") as file:
        return {column: column for column in json.loads(file.readline())}


def _split_once(spec: Spec, tables: dict[str, Table], out: Path, anew: bool) -> tuple[dict[str, str], int]:
    """The splits as files, the same for every cell. Only what began a comparison goes on: Spec, rows and backbone."""
    folder, task = out / "data", tasks.build(spec.task)
    parts = splits.make(tables, spec.data, task, spec.seed)
    contract = flat({"spec": spec.model_dump(), "rows": {name: getattr(parts, name).digest() for name in PARTS},
                     "backbone": hashes(load_backbone(spec.backbone.name, spec.data.max_tokens)),
                     "version": {name: machine.versions().get(name) for name in EXACT}})
    if not anew and (out / request.FORMER_FILE).exists() and not (out / request.FILE).exists():
        raise RunFolderError(str(out), "was begun by an earlier headstart, which did not note its backbone.",
                             "Finish it with that version, or start anew: --overwrite")
    if not anew and (out / request.FILE).exists():
        try:
            changes = changed(read_json(out / request.FILE, RunFolderError), contract)
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
    write_file(out / request.FILE, [json.dumps(contract)])
    return {name: str(folder / f"{name}.jsonl") for name in PARTS}, len(parts.train)


def _finished(out: Path) -> dict[str, dict[str, Any]]:
    """The results, as JSON, of cells whose line and outcomes are as written; the others are named, and run again."""
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


def _line(result: Mapping[str, Any]) -> str:
    """A line of cells.jsonl: a result with its own hash."""
    return json.dumps({**result, "sha256": _digest_of(result)})


def _digest_of(result: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in result.items() if key != "sha256"})


# ---- what it means ---------------------------------------------------------------------------------------------------


def _summarize(results: Sequence[CellResult], wanted: Sequence[str], out: Path, spec: Spec) -> Comparison:
    """Scores with intervals, costs, the Pareto fronts, and every pair of methods tested on the same rows."""
    sizes = [_one_size(n, {m: [r for r in results if r.rows == n and r.method == m] for m in wanted}, out, spec)
             for n in dict.fromkeys(result.rows for result in results)]
    first, seeds = results[0], sorted({result.score.seed or 0 for result in results})
    return Comparison(first.metric, first.score.n, seeds, str(spec.backbone), spec.task["name"], spec.data.train, sizes,
                      first.machine, first.versions)


def _one_size(n: int, results: Mapping[str, Sequence[CellResult]], out: Path, spec: Spec) -> Size:
    task = resolve.learned(spec, out / "data" / "train.jsonl")
    flat = [np.load(out / "outcomes" / f"{result.name}.npy", allow_pickle=False)
            for of_seeds in results.values() for result in of_seeds]
    paired = statistics.paired(task, flat, spec.evaluate.n_resamples, spec.seed).means(list(map(len, results.values())))
    systems = []
    for i, (m, of_seeds) in enumerate(results.items()):
        scores = [result.score.value for result in of_seeds]
        costs = Costs(*map(median, zip(*(astuple(result.costs) for result in of_seeds), strict=True)))
        systems.append(System(m, mean(scores), paired.interval(i), scores,
                              stdev(scores) if len(scores) > 1 else None, costs, {}))
    systems = [replace(system, fronts={budget: not any(_beats(other, system, budget) for other in systems)
                                       for budget in BUDGETS}) for system in systems]
    baselines = next(of_seeds[0].baselines for of_seeds in results.values() if of_seeds[0].baselines)
    return Size(n, systems, baselines, _pairs(paired, list(results)))


def _beats(a: System, b: System, budget: str) -> bool:
    """Whether `a` is no worse than `b` and no dearer, and not the same in both."""
    cost_a, cost_b = a.costs.budgets[budget], b.costs.budgets[budget]
    return a.score >= b.score and cost_a <= cost_b and (a.score, cost_a) != (b.score, cost_b)


def _pairs(paired: statistics.Paired, methods: Sequence[str]) -> list[Pair]:
    """Every pair of `methods`, the systems of `paired`; p values after Holm's correction for many comparisons.

    Source  Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    pairs = []
    for a, b in itertools.combinations(np.argsort(-paired.values_S, kind="stable"), 2):
        gain = paired.difference(a, b)
        pairs.append(Pair(methods[a], methods[b], gain.value, gain.interval, gain.p, gain.p))
    worst = 0.0
    for rank, i in enumerate(sorted(range(len(pairs)), key=lambda i: pairs[i].p)):
        worst = max(worst, min(1.0, pairs[i].p * (len(pairs) - rank)))
        pairs[i] = replace(pairs[i], p_holm=worst)
    return pairs
