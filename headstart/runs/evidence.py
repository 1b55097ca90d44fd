"""Did transfer help? Everything is scored on the same rows and compared pair by pair, with intervals.

Source  Efron & Tibshirani 1993 (bootstrap); Koehn 2004, "Statistical Significance Tests for Machine Translation
        Evaluation" (paired resamples).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core import statistics
from ..core.task import Task
from ..core.values import Prediction, Row

TITLES = {
    "majority": "the majority class",
    "majority-tag": "the most frequent tag of each word",
    "mean": "the mean of the train rows",
    "tf-idf": "TF-IDF + logistic regression",
    "tf-idf-ridge": "TF-IDF + ridge regression",
    "tf-idf-cosine": "the cosine of TF-IDF vectors",
    "before-training": "the model before training",
    "frozen-backbone": "the frozen backbone with a linear head",
    "first-sentence": "the first sentence",
    "best-sentence": "the sentence most like the question",
    "no-answer": "never answering",
}


def certify(task: Task, rows: Sequence[Row], fitted: Sequence[Prediction], baselines: dict[str, list[Prediction]], *,
            method: str, n_resamples: int, seed: int) -> dict[str, Any]:
    """Score `fitted` and every baseline on the same `rows`; differences are taken resample by resample.

    Returns  score, interval, scores, n_test, baselines, gain_over, verdict, verdict_kind: the heart of scores.json.
    """
    metric = task.metric
    systems = [task.outcomes(predictions, rows) for predictions in (fitted, *baselines.values())]
    scores_SR = statistics.bootstrap(lambda o: task.score(o)[metric], systems, n_resamples, seed)
    all_S = [task.score(outcomes) for outcomes in systems]
    points_S = [found[metric] for found in all_S]
    scored = {name: {"score": points_S[s], "interval": statistics.interval(scores_SR[s]), "scores": all_S[s]}
              for s, name in enumerate(baselines, 1)}
    gains = {name: {"difference": points_S[0] - points_S[s],
                    "interval": statistics.interval(scores_SR[0] - scores_SR[s])}
             for s, name in enumerate(baselines, 1)}
    kind, verdict = judge(method, scored, gains)
    return {"metric": metric, "score": points_S[0], "interval": statistics.interval(scores_SR[0]), "n_test": len(rows),
            "scores": all_S[0], "baselines": scored, "gain_over": gains,
            "verdict": verdict, "verdict_kind": kind}


def judge(method: str, baselines: dict[str, Any], gains: dict[str, Any]) -> tuple[str, str]:
    """(kind, verdict in words). Positive only when the interval of every gain lies above zero."""
    if not gains:
        return "undecided", "no baselines were scored (evaluate.baselines is false)"

    def gain(name: str, against: str = "over") -> str:
        low, high = gains[name]["interval"]
        return (f"{100 * gains[name]['difference']:+.1f} points {against} {TITLES.get(name, name)} "
                f"[{100 * low:+.1f}, {100 * high:+.1f}]")

    worse = [name for name in gains if gains[name]["interval"][1] < 0]
    unproven = [name for name in gains if name not in worse and gains[name]["interval"][0] <= 0]
    strongest = max(gains, key=lambda name: baselines[name]["score"])
    if worse:
        return "negative", "negative transfer: " + "; ".join(gain(name, "against") for name in worse)
    if unproven:
        return "undecided", (f"no proof that {method} beats "
                             + " or ".join(TITLES.get(name, name) for name in unproven) + ": "
                             + "; ".join(map(gain, unproven)))
    return "positive", f"positive transfer: {gain(strongest)}"


def truncation(task: Task, predictions: Sequence[Prediction], rows: Sequence[Row], cut_N: np.ndarray) -> dict[str, Any]:
    """The score on test rows that were cut and on those that were read whole (None where there are none)."""
    outcomes = task.outcomes(predictions, rows)
    parts = {"cut": outcomes[cut_N > 0], "whole": outcomes[cut_N == 0]}
    return {key: value for part, chosen in parts.items() for key, value in (
        (f"n_{part}", len(chosen)), (f"score_{part}", task.score(chosen)[task.metric] if len(chosen) else None))}


def summary(scores: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What `fit --json` prints: one flat object with the proof and the cost."""
    cost = scores["cost"]
    return {
        "artifact": str(folder), "report": str(folder / "report.html"),
        **{key: scores[key] for key in ("metric", "score", "interval", "n_test")},
        "baselines": {name: one["score"] for name, one in scores["baselines"].items()},
        **{key: scores[key] for key in ("gain_over", "verdict", "verdict_kind", "scores", "seed")},
        **{key: cost[key] for key in ("train_seconds", "train_tokens_per_s", "peak_rss_mb", "total_seconds")},
    }


def summary_text(scores: dict[str, Any], folder: Path) -> str:
    """The same for people: the verdict, then a line for every system on the same test rows."""
    named = {f"{scores['method']} (this run)": scores, **scores["baselines"]}
    width = max(map(len, named))
    lines = [scores["verdict"], "", f"{scores['metric']} on {scores['n_test']:,} test rows, 95 % interval"]
    for name, one in named.items():
        low, high = one["interval"]
        gain = scores["gain_over"].get(name)
        against = "" if gain is None else (f"   this run {100 * gain['difference']:+.1f} points "
                                           f"[{100 * gain['interval'][0]:+.1f}, {100 * gain['interval'][1]:+.1f}]")
        lines.append(f"  {name:<{width}}  {one['score']:.4f} [{low:.4f}, {high:.4f}]{against}")
    return "\n".join([*lines, "", f"artifact  {folder}", f"report    {folder / 'report.html'}"])
