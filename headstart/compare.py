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
import importlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import IO, Any, cast

import numpy as np

from . import data, drawing, metrics, report, resolving, runfolder, sealed, splits, tasks, workbench
from . import spec as specs
from .errors import HeadstartError, SpecError
from .progress import Show
from .sections import Headline, Picture, Section, Table
from .wording import duration, in_words, percent, points
from .wording import interval as in_brackets

LIBRARIES = ("accelerate", "jinja2", "peft", "sklearn.linear_model", "sklearn.feature_extraction.text",
             "safetensors.torch", "transformers.models.bert.modeling_bert")  # seconds to import: once, not in each cell
N_LATENCY = 30  # single texts answered one by one, after five to warm up
# How our own split files are read, whatever the Spec says of the user's.
AS_SPLIT = {"encoding": "utf-8", "delimiter": None, "validation_limit": None, "test_limit": None, "errors": "strict"}
BUDGETS = {"seconds": "seconds from the rows to the model", "bytes": "stored bytes", "latency_s": "seconds a text"}


@dataclass(frozen=True)
class Cell:
    """One fit: a method with its options, how many train rows, and a seed."""

    method: str
    rows: int
    seed: int

    @property
    def name(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


def parse_method(text: str) -> dict[str, Any]:
    """"lora:rank=4:targets=[query]" as {"name": "lora", "rank": 4, "targets": ["query"]}."""
    name, *options = text.split(":")
    return {"name": name, **specs.parse_set(options)}


def compare(spec_or_path: str | Path | Mapping[str, Any], wanted: Sequence[str], *, seeds: int = 1,
            rows: Sequence[int] = (), out: str | Path = "runs/compare", resume: bool = False, overwrite: bool = False,
            show: Show | None = None, layers: Sequence[tuple[str, Mapping[str, Any]]] = ()) -> dict[str, Any]:
    """Fit every method with every seed (and every number of train rows); compare them on the same test rows.

    wanted: method names, with options behind colons.  rows: numbers of train rows; all of them when absent.
    Returns  the table as JSON values; it lies in OUT/compare.json too.
    Raises   SpecError before anything is fitted when a method or an option is not known.
    """
    show = show or Show(quiet=True)
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
        runfolder.refuse_existing(out, overwrite)
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
        for name in workbench.PARTS:
            sealed.write_file(folder / f"{name}.jsonl", (json.dumps(row, ensure_ascii=False) + "\n"
                                                         for row in getattr(parts, name).rows))
        (out / "cells.jsonl").unlink(missing_ok=True)
        sealed.write_file(out / "asked.json", [asked])
    with (folder / "train.jsonl").open(encoding="utf-8") as file:
        return {name: str(folder / f"{name}.jsonl") for name in workbench.PARTS}, sum(1 for _ in file)


def _columns(path: str) -> dict[str, str]:
    """Our own split files call every column as the task does, whatever the Spec says of the user's."""
    with open(path, encoding="utf-8") as file:
        return {column: column for column in json.loads(file.readline())}


def _finished(out: Path) -> dict[str, dict[str, Any]]:
    path = out / "cells.jsonl"
    if not path.exists():
        return {}
    lines = (json.loads(line) for line in path.read_text("utf-8").splitlines() if line.endswith("}"))
    return {one["name"]: one for one in lines if (out / "outcomes" / f"{one['name']}.npy").exists()}


Worker = subprocess.Popen[str]


def _run(worker: Worker, out: Path, cell: Cell, parts: Mapping[str, str], given: Sequence[Any],
         is_first: bool) -> dict[str, Any]:
    """One cell in a child of `worker`; its line is appended when it is finished."""
    order = {"out": str(out), "cell": asdict(cell), "given": [list(one) for one in given], "baselines": is_first,
             "data": {**parts, **AS_SPLIT, "limit": cell.rows, "columns": _columns(parts["train"])}}
    pipes: tuple[IO[str], IO[str]] = (worker.stdin, worker.stdout)  # type: ignore[assignment]
    pipes[0].write(json.dumps(order) + "\n")
    pipes[0].flush()
    answer = json.loads(pipes[1].readline() or '{"error": "its process died", "exit_code": 1}')
    if "error" in answer:
        error = HeadstartError(f"{cell.method}, {cell.rows:,} rows, seed {cell.seed}", answer["error"])
        error.exit_code = answer["exit_code"]
        raise error
    with (out / "cells.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(answer) + "\n")
    return dict(answer)


@contextmanager
def _worker() -> Iterator[Worker]:
    command = [sys.executable, "-c", "from headstart.compare import serve; serve()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        yield worker


def serve() -> None:
    """The worker: for each line of stdin a forked child runs a cell and writes one line to stdout.

    This process computes nothing itself, so it has no threads that a fork could lose.
    """
    for library in LIBRARIES:
        importlib.import_module(library)
    for line in sys.stdin:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _answer(json.loads(line))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"error": f"its process ended with status {status}", "exit_code": 1}), flush=True)


