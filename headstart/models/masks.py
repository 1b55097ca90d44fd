"""Attention masks that are made on the device without a look at them from here.

transformers looks whether a batch has any padding before each forward pass, since without a mask the fastest kernel may
be taken. On a GPU that look waits for all that was handed to it before. While gradients are wanted, a model that went
through `never_look` takes the mask as it is; an evaluation reads its answers after each pass anyway, and looks.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ..core.model import Model

NAME = "headstart_sdpa"


def _mask(*args: Any, allow_is_causal_skip: bool = True, allow_is_bidirectional_skip: bool = False,
          **named: Any) -> torch.Tensor | None:
    """What transformers' own function makes; with gradients wanted it never leaves the mask away."""
    looks = not torch.is_grad_enabled()
    return cast("torch.Tensor | None", sdpa_mask(
        *args, allow_is_causal_skip=allow_is_causal_skip and looks,
        allow_is_bidirectional_skip=allow_is_bidirectional_skip and looks, **named))


AttentionInterface.register(NAME, sdpa_attention_forward)
AttentionMaskInterface.register(NAME, _mask)


def never_look(model: Model) -> None:
    """Let the parts of a model that compute attention by torch's fused function make masks so, in place."""
    configs: list[Any] = [module.config for module in model.modules() if hasattr(module, "config")]
    for config in configs:  # several modules share one
        if getattr(config, "_attn_implementation", None) == "sdpa":
            config._attn_implementation = NAME
