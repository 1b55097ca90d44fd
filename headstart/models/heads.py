"""The torch modules we own: heads, and the two shapes of a model that can be trained.

Both models map inputs {"input_ids": [B, T], "attention_mask": [B, T], ...} to Outputs.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..core import task
from ..core.errors import SpecError, nearest, shorten
from ..core.model import MAIN, Inputs, Model, Precision
from ..core.values import LinearMap, Outputs
from . import adapters, blocks
from .precision import DTYPES, FP32, Autocast

NOTHING: frozenset[str] = frozenset()


class HeadModule(nn.Module, abc.ABC):
    """From hidden_BTD, mask_BT and the inputs that it reads itself to features; `out` maps those to logits."""

    reads: tuple[str, ...] = ()  # inputs that are meant for the head and not for the encoder
    per_token = False  # whether `out` sees every token, [B, T, D], and not one vector a window
    is_pooled = False  # whether features are the pooled text and nothing else
    pooling = "native"
    out: nn.Linear

    @abc.abstractmethod
    def features(self, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, *own_BT: torch.Tensor) -> torch.Tensor:
        """What `out` reads: [B, D], or [B, T, D] of a head that reads tokens."""

    def forward(self, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, *own_BT: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(self.features(hidden_BTD, mask_BT, *own_BT))
        return logits


class PoolHead(HeadModule):
    """hidden_BTD and mask_BT to logits_BK: pool over real tokens, then one linear map."""

    is_pooled = True

    def __init__(self, width: int, n_outputs: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.out = nn.Linear(width, n_outputs)

    def features(self, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, *own_BT: torch.Tensor) -> torch.Tensor:
        return pool(hidden_BTD, mask_BT, self.pooling)


class TokenHead(HeadModule):
    """hidden_BTD to logits_BTK, each token by itself."""

    per_token = True

    def __init__(self, width: int, n_outputs: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, n_outputs)

    def features(self, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, *own_BT: torch.Tensor) -> torch.Tensor:
        return hidden_BTD


class SpansHead(HeadModule):
    """hidden_BTD, mask_BT and marks_BT (1 in the first span, 2 in the second) to logits_BK.

    Reads the mean of each span's tokens and the pooled text, side by side.
    """

    reads = ("marks",)

    def __init__(self, width: int, n_outputs: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.out = nn.Linear(3 * width, n_outputs)

    def features(self, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, *own_BT: torch.Tensor) -> torch.Tensor:
        marks_BT, = own_BT
        spans = [pool(hidden_BTD, (marks_BT == k) | ((marks_BT != k).all(1, keepdim=True) & (mask_BT == 1)), "mean")
                 for k in (1, 2)]
        return torch.cat([*spans, pool(hidden_BTD, mask_BT, self.pooling)], -1)


def pool(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector a window, [B, D]: the mean over real tokens, the first token, or the maximum over real tokens."""
    if pooling == "first":
        return hidden_BTD[:, 0]
    mask_BT1 = mask_BT.unsqueeze(-1)
    if pooling == "max":
        return hidden_BTD.masked_fill(mask_BT1 == 0, torch.finfo(hidden_BTD.dtype).min).amax(1)
    mask_BT1 = mask_BT1.to(hidden_BTD.dtype)
    return (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)


def build_head(head: task.Head, width: int, pooling: str) -> HeadModule:
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


class Headed(nn.Module):
    """What all shapes of a model do alike."""

    writes = False

    def __init__(self) -> None:
        super().__init__()
        self.more_heads = nn.ModuleDict()  # of other jobs
        self.revision = 0
        self.precision = FP32
        self._autocast: Autocast | None = None

    def set_precision(self, precision: Precision) -> None:
        if self._autocast is not None:
            self._autocast.remove()
        encoder = cast(Model, self).encoder
        self.precision = precision
        self._autocast = Autocast(encoder, precision) if precision.name in DTYPES else None

    def below_output(self: Model) -> list[nn.Parameter]:
        without = {id(p) for part in (self.output, self.more_heads) for p in part.parameters()}
        return [p for p in self.parameters() if id(p) not in without]

    def n_frozen(self: Model) -> int:
        return blocks.n_frozen(self.encoder)

    def as_pretrained(self: Model) -> AbstractContextManager[None]:
        return adapters.disabled(self)


