"""The small values that travel between the floors. numpy only: tasks, servers and tests import this file.

Shape suffixes: B windows in a batch, T tokens, D width, K labels, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

    from .task import Task

Row = dict[str, Any]  # one record of the user's file: column -> value
Prediction = dict[str, Any]  # one answer, as the user sees it

IGNORE = -100  # a target value that no loss reads
PREDICTS = "predicts"  # the input of a model that writes that is 1 where the next token is asked for, else 0
DECODER_IDS = "decoder_input_ids"  # what stands written already, of a model that reads with an encoder of its own

# The ids written so far -> which tokens may come next, [V] bool; None: all.
Constraint = Callable[[Sequence[int]], np.ndarray | None]


class Stepper(Protocol):
    """A language model token by token: it reads prompts once, then one more token of each text at a time."""

    def begin(self, inputs: dict[str, np.ndarray]) -> tuple[Any, np.ndarray]:
        """Padded prompts [B, T] to (state, logits_BV of what comes next, float32)."""
        ...

    def step(self, state: Any, tokens_B: np.ndarray, parents_B: np.ndarray) -> tuple[Any, np.ndarray]:
        """One more token of each text. The state before is used up.

        parents_B: which text of the state before each goes on from; texts that nobody names are dropped.
        """
        ...


class Runtime(Protocol):
    """A model that answers, whatever computes it. Safe to call from threads."""

    @property
    def skips_padding(self) -> bool:
        """Whether shorter windows beside a longer one cost little more than alone."""
        ...

    def logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Inputs [B, T] to logits [B, ...], float32."""
        ...

    def stepper(self) -> Stepper:
        """What writes texts. Raises ArtifactError where it cannot."""
        ...


class Judge(Protocol):
    """A fitted classifier: it tells whether a text that was written is what its row asks for."""

    @property
    def labels(self) -> Sequence[str]:
        """All that it can tell."""
        ...

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The label of each text; "" of a text without words."""
        ...


@dataclass(frozen=True)
class Window:
    """One model input cut from one row; a long row may give several.

    row:    index of the row it came from.
    inputs: token ids and what goes beside them, whole numbers [T]; sound, float32 [S]; an image, float32 [3, H, W].
    target: what the loss reads, a number or a list of them each; {} when predicting.
    notes:  what decode needs to find its way back to the text; "n_cut_tokens" counts what did not fit.
    size:   what it takes of a batch's budget: tokens, patches, frames; 0: as many as its inputs of one axis are long.
    """

    row: int
    inputs: Mapping[str, Any]
    target: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0

    def __post_init__(self) -> None:
        if not self.size:
            object.__setattr__(self, "size", len(self))

    def __len__(self) -> int:
        """T (or S): how long its inputs of one axis are; 1 where it has none."""
        if "input_ids" in self.inputs:  # nearly all windows, without the walk
            return len(self.inputs["input_ids"])
        return max((len(value) for value in self.inputs.values() if np.ndim(value) == 1), default=1)


@dataclass(frozen=True)
class MemberLogits:
    """What one model of several computed of a row: its windows and their logits, as `Task.decode` takes them.

    task: as that model learned it; its labels may stand in another order.
    """

    task: Task
    windows: Sequence[Window]
    logits: Sequence[np.ndarray]

    def answer(self, row: Row) -> Prediction:
        """Its own answer to the row."""
        return self.task.decode(row, self.windows, self.logits)


@dataclass(frozen=True)
class Batch:
    """Windows stacked to arrays.

    inputs:   what the windows carry, int64 or float32 [B, T] or [B, ...], and "attention_mask" [B, T] where they have
              lengths.
    target:   the task's own, int64 or float32, [B] or [B, T] with IGNORE where padded.
    n_tokens: the windows' sizes, padding not counted.
    rows_B:   the row of each window, where those of one row stay in one batch.
    """

    inputs: dict[str, np.ndarray]
    target: dict[str, np.ndarray]
    n_tokens: int
    rows_B: np.ndarray | None = None

    @property
    def n_windows(self) -> int:
        """B."""
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class Outputs:
    """What a model answers to a batch; all but the logits only where they were wanted, or cost nothing.

    logits:     [B, ...], the task's own shape.
    features:   what flows into the last linear layer: [B, D], or [B, T, D] where it reads tokens.
    hidden:     of the embeddings and of each block, [B, T, D] each.
    attentions: of each block, [B, heads, T, T] each.
    """

    logits: torch.Tensor
    features: torch.Tensor | None = None
    hidden: tuple[torch.Tensor, ...] = ()
    attentions: tuple[torch.Tensor, ...] = ()


def pad(values: Sequence[Any], fill: float, dtype: Any = np.int64) -> np.ndarray:
    """Stack numbers to [B], or arrays [T, ...] to [B, T, ...] with `fill` behind the shorter ones."""
    if len(values) == 1 or (not isinstance(values[0], list) and np.ndim(values[0]) == 0):
        return np.asarray(values, dtype)
    out = np.full((len(values), max(map(len, values)), *np.shape(values[0])[1:]), fill, dtype)
    for line, value in zip(out, values, strict=True):
        line[: len(value)] = value
    return out


def _dtype(value: Any) -> Any:
    """What a batch computes with: float32 for anything with a fraction, int64 for whole numbers."""
    kind = value.dtype if isinstance(value, np.ndarray) else np.asarray(value).dtype
    return np.float32 if kind.kind == "f" else np.int64


def collate(inputs: Mapping[str, Sequence[Any]], target: Mapping[str, Sequence[Any]], pad_id: int,
            n_tokens: int | None = None) -> Batch:
    """Pad the fields of some windows to one batch. The attention mask follows from the lengths.

    pad_id:   fills up input_ids; all else is filled up with 0.
    n_tokens: the windows' sizes; the sum of their lengths when absent.
    """
    arrays = {name: pad(values, pad_id if name == "input_ids" else 0, _dtype(values[0]))
              for name, values in inputs.items()}
    of_one_axis = ["input_ids"] if "input_ids" in inputs else [name for name, v in inputs.items() if np.ndim(v[0]) == 1]
    lengths = list(map(len, inputs[of_one_axis[0]])) if of_one_axis else []
    if lengths:
        arrays["attention_mask"] = mask_BT = np.zeros((len(lengths), max(lengths)), np.int64)
        for mask_T, length in zip(mask_BT, lengths, strict=True):
            mask_T[:length] = 1
    targets = {name: pad(values, IGNORE, _dtype(values[0])) for name, values in target.items()}
    return Batch(arrays, targets, sum(lengths) if n_tokens is None else n_tokens)


@dataclass(frozen=True)
class LinearMap:
    """logits_NK = features_ND @ weight_KD.T + bias_K, and the strength C that it was solved with."""

    weight_KD: np.ndarray
    bias_K: np.ndarray
    strength: float

    def __call__(self, features_ND: np.ndarray) -> np.ndarray:
        """logits_NK."""
        return np.asarray(features_ND @ self.weight_KD.T + self.bias_K)
