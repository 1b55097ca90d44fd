"""text-generation: a text that goes on from another, and may have to keep to a length, to keywords, to a form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..core.reader import Reader
from ..core.task import Columns
from ..core.values import Constraint, Row
from .writing import columns
from .writing.constraints import constraint
from .writing.control import Control
from .writing.grammars import flaw_of_form
from .writing.measures import ControlSuccess, Length, Likelihood, Measure, Repetition
from .writing.pairs import Pair
from .writing.rouge import Rouge
from .writing.task import WritingTask


@dataclass(frozen=True)
class TextGeneration(WritingTask):
    """A completion of a prompt.

    constrained: whether a row's `control` holds by force: no token is written that breaks it.
    metric: what the verdict is of; control_success: the share of texts that meet all that their row's `control` asks.
    """

    name: ClassVar = "text-generation"
    source: ClassVar = "prompt"
    target: ClassVar = "completion"
    options: ClassVar[tuple[str, ...]] = (*WritingTask.options, "constrained", "metric")
    examples: ClassVar = (
        {"prompt": "Name a color of the sky.", "completion": "Blue, and gray when it rains."},
        {"prompt": "Name an animal that flies.", "completion": "A bird does."},
        {"prompt": "Say how the day was.", "completion": "It was long but good.", "control": {"max_words": 8}},
    )

    constrained: bool = True
    metric: Literal["rouge_1", "rouge_2", "rouge_l", "control_success"] = "rouge_l"

    @property
    def columns(self) -> Columns:
        return columns.text_generation()

    def normalized(self, row: Row) -> tuple[Row, str]:
        return columns.normal_completion(row), ""

    def check(self, row: Row) -> str | None:
        if flaw := columns.flaw_of_completion(row):
            return flaw
        control = Control.of(row.get("control"))
        flaw = flaw_of_form(control) if self.constrained and isinstance(control, Control) else None
        return f'"control" {flaw}' if flaw else None

    def pair(self, row: Row) -> Pair:
        return columns.pair_of(row, "prompt", "completion")

    def constraint(self, row: Row, reader: Reader) -> Constraint | None:
        control = Control.of(row.get("control"))
        if not self.constrained or not isinstance(control, Control):
            return None
        return constraint(control, reader, self.ends(reader), self.decoding.max_new_tokens)

    @property
    def measures(self) -> tuple[Measure, ...]:
        both: tuple[Measure, Measure] = (Rouge(self.tokenizer), ControlSuccess())
        return (*(both[::-1] if self.metric == "control_success" else both), Length(), Repetition(), Likelihood())
