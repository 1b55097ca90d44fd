"""The small values that travel between the floors. numpy only: tasks, servers and tests import this file.

Shape suffixes: B windows in a batch, T tokens, D width, K labels, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Row = dict[str, Any]  # one record of the user's file: column -> value
Prediction = dict[str, Any]  # one answer, as the user sees it
Runtime = Callable[[dict[str, np.ndarray]], np.ndarray]  # inputs [B, T] -> logits [B, ...]

IGNORE = -100  # a target value that no loss reads


@dataclass(frozen=True)
class Reader:
    """How one backbone reads text: a `tokenizers.Tokenizer` and the few facts a task may ask about it.

    It needs no transformers, so training and serving read with the very same code.

    max_tokens: the longest window, special tokens included.
    has_types:  whether the model reads token_type_ids, which tell the two texts of a pair apart.
    """

    tokenizer: Any
    max_tokens: int
    pad_id: int
    has_types: bool = False

    def read(self, text: str, text_pair: str | None = None) -> tuple[dict[str, list[int]], int]:
        """Token ids of one text (or a pair), and how many tokens did not fit.

        A pair is cut from its longer side, one token at a time. A text of no token (nothing but characters that the
        tokenizer drops, and a tokenizer that adds none) is read as one padding token.

        Returns ({"input_ids": [T]} and, for a pair of a model that has them, "token_type_ids": [T]; T <= max_tokens),
        n_cut_tokens).
        """
        if text_pair is None:
            return self._fitted(self.tokenizer.encode(text, add_special_tokens=False))
        first = self.tokenizer.encode(text, add_special_tokens=False)
        second = self.tokenizer.encode(text_pair, add_special_tokens=False)
        room = self.max_tokens - self.tokenizer.num_special_tokens_to_add(True)
        keep, keep_pair = _fit(len(first), len(second), room)
        n_cut = len(first) - keep + len(second) - keep_pair
        first.truncate(keep)
        second.truncate(keep_pair)
        both = self.tokenizer.post_process(first, second)
        types = {"token_type_ids": both.type_ids or [0]} if self.has_types else {}
        return {"input_ids": both.ids or [self.pad_id], **types}, n_cut

    def read_all(self, texts: Sequence[str]) -> list[tuple[dict[str, list[int]], int]]:
        """`read` of each single text, several at a time on several cores."""
        return [self._fitted(one) for one in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _fitted(self, one: Any) -> tuple[dict[str, list[int]], int]:
        """One text's tokens, without special ones, as `read` gives them."""
        n_cut = max(0, len(one) + self.tokenizer.num_special_tokens_to_add(False) - self.max_tokens)
        if n_cut:
            one.truncate(len(one) - n_cut)
        return {"input_ids": self.tokenizer.post_process(one).ids or [self.pad_id]}, n_cut

    def read_windows(self, text: str, before: str | None = None, overlap: int = 0) -> list[Piece]:
        """All of `text` as windows that overlap by `overlap` tokens, each behind `before` (a question) if there is one.

        `before` is cut to half of the window when it is longer.
        """
        of_text = self.tokenizer.encode(text, add_special_tokens=False)
        room = self.max_tokens - self.tokenizer.num_special_tokens_to_add(before is not None)
        first, n_cut = None, 0
        if before is not None:
            first = self.tokenizer.encode(before, add_special_tokens=False)
            n_cut = max(0, len(first) - room // 2)
            first.truncate(min(len(first), room // 2))
            room -= len(first)
        if len(of_text) > room:
            of_text.truncate(room, stride=min(overlap, room - 1))
        place = 0 if first is None else 1
        pieces = []
        for part in (of_text, *of_text.overflowing):
            one = self.tokenizer.post_process(part) if first is None else self.tokenizer.post_process(first, part)
            inside = [said == place for said in one.sequence_ids]
            inputs = {"input_ids": one.ids}
            if first is not None and self.has_types:
                inputs["token_type_ids"] = one.type_ids
            of_part = iter(part.offsets)  # byte-level tokenizers trim them again with every post_process
            offsets = [next(of_part) if is_text else None for is_text in inside]
            words = [at if is_text else None for at, is_text in zip(one.word_ids, inside, strict=True)]
            if not one.ids:
                inputs, offsets, words = {"input_ids": [self.pad_id]}, [None], [None]
            pieces.append(Piece(inputs, offsets, words, n_cut))
            n_cut = 0
        return pieces


@dataclass(frozen=True)
class Piece:
    """One window of a text.

    offsets_T: [start, end) of each token in the text, in characters; None for a special token or one of `before`.
    words_T:   the number of the word, as the tokenizer parts them, that each token belongs to; None likewise.
    """

    inputs: dict[str, list[int]]
    offsets_T: list[tuple[int, int] | None]
    words_T: list[int | None]
    n_cut_tokens: int


def _fit(n_first: int, n_second: int, room: int) -> tuple[int, int]:
    """How many tokens of each side stay when `room` is all there is and the longer side gives way."""
    if n_first + n_second <= room:
        return n_first, n_second
    shorter = min(n_first, n_second, room // 2)
    return (room - shorter, shorter) if n_first > n_second else (shorter, room - shorter)


@dataclass(frozen=True)
class Window:
    """One model input cut from one row; a long row may give several.

    row:    index of the row it came from.
    inputs: integer lists of one common length T; "input_ids" is always there.
    target: what the loss reads, a number or a list of them each; {} when predicting.
    notes:  what decode needs to find its way back to the text; "n_cut_tokens" counts what did not fit.
    """

    row: int
    inputs: dict[str, list[int]]
    target: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs["input_ids"])


@dataclass(frozen=True)
class Batch:
    """Windows stacked to arrays.

    inputs:   "input_ids", "attention_mask" and what else the windows carry, each int64 [B, T].
    target:   the task's own, int64 or float32, [B] or [B, T] with IGNORE where padded.
    n_tokens: real tokens, padding not counted.
    """

    inputs: dict[str, np.ndarray]
    target: dict[str, np.ndarray]
    n_tokens: int

    @property
    def n_windows(self) -> int:
        return len(self.inputs["input_ids"])


def pad(values: Sequence[Any], fill: int, dtype: Any = np.int64) -> np.ndarray:
    """Stack numbers to [B], or sequences of numbers to [B, T] with `fill` behind the shorter ones."""
    if len(values) == 1 or (not isinstance(values[0], list) and np.ndim(values[0]) == 0):
        return np.asarray(values, dtype)
    out = np.full((len(values), max(len(v) for v in values)), fill, dtype)
    for line, value in zip(out, values, strict=True):
        line[: len(value)] = value
    return out


def collate(inputs: dict[str, Sequence[Any]], target: dict[str, Sequence[Any]], pad_id: int) -> Batch:
    """Pad the fields of some windows to one batch. The attention mask follows from the lengths."""
    lengths = [len(ids) for ids in inputs["input_ids"]]
    arrays = {name: pad(v, pad_id if name == "input_ids" else 0) for name, v in inputs.items()}
    arrays["attention_mask"] = mask_BT = np.zeros((len(lengths), max(lengths)), np.int64)
    for mask_T, length in zip(mask_BT, lengths, strict=True):
        mask_T[:length] = 1
    floats = {name: np.asarray(v[0]).dtype.kind == "f" for name, v in target.items()}
    targets = {name: pad(v, IGNORE, np.float32 if floats[name] else np.int64) for name, v in target.items()}
    return Batch(arrays, targets, sum(lengths))
