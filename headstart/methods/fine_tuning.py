"""fine-tuning: every weight moves, from a head that already fits.

What moves  all weights but the token embeddings; those too with freeze_embeddings: false.
When        some hundred labels or more, and minutes to spend.
Cost        three forward passes' arithmetic a token and epoch; the optimizer holds twice the weights.
Goes wrong  with few labels and a high rate the pretrained features are lost; `head_first` guards against that: a
            random head sends large, meaningless gradients into the backbone, a solved one does not.
            Where labels are many and rows few, the frozen features with a solved head are hard to beat; the mean of
            both (`average`) often beats either.
Source      Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (head_first, LP-FT); Wortsman et al. 2022,
            "Robust fine-tuning of zero-shot models" (average, WiSE-FT). What the defaults were chosen by:
            python -m bench defaults
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from . import Method

if TYPE_CHECKING:
    from ..heads import Model


@dataclass(frozen=True)
class FineTuning(Method):
    """Everything moves.

    head_first: solve the head on frozen features, then move the rest.
    average:    keep a mean of the first and the best trained weights if that scores better on validation.
    """

    name: ClassVar = "fine-tuning"

    defaults: ClassVar = {"train": {"dropout": 0.0, "label_smoothing": 0.1}}

    head_first: bool = True
    freeze_embeddings: bool = True
    average: bool = True

    @property
    def solves_head(self) -> bool:
        return self.head_first

    @property
    def trains(self) -> bool:
        return True

    @property
    def averages(self) -> bool:
        return self.average

    def prepare(self, model: Model) -> None:
        if self.freeze_embeddings:
            model.encoder.get_input_embeddings().requires_grad_(False)  # type: ignore[operator]
