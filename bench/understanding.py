"""every understanding task on real data, by the shipped Specs

`headstart fit specs/NAME.yaml`, `data/` being the shared data. Checkpoints are chosen on validation rows, never on the
test rows. Every number of a row is of the same test rows; the interval is the first seed's 95 % bootstrap interval over
them; seeds drive split, order, new weights and dropout. "faq_questions" is specs/faq_search.yaml tested on pairs of
questions that mean the same, the second to be found by the first; before-training is what the encoder finds unfitted.
"commonsense_qa_3000" is specs/commonsense_qa.yaml on 3,000 of its train rows for one epoch. "NAME_from_stsb" starts
where the run of specs/stsb.yaml ended, which is fitted once and kept in runs/; "NAME_from_cloze" where a run on
questions ended that were made out of SQuAD's train texts and of WikiText-2 (data/cloze.py). "mrpc_N" and "squad_N"
are points of a learning curve: the same Spec on N of its train rows, squad's tested on 2,000 of its test rows.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from bench import DATA, ROOT, Cell, Run, markdown, met, of, read_jsonl, write_jsonl

# name -> {score: the least that was asked for}
FLOORS: dict[str, dict[str, float]] = {
    "conll2003": {"f1": 0.875}, "semeval2010_task8": {"macro_f1": 0.82}, "squad": {"f1": 0.68, "exact_match": 0.56},
    "mrpc": {"accuracy": 0.83}, "rte": {"accuracy": 0.62}, "stsb": {"spearman": 0.80},
    "intents": {"in_scope_accuracy": 0.955}, "chinese_hotels": {"accuracy": 0.9}}
STATED = {"intents": ["out_of_scope_recall"], "faq_search": ["recall_at_1"], "faq_questions": ["recall_at_1"]}
SEVERAL = ("mrpc", "rte", "stsb", "stsb_embeddings", "copa")  # under ten minutes: three seeds
# a cell -> the Spec that it runs otherwise than shipped, and what is set otherwise
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "faq_questions": ("faq_search", {}),
    "commonsense_qa_3000": ("commonsense_qa", {"data": {"limit": 3000}, "train": {"epochs": 1}}),
    "mrpc_from_stsb": ("mrpc", {"backbone": "stsb"}),
    "rte_from_stsb": ("rte", {"backbone": "stsb", "train": {"epochs": 6}}),
    "mrpc_1000": ("mrpc", {"data": {"limit": 1000}}),
    "mrpc_2000": ("mrpc", {"data": {"limit": 2000}}),
    "mrpc_from_cloze": ("mrpc", {"backbone": "cloze"}),
    "rte_from_cloze": ("rte", {"backbone": "cloze"}),
    "squad_from_cloze": ("squad", {"backbone": "cloze"}),
    "squad_1000": ("squad", {"data": {"limit": 1000, "test_limit": 2000}}),
    "squad_2000": ("squad", {"data": {"limit": 2000, "test_limit": 2000}})}
NAMES = ("mrpc", "rte", "stsb", "semeval2010_task8", "conll2003", "stsb_embeddings", "copa", "intents", "bitext_flags",
         "faq_search", "chinese_hotels", "squad", "commonsense_qa", *VARIANTS)
MODELS = Path(os.environ.get("HEADSTART_MODELS", Path.home() / ".cache" / "headstart-models"))
QUICK = {"data": {"limit": 120, "validation_limit": 30, "test_limit": 30}, "train": {"max_steps": 3},
         "evaluate": {"n_resamples": 100}}


def cells(quick: bool) -> list[Cell]:
    plan = [{"name": name, "seed": seed} for name in NAMES
            for seed in ((0, 1, 2) if name in SEVERAL and not quick else (0,))]
    return [cell | {"settings": QUICK} for cell in plan] if quick else plan


def measure(**cell: Any) -> dict[str, Any]:
    """One fit of a shipped Spec, its folder deleted afterwards."""
    import headstart

    name, otherwise = VARIANTS.get(cell["name"], (cell["name"], {}))
    asked = shipped(name)
    with tempfile.TemporaryDirectory() as folder:
        if cell["name"] == "faq_questions":
            asked["data"]["test"] = str(similar_questions(Path(folder)))
        if "backbone" in otherwise:
            otherwise = otherwise | {"backbone": str(_fitted(otherwise["backbone"], cell))}
        layers = [("variant", otherwise), ("bench", cell.get("settings", {}))]
        began = time.perf_counter()
        scores = headstart.fit(asked, out=Path(folder) / "run", layers=layers, seed=cell["seed"]).scores
        seconds = time.perf_counter() - began
    return {"task": scores["task"], "metric": scores["metric"], "score": scores["score"], "scores": scores["scores"],
            "interval": scores["interval"], "baselines": {k: v["scores"] for k, v in scores["baselines"].items()},
            "verdict": scores["verdict"], "n_train": scores["data"]["n_train"], "n_test": scores["n_test"],
            "wall_s": seconds, "cost": scores["cost"],
            "curve": [{"epoch": e["epoch"], "score": e["scores"][scores["metric"]]} for e in scores["curve"]]}


def _fitted(name: str, cell: Cell) -> Path:
    """The run of a shipped Spec, or of what comes before it, made when it is not there."""
    import headstart

    settings = cell.get("settings", {})
    folder = ROOT / "runs" / f"bench-{name}-{cell['seed']}{'-quick' if settings else ''}"
    if not folder.exists():
        asked = practice(cell["seed"]) if name == "cloze" else shipped(name)
        headstart.fit(asked, out=folder, layers=[("bench", settings)], seed=cell["seed"])
    return folder


def practice(seed: int) -> dict[str, Any]:
    """specs/squad.yaml on questions that were made out of texts, once over; tested on people's questions, 500 of
    SQuAD's train rows."""
    from headstart.data import cloze

    folder, asked = ROOT / "runs" / f"bench-cloze-{seed}-rows", shipped("squad")
    folder.mkdir(parents=True, exist_ok=True)
    texts = list(dict.fromkeys(row["context"] for row in read_jsonl(Path(asked["data"]["train"]))))
    articles = [row["text"] for part in ("train", "validation", "test")
                for row in read_jsonl(DATA / "wikitext2" / f"{part}.jsonl")]
    others = [text for article in articles for text in cloze.paragraphs(article)]
    rows = [*cloze.questions(texts, 10, seed), *cloze.questions(others, 6, seed)]
    data = {**write_jsonl(folder, train=rows), "test": asked["data"]["train"], "test_limit": 500}
    return {**asked, "data": data, "train": {**asked["train"], "epochs": 1}, "evaluate": {"baselines": False}}


def shipped(name: str) -> dict[str, Any]:
    """A shipped Spec, with its data and its model where they lie here."""
    from headstart.core import spec as specs

    asked = specs.read_spec(ROOT / "specs" / f"{name}.yaml")
    for key, value in asked["data"].items():
        if isinstance(value, str) and value.startswith("data/"):
            asked["data"][key] = str(DATA / value.removeprefix("data/"))
    if "backbone" in asked:
        asked["backbone"] = str(MODELS / asked["backbone"].removeprefix("models/"))
    return asked


def similar_questions(folder: Path) -> Path:
    """The pairs of COVID-QA's test that ask the same: the second question is to be found by the first."""
    pairs = read_jsonl(DATA / "covid_faq" / "question_pairs_test.jsonl")
    return Path(write_jsonl(folder, questions=[{"text": one["text_a"], "text_pair": one["text_b"]} for one in pairs
                                               if one["label"] == "similar"])["questions"])


def table(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(run.cell["name"] for run in runs))
    header = ["Spec", "task", "measure", "mean", "each seed", "interval, first seed", "demanded", "met", "baselines",
              "n train / test", "wall s, mean", "train tokens/s, mean"]
    rows = [row for name in names for row in _rows(name, of(runs, name=name))]
    firsts = [of(runs, name=name)[0].result for name in names]
    curves = [f"- {name}: " + ", ".join(f"{e['epoch']:g}: {e['score']:.4f}" for e in first["curve"])
              for name, first in zip(names, firsts, strict=True)]
    again = "Any of them again: `headstart fit specs/NAME.yaml --seed SEED`, with the rows in `data/`."
    return "\n\n".join([markdown(header, rows), again, "Validation by epoch, first seed:\n\n" + "\n".join(curves)])


def _rows(name: str, runs: list[Run]) -> list[list[str]]:
    """A line for the task's own metric, and one for every other score that was asked for."""
    first, floors = runs[0].result, FLOORS.get(name.partition("_from_")[0], {})
    low, high = first["interval"]
    lines = []
    for measure_name in dict.fromkeys([first["metric"], *floors, *STATED.get(name, [])]):
        scores, floor = [run.result["scores"][measure_name] for run in runs], floors.get(measure_name)
        is_main = measure_name == first["metric"]
        lines.append([
            name, first["task"], measure_name, f"**{mean(scores):.4f}**",
            ", ".join(f"{run.cell['seed']}: {score:.4f}" for run, score in zip(runs, scores, strict=True)),
            f"[{low:.4f}, {high:.4f}]" if is_main else "", f">= {floor}" if floor else "",
            met(mean(scores) >= floor) if floor else "",
            ", ".join(f"{k} {v[measure_name]:.4f}" for k, v in first["baselines"].items() if measure_name in v),
            f"{first['n_train']:,} / {first['n_test']:,}", f"{mean([run.result['wall_s'] for run in runs]):.0f}",
            f"{mean([run.result['cost']['train_tokens_per_s'] or 0 for run in runs]):,.0f}"])
    return lines
