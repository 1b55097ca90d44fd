"""ia3: one factor for every key, value and feed-forward activation moves, and the head.

What moves  three vectors a block that scale keys, values and what the feed-forward part's last layer reads; the head.
When        a handful of labels, or very many tasks on one backbone: a task is some ten thousand numbers.
Cost        the forward pass of fine-tuning and most of its backward pass. Nothing at prediction: factors are multiplied
            into the weights at the end (alone: true stores them by themselves instead).
Goes wrong  it can only strengthen or weaken what the backbone already computes. It wants a high rate.
Source      Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning"
            (rate 3e-3 there); through the peft library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.model import Model
from .peft_method import LayerAdapter


@dataclass(frozen=True)
class Ia3(LayerAdapter):
    """Factors move.

    last_blocks: only in this many of the upper blocks.
    alone:       store the factors without the backbone, which must then be there wherever the artifact is loaded.
    """

    name: ClassVar = "ia3"
    lr: ClassVar = 3e-3
    merges: ClassVar = True

    def prepare(self, model: Model) -> None:
        from ..models import adapters, blocks

        layers = adapters.linears(model.encoder, self.last_blocks)
        behind = adapters.feed_forward_out(layers, model.encoder)
        keys_and_values = blocks.family_of(model.encoder).keys_and_values
        names = [n for n in layers if n.rpartition(".")[2] in keys_and_values and n not in behind]
        adapters.wrap(model, "IA3Config", target_modules=names + behind, feedforward_modules=behind)
