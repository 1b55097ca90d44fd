"""The frozen prefix: what layers that cannot move compute of a text, computed once and kept.

Whatever lies below the lowest weight that a method can move is a constant function of the text. An ActivationStore
keeps its values in flat files, named by a hash of the very weights and token ids, so epochs, seeds, methods and runs
share them:

    forward = CachedForward(model, device, "fp16", progress)
    forward.remember(parts, [4], 1024)      one pass over the text, or none when an earlier run did it
    logits = forward(batch.inputs).logits   computes only what can move; a window that is not known takes the whole way

Deleting the cache changes nothing but time. Shape suffixes: B windows, T tokens, D width, M windows in a store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from ..core.errors import SpecError
from ..core.model import MAIN, Model, Precision
from ..core.progress import Progress
from ..core.values import Outputs, collate
from ..core.windows import WindowStore, by_length
from ..models import adapters, blocks
from ..models.device import by_halves, to_device
from .resident import Resident, free_bytes
from .store import WRITTEN, ActivationStore, folder, key_of, keys_of, limit_bytes, make_room

SEGMENT_TOKENS = 250_000  # windows that are computed and published together: what a kill can cost
FEATURES = "features"  # the store of what flows into the model's last linear layer

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
        fields = self.stores[self.owner_N[i]].inputs
        return {name: field.of(self.place_N[i]) for name, field in fields.items() if name not in WRITTEN}

    def inputs(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """The windows numbered `chosen` as a padded batch."""
        fields = [self._fields(i) for i in chosen]
        columns: dict[str, Sequence[Any]] = {name: [window[name] for window in fields] for name in fields[0]}
        return collate(columns, {}, self.stores[0].pad_id).inputs


@dataclass
class Stored:
    """Values in a store, and the weights that they were computed with.

    versions: what torch counted of writes to each weight by then; None where gradients have gone through them since.
    digest:   of the weights, where they may move and come back; "" where nobody moves them or nobody asks again.
    resident: what of the values is in the device's memory; None: each batch is read from the disk.
    """

    store: ActivationStore
    weights: list[nn.Parameter]
    versions: list[int] | None
    digest: str
    resident: Resident | None = None
    refuted: list[int] | None = None  # versions that turned out to have another digest

    def holds(self) -> bool:
        """Whether the weights are still those that the values were computed with."""
        now = [p._version for p in self.weights]
        if now != self.versions:
            if not self.digest or now == self.refuted:
                return False
            if _digest(self.weights) != self.digest:
                self.refuted = now
                return False
            self.versions = now
        return True

    def can_move(self) -> bool:
        """Whether a gradient may be asked of one of the weights."""
        return any(p.requires_grad for p in self.weights)


class CachedForward:
    """A model as training and evaluation call it: numpy in, Outputs out, nothing computed twice that cannot move.

    Calls may come in any order, and weights may move, freeze, thaw or be exchanged between them: values are used only
    while the weights that they depend on are frozen and hold what they held when the values were computed.

    precision: "fp16" or "fp32", how hidden states are kept (features are always fp32), or "off".
    resident_bytes: how much of them may be kept in the device's memory; absent: a share of what is free on a GPU.
    """

    def __init__(self, model: Model, device: torch.device, precision: str, progress: Progress,
                 resident_bytes: int | None = None) -> None:
        self.model, self.device, self.precision, self.progress = model, device, precision, progress
        self.resident_bytes = resident_bytes
        if precision != "off":
            try:
                folder()
            except SpecError as error:
                progress.say(f"cache: {error.what} Going on without it".replace("\n", " "))
                self.precision = "off"
        self.stored: dict[int | str, Stored] = {}
        self.spans: dict[int, blocks.Span] = {}
        self.revision = model.revision

    def __call__(self, inputs: dict[str, np.ndarray], job: str = MAIN, want: frozenset[str] = frozenset()) -> Outputs:
        """Outputs of a padded batch, in the model's present mode."""
        self._look_again()
        if torch.is_grad_enabled():  # from here on an optimizer may move what can move; not all of them are counted
            for stored in self.stored.values():
                if stored.can_move():
                    stored.versions = stored.refuted = None
        tensors = to_device(inputs, self.device)
        if want <= {"features"}:
            if job == MAIN and (features := self._read(FEATURES, inputs)) is not None:
                return Outputs(self.model.output(features), features)
            for n in self._depths():
                if (hidden_BTD := self._read(n, inputs)) is not None:
                    return self._span(n)(tensors, hidden_BTD, job, want)
        return self.model(tensors, job, want)

    def features(self, inputs: dict[str, np.ndarray]) -> torch.Tensor:
        """What flows into the last linear layer, [B, D] or [B, T, D], stored or computed; no gradient goes through."""
        with torch.no_grad(), evaluating(self.model):
            self._look_again()
            features = self._read(FEATURES, inputs, may_move=True)
            if features is None:
                features = self(inputs, want=frozenset({"features"})).features
        assert features is not None
        return features

    def remember(self, parts: Sequence[Part], depths: Sequence[int], tokens_per_batch: int) -> None:
        """Compute what the lowest blocks give of all windows, for each of `depths`, where no earlier run did."""
        self._look_again()
        if self.precision == "off":
            return
        width = int(blocks.base(self.model.encoder).config.hidden_size)  # type: ignore[union-attr, arg-type]
        names = self._names()
        for n in sorted(n for n in set(depths) if n in names):
            weights = self._taking_part(n)
            store = ActivationStore(names[n], width, {"fp16": "<f2", "fp32": "<f4"}[self.precision])

            def compute(tensors: dict[str, torch.Tensor], inputs: dict[str, np.ndarray], n: int = n) -> torch.Tensor:
                for lower in self._depths():
                    if lower < n and (hidden_BTD := self._read(lower, inputs, may_move=True)) is not None:
                        return blocks.Span(self.model, lower, n).hidden(tensors, hidden_BTD)
                return blocks.Span(self.model, 0, n).hidden(tensors)

            keys_N = self._fill(store, parts, tokens_per_batch, compute, f"frozen layers (lowest {n})")
            if keys_N is not None:
                self._keep(n, store, weights, _digest(weights) if any(p.requires_grad for p in weights) else "", keys_N)

    def remember_features(self, parts: Sequence[Part], tokens_per_batch: int) -> None:
        """The same for what flows into the last linear layer, as the weights are now."""
        self._look_again()
        if self.precision == "off":
            return
        store = ActivationStore(self._features_name(), self.model.output.in_features, "<f4")

        def compute(tensors: dict[str, torch.Tensor], inputs: dict[str, np.ndarray]) -> torch.Tensor:
            want, outputs = frozenset({"features"}), None
            for n in self._depths():
                if outputs is None and (hidden_BTD := self._read(n, inputs, may_move=True)) is not None:
                    outputs = self._span(n)(tensors, hidden_BTD, want=want)
            features = (outputs or self.model(tensors, want=want)).features
            assert features is not None
            return features

        keys_N = self._fill(store, parts, tokens_per_batch, compute, "frozen features")
        if keys_N is not None:
            self._keep(FEATURES, store, self._taking_part(FEATURES), "", keys_N)

    def _keep(self, key: int | str, store: ActivationStore, weights: list[nn.Parameter], digest: str,
              keys_N: np.ndarray) -> None:
        store.hold()
        self.stored.pop(key, None)  # with what it kept on the device
        resident = None if key == FEATURES else self._resident(store, keys_N)  # features are read once or twice
        self.stored[key] = Stored(store, weights, [p._version for p in weights], digest, resident)

    def _resident(self, store: ActivationStore, keys_N: np.ndarray) -> Resident | None:
        """An empty table on the device for the values of `keys_N`, or for as many of them as fit."""
        if self.resident_bytes is None:
            self.resident_bytes = free_bytes(self.device)
        taken = sum(stored.resident.n_bytes for stored in self.stored.values() if stored.resident)
        line_bytes = store.width * store.dtype.itemsize
        n_lines = min(store.n_lines(keys_N), max(0, self.resident_bytes - taken) // line_bytes)
        dtype = {2: torch.float16, 4: torch.float32}[store.dtype.itemsize]
        try:
            return Resident(store.width, dtype, self.device, n_lines) if n_lines else None
        except torch.OutOfMemoryError:  # the disk does, then
            return None

    def _look_again(self) -> None:
        """Leave out what was computed with other modules than those of now."""
        if self.revision != self.model.revision:
            self.revision, self.spans = self.model.revision, {}
            n_blocks = len(blocks.of(self.model.encoder))
            self.stored = {key: stored for key, stored in self.stored.items()
                           if (key == FEATURES or int(key) <= n_blocks)
                           and list(map(id, stored.weights)) == list(map(id, self._taking_part(key)))}

    def _taking_part(self, key: int | str) -> list[nn.Parameter]:
        """The weights that a store's values depend on now; those of an adapter that is switched off do not."""
        weights = self.model.below_output() if key == FEATURES else blocks.below(self.model.encoder, int(key))
        idle = adapters.idle(self.model)
        return [p for p in weights if id(p) not in idle]

    def _depths(self) -> list[int]:
        """How many of the lowest blocks have stored values, the most first."""
        return sorted((n for n in self.stored if isinstance(n, int)), reverse=True)

    def _span(self, n: int) -> blocks.Span:
        if n not in self.spans:
            self.spans[n] = blocks.Span(self.model, n)
        return self.spans[n]

    def _read(self, key: int | str, inputs: dict[str, np.ndarray], may_move: bool = False) -> torch.Tensor | None:
        """Stored values of a padded batch, [B, T, D] or [B, D]; None where they are not known or not right any more.

        may_move: although gradients could be asked of the weights; the caller asks for none.
        """
        stored = self.stored.get(key)
        if stored is None or not (may_move or not stored.can_move()) or not stored.holds():
            return None
        per_window = key == FEATURES and not self.model.per_token
        n_lines = 1 if per_window else inputs["input_ids"].shape[1]
        keys_B = keys_of(inputs)
        if stored.resident is not None:
            return stored.resident.padded(keys_B, n_lines, lambda keys: self._from_disk(stored.store, keys))
        arrays = self._from_disk(stored.store, keys_B)
        if arrays is None:
            return None
        values_BTD = np.zeros((len(arrays), n_lines, arrays[0].shape[1]), np.float32)
        for line_TD, array_TD in zip(values_BTD, arrays, strict=True):
            line_TD[: len(array_TD)] = array_TD
        return to_device({"": values_BTD[:, 0] if per_window else values_BTD}, self.device)[""]

    def _from_disk(self, store: ActivationStore, keys_B: np.ndarray) -> list[np.ndarray] | None:
        n_before = store.n_damaged
        arrays = store.get(keys_B)
        if store.n_damaged > n_before:
            self.progress.say(f"cache: a segment in {store.folder} is damaged and was left out; going on without it")
        return arrays

    def _fill(self, store: ActivationStore, parts: Sequence[Part], tokens_per_batch: int, compute: Compute,
              what: str) -> np.ndarray | None:
        """Put all windows into `store`. Returns their keys; None where there is no room for them: the run then goes on
        without."""
        windows = _Windows(parts)
        store.check(windows.keys_N)  # before anything is used: what is computed again is then what it was
        if store.n_damaged:
            self.progress.say(f"cache: {store.n_damaged} damaged segments in {store.folder}; computing them again")
        if store.contains(windows.keys_N).all():
            return windows.keys_N
        try:
            with store.locked(self.progress):
                return windows.keys_N if self._add(store, windows, tokens_per_batch, compute, what) else None
        except OSError as error:
            self.progress.say(store.unwritable(error))
            return None

    def _add(self, store: ActivationStore, windows: _Windows, tokens_per_batch: int, compute: Compute,
             what: str) -> bool:
        _, first_N = np.unique(windows.keys_N, return_index=True)
        wanted_M = np.sort(first_N[~store.contains(windows.keys_N[first_N])])
        if not len(wanted_M):
            return True  # another process was faster
        per_window = self._computed(windows, wanted_M[:1], compute).ndim == 2
        lengths_M = windows.lengths_N[wanted_M]
        rows_M = np.ones_like(lengths_M) if per_window else lengths_M
        n_bytes = int(rows_M.sum()) * store.width * store.dtype.itemsize
        if not make_room(n_bytes, store.folder):
            self.progress.say(f"cache: {n_bytes / 1e9:.1f} GB of what frozen layers say do not fit into {folder()} "
                              f"(limit {limit_bytes() / 1e9:.1f} GB, HEADSTART_CACHE_BYTES); going on without")
            return False
        self.progress.begin(what, len(wanted_M), "windows")
        segment_M = np.cumsum(lengths_M) // SEGMENT_TOKENS
        for segment in np.unique(segment_M):
            inside_M = segment_M == segment
            chosen_C = wanted_M[inside_M]

            def pieces(chosen_C: np.ndarray = chosen_C) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
                lengths_C = windows.lengths_N[chosen_C]
                for places in by_length(lengths_C, np.arange(len(chosen_C)), tokens_per_batch):
                    values = self._computed(windows, chosen_C[places], compute)
                    yield places, [value[None] if per_window else value[:n]
                                   for value, n in zip(values, lengths_C[places], strict=True)]
                    self.progress.advance(len(places))

            store.write(windows.keys_N[chosen_C], rows_M[inside_M], pieces())
        store.open()
        return True

    def _computed(self, windows: _Windows, chosen: np.ndarray, compute: Compute) -> np.ndarray:
        def values(inputs: dict[str, np.ndarray]) -> np.ndarray:
            of_windows: np.ndarray = compute(to_device(inputs, self.device), inputs).float().cpu().numpy()
            return of_windows

        with torch.inference_mode(), evaluating(self.model):
            return by_halves(values, windows.inputs(chosen))

    def _names(self) -> dict[int, str]:
        """The name of the store of each depth: a hash of all weights that take part, and of how they are used."""
        model = blocks.base(self.model.encoder)
        layers = blocks.of(self.model.encoder)
        digest = hashlib.sha256(_how(model, self.model.precision))
        for p in (*blocks.below(model, 0), *(p for part in blocks.behind(model) for p in part.parameters())):
            digest.update(_bytes(p))
        out = {}
        for n, layer in enumerate(layers, 1):
            for p in layer.parameters():
                digest.update(_bytes(p))
            out[n] = f"{digest.hexdigest()[:24]}-{n}-{self.precision}"
        return out

    def _features_name(self) -> str:
        weights = self.model.below_output()
        how = _how(blocks.base(self.model.encoder), self.model.precision)
        digest = hashlib.sha256(how + self.model.signature.encode())
        if adapters.is_acting(self.model):
            digest.update(b"with the adapter")  # beside the backbone alone, which the same weights also name
        for p in weights:
            digest.update(_bytes(p))
        return f"{digest.hexdigest()[:24]}-{FEATURES}"


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """The model in eval mode, and afterwards each module in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _digest(weights: Sequence[nn.Parameter]) -> str:
    digest = hashlib.sha256()
    for p in weights:
        digest.update(_bytes(p))
    return digest.hexdigest()


def _how(model: Any, precision: Precision) -> bytes:
    """What beside weights decides what layers compute. 32 bits are the same everywhere, but for the last one."""
    config = {k: v for k, v in model.config.to_dict().items()
              if k not in ("id2label", "label2id", "num_labels", "problem_type", "_name_or_path", "architectures")}
    how = [config, transformers.__version__, *([str(precision)] if precision.name != "fp32" else [])]
    return json.dumps(how, sort_keys=True, default=str).encode()


def _bytes(p: torch.Tensor) -> Any:
    return p.detach().cpu().contiguous().numpy().data
