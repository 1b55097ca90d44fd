"""A backbone's blocks, bottom-up: what can be frozen, what still moves, and how to enter in the middle.

    hidden_BTD = Span(model, 0, 4)(inputs)           what the lowest four blocks say
    logits = Span(model, 4)(inputs, hidden_BTD)      the rest of the model, from there

Shape suffixes: B windows, T tokens, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn

from .heads import Inputs, Model

# Where each family keeps its blocks. A family that is not here trains whole, from its embeddings up.
PLACES = {
    "bert": "encoder.layer", "roberta": "encoder.layer", "xlm-roberta": "encoder.layer", "camembert": "encoder.layer",
    "electra": "encoder.layer", "mpnet": "encoder.layer", "deberta-v2": "encoder.layer",
    "distilbert": "transformer.layer", "modernbert": "layers", "gpt2": "h", "llama": "layers", "t5": "encoder.block",
}
# What a family computes behind its blocks. All else outside of them (embeddings, shared position tables) is below.
BEHIND = ("pooler", "final_norm", "norm", "ln_f", "encoder.final_layer_norm")


def base(encoder: nn.Module) -> nn.Module:
    """The pretrained model of transformers that adapters may be wrapped around."""
    unwrapped = getattr(encoder, "get_base_model", None)
    return cast(nn.Module, unwrapped()) if unwrapped is not None else encoder


def of(encoder: nn.Module) -> list[nn.Module]:
    """The blocks of `encoder`, bottom-up; [] where its family cannot be entered in the middle.

    ALBERT is such a family: its blocks share their weights. So is a DeBERTa with a convolution beside its first block.
    """
    model = base(encoder)
    place = PLACES.get(getattr(model, "config").model_type)  # noqa: B009 - an nn.Module says it has any attribute
    if place is None or getattr(getattr(model, "encoder", None), "conv", None) is not None:
        return []
    return list(cast(nn.ModuleList, model.get_submodule(place)))


def n_frozen(encoder: nn.Module) -> int:
    """How many of the lowest blocks are a constant function of the text: nothing in them or below them moves."""
    layers = of(encoder)
    inside = {id(p) for layer in layers for p in layer.parameters()}
    below = (p for p in _outside(base(encoder)) if id(p) not in inside)
    if any(p.requires_grad for p in below) or any(p.requires_grad for p in _wrapped_around(encoder)):
        return 0
    moving = (i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
    return next(moving, len(layers))


def _outside(model: nn.Module) -> Iterator[nn.Parameter]:
    for name, p in model.named_parameters():
        if not any(name.startswith(part + ".") for part in BEHIND):
            yield p


def _wrapped_around(encoder: nn.Module) -> Iterator[nn.Parameter]:
    """Weights of a wrapper that the pretrained model does not hold, such as a prompt."""
    own = {id(p) for p in base(encoder).parameters()}
    return (p for p in encoder.parameters() if id(p) not in own)


def freeze(encoder: nn.Module, n: int) -> None:
    """Freeze the lowest `n` blocks and what is below them; all else stays as it is."""
    if n:
        above = {id(p) for part in (*of(encoder)[n:], *behind(encoder)) for p in part.parameters()}
        for p in encoder.parameters():
            if id(p) not in above:
                p.requires_grad_(False)


def behind(encoder: nn.Module) -> list[nn.Module]:
    """What the family computes behind its blocks."""
    return [module for name, module in base(encoder).named_modules() if name in BEHIND]


def train_mode(model: Model) -> None:
    """Training mode for what can move, eval mode for the frozen part: it says the same every time, cached or not."""
    model.train()
    n = n_frozen(model.encoder)
    if n or not any(p.requires_grad for p in model.encoder.parameters()):
        model.encoder.eval()
        for module in (*of(model.encoder)[n:], *behind(model.encoder)):
            module.train()


class Span:
    """`model` computed from block `start` up to block `stop` only; it shares every weight with `model`.

    start: 0 begins with the text; else what block start - 1 said is handed in.
    stop:  None goes on to the logits; else the answer is what block stop - 1 says, [B, T, D].
    """

    def __init__(self, model: Model, start: int, stop: int | None = None) -> None:
        layers = of(model.encoder)
        skipped = [*layers[1:start], *(layers[stop:] if stop is not None else [])]
        swaps: dict[int, nn.Module] = {id(layer): _Passed(layer) for layer in skipped}
        self.first = _Said(layers[0]) if start else None
        if self.first is not None:
            swaps[id(layers[0])] = self.first
        self.last = None if stop is None else layers[stop - 1]
        self.model = _swapped(model, swaps)

    def __call__(self, inputs: Inputs, hidden_BTD: torch.Tensor | None = None) -> torch.Tensor:
        if self.first is not None and hidden_BTD is not None:
            self.first.hidden_BTD = hidden_BTD
        if self.last is None:
            logits: torch.Tensor = self.model(inputs)
            return logits
        with caught(self.last, lambda _, said: said) as seen:
            self.model(inputs)
        return seen[0]


class caught:  # noqa: N801 - used as a function
    """`with caught(module, choose) as seen`: the tensors that went through `module`, one a call.

    choose: (inputs, output) of the module -> the tensor wanted, or a tuple that begins with it.
    """

    def __init__(self, module: nn.Module, choose: Callable[[Any, Any], Any]) -> None:
        self.module, self.choose = module, choose
        self.seen: list[torch.Tensor] = []  # the last call's; its gradient goes on where there is one

    def __enter__(self) -> list[torch.Tensor]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            found = self.choose(inputs, output)
            self.seen[:] = [found[0] if isinstance(found, tuple) else found]

        self.handle = self.module.register_forward_hook(hook)
        return self.seen

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


class _Passed(nn.Module):
    """Stands where a block stood and hands on what it is given, in the shape that the family's loop expects."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = [block]  # in a list: its weights are not ours
        self.kind = type(block).__name__
        if hasattr(block, "attention_type"):
            self.attention_type = block.attention_type  # ModernBERT chooses a mask by it

    def forward(self, hidden_BTD: torch.Tensor, *rest: Any, **named: Any) -> Any:
        if self.kind == "MPNetLayer":
            return (hidden_BTD,)
        if self.kind == "DebertaV2Layer":
            return hidden_BTD, None
        if self.kind == "T5Block":  # the first one also computes the position bias that all share
            return hidden_BTD, rest[1] if rest[1] is not None else self._position_bias(hidden_BTD), None
        return hidden_BTD

    def _position_bias(self, hidden_BTD: torch.Tensor) -> Any:
        attention = cast(Any, self.block[0]).layer[0].SelfAttention
        n_tokens = hidden_BTD.shape[1]
        return attention.compute_bias(n_tokens, n_tokens, device=hidden_BTD.device)


class _Said(_Passed):
    """Stands where the first block stood and says what it is told to."""

    hidden_BTD: torch.Tensor

    def forward(self, hidden_BTD: torch.Tensor, *rest: Any, **named: Any) -> Any:
        return super().forward(self.hidden_BTD, *rest, **named)


def _swapped(module: nn.Module, swaps: dict[int, nn.Module]) -> nn.Module:
    """A twin of `module` in which some modules are exchanged; it shares everything else. `module` stays as it is."""
    if id(module) in swaps:
        return swaps[id(module)]
    children = {name: child if child is None else _swapped(child, swaps) for name, child in module._modules.items()}
    if all(child is module._modules[name] for name, child in children.items()):
        return module
    twin = copy.copy(module)
    twin._modules = children
    return twin
