"""adapter: small bottleneck layers between the frozen blocks' parts move, and the head.

What moves  two thin linear layers behind each feed-forward part (pfeiffer), behind attention too (houlsby); the head.
When        many tasks on one backbone: each is a file of a few MB. With last_blocks, what lies below is computed once.
Cost        the forward pass of fine-tuning and most of its backward pass; the optimizer holds little. The bottlenecks
            stay: every later answer computes them too (a few per cent), and transformers alone cannot load them.
Goes wrong  it needs a rate some ten times that of fine-tuning.
Source      Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP"; Pfeiffer et al. 2021, "AdapterFusion"
            (one bottleneck a block, reduction 16; 48 of 384 here).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..core.model import Model
from .peft_method import LayerAdapter


@dataclass(frozen=True)
class Adapter(LayerAdapter):
    """Bottlenecks move.

    placement:   pfeiffer (one a block) or houlsby (two).
    size:        width of the bottleneck.
    last_blocks: only in this many of the upper blocks.
    alone:       store the adapter without the backbone, which must then be there wherever the artifact is loaded.
    """

    name: ClassVar = "adapter"
    lr: ClassVar = 1e-3

    placement: Literal["pfeiffer", "houlsby"] = "pfeiffer"
    size: Annotated[int, Field(ge=1)] = 48

    def prepare(self, model: Model) -> None:
        from ..models import adapters

        adapters.insert(model, adapters.places(model.encoder, self.placement == "houlsby", self.last_blocks), self.size)
