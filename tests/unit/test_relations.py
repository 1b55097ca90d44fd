"""Relations between two spans: spans, marks, cutting that keeps both, the official score."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.core import metrics
from headstart.models import backbone as backbones
from headstart.tasks import relation_extraction as relations

TASK = relations.RelationExtraction()
ROW = {"text": "fire makes smoke", "head_span": [0, 4], "tail_span": [11, 16], "relation": "Cause-Effect(e1,e2)"}


@pytest.mark.parametrize(("change", "complaint"), [
    ({"head_span": [4, 0]}, '"head_span" is [4, 0]; its start must lie before its end'),
    ({"head_span": [3, 3]}, "its start must lie before its end"),
    ({"tail_span": [11, 17]}, '"tail_span" is [11, 17], outside the text, which has 16 characters'),
    ({"tail_span": [-2, 3]}, "outside the text"),
    ({"tail_span": [4, 5]}, "holds nothing but blanks"),
    ({"tail_span": "eleven"}, "it must be [start, end], two whole numbers"),
    ({"tail_span": [0.5, 3]}, "two whole numbers"),
    ({"tail_span": [True, 3]}, "two whole numbers"),
    ({"tail_span": [0, 4]}, "a relation needs two entities"),
    ({"text": "cafe\u0301 makes smoke", "head_span": [0, 4]}, "inside a character, before its combining mark U+0301"),
    ({"relation": ""}, '"relation" is empty'),
    ({"relation": 4}, '"relation" is 4, not a string'),
    ({"text": ""}, '"text" is empty'),
])
def test_bad_rows(change, complaint):
    assert complaint in (TASK.check({**ROW, **change}) or "")


@pytest.mark.parametrize("written", [[3, 8], (3, 8), "[3, 8]", "3:8", "(3,8)", "3 8"])
def test_spans_however_written(written):
    assert relations.span(written) == (3, 8)


@given(st.text("ab c房é😀", min_size=2, max_size=12), st.data())
def test_marks_leave_the_spans_as_they_are(text, data):
    ends = st.integers(0, len(text) - 1).flatmap(lambda a: st.tuples(st.just(a), st.integers(a + 1, len(text))))
    head, tail = data.draw(ends), data.draw(ends)
    marked, spans = relations.mark(text, head, tail)
    if head[1] <= tail[0] or tail[1] <= head[0]:
        assert [marked[a:b] for a, b in spans] == [text[slice(*head)], text[slice(*tail)]]
    assert marked.replace("@", "").replace("#", "").replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("at", [(0, 40), (3, 5), (38, 39), (1, 20)])
@pytest.mark.parametrize("max_tokens", [16, 24, 40])
def test_both_spans_survive_truncation(backbone, at, max_tokens):
    words = ["the film was really a very quite story"] * 6
    words = " ".join(words).split()
    words[at[0]], words[at[1]] = "lovely", "broken"
    text = " ".join(words)
    row = {"text": text, "head_span": [text.index("lovely"), text.index("lovely") + 6],
           "tail_span": [text.index("broken"), text.index("broken") + 6]}
    reader = backbones.load_backbone(str(backbone), max_tokens).reader
    (window,) = TASK.encode(0, row, reader)
    assert len(window) <= max_tokens
    assert window.notes["n_cut_tokens"] > 0
    words_of = {k: [reader.tokenizer.id_to_token(i) for i, mark in zip(
        window.inputs["input_ids"], window.inputs["marks"], strict=True) if mark == k] for k in (1, 2)}
    assert words_of == {1: ["lovely"], 2: ["broken"]}


def test_an_entity_inside_another_keeps_both(backbone):
    reader = backbones.load_backbone(str(backbone), 64).reader
    row = {"text": "the warm room staff", "head_span": [4, 8], "tail_span": [0, 19]}
    (window,) = TASK.encode(0, row, reader)
    assert window.inputs["marks"].count(1) == 1
    assert window.inputs["marks"].count(2) > 3


def test_directions():
    assert relations.directed("Cause-Effect(e2,e1)") == ("Cause-Effect", True)
    assert relations.directed("Cause-Effect(e1,e2)") == ("Cause-Effect", False)
    assert relations.directed("works_for") == ("works_for", False)
    task = TASK.learn([ROW, {**ROW, "relation": "Cause-Effect(e2,e1)"}, {**ROW, "relation": "Other"}])
    said = task.answer(np.array([0.1, 0.7, 0.2]))
    assert (said["relation"], said["direction"], said["score"]) == ("Cause-Effect", "tail-to-head", 0.7)


def test_the_official_score_by_hand():
    """The scorer of SemEval-2010 Task 8 (its README, section on the official score), counted by hand for six rows."""
    labels = ("A(e1,e2)", "A(e2,e1)", "B(e1,e2)", "Other")
    gold, said = [0, 0, 1, 2, 3, 3], [0, 1, 1, 3, 3, 2]
    counts = metrics.label_counts(np.array(gold), np.array(said), 4)
    a = 2 * 2 / (3 + 3)  # two of three A found, one in the wrong direction, three said
    b = 0.0  # one B, missed; one said in its place
    assert relations.official_f1(counts, labels) == pytest.approx((a + b) / 2)


def test_without_directions_it_is_macro_f1_without_none():
    rng = np.random.default_rng(0)
    gold, said = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    labels = ("born_in", "no_relation", "part_of", "works_for")
    counts = metrics.label_counts(gold, said, 4)
    f1 = [one["f1"] for one in metrics.per_label(counts)]
    assert relations.official_f1(counts, labels) == pytest.approx(np.mean([f1[0], f1[2], f1[3]]))
