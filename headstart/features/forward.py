"""The frozen prefix: what layers that cannot move said of a text, computed once and kept.

Whatever lies below the lowest weight that a method can move is a constant function of the text. A Memo keeps its
values in flat files, found by a hash of the very weights and token ids, so epochs, seeds, methods and runs share them:

    forward = Forward(model, device, "fp16", show)
    forward.remember(parts, [4], 1024)   one pass over the text, or none when an earlier run did it
    logits = forward(batch.inputs)       computes only what can move; a window that is not known takes the whole way

Deleting the cache changes nothing but time. Shape suffixes: B windows, T tokens, D width, M windows in a memo.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers

from ..core.progress import Progress
from ..core.values import collate
from ..core.windows import WindowStore, by_length
from ..models import blocks
from ..models.heads import Model
from .store import ActivationStore as Memo
from .store import folder, key_of, keys_of, limit_bytes, make_room

SEGMENT_TOKENS = 250_000  # windows that are computed and published together: what a kill can cost
FEATURES = "features"  # the memo of what flows into the model's last linear layer

Part = tuple[WindowStore, np.ndarray]  # a store, and the numbers of the windows that are meant
Compute = Callable[[dict[str, torch.Tensor], dict[str, np.ndarray]], torch.Tensor]


class _Windows:
    """The windows of several stores, numbered through."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.stores = [store for store, _ in parts]
        self.owner_N = np.concatenate([np.full(len(chosen), i) for i, (_, chosen) in enumerate(parts)])
        self.place_N = np.concatenate([chosen for _, chosen in parts])
        self.lengths_N = np.concatenate([store.lengths_N[chosen] for store, chosen in parts]).astype(np.int64)
        self.keys_N = np.fromiter((key_of(self._fields(i)) for i in range(len(self.owner_N))), np.uint64)

    def _fields(self, i: int) -> dict[str, np.ndarray]:
        store = self.stores[self.owner_N[i]]
        return {name: field.of(self.place_N[i]) for name, field in store.inputs.items()}

    def inputs(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """The windows numbered `chosen` as a padded batch."""
        fields = [self._fields(i) for i in chosen]
        return collate({name: [one[name] for one in fields] for name in fields[0]}, {}, self.stores[0].pad_id).inputs


@dataclass(frozen=True)
class Cut:
    """Where the frozen part ends: before block `n`, or (n is None) before the model's last linear layer."""

    n: int | None
    memo: Memo
    span: blocks.Span | None


class Forward:
    """A model as training and evaluation call it: numpy in, logits out, nothing computed twice that cannot move.

    store: "fp16" or "fp32", how hidden states are kept (what flows into the last layer is always fp32), or "off".
    """

    def __init__(self, model: Model, device: torch.device, store: str, show: Progress) -> None:
        self.model, self.device, self.store, self.show = model, device, store, show
        self.cut: Cut | None = None
        self.memos: dict[int | str, Memo] = {}

    def __call__(self, inputs: dict[str, np.ndarray]) -> torch.Tensor:
        """Logits [B, ...] of a padded batch, in the model's present mode."""
        tensors = {name: torch.from_numpy(a).to(self.device) for name, a in inputs.items()}
        known = self._known(self.cut.memo, inputs) if self.cut is not None else None
        logits: torch.Tensor
        if self.cut is None or known is None:
            logits = self.model(tensors)
        elif self.cut.span is None:
            logits = self.model.output(self._stacked(known, inputs))
        else:
            logits = self.cut.span(tensors, self._stacked(known, inputs, of_tokens=True))
        return logits

    def _known(self, memo: Memo, inputs: dict[str, np.ndarray]) -> list[np.ndarray] | None:
        """What `memo` holds of all windows of a batch. Damage that reading finds is said, once a segment."""
        n_before = memo.n_damaged
        known = memo.get(keys_of(inputs))
        if memo.n_damaged > n_before:
            self.show.say(f"cache: a segment in {memo.folder} is damaged and was left out; going on without it")
        return known

    def _stacked(self, known: list[np.ndarray], inputs: dict[str, np.ndarray], of_tokens: bool = False) -> torch.Tensor:
        """Arrays [n, D] as one tensor: [B, T, D], or [B, D] where there is one vector a window.

        of_tokens: they are what blocks said; else what flows into the last linear layer.
        """
        n_tokens = inputs["input_ids"].shape[1]
        per_window = not of_tokens and not self.model.per_token
        out = np.zeros((len(known), 1 if per_window else n_tokens, known[0].shape[1]), np.float32)
        for line, one in zip(out, known, strict=True):
            line[: len(one)] = one
        return torch.from_numpy(out[:, 0] if per_window else out).to(self.device)

    def settle(self) -> None:
        """Find the frozen part again: weights began or ceased to be able to move."""
        self.cut = None
        if self.store == "off":
            return
        output = {id(p) for p in self.model.output.parameters()}
        n = blocks.n_frozen(self.model.encoder)
        if not any(p.requires_grad for p in self.model.parameters() if id(p) not in output):
            if FEATURES in self.memos:
                self.cut = Cut(None, self.memos[FEATURES], None)
        elif n in self.memos:
            self.cut = Cut(n, self.memos[n], blocks.Span(self.model, n))

    def remember(self, parts: Sequence[Part], depths: Sequence[int], tokens_per_batch: int) -> None:
        """Compute what the lowest `depths` blocks say of all windows, where no earlier run did; then settle."""
        if self.store == "off":
            return
        width = int(blocks.base(self.model.encoder).config.hidden_size)  # type: ignore[union-attr, arg-type]
        names = self._names()
        for n in sorted(n for n in set(depths) if n in names):
            memo = Memo(names[n], width, {"fp16": "<f2", "fp32": "<f4"}[self.store])
            lower = max((d for d in self.memos if isinstance(d, int)), default=0)

            def compute(tensors: dict[str, torch.Tensor], inputs: dict[str, np.ndarray], n: int = n,
                        lower: int = lower) -> torch.Tensor:
                known = self._known(self.memos[lower], inputs) if lower else None
                if known is None:
                    return blocks.Span(self.model, 0, n)(tensors)
                return blocks.Span(self.model, lower, n)(tensors, self._stacked(known, inputs, of_tokens=True))

            if self._fill(memo, parts, tokens_per_batch, compute, f"frozen layers (lowest {n})"):
                self.memos[n] = memo
        self.settle()

    def remember_features(self, parts: Sequence[Part], tokens_per_batch: int) -> None:
        """The same for what flows into the last linear layer, as long as nothing has moved yet."""
        if self.store == "off":
            return
        memo = Memo(self._features_name(), self.model.output.in_features, "<f4")
        if lowest := [n for n in self.memos if isinstance(n, int)]:  # nothing has moved yet: enter as high as possible
            self.cut = Cut(max(lowest), self.memos[max(lowest)], blocks.Span(self.model, max(lowest)))
        if self._fill(memo, parts, tokens_per_batch, lambda _, inputs: self.into_output(inputs), "frozen features"):
            self.memos[FEATURES] = memo
        self.settle()

    def forget_features(self) -> None:
        """Call it before weights move: what flowed into the last layer is then no constant any more."""
        output = {id(p) for p in self.model.output.parameters()}
        if any(p.requires_grad for p in self.model.parameters() if id(p) not in output):
            self.memos.pop(FEATURES, None)
        self.settle()

    def exchange(self, model: Model) -> None:
        """Go on with `model`, whose frozen part is the same."""
        self.model = model
        if self.cut is not None and self.cut.n is not None:
            self.cut = Cut(self.cut.n, self.cut.memo, blocks.Span(model, self.cut.n))

    def features(self, inputs: dict[str, np.ndarray]) -> torch.Tensor:
        """What flows into the last linear layer, [B, D], remembered or computed."""
        memo = self.memos.get(FEATURES)
        known = self._known(memo, inputs) if memo is not None else None
        if known is None:
            self.model.eval()
            return self.into_output(inputs)
        return self._stacked(known, inputs)

    def into_output(self, inputs: dict[str, np.ndarray]) -> torch.Tensor:
        """What flows into the last linear layer, computed; gradients go through it."""
        with blocks.caught(self.model.output, lambda given, _: given[0]) as seen:
            self(inputs)
        return seen[0]

    def _fill(self, memo: Memo, parts: Sequence[Part], tokens_per_batch: int, compute: Compute, what: str) -> bool:
        """Put all windows into `memo`. False where there is no room for them; the run then goes on without."""
        windows = _Windows(parts)
        if memo.n_damaged:
            self.show.say(f"cache: {memo.n_damaged} damaged segments in {memo.folder}; computing them again")
        if memo.contains(windows.keys_N).all():
            return True
        try:
            with memo.locked(self.show):
                return self._add(memo, windows, tokens_per_batch, compute, what)
        except OSError as error:
            self.show.say(memo.unwritable(error))
            return False

    def _add(self, memo: Memo, windows: _Windows, tokens_per_batch: int, compute: Compute, what: str) -> bool:
        _, first_N = np.unique(windows.keys_N, return_index=True)
        wanted_M = np.sort(first_N[~memo.contains(windows.keys_N[first_N])])
        if not len(wanted_M):
            return True  # another process was faster
        self.model.eval()
        per_window = self._said(windows, wanted_M[:1], compute).ndim == 2
        lengths_M = windows.lengths_N[wanted_M]
        rows_M = np.ones_like(lengths_M) if per_window else lengths_M
        n_bytes = int(rows_M.sum()) * memo.width * memo.dtype.itemsize
        if not make_room(n_bytes, memo.folder):
            self.show.say(f"cache: {n_bytes / 1e9:.1f} GB of what frozen layers say do not fit into {folder()} "
                          f"(limit {limit_bytes() / 1e9:.1f} GB, HEADSTART_CACHE_BYTES); going on without")
            return False
        self.show.begin(what, len(wanted_M), "windows")
        segment_M = np.cumsum(lengths_M) // SEGMENT_TOKENS
        for segment in np.unique(segment_M):
            inside_M = segment_M == segment
            chosen_C = wanted_M[inside_M]

            def pieces(chosen_C: np.ndarray = chosen_C) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
                lengths_C = windows.lengths_N[chosen_C]
                for places in by_length(lengths_C, np.arange(len(chosen_C)), tokens_per_batch):
                    said = self._said(windows, chosen_C[places], compute)
                    yield places, [one[None] if per_window else one[:n]
                                   for one, n in zip(said, lengths_C[places], strict=True)]
                    self.show.advance(len(places))

            memo.write(windows.keys_N[chosen_C], rows_M[inside_M], pieces())
        memo.open()
        return True

    def _said(self, windows: _Windows, chosen: np.ndarray, compute: Compute) -> np.ndarray:
        inputs = windows.inputs(chosen)
        tensors = {name: torch.from_numpy(a).to(self.device) for name, a in inputs.items()}
        with torch.inference_mode():
            said: np.ndarray = compute(tensors, inputs).float().cpu().numpy()
        return said

    def _names(self) -> dict[int, str]:
        """The name of the memo of each depth: a hash of all weights that take part, and of how they are used."""
        model = blocks.base(self.model.encoder)
        layers = blocks.of(self.model.encoder)
        inside = {id(p) for layer in layers for p in layer.parameters()}
        digest = hashlib.sha256(_how(model))
        for p in model.parameters():
            if id(p) not in inside:
                digest.update(_bytes(p))
        out = {}
        for n, layer in enumerate(layers, 1):
            for p in layer.parameters():
                digest.update(_bytes(p))
            out[n] = f"{digest.hexdigest()[:24]}-{n}-{self.store}"
        return out

    def _features_name(self) -> str:
        output = {id(p) for p in self.model.output.parameters()}
        pooling = getattr(getattr(self.model, "head", None), "pooling", "native")
        layers = getattr(self.model, "last_layers", 1)
        kind = type(getattr(self.model, "head", None)).__name__
        digest = hashlib.sha256(_how(blocks.base(self.model.encoder)) + f"{kind} {pooling} {layers}".encode())
        for p in self.model.parameters():
            if id(p) not in output:
                digest.update(_bytes(p))
        return f"{digest.hexdigest()[:24]}-{FEATURES}"


def _how(model: Any) -> bytes:
    """What beside weights decides what layers say."""
    config = {k: v for k, v in model.config.to_dict().items()
              if k not in ("id2label", "label2id", "num_labels", "problem_type", "_name_or_path", "architectures")}
    return json.dumps([config, transformers.__version__], sort_keys=True, default=str).encode()


def _bytes(p: torch.Tensor) -> Any:
    return p.detach().cpu().contiguous().numpy().data
