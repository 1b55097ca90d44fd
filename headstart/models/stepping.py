"""A model that writes, token by token, with a cache of keys and values.

    state, logits_BV = stepper_of(model, device).begin(inputs)
    state, logits_BV = stepper.step(state, tokens_B, parents_B)

Prompts are padded on the right, as windows are: no token sees what stands behind it, so a prompt gives the same hidden
states in training, alone and in a batch. Tokens that are written stand behind the padding, which a mask hides, and
have the positions that follow their own prompt's.

Shape suffixes: B texts, T tokens, S tokens in the cache, D width, V vocabulary.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from ..core.values import PREDICTS
from . import blocks
from .device import to_device
from .encoder_decoder import EncoderDecoder, Seq2SeqModel
from .precision import DTYPES, autocast
from .writing import WritingModel

if TYPE_CHECKING:
    from ..core.generation import Generation
    from ..core.model import Model
    from ..core.values import Stepper


def stepper_of(model: Model, device: torch.device) -> Stepper:
    """What writes with `model`, which is on `device`."""
    return Seq2SeqStepper(model, device) if isinstance(model, Seq2SeqModel) else TorchStepper(model, device)


@dataclass
class _State:
    """cache: keys and values. mask_BS: which of its tokens are real. next_B: the position of the next token."""

    cache: Any
    mask_BS: torch.Tensor
    next_B: torch.Tensor


@dataclass(frozen=True)
class TorchStepper:
    """Steps of a model on its device; eval mode, no gradients. It is of the weights as they are when it begins.

    In 16 bits it holds a copy of the weights in them: a step reads every weight once, and rounding them anew each time
    would take longer than the step.
    """

    model: Model
    device: torch.device

    @torch.inference_mode()
    def begin(self, inputs: dict[str, np.ndarray]) -> tuple[_State, np.ndarray]:
        """Read prompts [B, T]."""
        self.model.eval()
        tensors = to_device({name: a for name, a in inputs.items() if name != PREDICTS}, self.device)
        outputs: Any = self.model.encoder(**tensors, use_cache=True)
        mask_BT, cache = tensors["attention_mask"], outputs.past_key_values
        n_before = cache.get_seq_length() - mask_BT.shape[1]  # a prompt of the method's own, before each text
        lengths_B = mask_BT.sum(1)
        mask_BS = torch.cat([mask_BT.new_ones(len(mask_BT), n_before), mask_BT], 1)
        hidden_BTD = outputs.last_hidden_state[:, -mask_BT.shape[1]:]
        last_BD = hidden_BTD[torch.arange(len(lengths_B), device=self.device), lengths_B - 1]
        return _State(cache, mask_BS, lengths_B + n_before), self._logits(last_BD)

    @torch.inference_mode()
    def step(self, state: _State, tokens_B: np.ndarray, parents_B: np.ndarray) -> tuple[_State, np.ndarray]:
        """Read one more token of each text that goes on."""
        cache, mask_BS, next_B = state.cache, state.mask_BS, state.next_B
        if (chosen := _selected(cache, parents_B, mask_BS)) is not None:
            mask_BS, next_B = mask_BS[chosen], next_B[chosen]
        mask_BS = torch.cat([mask_BS, mask_BS.new_ones(len(mask_BS), 1)], 1)
        ids_B1 = _on(tokens_B, self.device)[:, None]
        with autocast(self.model.precision, self.device.type):
            outputs: Any = self._stepped(input_ids=ids_B1, attention_mask=mask_BS, position_ids=next_B[:, None],
                                         past_key_values=cache, use_cache=True)
        return _State(cache, mask_BS, next_B + 1), self._logits(outputs.last_hidden_state[:, -1])

    def _logits(self, hidden_BD: torch.Tensor) -> np.ndarray:
        if self._rounded_output is None:
            logits_BV = cast(WritingModel, self.model).logits(hidden_BD.float())
        else:
            logits_BV = torch.nn.functional.linear(hidden_BD.to(self._rounded_output.dtype), self._rounded_output)
        return np.asarray(logits_BV.float().cpu().numpy())

    @cached_property
    def _stepped(self) -> nn.Module:
        """The pretrained model itself (peft would put its prompt before each step again), rounded in 16 bits."""
        model, dtype = blocks.base(self.model.encoder), DTYPES.get(self.model.precision.name)
        if dtype is None:
            return model
        inside = [p for block in blocks.of(model) for p in block.parameters() if p.ndim == 2]
        return _exchanged(model, {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in inside})

    @cached_property
    def _rounded_output(self) -> torch.Tensor | None:
        """The output's weight in 16 bits; None in 32."""
        dtype = DTYPES.get(self.model.precision.name)
        return None if dtype is None else self.model.output.weight.detach().to(dtype)


