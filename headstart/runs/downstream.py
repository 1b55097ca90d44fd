"""What a backbone is worth for labeled rows, before and after it read on: two fits, the same rows, paired."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .. import tasks
from ..core import statistics
from ..core.files import scratch_errors
from ..core.progress import Progress
from ..core.scores import Downstream, Gain
from ..core.statistics import Difference
from ..data import splits
from ..data.table import read_splits
from . import resolve
from .fit import fit

PROBE = {"method": {"name": "linear-probe"}}


def measure(kind: str, source: str, before: str, after: Path, progress: Progress) -> Downstream:
    """Fit `source`, a Spec or a labeled file, from both backbones, and compare them on the same test rows.

    kind: "probe", with a linear probe: what frozen features say; or "proof", with the Spec's own method.
    Cost  two fits.
    """
    runs = []
    with scratch_errors(), tempfile.TemporaryDirectory() as name:
        for which, backbone in (("before", before), ("after", str(after))):
            progress.say(f"{kind}: fitting {source} from the backbone {which} it read on")
            layers: list[resolve.Layer] = [("pretrain", {"backbone": backbone, "evaluate": {"baselines": False}}),
                      *([("pretrain", PROBE)] if kind == "probe" else [])]
            made = fit(source, out=Path(name) / which, progress=Progress(quiet=True), layers=layers)
            runs.append((made.task, made.certificate, made.outcomes()["fitted"]))
        spec = made.spec
    (task, old, outcomes_before), (_, new, outcomes_after) = runs
    paired = statistics.paired(task, [outcomes_after, outcomes_before], spec.evaluate.n_resamples, spec.seed,
                               new.n_folds)
    gain = paired.difference(0, 1)
    return Downstream(kind, source, new.metric, spec.method["name"], old.fitted, new.fitted,
                      Gain(gain.value, gain.interval, new.fitted.n, spec.seed, gain.p))


def difference(result: Downstream) -> Difference:
    """Its gain, to be judged."""
    gain = result.gain
    return Difference(gain.difference, gain.interval, 1.0 if gain.p is None else gain.p, 0.0)


def test_texts(source: str) -> list[str]:
    """All texts of the rows that `source`, a Spec or a labeled file, will be tested on.

    Raises HeadstartError for one that cannot be read or resolved: before anything is trained.
    """
    spec, _, _ = resolve.resolve([resolve.first_layer(source)])
    task = tasks.build(spec.task)
    table = splits.make(read_splits(spec.data, task), spec.data, task, spec.seed).test
    return [text for row in table.rows for text in task.text(row).split("\n")]
