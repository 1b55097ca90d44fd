"""Choices of a row: how they are written, the softmax over a row's own windows, batches that keep them together."""

import numpy as np
import pytest
import tiny
import torch

import headstart
from headstart.core.windows import store
from headstart.models import backbone as backbones
from headstart.tasks.multiple_choice import MultipleChoice
from headstart.training import batches

TASK = MultipleChoice()
ROW = {"question": "how is it?", "choices": ["warm", "cold", "loud"], "label": 1}


@pytest.mark.parametrize(("change", "complaint"), [
    ({"label": 3}, '"label" is 3; it must be the number of a choice, 0 to 2, or its text'),
    ({"label": -1}, '"label" is -1'),
    ({"label": True}, '"label" is True'),
    ({"label": "hot"}, '"label" is "hot"'),
    ({"label": 1.0}, '"label" is 1.0'),
    ({"choices": ["warm"]}, '"choices" has 1; it must have two or more'),
    ({"choices": ["warm", "cold", "cold"]}, 'holds the right choice, "cold", twice'),
    ({"choices": ["warm", "cold", "cold"], "label": "cold"}, 'holds the right choice, "cold", twice'),
    ({"choices": ["warm", ""]}, "must be a list of strings that are not empty"),
    ({"choices": None}, "must be a list of strings"),
    ({"question": "  "}, '"question" is empty'),
    ({"context": 4}, '"context" is 4, not a string'),
])
def test_bad_rows(change, complaint):
    assert complaint in (TASK.check({**ROW, **change}) or "")


@pytest.mark.parametrize(("label", "at"), [(1, 1), ("1", 1), ("cold", 1), (" loud ", 2)])
def test_labels_by_number_and_by_text(label, at):
    assert TASK.check({**ROW, "label": label}) is None
    assert TASK._gold({**ROW, "label": label}) == at


def test_a_wrong_choice_may_stand_twice():
    assert TASK.check({**ROW, "choices": ["warm", "cold", "warm"]}) is None
    assert TASK.check({"question": "how?", "choices": ["warm", "warm"]}) is None  # nobody says which is right


def test_choices_of_a_csv_file():
    row = {"question": "how?", "choices": "warm | cold", "label": "cold"}
    assert TASK.check(row) is None
    assert TASK._choices(row) == ["warm", "cold"]


def test_the_softmax_is_over_a_rows_own_choices():
    logits = torch.tensor([[1.0], [2.0], [0.5], [0.1], [0.2]])
    target = {"row": torch.tensor([4, 4, 7, 7, 7]), "is_right": torch.tensor([0, 1, 0, 0, 1])}
    scores_RC, gold_R = TASK.aligned(logits, target)
    assert gold_R.tolist() == [1, 2]
    assert scores_RC[0, :2].tolist() == [1.0, 2.0]
    assert torch.softmax(scores_RC, -1)[0, 2] == 0
    summed, n = TASK.loss(logits, target, label_smoothing=0.1)
    by_hand = -torch.log_softmax(logits[:2, 0], 0)[1] - torch.log_softmax(logits[2:, 0], 0)[2]
    assert n == 2
    torch.testing.assert_close(summed, by_hand)


def test_batches_and_their_pieces_hold_rows_whole(backbone, tmp_path):
    reader = backbones.load_backbone(str(backbone), 64).reader
    rng = np.random.default_rng(0)
    rows = [{"question": " ".join(rng.choice(tiny.FILL, rng.integers(1, 12))), "label": 0,
             "choices": [" ".join(rng.choice(tiny.GOOD, j + 1)) for j in range(rng.integers(2, 6))]} for _ in range(60)]
    windows = store((w for i, row in enumerate(rows) for w in TASK.encode(i, row, reader)), tmp_path, 0, True)
    seen = []
    for chosen in batches.epoch(windows, 200, 0, 0):
        n_tokens = int(windows.lengths_N[chosen].max()) * len(chosen)
        assert n_tokens <= 200 or len(set(windows.rows_N[chosen])) == 1
        seen += chosen.tolist()
        for row in set(windows.rows_N[chosen]):
            assert (windows.rows_N[chosen] == row).sum() == len(rows[row]["choices"])
    assert sorted(seen) == list(range(len(windows)))
    steps = batches.steps(windows, 400, 100, 0)
    for _ in range(5):
        for piece in next(steps):
            for row in np.unique(piece.target["row"]):
                assert (piece.target["row"] == row).sum() == len(rows[row]["choices"])


def test_a_run_end_to_end(backbone, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(200):
        words = [str(rng.choice(tiny.GOOD)), *map(str, rng.choice(tiny.BAD, 1 + i % 3, replace=False))]
        order = rng.permutation(len(words))
        rows.append({"question": f"{rng.choice(tiny.FILL)} {rng.choice(tiny.FILL)} {rng.choice(tiny.FILL)}",
                     "choices": "|".join(words[j] for j in order), "label": str(int(np.flatnonzero(order == 0)[0]))})
    source = tiny.write_csv(tmp_path / "a.csv", rows)
    run = headstart.fit(tiny.spec(source, backbone, task={"name": "multiple-choice"},
                                  data={"near_duplicate": 1, "test_share": 0.2}), out=tmp_path / "run")
    assert run.scores["score"] > 0.9  # every right choice is a good word
    answer = run.predict([{"question": "how is it?", "choices": ["dull", "lovely"]}])[0]
    assert answer["text"] == "lovely"
    assert sum(answer["scores"]) == pytest.approx(1, abs=1e-5)
