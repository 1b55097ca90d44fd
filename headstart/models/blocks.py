"""A backbone's blocks, bottom-up: what can be frozen, what still moves, and how to enter in the middle.

    hidden_BTD = Span(model, 0, 4).hidden(inputs)    what the lowest four blocks compute
    outputs = Span(model, 4)(inputs, hidden_BTD)     the rest of the model, from there

Shape suffixes: B windows, T tokens, D width.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn

from ..core.model import MAIN, Inputs, Model
from ..core.values import PREDICTS, Outputs
from . import families
from .families import Family


def base(encoder: nn.Module) -> nn.Module:
    """The pretrained model of transformers that adapters may be wrapped around."""
    unwrapped = getattr(encoder, "get_base_model", None)
    return cast(nn.Module, unwrapped()) if unwrapped is not None else encoder


def of(encoder: nn.Module) -> list[nn.Module]:
    """The blocks of `encoder`, bottom-up, a decoder's above those of its encoder; [] where its family cannot be entered
    in the middle."""
    model, family = base(encoder), family_of(encoder)
    names = {name for name, _ in model.named_modules()}
    if family.blocks is None or family.unless in names:
        return []
    lists = (family.blocks, *([family.decoder_blocks] if decoder(encoder) is not None else []))
    return [block for name in lists for block in cast(nn.ModuleList, model.get_submodule(str(name)))]


def family_of(encoder: nn.Module) -> Family:
    """What is known of the architecture of `encoder`."""
    model = base(encoder)
    return cast(Family, getattr(model, "family", None)) or families.of(model.config)


def decoder(encoder: nn.Module) -> nn.Module | None:
    """What reads the encoder's hidden states beside a text of its own; None where there is none."""
    model = base(encoder)
    return cast(nn.Module, model.decoder) if hasattr(model, "decoder") else None


def cache_sizes(encoder: nn.Module) -> tuple[int, int, int]:
    """(layers, heads, numbers a head) of the keys and values that are kept of what is written."""
    config: Any = getattr(decoder(encoder), "config", None) or base(encoder).config
    layers, heads = (getattr(config, f"decoder_{name}", None) or getattr(config, f"num_{other}")
                     for name, other in (("layers", "hidden_layers"), ("attention_heads", "attention_heads")))
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return layers, getattr(config, "num_key_value_heads", None) or heads, width


def n_entered(encoder: nn.Module) -> int:
    """How many of the blocks, from below, can be computed once: behind an encoder's last, a decoder goes on from it."""
    above = decoder(encoder)
    inside = {id(module) for module in above.modules()} if above is not None else set()
    return sum(id(block) not in inside for block in of(encoder))


def n_frozen(encoder: nn.Module) -> int:
    """How many of the lowest blocks are a constant function of the text: nothing in them or below them moves."""
    if any(p.requires_grad for p in below(encoder, 0)):
        return 0
    layers = of(encoder)[: n_entered(encoder)]
    moving = (i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
    return next(moving, len(layers))


def below(encoder: nn.Module, n: int) -> list[nn.Parameter]:
    """The weights that the lowest `n` blocks' answer depends on: theirs, and those below and around all blocks.

    Of an encoder with a decoder: what is around the decoder's blocks counts only where one of these is among them.
    """
    parts = [*of(encoder)[n:], *behind(encoder)]
    above = {id(p) for part in parts for p in part.parameters()}
    writer = decoder(encoder)
    if writer is None:
        return [p for p in encoder.parameters() if id(p) not in above]
    of_decoder = {id(p) for p in writer.parameters()}
    read = {id(p) for p in cast(nn.Module, base(encoder).encoder).parameters()}  # an embedding may be both's
    if n <= n_entered(encoder):
        above |= of_decoder - read
    return [p for p in encoder.parameters() if id(p) not in above]


def freeze(encoder: nn.Module, n: int) -> None:
    """Freeze the lowest `n` blocks and what is below them; all else, and what was never trained, stays as it is."""
    new = {id(p) for p in new_weights(encoder)}
    for p in below(encoder, n) if n else ():
        if id(p) not in new:
            p.requires_grad_(False)


def new_weights(encoder: nn.Module) -> list[nn.Parameter]:
    """Weights that no pretraining has seen, such as those of a target vocabulary that was just made."""
    names = cast("tuple[str, ...]", getattr(base(encoder), "new", ()))
    return [p for name, p in base(encoder).named_parameters() if name.startswith(names)] if names else []


def behind(encoder: nn.Module) -> list[nn.Module]:
    """What the family computes behind its blocks."""
    return [module for name, module in base(encoder).named_modules() if name in family_of(encoder).behind]


def train_mode(model: Model) -> None:
    """Training mode for what can move, eval mode for the frozen part: it answers alike each time, cached or not."""
    model.train()
    n = n_frozen(model.encoder)
    if n or not any(p.requires_grad for p in model.encoder.parameters()):
        model.encoder.eval()
        for module in (*of(model.encoder)[n:], *behind(model.encoder)):
            module.train()


class Span:
    """`model` computed from block `start` up to block `stop` only; it shares every weight with `model`.

    start: 0 begins with the text; else what block start - 1 computed is handed in.
    stop:  None goes on to the outputs; else `hidden` is what block stop - 1 computes, [B, T, D].
    """

    def __init__(self, model: Model, start: int, stop: int | None = None) -> None:
        layers, family = of(model.encoder), family_of(model.encoder)
        skipped = [*layers[1:start], *(layers[stop:] if stop is not None else [])]
        swaps: dict[int, nn.Module] = {id(layer): _Passed(layer, family) for layer in skipped}
        self.first = _Entered(layers[0], family) if start else None
        if self.first is not None:
            swaps[id(layers[0])] = self.first
        self.last = layers[-1 if stop is None else stop - 1]
        self.model = _swapped(cast(nn.Module, model), swaps)

    def __call__(self, inputs: Inputs, hidden_BTD: torch.Tensor | None = None, job: str = MAIN,
                 want: frozenset[str] = frozenset()) -> Outputs:
        """The outputs; hidden states and attentions would be those of the blocks that are computed only."""
        if self.first is not None and hidden_BTD is not None:
            self.first.hidden_BTD = hidden_BTD
        outputs: Outputs = self.model(inputs, job, want)
        return outputs

    def hidden(self, inputs: Inputs, hidden_BTD: torch.Tensor | None = None) -> torch.Tensor:
        """What the last block of the span computes, [B, T, D]. Nothing that is written is asked for meanwhile."""
        inputs = {name: a for name, a in inputs.items() if name != PREDICTS}
        seen: list[torch.Tensor] = []
        hook = self.last.register_forward_hook(
            lambda _module, _inputs, output: seen.append(output[0] if isinstance(output, tuple) else output))
        try:
            self(inputs, hidden_BTD)
        finally:
            hook.remove()
        return seen[-1]


class _Passed(nn.Module):
    """Stands where a block stood and hands on its input, in the shape that the family's loop expects."""

    def __init__(self, block: nn.Module, family: Family) -> None:
        super().__init__()
        self.block, self.family = [block], family  # in a list: its weights are not ours
        for name in family.read_of_block:
            setattr(self, name, getattr(block, name))

    def forward(self, hidden_BTD: torch.Tensor, *rest: Any, **named: Any) -> Any:
        return self.family.hand_on(self.block[0], hidden_BTD, rest)


class _Entered(_Passed):
    """Stands where the first block stood and hands on what was computed before."""

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
