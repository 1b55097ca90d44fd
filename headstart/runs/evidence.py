"""Did transfer help? Everything is scored on the same rows and compared pair by pair, with intervals.

Source  Efron & Tibshirani 1993 (bootstrap); Koehn 2004, "Statistical Significance Tests for Machine Translation
        Evaluation" (paired resamples).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core import statistics
from ..core.scores import Cut, Gain, Score, Scores, Truncation
from ..core.task import Task

TITLES = {  # of the baselines that no task brings: `Task.baseline_titles` has the others
    "before-training": "the model before training",
    "frozen-backbone": "the frozen backbone with a linear head",
}


def certify(task: Task, fitted: np.ndarray, baselines: Mapping[str, np.ndarray], *, method: str, n_resamples: int,
            seed: int) -> Scores:
    """Score outcomes of the fitted model and of every baseline on the same rows; differences are taken resample by
    resample.

    Returns  the comparison and its verdict: the heart of scores.json.
    """
    metric, n, systems = task.metric, len(fitted), [fitted, *baselines.values()]
    scores_SR = statistics.bootstrap(lambda o: task.score(o)[metric], systems, n_resamples, seed)
    all_S = [task.score(outcomes) for outcomes in systems]
    scored = [Score(metrics[metric], statistics.interval(scores_R), n, seed, metrics)
              for metrics, scores_R in zip(all_S, scores_SR, strict=True)]
    gains = {name: Gain(scored[0].value - scored[s].value, statistics.interval(scores_SR[0] - scores_SR[s]), n, seed)
             for s, name in enumerate(baselines, 1)}
    of_baselines = dict(zip(baselines, scored[1:], strict=True))
    kind, verdict = judge(method, of_baselines, gains, TITLES | dict(task.baseline_titles))
    return Scores(metric, scored[0], of_baselines, gains, verdict, kind)


def judge(method: str, baselines: Mapping[str, Score], gains: Mapping[str, Gain],
          titles: Mapping[str, str]) -> tuple[str, str]:
    """(kind, verdict in words). Positive only when the interval of every gain lies above zero."""
    if not gains:
        return "undecided", "no baselines were scored (evaluate.baselines is false)"

    def in_words(name: str, against: str = "over") -> str:
        return f"{_points(gains[name])[0]} points {against} {titles.get(name, name)} {_points(gains[name])[1]}"

    worse = [name for name, gain in gains.items() if gain.interval[1] < 0]
    unproven = [name for name, gain in gains.items() if name not in worse and gain.interval[0] <= 0]
    strongest = max(gains, key=lambda name: baselines[name].value)
    if worse:
        return "negative", "negative transfer: " + "; ".join(in_words(name, "against") for name in worse)
    if unproven:
        return "undecided", (f"no proof that {method} beats "
                             + " or ".join(titles.get(name, name) for name in unproven) + ": "
                             + "; ".join(map(in_words, unproven)))
    return "positive", f"positive transfer: {in_words(strongest)}"


def _points(gain: Gain) -> tuple[str, str]:
    """Difference and interval, times a hundred."""
    low, high = gain.interval
    return f"{100 * gain.difference:+.1f}", f"[{100 * low:+.1f}, {100 * high:+.1f}]"


def truncation(task: Task, outcomes: np.ndarray, max_tokens: int, n_cut_N: Mapping[str, np.ndarray],
               n_tokens: Mapping[str, int]) -> Truncation:
    """What was cut of train and test, and the score on test rows that were cut and on those that were read whole.

    outcomes: of the test rows.
    n_cut_N: for each split, how many tokens each row lost. n_tokens: for each split, how many tokens were read.
    """
    cut, whole = outcomes[n_cut_N["test"] > 0], outcomes[n_cut_N["test"] == 0]
    train, test = (Cut(len(n), int((n > 0).sum()), float(n.sum() / (n.sum() + n_tokens[part])))
                   for part, n in ((part, n_cut_N[part]) for part in ("train", "test")))
    score_cut, score_whole = (task.score(part)[task.metric] if len(part) else None for part in (cut, whole))
    return Truncation(max_tokens, train, test, len(cut), score_cut, len(whole), score_whole)


def summary(scores: Scores, folder: Path) -> dict[str, Any]:
    """What `fit --json` prints: one flat object with the proof and the cost."""
    fitted, cost = scores.fitted, scores.cost
    return {
        "artifact": str(folder), "report": str(folder / "report.html"), "metric": scores.metric, "score": fitted.value,
        "interval": list(fitted.interval or ()), "n_test": fitted.n,
        "baselines": {name: baseline.value for name, baseline in scores.baselines.items()},
        "gain_over": {name: gain.to_json() for name, gain in scores.gains.items()}, "verdict": scores.verdict,
        "verdict_kind": scores.verdict_kind, "scores": fitted.metrics, "seed": fitted.seed,
        "train_seconds": cost.train_seconds, "train_tokens_per_s": cost.train_tokens_per_s,
        "peak_rss_mb": cost.peak_rss_mb, "total_seconds": cost.total_seconds,
    }


def summary_text(scores: Scores, folder: Path) -> str:
    """The same for people: the verdict, then a line for every system on the same test rows."""
    systems = {f"{scores.method} (this run)": scores.fitted, **scores.baselines}
    width = max(map(len, systems))
    lines = [scores.verdict, "", f"{scores.metric} on {scores.fitted.n:,} test rows, 95 % interval"]
    for name, score in systems.items():
        interval = " [{:.4f}, {:.4f}]".format(*score.interval) if score.interval else ""
        gain = scores.gains.get(name)
        against = "   this run {} points {}".format(*_points(gain)) if gain else ""
        lines.append(f"  {name:<{width}}  {score.value:.4f}{interval}{against}")
    return "\n".join([*lines, "", f"artifact  {folder}", f"report    {folder / 'report.html'}"])
