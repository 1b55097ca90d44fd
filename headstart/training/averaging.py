"""Means of weights: over steps, over trainings, and between the first weights and the trained ones.

Source  Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima" (swa); Wortsman et al. 2022, "Model soups" and
        "Robust fine-tuning of zero-shot models" (wise-ft).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

Weights = dict[str, torch.Tensor]  # by name
FIRST, TRAINED = "the first weights", "the best trained weights"
SOUP = "the mean of the best weights of each training"
SHARES = (0.25, 0.5, 0.75)  # of the way from the first weights to the best trained ones, where means are tried


def include(mean: Weights, weights: Mapping[str, torch.Tensor], share: float) -> None:
    """Move `mean`, in place, by `share` of the way towards `weights`; an empty mean becomes a copy of them."""
    if not mean:
        mean.update({name: p.detach().clone() for name, p in weights.items()})
    torch._foreach_lerp_(list(mean.values()), [weights[name].detach().to(p.device) for name, p in mean.items()], share)


def candidates(first: Weights, trained: Weights, mean: Weights, average: str) -> dict[str, Callable[[], Weights]]:
    """What may be kept, from the first weights on, each made when asked for: several would fill the memory."""

    def between(share: float) -> Weights:
        return {name: torch.lerp(first[name], trained[name], share) for name in trained}

    means: dict[str, Callable[[], Weights]] = {}
    if average == "wise-ft":
        means = {f"{share:.0%} of the way from the first weights to the best trained ones": partial(between, share)
                 for share in SHARES}
    elif mean:
        means[SOUP if average == "soup" else "the mean of the steps' weights"] = lambda: mean
    return {FIRST: lambda: first, **means, TRAINED: lambda: trained}
