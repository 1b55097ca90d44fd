"""A control as what a decoder must keep to: which tokens may come next so that length and keywords hold in the end.

    allowed = constraint(control, reader, ends, limit=64)
    allowed(ids_so_far)                    # is_allowed_V

Words and keywords hold for every text that ends by itself, and keywords stand last where the model puts them nowhere
before. It is stricter than `Control`: a word that only begins with an excluded keyword is not written either. Patterns
and JSON schemas hold, too, for every text that ends by itself; see grammars.py.

Shape suffixes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ...core.reader import Reader
from ...core.values import Constraint
from .control import Control
from .grammars import form
from .sentences import words

Mask = Callable[[Sequence[int]], np.ndarray]

STOPS = (".", "!", "?", "…", "。", "！", "？")
SLACK_TOKENS = 2  # before keywords are forced: the end token, and a sign before it


def constraint(control: Control, reader: Reader, ends: Collection[int], limit: int) -> Mask | None:
    """What tells which tokens may follow; None where all are free.

    limit: tokens that may be written at most, the end token counted.
    """
    is_free = control.min_words is None and control.max_words is None and not control.include and not control.exclude
    of_form = form(control, reader, ends)
    if is_free:
        return of_form
    of_words = _Allowed(control, reader, frozenset(ends), limit, _tokens(reader)).mask
    if of_form is None:
        return of_words

    def mask(ids: Sequence[int]) -> np.ndarray:
        return np.asarray(of_words(ids) & of_form(ids))

    return mask


def beginning(ids: Sequence[int], reader: Reader, behind: Mask | None = None) -> Constraint | None:
    """What holds a text to begin with the tokens `ids`, and to keep to `behind` then; None where all is free."""
    if not ids:
        return behind

    def mask(written: Sequence[int]) -> np.ndarray | None:
        if len(written) >= len(ids):
            return behind(written) if behind else None
        is_allowed_V = np.zeros(reader.n_ids, bool)
        is_allowed_V[ids[len(written)]] = True
        return is_allowed_V

    return mask


@dataclass(frozen=True)
class _Tokens:
    """What each token of a vocabulary writes, and what of it counts."""

    texts: tuple[str, ...]  # casefolded

    @cached_property
    def n_words_V(self) -> np.ndarray:
        """Words that each may add; a part of a character may be the last of a letter."""
        return np.array([len(words(text)) + ("\ufffd" in text) for text in self.texts])

    @cached_property
    def joins_V(self) -> np.ndarray:
        """Whether a token goes on with the word before it, and begins no other."""
        return np.array([text.isascii() and text.isalnum() for text in self.texts])

    @cached_property
    def is_stop_V(self) -> np.ndarray:
        """Whether a token ends a sentence and does nothing else."""
        return np.array([text in STOPS for text in self.texts])

    @cached_property
    def goes_on_V(self) -> np.ndarray:
        """Whether a token could go on with the word before it: all but blanks, ASCII signs, and what writes nothing."""
        return np.array([bool(text) and (text[0].isalnum() or text[0] == "_" or not text[0].isascii())
                         for text in self.texts])

    @lru_cache(1024)  # noqa: B019 - as long as the tokenizer lives
    def that_begin(self, start: str) -> np.ndarray:
        """Whether each token's text begins with `start`."""
        return np.array([text.startswith(start) for text in self.texts])

    @lru_cache(1024)  # noqa: B019
    def that_hold(self, phrase: str, after_word: bool) -> np.ndarray:
        """Whether each token holds a word that begins with `phrase`. after_word: its first letter begins no word."""
        return np.array([any(not (text[at - 1].isalnum() if at else after_word) for at in _places(text, phrase))
                         for text in self.texts])

    def __hash__(self) -> int:
        return id(self)


def _places(text: str, phrase: str) -> list[int]:
    return [at for at in range(len(text) - len(phrase) + 1) if text.startswith(phrase, at)] if phrase in text else []


@lru_cache(4)
def _known(texts: tuple[str, ...]) -> _Tokens:
    return _Tokens(texts)


