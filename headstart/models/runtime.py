"""A torch model as a runtime: arrays in, logits out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..core.model import Model
from ..core.values import Runtime

if TYPE_CHECKING:
    import torch


def torch_runtime(model: Model, device: torch.device) -> Runtime:
    """A model on its device as a runtime: eval mode, no gradients, float32 out."""
    import torch

    @torch.inference_mode()
    def runtime(inputs: dict[str, np.ndarray]) -> np.ndarray:
        model.eval()
        logits = model({name: torch.from_numpy(a).to(device) for name, a in inputs.items()}).logits
        return logits.float().cpu().numpy()

    return runtime
