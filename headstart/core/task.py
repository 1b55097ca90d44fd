"""A task is one kind of question asked of text. It never trains, reads no file and sees no screen.

The life of a row:

    row --check--> row --encode--> windows --(model)--> logits --decode--> answer --outcomes--> array --score--> numbers

`aligned` turns logits and targets into scores_NK and gold_N, what ANY loss compares: padding is dropped there, and
label smoothing, class weights or distillation work for every task at once. Losses are (sum, count): gradients of sums
add up exactly over micro-batches, gradients of means do not.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from .errors import SpecError, shorten
from .generation import Generation
from .reader import ChatFormat, Reader
from .values import Batch, Constraint, LinearMap, MemberLogits, Prediction, Row, Window

if TYPE_CHECKING:
    import torch

Architecture = Literal["encoder", "encoder-decoder", "causal"]

N_MISTAKES_SHOWN = 12  # in a report
LARGEST = 1e9  # of a score: beyond it float32 has no digits left for what comes after


@dataclass(frozen=True)
class Columns:
    """What stands in a row.

    required:    column -> what it must hold, in words that follow "needs"; every file has these.
    optional:    the same for columns that a file may lack as a whole.
    gold:        those of both that hold the answer: absent when predicting.
    usual_names: column -> what files often call it.
    sparse:      those of optional that some rows may lack, and others have: absent means nothing.
    signatures:  column names that, all together, mean this task when none is named.
    """

    required: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)
    gold: tuple[str, ...] = ()
    usual_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    signatures: tuple[frozenset[str], ...] = ()
    sparse: tuple[str, ...] = ()

    @cached_property
    def rules(self) -> dict[str, str]:
        """Every column and what it must hold: the required ones, the optional ones, those of the answer last."""
        rules = {**self.required, **self.optional}
        return {column: rules[column] for column in sorted(rules, key=self.gold.__contains__)}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The columns that do not hold the answer."""
        return tuple(column for column in self.rules if column not in self.gold)

    @cached_property
    def required_inputs(self) -> tuple[str, ...]:
        """The columns that every row must have even when predicting; () where one of several will do."""
        return tuple(column for column in self.inputs if column in self.required)


@dataclass(frozen=True)
class Head:
    """What stands on top of the backbone, as data; models/heads.py builds it.

    kind:      pooled: one vector a window; tokens: every token; spans: two marked spans and the pooled text.
    n_outputs: K, the width of the logits; 0: as wide as the backbone, and the identity at first.
    native:    the class of transformers that has such a head (`head.pooling: native`), where a family has its own.
    """

    kind: Literal["pooled", "tokens", "spans", "language-model"]
    n_outputs: int
    native: str | None = None


