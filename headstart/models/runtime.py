"""A torch model as a Runtime: arrays in, logits out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

if TYPE_CHECKING:
    from ..core.model import Model


@dataclass(frozen=True)
class TorchRuntime:
    """A model on its device: eval mode, no gradients, float32 out."""

    model: Model
    device: torch.device
    skips_padding: ClassVar[bool] = False

    @torch.inference_mode()
    def logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Inputs [B, T] to logits [B, ...]."""
        self.model.eval()
        tensors = {name: torch.from_numpy(a).to(self.device) for name, a in inputs.items()}
        return self.model(tensors).logits.float().cpu().numpy()
