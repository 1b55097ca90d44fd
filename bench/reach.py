"""how long until 99 % of the Trainer's score?

Seconds from labelled rows to answers on the test rows: loading the model, tokenizing, training and answering; for
headstart the whole of `fit` but the certificate's baselines, which no peer computes: splitting, validation, saving and
reading back included. Imports are not timed. The peers train three epochs on all train rows and keep their last
weights; headstart holds a tenth of them back to choose by. The test rows choose nothing.

- trainer: the `transformers` Trainer with its defaults (batches of 8, fused AdamW).
- trainer, best: batches of 16, grouped by length.
- peft: the same Trainer over LoRA of rank 8 in all linear layers, lr 5e-4.
- headstart: `fit` with the method named ("last two": `fine-tuning` with `last_blocks: 2`); "two epochs" is
  `fine-tuning` with `train.epochs: 2`. Where no epochs are named, there are five on trec: few rows get more.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench import DATA, PUBLISHED, Cell, Run, markdown, met, of, read_jsonl, write_jsonl

NEEDS_PEERS = True
ON_REQUEST = ("peft",)
BEST = {"per_device_train_batch_size": 16, "train_sampling_strategy": "group_by_length"}
PEERS: dict[str, dict[str, Any]] = {"trainer": {}, "trainer, best": BEST, "peft": {**BEST, "learning_rate": 5e-4}}
OURS: dict[str, dict[str, Any]] = {
    "linear probe": {"method": "linear-probe"},
    "last two blocks": {"method": {"name": "fine-tuning", "last_blocks": 2}},
    "last two, three epochs": {"method": {"name": "fine-tuning", "last_blocks": 2}, "train": {"epochs": 3}},
    "two epochs": {"method": "fine-tuning", "train": {"epochs": 2}},
}
SHARE, FACTORS = 0.99, {"trainer": 4.0, "trainer, best": 2.0}


def cells(quick: bool) -> list[Cell]:
    return [{"name": name, "data": data, "seed": seed, "n_train": 120 if quick else 10_000}
            for data in PUBLISHED for seed in ((0,) if quick else (0, 1, 2)) for name in (*OURS, *PEERS)]


def measure(name: str, data: str, seed: int, n_train: int) -> dict[str, Any]:
    train, test = (list(read_jsonl(DATA / path)) for path in PUBLISHED[data])
    train = train[:n_train]
    with tempfile.TemporaryDirectory() as folder:
        run = their_answers if name in PEERS else our_answers
        seconds, found = run(name, train, test, seed, Path(folder))
    right = [a == row["label"] for a, row in zip(found, test, strict=True)]
    return {"score": sum(right) / len(right), "seconds": seconds, "n_train": len(train), "n_test": len(test)}


def their_answers(name: str, train: list[Any], test: list[Any], seed: int, folder: Path) -> tuple[float, list[str]]:
    import datasets  # noqa: F401
    import transformers  # noqa: F401

    from bench import peers

    began = time.perf_counter()
    change: dict[str, Any] = {"change": peers.lora} if name == "peft" else {}
    answer, _ = peers.trainer(train, folder, n_warm_up=1, epochs=3, seed=seed, **change, **PEERS[name])
    found = answer([row["text"] for row in test])
    return time.perf_counter() - began, found


def our_answers(name: str, train: list[Any], test: list[Any], seed: int, folder: Path) -> tuple[float, list[str]]:
    import os

    os.environ["HEADSTART_CACHE"] = str(folder / "cache")
    import headstart
    from headstart.runs import fit as workbench  # noqa: F401

    paths = write_jsonl(folder, train=train, test=test)
    began = time.perf_counter()
    spec = {"data": paths, "evaluate": {"baselines": False}, "seed": seed, **OURS[name]}
    headstart.fit(spec, out=folder / "run")
    seconds = time.perf_counter() - began
    return seconds, [one["label"] for one in headstart.load(folder / "run").predict([row["text"] for row in test])]


def table(runs: Sequence[Run]) -> str:
    rows = []
    for data in PUBLISHED:
        found = {name: [run.result for run in of(runs, name=name, data=data)] for name in (*OURS, *PEERS)}
        score = {name: mean(one["score"] for one in some) for name, some in found.items() if some}
        seconds = {name: median(one["seconds"] for one in some) for name, some in found.items() if some}
        for name in score:
            goal = SHARE * score["trainer"] if "trainer" in score else float("nan")
            cells = [data, ("headstart: " if name in OURS else "") + name, f"{score[name]:.4f}",
                     f"{seconds[name]:.0f}", len(found[name])]
            if name in OURS:
                faster = {peer: seconds[peer] / seconds[name] for peer in FACTORS if peer in seconds}
                cells += [met(score[name] >= goal), *(
                    f"{faster[peer]:.1f}x ({met(faster[peer] >= FACTORS[peer])})" if peer in faster else ""
                    for peer in FACTORS)]
            rows.append([*cells, *[""] * (8 - len(cells))])
    return markdown(["data", "system", "accuracy, mean", "seconds, median", "runs",
                     f"at least {SHARE:.0%} of the Trainer's",
                     *(f"faster than {peer}, at least {factor:g}x" for peer, factor in FACTORS.items())], rows)
