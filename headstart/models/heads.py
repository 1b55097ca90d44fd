"""The torch modules we own: pooling heads, and the two shapes of a model that can be trained.

Both models map inputs {"input_ids": [B, T], "attention_mask": [B, T], ...} to logits, and both name their last linear
layer `output`: what flows into it are the features that a linear probe reads.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from ..core import task
from ..core.values import LinearMap

Inputs = dict[str, torch.Tensor]


class Head(nn.Module):
    """hidden_BTD, mask_BT and the inputs that it reads itself to logits; `out` is its last linear layer."""

    reads: tuple[str, ...] = ()  # inputs that are meant for the head and not for the encoder
    per_token = False  # whether `out` sees every token, [B, T, D], and not one vector a window
    pooling = "mean"  # how a window's tokens become one vector
    out: nn.Linear


class PoolHead(Head):
    """hidden_BTD and mask_BT to logits_BK: pool over real tokens, then one linear map."""

    def __init__(self, width: int, n_outputs: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.out = nn.Linear(width, n_outputs)

    def forward(self, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(pool(hidden_BTD, mask_BT, self.pooling))
        return logits


class TokenHead(Head):
    """hidden_BTD to logits_BTK, each token by itself."""

    per_token = True

    def __init__(self, width: int, n_outputs: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, n_outputs)

    def forward(self, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(hidden_BTD)
        return logits


class SpansHead(Head):
    """hidden_BTD, mask_BT and marks_BT (1 in the first span, 2 in the second) to logits_BK.

    Reads the mean of each span's tokens and the pooled text, side by side.
    """

    reads = ("marks",)

    def __init__(self, width: int, n_outputs: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.out = nn.Linear(3 * width, n_outputs)

    def forward(self, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, marks_BT: torch.Tensor) -> torch.Tensor:
        spans = [pool(hidden_BTD, (marks_BT == k) | ((marks_BT != k).all(1, keepdim=True) & (mask_BT == 1)), "mean")
                 for k in (1, 2)]
        logits: torch.Tensor = self.out(torch.cat([*spans, pool(hidden_BTD, mask_BT, self.pooling)], -1))
        return logits


def pool(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector a window, [B, D]: the mean over real tokens, the first token, or the maximum over real tokens."""
    if pooling == "first":
        return hidden_BTD[:, 0]
    mask_BT1 = mask_BT.unsqueeze(-1)
    if pooling == "max":
        return hidden_BTD.masked_fill(mask_BT1 == 0, torch.finfo(hidden_BTD.dtype).min).amax(1)
    mask_BT1 = mask_BT1.to(hidden_BTD.dtype)
    return (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)


def build_head(head: task.Head, width: int, pooling: str) -> Head:
    """The new weights that `head` describes, for hidden states of `width` numbers."""
    if head.kind == "tokens":
        return TokenHead(width, head.n_outputs)
    if head.kind == "spans":
        return SpansHead(width, head.n_outputs, pooling)
    if head.kind != "pooled":
        raise NotImplementedError(head.kind)
    pooled = PoolHead(width, head.n_outputs or width, pooling)
    if not head.n_outputs:
        nn.init.eye_(pooled.out.weight)
        nn.init.zeros_(pooled.out.bias)
    return pooled


def put_on(linear: nn.Linear, solved: LinearMap) -> None:
    """Copy a solved map into a torch layer."""
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(solved.weight_KD))
        if linear.bias is not None:
            linear.bias.copy_(torch.from_numpy(solved.bias_K))


class PooledModel(nn.Module):
    """A pretrained encoder with a head of ours."""

    last_layers = 1  # the mean over so many layers' hidden states is what the head pools

    def __init__(self, encoder: nn.Module, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler.requires_grad_(False)  # no gradient reaches it; it stays for those who load the encoder

    @property
    def output(self) -> nn.Linear:
        return self.head.out

    @property
    def per_token(self) -> bool:
        """Whether the last linear layer sees every token and not one vector a window."""
        return self.head.per_token

    def forward(self, inputs: Inputs) -> torch.Tensor:
        n_tokens = inputs["input_ids"].shape[1]
        for_head = [inputs[name] for name in self.head.reads]
        inputs = {name: a for name, a in inputs.items() if name not in self.head.reads}
        if self.last_layers == 1:
            hidden_BTD = self.encoder(**inputs).last_hidden_state
        else:
            hidden_BTD = torch.stack(self.encoder(**inputs, output_hidden_states=True).hidden_states
                                     [-self.last_layers:]).mean(0)
        if hidden_BTD.shape[1] != n_tokens:
            hidden_BTD = hidden_BTD[:, -n_tokens:]  # a prompt before the text is not pooled
        logits: torch.Tensor = self.head(hidden_BTD, inputs["attention_mask"], *for_head)
        return logits


class NativeModel(nn.Module):
    """A family's own classification model of transformers, as it is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.per_token = "TokenClassification" in type(model).__name__

    @property
    def encoder(self) -> nn.Module:
        return cast(nn.Module, self.model.base_model)

    @property
    def output(self) -> nn.Linear:
        linear = [m for m in self.model.modules() if isinstance(m, nn.Linear)]
        return linear[-1]

    def forward(self, inputs: Inputs) -> torch.Tensor:
        logits: torch.Tensor = self.model(**inputs).logits
        return logits


Model = PooledModel | NativeModel