def _tokens(reader: Reader) -> _Tokens:
    return _known(reader.token_texts)


@dataclass(frozen=True)
class _Allowed:
    """The rules for one text."""

    control: Control
    reader: Reader
    ends: frozenset[int]
    limit: int
    tokens: _Tokens

    @cached_property
    def _end_ids(self) -> np.ndarray:
        return np.array(sorted(i for i in self.ends if i < len(self.tokens.texts)), np.int64)

    @cached_property
    def _forced(self) -> dict[str, list[int]]:
        """The tokens of each keyword, as a word of its own."""
        return {keyword: self.reader.ids(f" {keyword}") for keyword in self.control.include}

    def mask(self, ids: Sequence[int]) -> np.ndarray:
        """is_allowed_V behind `ids`."""
        text = self.reader.text(ids)
        n_words = len(words(text))
        missing = [keyword for keyword in self.control.include if Control(include=(keyword,)).unmet(text)]
        forced = self._next_forced(ids, n_words, missing)
        if forced is not None:
            return np.asarray(np.arange(len(self.tokens.texts)) == forced)
        is_allowed_V = np.ones(len(self.tokens.texts), bool)
        if self.control.max_words is not None:
            self._keep_short(is_allowed_V, text, self.control.max_words - n_words - sum(
                len(words(keyword)) for keyword in missing))
        kept = [keyword for keyword in self.control.include if keyword not in missing]
        if any(Control(include=(keyword,)).unmet(f"{text}x") for keyword in kept):
            is_allowed_V &= ~self.tokens.goes_on_V  # a keyword has just been written: it stays a word of its own
        for keyword in self.control.exclude:
            is_allowed_V &= ~self._that_write(keyword.casefold(), text.casefold())
        is_allowed_V[self._end_ids] = not missing and n_words >= (self.control.min_words or 0)
        return is_allowed_V

    def _next_forced(self, ids: Sequence[int], n_words: int, missing: Sequence[str]) -> int | None:
        """The only token that may follow, where the room that is left is just what missing keywords take."""
        if not missing:
            return None
        for keyword in missing:  # one that was begun is ended
            wanted = self._forced[keyword]
            for n in range(min(len(wanted) - 1, len(ids)), 0, -1):
                if list(ids[-n:]) == wanted[:n] and n > 1:
                    return wanted[n]
        n_tokens = sum(len(self._forced[keyword]) for keyword in missing)
        most = self.control.max_words
        is_due = self.limit - len(ids) <= n_tokens + SLACK_TOKENS or (
            most is not None and most - n_words <= sum(len(words(keyword)) for keyword in missing))
        if not is_due:
            return None
        wanted = self._forced[missing[0]]
        return wanted[1] if ids and ids[-1] == wanted[0] and len(wanted) > 1 else wanted[0]

    def _keep_short(self, is_allowed_V: np.ndarray, text: str, n_left: int) -> None:
        """Leave out tokens with more words than are left."""
        adds_V = self.tokens.n_words_V.copy()
        if text[-1:].isalnum():
            adds_V[self.tokens.joins_V] = 0
        is_allowed_V &= adds_V <= max(0, n_left)
        if n_left <= 0:  # what is left to write is the end of a word, and of a sentence
            is_word_V = self.tokens.joins_V if text[-1:].isalnum() else np.zeros_like(is_allowed_V)
            is_allowed_V &= is_word_V | (self.tokens.is_stop_V & (text[-1:] not in STOPS))

    def _that_write(self, phrase: str, text: str) -> np.ndarray:
        """Whether each token would write an excluded keyword, or the end of one that has begun."""
        is_written_V = self.tokens.that_hold(phrase, text[-1:].isalnum()).copy()
        for n in range(1, min(len(phrase), len(text) + 1)):
            if text.endswith(phrase[:n]) and not text[: len(text) - n][-1:].isalnum():
                is_written_V |= self.tokens.that_begin(phrase[n:])
        return is_written_V
