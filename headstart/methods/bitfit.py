"""bitfit: only the biases move, and the head.

What moves  every bias of the backbone (a thousandth of its weights) and the head.
When        a few hundred labels and many tasks on one backbone: what a task adds is tiny.
Cost        the forward pass of fine-tuning and nearly all of its backward pass; the optimizer holds next to nothing.
Goes wrong  it needs a rate ten times that of fine-tuning, and falls behind where the task is far from the pretraining.
            Families without biases (Llama, T5, ModernBERT) cannot take it.
Source      Ben Zaken et al. 2022, "BitFit" (rates from 1e-4 to 1e-3 there).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import SpecError
from ..core.method import Method
from ..core.model import Model


@dataclass(frozen=True)
class BitFit(Method):
    """Biases move."""

    name: ClassVar = "bitfit"
    defaults: ClassVar = {"train": {"lr": 1e-3, "dropout": 0.0}}

    def prepare(self, model: Model) -> None:
        from ..models import adapters

        adapters.check_taught(model)
        trainable = {id(p) for p in model.encoder.parameters() if p.requires_grad}  # a pooler nobody reads is not
        model.encoder.requires_grad_(False)
        biases = [p for name, p in model.encoder.named_parameters()
                  if name.endswith("bias") and p.ndim == 1 and id(p) in trainable]
        if not biases:
            raise SpecError("method.name", "\"bitfit\" moves biases, and this backbone has none.",
                            "Use lora, adapter, ia3 or fine-tuning with last_blocks.")
        for p in biases:
            p.requires_grad_(True)
