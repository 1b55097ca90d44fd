"""A method says which weights move, how fast, and under what loss. It knows no task, no file and no metric."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import torch

    from ..models.heads import Model

Average = Literal["none", "wise-ft", "ema", "swa", "soup"]


class Method(abc.ABC):
    """One way to carry knowledge over. Subclasses are final, frozen dataclasses; their fields are its options.

    reads: what `loss` compares: the model's logits, or what flows into its last linear layer (one vector a window).
    """

    name: ClassVar[str]
    reads: ClassVar[Literal["logits", "features"]] = "logits"

    @property
    def defaults(self) -> dict[str, Any]:
        """Spec fields that this method presets, such as {"train": {"lr": 1e-4}}."""
        return {}

    @property
    def solves_head(self) -> bool:
        """Whether the head is first solved on what the frozen backbone says."""
        return True

    @property
    def trains(self) -> bool:
        """Whether gradient steps follow."""
        return True

    @property
    def solves_again(self) -> bool:
        """Whether the head is solved anew at every evaluation, on what the model says by then."""
        return False

    @property
    def averages(self) -> Average:
        """Which mean of weights may be kept, where it scores better on validation."""
        return "none"

    @property
    def ema_decay(self) -> float:
        """averages "ema": the share of the mean that a step leaves as it was."""
        return 0.99

    @property
    def n_members(self) -> int:
        """averages "soup": how often training begins from the first weights."""
        return 1

    @property
    def keeps_proven(self) -> bool:
        """Whether trained weights are kept only when validation proves them better than the first ones."""
        return False

    @property
    def min_choosing_rows(self) -> int:
        """With fewer validation rows than this nothing is chosen by their score: the last weights are kept."""
        return 0

    @property
    def stores_backbone(self) -> bool:
        """Whether the artifact holds the backbone's weights beside what was learned."""
        return not getattr(self, "alone", False)

    @property
    def n_extra_tokens(self) -> int:
        """Positions that the method itself takes from every window."""
        return 0

    def check(self, task: Any) -> None:
        """Raise SpecError for a task that this method cannot serve."""
        return

    @abc.abstractmethod
    def prepare(self, model: Model) -> None:
        """Freeze what never moves, wrap or add weights, in place. Raises SpecError where `model` does not allow it."""

    def as_pretrained(self, model: Model) -> AbstractContextManager[Any]:
        """While it is open, a prepared model says what the pretrained backbone says."""
        from ..models import adapters

        return adapters.disabled(model)

    def depths(self, model: Model, epochs: int) -> list[int]:
        """How many of the lowest blocks are frozen, at some time of a run of so many epochs."""
        from ..models import blocks  # it needs torch; checking a Spec does not

        return [blocks.n_frozen(model.encoder)]

    def at_epoch(self, model: Model, epoch: int, moving: Sequence[torch.nn.Parameter]) -> None:
        """Freeze or thaw what epoch number `epoch` (from 0) asks for; a resumed run calls it for its own epoch.

        moving: every weight of `groups`.
        """
        return

    def groups(self, model: Model, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Every weight that may ever move, with its rate. Decay spares biases and norms (all that has one axis)."""
        return by_axes([p for p in model.parameters() if p.requires_grad], lr, weight_decay)

    def loss(self, task: Any, said: torch.Tensor, target: dict[str, torch.Tensor],
             **how: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum, count) of a batch. said: what `reads` names."""
        summed, count = task.loss(said, target, **how)
        return summed, count

    def penalty(self, model: Model, first: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """What is added to the mean loss. first: the moving weights by name, as they were before the first step."""
        return None

    def finish(self, model: Model) -> Model:
        """The model that answers in the end: adapters merged, teachers dropped."""
        return model


def by_axes(weights: list[torch.nn.Parameter], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups of one rate: what has more than one axis decays, biases and norms do not."""
    return [{"params": [p for p in weights if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "lr": lr, "weight_decay": 0.0}]
