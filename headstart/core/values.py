"""The small values that travel between the floors. numpy only: tasks, servers and tests import this file.

Shape suffixes: B windows in a batch, T tokens, D width, K labels, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Row = dict[str, Any]  # one record of the user's file: column -> value
Prediction = dict[str, Any]  # one answer, as the user sees it
Runtime = Callable[[dict[str, np.ndarray]], np.ndarray]  # inputs [B, T] -> logits [B, ...]

IGNORE = -100  # a target value that no loss reads


@dataclass(frozen=True)
class Window:
    """One model input cut from one row; a long row may give several.

    row:    index of the row it came from.
    inputs: integer lists of one common length T; "input_ids" is always there.
    target: what the loss reads, a number or a list of them each; {} when predicting.
    notes:  what decode needs to find its way back to the text; "n_cut_tokens" counts what did not fit.
    """

    row: int
    inputs: dict[str, list[int]]
    target: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs["input_ids"])


@dataclass(frozen=True)
class Batch:
    """Windows stacked to arrays.

    inputs:   "input_ids", "attention_mask" and what else the windows carry, each int64 [B, T].
    target:   the task's own, int64 or float32, [B] or [B, T] with IGNORE where padded.
    n_tokens: real tokens, padding not counted.
    """

    inputs: dict[str, np.ndarray]
    target: dict[str, np.ndarray]
    n_tokens: int

    @property
    def n_windows(self) -> int:
        return len(self.inputs["input_ids"])


@dataclass(frozen=True)
class Outputs:
    """What a model computes for a batch. logits are always there, the rest where a method wants it.

    logits:     [B, K], [B, T, K] or what else the head gives.
    features:   what flows into the model's last linear layer, [B, D] or [B, T, D].
    hidden:     a layer each, from the embeddings up, [B, T, D].
    attentions: a block each, bottom-up, [B, heads, T, T].
    """

    logits: torch.Tensor
    features: torch.Tensor | None = None
    hidden: tuple[torch.Tensor, ...] = ()
    attentions: tuple[torch.Tensor, ...] = ()


def pad(values: Sequence[Any], fill: int, dtype: Any = np.int64) -> np.ndarray:
    """Stack numbers to [B], or sequences of numbers to [B, T] with `fill` behind the shorter ones."""
    if len(values) == 1 or (not isinstance(values[0], list) and np.ndim(values[0]) == 0):
        return np.asarray(values, dtype)
    out = np.full((len(values), max(len(v) for v in values)), fill, dtype)
    for line, value in zip(out, values, strict=True):
        line[: len(value)] = value
    return out


def collate(inputs: dict[str, Sequence[Any]], target: dict[str, Sequence[Any]], pad_id: int) -> Batch:
    """Pad the fields of some windows to one batch. The attention mask follows from the lengths."""
    lengths = [len(ids) for ids in inputs["input_ids"]]
    arrays = {name: pad(v, pad_id if name == "input_ids" else 0) for name, v in inputs.items()}
    arrays["attention_mask"] = mask_BT = np.zeros((len(lengths), max(lengths)), np.int64)
    for mask_T, length in zip(mask_BT, lengths, strict=True):
        mask_T[:length] = 1
    floats = {name: np.asarray(v[0]).dtype.kind == "f" for name, v in target.items()}
    targets = {name: pad(v, IGNORE, np.float32 if floats[name] else np.int64) for name, v in target.items()}
    return Batch(arrays, targets, sum(lengths))


@dataclass(frozen=True)
class LinearMap:
    """logits_NK = features_ND @ weight_KD.T + bias_K, and the strength C that it was solved with."""

    weight_KD: np.ndarray
    bias_K: np.ndarray
    strength: float

    def __call__(self, features_ND: np.ndarray) -> np.ndarray:
        return np.asarray(features_ND @ self.weight_KD.T + self.bias_K)
