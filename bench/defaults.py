"""what the defaults were chosen by

Each setting is changed alone; everything else stays as it is by default. 2,000 train rows, two epochs, test rows
carved from the train files: the published test rows are never looked at here, so that `quality` stays a test. The first
line is the default itself. Learning rate and batch size take as long again: `python -m bench defaults --only lr,batch`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import DATA, Cell, Run, markdown, of, read_jsonl

DATASETS = ("trec", "sst2")
N_TRAIN, N_TEST = 2000, 1000
SEEDS = (0, 1)
ON_REQUEST = ("lr", "batch")
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "default": [{}],
    "pooling": [{"head.pooling": pooling} for pooling in ("first", "max", "native")],
    "dropout": [{"train.dropout": 0}],
    "embeddings": [{"method.freeze_embeddings": True}],
    "head": [{"method.head_first": False}],
    "lr": [{"train.lr": lr} for lr in (3e-5, 5e-5, 2e-4, 3e-4)],
    "batch": [{"train.tokens_per_batch": budget} for budget in (256, 512, 2048, 4096)],
}


def cells(quick: bool) -> list[Cell]:
    if quick:
        return [{"name": name, "change": variants[0], "data": "trec", "seed": 0, "n_train": 60, "n_test": 50}
                for name, variants in VARIANTS.items()]
    return [{"name": name, "change": change, "data": data, "seed": seed, "n_train": N_TRAIN, "n_test": N_TEST}
            for name, variants in VARIANTS.items() for change in variants for data in DATASETS for seed in SEEDS]


def measure(name: str, change: dict[str, Any], data: str, seed: int, n_train: int, n_test: int) -> dict[str, Any]:
    import numpy as np

    import headstart
    from headstart import spec as specs

    rows = list(read_jsonl(DATA / data / "train.jsonl"))
    n_used = min(len(rows), round((n_train + n_test) * 1.3))  # some fall to validation
    chosen = np.random.default_rng(0).permutation(len(rows))[:n_used]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{data}.jsonl"
        path.write_text("".join(json.dumps(rows[i], ensure_ascii=False) + "\n" for i in chosen), "utf-8")
        settings = {"data.train": str(path), "data.test_share": n_test / n_used, "data.limit": n_train,
                    "data.test_limit": n_test, "method.name": "fine-tuning", "train.epochs": 2,
                    "evaluate.baselines": False, **change}
        given = specs.parse_set([f"{k}={json.dumps(v)}" for k, v in settings.items()])
        scores = headstart.fit({**given, "seed": seed}, out=Path(folder) / "run").scores
    return {"score": scores["score"], "interval": scores["interval"], "n_train": scores["data"]["n_train"],
            "n_test": scores["n_test"], "train_seconds": scores["cost"]["train_seconds"],
            "train_tokens_per_s": scores["cost"]["train_tokens_per_s"],
            "curve": [e["scores"][scores["metric"]] for e in scores["curve"]]}


def table(runs: Sequence[Run]) -> str:
    rows = []
    for change in (one for variants in VARIANTS.values() for one in variants if of(runs, change=one)):
        line = [", ".join(f"{k}={json.dumps(v)}" for k, v in change.items()) or "**default**"]
        for data in DATASETS:
            some = of(runs, change=change, data=data)
            if not some:
                line += ["not run", "", ""]
                continue
            scores = [run.result["score"] for run in some]
            low, high = some[0].result["interval"]
            line += [f"{sum(scores) / len(scores):.4f} ({', '.join(f'{score:.4f}' for score in scores)})",
                     f"[{low:.3f}, {high:.3f}]", f"{sum(r.result['train_seconds'] for r in some) / len(some):.0f}"]
        rows.append(line)
    header = [title for data in DATASETS for title in (f"{data}: mean (each seed)", "interval, first seed", "train s")]
    n_rows = {run.cell["data"]: run.result for run in runs}
    sizes = "; ".join(f"{data}: {n['n_train']:,} train and {n['n_test']:,} test rows" for data, n in n_rows.items())
    return f"{sizes}.\n\n" + markdown(["changed", *header], rows)
