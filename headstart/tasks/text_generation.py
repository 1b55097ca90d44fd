"""text-generation: a text that goes on from another, and may have to keep to a length, to keywords, to a form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..core.task import Columns
from ..core.values import Row
from .writing import columns
from .writing.measures import ControlSuccess, Length, Likelihood, Measure, Repetition
from .writing.pairs import Pair
from .writing.rouge import Rouge
from .writing.task import WritingTask


@dataclass(frozen=True)
class TextGeneration(WritingTask):
    """A completion of a prompt.

    metric: what the verdict is of; control_success: the share of texts that meet all that their row's `control` asks.
    """

    name: ClassVar = "text-generation"
    source: ClassVar = "prompt"
    target: ClassVar = "completion"
    options: ClassVar[tuple[str, ...]] = (*WritingTask.options, "metric")
    examples: ClassVar = (
        {"prompt": "Name a color of the sky.", "completion": "Blue, and gray when it rains."},
        {"prompt": "Name an animal that flies.", "completion": "A bird does."},
        {"prompt": "Say how the day was.", "completion": "It was long but good.", "control": {"max_words": 8}},
    )

    metric: Literal["rouge_1", "rouge_2", "rouge_l", "control_success"] = "rouge_l"

    @property
    def columns(self) -> Columns:
        return columns.text_generation()

    def normalized(self, row: Row) -> tuple[Row, str]:
        return columns.normal_completion(row), ""

    def check(self, row: Row) -> str | None:
        return columns.flaw_of_completion(row)

    def pair(self, row: Row) -> Pair:
        return columns.pair_of(row, "prompt", "completion")

    @property
    def measures(self) -> tuple[Measure, ...]:
        both: tuple[Measure, Measure] = (Rouge(self.tokenizer), ControlSuccess())
        return (*(both[::-1] if self.metric == "control_success" else both), Length(), Repetition(), Likelihood())
