"""What a run proved, typed: scores.json in memory. Every number of a comparison carries its n, seed and interval.

    scores = Scores.from_json(json.loads(text))      scores.fitted.value, scores.gains["tf-idf"].interval

A file that an older version wrote may lack parts: they are empty here. Keys that nobody here knows are passed over, but
for those of `details`, which a task may add to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .errors import ArtifactError, shorten
from .untrusted import instance

FORMAT = 1

Interval = tuple[float, float]  # low, high


@dataclass(frozen=True)
class Score:
    """One system on the test rows: `value` of the task's metric, and of all its `metrics`."""

    value: float
    interval: Interval | None
    n: int
    seed: int | None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Without n and seed: those of a file hold for all its scores."""
        return {"score": self.value, "interval": self.interval and list(self.interval), "scores": self.metrics}


@dataclass(frozen=True)
class Gain:
    """The fitted model minus a baseline, paired on the same rows. p: that it is luck; older files have none."""

    difference: float
    interval: Interval
    n: int
    seed: int | None
    p: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Without n and seed: those of a file hold for all its gains."""
        p = {} if self.p is None else {"p": self.p}
        return {"difference": self.difference, "interval": list(self.interval), **p}


@dataclass(frozen=True)
class Evaluation:
    """The scores on validation after `step` optimizer steps."""

    step: int
    scores: Mapping[str, float | None]
    epoch: float | None = None
    is_best: bool = False


@dataclass(frozen=True)
class Kept:
    """Which weights were kept, in words, the validation score that they have, and why they, where a rule decided."""

    what: str
    score: float
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `Scores.to_json` writes it."""
        return {"what": self.what, "score": self.score, **({"why": self.why} if self.why else {})}


@dataclass(frozen=True)
class LabelScore:
    """One label; n is of its gold."""

    label: str
    n: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Mistake:
    """A wrong answer; what is None the task does not know."""

    text: str
    label: str
    predicted: str
    confidence: float | None = None
    rank: int | None = None


@dataclass(frozen=True)
class Example:
    """A text that was written, beside its source and reference. place: worst, median or best, by its score.

    before: what the model wrote before training; "" where nobody asked it.
    """

    place: str
    source: str
    reference: str
    written: str
    before: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Groups:
    """Scores of rows that share something: each of `rows` has a label, n, and metrics by name."""

    by: str
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Scatter:
    """Gold and predicted numbers of the same rows."""

    gold: Sequence[float]
    predicted: Sequence[float]


@dataclass(frozen=True)
class Details:
    """What a task shows beside the score; `other` holds what no report knows.

    confused_pairs: (gold label's number, predicted label's, how many), only those that occur, the worst first.
    confusion:      the same as a matrix, as older versions wrote it.
    """

    labels: Sequence[str] = ()
    counted: str = "rows"
    confused_pairs: Sequence[tuple[int, int, int]] = ()
    confusion: Sequence[Sequence[int]] = ()
    per_label: Sequence[LabelScore] = ()
    n_out_of_reach: int = 0
    groups: Groups | None = None
    scatter: Scatter | None = None
    mistakes: Sequence[Mistake] = ()
    examples: Sequence[Example] = ()
    other: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(0 <= k < len(self.labels) for pair in self.pairs for k in pair[:2]):
            raise ValueError("should name only labels that there are, by their numbers")

    @property
    def pairs(self) -> Sequence[tuple[int, int, int]]:
        """`confused_pairs`, from the matrix where a file has that."""
        return self.confused_pairs or sorted(
            ((g, p, n) for g, row in enumerate(self.confusion) for p, n in enumerate(row) if n),
            key=lambda pair: (pair[0] == pair[1], -pair[2]))

    @classmethod
    def from_json(cls, details: Mapping[str, Any]) -> Details:
        """What `Task.details` returns."""
        return instance(cls, _details(details), "details", ArtifactError)

    def to_json(self) -> dict[str, Any]:
        """Only what there is: tasks differ in what they show."""
        values = {name: value for name, value in asdict(self).items() if value and name != "other"}
        if self.counted == "rows":
            del values["counted"]
        mistakes = [{k: v for k, v in mistake.items() if v is not None} for mistake in values.get("mistakes", ())]
        return {**values, "mistakes": mistakes, **self.other}


@dataclass(frozen=True)
class Cut:
    """How many rows of a split were longer than the model reads, and how much of all tokens they lost."""

    n_rows: int
    n_cut: int
    cut_tokens_share: float | None = None


@dataclass(frozen=True)
class Truncation:
    """What was cut, and the test score of rows that were and that were not; None where there are none."""

    max_tokens: int
    train: Cut | None = None
    test: Cut | None = None
    n_cut: int | None = None
    score_cut: float | None = None
    n_whole: int | None = None
    score_whole: float | None = None


@dataclass(frozen=True)
class UnknownTokens:
    """Tokens of the rows of one script, and how many of them the backbone's vocabulary has no entry for."""

    script: str
    n_rows: int
    n_tokens: int
    n_unknown: int

    @property
    def share(self) -> float:
        """Of all tokens; 0 where there are none."""
        return self.n_unknown / max(1, self.n_tokens)

    def to_json(self) -> dict[str, Any]:
        """With the share, for those who read the file."""
        return {**asdict(self), "share": self.share}