def _answer(order: dict[str, Any]) -> None:
    try:
        said = json.dumps(run_cell(order))
    except HeadstartError as error:
        said = json.dumps({"error": str(error), "exit_code": error.exit_code})
    print(said, flush=True)


def run_cell(order: Mapping[str, Any]) -> dict[str, Any]:
    """Fit one cell and measure what it is worth and what it costs; its folder is deleted."""
    import shutil
    import time

    out, cell = Path(order["out"]), Cell(**order["cell"])
    folder = out / f"cell-{cell.name}"
    changes = {"method": parse_method(cell.method), "data": order["data"], "seed": cell.seed,
               "evaluate": {"baselines": order["baselines"]}}
    fitted = workbench.fit({}, out=folder, overwrite=True, show=Show(quiet=True),
                           layers=[*((origin, values) for origin, values in order["given"]), ("compare", changes)])
    (out / "outcomes").mkdir(exist_ok=True)
    shutil.copyfile(folder / "outcomes.npy", out / "outcomes" / f"{cell.name}.npy")
    with open(order["data"]["test"], encoding="utf-8") as file:
        rows = [json.loads(line) for line in itertools.islice(file, N_LATENCY + 5)]
    seconds = []
    for row in rows:
        began = time.perf_counter()
        fitted.predict([row])
        seconds.append(time.perf_counter() - began)
    scores = fitted.scores
    cost = scores["cost"]
    result = {"name": cell.name, **asdict(cell), "metric": scores["metric"], "score": scores["score"],
              "interval": scores["interval"], "n_test": scores["n_test"], "baselines": scores["baselines"],
              "seconds": cost["model_seconds"], "bytes": cost["artifact_bytes"], "latency_s": median(seconds[5:]),
              "peak_rss_mb": cost["peak_rss_mb"], "n_trainable": cost["n_trainable"], "machine": scores["machine"],
              "versions": scores["versions"]}
    shutil.rmtree(folder)
    return result


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
    scores_SR = metrics.bootstrap(lambda o: rows.score(o)[rows.metric], flat, spec.evaluate.n_resamples, spec.seed)
    ends = np.cumsum(list(seeds_of.values()))
    resampled = {m: scores_SR[end - seeds_of[m] : end].mean(0) for m, end in zip(outcomes, ends, strict=True)}
    systems = []
    for m, found in chosen.items():
        scores = [one["score"] for _, one in found]
        systems.append({"method": m, "score": mean(scores), "interval": metrics.interval(resampled[m]),
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
                      "interval": metrics.interval(difference_R),
                      "p": float(min(1.0, 2 * (tail + 1) / (len(difference_R) + 1)))})
    worst = 0.0
    for rank, pair in enumerate(sorted(pairs, key=lambda pair: pair["p"])):
        worst = max(worst, min(1.0, pair["p"] * (len(pairs) - rank)))
        pair["p_holm"] = worst
    return pairs


# ---- the page --------------------------------------------------------------------------------------------------------


