"""text-generation: a text that goes on from another, and may have to keep to a label, a length, keywords, a form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from ..core.errors import nearest, shorten
from ..core.reader import Reader
from ..core.task import Columns
from ..core.values import Constraint, Prediction, Row
from .writing import columns
from .writing.constraints import beginning, constraint
from .writing.control import Control
from .writing.grammars import flaw_of_form, form
from .writing.measures import ControlSuccess, LabelSuccess, Length, Likelihood, Measure, Repetition, shares
from .writing.pairs import Pair
from .writing.rouge import Rouge
from .writing.task import WritingTask
from .writing.template import CONTROLLED, CONTROLLED_IN_CHAT, Kind, Template

WITHOUT_CONTROL = "without-control"


@dataclass(frozen=True)
class TextGeneration(WritingTask):
    """A completion of a prompt.

    Where train rows have a `control`, the prompt says it in words; a template of one's own shows it as {control}.

    constrained:  whether a row's `control` holds by force: no token is written that breaks it. No label can be held to
                  so: it is in the prompt, and `decoding.candidates` takes the text that has it.
    metric:       what the verdict is of; control_success: the share of texts that meet all that their row's `control`
                  asks, label_success: of those that have the label it asks for.
    judge:        a fitted text-classification that tells whether a text has the label that `control` asks for.
    has_control:  whether a train row has a `control`.
    judge_labels: what the judge can tell.  judge_sha256: of its manifest.
    """

    name: ClassVar = "text-generation"
    source: ClassVar = "prompt"
    target: ClassVar = "completion"
    options: ClassVar[tuple[str, ...]] = (*WritingTask.options, "constrained", "metric", "judge")
    baseline_titles: ClassVar = {**WritingTask.baseline_titles, WITHOUT_CONTROL: "the same model without control"}
    examples: ClassVar = (
        {"prompt": "Name a color of the sky.", "completion": "Blue, and gray when it rains."},
        {"prompt": "Name an animal that flies.", "completion": "A bird does."},
        {"prompt": "Say how the day was.", "completion": "It was long but good.", "control": {"max_words": 8}},
    )

    constrained: bool = True
    metric: Literal["rouge_1", "rouge_2", "rouge_l", "control_success", "label_success"] = "rouge_l"
    judge: str = ""
    has_control: bool = False
    judge_labels: tuple[str, ...] = ()
    judge_sha256: str = ""

    def __post_init__(self) -> None:
        if self.metric == "label_success" and not self.judge:
            raise ValueError("should name who tells the labels: judge: FOLDER, of a fitted text-classification")

    @property
    def columns(self) -> Columns:
        return columns.text_generation()

    def normalized(self, row: Row) -> tuple[Row, str]:
        return columns.normal_completion(row), ""

    def check(self, row: Row) -> str | None:
        if flaw := columns.flaw_of_completion(row) or self.flaw_of_beginning(row):
            return flaw
        control = self.control(row)
        flaw = (flaw_of_form(control) if self.constrained else None) or self._flaw_of_label(control.label)
        return f'"control" {flaw}' if flaw else None

    def _flaw_of_label(self, label: str | None) -> str | None:
        if label is None:
            return None
        if not self.judge:
            return (f"asks for the label {shorten(label)}; nothing tells which text has it: name a fitted "
                    "text-classification, --set task.judge=FOLDER")
        if self.judge_labels and label not in self.judge_labels:
            return f"asks for the label {shorten(label)}, unknown to {self.judge}; {nearest(label, self.judge_labels)}"
        return None

    def control(self, row: Row) -> Control:
        """What a sound row asks of its text."""
        control = Control.of(row.get("control"))
        return control if isinstance(control, Control) else Control()

    def pair(self, row: Row) -> Pair:
        return columns.pair_of(row, "prompt", "completion")

    # ----------------------------------------------------------------------------------------------------- prompts

    def learn(self, rows: Sequence[Row]) -> Self:
        has_control = any(not self.control(row).is_empty for row in rows)
        return WritingTask.learn(replace(self, has_control=has_control), rows)

    def own_template(self, kind: Kind) -> Template:
        if self.has_control:
            return Template.parse(CONTROLLED_IN_CHAT if kind == "chat" else CONTROLLED)
        return super().own_template(kind)

    def pieces(self, row: Row) -> list[tuple[str, str]]:
        control = self.control(row)
        if control.is_empty:
            return self.template_read.without("control").pieces(row)
        return self.template_read.pieces({**row, "control": control.in_words()})

    def ablated(self, rows: Sequence[Row]) -> Mapping[str, list[Row]]:
        without = [{column: value for column, value in row.items() if column != "control"} for row in rows]
        return {WITHOUT_CONTROL: without} if any(not self.control(row).is_empty for row in rows) else {}

    # ---------------------------------------------------------------------------------------------- what must hold

    def prefix(self, row: Row) -> str:
        return (self.control(row).prefix if self.constrained else None) or super().prefix(row)

    def flaw_of_prefix(self, row: Row, reader: Reader) -> str | None:
        ids, flaw = self.prefix_ids(row, reader), super().flaw_of_prefix(row, reader)
        of_form = form(self.control(row), reader, self.ends(reader)) if ids and self.constrained else None
        if flaw or of_form is None:
            return flaw
        is_allowed = all(of_form(ids[:n])[i] for n, i in enumerate(ids))
        return None if is_allowed else "its pattern or json_schema does not allow"

    def constraint(self, row: Row, reader: Reader) -> Constraint | None:
        control, ends = self.control(row), self.ends(reader)
        behind = constraint(control, reader, ends, self.decoding.max_new_tokens) if self.constrained else None
        return beginning(self.prefix_ids(row, reader), reader, behind)

    @property
    def judged_by(self) -> tuple[str, str]:
        return self.judge, self.judge_sha256

    def judged(self, labels: Sequence[str], sha256: str) -> Self:
        return replace(self, judge_labels=tuple(labels), judge_sha256=sha256)

    def label_asked(self, row: Row) -> str:
        return self.control(row).label or ""

    def n_unmet(self, row: Row, prediction: Prediction) -> int:
        return len(self.control(row).unmet(prediction["text"], prediction.get("label", "")))

    # ------------------------------------------------------------------------------------------------------ scores

    @property
    def measures(self) -> tuple[Measure, ...]:
        of_label = (LabelSuccess(self.judge, self.judge_sha256),) if self.judge else ()
        all_of: tuple[Measure, ...] = (Rouge(self.tokenizer), ControlSuccess(), *of_label)
        first = {"control_success": 1, "label_success": 2}.get(self.metric, 0)
        return (all_of[first], *all_of[:first], *all_of[first + 1 :], Length(), Repetition(), Likelihood())

    def details(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
        written = list(self._written(predictions, rows))
        named = [measure for measure in self.measures if isinstance(measure, ControlSuccess | LabelSuccess)]
        return {**super().details(predictions, rows), "shares": shares(named, written)}
