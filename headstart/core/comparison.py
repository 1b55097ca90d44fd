"""What a comparison of methods found, typed: compare.json, and the lines of cells.jsonl, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import RunFolderError
from .scores import Interval, Score, score_fields
from .untrusted import instance


@dataclass(frozen=True)
class Costs:
    """What a fit took, and what it leaves behind. latency_s: of one text. A unit ends a name; bytes are stored ones."""

    seconds: float
    bytes: float
    latency_s: float
    peak_rss_mb: float
    n_trainable: float

    @property
    def budgets(self) -> dict[str, float]:
        """Those that methods are chosen by, by name."""
        return {"seconds": self.seconds, "bytes": self.bytes, "latency_s": self.latency_s}


@dataclass(frozen=True)
class CellResult:
    """What one fit of a comparison is worth; `score` has the seed of the fit, `baselines` may be empty."""

    name: str
    method: str
    rows: int
    metric: str
    score: Score
    baselines: Mapping[str, Score]
    costs: Costs
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    outcomes_sha256: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> CellResult:
        """A line of cells.jsonl. Raises RunFolderError for one that is not as `to_json` writes it."""
        try:
            shared = {"n": values["n_test"], "seed": values["seed"]}
            parts = {"score": score_fields(values, shared), "costs": values,
                     "baselines": {name: score_fields(entry, shared) for name, entry in values["baselines"].items()}}
        except (AttributeError, KeyError, TypeError):
            raise RunFolderError(where, "is no result of a comparison.", "Start anew: --overwrite") from None
        return instance(cls, {**values, **parts}, where, RunFolderError)

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        score = self.score
        return {"name": self.name, "method": self.method, "rows": self.rows, "seed": score.seed, "metric": self.metric,
                "score": score.value, "interval": score.interval and list(score.interval), "n_test": score.n,
                "baselines": {name: baseline.to_json() for name, baseline in self.baselines.items()},
                **asdict(self.costs), "machine": self.machine, "versions": self.versions,
                "outcomes_sha256": self.outcomes_sha256}


@dataclass(frozen=True)
class System:
    """A method over all seeds: the mean of its scores, the medians of its costs.

    deviation: of the seeds' scores; None of one seed.
    fronts:    for each budget, whether no other method is both cheaper and better.
    """

    method: str
    score: float
    interval: Interval
    scores: Sequence[float]
    deviation: float | None
    costs: Costs
    fronts: Mapping[str, bool]

    def to_json(self) -> dict[str, Any]:
        """With the costs among the other values."""
        values = {part.name: getattr(self, part.name) for part in fields(self) if part.name not in ("costs", "fronts")}
        return {**values, "interval": list(self.interval), **asdict(self.costs), "fronts": self.fronts}


@dataclass(frozen=True)
class Pair:
    """Two methods, tested on the same resamples; p_holm: after Holm's correction for many comparisons."""

    better: str
    worse: str
    difference: float
    interval: Interval
    p: float
    p_holm: float


@dataclass(frozen=True)
class Size:
    """All methods with one number of train rows."""

    rows: int
    systems: Sequence[System]
    baselines: Mapping[str, Score]
    pairs: Sequence[Pair]

    def to_json(self) -> dict[str, Any]:
        """One of the sizes of compare.json."""
        return {"rows": self.rows, "systems": [system.to_json() for system in self.systems],
                "baselines": {name: score.to_json() for name, score in self.baselines.items()},
                "pairs": [{**asdict(pair), "interval": list(pair.interval)} for pair in self.pairs]}


@dataclass(frozen=True)
class Comparison:
    """Several methods on the same test rows, with each number of train rows."""

    metric: str
    n_test: int
    seeds: Sequence[int]
    backbone: str
    task: str
    data: str
    sizes: Sequence[Size]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The values of compare.json."""
        return {**{part.name: getattr(self, part.name) for part in fields(self)},
                "sizes": [size.to_json() for size in self.sizes]}


@dataclass(frozen=True)
class Student:
    """A smaller model beside the one it learned from, on the same test rows.

    difference:   of its score to the teacher's, paired.  times_faster: None where the teacher could not be timed.
    is_proven:    whether the whole 95 % interval of its loss lies below what was asked.
    """

    keep_blocks: tuple[int, ...]
    score: float
    interval: Interval
    teacher: float
    difference: float
    interval_of_difference: Interval
    n_test: int
    times_faster: float | None
    bytes_share: float
    is_proven: bool


@dataclass(frozen=True)
class Shrinking:
    """Students of one run, the largest first. max_loss: points of the metric. exported: the folder of the smallest."""

    run: str
    task: str
    metric: str
    n_blocks: int
    max_loss: float
    students: Sequence[Student]
    n_test: int
    seed: int
    exported: str | None

    @property
    def chosen(self) -> Student | None:
        """The smallest that is proven."""
        return next((student for student in reversed(self.students) if student.is_proven), None)

    def to_json(self) -> dict[str, Any]:
        """The values of shrink.json."""
        return {**asdict(self), "chosen": asdict(self.chosen) if self.chosen else None}
