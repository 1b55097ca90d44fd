"""Did transfer help? Everything is scored on the same rows and compared pair by pair, with intervals.

Source  core/statistics.py names them for intervals and tests; Koehn 2004, "Statistical Significance Tests for Machine
        Translation Evaluation" (paired resamples).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import statistics
from ..core.likelihood import likelihood
from ..core.scores import Cut, Gain, Score, Scores, Truncation, tested_rows
from ..core.statistics import Difference
from ..core.task import Task
from ..core.values import Prediction
from ..report.teaching import lead

if TYPE_CHECKING:
    from ..training.job import Job  # torch

TITLES = {  # of the baselines that no task brings: `Task.baseline_titles` has the others
    "before-training": "the model before training",
    "frozen-backbone": "the frozen backbone with a linear head",
    "before-reading": "the backbone before it read on",
    "best-member": "the best single member",
    "student-from-labels": "the same student without the teacher",
}
TRANSFER = ("positive transfer", "negative transfer")  # what a verdict calls a proven gain, and a proven loss

GAINS = (0.1, 0.05, 0.02)  # for which a verdict says how many rows prove them: large, usual, small


def certify(task: Task, fitted: np.ndarray, baselines: Mapping[str, np.ndarray], *, method: str, n_resamples: int,
            seed: int, is_seen_N: np.ndarray | None = None, n_folds: int = 0,
            words: tuple[str, str] = TRANSFER) -> Scores:
    """Score outcomes of the fitted model and of every baseline on the same rows, paired.

    is_seen_N: which rows have a twin in train. The verdict is of the others.
    n_folds:   of a cross-validation in which each row was answered; 0 where the rows were held out.
    words:     for a proven gain, and a proven loss.

    Returns  the comparison and its verdict: the heart of scores.json.
    """
    n = len(fitted)
    everything = statistics.paired(task, [fitted, *baselines.values()], n_resamples, seed, n_folds)
    scored = [Score(everything.values_S[s].item(), everything.interval(s), n, seed, task.score(outcomes))
              for s, outcomes in enumerate([fitted, *baselines.values()])]
    differences = {name: everything.difference(0, s) for s, name in enumerate(baselines, 1)}
    gains = {name: Gain(gain.value, gain.interval, n, seed, gain.p) for name, gain in differences.items()}
    of_baselines = dict(zip(baselines, scored[1:], strict=True))
    if is_seen_N is not None and is_seen_N.any():
        kind, verdict, unseen = _of_unseen(task, fitted, baselines, is_seen_N, method, n_resamples, seed, words)
    else:
        values = {name: score.value for name, score in of_baselines.items()}
        kind, verdict = judge(method, values, differences, n, TITLES | dict(task.baseline_titles), n_folds,
                              words)
        unseen = None
    return Scores(task.metric, scored[0], of_baselines, gains, verdict, kind, unseen, n_folds)


def certify_texts(after_N2: np.ndarray, before_N2: np.ndarray, n_resamples: int, seed: int) -> Scores:
    """Whether a backbone reads the same held-out texts better than before: their likelihood, by a paired bootstrap.

    Both: of each text the negative log-likelihood in nats, and its number of tokens. Resamples are of texts.
    """
    n, rng = len(after_N2), np.random.default_rng(seed)
    systems_SN2 = np.stack([after_N2, before_N2])
    draws = (np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(n_resamples))
    sums_RS2 = np.stack([np.tensordot(systems_SN2, counts_N, (1, 0)) for counts_N in draws])
    mean_RS = sums_RS2[..., 0] / np.maximum(1, sums_RS2[..., 1])  # nats a token
    values = [likelihood(*map(float, of_system.sum(0))) for of_system in systems_SN2]
    scored = [Score(value["likelihood"], _ends(np.exp(-mean_R)), n, seed, value)
              for value, mean_R in zip(values, mean_RS.T, strict=True)]
    gain_R = np.exp(-mean_RS[:, 0]) - np.exp(-mean_RS[:, 1])
    p = min(1.0, 2 * float(min((gain_R <= 0).mean(), (gain_R >= 0).mean()) + 1 / n_resamples))
    gain = Gain(scored[0].value - scored[1].value, _ends(gain_R), n, seed, p)
    is_open = gain.interval[0] <= 0 <= gain.interval[1]
    kind = "undecided" if is_open else "positive" if gain.difference > 0 else "negative"
    lead = {"positive": "it reads such texts better", "negative": "it reads such texts worse",
            "undecided": "no proof that it reads such texts better"}[kind]
    after, before = (f"{value['perplexity']:.2f} [{1 / high:.2f}, {1 / low:.2f}]" for value, (low, high)
                     in zip(values, (score.interval or (1, 1) for score in scored), strict=True))
    words = f"{lead}: perplexity {after} after, {before} before, on {n:,} held-out texts"
    return Scores("likelihood", scored[0], {"before-reading": scored[1]}, {"before-reading": gain}, words, kind)


def _ends(values_R: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values_R, [0.025, 0.975]).tolist()
    return low, high


def _of_unseen(task: Task, fitted: np.ndarray, baselines: Mapping[str, np.ndarray], is_seen_N: np.ndarray, method: str,
               n_resamples: int, seed: int, verdict_words: tuple[str, str]) -> tuple[str, str, Score | None]:
    """(kind, verdict, the fitted model's score) on the rows without a twin in train."""
    n_seen, n = int(is_seen_N.sum()), len(is_seen_N)
    if n_seen == n:
        return "undecided", f"all {n:,} test rows have a twin in train: they prove nothing about new rows", None
    clean = certify(task, fitted[~is_seen_N], {name: outcomes[~is_seen_N] for name, outcomes in baselines.items()},
                    method=method, n_resamples=n_resamples, seed=seed, words=verdict_words)
    low, high = clean.fitted.interval or (0.0, 1.0)
    words = (f"{n_seen:,} of {n:,} test rows have a twin in train; on the {n - n_seen:,} others {task.metric} is "
             f"{clean.fitted.value:.4f} [{low:.4f}, {high:.4f}]; {clean.verdict}")
    return clean.verdict_kind, words, clean.fitted


def baselines_of(job: Job) -> dict[str, list[Prediction]]:
    """The task's own baselines, by name: answers to the test rows, where these are pooled by folds."""
    task, seed, rows, parts = job.task, job.spec.seed, job.rows("test"), job.splits
    if not parts.is_pooled:
        return dict(task.baselines(job.rows("train"), job.rows("validation"), rows, seed))
    fold_N, answers = parts.fold_N["test"], dict[str, dict[int, Prediction]]()
    for fold in np.unique(fold_N):
        others, tested = (np.flatnonzero(is_in).tolist() for is_in in (fold_N != fold, fold_N == fold))
        learned = [rows[i] for i in others]
        for name, of_fold in task.baselines(learned, learned, [rows[i] for i in tested], seed):
            answers.setdefault(name, {}).update(zip(tested, of_fold, strict=True))
    return {name: [of_rows[i] for i in range(len(rows))] for name, of_rows in answers.items()}


def judge(method: str, baselines: Mapping[str, float], gains: Mapping[str, Difference], n: int,
          titles: Mapping[str, str], n_folds: int = 0, words: tuple[str, str] = TRANSFER) -> tuple[str, str]:
    """(kind, verdict in words). Positive only when every gain is proven.

    A share's gain is proven by an exact test: no number of rows is too small for it, but few rows can prove only
    large gains (six rows that one system alone answers right are the least). baselines: their scores. n_folds, words:
    as `certify`.
    """
    if not gains:
        return "undecided", "no baselines were scored (evaluate.baselines is false)"

    def in_words(name: str, against: str = "over") -> str:
        gain = gains[name]
        difference, interval = _points(gain.value, gain.interval)
        is_odd = not gain.is_proven and not gain.interval[0] <= 0 <= gain.interval[1]
        luck = "" if not is_odd else f", p {gain.p:.2f}" if gain.p < 1 else f", which {n} rows cannot prove"
        return f"{difference} points {against} {titles.get(name, name)} {interval}{luck}"

    worse = [name for name, gain in gains.items() if gain.is_proven and gain.value < 0]
    unproven = [name for name, gain in gains.items() if not gain.is_proven]
    strongest = max(gains, key=lambda name: baselines[name])
    if worse:
        return "negative", f"{words[1]}: " + "; ".join(in_words(name, "against") for name in worse)
    if unproven:
        return "undecided", (_shortage(n, max(gains[name].unequal for name in unproven), n_folds)
                             + f"no proof that {method} beats "
                             + " or ".join(titles.get(name, name) for name in unproven) + ": "
                             + "; ".join(map(in_words, unproven)))
    return "positive", f"{words[0]}: {in_words(strongest)}"


def _shortage(n: int, unequal: float, n_folds: int) -> str:
    """That n rows are too few for a verdict, and how many are not, where they could not even prove a large gain."""
    unequal = (n * unequal + 1) / (n + 2)
    needed = [statistics.rows_needed(gain, unequal, n_folds) for gain in GAINS]
    if n >= needed[0]:
        return ""
    gains, rows = (f"{a}, {b} or {c}" for a, b, c in ((f"{100 * gain:g}" for gain in GAINS),
                                                      (f"{rows:,}" for rows in needed)))
    tested = tested_rows(n, n_folds) if n_folds else f"{n:,} test rows"
    return f"{tested} cannot carry a verdict: to prove {gains} points takes about {rows}; "


def _points(difference: float, ends: tuple[float, float]) -> tuple[str, str]:
    """Difference and interval, times a hundred."""
    return f"{100 * difference:+.1f}", f"[{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]"


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
        "interval": list(fitted.interval or ()), "n_test": fitted.n, "n_folds": scores.n_folds,
        "baselines": {name: baseline.value for name, baseline in scores.baselines.items()},
        "gain_over": {name: gain.to_json() for name, gain in scores.gains.items()}, "verdict": scores.verdict,
        "verdict_kind": scores.verdict_kind, "kept": scores.kept.to_json() if scores.kept else {},
        "scores": fitted.metrics, "seed": fitted.seed,
        "train_seconds": cost.train_seconds, "train_tokens_per_s": cost.train_tokens_per_s,
        "peak_rss_mb": cost.peak_rss_mb, "total_seconds": cost.total_seconds,
        **({"teaching": scores.teaching.to_json()} if scores.teaching else {}),
    }


def summary_text(scores: Scores, folder: Path) -> str:
    """The same for people: the verdict, then a line for every system on the same rows."""
    systems = {f"{scores.method} (this run)": scores.fitted, **scores.baselines}
    width = max(map(len, systems))
    lines = [scores.verdict, "", f"{scores.metric} on {scores.test_rows}, 95 % interval"]
    for name, score in systems.items():
        interval = " [{:.4f}, {:.4f}]".format(*score.interval) if score.interval else ""
        gain = scores.gains.get(name)
        against = "   this run {} points {}".format(*_points(gain.difference, gain.interval)) if gain else ""
        lines.append(f"  {name:<{width}}  {score.value:.4f}{interval}{against}")
    if scores.teaching:
        lines += ["", *lead(scores)]
    if scores.kept and scores.kept.why:
        lines += ["", f"shipped   {scores.kept.what}: {scores.kept.why}"]
    return "\n".join([*lines, "", f"artifact  {folder}", f"report    {folder / 'report.html'}"])
