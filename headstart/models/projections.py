"""Learned maps from a student's hidden states to the width of its teacher's; they are dropped when it has learned."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PretrainedConfig

from ..core.model import Model
from ..core.teaching import PROJECTIONS
from . import blocks


def add(model: Model, width: int, seed: int) -> None:
    """Give the model one linear map for its embeddings and one for each block. width: D of the teacher."""
    torch.manual_seed(seed)
    model.more_heads[PROJECTIONS] = nn.ModuleList(
        nn.Linear(width_of(model), width) for _ in range(n_layers(model) + 1))


def width_of(model: Model) -> int:
    """D of the encoder's hidden states."""
    return int(_config(model).hidden_size)


def n_layers(model: Model) -> int:
    """How many blocks the encoder has."""
    return int(_config(model).num_hidden_layers)


def _config(model: Model) -> PretrainedConfig:
    return blocks.base(model.encoder).config  # type: ignore[return-value]
