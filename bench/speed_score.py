"""does the speed cost score?

One full run each on SST-2's first 10,000 train rows, three epochs, tested on the 872 validation rows, which no run
looked at before. headstart keeps a tenth of the 10,000 to choose its checkpoint; the peers train on all of them and
keep their last weights. headstart's runs are those of `quality` (sst2_10k) where it has them already. The tutorial loop
takes most of an hour: `python -m bench speed_score --only tutorial`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from bench import DATA, RESULTS, Cell, Run, finished, key, markdown, met, of, quality, read_jsonl

N_EPOCHS = 3
ON_REQUEST = ("tutorial",)


def cells(quick: bool) -> list[Cell]:
    ours = [cell | {"name": "headstart"} for cell in quality.cells(quick) if cell["name"] == "sst2_10k"]
    n_rows, n_epochs = (64, 1) if quick else (10_000, N_EPOCHS)
    peers = [{"name": name, "seed": 42, "n_rows": n_rows, "epochs": n_epochs} for name in ("trainer", "tutorial")]
    return ours + peers


def measure(name: str, seed: int, **settings: Any) -> dict[str, Any]:
    if name == "headstart":
        cell = {"name": "sst2_10k", "seed": seed, **settings}
        known = finished(RESULTS / "quality.jsonl").get(key(cell))
        if known is None:
            return quality.measure(**cell)
        return known.result | {"taken_from": f"quality, {known.finished}, sources of headstart {known.sources}"}
    from bench import peers
    from headstart.core.statistics import share_interval

    rows = list(read_jsonl(DATA / "sst2" / "train.jsonl"))[: settings["n_rows"]]
    test = list(read_jsonl(DATA / "sst2" / "validation.jsonl"))
    with tempfile.TemporaryDirectory() as folder:
        fit = peers.trainer if name == "trainer" else peers.tutorial
        answer, timing = fit(rows, Path(folder), n_warm_up=1, epochs=settings["epochs"], seed=seed)
        found = answer([row["text"] for row in test])
    import numpy as np

    right_N = np.array([a == row["label"] for a, row in zip(found, test, strict=True)])
    return {"score": float(right_N.mean()), "interval": share_interval(int(right_N.sum()), len(right_N)),
            "n_train": len(rows), "n_test": len(test), "train_seconds": timing["seconds"],
            "rows_per_s": timing["rows_per_s"]}


def table(runs: Sequence[Run]) -> str:
    ours = [run.result["score"] for run in of(runs, name="headstart")]
    rows = []
    for run in runs:
        name, found = run.cell["name"], run.result
        low, high = found["interval"]
        train_s = found["cost"]["train_seconds"] if name == "headstart" else found["train_seconds"]
        rows.append([name, run.cell["seed"], f"{found['score']:.4f}", f"[{low:.4f}, {high:.4f}]", found["n_test"],
                     f"{found['n_train']:,}", f"{train_s:.0f}", f"{found['wall_s']:.0f}" if name == "headstart" else "",
                     "" if name == "headstart" or not ours else met(mean(ours) >= found["score"])])
    if ours:
        rows.insert(len(ours), [f"headstart, mean of {len(ours)}", "", f"**{mean(ours):.4f}**", *[""] * 6])
    if not of(runs, name="tutorial"):
        rows.append(["tutorial", "", "not run", *[""] * 6])
    taken = [f"\n\nseed {run.cell['seed']}: {run.result['taken_from']}" for run in runs if "taken_from" in run.result]
    return markdown(["system", "seed", "accuracy", "interval", "n test", "n train", "training steps, s",
                     "whole fit with certificate, s", "headstart's mean is equal or better"], rows) + "".join(taken)
