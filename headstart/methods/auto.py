"""auto: a solved head on the frozen backbone, then fine-tuning from it; it ships what is proven to be better.

What moves  as in fine-tuning; if validation does not prove that it helped, nothing: the frozen backbone is kept.
When        you do not know which method to take.
Cost        that of fine-tuning.
Goes wrong  with few validation rows small gains cannot be proven, and a slightly better model is not kept.
Source      Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (the order); the rule is ours: the 95 %
            interval of the paired difference on the validation rows (30 at least) must lie above zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..core.method import Method
from ..core.model import Model
from .fine_tuning import FineTuning

STEPS = FineTuning()


@dataclass(frozen=True)
class Auto(Method):
    """The probe, then fine-tuning; ships what is proven."""

    name: ClassVar = "auto"
    defaults: ClassVar = STEPS.defaults
    plan: ClassVar = replace(STEPS.plan, keeps="proven")

    def prepare(self, model: Model) -> None:
        STEPS.prepare(model)
