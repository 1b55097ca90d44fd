"""Stored activations kept in a device's memory, in the type they are stored in, as far as a budget goes.

    resident = Resident(width, torch.float16, device, n_lines)
    values_BTD = resident.padded(keys_B, n_tokens, read)     what it does not hold is read, and held from then on

On a GPU a batch's hidden states come from its own memory a hundred times faster than from a disk through a processor.
Shape suffixes: B windows, T tokens, D width, L lines of the table, one a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..models.device import to_device

SHARE = 0.3  # of the memory that is free when the first values are kept: weights are there, gradients are to come

Read = Callable[[np.ndarray], Sequence[np.ndarray] | None]  # keys -> the array [n, D] of each; None: not all are there


def free_bytes(device: torch.device) -> int:
    """What may be kept on `device`: a share of what is free on a GPU; nothing on a CPU, where files are in memory."""
    return int(SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0


class Resident:
    """Arrays by keys in one table on `device`. n_lines: how many lines [D] it may hold."""

    def __init__(self, width: int, dtype: torch.dtype, device: torch.device, n_lines: int) -> None:
        self.device = device
        self.places: dict[int, tuple[int, int]] = {}  # key -> its first line and how many
        self.n_used = 0
        with torch.inference_mode(False):  # wherever it is made, it is written to inside and outside of that mode
            self.values_LD = torch.empty(n_lines, width, dtype=dtype, device=device)

    @property
    def n_bytes(self) -> int:
        """What the table takes, full or not."""
        return self.values_LD.numel() * self.values_LD.element_size()

    def padded(self, keys_B: np.ndarray, n_tokens: int, read: Read) -> torch.Tensor | None:
        """The arrays of `keys_B`, [B, n_tokens, D] float32, 0 where they are shorter; None where `read` says so.

        read: asked for those that are not here; as many of them as fit are kept.
        """
        keys = keys_B.tolist()
        absent = [i for i, key in enumerate(keys) if key not in self.places]
        arrays = read(keys_B[absent]) if absent else ()
        if arrays is None:
            return None
        values_BTD = torch.zeros(len(keys), n_tokens, self.values_LD.shape[1], device=self.device)
        lines_ND = values_BTD.flatten(0, 1)
        if absent:
            at_N = np.concatenate([i * n_tokens + np.arange(len(a)) for i, a in zip(absent, arrays, strict=True)])
            new = to_device({"values": np.concatenate(arrays), "at": at_N}, self.device)
            lines_ND[new["at"]] = new["values"].float()
            self._keep([keys[i] for i in absent], [len(a) for a in arrays], new["values"])
        if len(absent) < len(keys):
            gone = set(absent)
            here = [(i, *self.places[key]) for i, key in enumerate(keys) if i not in gone]
            index = to_device({
                "from": np.concatenate([begin + np.arange(n) for _, begin, n in here]),
                "at": np.concatenate([i * n_tokens + np.arange(n) for i, _, n in here])}, self.device)
            lines_ND[index["at"]] = self.values_LD[index["from"]].float()
        return values_BTD

    def _keep(self, keys: list[int], lengths: list[int], values_ND: torch.Tensor) -> None:
        """Copy the first of the arrays, as many as there is room for, into the table."""
        ends = np.cumsum(lengths)
        n = int(np.searchsorted(ends, len(self.values_LD) - self.n_used, side="right"))
        if not n:
            return
        self.values_LD[self.n_used : self.n_used + int(ends[n - 1])] = values_ND[: ends[n - 1]]
        for key, end, length in zip(keys[:n], ends.tolist(), lengths, strict=False):
            self.places[key] = (self.n_used + end - length, length)
        self.n_used += int(ends[n - 1])
