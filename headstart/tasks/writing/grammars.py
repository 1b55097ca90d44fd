"""A pattern or a JSON schema as what a decoder must keep to: which tokens may come next, by llguidance.

What it cannot follow (look-around, references back), and a schema that no text can meet, is a complaint before anything
is written. A text that reaches its limit ends in the middle, and does not meet it.

Shape suffixes: V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from ...core.errors import MissingExtraError, shorten
from ...core.reader import Reader
from .control import Control

ANYTHING = "(?s:.*)"


@cache
def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise MissingExtraError("a pattern or a json_schema in a control", "llguidance", "write") from None
    return llguidance


def flaw_of_form(control: Control) -> str | None:
    """Why no text can be written that keeps to a control's form, in words; None where one can, or none is asked for."""
    for name, grammar in _grammars(control):
        if why := _flaw(grammar):
            what = "that no text can meet" if "nsatisfiable" in why else "that cannot be followed while writing"
            reason = shorten(why.partition(": ")[2] or why, 160)[1:-1]
            return f"has a {name} {what}: {reason}; task.constrained=false only measures it"
    return None


def form(control: Control, reader: Reader, ends: Collection[int]) -> Callable[[Sequence[int]], np.ndarray] | None:
    """What tells which tokens may follow, where a control asks for a pattern or a schema; None where it does not."""
    grammars = [grammar for _, grammar in _grammars(control)]
    return _Form(grammars, reader, frozenset(ends)).mask if grammars else None


def _grammars(control: Control) -> list[tuple[str, str]]:
    """(the constraint's name, its grammar) of a pattern and of a schema."""
    named = []
    if control.pattern is not None:
        named.append(("pattern", _library().LLMatcher.grammar_from_regex(_whole(control.pattern))))
    if control.json_schema is not None:
        named.append(("json_schema", _library().LLMatcher.grammar_from_json_schema(control.json_schema)))
    return named


def _whole(pattern: str) -> str:
    """The pattern of a whole text that holds a match: without anchors, with anything around where there were none."""
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not re.search(r"(^|[^\\])(\\\\)*\\\$$", pattern)
    body = pattern[int(begins) : len(pattern) - int(ends)]
    return f"{'' if begins else ANYTHING}(?:{body}){'' if ends else ANYTHING}"


@lru_cache(1024)
def _flaw(grammar: str) -> str:
    return str(_library().LLMatcher.validate_grammar(grammar) or "")


@lru_cache(4)
def _tokenizer(described: str, end: int) -> Any:
    return _library().LLTokenizer(described, eos_token=end)


class _Form:
    """The state of one text: a matcher for each grammar, and the tokens that they have read."""

    def __init__(self, grammars: Sequence[str], reader: Reader, ends: frozenset[int]) -> None:
        self.grammars, self.n_ids = grammars, reader.n_ids
        self.end_ids = [end for end in ends if end < self.n_ids]
        self.tokenizer = _tokenizer(reader.described, min(ends))
        self.ids: list[int] = []
        self.matchers = self._begin()

    def _begin(self) -> list[Any]:
        return [_library().LLMatcher(self.tokenizer, grammar) for grammar in self.grammars]

    def mask(self, ids: Sequence[int]) -> np.ndarray:
        """is_allowed_V behind `ids`."""
        if self.ids != list(ids[: len(self.ids)]):  # another beam
            self.ids, self.matchers = [], self._begin()
        for token in ids[len(self.ids):]:
            for matcher in self.matchers:
                matcher.consume_token(token)
        self.ids = list(ids)
        is_allowed_V = np.ones(self.n_ids, bool)
        for matcher in self.matchers:
            of_matcher_V = np.zeros(self.n_ids, bool)
            if not matcher.is_stopped():
                bits_V = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
                of_matcher_V = bits_V[: self.n_ids].astype(bool)
            of_matcher_V[self.end_ids] = matcher.is_stopped() or matcher.is_accepting()
            is_allowed_V &= of_matcher_V
        return is_allowed_V
