"""How text becomes token ids: one text, a pair, or the windows of a long one. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from ..core.errors import ModelError
from ..core.reader import Piece
from ..core.untrusted import library_errors

UNREADABLE = "Look for the text that is odd (half a surrogate pair, such as \\udce9, is none) and leave it out."
UNHEARD_OF = "\U0010fffd"  # a character for private use that no vocabulary has


@dataclass(frozen=True)
class TextReader:
    """How one backbone reads text: a `tokenizers.Tokenizer` and the few facts a task may ask about it.

    It needs no transformers, so training and serving read with the very same code.

    max_tokens: the longest window, special tokens included.
    has_types:  whether the model reads token_type_ids, which tell the two texts of a pair apart.
    end_ids:    tokens that end a text, by the model's configuration; models that write need one.
    begin_ids:  what a decoder's text begins with; () where there is none.
    of_target:  how what is written becomes tokens, where that differs.
    """

    modality: ClassVar[Literal["text"]] = "text"
    tokenizer: Any
    max_tokens: int
    pad_id: int
    has_types: bool = False
    end_ids: tuple[int, ...] = ()
    begin_ids: tuple[int, ...] = ()
    of_target: TextReader | None = None

    @property
    def target(self) -> TextReader:
        """How what is written becomes tokens."""
        return self.of_target or self

    @property
    def facts(self) -> dict[str, Any]:
        """max_tokens, pad_id and has_types."""
        return {"max_tokens": self.max_tokens, "pad_id": self.pad_id, "has_types": self.has_types}

    @property
    def unknown_id(self) -> int | None:
        """The token that stands for all that the vocabulary has no entry for; None where there is none (bytes)."""
        with library_errors("tokenizer", "cannot read a character", ModelError, UNREADABLE):
            pieces = self.tokenizer.model.tokenize(UNHEARD_OF)
        is_known = self.tokenizer.model.token_to_id(UNHEARD_OF) is not None
        return None if is_known or len(pieces) != 1 else int(pieces[0].id)

    @cached_property
    def n_ids(self) -> int:
        """One more than its highest token id."""
        return int(max(self.tokenizer.get_vocab(with_added_tokens=True).values())) + 1

    @cached_property
    def described(self) -> str:
        """Its tokenizer as tokenizer.json has it."""
        return str(self.tokenizer.to_str())

    @cached_property
    def token_texts(self) -> tuple[str, ...]:
        """What each token writes behind a letter, by its id, casefolded; special ones write nothing.

        Cost  a second for a vocabulary of a hundred thousand.
        """
        before = self.ids("a")
        n = len(self.text(before))
        texts = self.tokenizer.decode_batch([[*before, i] for i in range(self.n_ids)], skip_special_tokens=True)
        return tuple(text[n:].casefold() for text in texts)

    @cached_property
    def special_tokens(self) -> tuple[tuple[str, int], ...]:
        """Its special tokens: (name, id) each."""
        return tuple((token.content, int(i)) for i, token in self.tokenizer.get_added_tokens_decoder().items()
                     if token.special)

    @cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        encoding = self.tokenizer.encode("a")
        of_text = [i for i, is_special in enumerate(encoding.special_tokens_mask) if not is_special]
        return (tuple(encoding.ids[: of_text[0]]), tuple(encoding.ids[of_text[-1] + 1 :])) if of_text else ((), ())

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts before every text."""
        return self._around[0]

    @property
    def close_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts behind every text."""
        return self._around[1]

    @cached_property
    def _plain(self) -> Any:
        """The tokenizer to which the name of a special token is text like any other: a row cannot end a prompt."""
        from tokenizers import Tokenizer

        plain = Tokenizer.from_str(self.tokenizer.to_str())
        plain.encode_special_tokens = True
        return plain

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name, such as "[MASK]"; None where the vocabulary has none of it."""
        return None if (i := self.tokenizer.token_to_id(token)) is None else int(i)

    def ids(self, text: str, has_special: bool = False) -> list[int]:
        """The tokens of a text, none added. has_special: whether the names of special tokens mean these tokens."""
        tokenizer = self.tokenizer if has_special else self._plain
        with library_errors("tokenizer", f"cannot read a text of {len(text):,} characters", ModelError, UNREADABLE):
            return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int]) -> str:
        """The text that tokens stand for, special ones left out."""
        with library_errors("tokenizer", f"cannot write {len(ids):,} tokens as text", ModelError, UNREADABLE):
            return str(self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))

    def which_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """(is_text_V, is_unknown_V): whether each id stands for a part of a text, and whether for an unknown part."""
        special = {i for _, i in self.special_tokens} | {*self.tokenizer.encode("", "").ids}
        n_ids = max([*special, self.pad_id, *self.tokenizer.get_vocab(with_added_tokens=True).values()]) + 1
        is_text_V, is_unknown_V = np.ones(n_ids, bool), np.zeros(n_ids, bool)
        is_text_V[[*special]] = False
        if self.unknown_id is not None:
            is_text_V[self.unknown_id] = is_unknown_V[self.unknown_id] = True
        return is_text_V, is_unknown_V

    def read(self, text: str, text_pair: str | None = None) -> tuple[dict[str, list[int]], int]:
        """Token ids of one text (or a pair), and how many tokens did not fit.

        A pair is cut from its longer side, one token at a time. A text of no token (nothing but characters that the
        tokenizer drops, and a tokenizer that adds none) is read as one padding token.

        Returns ({"input_ids": [T]} and, for a pair of a model that has them, "token_type_ids": [T]; T <= max_tokens),
        n_cut_tokens).
        """
        if text_pair is None:
            return self._fitted(self._encode(text))
        first, second = self._encode(text), self._encode(text_pair)
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
        with library_errors("tokenizer", f"cannot read one of {len(texts):,} texts", ModelError, UNREADABLE):
            encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [*map(self._fitted, encodings)]

    def _encode(self, text: str) -> Any:
        """The tokens of a text, without special ones. Raises ModelError where the library fails or panics."""
        with library_errors("tokenizer", f"cannot read a text of {len(text):,} characters", ModelError, UNREADABLE):
            return self.tokenizer.encode(text, add_special_tokens=False)

    def _fitted(self, encoding: Any) -> tuple[dict[str, list[int]], int]:
        """One text's tokens, without special ones, as `read` gives them."""
        n_cut = max(0, len(encoding) + self.tokenizer.num_special_tokens_to_add(False) - self.max_tokens)
        if n_cut:
            encoding.truncate(len(encoding) - n_cut)
        return {"input_ids": self.tokenizer.post_process(encoding).ids or [self.pad_id]}, n_cut

    def read_windows(self, text: str, before: str | None = None, overlap: int = 0) -> list[Piece]:
        """All of `text` as windows that overlap by `overlap` tokens, each behind `before` (a question) if there is one.

        `before` is cut to half of the window when it is longer.
        """
        of_text = self._encode(text)
        room = self.max_tokens - self.tokenizer.num_special_tokens_to_add(before is not None)
        first, n_cut = None, 0
        if before is not None:
            first = self._encode(before)
            n_cut = max(0, len(first) - room // 2)
            first.truncate(min(len(first), room // 2))
            room -= len(first)
        if len(of_text) > room:
            of_text.truncate(room, stride=min(overlap, room - 1))
        place = 0 if first is None else 1
        pieces = []
        for part in (of_text, *of_text.overflowing):
            encoding = self.tokenizer.post_process(*(text for text in (first, part) if text is not None))
            inside = [sequence == place for sequence in encoding.sequence_ids]
            inputs = {"input_ids": encoding.ids}
            if first is not None and self.has_types:
                inputs["token_type_ids"] = encoding.type_ids
            of_part = iter(part.offsets)  # byte-level tokenizers trim them again with every post_process
            offsets = [next(of_part) if is_text else None for is_text in inside]
            words = [at if is_text else None for at, is_text in zip(encoding.word_ids, inside, strict=True)]
            if not encoding.ids:
                inputs, offsets, words = {"input_ids": [self.pad_id]}, [None], [None]
            pieces.append(Piece(inputs, offsets, words, n_cut))
            n_cut = 0
        return pieces


def _fit(n_first: int, n_second: int, room: int) -> tuple[int, int]:
    """How many tokens of each side stay when `room` is all there is and the longer side gives way."""
    if n_first + n_second <= room:
        return n_first, n_second
    shorter = min(n_first, n_second, room // 2)
    return (room - shorter, shorter) if n_first > n_second else (shorter, room - shorter)
