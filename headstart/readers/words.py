"""Words of a text and their places in it, in languages with and without spaces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_ASCII_WORDS = re.compile(r"\w+|[^\w\s\x00-\x1f\x7f]")
_IDEOGRAPHS = ((0x2E80, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
               (0x20000, 0x3FFFF))
_CJK = (*_IDEOGRAPHS, (0xFF01, 0xFFEF))


# Scripts that put no blanks between words: each character is one, as no rule here could part them better.
_UNSPACED = (*_IDEOGRAPHS, (0xFF66, 0xFF9D), (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))


_JOINER, _SKIN_TONES, _FLAG_LETTERS = "\u200d", range(0x1F3FB, 0x1F400), range(0x1F1E6, 0x1F200)


def _is_in(ranges: Sequence[tuple[int, int]], character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in ranges)


def split_words(text: str) -> list[tuple[int, int]]:
    """[start, end) of each word: a run of letters and digits, or one other character; with its combining marks.

    The same whatever the backbone, so that gold does not depend on it. Invisible characters are in no word unless they
    join its letters (Persian, emoji).
    """
    if text.isascii():
        return [match.span() for match in _ASCII_WORDS.finditer(text)]
    words: list[tuple[int, int]] = []
    reach = -1  # where the last word may go on: its end, or behind invisible characters that follow it
    is_open = False  # whether letters may go on
    for i, character in enumerate(text):
        kind = unicodedata.category(character)
        if character.isspace() or kind in ("Cc", "Cf", "Zl", "Zp"):
            reach = i + 1 if kind == "Cf" and i == reach else reach
            continue
        is_letter = (character.isalnum() or character == "_") and not _is_in(_UNSPACED, character)
        if i == reach and (kind[0] == "M" or (is_letter and is_open) or _goes_on(text, words[-1], i)):
            words[-1] = (words[-1][0], i + 1)
        else:
            words.append((i, i + 1))
            is_open = is_letter
        reach = i + 1
    return words


def _goes_on(text: str, word: tuple[int, int], i: int) -> bool:
    """Whether the symbol at `i` is one sign with the emoji before it."""
    is_flag = word[1] - word[0] == 1 and ord(text[word[0]]) in _FLAG_LETTERS and ord(text[i]) in _FLAG_LETTERS
    is_symbol = unicodedata.category(text[i])[0] == "S"
    return is_flag or (is_symbol and (text[i - 1] == _JOINER or ord(text[i]) in _SKIN_TONES))


def join_tokens(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Tokens as one text, and where each stands: a space between them, none between Chinese or Japanese characters."""
    parts: list[str] = []
    words: list[tuple[int, int]] = []
    at = 0
    for token in tokens:
        if parts and not (_is_in(_CJK, parts[-1][-1]) and _is_in(_CJK, token[0])):
            parts.append(" ")
            at += 1
        parts.append(token)
        words.append((at, at + len(token)))
        at += len(token)
    return "".join(parts), words


def places(tokens: Sequence[str], text: str) -> tuple[list[tuple[int, int]], int]:
    """Where each token stands in the text, one after another, and how many were found before one was not."""
    words: list[tuple[int, int]] = []
    at = 0
    for n, token in enumerate(tokens):
        start = text.find(token, at)
        if start < 0:
            return words, n
        at = start + len(token)
        words.append((start, at))
    return words, len(words)


def splits_character(text: str, at: int) -> bool:
    """Whether a span that begins or ends at `at` parts a letter from its combining mark."""
    return at < len(text) and unicodedata.combining(text[at]) != 0