class EncoderWithHead(Headed):
    """A pretrained encoder and a head of ours, whose `out` is the last linear layer."""

    def __init__(self, encoder: nn.Module, head: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        freeze_pooler(encoder)

    @property
    def output(self) -> nn.Linear:
        return cast(nn.Linear, self.head.out)

    def set_encoder(self, encoder: nn.Module) -> None:
        self.encoder, self.revision = encoder, self.revision + 1
        self.set_precision(self.precision)

    def own_head(self) -> nn.Module:
        return cast(nn.Module, self.head)

    def save_pretrained(self, folder: Path, labels: Mapping[str, Any]) -> None:
        save_encoder(self.encoder, folder, labels)


class PooledModel(EncoderWithHead):
    """A pretrained encoder with a head of ours for each job.

    last_layers: the mean over the hidden states of so many of the last layers is what the heads read.
    """

    def __init__(self, encoder: nn.Module, head: HeadModule, last_layers: int = 1) -> None:
        super().__init__(encoder, head)
        self.last_layers = last_layers

    @property
    def per_token(self) -> bool:
        return bool(self.head.per_token)

    @property
    def signature(self) -> str:
        return f"{type(self.head).__name__} {self.head.pooling} {self.last_layers}"

    def add_head(self, job: str, head: HeadModule) -> None:
        """Let one more job have a head on the same encoder."""
        self.more_heads[job] = head

    def forward(self, inputs: Inputs, job: str = MAIN, want: frozenset[str] = NOTHING) -> Outputs:
        head = self.head if job == MAIN else cast(HeadModule, self.more_heads[_known(job, self.more_heads)])
        n_tokens = inputs["input_ids"].shape[1]
        own = [inputs[name] for name in head.reads]
        without_own = {name: a for name, a in inputs.items() if name not in head.reads}
        outputs, hidden, attentions = encoded(self.encoder, without_own, want, self.last_layers > 1)
        hidden_BTD = (outputs.last_hidden_state if self.last_layers == 1
                      else torch.stack(hidden[-self.last_layers:]).mean(0))
        if hidden_BTD.shape[1] != n_tokens:  # a prompt before the text is not pooled
            hidden_BTD, hidden = hidden_BTD[:, -n_tokens:], tuple(h_BTD[:, -n_tokens:] for h_BTD in hidden)
        features = head.features(hidden_BTD, inputs["attention_mask"], *own)
        return Outputs(head.out(features), features, hidden, attentions)


class WholeModel(Headed):
    """A model of transformers whose head is its own."""

    head = None

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def encoder(self) -> nn.Module:
        return cast(nn.Module, self.model.base_model)

    def set_encoder(self, encoder: nn.Module) -> None:
        setattr(self.model, str(self.model.base_model_prefix), encoder)
        self.revision += 1
        self.set_precision(self.precision)

    def save_pretrained(self, folder: Path, labels: Mapping[str, Any]) -> None:
        save_encoder(self.model, folder, labels)


class NativeModel(WholeModel):
    """A family's own classification model of transformers, as it is."""

    signature = "NoneType native 1"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.per_token = "TokenClassification" in type(model).__name__

    @property
    def output(self) -> nn.Linear:
        # Not of all modules: CamemBERT and XLM-RoBERTa hold their classifier before their encoder.
        return [m for m in self.own_head().modules() if isinstance(m, nn.Linear)][-1]

    def own_head(self) -> nn.Module:
        children = self.model.named_children()
        return nn.ModuleDict({name: m for name, m in children if name != self.model.base_model_prefix})

    def forward(self, inputs: Inputs, job: str = MAIN, want: frozenset[str] = NOTHING) -> Outputs:
        if job != MAIN:
            raise SpecError("head.pooling", f"\"native\" has no head for the job {shorten(job)}.",
                            "Use mean, first or max.")
        if "features" not in want:
            outputs, hidden, attentions = encoded(self.model, inputs, want)
            return Outputs(outputs.logits, None, hidden, attentions)
        features: list[torch.Tensor] = []
        hook = self.output.register_forward_pre_hook(lambda _, args: features.append(args[0]))
        try:
            outputs, hidden, attentions = encoded(self.model, inputs, want)
        finally:
            hook.remove()
        return Outputs(outputs.logits, features[-1], hidden, attentions)


def _known(job: str, heads: nn.ModuleDict) -> str:
    if job not in heads:
        raise SpecError("job", f"{shorten(job)} has no head; {nearest(job, [MAIN, *heads])}",
                        "Add one with add_head, or name another job.")
    return job


def freeze_pooler(encoder: Any) -> None:
    """No gradient reaches what we do not compute; it stays for those who load the encoder."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler.requires_grad_(False)


def asked_for(hidden_BTD: torch.Tensor, predicts_BT: torch.Tensor | None) -> torch.Tensor:
    """hidden_MD where the next token, or a hidden one, is asked for, row by row; M is 0 where nothing is asked."""
    return hidden_BTD.flatten(0, 1)[:0] if predicts_BT is None else hidden_BTD[predicts_BT == 1]


def check_only_job(job: str) -> None:
    """Raise SpecError for another job than MAIN, of a model that writes."""
    if job != MAIN:
        raise SpecError("task", f"a model that writes has no head for the job {shorten(job)}.",
                        "Fit each task by itself.")


def save_encoder(pretrained: Any, folder: Path, labels: Mapping[str, Any]) -> None:
    """Write a model of transformers, with `labels` in its configuration."""
    for key, value in labels.items():
        setattr(pretrained.config, key, {int(k): v for k, v in value.items()} if key == "id2label" else value)
    pretrained.save_pretrained(folder)


def encoded(module: nn.Module, inputs: Inputs, want: frozenset[str],
             all_layers: bool = False) -> tuple[Any, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """(what a module of transformers answers, hidden states, attentions); the latter () where nobody wants them."""
    extra = {name: True for name, is_wanted in (("output_hidden_states", all_layers or "hidden" in want),
                                                ("output_attentions", "attentions" in want)) if is_wanted}
    if not extra:
        return module(**inputs), (), ()
    with _eager(module) if "attentions" in want else nullcontext():
        outputs = module(**inputs, **extra)
    return outputs, tuple(outputs.hidden_states or ()), tuple(outputs.attentions or ())


@contextmanager
def _eager(module: nn.Module) -> Iterator[None]:
    """Compute attentions in full: the fused kernels never hold them."""
    configs = {id(m.config): m.config for m in module.modules() if hasattr(m, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()
              if hasattr(config, "_attn_implementation")]
    for config, _ in before:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation
