"""A torch model as a Runtime: arrays in, logits out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ..core.errors import ArtifactError
from .device import by_halves, to_device
from .stepping import stepper_of

if TYPE_CHECKING:
    from ..core.model import Model
    from ..core.values import Stepper


@dataclass(frozen=True)
class TorchRuntime:
    """A model on its device: eval mode, no gradients, float32 out."""

    model: Model
    device: torch.device
    pid: int = field(default_factory=os.getpid)  # of the process that loaded it
    skips_padding: ClassVar[bool] = False

    @torch.inference_mode()
    def logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Inputs [B, T] to logits [B, ...]. Raises ArtifactError in a forked process that cannot use the device."""
        if os.getpid() != self.pid:
            self._enter_child()
        self.model.eval()
        return by_halves(self._logits, inputs)

    def _logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        logits: np.ndarray = self.model(to_device(inputs, self.device)).logits.float().cpu().numpy()
        return logits

    def stepper(self) -> Stepper:
        """What writes texts. Raises ArtifactError as `logits` does, and for a model that does not write."""
        if os.getpid() != self.pid:
            self._enter_child()
        if not self.model.writes:
            raise ArtifactError("predict", "this model writes no texts: it has no language-model head.",
                                "Fit a task that writes, such as summarization.")
        return stepper_of(self.model, self.device)

    def _enter_child(self) -> None:
        """A fork copies one thread only: what waits for the others of torch's pool would wait for ever."""
        if self.device.type != "cpu":
            raise ArtifactError("predict", f"a model on {self.device.type} was loaded before this process was forked.",
                                "Load the model in the child, or start the child by spawn.")
        torch.set_num_threads(1)
        object.__setattr__(self, "pid", os.getpid())
