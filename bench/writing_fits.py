"""`bench writing`: shipped Specs of tasks that write, run to their certificates, with marks beside them.

A cell is data: {"name", "spec": one of specs/, "settings": what is set otherwise, "seed"}. A further task is a further
line of FITS; what it must beat, and marks that no certificate has, stand beside it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import DATA, Cell, Run, markdown, met, writing_rows

if TYPE_CHECKING:
    from headstart.tasks.writing.pairs import Pair

Mark = Callable[["Sequence[Pair]", "Sequence[Pair]"], list[str]]  # train pairs, test pairs -> a text for each of these

EVALUATE = {"evaluate": {"tokens_per_batch": 8192}}  # some 24 texts at once
# name -> the Spec, and what is set otherwise
FITS: dict[str, tuple[str, dict[str, Any]]] = {
    "scitldr-320": ("scitldr", {"data": {"limit": 320, "validation_limit": 60, "test_limit": None}, **EVALUATE}),
    "dialogsum": ("dialogsum", {"data": {"test_limit": 160}}),
    "replies": ("star_replies", {}),
    "keywords": ("multi30k_keywords", {}),
    "keywords-asked": ("multi30k_keywords", {"task": {"constrained": False, "metric": "control_success"}}),
    "scitldr-all": ("scitldr", {"data": {"limit": None, "validation_limit": 60, "test_limit": None},
                                "train": {"epochs": 1}, **EVALUATE}),
}
# name -> {score: the least that was asked for}
FLOORS: dict[str, dict[str, float]] = {"scitldr-320": {"rouge_l": 0.34}, "scitldr-all": {"rouge_l": 0.35}}
TO_BEAT: Mapping[str, tuple[str, ...]] = {  # over which the gain must be proven; others are marks
    "scitldr-320": ("before-training", "lead-1", "lead-3", "text-rank", "nearest"),
    "scitldr-all": ("before-training", "lead-1", "lead-3", "text-rank", "nearest"),
    "dialogsum": ("before-training", "lead-3"), "replies": ("before-training", "bm25", "most-frequent"),
    "keywords": ("before-training",), "keywords-asked": ("before-training",)}
NAMES = tuple(FITS)
QUICK = {"data": {"limit": 24, "validation_limit": 8, "test_limit": 8}, "train": {"max_steps": 2},
         "evaluate": {"n_resamples": 100}}
SHOWN = ("rouge_1", "rouge_2", "rouge_l", "bleu", "chrf", "token_f1", "control_success", "length_ratio", "perplexity")


def cells(quick: bool) -> list[Cell]:
    return [{"name": name, "spec": spec, "seed": 0, "settings": merged(settings, QUICK) if quick else settings}
            for name, (spec, settings) in FITS.items()]


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which those of `second` come last."""
    return {key: {**first.get(key, {}), **second.get(key, {})} for key in {**first, **second}}


def measure(name: str, spec: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One fit of a shipped Spec; its folder is deleted afterwards."""
    import headstart

    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADSTART_CACHE"] = str(Path(folder) / "cache")  # empty: nothing was computed before
        run = headstart.fit(shipped(spec, Path(folder)), out=Path(folder) / "run", layers=[("bench", settings)],
                            seed=seed)
        scores = run.scores
        outcomes = {**run.outcomes(), **marks(run)}
        systems = compared(run.task, outcomes, scores["n_test"], run.spec.evaluate.n_resamples, seed)
    cost = scores["cost"]
    return {"task": scores["task"], "metric": scores["metric"], "systems": systems, "verdict": scores["verdict"],
            "n_train": scores["data"]["n_train"], "n_test": scores["n_test"], "cost": cost,
            "command": command(spec, settings, seed), "kept": scores.get("kept"),
            "curve": [{"epoch": e["epoch"], **e["scores"]} for e in scores["curve"]]}


def shipped(name: str, folder: Path) -> dict[str, Any]:
    """A shipped Spec; rows that must be made are made in `folder`."""
    from bench import understanding

    asked = understanding.shipped(name)
    for made in writing_rows.MADE:
        paths = {key: value for key, value in asked["data"].items() if str(value).startswith(str(DATA / made))}
        if paths and not (DATA / made).exists():
            there = writing_rows.make(made, DATA, folder)
            asked["data"] |= {key: str(there) + value.removeprefix(str(DATA / made)) for key, value in paths.items()}
    return asked


def compared(task: Any, outcomes: Mapping[str, Any], n: int, n_resamples: int, seed: int) -> dict[str, Any]:
    """Of every system its scores and the interval of the metric, and what the fitted one has more, paired."""
    from headstart.core import statistics

    paired = statistics.paired(task, list(outcomes.values()), n_resamples, seed)
    systems: dict[str, Any] = {}
    for s, (name, of_system) in enumerate(outcomes.items()):
        assert len(of_system) == n, "the same rows"
        gain = paired.difference(0, s)
        systems[name] = {"scores": task.score(of_system), "interval": list(paired.interval(s))} | (
            {"gain": gain.value, "gain_interval": list(gain.interval), "is_proven": gain.is_proven} if s else {})
    return systems


def marks(run: Any) -> dict[str, Any]:
    """Outcomes of systems that stand in no certificate, on the run's own test rows in its order."""
    import numpy as np

    from headstart.data import splits
    from headstart.data.table import read_splits

    functions = MARKS.get(run.task.name, {})
    if not functions:
        return {}
    parts = splits.make(read_splits(run.spec.data, run.task), run.spec.data, run.task, run.spec.seed)
    rows = [parts.test.rows[i] for i in np.argsort(parts.test.lines_N, kind="stable")]
    train, test = list(map(run.task.pair, parts.train.rows)), list(map(run.task.pair, rows))
    return {name: run.task.outcomes([{"text": text} for text in mark(train, test)], rows)
            for name, mark in functions.items()}


def oracle_sentence(train: Sequence[Pair], test: Sequence[Pair]) -> list[str]:
    """The sentence of the source that is best for the references: it looks at them, and is no baseline."""
    from headstart.tasks.writing import baselines

    return baselines.oracle_sentence(train, test, 0)


def bm25(train: Sequence[Pair], test: Sequence[Pair], k: float = 1.5, b: float = 0.75) -> list[str]:
    """The target of the train pair whose source answers best to the row's, by Okapi BM25 with the usual constants.

    Source  Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond".
    """
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(token_pattern=r"\w+")
    counts_NF = vectorizer.fit_transform([pair.source for pair in train]).astype(np.float64).tocsr()
    queries_MF = (vectorizer.transform([pair.source for pair in test]) > 0).astype(np.float64)
    lengths_N = np.asarray(counts_NF.sum(1)).ravel()
    n_with_F = np.bincount(counts_NF.indices, minlength=counts_NF.shape[1])
    weights_F = np.log1p((len(train) - n_with_F + 0.5) / (n_with_F + 0.5))
    norm_N = k * (1 - b + b * lengths_N / lengths_N.mean())
    counts = counts_NF.tocoo()
    counts.data *= (k + 1) / (counts.data + norm_N[counts.row]) * weights_F[counts.col]
    return [train[i].targets[0] for i in (queries_MF @ counts.T.tocsr()).toarray().argmax(1)]


MARKS: Mapping[str, Mapping[str, Mark]] = {
    "summarization": {"oracle-sentence": oracle_sentence}, "dialogue": {"bm25": bm25}}


def command(spec: str, settings: Mapping[str, Any], seed: int) -> str:
    """The command line that does the same, in the repository, with the rows in data/."""
    import json

    pairs = [f"{part}.{key}={value if isinstance(value, str) else json.dumps(value)}"
             for part, values in settings.items() for key, value in values.items()]
    return " ".join([f"headstart fit specs/{spec}.yaml", *(f"--set {pair}" for pair in pairs), f"--seed {seed}"])


def table(runs: Sequence[Run]) -> str:
    parts = [section(run.cell["name"], run.result) for run in runs if run.cell["name"] in FITS]
    return "\n\n".join(parts)


def section(name: str, result: Mapping[str, Any]) -> str:
    """One run: what it took, and every system on the same test rows."""
    metric, systems, cost = result["metric"], result["systems"], result["cost"]
    fitted = systems["fitted"]["scores"]
    shown = [score for score in SHOWN if score in fitted]
    to_beat = TO_BEAT.get(name, ())
    rows = [line(system, values, metric, shown, system in to_beat) for system, values in systems.items()]
    header = ["system", *shown, f"{metric}, interval", "fitted - it, points", "to be proven", "proven"]
    demand = "".join(f" Demanded: {score} >= {floor}; met: {met(fitted[score] >= floor)}."
                     for score, floor in FLOORS.get(name, {}).items())
    about = (f"**{name}** ({result['task']}; {result['n_train']:,} train rows, {result['n_test']:,} test rows; "
             f"{result['wall_s']:,.0f} s, of a processor {result['cpu_s']:,.0f} s; training's loop "
             f"{cost['train_seconds']:,.0f} s; peak memory {result['peak_mb']:,.0f} MB): "
             f"`{result['command']}`.{demand}")
    return f"{about}\n\n{markdown(header, rows)}"


def line(system: str, values: Mapping[str, Any], metric: str, shown: Sequence[str], is_to_beat: bool) -> list[str]:
    scores, (low, high) = values["scores"], values["interval"]
    cells = [f"**{scores[score]:.4f}**" if score == metric else f"{scores[score]:.4f}" if score in scores else ""
             for score in shown]
    if "gain" not in values:
        return [system, *cells, f"[{low:.4f}, {high:.4f}]", "", "", ""]
    gain_low, gain_high = values["gain_interval"]
    is_better = values["is_proven"] and values["gain"] > 0
    proven = met(is_better) if is_to_beat else "yes" if is_better else "no"
    return [system, *cells, f"[{low:.4f}, {high:.4f}]",
            f"{100 * values['gain']:+.1f} [{100 * gain_low:+.1f}, {100 * gain_high:+.1f}]",
            "yes" if is_to_beat else "", proven]
