"""how good the models are, on real data

`headstart fit --method fine-tuning` with `minilm-l6` and its defaults except for what the command shows. Checkpoints
are chosen on validation rows (carved from train where the data brings none), never on the test rows. Every number of a
row is of the same test rows; the interval is the first seed's 95 % bootstrap interval over them; seeds drive split,
order, new weights and dropout. "NAME_thorough" is NAME with dropout, moving embeddings and half the tokens a batch,
which was best, by a tie, in `python -m bench defaults --only default,thorough`; "NAME_soup" is NAME with the mean of
three trainings from the same first weights, three times the time. Both are measured only on request.
"""

from __future__ import annotations

import itertools
import json
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from bench import DATA, Cell, Run, markdown, met, of, read_jsonl, shown
from bench.defaults import THOROUGH

ON_REQUEST = ("sst2_10k_thorough", "sst2_full_thorough", "sst2_10k_soup", "sst2_full_soup")
FLOORS = {"sst2_10k": 0.87, "sst2_full": 0.905, "trec": 0.955, "banking77": 0.93, "financial_phrasebank_50agree": 0.84}
PARTS = ("train", "validation", "test")
DOMAINS = ("books", "dvd", "electronics", "kitchen")
# Both sides of the cross-domain question have as many rows, and take as many steps of the same size.
AMAZON = {"data.max_tokens": 128, "data.limit": 1400, "train.max_steps": 250}
QUICK = {"data.limit": 200, "data.validation_limit": 40, "data.test_limit": 40, "train.max_steps": 3}


def cells(quick: bool) -> list[Cell]:
    """train and test are files of the shared data; "first" and "domains" choose rows of them."""
    sst2: Cell = {"train": "sst2/train.jsonl", "test": "sst2/validation.jsonl"}
    amazon: Cell = {part: f"amazon_multidomain_sentiment/{part}.jsonl" for part in ("train", "test")}
    phrases: Cell = {part: f"financial_phrasebank_50agree/{part}.jsonl" for part in ("train", "validation", "test")}
    banking: Cell = {"train": "banking77/train.jsonl", "test": "banking77/test.jsonl"}
    probe: Cell = {"settings": {"method.name": "linear-probe"}}
    thorough: Cell = {"settings": {"method.name": "fine-tuning", **THOROUGH}}
    soup = {"method.name": "fine-tuning", "method.average": "soup"}
    several = (0,) if quick else (0, 1, 2)
    plan = [
        *({"name": "trec", "seed": s, "train": "trec/train.jsonl", "test": "trec/test.jsonl"} for s in several),
        *({"name": "banking77_probe", "seed": s, **banking, **probe} for s in several),
        *({"name": "sst2_10k", "seed": s, **sst2, "first": 10_000} for s in several),
        *({"name": "financial_phrasebank_50agree", "seed": s, **phrases} for s in several),
        *({"name": "banking77", "seed": s, **banking} for s in several),
        *({"name": "amazon", "seed": 0, **amazon, "train_domains": trained, "test_domains": [d], "settings": AMAZON}
          for d in DOMAINS[: 1 if quick else None] for trained in ([d], [other for other in DOMAINS if other != d])),
        {"name": "sst2_full", "seed": 0, **sst2},
        *({"name": "sst2_10k_thorough", "seed": s, **sst2, "first": 10_000, **thorough} for s in several),
        {"name": "sst2_full_thorough", "seed": 0, **sst2, **thorough},
        *({"name": "sst2_10k_soup", "seed": s, **sst2, "first": 10_000, "settings": soup} for s in several),
        {"name": "sst2_full_soup", "seed": 0, **sst2, "settings": soup | {"train.epochs": 2}},
    ]
    return [cell | {"settings": cell.get("settings", {}) | QUICK} for cell in plan] if quick else plan


def measure(**cell: Any) -> dict[str, Any]:
    """One fit, its folder deleted afterwards."""
    import headstart
    from headstart.core import spec as specs

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {f"data.{part}": str(_file(cell, part, folder)) for part in PARTS if part in cell}
        given = specs.parse_set([f"{k}={json.dumps(v)}" for k, v in (files | cell.get("settings", {})).items()])
        given = {"method": {"name": "fine-tuning"}} | given
        began = time.perf_counter()
        scores = headstart.fit({**given, "seed": cell["seed"]}, out=folder / "run").scores
        seconds = time.perf_counter() - began
    return {"score": scores["score"], "interval": scores["interval"], "metric": scores["metric"],
            "baselines": {k: v["score"] for k, v in scores["baselines"].items()}, "verdict": scores["verdict"],
            "n_train": scores["data"]["n_train"], "n_validation": scores["data"]["n_validation"],
            "n_test": scores["n_test"], "wall_s": seconds, "cost": scores["cost"], "command": command(cell),
            "curve": [{"epoch": e["epoch"], "score": e["scores"][scores["metric"]], "is_best": e["is_best"]}
                      for e in scores["curve"]]}


