"""few labels: headstart's setfit beside SetFit

8 and 64 labelled rows a class, five random draws; the same rows for both, the same test rows (SST-2: the 872 validation
rows; banking77: a random 1,000 of the test rows). Seconds from rows to answers on the test rows, imports not timed.
SetFit runs with its defaults on SST-2; on banking77, where its defaults would draw hundreds of thousands of pairs
(hours here), it draws some twenty thousand: the twenty a row of its paper with 8 labels a class (num_iterations=20),
two a row with 64. headstart's validation rows come out of the few.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench import DATA, PUBLISHED, Cell, Run, markdown, met, of, read_jsonl, write_jsonl

NEEDS_PEERS = True
SETTINGS: dict[tuple[str, int], dict[str, Any]] = {
    ("banking77", 8): {"num_iterations": 20}, ("banking77", 64): {"num_iterations": 2}}
SYSTEMS = ("headstart", "setfit")
N_TEST, N_SPLITS = 1000, 5


def cells(quick: bool) -> list[Cell]:
    sizes = (("sst2", 8), ("sst2", 64), ("banking77", 8), ("banking77", 64))
    return [{"name": system, "data": data, "shots": shots, "seed": seed}
            for data, shots in (sizes[:1] if quick else sizes) for seed in range(1 if quick else N_SPLITS)
            for system in SYSTEMS]


def measure(name: str, data: str, shots: int, seed: int) -> dict[str, Any]:
    rows, test = (list(read_jsonl(DATA / path)) for path in PUBLISHED[data])
    test = random.Random(0).sample(test, min(N_TEST, len(test)))
    by_label: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        by_label[row["label"]].append(row)
    draw = random.Random(seed)
    train = [row for _, some in sorted(by_label.items()) for row in draw.sample(some, min(shots, len(some)))]
    with tempfile.TemporaryDirectory() as folder:
        run = ours if name == "headstart" else theirs
        seconds, found = run(train, test, seed, Path(folder), SETTINGS.get((data, shots), {}))
    right = [a == row["label"] for a, row in zip(found, test, strict=True)]
    return {"score": sum(right) / len(right), "seconds": seconds, "n_train": len(train), "n_test": len(test)}


def theirs(train: list[Any], test: list[Any], seed: int, folder: Path, settings: Any) -> tuple[float, list[str]]:
    import setfit  # noqa: F401

    from bench import peers

    began = time.perf_counter()
    found = peers.setfit(train, folder, seed=seed, **settings)([row["text"] for row in test])
    return time.perf_counter() - began, found


def ours(train: list[Any], test: list[Any], seed: int, folder: Path, settings: Any) -> tuple[float, list[str]]:
    import headstart
    from headstart.runs import fit as workbench  # noqa: F401

    paths = write_jsonl(folder, train=train, test=test)
    began = time.perf_counter()
    spec = {"data": paths, "method": "setfit", "evaluate": {"baselines": False}, "seed": seed}
    artifact = headstart.fit(spec, out=folder / "run")
    seconds = time.perf_counter() - began
    return seconds, [one["label"] for one in artifact.predict([row["text"] for row in test])]


def table(runs: Sequence[Run]) -> str:
    rows = []
    for data, shots in dict.fromkeys((run.cell["data"], run.cell["shots"]) for run in runs):
        found = {name: of(runs, name=name, data=data, shots=shots) for name in SYSTEMS}
        both = {run.cell["seed"] for run in found["headstart"]} & {run.cell["seed"] for run in found["setfit"]}
        if not both:
            continue
        score, seconds = ({name: how([run.result[what] for run in some if run.cell["seed"] in both])
                           for name, some in found.items()} for what, how in (("score", mean), ("seconds", median)))
        rows.append([data, shots, len(both), found["setfit"][0].result["n_train"],
                     f"**{score['headstart']:.4f}**", f"{score['setfit']:.4f}",
                     met(score["headstart"] >= score["setfit"]), f"{seconds['headstart']:.0f}",
                     f"{seconds['setfit']:.0f}", met(seconds["headstart"] <= seconds["setfit"] / 2)])
    return markdown(["data", "labels a class", "draws", "train rows", "headstart, mean accuracy", "setfit",
                     "at least setfit's", "headstart, median s", "setfit", "at most half"], rows)
