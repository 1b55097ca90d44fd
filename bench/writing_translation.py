"""`bench writing`: English to German with an encoder that stays as it is, beside the same shape without knowledge.

A cell is one number of train rows and of steps for all of its runs: the Spec as it is shipped (`pretrained`), the same
with an encoder of random weights that stays as it is, too (`random-encoder`), and the same shape from random weights,
all of which move (`random`). The same test rows, paired: what is left of the gain is knowledge carried over.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import Cell, Run, markdown, met, writing_fits

RUNS = ("pretrained", "random-encoder", "random")
CELLS: dict[str, dict[str, Any]] = {
    "multi30k": {"rows": 29_000, "steps": 2_200, "runs": ["pretrained"]},
    "multi30k-1000": {"rows": 1_000, "steps": 200, "runs": [*RUNS]},
    "multi30k-5000": {"rows": 5_000, "steps": 200, "runs": [*RUNS]},
    "multi30k-29000": {"rows": 29_000, "steps": 800, "runs": [*RUNS]},
}
NAMES = tuple(CELLS)
FLOORS = {"multi30k": {"bleu": 0.28, "chrf": 0.55}}
BASELINES = ("copy", "word-table", "nearest", "before-training")


def cells(quick: bool) -> list[Cell]:
    return [{"name": name, **cell, **({"rows": 40, "steps": 2, "test_rows": 8} if quick else {})}
            for name, cell in CELLS.items()]


def measure(name: str, rows: int, steps: int, runs: Sequence[str], test_rows: int | None = None) -> dict[str, Any]:
    """Every run of a cell, and what the first has more than each other and than the baselines."""
    import headstart

    outcomes: dict[str, Any] = {}
    costs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["HEADSTART_CACHE"] = str(folder / "cache")  # empty: nothing was computed before
        for kind in runs:
            settings = settings_of(kind, rows, steps, test_rows, folder)
            run = headstart.fit(writing_fits.shipped("multi30k", folder), out=folder / kind,
                                layers=[("bench", settings)], seed=0)
            of_run = run.outcomes()
            outcomes |= {kind: of_run["fitted"]} | ({n: o for n, o in of_run.items() if n != "fitted"}
                                                    if kind == "pretrained" else {})
            scores = run.scores
            costs[kind] = {"train_s": scores["cost"]["train_seconds"], "total_s": scores["cost"]["total_seconds"],
                           "steps": scores["cost"]["n_steps"], "peak_mb": scores["cost"]["peak_rss_mb"],
                           "curve": [[e["epoch"], e["scores"]["likelihood"]] for e in scores["curve"]]}
        systems = writing_fits.compared(run.task, outcomes, scores["n_test"], run.spec.evaluate.n_resamples, 0)
    return {"systems": systems, "costs": costs, "n_test": scores["n_test"], "metric": scores["metric"],
            "command": command(rows, steps)}


def settings_of(kind: str, rows: int, steps: int, test_rows: int | None, folder: Path) -> dict[str, Any]:
    """What a run sets beside the shipped Spec."""
    settings: dict[str, Any] = {
        "data": {"limit": rows, "validation_limit": test_rows or 500, "test_limit": test_rows},
        "train": {"max_steps": steps, "epochs": 1_000},  # steps end it
        "evaluate": {"baselines": kind == "pretrained", "tokens_per_batch": 4096}}
    if kind != "pretrained":
        settings["encoder_decoder"] = {"encoder": str(random_encoder(folder / "random-encoder-model"))}
    if kind == "random":
        settings["encoder_decoder"] |= {"decoder": None}
        settings["method"] = {"encoder": "all", "freeze_embeddings": False}
    return settings


def random_encoder(folder: Path) -> Path:
    """MiniLM's shape and tokenizer with weights drawn at random, as transformers draws them."""
    if not folder.exists():
        import torch
        import transformers

        from headstart.models.backbone import load_backbone

        backbone = load_backbone("minilm-l6", 512)
        torch.manual_seed(0)
        transformers.AutoModel.from_config(backbone.config).save_pretrained(folder)
        backbone.reader.tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def command(rows: int, steps: int) -> str:
    """The command line of the first run."""
    return (f"headstart fit specs/multi30k.yaml --set data.limit={rows} --set data.validation_limit=500 --set "
            f"train.epochs=1000 --set train.max_steps={steps}")


def table(runs: Sequence[Run]) -> str:
    return "\n\n".join(section(run.cell["name"], run.cell, run.result) for run in runs if run.cell["name"] in CELLS)


def section(name: str, cell: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    systems, costs = result["systems"], result["costs"]
    first = systems["pretrained"]["scores"]
    demand = "".join(f" Demanded: {score} >= {floor}; met: {met(first[score] >= floor)}."
                     for score, floor in FLOORS.get(name, {}).items())
    lines = []
    for system, values in systems.items():
        gain = "" if "gain" not in values else (
            f"{100 * values['gain']:+.1f} [{100 * values['gain_interval'][0]:+.1f}, "
            f"{100 * values['gain_interval'][1]:+.1f}]")
        low, high = values["interval"]
        cost = costs.get(system, {})
        lines.append([system, f"{100 * values['scores']['bleu']:.1f}", f"[{100 * low:.1f}, {100 * high:.1f}]",
                      f"{100 * values['scores']['chrf']:.1f}", gain,
                      f"{cost['train_s']:,.0f}" if cost else "", f"{cost['total_s']:,.0f}" if cost else ""])
    about = (f"**{name}** ({cell['rows']:,} train rows, {result['n_test']:,} test rows, {cell['steps']:,} steps; "
             f"peak memory {result['peak_mb']:,.0f} MB): `{result['command']}`.{demand}")
    return f"{about}\n\n" + markdown(["system", "BLEU", "interval", "chrF", "pretrained - it, points of BLEU",
                                      "training, s", "whole run, s"], lines)