def _file(cell: Cell, part: str, folder: Path) -> Path:
    """The file of `part`; a temporary one where only some of its rows are meant."""
    path = DATA / str(cell[part])
    domains, first = cell.get(f"{part}_domains"), cell.get("first") if part == "train" else None
    if domains is None and first is None:
        return path
    rows: Iterator[dict[str, Any]] = (r for r in read_jsonl(path) if domains is None or r["domain"] in domains)
    chosen = folder / f"{part}.jsonl"
    with chosen.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in itertools.islice(rows, first))
    return chosen


def command(cell: Cell) -> str:
    """The command line that does what `measure` does, run in the repository."""
    before, paths = [], {}
    for part in (part for part in PARTS if part in cell):
        source, chosen = shlex.quote(shown(DATA / cell[part])), f"/tmp/{part}.jsonl"
        if domains := cell.get(f"{part}_domains"):
            before.append(f"grep -E '\"domain\": \"({'|'.join(domains)})\"' {source} > {chosen}")
        elif part == "train" and "first" in cell:
            before.append(f"head -n {cell['first']} {source} > {chosen}")
        else:
            chosen = source
        paths[part] = chosen
    settings = [f"data.{part}={paths[part]}" for part in PARTS[1:] if part in paths]
    settings += [f"{k}={v}" for k, v in ({"method.name": "fine-tuning"} | cell.get("settings", {})).items()]
    fit = " ".join([f"headstart fit {paths['train']}", *(f"--set {one}" for one in settings), f"--seed {cell['seed']}"])
    return "; ".join([*before, fit])


def table(runs: Sequence[Run]) -> str:
    names = [name for name in dict.fromkeys(run.cell["name"] for run in runs) if name != "amazon"]
    rows = [_row(name, of(runs, name=name)) for name in names]
    header = ["data", "score, mean", "each seed", "interval, first seed", "demanded", "met", "tf-idf",
              "frozen backbone", "before training", "majority", "n train / validation / test", "wall s, mean",
              "train tokens/s, mean"]
    parts = [markdown(header, rows)] if rows else []
    if amazon := of(runs, name="amazon"):
        parts.append(_amazon(amazon))
    commands = {f"{run.cell['name']}, seed {run.cell['seed']}": run.result["command"] for run in runs
                if run.cell["name"] == "amazon" or run == of(runs, name=run.cell["name"])[0]}
    lines = ["Any of them again: `python -m bench quality --only NAME --seeds SEED --fresh`; by hand, a seed of each:",
             "", *(f"- {what}: `{command}`" for what, command in commands.items())]
    return "\n\n".join([*parts, "\n".join(lines)])


def _row(name: str, runs: list[Run]) -> list[str]:
    scores = [run.result["score"] for run in runs]
    first, floor = runs[0].result, FLOORS.get(name.removesuffix("_thorough").removesuffix("_soup"))
    low, high = first["interval"]

    def baseline(key: str) -> str:
        found = [run.result["baselines"][key] for run in runs if key in run.result["baselines"]]
        return f"{mean(found):.4f}" if found else "itself"

    return [name, f"**{mean(scores):.4f}**", ", ".join(f"{r.cell['seed']}: {r.result['score']:.4f}" for r in runs),
            f"[{low:.4f}, {high:.4f}]", f">= {floor}" if floor else "", met(mean(scores) >= floor) if floor else "",
            *map(baseline, ("tf-idf", "frozen-backbone", "before-training", "majority")),
            f"{first['n_train']:,} / {first['n_validation']:,} / {first['n_test']:,}",
            f"{mean([run.result['wall_s'] for run in runs]):.0f}",
            f"{mean([run.result['cost']['train_tokens_per_s'] or 0 for run in runs]):,.0f}"]


def _amazon(runs: list[Run]) -> str:
    """Trained on the other three domains against trained on the domain itself, tested on the same rows."""
    rows = []
    for domain in DOMAINS:
        tested = [run for run in runs if run.cell["test_domains"] == [domain]]
        own = next((run for run in tested if run.cell["train_domains"] == [domain]), None)
        others = next((run for run in tested if run.cell["train_domains"] != [domain]), None)
        difference = f"{100 * (others.result['score'] - own.result['score']):+.1f} points" if own and others else ""
        rows.append([domain, *_side(others), *_side(own), difference])
    used = ", ".join(f"{k}={v}" for k, v in runs[0].cell["settings"].items())
    about = (f"amazon_multidomain_sentiment, seed 0, {used} on both sides: "
             "trained on three domains and tested on the fourth, against trained on the fourth's own train rows. A "
             "linear probe of the same rows stands beside each (the certificate's frozen backbone).")
    header = ["tested on", "others: fine-tuning [interval]", "probe", "tf-idf", "n train", "wall s",
              "own: fine-tuning [interval]", "probe", "tf-idf", "n train", "wall s", "others - own"]
    return about + "\n\n" + markdown(header, rows)


def _side(run: Run | None) -> list[str]:
    if run is None:
        return ["not run"] + [""] * 4
    found = run.result
    low, high = found["interval"]
    return [f"**{found['score']:.4f}** [{low:.4f}, {high:.4f}], n {found['n_test']}",
            f"{found['baselines']['frozen-backbone']:.4f}", f"{found['baselines']['tf-idf']:.4f}",
            f"{found['n_train']:,}", f"{found['wall_s']:.0f}"]