@dataclass
class _Written:
    """cache: keys and values of what is written, and of what was read: hidden_BSD and which of it is real."""

    cache: Any
    hidden_BSD: torch.Tensor
    mask_BS: torch.Tensor


@dataclass(frozen=True)
class Seq2SeqStepper:
    """Steps of an encoder-decoder: the encoder reads once, then the decoder writes. Eval mode, no gradients."""

    model: Seq2SeqModel
    device: torch.device

    @torch.inference_mode()
    def begin(self, inputs: dict[str, np.ndarray]) -> tuple[_Written, np.ndarray]:
        """Read texts [B, S], and what each begins with, [B, T]: equally long ones."""
        self.model.eval()
        tensors = to_device({name: a for name, a in inputs.items() if name != PREDICTS}, self.device)
        outputs = self.model.encoder(**tensors, use_cache=True)
        hidden_BSD, mask_BS = outputs.encoder_hidden_state, outputs.encoder_mask
        return _Written(outputs.past_key_values, hidden_BSD, mask_BS), self._logits(outputs.last_hidden_state[:, -1])

    @torch.inference_mode()
    def step(self, state: _Written, tokens_B: np.ndarray, parents_B: np.ndarray) -> tuple[_Written, np.ndarray]:
        """Read one more token of each text that goes on."""
        if (chosen := _selected(state.cache, parents_B, state.mask_BS)) is not None:
            state = _Written(state.cache, state.hidden_BSD[chosen], state.mask_BS[chosen])
        ids_B1 = _on(tokens_B, self.device)[:, None]
        with autocast(self.model.precision, self.device.type):
            outputs = cast(EncoderDecoder, blocks.base(self.model.encoder)).write(
                ids_B1, state.hidden_BSD, state.mask_BS, state.cache)
        return state, self._logits(outputs.last_hidden_state[:, -1])

    def _logits(self, hidden_BD: torch.Tensor) -> np.ndarray:
        return np.asarray(self.model.logits(self.model.features(hidden_BD)).cpu().numpy())


def _selected(cache: Any, parents_B: np.ndarray, mask_BS: torch.Tensor) -> torch.Tensor | None:
    """Let the cache hold the texts that go on; their places on the device, or None where all go on in their order."""
    if len(parents_B) == len(mask_BS) and (parents_B == np.arange(len(mask_BS))).all():
        return None
    chosen = _on(parents_B, mask_BS.device)
    cache.batch_select_indices(chosen)
    return chosen


def _on(numbers: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.asarray(numbers, np.int64)).to(device)


def _exchanged(module: nn.Module, weights: dict[int, nn.Parameter]) -> nn.Module:
    """A twin of `module` with some weights exchanged, by the ids of its own; it shares all others."""
    twin = copy.copy(module)
    twin._modules = {name: child and _exchanged(child, weights) for name, child in module._modules.items()}
    twin._parameters = {name: p if p is None else weights.get(id(p), p) for name, p in module._parameters.items()}
    return twin


def bytes_needed(model: Model, how: Generation, max_tokens: int, tokens_per_batch: int) -> int:
    """What writing holds at most beside the weights: keys and values of a batch, and logits of its texts, in bytes.

    tokens_per_batch: of prompts and all that is written, each beam and candidate counted; a lone text may take more.
    """
    n_layers, n_heads, width = blocks.cache_sizes(model.encoder)
    n_tokens = max(tokens_per_batch, max_tokens * how.n_at_once)
    n_texts = max(how.n_at_once, tokens_per_batch // how.max_new_tokens)
    # Twice: keys and values are copied when a token is put behind them. Four times: logits, log-probabilities, limits.
    n_logits = model.output.out_features * n_texts
    return 4 * int(2 * 2 * n_layers * n_heads * width * n_tokens + 4 * n_logits)