def _write(found: dict[str, Any], out: Path) -> None:
    parts = [section for size in found["sizes"] for section in _sections(found, size)]
    top = _headline(found)
    facts = [("Task", found["task"]), ("Backbone", found["backbone"]), ("Data", found["data"]),
             ("Seeds", ", ".join(map(str, found["seeds"]))), ("CPU", str(found["machine"].get("cpu", "")))]
    sealed.write_file(out / "compare.json", [json.dumps(found, ensure_ascii=False, indent=1)])
    footer = "Written by headstart compare from compare.json, which lies beside this page."
    sealed.write_file(out / "compare.html", [report.page(top, facts, parts, "", "headstart compare", footer)])
    sealed.write_file(out / "compare.md", [report.markdown_page(top, facts, parts)])


def _headline(found: dict[str, Any]) -> Headline:
    size = found["sizes"][-1]
    best = max(size["systems"], key=lambda one: one["score"])
    ties = [pair["worse"] for pair in size["pairs"] if pair["better"] == best["method"] and pair["p_holm"] >= 0.05]
    cheapest = min([best, *(one for one in size["systems"] if one["method"] in ties)], key=lambda one: one["seconds"])
    title = f"{best['method']} scores best: {percent(best['score'])} {in_brackets(best['interval'])}"
    rest = ("Every other method is proven worse." if not ties
            else f"Not proven worse: {', '.join(ties)}. Of these, {cheapest['method']} takes the least time, "
                 f"{duration(cheapest['seconds'])} against {duration(best['seconds'])}."
            if cheapest is not best else f"Not proven worse: {', '.join(ties)}; it takes the least time of them.")
    of_seeds = f"mean of {len(found['seeds'])} seeds" if len(found["seeds"]) > 1 else "one seed"
    return Headline(title, rest, f"{in_words(found['metric']).capitalize()}, {of_seeds}, on the same "
                                 f"{found['n_test']:,} test rows, from {size['rows']:,} train rows.")


def _sections(found: dict[str, Any], size: dict[str, Any]) -> list[Section]:
    metric, n = in_words(found["metric"]), size["rows"]
    pictures = []
    for budget, words in BUDGETS.items():
        marks = [drawing.Mark(one["method"], one[budget], one["score"], tuple(one["interval"]), one["fronts"][budget])
                 for one in size["systems"]]
        svg = drawing.scatter_plot(f"{metric} against {words}", marks, _SHOWN[budget], percent)
        pictures.append(Picture(f"Test {metric} with 95% intervals against {words} (logarithmic); blue: nothing is "
                                "both cheaper and better", svg))
    rows = [(one["method"], percent(one["score"]), in_brackets(one["interval"]),
             percent(one["deviation"]) if one["deviation"] is not None else "–", duration(one["seconds"]),
             f"{one['bytes'] / 1e6:.1f} MB", f"{1000 * one['latency_s']:.1f} ms", f"{one['n_trainable']:,}",
             f"{one['peak_rss_mb']:,.0f} MB") for one in sorted(size["systems"], key=lambda one: -one["score"])]
    rows += [(name, percent(one["score"]), in_brackets(one["interval"]), *["–"] * 6)
             for name, one in size["baselines"].items()]
    table = Table(f"Means over seeds of {metric}; medians of costs; below, what needs no method (first seed)",
                  ("method", metric, "interval", "deviation of seeds", "time to the model", "stored", "one text",
                   "weights that move", "peak memory"), rows)
    pairs = Table("Every pair on the same test rows; p after Holm's correction for so many comparisons",
                  ("better", "worse", "difference", "interval", "p", "p, corrected"),
                  [(pair["better"], pair["worse"], points(pair["difference"]), in_brackets(pair["interval"]),
                    f"{pair['p']:.4f}", f"{pair['p_holm']:.4f}") for pair in size["pairs"]], n_words=2)
    return [Section(f"rows-{n}", f"{n:,} train rows", [], [p for p in pictures if p.svg],
                    [table, *([pairs] if pairs.rows else [])])]


_SHOWN = {"seconds": duration, "bytes": lambda n: f"{n / 1e6:.3g} MB", "latency_s": lambda s: f"{1000 * s:.3g} ms"}
