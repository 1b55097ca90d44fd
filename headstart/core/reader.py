"""How one kind of input becomes arrays: what tasks, training and serving may ask of a reader. No labels, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


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


@dataclass(frozen=True)
class ChatFormat:
    """What a model's chat template writes around messages: text, special tokens included. No template is run with it.

    first:         before the first message, the user's, where there is no system message.
    system:        before a system message.       after_system: between it and the user's.
    to_assistant:  between the user's message and the assistant's.
    to_user:       between the assistant's message and the user's.
    to_reply:      behind the user's last message: the assistant's reply comes next.
    end:           behind the assistant's message.
    """

    first: str
    system: str
    after_system: str
    to_assistant: str
    to_user: str
    to_reply: str
    end: str


class Reader(Protocol):
    """How one backbone reads its input; readers/text.py is the one for text."""

    @property
    def modality(self) -> Literal["text", "image", "audio"]:
        """What kind of input it reads."""

    @property
    def max_tokens(self) -> int:
        """The longest window, special tokens included."""

    @property
    def pad_id(self) -> int:
        """What stands behind the shorter windows of a batch."""

    @property
    def facts(self) -> dict[str, Any]:
        """What beside its tokenizer's file makes it again: an export keeps them."""

    @property
    def n_ids(self) -> int:
        """One more than its highest token id."""

    @property
    def start_ids(self) -> Sequence[int]:
        """What the tokenizer puts before every text."""

    @property
    def close_ids(self) -> Sequence[int]:
        """What the tokenizer puts behind every text."""

    @property
    def begin_ids(self) -> Sequence[int]:
        """What a decoder's text begins with; () where a text goes on from what is read."""

    @property
    def special_tokens(self) -> tuple[tuple[str, int], ...]:
        """Its special tokens: (name, id) each."""

    @property
    def target(self) -> Reader:
        """How what is written becomes tokens: as what is read does, but where a decoder has its own vocabulary."""

    @property
    def end_ids(self) -> Sequence[int]:
        """The tokens that end a text for this backbone; () where it has none."""

    @property
    def described(self) -> str:
        """Its tokenizer as tokenizer.json has it."""

    @property
    def token_texts(self) -> tuple[str, ...]:
        """What each token writes behind a letter, by its id, casefolded; special ones write nothing."""

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name, such as "[MASK]"; None where the vocabulary has none of it."""

    def ids(self, text: str, has_special: bool = False) -> list[int]:
        """The tokens of a text, none added. has_special: whether the names of special tokens mean these tokens."""

    def text(self, ids: Sequence[int]) -> str:
        """The text that tokens stand for, special ones left out."""

    def read(self, text: str, text_pair: str | None = None) -> tuple[dict[str, list[int]], int]:
        """(inputs of one window, n_cut_tokens) of one text, or of a pair."""

    def read_all(self, texts: Sequence[str]) -> list[tuple[dict[str, list[int]], int]]:
        """`read` of each single text."""

    def read_windows(self, text: str, before: str | None = None, overlap: int = 0) -> list[Piece]:
        """All of `text` as windows that overlap by `overlap` tokens, each behind `before` if there is one."""
