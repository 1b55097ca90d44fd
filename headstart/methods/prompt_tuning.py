"""prompt-tuning: some made-up tokens before every text move, and the head.

What moves  the vectors of n_tokens tokens that no text contains, and the head.
When        very large backbones, many tasks, and one copy of the weights in memory.
Cost        fine-tuning's forward pass over a longer text and most of its backward pass; later answers pay for the
            longer text too. Nothing below can be cached: the prompt changes what every block sees.
Goes wrong  on small backbones it is far behind all other methods; it needs many steps and a high rate.
Source      Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning"; through the peft library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.model import Model
from .peft_method import SoftPrompt


@dataclass(frozen=True)
class PromptTuning(SoftPrompt):
    """A prompt moves.

    n_tokens:   length of the prompt.
    alone:      store the prompt without the backbone, which must then be there wherever the artifact is loaded.
    """

    name: ClassVar = "prompt-tuning"

    def prepare(self, model: Model) -> None:
        from ..models import blocks

        table = blocks.base(model.encoder).get_input_embeddings()  # type: ignore[operator]
        self.wrap(model, "PromptTuningConfig", table.embedding_dim)
