"""An encoder that says which words were hidden: a linear map into its own token embeddings, computed where asked.

A backbone need not have such a head: it is solved on its frozen hidden states, so that what is measured before and
after reading on is what these states hold, and not how long a head was trained.

Shape suffixes: B windows, T tokens, D width, E width of embeddings, M tokens that are asked for, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from ..core.model import MAIN, Inputs
from ..core.values import PREDICTS, Outputs
from . import blocks
from .heads import NOTHING, EncoderWithHead, asked_for, encoded
from .precision import autocast

RIDGE = 1e-3  # of the mean squared feature, added to each
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # of solved logits; a squared loss knows nothing of their size


class MaskedHead(nn.Module):
    """features_MD to logits_MV, through the encoder's own embeddings, which are not this module's weights."""

    def __init__(self, width: int, embedding_width: int, n_tokens: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, embedding_width)
        self.bias_V = nn.Parameter(torch.zeros(n_tokens))

    def forward(self, features_MD: torch.Tensor, embedding_VE: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias_V, self.out(features_MD), embedding_VE.T)


class MaskedModel(EncoderWithHead):
    """An encoder with such a head: inputs with `predicts` [B, T] to logits_MV, row by row."""

    per_token = False
    signature = "masked language model"

    def __init__(self, encoder: nn.Module) -> None:
        model = cast(Any, blocks.base(encoder))
        n_tokens, width = model.get_input_embeddings().weight.shape
        super().__init__(encoder, MaskedHead(int(model.config.hidden_size), width, n_tokens))

    @property
    def embedding_VE(self) -> torch.Tensor:
        """The weights of the encoder's token embeddings."""
        return cast(torch.Tensor, cast(Any, blocks.base(self.encoder)).get_input_embeddings().weight)

    def forward(self, inputs: Inputs, job: str = MAIN, want: frozenset[str] = NOTHING) -> Outputs:
        without_own = {name: a for name, a in inputs.items() if name != PREDICTS}
        outputs, hidden, attentions = encoded(self.encoder, without_own, want)
        features_MD = asked_for(outputs.last_hidden_state, inputs.get(PREDICTS)).float()
        with autocast(self.precision, features_MD.device.type):
            logits_MV = self.head(features_MD, self.embedding_VE)
        return Outputs(logits_MV.float(), features_MD, hidden, attentions)


@torch.no_grad()
def solve_head(model: MaskedModel, batches: Sequence[Mapping[str, torch.Tensor]],
               gold: Sequence[torch.Tensor]) -> None:
    """Put the head on that maps hidden states of hidden words nearest to their embeddings (ridge regression).

    batches: inputs with `predicts`.  gold: gold_M of each: the tokens that are asked for.
    Cost  one forward pass; D x D numbers.
    """
    model.eval()
    features_MD = torch.cat([cast(torch.Tensor, model(inputs).features) for inputs in batches]).double()
    gold_M = torch.cat(list(gold))
    embedding_VE = model.embedding_VE.detach().double()
    center_D, center_E = features_MD.mean(0), embedding_VE[gold_M].mean(0)
    centered_MD, wanted_ME = features_MD - center_D, embedding_VE[gold_M] - center_E
    gram_DD = centered_MD.T @ centered_MD
    gram_DD += RIDGE * gram_DD.diagonal().mean() * torch.eye(len(gram_DD), dtype=torch.double, device=gram_DD.device)
    weight_DE = torch.linalg.solve(gram_DD, centered_MD.T @ wanted_ME)
    counts_V = torch.bincount(gold_M, minlength=len(embedding_VE)).double() + 0.5
    rare_V = torch.log(counts_V / counts_V.sum())  # how often a token is hidden at all

    def put(scale: float) -> None:
        head = model.head
        head.out.weight.copy_(scale * weight_DE.T)
        head.out.bias.copy_(-scale * (center_D @ weight_DE))
        head.bias_V.copy_(rare_V)

    put(_best_scale(model, features_MD, gold_M, put))


def _best_scale(model: MaskedModel, features_MD: torch.Tensor, gold_M: torch.Tensor,
                put: Callable[[float], None]) -> float:
    """Of SCALES the one with the least loss on some of the tokens that solved the head."""
    some = torch.arange(0, len(gold_M), max(1, len(gold_M) // 2000), device=gold_M.device)
    losses = {}
    for scale in SCALES:
        put(scale)
        logits_MV = model.head(features_MD[some].float(), model.embedding_VE)
        losses[scale] = float(nn.functional.cross_entropy(logits_MV, gold_M[some]))
    return min(losses, key=losses.__getitem__)
