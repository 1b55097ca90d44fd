"""Arrays to the device without waiting for it, and what is done when they do not fit into its memory.

    tensors = to_device(inputs, device)          on a CPU the arrays themselves, as tensors; nothing is copied
    logits = by_halves(model_on, inputs)         in pieces where one forward pass takes more memory than there is
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from ..core.errors import ResourceError

GPU_TOKENS = 8192  # padded tokens in one forward pass without gradients; of short texts more would be mostly padding


def to_device(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """The arrays as tensors on `device`.

    On a GPU they go by pinned memory, in the order of its stream: the caller does not wait for what it computes.
    """
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in tensors.items()}
    return {name: (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)
            for name, tensor in tensors.items()}


def pinned(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays in memory that a GPU can read by itself; `to_device` then copies them no more on this side."""
    return {name: torch.from_numpy(array).pin_memory().numpy() for name, array in arrays.items()}


def tokens_at_once(wanted: int, is_default: bool, device: torch.device) -> int:
    """Padded tokens in one forward pass without gradients: `wanted` on a CPU and where the user chose it."""
    return wanted if device.type == "cpu" or not is_default else max(wanted, GPU_TOKENS)


def by_halves(compute: Callable[[dict[str, np.ndarray]], np.ndarray], inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What `compute` gives for a batch, [B, ...]; where memory runs out, for each half of its windows, and so on.

    compute: windows that stand in no relation to each other -> one entry a window.
    Raises   ResourceError where a single window does not fit.
    """
    try:
        return compute(inputs)
    except torch.OutOfMemoryError:
        pass  # first out of this block: the error holds on to all that was computed
    n_windows = len(next(iter(inputs.values())))
    if n_windows == 1:
        raise ResourceError("memory", "of the device does not hold what the model computes of one window.",
                            "Cut the windows shorter (data.max_tokens), or take a smaller backbone.")
    torch.cuda.empty_cache()  # nothing is done where there is no GPU
    half = n_windows // 2
    return np.concatenate([by_halves(compute, {name: array[piece] for name, array in inputs.items()})
                           for piece in (slice(half), slice(half, None))])
