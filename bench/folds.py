"""folds: few rows: heads chosen, and certificates carried, by cross-validation

A linear head on frozen MiniLM-L6, on rows drawn from a set's train file; the truth is its accuracy on all other rows
of that file (at least a thousand), so that nothing but luck and the number of rows lies between.

Chosen: a tenth of the rows, one of each label at least, is validation, a tenth is left out as a test part. The strength
of the regularization by validation, as headstart had it; by 5-fold cross-validation over train and validation; the best
of all in hindsight. Mean accuracy of the head that is solved on the train rows, in points.

Certified: how often the 95 % interval of each certificate holds the truth, and how wide it is. "Held out": of the test
part. "Folds": all rows out of fold, the head solved on all. "Folds, as if independent": without the factor by which
headstart takes the variance of answers of folds to be larger. "Bias": score by folds minus truth. "Gain": over a
logistic regression on 24 of the 384 features.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from bench import DATA, Cell, Run, markdown, of, read_jsonl

SETS = ("uci_sentiment_sentences", "sst2", "trec", "twitter_financial_news", "financial_phrasebank_50agree")
SIZES = {50: 40, 100: 40, 200: 20, 500: 8}  # rows -> draws
N_POOL = 2500
N_FOLDS = 5
NAMES = ("by validation", "by folds", "best", "truth", "by folds, score", "held out holds", "held out width",
         "folds hold", "folds width", "independent hold", "independent width", "gain holds")


def cells(quick: bool) -> list[Cell]:
    return [{"name": name, "n_draws": {"50": 2} if quick else {str(n): k for n, k in SIZES.items()}, "seed": 0}
            for name in (SETS[:1] if quick else SETS)]


def measure(name: str, n_draws: dict[str, int], seed: int) -> dict[str, Any]:
    import numpy as np

    from headstart.use.vectors import Extractor

    rows = list(read_jsonl(DATA / name / "train.jsonl"))
    rows = random.Random(seed).sample(rows, min(N_POOL, len(rows)))
    features_ND = Extractor("minilm-l6", max_tokens=128)([row["text"] for row in rows])
    gold_N = np.unique([row["label"] for row in rows], return_inverse=True)[1]
    return {n: [draw(features_ND, gold_N, int(n), np.random.default_rng((int(n), seed, i))) for i in range(times)]
            for n, times in n_draws.items()}


def draw(pool_ND: Any, gold_N: Any, n: int, rng: Any) -> list[float]:
    """What NAMES names."""
    import numpy as np

    from headstart.core.statistics import score_difference, score_interval, share_interval

    order = rng.permutation(len(pool_ND))
    others = order[n:]
    n_held = max(int(gold_N.max()) + 1, n // 10)
    test, validation, train = np.split(order[:n], [n_held, 2 * n_held])

    def scores(heads: Sequence[Any], rows: Any) -> Any:
        return np.array([(head(pool_ND[rows]).argmax(1) == gold_N[rows]).mean() for head in heads])

    heads = solved(pool_ND[train], gold_N[train], int(gold_N.max()) + 1)
    truths, by_validation = scores(heads, others), int(scores(heads, validation).argmax())
    right_SN, _, _ = out_of_fold(pool_ND, gold_N, np.concatenate([train, validation]))
    chosen = [truths[by_validation], truths[right_SN.mean(1).argmax()], truths.max()]

    right_SN, fold_N, weak_N = out_of_fold(pool_ND, gold_N, order[:n])
    best = {fold: right_SN[:, fold_N != fold].mean(1).argmax() for fold in range(N_FOLDS)}
    right_N = np.array([right_SN[best[fold], i] for i, fold in enumerate(fold_N.tolist())])
    shipped = solved(pool_ND[order[:n]], gold_N[order[:n]], int(gold_N.max()) + 1)[right_SN.mean(1).argmax()]
    truth = scores([shipped], others)[0]
    of_weak = (weak(pool_ND[order[:n]], gold_N[order[:n]]).predict(pool_ND[others, :24] * 8) == gold_N[others]).mean()
    held_out = share_interval(round(scores(heads, test)[by_validation] * len(test)), len(test))
    value, deviation, gap_N = right_N.mean(), right_N.std() / n**0.5, right_N - weak_N
    in_folds = paired_in_folds(np.array([right_N, weak_N]))
    alone = score_interval(value, deviation, n)
    gain = in_folds.difference(0, 1).interval
    assert gain != score_difference(gap_N.mean(), gap_N.std() / n**0.5, n).interval
    folds = in_folds.interval(0)
    holds = [low <= true <= high for (low, high), true in (
        (held_out, truths[by_validation]), (folds, truth), (alone, truth), (gain, truth - of_weak))]
    return [float(number) for number in (
        *chosen, truth, value, holds[0], held_out[1] - held_out[0], holds[1], folds[1] - folds[0], holds[2],
        alone[1] - alone[0], holds[3])]


def paired_in_folds(right_SN: Any) -> Any:
    from headstart.core.statistics import Paired

    return Paired(right_SN.mean(1), right_SN.shape[1], 0.0, right_SN, None, N_FOLDS)


def out_of_fold(pool_ND: Any, gold_N: Any, rows: Any) -> tuple[Any, Any, Any]:
    """For each strength whether each row is answered right out of fold; its fold; and the same of the weak rival."""
    import warnings

    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    right_SN, fold_N, weak_N = None, np.empty(len(rows), np.int64), np.empty(len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        parts = list(StratifiedKFold(N_FOLDS).split(rows, gold_N[rows]))
    for fold, (others, tested) in enumerate(parts):
        heads = solved(pool_ND[rows[others]], gold_N[rows[others]], int(gold_N.max()) + 1)
        right_SN = np.empty((len(heads), len(rows))) if right_SN is None else right_SN
        for s, head in enumerate(heads):
            right_SN[s, tested] = head(pool_ND[rows[tested]]).argmax(1) == gold_N[rows[tested]]
        fold_N[tested] = fold
        rival = weak(pool_ND[rows[others]], gold_N[rows[others]])
        weak_N[tested] = rival.predict(pool_ND[rows[tested], :24] * 8) == gold_N[rows[tested]]
    return right_SN, fold_N, weak_N


def solved(features_ND: Any, gold_N: Any, n_labels: int) -> list[Any]:
    """The heads of every strength."""
    from headstart.features.solve import solve_head

    heads: list[Any] = []

    def keep(head: Any) -> float:
        heads.append(head)
        return 0.0

    solve_head(features_ND, gold_N, n_labels, keep, "none")
    return heads


def weak(features_ND: Any, gold_N: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10.0, max_iter=500).fit(features_ND[:, :24] * 8, gold_N)


def table(runs: Sequence[Run]) -> str:
    sizes = list(dict.fromkeys(n for run in runs for n in run.result))
    means = {(name, n): mean([line for run in of(runs, **({"name": name} if name else {})) for line in run.result[n]])
             for n in sizes for name in ("", *(run.cell["name"] for run in runs))}
    chosen = [[n, name or "all", *(f"{100 * m[key]:.1f}" for key in NAMES[:3]),
               f"{100 * (m['by folds'] - m['by validation']):+.1f}"] for (name, n), m in means.items()]
    shares = ("held out holds", "independent hold", "folds hold", "gain holds")
    widths = ("held out width", "independent width", "folds width")
    certified = [[n, f"{100 * (m['by folds, score'] - m['truth']):+.1f}", *(f"{m[key]:.1%}" for key in shares),
                  *(f"{100 * m[key]:.1f}" for key in widths)] for (name, n), m in means.items() if not name]
    return "\n\n".join([
        markdown(["rows", "set", "chosen by validation", "by folds", "best in hindsight", "folds beat validation by"],
                 chosen),
        markdown(["rows", "bias, points", "held out: holds the truth", "folds, as if independent", "folds",
                  "gain by folds", "width held out, points", "folds, as if independent", "folds"], certified)])


def mean(lines: Sequence[Sequence[float]]) -> dict[str, float]:
    return {name: sum(column) / len(lines) for name, column in zip(NAMES, zip(*lines, strict=True), strict=True)}
