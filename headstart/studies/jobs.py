"""Fits in processes of their own, so that the peak memory of each is its own; all are forked from one process that has
loaded the libraries already.
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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

from ..core import spec as specs
from ..core.errors import HeadstartError
from ..core.progress import Progress
from ..runs import fit as workbench

LIBRARIES = ("accelerate", "jinja2", "peft", "sklearn.linear_model", "sklearn.feature_extraction.text",
             "safetensors.torch", "transformers.models.bert.modeling_bert")  # seconds to import: once, not in each cell
N_LATENCY = 30  # single texts answered one by one, after five to warm up


# How our own split files are read, whatever the Spec says of the user's.
AS_SPLIT = {"encoding": "utf-8", "delimiter": None, "validation_limit": None, "test_limit": None, "errors": "strict"}


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


def _columns(path: str) -> dict[str, str]:
    """Our own split files call every column as the task does, whatever the Spec says of the user's."""
    with open(path, encoding="utf-8") as file:
        return {column: column for column in json.loads(file.readline())}


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
    command = [sys.executable, "-c", "from headstart.studies.jobs import serve; serve()"]
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
    fitted = workbench.fit({}, out=folder, overwrite=True, show=Progress(quiet=True),
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
