"""A method says which weights move, how fast, and under what loss. It knows no task, no file and no metric."""

from __future__ import annotations

import abc
import sys
from typing import TYPE_CHECKING, Any, ClassVar

from .. import registry
from ..errors import SpecError

if TYPE_CHECKING:
    from ..heads import Model


class Method(abc.ABC):
    """One way to carry knowledge over. Subclasses are final, frozen dataclasses; their fields are its options.

    defaults: Spec fields that this method presets, such as {"train": {"lr": 1e-4}}.
    """

    name: ClassVar[str]
    defaults: ClassVar[dict[str, Any]] = {}

    @property
    @abc.abstractmethod
    def solves_head(self) -> bool:
        """Whether the head is first solved on what the frozen backbone says."""

    @property
    @abc.abstractmethod
    def trains(self) -> bool:
        """Whether gradient steps follow."""

    @property
    def averages(self) -> bool:
        """Whether means of the first and the best trained weights may be kept, where they score better."""
        return False

    @abc.abstractmethod
    def prepare(self, model: Model) -> None:
        """Freeze what never moves, wrap or add weights, in place."""

    def groups(self, model: Model, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Every weight that may move, with its rate. Decay spares biases and norms (all that has one axis)."""
        moving = [p for p in model.parameters() if p.requires_grad]
        return [{"params": [p for p in moving if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
                {"params": [p for p in moving if p.ndim <= 1], "lr": lr, "weight_decay": 0.0}]

    def finish(self, model: Model) -> Model:
        """The model that answers in the end: adapters merged, teachers dropped."""
        return model


def build(options: dict[str, Any], where: str = "method") -> Method:
    """The method that `{"name": ..., option: value}` asks for. Raises SpecError that names the nearest one."""
    if "name" not in options:
        raise SpecError(where, "has no name.", "For example: method: {name: fine-tuning}")
    kind = registry.find(sys.modules[__name__], Method, options["name"], f"{where}.name")
    method: Method = registry.build(kind, {k: v for k, v in options.items() if k != "name"}, where)
    return method


def names() -> list[str]:
    """Every method there is."""
    return sorted(registry.known(sys.modules[__name__], Method))
