"""lora: low-rank changes to the frozen linear layers move, and the head.

What moves  two thin matrices beside every linear layer of the blocks (targets: some of them), and the head.
When        large backbones: the optimizer holds a hundredth of what fine-tuning needs, and the result is a few MB.
Cost        the forward pass of fine-tuning and most of its backward pass. Nothing at prediction: the changes are added
            to the backbone's weights at the end (alone: true stores them by themselves instead).
Goes wrong  with the rate of fine-tuning it learns nothing: it wants about ten times that. On a small backbone it saves
            memory that nobody misses, and time only with last_blocks.
Source      Hu et al. 2022, "LoRA"; Dettmers et al. 2023, "QLoRA" (all linear layers); through the peft library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from ..core.model import Model
from .peft_method import LayerAdapter


@dataclass(frozen=True)
class LowRank(LayerAdapter):
    """Abstract: low-rank changes of linear layers. Options as lora's.

    use_dora: whether the length of each changed weight's columns is learned apart from their direction.
    """

    lr: ClassVar = 1e-3
    merges: ClassVar = True
    use_dora: ClassVar[bool]

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: tuple[str, ...] | None = None

    def prepare(self, model: Model) -> None:
        from ..models import adapters

        names = adapters.named(adapters.linears(model.encoder, self.last_blocks), self.targets)
        adapters.wrap(model, "LoraConfig", r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout,
                      target_modules=names, use_dora=self.use_dora)


@dataclass(frozen=True)
class Lora(LowRank):
    """Low-rank changes move.

    rank, alpha, dropout: of the change, alpha / rank * B A; dropout on what flows into it.
    targets:     ends of names of linear layers, such as ["query", "value"]; absent: all of the blocks.
    last_blocks: only in this many of the upper blocks.
    alone:       store the adapter without the backbone, which must then be there wherever the artifact is loaded.
    """

    name: ClassVar = "lora"
    use_dora: ClassVar = False