@dataclass(frozen=True)
class Teaching:
    """What a teacher is worth to the fitted student, on the same test rows.

    systems: "teacher", and the same student as learned from a part of what there was in as many steps, by name.
    gains:   the fitted student minus each of them, paired.  kept_share: of the teacher's score.
    rows_per_s, bytes: that each answers, of the same rows on this machine, None if it is gone; of its weights.
    """

    teachers: Sequence[str]
    systems: Mapping[str, Score]
    gains: Mapping[str, Gain]
    kept_share: float
    n_unlabeled: int
    teacher_rows_per_s: float | None
    student_rows_per_s: float
    teacher_bytes: int
    student_bytes: int

    def to_json(self) -> dict[str, Any]:
        """As `Scores.to_json` writes it."""
        return {**{part.name: getattr(self, part.name) for part in fields(self)}, "teachers": list(self.teachers),
                "systems": {name: score.to_json() for name, score in self.systems.items()},
                "gains": {name: gain.to_json() for name, gain in self.gains.items()}}


@dataclass(frozen=True)
class DataCounts:
    """Where the rows came from, how many there are, and what was counted on the way.

    n_validation, n_test: rows held out; 0 where all of train were tested by cross-validation.
    validation_sha256: of the validation rows in their order, by which an export knows them again; "" in older runs.
    test_sha256:       the same of the test rows, for ensembles.
    """

    source: str | None = None
    notes: Mapping[str, int] = field(default_factory=dict)
    n_train: int | None = None
    n_validation: int | None = None
    n_test: int | None = None
    languages: Sequence[str] = ()
    validation_sha256: str = ""
    test_sha256: str = ""


@dataclass(frozen=True)
class Cost:
    """What a run took; None where it was not measured. A unit ends each name; peak_rss_mb is memory."""

    train_seconds: float | None = None
    evaluate_seconds: float | None = None
    n_steps: int | None = None
    train_tokens_per_s: float | None = None
    peak_rss_mb: float | None = None
    n_weights: int | None = None
    n_trainable: int | None = None
    padding_share: float | None = None
    model_seconds: float | None = None
    total_seconds: float | None = None
    artifact_bytes: int | None = None


@dataclass(frozen=True)
class MemberScore:
    """A model of an ensemble. weight: of its answers, or in the mean of weights; None where no number says it.

    validation: its score alone, by which the best one was chosen. test: its score alone on the test rows.
    """

    name: str
    backbone: str
    method: str
    weight: float | None
    validation: float
    test: float
    is_best: bool = False


@dataclass(frozen=True)
class Downstream:
    """What labeled rows gain from a backbone that read on: two fits on the same rows. kind: probe, or proof."""

    kind: str
    source: str
    metric: str
    method: str
    before: Score
    after: Score
    gain: Gain


