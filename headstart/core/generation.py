"""How a text is written, as data: it stands in a Spec, in an artifact and in what an artifact answers with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from .errors import shorten


@dataclass(frozen=True)
class Generation:
    """How a task's answer is written, token by token: a Spec's `task.decoding`.

    max_new_tokens:  where writing stops at the latest.
    beams:           sequences that are followed side by side; 1 takes the best next token.
    temperature:     0 takes the most likely token; the higher, the more evenly tokens are drawn.
    top_p:           tokens are drawn from the fewest that have this share of the probability; 1: from all.
    min_p:           tokens are drawn from those with at least this share of the likeliest one's probability.
    length_penalty:  beams are compared by their log-probability over their length to this power: 0 likes short texts.
    no_repeat_ngram: no run of so many tokens is written twice; 0 lets all be.
    stop:            texts before which writing ends.
    prefix:          what every text begins with: it is written by force, and is part of the answer.
    candidates:      texts that are drawn for a row. The one that meets most of what its row asks for is kept; of
                     equals the likeliest, by log-probability over length to the power of length_penalty.
    seed:            what tokens are drawn by; the same prompt and seed give the same text, whatever stands beside it.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)] = 128
    beams: Annotated[int, Field(ge=1, le=64)] = 1
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    length_penalty: Annotated[float, Field(ge=-10, le=10)] = 1.0
    no_repeat_ngram: Annotated[int, Field(ge=0, le=100)] = 0
    stop: tuple[Annotated[str, Field(min_length=1, max_length=1_000)], ...] = ()
    prefix: Annotated[str, Field(max_length=1_000)] = ""
    candidates: Annotated[int, Field(ge=1, le=64)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @property
    def n_at_once(self) -> int:
        """Texts that are followed side by side for a row."""
        return max(self.beams, self.candidates)

    def __post_init__(self) -> None:
        if self.candidates > 1 and not self.temperature:
            raise ValueError("should draw its candidates: they differ by a temperature alone, such as 0.8")
        if flaw := flaw_of_prefix(self.prefix, self.stop):
            raise ValueError(f"has a prefix that {flaw}")
        if self.beams > 1 and self.temperature:
            raise ValueError("should follow beams or draw tokens, not both: beams: 1 or temperature: 0")


def flaw_of_prefix(prefix: str, stop: Sequence[str] = ()) -> str | None:
    """Why no text may begin with `prefix`, in words that follow "that"; None where one may. stop: what ends a text."""
    if prefix != prefix.strip():
        return "begins or ends in a blank: a text's first word brings its own"
    ends = [text for text in stop if text in prefix]
    return f"holds {shorten(ends[0])}, which ends a text" if ends else None
