"""The frozen prefix: what layers that cannot move said of a text, computed once and kept.

Whatever lies below the lowest weight that a method can move is a constant function of the text. A Memo keeps its
values in flat files, found by a hash of the very weights and token ids, so epochs, seeds, methods and runs share them:

    forward = Forward(model, device, "fp16", show)
    forward.remember(parts, [4], 4096)   one pass over the text, or none when an earlier run did it
    logits = forward(batch.inputs)       computes only what can move; a window that is not known takes the whole way

Deleting the cache changes nothing but time. Shape suffixes: B windows, T tokens, D width, M windows in a memo.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from . import blocks
from .batches import WindowStore, by_length
from .errors import SpecError, shorten
from .heads import Model
from .progress import Show
from .types import collate

LIMIT_BYTES = 10_000_000_000  # of all memos together; HEADSTART_CACHE_BYTES says otherwise
FREE_BYTES = 1_000_000_000  # of the disk, left alone
SEGMENT_TOKENS = 250_000  # windows that are computed and published together: what a kill can cost
RECORD = np.dtype([("memo", "<u8"), ("key", "<u8"), ("begin", "<i8"), ("n", "<i4"), ("crc", "<u4")])
FEATURES = "features"  # the memo of what flows into the model's last linear layer


def folder() -> Path:
    """Where memos lie: $HEADSTART_CACHE, or the platform's cache folder."""
    given = os.environ.get("HEADSTART_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given).expanduser() if given else home / "headstart"


def limit_bytes() -> int:
    """How large all memos together may grow."""
    given = os.environ.get("HEADSTART_CACHE_BYTES")
    return parse_size(given) if given else LIMIT_BYTES


def parse_size(text: str | None) -> int:
    """Bytes of "2GB", "500 MB" or "1000000". Raises SpecError."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)B?\s*", text or "", re.IGNORECASE)
    try:
        return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " ")) if found else int(text or "")
    except ValueError:
        raise SpecError("size", f"{shorten(text)} is not a size.", "For example: 2GB") from None


class Memo:
    """Arrays [n, D] by 64-bit keys, in segments: NAME.bin holds values, NAME.npy says where; no index, no segment."""

    def __init__(self, name: str, width: int, dtype: str) -> None:
        self.folder, self.width, self.dtype = folder() / name, width, np.dtype(dtype)
        self.identity = np.uint64(int(hashlib.sha256(name.encode()).hexdigest()[:16], 16))
        self.n_damaged = 0
        self.open()

    def open(self) -> None:
        """Read the indices there are. A segment that does not fit together is left out, and said to be damaged."""
        self.segments: list[np.ndarray] = []
        indices = []
        for path in sorted(self.folder.glob("*.npy")):
            found = self._index(path)
            if found is None:
                self.n_damaged += 1
                continue
            os.utime(path)  # it was used: the clean-up takes the longest unused first
            values = np.memmap(path.with_suffix(".bin"), self.dtype, "r").reshape(-1, self.width)
            indices.append((len(self.segments), found))
            self.segments.append(values)
        index_M = np.concatenate([found for _, found in indices]) if indices else np.empty(0, RECORD)
        segment_M = np.concatenate([np.full(len(found), i) for i, found in indices]) if indices else np.empty(0, int)
        order_M = np.argsort(index_M["key"], kind="stable")
        self.index_M, self.segment_M = index_M[order_M], segment_M[order_M]
        self.keys_M = np.ascontiguousarray(self.index_M["key"])

    def _index(self, path: Path) -> np.ndarray | None:
        try:
            found = np.load(path, allow_pickle=False)
            size = path.with_suffix(".bin").stat().st_size
        except (OSError, ValueError, EOFError):
            return None
        sound = (found.dtype == RECORD and len(found) and (found["memo"] == self.identity).all()
                 and int((found["begin"] + found["n"]).max()) * self.width * self.dtype.itemsize == size
                 and (found["begin"] >= 0).all() and (found["n"] > 0).all())
        return found if sound else None

    def knows(self, keys_N: np.ndarray) -> np.ndarray:
        """Which of `keys_N` are there, [N] bool."""
        if not len(self.keys_M):
            return np.zeros(len(keys_N), bool)
        at_N = np.minimum(np.searchsorted(self.keys_M, keys_N), len(self.keys_M) - 1)
        return np.asarray(self.keys_M[at_N] == keys_N)

    def get(self, keys_B: np.ndarray) -> list[np.ndarray] | None:
        """The arrays of `keys_B`; None when one is not known or was damaged on the disk since it was written."""
        if not self.knows(keys_B).all():
            return None
        out = []
        for at in np.searchsorted(self.keys_M, keys_B):
            record = self.index_M[at]
            begin, n = int(record["begin"]), int(record["n"])
            value = self.segments[self.segment_M[at]][begin : begin + n]
            if zlib.crc32(value.data) != record["crc"]:
                self.n_damaged += 1
                self._forget(int(self.segment_M[at]))
                return None
            out.append(value)
        return out

    def _forget(self, segment: int) -> None:
        """Leave a damaged segment out from now on."""
        kept_M = self.segment_M != segment
        self.index_M, self.segment_M, self.keys_M = self.index_M[kept_M], self.segment_M[kept_M], self.keys_M[kept_M]

    @contextmanager
    def adding(self, show: Show) -> Iterator[None]:
        """Hold the memo for writing: two processes that want the same do the work once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                show.say("cache: another process is computing frozen layers for it; waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for path in [*self.folder.glob("*.tmp"), *self.folder.glob("*.bin")]:
                if path.suffix == ".tmp" or not path.with_suffix(".npy").exists():
                    path.unlink(missing_ok=True)  # left by a process that was killed
            self.open()
            yield

    def write(self, keys_N: np.ndarray, lengths_N: np.ndarray,
              pieces: Iterator[tuple[np.ndarray, list[np.ndarray]]]) -> None:
        """Publish one segment. pieces: (places in keys_N, arrays [n, D] of each), in any order."""
        index_N = np.zeros(len(keys_N), RECORD)
        index_N["memo"], index_N["key"], index_N["n"] = self.identity, keys_N, lengths_N
        index_N["begin"] = np.cumsum(lengths_N) - lengths_N
        path = self.folder / f"{int(keys_N[0]):016x}-{len(keys_N)}-{os.getpid()}"
        n_bytes = int(lengths_N.sum()) * self.width * self.dtype.itemsize
        with path.with_suffix(".bin").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, n_bytes)  # a full disk says so now, not by SIGBUS later
        mapped = np.memmap(path.with_suffix(".bin"), self.dtype, "r+")
        values = mapped.reshape(-1, self.width)
        for places, arrays in pieces:
            for i, array in zip(places, arrays, strict=True):
                begin, n = index_N["begin"][i], lengths_N[i]
                values[begin : begin + n] = array
                index_N["crc"][i] = zlib.crc32(values[begin : begin + n].data)
        mapped.flush()
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.save(file, index_N, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path.with_suffix(".npy"))


Part = tuple[WindowStore, np.ndarray]  # a store, and the numbers of the windows that are meant
Compute = Callable[[dict[str, torch.Tensor], dict[str, np.ndarray]], torch.Tensor]


class _Windows:
    """The windows of several stores, numbered through."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.stores = [store for store, _ in parts]
        self.owner_N = np.concatenate([np.full(len(chosen), i) for i, (_, chosen) in enumerate(parts)])
        self.place_N = np.concatenate([chosen for _, chosen in parts])
        self.lengths_N = np.concatenate([store.lengths_N[chosen] for store, chosen in parts]).astype(np.int64)
        self.keys_N = np.fromiter((_key(self._fields(i)) for i in range(len(self.owner_N))), np.uint64)

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

    def __init__(self, model: Model, device: torch.device, store: str, show: Show) -> None:
        self.model, self.device, self.store, self.show = model, device, store, show
        self.cut: Cut | None = None
        self.memos: dict[int | str, Memo] = {}

    def __call__(self, inputs: dict[str, np.ndarray]) -> torch.Tensor:
        """Logits [B, ...] of a padded batch, in the model's present mode."""
        tensors = {name: torch.from_numpy(a).to(self.device) for name, a in inputs.items()}
        known = self.cut.memo.get(keys_of(inputs)) if self.cut is not None else None
        logits: torch.Tensor
        if self.cut is None or known is None:
            logits = self.model(tensors)
        elif self.cut.span is None:
            logits = self.model.output(self._stacked(known, inputs))
        else:
            logits = self.cut.span(tensors, self._stacked(known, inputs))
        return logits

    def _stacked(self, known: list[np.ndarray], inputs: dict[str, np.ndarray]) -> torch.Tensor:
        """Arrays [n, D] as one tensor: [B, T, D], or [B, D] where there is one vector a window."""
        n_tokens = inputs["input_ids"].shape[1]
        per_window = self.cut is not None and self.cut.n is None and all(len(one) == 1 for one in known)
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
                known = self.memos[lower].get(keys_of(inputs)) if lower else None
                if known is None:
                    return blocks.Span(self.model, 0, n)(tensors)
                return blocks.Span(self.model, lower, n)(tensors, self._stacked(known, inputs))

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
        known = memo.get(keys_of(inputs)) if memo is not None else None
        if known is None:
            self.model.eval()
            return self.into_output(inputs)
        return torch.from_numpy(np.concatenate(known))

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
        if memo.knows(windows.keys_N).all():
            return True
        try:
            with memo.adding(self.show):
                return self._add(memo, windows, tokens_per_batch, compute, what)
        except OSError as error:
            self.show.say(f"cache: {memo.folder} cannot be written ({error.strerror}); going on without it")
            return False

    def _add(self, memo: Memo, windows: _Windows, tokens_per_batch: int, compute: Compute, what: str) -> bool:
        _, first_N = np.unique(windows.keys_N, return_index=True)
        wanted_M = np.sort(first_N[~memo.knows(windows.keys_N[first_N])])
        if not len(wanted_M):
            return True  # another process was faster
        self.model.eval()
        per_window = self._said(windows, wanted_M[:1], compute).ndim == 2
        lengths_M = windows.lengths_N[wanted_M]
        rows_M = np.ones_like(lengths_M) if per_window else lengths_M
        n_bytes = int(rows_M.sum()) * memo.width * memo.dtype.itemsize
        if not _make_room(n_bytes, memo.folder):
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
        digest = hashlib.sha256(_how(blocks.base(self.model.encoder)) + f"{pooling} {layers}".encode())
        for p in self.model.parameters():
            if id(p) not in output:
                digest.update(_bytes(p))
        return f"{digest.hexdigest()[:24]}-{FEATURES}"


def keys_of(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The key of each window of a padded batch, [B] uint64."""
    lengths_B = inputs["attention_mask"].sum(1)
    return np.fromiter((_key({name: a[i, :n] for name, a in inputs.items() if name != "attention_mask"})
                        for i, n in enumerate(lengths_B)), np.uint64, len(lengths_B))


def _key(inputs: dict[str, np.ndarray]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(inputs):
        digest.update(name.encode() + np.ascontiguousarray(inputs[name], np.int32).tobytes())
    return int.from_bytes(digest.digest(), "little")


def _how(model: Any) -> bytes:
    """What beside weights decides what layers say."""
    config = {k: v for k, v in model.config.to_dict().items()
              if k not in ("id2label", "label2id", "num_labels", "problem_type", "_name_or_path", "architectures")}
    return json.dumps([config, transformers.__version__], sort_keys=True, default=str).encode()


def _bytes(p: torch.Tensor) -> Any:
    return p.detach().cpu().contiguous().numpy().data


def used() -> list[tuple[Path, int, float]]:
    """Every segment's index file, its bytes with its values, and when it was last used; longest unused first."""
    found = []
    for path in folder().glob("*/*.npy"):
        try:
            values = path.with_suffix(".bin").stat().st_size
            found.append((path, values + path.stat().st_size, path.stat().st_mtime))
        except FileNotFoundError:
            continue
    return sorted(found, key=lambda one: one[2])


def prune(to_bytes: int, keep: Path | None = None) -> int:
    """Delete the longest unused segments until at most `to_bytes` are left; those under `keep` stay.

    Returns bytes freed. A process that still reads one keeps its memory map; the space comes back when it ends.
    """
    segments = used()
    total, freed = sum(size for _, size, _ in segments), 0
    for path, size, _ in segments:
        if total - freed <= to_bytes:
            break
        if keep is None or path.parent != keep:
            path.unlink(missing_ok=True)
            path.with_suffix(".bin").unlink(missing_ok=True)
            freed += size
    return freed


def _make_room(n_bytes: int, memo: Path) -> bool:
    """Whether `n_bytes` more fit under the limit and on the disk, after a clean-up where that is needed."""
    if n_bytes > limit_bytes():
        return False
    prune(limit_bytes() - n_bytes, keep=memo)
    return (sum(size for _, size, _ in used()) + n_bytes <= limit_bytes()
            and shutil.disk_usage(memo).free >= n_bytes + FREE_BYTES)
