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

import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, cast

import numpy as np

from .. import tasks
from ..core import files, statistics
from ..core import files as sealed
from ..core import spec as specs
from ..core.errors import SpecError
from ..core.progress import Progress
from ..data import splits
from ..data import table as data
from ..report.compare import BUDGETS, _write
from ..runs import resolve as resolving
from ..training.job import PARTS
from .jobs import Cell, Worker, _run, _worker, parse_method


def compare(spec_or_path: str | Path | Mapping[str, Any], wanted: Sequence[str], *, seeds: int = 1,
            rows: Sequence[int] = (), out: str | Path = "runs/compare", resume: bool = False, overwrite: bool = False,
            show: Progress | None = None, layers: Sequence[tuple[str, Mapping[str, Any]]] = ()) -> dict[str, Any]:
    """Fit every method with every seed (and every number of train rows); compare them on the same test rows.

    wanted: method names, with options behind colons.  rows: numbers of train rows; all of them when absent.
    Returns  the table as JSON values; it lies in OUT/compare.json too.
    Raises   SpecError before anything is fitted when a method or an option is not known.
    """
    show = show or Progress(quiet=True)
    given = [resolving.first_layer(spec_or_path), *layers]
    spec, _, _ = resolving.resolve(given)
    for text in wanted:
        resolving.resolve([*given, ("--methods", {"method": parse_method(text)})])
    if len(set(wanted)) < len(wanted) or not wanted:
        raise SpecError("--methods", f"names {', '.join(wanted) or 'nothing'}; each once is the rule.",
                        "For example: --methods linear-probe,lora,fine-tuning")
    out = Path(out)
    known = out.is_dir() and (out / "asked.json").exists()
    if not (known and resume):
        files.refuse_existing(out, overwrite)
    with sealed.disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        parts, n_train = _split_once(spec, out, overwrite and not resume)
        for n in rows:
            if not 1 <= n <= n_train:
                raise SpecError("--rows", f"{n} is not a number of train rows; there are {n_train:,}.",
                                f"Choose 1 to {n_train:,}.")
        cells = [Cell(method, n, spec.seed + seed) for n in rows or [n_train] for seed in range(seeds)
                 for method in wanted]
        done = _finished(out)
        missing = [(i, cell) for i, cell in enumerate(cells) if cell.name not in done]
        with _worker() if missing else nullcontext() as worker:
            for i, cell in missing:
                show.say(f"compare {i + 1}/{len(cells)}: {cell.method}, {cell.rows:,} rows, seed {cell.seed}")
                done[cell.name] = _run(cast(Worker, worker), out, cell, parts, given,
                                       is_first=cell.method == wanted[0])
        found = _summarize([(cell, done[cell.name]) for cell in cells], wanted, out, spec)
        _write(found, out)
    return found


def _split_once(spec: specs.Spec, out: Path, anew: bool) -> tuple[dict[str, str], int]:
    """The splits as files, the same for every cell."""
    folder = out / "data"
    asked = json.dumps({"data": spec.data.model_dump(), "task": spec.task, "seed": spec.seed})
    if not anew and (out / "asked.json").exists():
        if (out / "asked.json").read_text("utf-8") != asked:
            raise SpecError(str(out), "was begun with other data or another seed.",
                            "Resume with the same Spec, or start anew: --overwrite")
    else:
        task = tasks.build(spec.task)
        parts = splits.make(data.read_splits(spec.data, task), spec.data, task, spec.seed)
        for name in PARTS:
            sealed.write_file(folder / f"{name}.jsonl", (json.dumps(row, ensure_ascii=False) + "\n"
                                                         for row in getattr(parts, name).rows))
        (out / "cells.jsonl").unlink(missing_ok=True)
        sealed.write_file(out / "asked.json", [asked])
    with (folder / "train.jsonl").open(encoding="utf-8") as file:
        return {name: str(folder / f"{name}.jsonl") for name in PARTS}, sum(1 for _ in file)


def _finished(out: Path) -> dict[str, dict[str, Any]]:
    path = out / "cells.jsonl"
    if not path.exists():
        return {}
    lines = (json.loads(line) for line in path.read_text("utf-8").splitlines() if line.endswith("}"))
    return {one["name"]: one for one in lines if (out / "outcomes" / f"{one['name']}.npy").exists()}


# ---- what it means ---------------------------------------------------------------------------------------------------


def _summarize(runs: Sequence[tuple[Cell, dict[str, Any]]], wanted: Sequence[str], out: Path,
               spec: specs.Spec) -> dict[str, Any]:
    """Scores with intervals, costs, the Pareto fronts, and every pair of methods tested on the same rows."""
    tables = []
    for n in dict.fromkeys(cell.rows for cell, _ in runs):
        chosen = {m: [(c, found) for c, found in runs if c.rows == n and c.method == m] for m in wanted}
        tables.append({"rows": n, **_one_size(chosen, out, spec)})
    _, first = runs[0]
    return {"metric": first["metric"], "n_test": first["n_test"], "seeds": sorted({c.seed for c, _ in runs}),
            "backbone": spec.backbone, "task": spec.task["name"], "data": spec.data.train, "sizes": tables,
            "machine": first["machine"], "versions": first["versions"]}


def _one_size(chosen: Mapping[str, Sequence[tuple[Cell, dict[str, Any]]]], out: Path,
              spec: specs.Spec) -> dict[str, Any]:
    outcomes = {m: [np.load(out / "outcomes" / f"{c.name}.npy", allow_pickle=False) for c, _ in found]
                for m, found in chosen.items()}
    seeds_of = {m: len(found) for m, found in outcomes.items()}
    rows = resolving.learned(spec, out / "data" / "train.jsonl")
    flat = [one for found in outcomes.values() for one in found]
    scores_SR = statistics.bootstrap(lambda o: rows.score(o)[rows.metric], flat, spec.evaluate.n_resamples, spec.seed)
    ends = np.cumsum(list(seeds_of.values()))
    resampled = {m: scores_SR[end - seeds_of[m] : end].mean(0) for m, end in zip(outcomes, ends, strict=True)}
    systems = []
    for m, found in chosen.items():
        scores = [one["score"] for _, one in found]
        systems.append({"method": m, "score": mean(scores), "interval": statistics.interval(resampled[m]),
                        "scores": scores, "deviation": stdev(scores) if len(scores) > 1 else None,
                        **{key: median(one[key] for _, one in found)
                           for key in (*BUDGETS, "peak_rss_mb", "n_trainable")}})
    for budget in BUDGETS:
        for one in systems:
            one.setdefault("fronts", {})[budget] = not any(
                other["score"] >= one["score"] and other[budget] <= one[budget]
                and (other["score"], -other[budget]) != (one["score"], -one[budget]) for other in systems)
    baselines = next(found[0][1]["baselines"] for found in chosen.values() if found[0][1]["baselines"])
    return {"systems": systems, "baselines": baselines, "pairs": _pairs(resampled, systems)}


def _pairs(resampled: Mapping[str, np.ndarray], systems: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every pair, tested on the same resamples; p values after Holm's correction for many comparisons.

    Source  Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    score = {one["method"]: one["score"] for one in systems}
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


# ---- the page --------------------------------------------------------------------------------------------------------


