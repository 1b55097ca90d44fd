"""auto: a solved head on the frozen backbone, then fine-tuning from it; it ships the better one of both.

What moves  as in fine-tuning; of a model that writes, the upper fifth of its blocks. If validation does not speak for
            what was trained, nothing: the frozen backbone is kept.
When        you do not know which method to take.
Cost        that of fine-tuning; with fewer than 30 validation rows that of a linear probe, for nothing is trained, and
            cross-validation over all rows chooses the head.
Goes wrong  with few validation rows small gains cannot be seen, and a slightly better model is not kept.
Source      Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (the order); the rule is ours: the trained
            weights are shipped when they are better by half a standard error of the paired difference on the
            validation rows. What is shipped need not be proven: that the certificate says, on the test rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..core.method import Method
from ..core.model import Model
from .fine_tuning import FineTuning

STEPS = FineTuning()
SHARE_THAT_WRITES = 5  # one block in so many, the upper ones: what lies below is computed once


@dataclass(frozen=True)
class Auto(Method):
    """The probe, then fine-tuning; ships the better one by validation."""

    name: ClassVar = "auto"
    defaults: ClassVar = STEPS.defaults
    plan: ClassVar = replace(STEPS.plan, keeps="likely", min_choosing_rows=30)

    def prepare(self, model: Model) -> None:
        from ..models import blocks

        if not model.writes or blocks.new_weights(model.encoder):
            STEPS.prepare(model)
            return
        n = len(blocks.of(model.encoder))
        replace(STEPS, last_blocks=max(1, n // SHARE_THAT_WRITES) if n else None).prepare(model)
