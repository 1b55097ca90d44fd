"""What two learned tasks of one kind must share for one to teach the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import SpecError, shorten

TEACHER = "method.teacher"  # where a Spec names it
# Fields of a target beside the task's own: whether its gold is a label's, and what the teacher said of the window.
IS_LABELED, LOGITS, HIDDEN, ATTENTION = "is_labeled", "teacher_logits", "teacher_hidden", "teacher_attention"
PROJECTIONS = "teacher"  # among a model's heads: from the student's hidden states to the teacher's


def order_of(names: Sequence[str], teacher: Sequence[str]) -> np.ndarray:
    """place_K: where each of `names` stands among the teacher's. Raises SpecError unless both have the same.

    >>> order_of(["bad", "good"], ["good", "bad"]).tolist()
    [1, 0]
    """
    ours, theirs = set(names), set(teacher)
    if ours != theirs:
        parts = [f"{what}: {', '.join(map(shorten, sorted(some)[:5]))}{' ...' * (len(some) > 5)}" for what, some in
                 (("it lacks", ours - theirs), ("it alone has", theirs - ours)) if some]
        raise SpecError(TEACHER, f"answers with other labels than the train rows have; {'; '.join(parts)}.",
                        "Name a run that was fitted to the same labels, or rename the labels of the rows.")
    place = {name: k for k, name in enumerate(teacher)}
    return np.array([place[name] for name in names], np.int64)
