"""summarization: a short text for a long one, measured by ROUGE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..core.task import Columns
from ..core.values import Row
from .writing import columns
from .writing.measures import Copied, Length, Likelihood, Measure, Repetition
from .writing.pairs import Pair
from .writing.rouge import Rouge
from .writing.task import WritingTask


@dataclass(frozen=True)
class Summarization(WritingTask):
    """A summary of a document.

    metric: what the verdict is of; the mean over rows of the best F-measure among a row's summaries.
    """

    name: ClassVar = "summarization"
    source: ClassVar = "document"
    target: ClassVar = "summary"
    options: ClassVar[tuple[str, ...]] = (*WritingTask.options, "metric")
    examples: ClassVar = (
        {"document": "It rained all night. The river rose, and the old bridge was closed in the morning.",
         "summary": "The bridge was closed after a night of rain."},
        {"document": "The shop sells bread and cake. On Monday it stays closed, for the oven is mended.",
         "summary": "The shop is closed on Monday."},
        {"document": "Two teams met in the final. After ninety minutes nobody had scored.",
         "summary": "The final ended without a goal.", "title": "A quiet final"},
    )

    metric: Literal["rouge_1", "rouge_2", "rouge_l"] = "rouge_l"

    @property
    def columns(self) -> Columns:
        return columns.summarization()

    def normalized(self, row: Row) -> tuple[Row, str]:
        return columns.normal_summary(row), ""

    def check(self, row: Row) -> str | None:
        return columns.flaw_of_summary(row) or self.flaw_of_beginning(row)

    def pair(self, row: Row) -> Pair:
        return columns.pair_of(row, "document", "summary", "summaries", "title")

    @property
    def measures(self) -> tuple[Measure, ...]:
        return Rouge(self.tokenizer), Length(), Copied(), Repetition(), Likelihood()
