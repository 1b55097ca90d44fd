"""several models as one: what joining runs gains over the best of them

Answers: linear probes of three backbones. Weights: fine-tuning of the upper two blocks of minilm-l6 with three learning
rates. Each beside its best member (by validation) on the same test rows; intervals of the paired gain.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import DATA, PUBLISHED, Cell, Run, markdown

BACKBONES = ("minilm-l3", "minilm-l6", "e5-small-zh-en")
ANSWERS, WEIGHTS = ("mean", "weighted", "stacking"), ("soup", "greedy-soup", "task-arithmetic", "ties")
RATES = (5e-5, 1e-4, 3e-4)


def cells(quick: bool) -> list[Cell]:
    data = ("trec",) if quick else ("trec", "banking77")
    return [{"name": how, "data": name, "limit": 300 if quick else None}
            for name in data for how in (*ANSWERS, *WEIGHTS)]


def measure(name: str, data: str, limit: int | None) -> dict[str, Any]:
    import headstart

    train, test = (str(DATA / path) for path in PUBLISHED[data])
    spec: dict[str, Any] = {"data": {"train": train, "test": test, "limit": limit}, "evaluate": {"baselines": False}}
    upper = {"name": "fine-tuning", "last_blocks": 2, "average": "none"}
    probes: list[dict[str, Any]] = [{"backbone": backbone, "method": "linear-probe"} for backbone in BACKBONES]
    tuned = [{"backbone": "minilm-l6", "method": upper, "train": {"lr": lr, "epochs": 2}} for lr in RATES]
    kinds = probes if name in ANSWERS else tuned
    with tempfile.TemporaryDirectory() as folder:
        runs = [headstart.fit({**spec, **kind}, out=Path(folder) / str(i)).folder for i, kind in enumerate(kinds)]
        scores = headstart.ensemble(runs, out=Path(folder) / "joined", how=name).certificate
    gain = scores.gains["best-member"]
    return {"score": scores.fitted.value, "best": scores.baselines["best-member"].value, "n_test": scores.fitted.n,
            "gain": gain.difference, "interval": list(gain.interval), "verdict_kind": scores.verdict_kind,
            "members": [[member.backbone, member.validation, member.test] for member in scores.members]}


def table(runs: Sequence[Run]) -> str:
    rows = [[run.cell["data"], run.cell["name"], run.result["n_test"],
             ", ".join(f"{test:.4f}" for _, _, test in run.result["members"]), f"{run.result['best']:.4f}",
             f"**{run.result['score']:.4f}**", f"{100 * run.result['gain']:+.2f} "
             f"[{100 * run.result['interval'][0]:+.2f}, {100 * run.result['interval'][1]:+.2f}]",
             run.result["verdict_kind"]] for run in runs]
    return markdown(["data", "joined by", "test rows", "members alone", "the best, by validation", "together",
                     "gain in points", "verdict"], rows)
