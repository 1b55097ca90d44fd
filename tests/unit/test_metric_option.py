"""The metric that chooses and is proven, where a task has several."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from headstart import tasks
from headstart.core import statistics
from headstart.core.errors import SpecError


@pytest.mark.parametrize(("task", "rows"), [
    ("text-classification", [{"text": "a", "label": label} for label in "xxxxxxxxyz"]),
    ("multi-label-classification", [{"text": "a", "labels": [label]} for label in "xxxxxxxxyz"])])
def test_the_metric_is_an_option_and_the_rest_follows_it(task, rows):
    usual, macro = (tasks.build({"name": task, **options}).learn(rows) for options in ({}, {"metric": "macro_f1"}))
    logits_K = np.array([5.0, -5.0, -5.0])
    outcomes = usual.outcomes([usual.decode(row, [], [logits_K]) for row in rows], rows)
    assert usual.score(outcomes) == macro.score(outcomes)
    of_each = [statistics.paired(by, [outcomes], 200, 0).values_S[0] for by in (usual, macro)]
    assert of_each[0] != of_each[1] == macro.score(outcomes)["macro_f1"]
    assert tasks.restore(task, json.loads(json.dumps(asdict(macro))), "task.json") == macro  # type: ignore[call-overload]
    with pytest.raises(SpecError, match=r"task\.metric: \"f2\" is not allowed"):
        tasks.build({"name": task, "metric": "f2"})
