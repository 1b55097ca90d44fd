"""linear-probe: nothing of the backbone moves; a logistic regression reads what it says.

What moves  the head only, solved to convergence (no steps, no learning rate).
When        few labels, no time, or as the line that fine-tuning has to beat; the certificate always holds it.
Cost        one forward pass over the data.
Goes wrong  where the backbone never learned what the labels ask for.
Source      Peters et al. 2019, "To Tune or Not to Tune?"; strength chosen on validation from features.STRENGTHS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import SpecError
from ..core.method import Method, Plan
from ..core.model import Model
from ..core.task import Task


@dataclass(frozen=True)
class LinearProbe(Method):
    """Frozen backbone, solved head."""

    name: ClassVar = "linear-probe"
    defaults: ClassVar = {"train": {"lr": 3e-3, "dropout": 0.0}}  # for the heads that are trained, not solved
    plan: ClassVar = Plan(trains=False)

    def check(self, task: Task) -> None:
        if task.generation is not None:
            raise SpecError("method.name", f'"linear-probe" moves a head alone; task "{task.name}" writes with the '
                            "backbone's own, so nothing would move.", "Use lora, or fine-tuning with last_blocks.")

    def prepare(self, model: Model) -> None:
        model.encoder.requires_grad_(False)
