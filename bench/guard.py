"""what `auto` ships: the trained weights or the frozen backbone, by validation

Two rules on the same answers. "Likely" ships the trained weights when they are better by half a standard error of the
paired difference on validation; "proven", which headstart had before, when the 95 % bootstrap interval lay above zero.

Drawn: both systems' answers to validation rows, at a true gain of the trained weights. They are the best of four
evaluations that agree on 70 % of their rows, as after training. Points lost against always shipping the better one.

Fitted: 300 rows of a set with 100 validation rows, a share of the labels of both random, the test rows as they are.
Fine-tuning and the linear probe, their answers to the same 400 test rows at most. "Lost": the points by which what is
shipped is worse than the frozen backbone, in the mean over the sets; "given away": than the trained weights.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import DATA, Cell, Run, markdown, met, read_jsonl, write_jsonl

N_TRAIN, N_VALIDATION, N_TEST = 300, 100, 400
SETS = {name: f"{name}/{part}.jsonl" for name, part in {
    "sst2": "validation", "trec": "test", "uci_sentiment_sentences": "test", "twitter_financial_news": "validation",
    "financial_phrasebank_50agree": "test", "mrpc": "test", "rte": "validation", "amazon_multidomain_sentiment": "test",
}.items()}  # name -> its test rows
NOISE = (0.0, 0.2, 0.4)
GAINS = (-0.05, -0.02, -0.01, 0.0, 0.01, 0.02, 0.03, 0.05, 0.1)
SIZES = (30, 60, 100, 200, 500)
RULES = ("likely", "proven")
MOST_GIVEN_AWAY = 0.5  # points


def cells(quick: bool) -> list[Cell]:
    drawn = [{"name": "drawn", "n": n, "n_draws": 50 if quick else 1000, "seed": 0} for n in SIZES]
    fitted = [{"name": name, "noise": noise, "seed": 0} for name in SETS for noise in NOISE]
    return drawn + (fitted[:1] if quick else fitted)


def measure(name: str, seed: int, **settings: Any) -> dict[str, Any]:
    return draw(seed=seed, **settings) if name == "drawn" else fit(name, seed=seed, **settings)


def draw(n: int, n_draws: int, seed: int) -> dict[str, Any]:
    """For each true gain, how often each rule ships the trained weights."""
    import numpy as np

    rng = np.random.default_rng(seed)
    shipped = []
    for gain in GAINS:
        unequal = max(0.1, 2 * abs(gain))
        chances = [(unequal - gain) / 2, 1 - unequal, (unequal + gain) / 2]
        of_rows = rng.choice([-1, 0, 1], (n_draws, n), p=chances)
        again = rng.choice([-1, 0, 1], (n_draws, 4, n), p=chances)
        gaps = np.where(rng.random((n_draws, 4, n)) < 0.7, of_rows[:, None], again)
        best = gaps[np.arange(n_draws), gaps.sum(2).argmax(1)]
        counts = ((int((gap > 0).sum()), int((gap < 0).sum())) for gap in best)
        shipped.append(np.mean([list(rules(better, worse, n)) for better, worse in counts], axis=0).tolist())
    return {"shipped": shipped}


def rules(n_better: int, n_worse: int, n: int) -> tuple[bool, bool]:
    """What each of RULES says of trained weights that alone are right on n_better rows, and alone wrong on n_worse."""
    from headstart.core.statistics import Z, share_difference

    gain = (n_better - n_worse) / n
    error = ((n_better + n_worse) / n - gain**2) ** 0.5 / n**0.5  # the bootstrap's, in the limit
    return share_difference(n_better, n_worse, n).is_likely, n >= 30 and gain > Z * error


def fit(name: str, noise: float, seed: int) -> dict[str, Any]:
    import headstart

    draws = random.Random(f"{name} {seed}")
    rows = draws.sample(list(read_jsonl(DATA / name / "train.jsonl")), N_TRAIN + N_VALIDATION)
    labels = sorted({row["label"] for row in rows})
    kept = {label for label in labels if sum(row["label"] == label for row in rows) >= 8}
    rows = [{**row, "label": draws.choice(sorted(kept)) if draws.random() < noise else row["label"]}
            for row in rows if row["label"] in kept]
    test = [row for row in read_jsonl(DATA / SETS[name]) if row["label"] in kept]
    parts = {"train": rows[N_VALIDATION:], "validation": rows[:N_VALIDATION],
             "test": draws.sample(test, min(N_TEST, len(test)))}
    right: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jsonl(Path(folder), **parts)
        for method in ("linear-probe", "fine-tuning"):
            spec = {"data": paths | {"max_tokens": 128}, "method": method, "seed": seed,
                    "evaluate": {"baselines": False}}
            run = headstart.fit(spec, out=Path(folder) / method)
            right[method] = {part: right_of(run, parts[part]) for part in ("validation", "test")}
    frozen, trained = right["linear-probe"], right["fine-tuning"]
    better, worse = (int((a["validation"] & ~b["validation"]).sum()) for a, b in ((trained, frozen), (frozen, trained)))
    return {"n": {part: len(some) for part, some in parts.items()}, "n_better": better, "n_worse": worse,
            **{f"{part}_{what}": float(system[part].mean()) for part in ("validation", "test")
               for what, system in (("frozen", frozen), ("trained", trained))},
            "ships": dict(zip(RULES, map(bool, rules(better, worse, len(frozen["validation"]))), strict=True))}


def right_of(run: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    import numpy as np

    names = {"text_a": "text", "text_b": "text_pair"}  # a pair as these sets write it, and as the task reads it
    answers = run.predict([{names.get(column, column): value for column, value in row.items()
                            if column in ("text", *names)} for row in rows])
    return np.array([answer["label"] == row["label"] for answer, row in zip(answers, rows, strict=True)])


def lost(gain: float, ships: float) -> float:
    """Points lost against the better one. gain: of the trained weights; ships: how often they are shipped."""
    return 100 * (gain * (1 - ships) if gain > 0 else abs(gain) * ships)


def table(runs: Sequence[Run]) -> str:
    drawn = [run for run in runs if run.cell["name"] == "drawn"]
    fitted = [run for run in runs if run.cell["name"] != "drawn"]
    rows = [[run.cell["n"], rule, *(f"{lost(gain, ships[r]):.2f}" for gain, ships in zip(
        GAINS, run.result["shipped"], strict=True))] for run in drawn for r, rule in enumerate(RULES)]
    parts = [markdown(["validation rows", "rule", *(f"{100 * gain:+g}" for gain in GAINS)], rows)] if rows else []
    lines, sums = [], []
    for run in fitted:
        result, points = run.result, {}
        for rule in RULES:
            score = result["test_trained" if result["ships"][rule] else "test_frozen"]
            points[rule] = [100 * (score - result[f"test_{what}"]) for what in ("frozen", "trained")]
        lines.append([run.cell["name"], f"{run.cell['noise']:.0%}", f"{result['validation_frozen']:.3f}",
                      f"{result['validation_trained']:.3f}", f"{result['test_frozen']:.3f}",
                      f"{result['test_trained']:.3f}",
                      *("trained" if result["ships"][rule] else "frozen" for rule in RULES)])
        sums.append((run.cell["noise"], points))
    if lines:
        parts.append(markdown(["set", "random labels", "validation: frozen", "trained", "test: frozen", "trained",
                               "likely ships", "proven ships"], lines))
        parts.append(markdown(["random labels", "sets", "rule", "lost, mean points", "given away, mean points",
                               "at most half a point"], list(means(sums))))
    return "\n\n".join(parts)


def means(sums: Sequence[tuple[float, Mapping[str, Sequence[float]]]]) -> Any:
    """A line for each share of random labels and rule."""
    for noise in sorted({noise for noise, _ in sums}):
        for rule in RULES:
            points = [points[rule] for other, points in sums if other == noise]
            over_frozen, over_trained = (sum(column) / len(points) for column in zip(*points, strict=True))
            loss, given = max(0.0, -over_frozen), max(0.0, -over_trained)
            score = loss if noise else given
            yield [f"{noise:.0%}", len(points), rule, f"{loss:.2f}", f"{given:.2f}",
                   met(score <= MOST_GIVEN_AWAY)]
