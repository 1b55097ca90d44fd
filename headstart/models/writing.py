"""A pretrained language model as a Model: the logits of the next token, computed only where a window asks for them.

Logits of all positions of 1,024 tokens and a usual vocabulary are 200 MB; those of a target are a tenth of that, and
the prompt's are never read. The output's weight is often the embedding, too: it stays as it is.

Shape suffixes: B windows, T tokens, D width, M positions whose next token is asked for, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..core.errors import ModelError
from ..core.model import MAIN, Inputs
from ..core.values import PREDICTS, Outputs
from .heads import NOTHING, WholeModel, asked_for, check_only_job, encoded
from .precision import autocast
from .tensors import Entry

OUTPUT_WEIGHT = "lm_head.weight"


class WritingModel(WholeModel):
    """A causal language model of transformers: inputs with `predicts` [B, T] to logits_MV, row by row.

    Its output layer is frozen, and with it an embedding that shares its weight.
    """

    per_token = False
    writes = True
    signature = "language model"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.output.requires_grad_(False)

    @property
    def output(self) -> nn.Linear:
        return cast(nn.Linear, self.model.lm_head)

    def below_output(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())  # with an embedding that is the output, too: features depend on it

    def own_head(self) -> nn.Module:
        return nn.ModuleDict()  # what it answers with is the pretrained model's own

    def logits(self, hidden_MD: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, [M, V] float32; the product is computed in the encoder's precision."""
        with autocast(self.precision, hidden_MD.device.type):
            logits_MV: torch.Tensor = self.output(hidden_MD)
        return logits_MV.float()

    def forward(self, inputs: Inputs, job: str = MAIN, want: frozenset[str] = NOTHING) -> Outputs:
        check_only_job(job)
        without_own = {name: a for name, a in inputs.items() if name != PREDICTS}
        outputs, hidden, attentions = encoded(self.encoder, {**without_own, "use_cache": False}, want)  # type: ignore[dict-item]
        n_tokens = inputs["input_ids"].shape[1]  # before them may stand a prompt that no text holds
        features_MD = asked_for(outputs.last_hidden_state[:, -n_tokens:], inputs.get(PREDICTS))
        return Outputs(self.logits(features_MD), features_MD, tuple(h_BTD[:, -n_tokens:] for h_BTD in hidden),
                       attentions)


def check_output_weight(config: Any, entries: Mapping[str, Entry], folder: Path) -> None:
    """Raise ModelError unless the weights hold an output layer, or the embedding is one."""
    if config.tie_word_embeddings:
        return
    entry, shape = entries.get(OUTPUT_WEIGHT), (config.vocab_size, config.hidden_size)
    if entry is None or entry.shape != shape:
        came = "no language-model head" if entry is None else f"a language-model head of the shape {entry.shape}"
        raise ModelError(str(folder), f"has {came}; to write, {OUTPUT_WEIGHT} of the shape {shape} is needed.",
                         "Take the whole model, saved by AutoModelForCausalLM, not only its encoder.")
