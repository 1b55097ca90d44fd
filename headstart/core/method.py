"""A method says which weights move, how fast, and under what loss. It knows no task, no file and no metric."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import torch

    from .model import Model
    from .task import Task
    from .values import Outputs

Average = Literal["none", "wise-ft", "ema", "swa", "soup"]


@dataclass(frozen=True)
class Plan:
    """The stages of a run, as a method wants them.

    solves_head:       the head is first solved on the frozen backbone's features.
    trains:            gradient steps follow.
    solves_again:      the head is solved anew at every evaluation, on the features of that moment.
    average:           the mean of weights that may be kept, where it scores better on validation.
    ema_decay:         of average "ema": the share of the mean that a step leaves as it was.
    n_members:         of average "soup": how often training begins from the first weights.
    keeps:             best: what scores best on validation; likely: trained weights only where validation makes it
                       likely that they are better than the first ones.
    min_choosing_rows: with fewer validation rows than this nothing is chosen by their score: the last weights are kept.
    stores_backbone:   the artifact holds the backbone's weights beside what was learned.
    n_extra_tokens:    positions that the method itself takes from every window.
    teachers:          folders of runs that answer the rows before training; the targets then hold what they say.
    unlabeled:         a source of rows without gold, which only the teachers answer.
    matches:           what of the teachers the targets hold: "logits", "hidden", "attention".
    """

    solves_head: bool = True
    trains: bool = True
    solves_again: bool = False
    average: Average = "none"
    ema_decay: float = 0.99
    n_members: int = 1
    keeps: Literal["best", "likely"] = "best"
    min_choosing_rows: int = 0
    stores_backbone: bool = True
    n_extra_tokens: int = 0
    teachers: tuple[str, ...] = ()
    unlabeled: str | None = None
    matches: tuple[str, ...] = ()

    @property
    def sources(self) -> list[str]:
        """What a run reads beside what its data and backbone name."""
        return [*self.teachers, *([self.unlabeled] if self.unlabeled else [])]


class Method(abc.ABC):
    """One way to carry knowledge over. Subclasses are final, frozen dataclasses; their fields are its options.

    compares_rows: whether `loss` compares a batch's rows: it cannot be summed in pieces.
    """

    name: ClassVar[str]
    compares_rows: ClassVar[bool] = False

    @property
    def plan(self) -> Plan:
        """The stages of a run with this method."""
        return Plan()

    @property
    def alternatives(self) -> Mapping[str, Method]:
        """Methods, by name, of which validation chooses one before the run; {}: it is this one."""
        return {}

    @property
    def wants(self) -> frozenset[str]:
        """Fields of Outputs that `loss` reads beside the logits. What is not named here is not computed."""
        return frozenset()

    @property
    def defaults(self) -> dict[str, Any]:
        """Spec fields that this method presets, such as {"train": {"lr": 1e-4}}."""
        return {}

    def check(self, task: Task) -> None:
        """Raise SpecError for a task that this method cannot serve."""
        return

    @abc.abstractmethod
    def prepare(self, model: Model) -> None:
        """Freeze what never moves, wrap or add weights, in place. Raises SpecError where `model` does not allow it."""

    def depths(self, model: Model, epochs: int) -> list[int]:
        """How many of the lowest blocks are frozen, at some time of a run of so many epochs."""
        return [model.n_frozen()]

    def at_epoch(self, model: Model, epoch: int, trainable: Sequence[torch.nn.Parameter]) -> None:
        """Freeze or thaw what epoch number `epoch` (from 0) asks for; a resumed run calls it for its own epoch.

        trainable: every weight of `groups`.
        """
        return

    def groups(self, model: Model, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Every weight that may ever move, with its rate. Decay spares biases and norms (all that has one axis)."""
        return parameter_groups([p for p in model.parameters() if p.requires_grad], lr, weight_decay)

    def projected(self, model: Model, outputs: Outputs) -> Outputs:
        """What `loss` reads, where weights of the method's own stand between it and what the model answers."""
        return outputs

    def loss(self, task: Task, outputs: Outputs, target: dict[str, torch.Tensor], *,
             weights_K: torch.Tensor | None = None, label_smoothing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum, count) of a batch.

        weights_K:       how much a row of each class counts; absent: all the same.
        label_smoothing: share of the target that is spread over all labels; 0: none of it.
        """
        return task.loss(outputs.logits, target, weights_K=weights_K, label_smoothing=label_smoothing)

    def penalty(self, model: Model, first: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """What is added to the mean loss. first: the trainable weights by name, as they were before the first step."""
        return None

    def ablations(self) -> dict[str, tuple[Method, bool]]:
        """Name -> (the method without a part of what it learns from, whether it reads the unlabeled rows): trained as
        often, they show what each part is worth."""
        return {}

    def finish(self, model: Model) -> Model:
        """The model that answers in the end: adapters merged, teachers dropped."""
        return model


def parameter_groups(weights: list[torch.nn.Parameter], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups of one rate: what has more than one axis decays, biases and norms do not."""
    return [{"params": [p for p in weights if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "lr": lr, "weight_decay": 0.0}]
