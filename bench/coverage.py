"""how often a 95 % interval holds the true score, and how often luck is called a proof

Rows are drawn from a known truth, scored and given an interval by headstart's own functions. Shares are computed, not
drawn: every number of right rows with its chance. Other scores: 1,000 draws, 200 resamples each; the simulation's own
error is about 0.7 points. Macro F1 of five classes has one that is 5 % of the rows: on 10 to 30 rows it is often not
there at all, and no interval can hold what was not seen. Gains: two systems on the same rows; "called better" is how
often a verdict would call the first one better, which at a true gain of 0 is to be at most 2.5 %.

"Before": the percentile bootstrap, which headstart had. Demanded: 93 % to 98 %. A share of few rows takes so few values
that for some truths no interval lies between: there the least above 93 % is the aim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench import Cell, Run, markdown

TRUE = (0.5, 0.8, 0.95, 0.99)
ROWS = (10, 20, 30, 100, 1000)
PRIORS = {"macro F1, 2 classes": (0.7, 0.3), "macro F1, 5 classes": (0.4, 0.3, 0.15, 0.1, 0.05),
          "entity F1": (0.5, 0.5)}
GAINS = ((0.02, 0.0), (0.1, 0.0), (0.3, 0.0), (0.1, 0.05), (0.2, 0.1), (0.4, 0.2))  # rows on which both differ, gain
N_RESAMPLES = 200
LEAST, MOST = 0.93, 0.98


def cells(quick: bool) -> list[Cell]:
    n_draws = 50 if quick else 1000
    scores = [{"name": name, "n_draws": n_draws, "seed": 0} for name in (*PRIORS, "spearman")]
    gains = [{"name": name, "n_draws": n_draws * (1 if "F1" in name else 10), "seed": 0}
             for name in ("gain in a share", "gain in macro F1")]
    return [{"name": "share", "n_draws": 0, "seed": 0}, *scores, *gains]


def measure(name: str, n_draws: int, seed: int) -> dict[str, Any]:
    if name == "share":
        return {"rows": [[n, true, *of_share(n, true)] for n in ROWS for true in TRUE]}
    if name.startswith("gain"):
        draw = gains_in_share if name == "gain in a share" else gains_in_f1
        return {"rows": [[n, unequal, gain, *draw(n, unequal, gain, n_draws, seed)]
                         for n in ROWS for unequal, gain in GAINS]}
    if name == "spearman":
        return {"rows": [[n, true, *of_rank_correlation(n, true, n_draws, seed)] for n in ROWS for true in TRUE]}
    return {"rows": [[n, true, *of_counts(name, n, true, n_draws, seed)] for n in ROWS for true in TRUE]}


def of_share(n: int, true: float) -> list[float]:
    """Coverage, that of the percentile bootstrap, mean width, and the coverage nearest to that demanded."""
    import numpy as np
    from scipy.stats import binom

    from headstart.core.statistics import share_interval

    k_N = np.arange(n + 1)
    chance_N = binom.pmf(k_N, n, true)
    low_N, high_N = np.array([share_interval(k, n) for k in k_N.tolist()]).T
    before_low_N, before_high_N = (binom.ppf(q, n, k_N / n) / n for q in (0.025, 0.975))
    coverages = [float(chance_N[holds(low, true, high)].sum())
                 for low, high in ((low_N, high_N), (before_low_N, before_high_N))]
    return [*coverages, float(chance_N @ (high_N - low_N)), reachable(chance_N)]


def reachable(chance_N: Any) -> float:
    """The least coverage of at least LEAST that an interval of a share can have: it holds a run of counts."""
    import numpy as np

    sums = np.cumsum(np.concatenate([[0.0], chance_N]))
    runs = sums[None, 1:] - sums[:-1, None]  # from each count to each
    mode = int(np.argmax(chance_N))
    around = runs[: mode + 1, mode:]  # the likeliest count is always held
    return float(around[around >= LEAST - 1e-9].min())


def holds(low: Any, true: float, high: Any) -> Any:
    return (low - 1e-9 <= true) & (true <= high + 1e-9)


def of_counts(name: str, n: int, true: float, n_draws: int, seed: int) -> list[float]:
    """Of an F1 of counts of (gold, predicted). true: the share of each class that is answered right."""
    import numpy as np

    rng = np.random.default_rng(seed)
    priors, score = PRIORS[name], entity_f1 if name == "entity F1" else macro_f1
    k = len(priors)
    chances = np.array([[p * (true if i == j else (1 - true) / (k - 1)) for j in range(k)]
                        for i, p in enumerate(priors)])

    def draw(chance: Any, times: int) -> Any:
        return score(rng.multinomial(n, chance.ravel(), times).reshape(times, k, k))

    counts = rng.multinomial(n, chances.ravel(), n_draws)
    values = score(counts.reshape(n_draws, k, k))
    resamples = [draw(drawn / n, N_RESAMPLES) for drawn in counts]
    return covered(values, resamples, n, 0.0, float(score(chances[None] * 1e9)[0]))


def macro_f1(counts_MKK: Any) -> Any:
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nanmean(2 * np.einsum("mkk->mk", counts_MKK) / (counts_MKK.sum(1) + counts_MKK.sum(2)), 1)


def entity_f1(counts_MKK: Any) -> Any:
    """The first class is an entity, the second none."""
    import numpy as np

    hits, wrong = counts_MKK[:, 0, 0], counts_MKK[:, 0, 1] + counts_MKK[:, 1, 0]
    return np.where(hits + wrong > 0, 2 * hits / np.maximum(1e-12, 2 * hits + wrong), 1.0)


def of_rank_correlation(n: int, true: float, n_draws: int, seed: int) -> list[float]:
    """true: Pearson's of the normal numbers that are ranked."""
    import numpy as np
    from scipy.stats import rankdata

    rng = np.random.default_rng(seed)

    def rho(pairs_MN2: Any) -> Any:
        a, b = (rankdata(pairs_MN2[..., i], axis=-1) for i in range(2))
        a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
        with np.errstate(invalid="ignore"):
            return np.nan_to_num((a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))

    n_draws = max(1, n_draws // (5 if n == 1000 else 2))  # sorting is what takes the time
    pairs = rng.multivariate_normal([0, 0], [[1, true], [true, 1]], (n_draws, n))
    resamples = [rho(drawn[rng.integers(n, size=(N_RESAMPLES // 2, n))]) for drawn in pairs]
    return covered(rho(pairs), resamples, n, -1.0, float(6 / np.pi * np.arcsin(true / 2)))


def covered(values: Any, resamples: Sequence[Any], n: int, lowest: float, truth: float) -> list[float]:
    """Coverage of `truth`, that of the percentile bootstrap, and the mean width."""
    import numpy as np

    from headstart.core.statistics import score_interval

    low, high = np.array([score_interval(float(value), float(drawn.std()), n, lowest)
                          for value, drawn in zip(values, resamples, strict=True)]).T
    before = np.array([np.quantile(drawn, [0.025, 0.975]) for drawn in resamples]).T
    return [float(holds(low, truth, high).mean()), float(holds(before[0], truth, before[1]).mean()),
            float((high - low).mean())]


def gains_in_share(n: int, unequal: float, gain: float, n_draws: int, seed: int) -> list[float]:
    """Coverage, that of the percentile bootstrap (its normal limit), how often a proof, and the mean width."""
    import numpy as np

    from headstart.core.statistics import share_difference

    better, worse = (unequal + gain) / 2, (unequal - gain) / 2
    counts = np.random.default_rng(seed).multinomial(n, [better, worse, 1 - unequal], n_draws)
    drawn = [share_difference(b, w, n) for b, w, _ in counts.tolist()]
    d = (counts[:, 0] - counts[:, 1]) / n
    error = np.sqrt((counts[:, 0] + counts[:, 1]) / n - d**2) / np.sqrt(n)
    before = holds(d - 1.96 * error, gain, d + 1.96 * error)
    return summed(drawn, gain, before)


def gains_in_f1(n: int, unequal: float, gain: float, n_draws: int, seed: int) -> list[float]:
    """The same of macro F1 of two classes: cells are (gold, first system's answer, second system's answer)."""
    import numpy as np

    from headstart.core.statistics import score_difference

    rng = np.random.default_rng(seed)
    both = {(1, 1): (1 - unequal) * 0.9, (0, 0): (1 - unequal) * 0.1,
            (1, 0): (unequal + gain) / 2, (0, 1): (unequal - gain) / 2}
    kinds = [(g, g if a else 1 - g, g if b else 1 - g) for g in range(2) for a, b in both]
    chances = np.array([prior * p for prior in (0.7, 0.3) for p in both.values()])

    def gains(counts_MC: Any) -> Any:
        values = []
        for system in (1, 2):
            counts_MKK = np.zeros((len(counts_MC), 2, 2))
            for c, kind in enumerate(kinds):
                counts_MKK[:, kind[0], kind[system]] += counts_MC[:, c]
            values.append(macro_f1(counts_MKK))
        return values[0] - values[1]

    counts = rng.multinomial(n, chances, n_draws)
    truth = float(gains(chances[None] * 1e9)[0])
    resamples = [gains(rng.multinomial(n, drawn / n, N_RESAMPLES)) for drawn in counts]
    drawn = [score_difference(float(value), float(of_one.std()), n)
             for value, of_one in zip(gains(counts), resamples, strict=True)]
    low, high = np.array([np.quantile(of_one, [0.025, 0.975]) for of_one in resamples]).T
    return summed(drawn, truth, holds(low, truth, high))


def summed(drawn: Sequence[Any], truth: float, before: Any) -> list[float]:
    import numpy as np

    return [float(np.mean([holds(d.interval[0], truth, d.interval[1]) for d in drawn])), float(before.mean()),
            float(np.mean([d.is_proven and d.value > 0 for d in drawn])),
            float(np.mean([d.interval[1] - d.interval[0] for d in drawn]))]


def table(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs:
        rows = run.result["rows"]
        if run.cell["name"].startswith("gain"):
            body = [[f"{n:,}", f"{unequal:.0%}", f"{100 * gain:+.0f}", f"**{now:.1%}**", f"{before:.1%}",
                     f"{proof:.1%}", f"{100 * width:.1f}"] for n, unequal, gain, now, before, proof, width in rows]
            header = ["rows", "rows on which one is right", "true gain, points", "coverage", "before", "called better",
                      "width, points"]
        else:
            body = [[f"{n:,}", f"{true:g}", f"**{now:.1%}**", f"{before:.1%}", f"{100 * width:.1f}", verdict(now, rest)]
                    for n, true, now, before, width, *rest in rows]
            header = ["rows", "true share right" if "F1" in run.cell["name"] else "true score", "coverage", "before",
                      "width, points", "93 % to 98 %"]
        parts.append(f"## {run.cell['name']}\n\n{markdown(header, body)}")
    return "\n\n".join(parts)


def verdict(coverage: float, reachable: Sequence[float]) -> str:
    if reachable and reachable[0] > MOST:
        return f"no interval; the least is {reachable[0]:.1%}"
    return "yes" if LEAST <= round(coverage, 3) <= MOST else "wider" if coverage > MOST else "**NO**"
