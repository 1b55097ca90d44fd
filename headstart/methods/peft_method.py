"""What parameter-efficient methods share: the backbone is frozen, and small weights that are added to it move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from ..core.method import Method, Plan
from ..core.model import Model


@dataclass(frozen=True)
class PeftMethod(Method):
    """Abstract: added weights move. alone: store them without the backbone.

    lr:     the rate that it presets.
    merges: whether what was added becomes part of the backbone's own weights in the end, if not stored alone.
    """

    lr: ClassVar[float]
    merges: ClassVar[bool] = False

    alone: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        return {"train": {"lr": self.lr, "dropout": 0.0}}

    def finish(self, model: Model) -> Model:
        from ..models import adapters

        return adapters.merged(model) if self.merges and not self.alone else model


@dataclass(frozen=True)
class LayerAdapter(PeftMethod):
    """Abstract: weights beside the blocks' linear layers. last_blocks: only in this many of the upper blocks."""

    last_blocks: Annotated[int, Field(ge=1)] | None = None

    @property
    def plan(self) -> Plan:
        return Plan(stores_backbone=not self.alone)


@dataclass(frozen=True)
class SoftPrompt(PeftMethod):
    """Abstract: n_tokens positions before every text that no text contains; they take their room in its window."""

    lr: ClassVar = 1e-2

    n_tokens: Annotated[int, Field(ge=1)] = 8

    @property
    def plan(self) -> Plan:
        return Plan(stores_backbone=not self.alone, n_extra_tokens=self.n_tokens)

    def wrap(self, model: Model, kind: str, width: int, n_heads: int = 1, n_layers: int = 1) -> None:
        """Put peft's prompt of `kind` around the encoder. width: D of each position."""
        from ..models import adapters

        adapters.wrap(model, kind, num_virtual_tokens=self.n_tokens, token_dim=width, num_transformer_submodules=1,
                      num_attention_heads=n_heads, num_layers=n_layers)
