"""How the answers of several models become one: the plain mean, weights that validation chose, or a head on top.

Source  Caruana et al. 2004, "Ensemble Selection from Libraries of Models" (weighted); Wolpert 1992, "Stacked
        Generalization" (stacking).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.ensemble import Blend, side_by_side
from ..core.errors import SpecError
from ..core.task import Task
from ..core.values import LinearMap, MemberLogits, Prediction, Row
from .members import Candidate

N_PICKS = 20  # of members, with return, of which weights are the shares: fewer are coarse, more fit the rows' luck
N_FOLDS = 5

Computed = Sequence[Sequence[MemberLogits]]  # of each member, of each row


@dataclass(frozen=True)
class Chosen:
    """A blend, what it answers to the rows that chose it, and its score on them.

    answers: of stacking those of heads that were solved without the row; calibration reads them.
    """

    blend: Blend
    answers: Sequence[Prediction]
    score: float


def answers(task: Task, blend: Blend, rows: Sequence[Row], computed: Computed) -> list[Prediction]:
    """What the members together answer to each row."""
    return [blend.answer(task, task.without_gold(row), of_row)
            for row, of_row in zip(rows, zip(*computed, strict=True), strict=True)]


def score(task: Task, predictions: Sequence[Prediction], rows: Sequence[Row]) -> float:
    """The task's own metric, after calibration on the same rows."""
    calibrated = task.calibrate(predictions, rows)
    outcomes = calibrated.outcomes(list(map(calibrated.apply_threshold, predictions)), rows)
    return calibrated.score(outcomes)[task.metric]


def mean(task: Task, candidates: Sequence[Candidate], rows: Sequence[Row], computed: Computed) -> Chosen:
    """Every member counts alike."""
    return _weighed(task, np.ones(len(candidates)), rows, computed)


def weighted(task: Task, candidates: Sequence[Candidate], rows: Sequence[Row], computed: Computed) -> Chosen:
    """Members are picked one after the other, with return, each time the one that helps most; a member's weight is its
    share of the picks. Of equals the fewest picks, so that a member that never helps has none.

    Cost  picks x members x rows answers.
    """
    counts_M, best = np.zeros(len(candidates)), None
    for _ in range(N_PICKS):
        tried = [_weighed(task, counts_M + one_more, rows, computed) for one_more in np.eye(len(candidates))]
        m = int(np.argmax([chosen.score for chosen in tried]))
        counts_M[m] += 1
        if best is None or tried[m].score > best.score:
            best = tried[m]
    assert best is not None, "one was picked at least"
    return best


def _weighed(task: Task, counts_M: np.ndarray, rows: Sequence[Row], computed: Computed) -> Chosen:
    blend = Blend(counts_M / counts_M.sum())
    of_rows = answers(task, blend, rows, computed)
    return Chosen(blend, of_rows, score(task, of_rows, rows))


def stacking(task: Task, candidates: Sequence[Candidate], rows: Sequence[Row], computed: Computed) -> Chosen:
    """A linear head on all members' logits, as strong as scores best out of fold; then solved on all rows.

    Raises SpecError for tasks whose logits are not one line a window, and for too few rows.
    """
    _check_stackable(task, candidates, rows)
    fold_N = np.random.default_rng(0).permutation(len(rows)) % N_FOLDS
    out_of_fold: dict[float, dict[int, Prediction]] = {}
    for fold in range(N_FOLDS):
        tested = np.flatnonzero(fold_N == fold).tolist()

        def keep(head: LinearMap, tested: Sequence[int] = tested) -> float:
            of_fold = answers(task, Blend(_even(candidates), head), [rows[i] for i in tested], _some(computed, tested))
            out_of_fold.setdefault(head.strength, {}).update(zip(tested, of_fold, strict=True))
            return 0.0  # it is chosen when all folds have answered

        _solve(task, candidates, rows, computed, np.flatnonzero(fold_N != fold).tolist(), keep)
    in_order = {strength: [of_rows[i] for i in range(len(rows))] for strength, of_rows in out_of_fold.items()}
    scores = {strength: score(task, of_rows, rows) for strength, of_rows in in_order.items()}
    head = _solve(task, candidates, rows, computed, range(len(rows)), lambda head: scores[head.strength])
    return Chosen(Blend(_even(candidates), head), in_order[head.strength], scores[head.strength])


def _even(candidates: Sequence[Candidate]) -> np.ndarray:
    return np.full(len(candidates), 1 / len(candidates))


def _some(computed: Computed, chosen: Sequence[int]) -> Computed:
    return [[of_member[i] for i in chosen] for of_member in computed]


def _solve(task: Task, candidates: Sequence[Candidate], rows: Sequence[Row], computed: Computed, chosen: Sequence[int],
           head_score: Callable[[LinearMap], float]) -> LinearMap:
    """The task's own head on the members' logits of the chosen rows."""
    features_BF = np.concatenate([side_by_side([of_member[i] for of_member in computed]) for i in chosen])
    reader = candidates[0].loaded.reader
    targets = [window.target for i in chosen for window in task.encode(i, rows[i], reader)]
    target = {name: np.array([of_window[name] for of_window in targets]) for name in targets[0]}
    return task.solve(features_BF.astype(np.float32), target, head_score, "none")


def _check_stackable(task: Task, candidates: Sequence[Candidate], rows: Sequence[Row]) -> None:
    if not task.is_solvable or task.head.kind not in ("pooled", "spans") or not task.n_outputs:
        raise SpecError("--how", f'"stacking" puts a head on one line of logits a text, and "{task.name}" has no such '
                        "lines.", "Use --how mean or --how weighted.")
    other = next((c for c in candidates if getattr(c.task, "labels", ()) != getattr(task, "labels", ())), None)
    if other is not None:
        raise SpecError("--how", f'"stacking" reads logits by their place, and {other.name} has its labels in another '
                        "order.", "Use --how mean or --how weighted, which go by the labels' names.")
    if len(rows) < 2 * N_FOLDS:
        raise SpecError("--how", f'"stacking" learns from the {len(rows)} validation rows; it takes {2 * N_FOLDS} at '
                        "least.", "Use --how mean.")
