"""prefix-tuning: made-up keys and values before those of every text move, in every block, and the head.

What moves  n_tokens keys and values a block that no text contains, and the head.
When        large backbones and many tasks; stronger than prompt-tuning, since it reaches every block.
Cost        fine-tuning's forward pass with longer attention and most of its backward pass; later answers pay too.
Goes wrong  it begins far from what the backbone says, so it needs many steps and a high rate. Only families whose
            attention takes past keys and values can have it.
Source      Li & Liang 2021, "Prefix-Tuning"; Liu et al. 2022, "P-Tuning v2"; through the peft library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..core.errors import SpecError
from ..core.model import Model
from .peft_method import SoftPrompt


@dataclass(frozen=True)
class PrefixTuning(SoftPrompt):
    """Past keys and values move.

    n_tokens:   length of the prefix.
    alone:      store the prefix without the backbone, which must then be there wherever the artifact is loaded.
    """

    name: ClassVar = "prefix-tuning"

    def prepare(self, model: Model) -> None:
        from ..models import blocks, families

        family = blocks.family_of(model.encoder)
        has_decoder = blocks.decoder(model.encoder) is not None
        if not family.takes_prefix and not has_decoder:
            raise SpecError("method.name", "\"prefix-tuning\" needs attention that takes past keys and values; that "
                            f"of {family.name} does not.",
                            f"It can be had with: {families.names(lambda f: f.takes_prefix)}. "
                            "Or use lora, ia3, adapter, bitfit or fine-tuning.")
        if has_decoder:
            n_layers, n_heads, width = blocks.cache_sizes(model.encoder)
            self.wrap(model, "PrefixTuningConfig", n_heads * width, n_heads, n_layers)
            return
        sizes: Any = blocks.base(model.encoder).config
        self.wrap(model, "PrefixTuningConfig", sizes.hidden_size, sizes.num_attention_heads, sizes.num_hidden_layers)
