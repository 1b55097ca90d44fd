"""Features of stored windows: what flows into the last linear layer, one line a window or a token, in a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..core.windows import WindowStore, by_length
from ..models.device import by_halves


@torch.inference_mode()
def extract(features: Callable[[dict[str, np.ndarray]], torch.Tensor], width: int, windows: WindowStore,
            chosen: np.ndarray, path: Path, *, tokens_per_batch: int, each: Callable[[int], None],
            per_token: bool = False) -> np.ndarray:
    """What `features` gives for the windows numbered `chosen`, one vector of `width` numbers a window (or a token).

    features: a padded batch -> [B, D] (or [B, T, D]).  each: called with the windows done in each batch.
    path: file of the memory-mapped result (overwritten).
    Returns  features_MD float32 in the order of `chosen`, M windows (or all their tokens, window after window).
    Cost     one forward pass where the features are not known yet; 4 * D bytes a line on disk.
    """
    n_lines_N = windows.lengths_N[chosen].astype(np.int64) if per_token else np.ones(len(chosen), np.int64)
    ends_N = np.cumsum(n_lines_N)
    shape = (int(ends_N[-1]), width)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * shape[0] * shape[1])  # a full disk says so now, not by SIGBUS later
    features_MD = np.memmap(path, np.float32, "r+", shape=shape)
    for places in by_length(windows.sizes_N[chosen], np.arange(len(chosen)), tokens_per_batch):
        values = by_halves(lambda inputs: features(inputs).float().cpu().numpy(), windows.batch(chosen[places]).inputs)
        if per_token:
            for place, values_TD in zip(places, values, strict=True):
                features_MD[ends_N[place] - n_lines_N[place] : ends_N[place]] = values_TD[: n_lines_N[place]]
        else:
            features_MD[places] = values
        each(len(places))
    return features_MD
