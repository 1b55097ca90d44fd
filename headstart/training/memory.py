"""Micro-batches by memory: a step that does not fit is taken in smaller pieces, and so are those after it.

Losses are sums, so the gradient of the pieces is that of the whole, whatever they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core.errors import ResourceError
from ..core.values import IGNORE, Batch


@dataclass
class Memory:
    """What a device holds at once, as far as it is known.

    tokens:  padded tokens (windows, of inputs that have no lengths) of the largest micro-batch; 0: as they come.
    can_cut: whether the loss of pieces sums up to that of the whole.
    """

    tokens: int = 0
    can_cut: bool = True

    def cut(self, batches: Sequence[Batch]) -> list[Batch]:
        """The batches, those that are too large in pieces. A row whose windows stay together is never cut."""
        return [piece for batch in batches for piece in self._pieces(batch)]

    def ran_out(self, batches: Sequence[Batch], n: int) -> None:
        """Make the largest of `batches` too large from now on. Raises ResourceError where none can be cut.

        n: the step that they are of.
        """
        sizes = [padded_tokens(batch) for batch in batches if self.can_cut and len(_starts(batch)) > 1]
        if not sizes:
            raise ResourceError(f"step {n}", "does not fit into the device's memory, and its batch cannot be taken in "
                                "smaller pieces.", "Lower train.tokens_per_batch or data.max_tokens.")
        self.tokens = max(1, max(sizes) // 2)
        torch.cuda.empty_cache()  # nothing is done where there is no GPU

    def _pieces(self, batch: Batch) -> list[Batch]:
        starts_U = _starts(batch)
        if not self.tokens or padded_tokens(batch) <= self.tokens or len(starts_U) == 1:
            return [batch]
        middle = int(starts_U[len(starts_U) // 2])
        return self.cut([_part(batch, slice(middle)), _part(batch, slice(middle, None))])


def padded_tokens(batch: Batch) -> int:
    """What the device computes of a batch: B x T; B where its inputs have no lengths."""
    mask_BT = batch.inputs.get("attention_mask")
    return batch.n_windows if mask_BT is None else int(mask_BT.size)


def _starts(batch: Batch) -> np.ndarray:
    """The first window of each unit that stays whole, [U]."""
    if batch.rows_B is None:
        return np.arange(batch.n_windows)
    return np.flatnonzero(np.diff(batch.rows_B, prepend=batch.rows_B[0] - 1))


def _part(batch: Batch, windows: slice) -> Batch:
    """Some of the windows of a batch, without the padding that only the others needed."""
    inputs, target = ({name: array[windows] for name, array in arrays.items()}
                      for arrays in (batch.inputs, batch.target))
    rows_B = None if batch.rows_B is None else batch.rows_B[windows]
    mask_BT = inputs.get("attention_mask")
    n_tokens = len(next(iter(inputs.values()))) if mask_BT is None else int(mask_BT.sum())
    if mask_BT is not None:
        before, now = mask_BT.shape[1], int(mask_BT.sum(1).max())
        inputs = {name: array[:, :now] if array.ndim > 1 and array.shape[1] == before else array
                  for name, array in inputs.items()}
        target = {name: array[:, :now] if array.ndim > 1 and array.shape[1] == before
                  and (array[:, now:] == IGNORE).all() else array for name, array in target.items()}
    return Batch(inputs, target, n_tokens, rows_B)