class Task(abc.ABC):
    """One kind of question. Subclasses are frozen dataclasses; their fields are what `learn` chose, and `options`.

    What is the same for every instance may be a ClassVar: `columns`, `metric`.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()  # the fields that a Spec may set: task: {name: ..., stride: 64}
    architectures: ClassVar[tuple[Architecture, ...]] = ("encoder",)  # the backbones that can answer it
    keeps_rows_whole: ClassVar[bool] = False  # whether a row's windows must stand in one batch: the loss compares them
    gives_parts: ClassVar[bool] = False  # whether a row can be right in part: a score varies less than a share then
    compares_rows: ClassVar[bool] = False  # whether the loss compares a batch's rows: it cannot be summed in pieces
    needs_windows: ClassVar[bool] = True  # whether `decode` looks at windows and not only at their logits
    baseline_titles: ClassVar[Mapping[str, str]] = {}  # name -> its words in a verdict and a report
    examples: ClassVar[tuple[Row, ...]]  # rows that show the task; contract tests and docs run them

    @property
    @abc.abstractmethod
    def columns(self) -> Columns:
        """What stands in a row."""

    @property
    @abc.abstractmethod
    def metric(self) -> str:
        """The score that chooses checkpoints: 1 is perfect, larger is better."""

    @property
    def lowest_score(self) -> float:
        """The metric's least value: what an interval may not fall below."""
        return -1.0 if self.metric in ("spearman", "pearson") else 0.0

    @property
    @abc.abstractmethod
    def head(self) -> Head:
        """The weights on top of the backbone."""

    @property
    def n_outputs(self) -> int:
        """K, the width of the logits."""
        return self.head.n_outputs

    @property
    def generation(self) -> Generation | None:
        """How its answers are written; None: `decode` reads logits, and nothing is written."""
        return None

    @property
    def defaults(self) -> dict[str, Any]:
        """Spec fields that this task presets, such as {"train": {"lr": 2e-5}}; what the method presets goes before."""
        return {}

    @property
    def overrides(self) -> dict[str, Any]:
        """Spec fields that this task presets whatever the method presets."""
        return {}

    def check_backbone(self, architecture: Architecture, width: int) -> None:
        """Raise SpecError for a backbone that cannot answer this task. width: D, of its hidden states."""
        if architecture not in self.architectures:
            raise SpecError("backbone", f'is read as an {architecture}, and task "{self.name}" needs one of another '
                            f"kind: {', '.join(self.architectures)}.", "Use another task or another backbone.")

    def normalized(self, row: Row) -> tuple[Row, str]:
        """The row with its gold as it is meant, and the name of the count of such changes; "" where nothing changed.

        Called on every row of a file, before `check`: of any values.
        """
        return row, ""

    @abc.abstractmethod
    def check(self, row: Row) -> str | None:
        """What is wrong with one row, in words that follow the column's name; None when nothing is."""

    @abc.abstractmethod
    def learn(self, rows: Sequence[Row]) -> Self:
        """The task with what only the data tells (labels, ranges). Raises DataError when they cannot be."""

    def fitted_to(self, reader: Reader, chat_format: Callable[[], ChatFormat | None]) -> Self:
        """The task with what only the backbone tells. chat_format: how it was taught to hold a chat, if it was.

        Raises SpecError where both do not go together.
        """
        return self

    def check_read(self, rows: Sequence[Row], reader: Reader) -> list[tuple[int, str]]:
        """(index, complaint) for rows whose gold does not fit into what this reader reads."""
        return []

    def flaw_of_learned(self) -> str | None:
        """What cannot be together among the fields of a learned task, in words; None when nothing is.

        An artifact's task.json may say anything; the fields' own types and ranges were checked before.
        """
        return None

    def check_gold(self, rows: Sequence[Row]) -> list[tuple[int, str]]:
        """(index, complaint) for rows whose gold this learned task cannot mean, such as a label never seen."""
        return []

    def stratum(self, row: Row) -> str:
        """What splits keep in proportion; "": nothing."""
        return ""

    def labels_of(self, row: Row) -> list[str]:
        """The classes that a row's gold holds, one by one: what an audit counts."""
        return [stratum] if (stratum := self.stratum(row)) else []

    def text(self, row: Row) -> str:
        """All that the model reads of a row, as one string: duplicates and baselines look at it."""
        return "\n".join(str(row[column]) for column in self.columns.inputs if column in row)

    @abc.abstractmethod
    def encode(self, i: int, row: Row, reader: Reader) -> list[Window]:
        """Row number `i` as model inputs, with targets when its gold is there. No torch."""

    def corrupt(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """A batch as a training step reads it: with masks or noise where the task learns from them."""
        return batch

    @abc.abstractmethod
    def aligned(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and target of a batch as (scores_NK, gold_N), padding dropped."""

    def compared(self, logits: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
        """scores_NK of a batch that are held against a teacher's: a distribution each or, where K is 1, a number."""
        return self.aligned(logits, target)[0]

    def from_teacher(self, teacher: Self, logits: np.ndarray) -> np.ndarray:
        """Logits of a model of `teacher`, a learned task of this kind, in our order and scale. Raises SpecError."""
        return logits

    def placeholder(self, row: Row) -> Row:
        """An unlabeled row with some gold that fits it: its target has the shape of others', and no loss reads it."""
        raise NotImplementedError

    def loss(self, logits: torch.Tensor, target: dict[str, torch.Tensor], *, weights_K: torch.Tensor | None = None,
             label_smoothing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy as (sum, count); with class weights the count is the sum of the gold labels' weights."""
        from torch.nn.functional import cross_entropy

        scores_NK, gold_N = self.aligned(logits, target)
        summed = cross_entropy(scores_NK.float(), gold_N, weight=weights_K, label_smoothing=label_smoothing,
                               reduction="sum")
        count = gold_N.new_full((), len(gold_N)) if weights_K is None else weights_K[gold_N].sum()
        return summed, count

    def classes(self, target: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """gold_N of all windows' targets, in any order: what class weights count. None where there are no classes."""
        return None

    def similarity(self, target: dict[str, torch.Tensor]) -> torch.Tensor:
        """similarity_BB in [0, 1] of the answers of each two rows of a batch; methods that contrast rows use it."""
        raise NotImplementedError

    def solve(self, features_MD: np.ndarray, target: dict[str, np.ndarray], score: Callable[[LinearMap], float],
              class_weights: str) -> LinearMap:
        """The linear head that `score` likes best of those solved exactly on what flows into the last linear layer.

        features_MD: one line a window, or a token where the head reads tokens. target: the same windows' targets.
        A task without this has its head trained by gradient, by every method.
        """
        raise NotImplementedError

    def without_gold(self, row: Row) -> Row:
        """A row without its answer."""
        return {column: value for column, value in row.items() if column not in self.columns.gold}

    def made_up(self, row: Row) -> list[Row]:
        """Rows with the columns that a model reads of `row`, and not a word of it: from `examples`."""
        blind = self.without_gold(row)
        examples = [self.without_gold(example) for example in self.examples]
        nearest = max(len(blind.keys() & example.keys()) for example in examples)
        filled = {column: "another text" if isinstance(value, str) else ["another text"]
                  for column, value in blind.items() if isinstance(value, str | list)}
        return [{column: value for column, value in {**filled, **example}.items() if column in blind}
                for example in examples if len(blind.keys() & example.keys()) == nearest]

    @property
    def is_solvable(self) -> bool:
        """Whether this task has a `solve`."""
        return type(self).solve is not Task.solve

    @property
    def is_comparable(self) -> bool:
        """Whether this task has a `similarity`."""
        return type(self).similarity is not Task.similarity

    @abc.abstractmethod
    def decode(self, row: Row, windows: Sequence[Window], logits: Sequence[np.ndarray]) -> Prediction:
        """The answer to one row from the logits of its windows. numpy only: the server runs this very function."""

    def blend(self, row: Row, members: Sequence[MemberLogits], weights_M: np.ndarray) -> Prediction:
        """The mean of several models' answers to a row, by labels' names; as `decode` ends. weights_M: sum to one."""
        raise NotImplementedError

    @property
    def is_blendable(self) -> bool:
        """Whether answers of several models can be made one."""
        return type(self).blend is not Task.blend

    def written(self, row: Row, text: str, is_complete: bool) -> Prediction:
        """The answer that a text written for a row is. is_complete: whether it ended before max_new_tokens."""
        raise NotImplementedError

    def targets_of(self, row: Row) -> Sequence[str]:
        """The texts that may be written for a row; () of a task that does not write."""
        return ()

    def continued(self, prompt: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
        """The inputs of a window whose text goes on with `ids`, each of which is asked for; `prompt` is without."""
        raise NotImplementedError

    def ends(self, reader: Reader) -> frozenset[int]:
        """The tokens that end a text of this task."""
        return frozenset(reader.end_ids)

    def constraint(self, row: Row, reader: Reader) -> Constraint | None:
        """What a text written for a row must keep to, token by token; None: nothing."""
        return None

    @property
    def judged_by(self) -> tuple[str, str]:
        """(the artifact that tells whether a text is what its row asks for, the sha256 of its manifest where that is
        known); ("", "") where none is needed."""
        return "", ""

    def judged(self, labels: Sequence[str], sha256: str) -> Self:
        """The task with what its judge can tell, and which it is."""
        return self

    def label_asked(self, row: Row) -> str:
        """The label that a text written for a row shall have, as a judge tells it; "": any."""
        return ""

    def n_unmet(self, row: Row, prediction: Prediction) -> int:
        """How much of what a row asks for its answer does not keep to: of candidates, that with the least is taken."""
        return 0

    def ablated(self, rows: Sequence[Row]) -> Mapping[str, list[Row]]:
        """Rows without something that shall make answers better, by the name of a baseline: the fitted model must be
        better on the rows as they are. {}: nothing can be left out."""
        return {}

    @abc.abstractmethod
    def outcomes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> np.ndarray:
        """What scoring needs of each row, as numbers: outcomes_N or outcomes_NM, one line a row."""

    @abc.abstractmethod
    def score(self, outcomes: np.ndarray) -> dict[str, float]:
        """Scores of any multiset of rows: a bootstrap calls it on resamples, a slice on its rows."""

    def correct(self, outcomes: np.ndarray) -> np.ndarray | None:
        """is_right_N, where the metric is the share of rows answered right: its intervals and tests are exact. None
        where the metric is anything else."""
        return None

    def calibrate(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Self:
        """The task with what is best chosen on answers to validation rows, such as a threshold."""
        return self

    def apply_threshold(self, prediction: Prediction) -> Prediction:
        """An answer as it is after `calibrate`; `decode` ends with it."""
        return prediction

    def confidence(self, prediction: Prediction) -> float | None:
        """The probability that the model gives to its own answer, in [0, 1]; None where an answer has none."""
        return None

    def baselines(self, train: Sequence[Row], validation: Sequence[Row], test: Sequence[Row],
                  seed: int) -> Iterator[tuple[str, list[Prediction]]]:
        """(name, answers on `test`) of what a model must beat without any pretrained knowledge."""
        yield from ()

    def details(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
        """What the report shows beside the score: confusion, scores by label, worst mistakes. JSON values."""
        return {}

    def describe(self) -> dict[str, Any]:
        """The keys that config.json carries for this task."""
        return {}

    def extra_files(self, folder: Path, output: torch.nn.Linear, pooling: str, reader: Reader) -> None:
        """Write to an artifact's folder what lets another library load it; called where the weights stand there whole
        and the head is ours. output: its last linear layer."""
        return


def flaw_of_labels(labels: Sequence[str]) -> str | None:
    """What is wrong with the labels that a task learned, in words; None when nothing is."""
    if not labels or not all(label.strip() for label in labels):
        return f"labels are {shorten(list(labels))}; there must be some, and none empty"
    return "labels hold one twice" if len(set(labels)) < len(labels) else None


def flaw_of_text(column: str, value: Any) -> str | None:
    """What is wrong with a value that must be a string and not empty, in words that begin with its column."""
    if not isinstance(value, str):
        return f'"{column}" is {shorten(value)}, not a string'
    return None if value.strip() else f'"{column}" is empty'
