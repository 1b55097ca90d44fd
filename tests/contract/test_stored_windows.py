"""Validation and test are answered from the windows that were stored: the same answers as from rows encoded anew."""

import numpy as np
import pytest
import tiny

from headstart import tasks
from headstart.core.predict import decode
from headstart.core.windows import store
from headstart.models import backbone as backbones


@pytest.mark.parametrize("name", tiny.ANSWERING)
def test_stored_windows_give_the_answers_of_fresh_ones(name, backbone, tmp_path):
    kind = tasks.find(name)
    task = kind().learn(list(kind.examples))
    reader = backbones.load_backbone(str(backbone), 24).reader
    rows = [task.without_gold(row) for row in kind.examples]
    fresh = [window for i, row in enumerate(rows) for window in task.encode(i, row, reader)]
    stored = store(fresh, tmp_path, reader.pad_id, with_notes=task.needs_windows)
    assert len(stored) == len(fresh) >= len(rows) > 0
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=_shape(task, window)).astype(np.float32) for window in fresh]
    assert list(decode(task, rows, stored, logits)) == list(decode(task, rows, fresh, logits))
    half = len(rows) // 2
    first, end = stored.of_rows(half, len(rows))
    assert list(decode(task, rows[half:], stored[first:end], logits[first:end], half)) == (
        list(decode(task, rows, fresh, logits))[half:])


def _shape(task, window):
    return (len(window), task.n_outputs) if task.head.kind == "tokens" else (task.n_outputs or 8,)
