"""What a model can do: the one interface that methods, training, features and export know it by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from .values import Outputs

if TYPE_CHECKING:
    import torch
    from torch import nn


Inputs = Mapping[str, "torch.Tensor"]  # by name, [B, T] or [B, ...]
MAIN = "main"  # the job whose head a model is made with


@dataclass(frozen=True)
class Precision:
    """In which numbers the products in an encoder are computed.

    name: "fp32", "bf16" or "fp16".  instructions: what computes them, such as "avx512", "amx_bf16" or "sm_90"; others
    may round otherwise.
    """

    name: str
    instructions: str

    def __str__(self) -> str:
        return f"{self.name} ({self.instructions})"

    def facts(self) -> dict[str, str]:
        """What the certificate says of it."""
        return {"precision": self.name, "instructions": self.instructions}


class Model(Protocol):
    """A pretrained encoder with a head for each job.

    output:     the last linear layer of the main job's head: what flows into it are the features.
    per_token:  whether features are [B, T, D], one vector a token, and not [B, D].
    head:       the main job's head; None where the family's own is a part of the pretrained model.
    more_heads: those of the other jobs, by name.
    revision:   a number that changes when modules are exchanged or an adapter is switched on or off.
    signature:  what beside weights and the encoder decides features; it names stored ones.
    precision:  of the products in the encoder; fp32 until it is set.
    writes:     whether it answers with the next token and not through a head of ours.
    """

    training: bool
    head: Any
    more_heads: nn.ModuleDict
    revision: int
    precision: Precision
    writes: bool

    @property
    def encoder(self) -> nn.Module: ...
    @property
    def output(self) -> nn.Linear: ...
    @property
    def per_token(self) -> bool: ...
    @property
    def signature(self) -> str: ...

    def __call__(self, inputs: Inputs, job: str = MAIN,
                 want: frozenset[str] = frozenset()) -> Outputs:
        """want: "features", "hidden", "attentions", beside the logits. Raises SpecError for a job without a head."""

    def set_encoder(self, encoder: nn.Module) -> None:
        """Exchange the encoder, for example for the same one with an adapter around it."""

    def set_precision(self, precision: Precision) -> None:
        """Let the encoder compute so from now on; heads, weights and what comes out of it stay in 32 bits."""

    def below_output(self) -> list[nn.Parameter]:
        """The weights that features of the main job depend on."""

    def n_frozen(self) -> int:
        """How many of the lowest blocks are a constant function of the input: nothing in or below them moves."""

    def as_pretrained(self) -> AbstractContextManager[None]:
        """While it is open, the model computes what the pretrained backbone computes."""

    def own_head(self) -> nn.Module:
        """The weights that are not the encoder's, as a module whose names do not depend on it."""

    def save_pretrained(self, folder: Path, labels: Mapping[str, Any]) -> None:
        """Write the pretrained part in transformers' format; `labels` go into its configuration."""

    # What every torch module can do.
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def buffers(self) -> Iterator[torch.Tensor]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    def to(self, device: Any) -> Self: ...
