"""What chooses the checkpoint of a model that writes: how likely the targets are to it. Nothing is written for that.

Shape suffixes: N rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

MAX_NATS = 700.0  # a token: e to this power is still a number


def likelihood(nats: float, n_tokens: float) -> dict[str, float]:
    """`likelihood`, the geometric mean of the probabilities of all target tokens, and `perplexity`, one over it.

    nats: the negative log-likelihood of `n_tokens` in sum.
    """
    mean = min(nats / n_tokens, MAX_NATS) if n_tokens else MAX_NATS
    return {"likelihood": math.exp(-mean), "perplexity": math.exp(mean)}


@dataclass(frozen=True)
class LikelihoodScoring:
    """The scores of `likelihood`, by which a checkpoint is chosen.

    Its outcomes are [N, 2]: the negative log-likelihood of a row's target in nats, and its number of tokens.
    """

    metric: ClassVar[str] = "likelihood"
    lowest_score: ClassVar[float] = 0.0
    gives_parts: ClassVar[bool] = True

    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        """Of any multiset of rows."""
        return likelihood(*map(float, outcomes.sum(0)))

    def correct(self, outcomes: np.ndarray) -> np.ndarray | None:
        """None: it is no share of rows."""
        return None