@dataclass(frozen=True)
class Scores:
    """The certificate of a run: the fitted model and all it must beat on the same test rows, and how it came about.

    unseen:      the fitted model on the test rows that have no twin in train, where some have one.
    n_folds:     0 where the test rows were held out; else they are all rows, each answered by what was learned without
                 its own fold of so many (cross-validation), and what is shipped learned from all of them.
    outcomes_of: the systems whose outcomes stand side by side in outcomes.npy; () in older runs: the fitted model's.
    unknown_tokens: of the rows of all splits, by their script; () in older runs: not counted.
    members:     of an ensemble or a soup: what it was made of; () where one training made the model.
    is_one_model: False where the members answer side by side.
    downstream:  of a backbone that read on.
    teaching:    what the teacher was worth, where there was one.
    """

    metric: str
    fitted: Score
    baselines: Mapping[str, Score] = field(default_factory=dict)
    gains: Mapping[str, Gain] = field(default_factory=dict)
    verdict: str = ""
    verdict_kind: str = ""
    unseen: Score | None = None
    n_folds: int = 0
    outcomes_of: Sequence[str] = ()
    unknown_tokens: Sequence[UnknownTokens] = ()
    members: Sequence[MemberScore] = ()
    is_one_model: bool = True
    downstream: Sequence[Downstream] = ()
    teaching: Teaching | None = None
    task: str | None = None
    backbone: str | None = None
    base_model: str | None = None
    method: str | None = None
    head: Mapping[str, Any] = field(default_factory=dict)
    details: Details = field(default_factory=Details)
    truncation: Truncation | None = None
    curve: Sequence[Evaluation] = ()
    kept: Kept | None = None
    data: DataCounts = field(default_factory=DataCounts)
    cost: Cost = field(default_factory=Cost)
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    spec_sha256: str | None = None
    backbone_sha256: str | None = None
    created: str | None = None

    @property
    def test_rows(self) -> str:
        """How many rows the certificate is of, and how they were tested, in words."""
        return tested_rows(self.fitted.n, self.n_folds)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str = "scores.json") -> Scores:
        """Read what `to_json` gave, now or in an older version.

        where: the file, for messages.
        Raises  ArtifactError without metric, score or n_test, and for a format that is newer than this version.
        """
        missing = [key for key in ("metric", "score", "n_test") if key not in values]
        if missing or values.get("format", FORMAT) != FORMAT:
            what = (f"has no {', '.join(missing)}; a certificate has" if missing
                    else f"has format {shorten(values['format'])}; this version reads {FORMAT}")
            raise ArtifactError(where, f"{what}.", "Use the version of headstart that wrote it, or fit again.")
        try:
            parts = _parts(values)
        except (AttributeError, KeyError, TypeError):
            raise ArtifactError(where, "is no certificate: its scores and gains are not as headstart writes them.",
                                "Copy the folder again, or fit again.") from None
        return instance(cls, {**values, **parts}, where, ArtifactError)

    def to_json(self) -> dict[str, Any]:
        """The values of scores.json."""
        return {
            "format": FORMAT, "task": self.task, "backbone": self.backbone, "method": self.method,
            "base_model": self.base_model, "head": self.head, "seed": self.fitted.seed, "metric": self.metric,
            **self.fitted.to_json(), "n_test": self.fitted.n,
            "baselines": {name: score.to_json() for name, score in self.baselines.items()},
            "gain_over": {name: gain.to_json() for name, gain in self.gains.items()},
            "verdict": self.verdict, "verdict_kind": self.verdict_kind, **self._newer(),
            "details": self.details.to_json(),
            "truncation": asdict(self.truncation) if self.truncation else None,
            "curve": [asdict(evaluation) for evaluation in self.curve],
            "kept": self.kept.to_json() if self.kept else {},
            "data": {name: value for name, value in asdict(self.data).items() if value != ""},
            "cost": asdict(self.cost),
            "machine": self.machine, "versions": self.versions, "spec_sha256": self.spec_sha256,
            "backbone_sha256": self.backbone_sha256, "created": self.created,
        }

    def _newer(self) -> dict[str, Any]:
        """What older files do not have: written only where it is."""
        return {**({"unseen": {**self.unseen.to_json(), "n": self.unseen.n}} if self.unseen else {}),
                **({"n_folds": self.n_folds} if self.n_folds else {}),
                **({"outcomes_of": list(self.outcomes_of)} if self.outcomes_of else {}),
                **({"teaching": self.teaching.to_json()} if self.teaching else {}),
                **({"unknown_tokens": [n.to_json() for n in self.unknown_tokens]} if self.unknown_tokens else {}),
                **({"members": [asdict(member) for member in self.members],
                    "is_one_model": self.is_one_model} if self.members else {}),
                **({"downstream": [asdict(one) for one in self.downstream]} if self.downstream else {})}


def tested_rows(n: int, n_folds: int) -> str:
    """As `Scores.test_rows`."""
    return f"{n:,} rows in {n_folds}-fold cross-validation" if n_folds else f"{n:,} held-out test rows"


def _parts(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Scores that scores.json has in another shape: n and seed stand there once."""
    shared = {"n": values["n_test"], "seed": values.get("seed")}
    return {"fitted": score_fields(values, shared),
            "baselines": {name: score_fields(entry, shared) for name, entry in values.get("baselines", {}).items()},
            "gains": {name: {**entry, **shared} for name, entry in values.get("gain_over", {}).items()},
            "unseen": score_fields(unseen, {**shared, "n": unseen["n"]}) if (unseen := values.get("unseen")) else None,
            "teaching": {**teaching, "systems": {
                name: score_fields(entry, shared) for name, entry in teaching["systems"].items()}, "gains": {
                name: {**entry, **shared} for name, entry in teaching["gains"].items()}}
            if (teaching := values.get("teaching")) else None,
            "details": _details(values.get("details", {})),
            "truncation": values.get("truncation") or None, "kept": values.get("kept") or None}


def score_fields(entry: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Score as `to_json` writes them. shared: n and seed, which hold for all scores of a file."""
    return {"value": entry["score"], "interval": entry.get("interval") or None, "metrics": entry.get("scores", {}),
            **shared}


def _details(values: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(Details)}
    return {**values, "groups": values.get("groups") or None, "scatter": values.get("scatter") or None,
            "other": {key: value for key, value in values.items() if key not in known}}
