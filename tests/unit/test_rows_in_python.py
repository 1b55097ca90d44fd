"""Rows that Python holds mean what those of a file mean: one text is one row, a frame's lines are rows, NaN is none."""

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest

import headstart
from headstart.core.errors import DataError, SpecError
from headstart.data import frames
from headstart.sklearn import TextClassifier, TextFeatures
from headstart.use import retrieval

TEXTS = ["the lovely room", "the dull film"]
FRAME = pd.DataFrame({"text": TEXTS, "label": [" positive", "negative"], "n": [1, 2]}, index=[7, 3])


@pytest.fixture(scope="module")
def fitted(run):
    return headstart.load(run)


@pytest.fixture(scope="module")
def expected(fitted):
    return fitted.predict(list(TEXTS))


@pytest.mark.parametrize("rows", [
    tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, object), pd.Series(TEXTS), iter(TEXTS),
    [{"text": text} for text in TEXTS], FRAME, FRAME[["text"]], FRAME.rename(columns={"text": "Review"}),
    [FRAME.iloc[0], FRAME.iloc[1]], [TEXTS[0], {"text": TEXTS[1], "label": float("nan")}],
], ids=lambda rows: type(rows).__name__)
def test_rows_of_any_kind_are_answered_in_order(fitted, expected, rows):
    assert fitted.predict(rows) == expected


@pytest.mark.parametrize("row", [TEXTS[0], {"text": TEXTS[0]}, FRAME.iloc[0], np.str_(TEXTS[0])],
                         ids=["text", "mapping", "line", "numpy"])
def test_one_row_alone_is_one_row(fitted, expected, row):
    assert fitted.predict(row) == expected[:1]


@pytest.mark.parametrize(("rows", "message"), [
    (["fine", None], "row 2: is None; a row is a text, or a mapping"), ([["fine"]], r"row 1: is \['fine'\]; a row is"),
    (b"fine", "row 1: is 102"), (np.array([["a", "b"]]), "row 1: is array"),
    (pd.Series(["fine", None]), "row 2: is"), (["fine", float("nan")], "row 2: is nan"),
    ({"text": ["a", "b"]}, r"row 1: \"text\" is \['a', 'b'\], not a string"),
    (pd.DataFrame({"text": ["fine", None]}), 'data frame: row 2: column "text" is None'),
    (pd.DataFrame({"text": ["fine", pd.NA]}), 'data frame: row 2: column "text" is None'),
    (pd.DataFrame({"story": ["fine"]}), 'data frame: no column is called "text"'),
    (pd.DataFrame([["a", "b"]], columns=["text", "text"]), 'data frame: has two columns called "text"'),
])
def test_what_is_no_row_is_refused(fitted, rows, message):
    with pytest.raises(DataError, match=message):
        fitted.predict(rows)


def test_no_rows_have_no_answers(fitted):
    assert fitted.predict([]) == fitted.predict(FRAME[:0]) == fitted.predict(pd.Series([], dtype=object)) == []
    with pytest.raises(DataError, match="got no rows"):
        fitted.evaluate(FRAME[:0])


@pytest.mark.parametrize("rows", [FRAME, FRAME.to_dict("records")], ids=["frame", "mappings"])
def test_labels_are_normalized_as_those_of_a_file(fitted, rows):
    assert fitted.evaluate(rows)["n"] == 2


@pytest.mark.parametrize("label", [None, float("nan"), pd.NA, pd.NaT, np.nan, "", "  "])
@pytest.mark.parametrize("as_frame", [False, True])
def test_a_missing_label_is_no_class(fitted, label, as_frame):
    rows = [{"text": TEXTS[0], "label": "positive"}, {"text": TEXTS[1], "label": label}]
    with pytest.raises(DataError, match="row 2"):
        fitted.evaluate(pd.DataFrame(rows) if as_frame else rows)


def test_a_frame_is_not_fitted_and_the_message_says_what_is(tmp_path):
    with pytest.raises(SpecError, match="got \"DataFrame\"; it reads a file") as caught:
        headstart.fit(FRAME, out=tmp_path / "run")
    assert "to_json" in caught.value.fix


@pytest.mark.parametrize("values", ["great film", b"great film", {"text": "great film"}, np.array([["a", "b"]]), FRAME],
                         ids=["text", "bytes", "mapping", "array", "frame"])
def test_texts_that_are_no_list_of_texts(values):
    with pytest.raises(DataError, match="wanted here"):
        frames.texts_of(values)


@pytest.mark.parametrize("values", [TEXTS, np.array(TEXTS), np.array([[text] for text in TEXTS]), FRAME[["text"]],
                                    FRAME["text"], (text for text in TEXTS)])
def test_texts_of_one_column(values):
    assert frames.texts_of(values) == TEXTS


def test_a_search_reads_no_letters(backbone):
    with pytest.raises(DataError, match="queries: is \"great film\" alone"):
        retrieval.search(backbone, TEXTS, "great film")
    with pytest.raises(DataError, match="corpus: is \"great film\" alone"):
        retrieval.search(backbone, "great film", TEXTS)
    with pytest.raises(DataError, match="X: is \"great film\" alone"):
        TextFeatures(str(backbone)).fit(TEXTS).transform("great film")


@pytest.mark.parametrize("label", [None, float("nan"), pd.NA, pd.NaT])
@pytest.mark.parametrize("as_", [list, pd.Series, lambda y: np.array(y, object)])
def test_a_classifier_learns_no_missing_label(backbone, label, as_):
    with pytest.raises(ValueError, match=r"y has no label at \[1\] \(1 in all\)"):
        TextClassifier(str(backbone)).fit(TEXTS * 2, as_(["a", label, "b", "a"]))


@pytest.mark.parametrize("y", [["Good", "good"], ["a", "a "], ["", "a"], ["\u00e9", "e\u0301"]])
def test_classes_that_are_one_label_are_refused(backbone, y):
    with pytest.raises(ValueError, match="are empty, or differ only in"):
        TextClassifier(str(backbone)).fit(TEXTS, y)


@pytest.mark.parametrize("classes", [("ugly", "fine"), (2, 10), (True, False), (0.5, -1.0)])
def test_the_artifact_on_disk_bears_the_names_of_the_classes(tmp_path, backbone, classes):
    texts = [f"the {word} room number {i}" for i in range(10) for word in ("lovely", "dull")]
    y = [classes[i % 2] for i in range(20)]
    how = {"evaluate": {"n_resamples": 100}}
    fitted = TextClassifier(str(backbone), method="linear-probe", out=str(tmp_path / "run"), spec=how).fit(texts, y)
    answers = headstart.load(tmp_path / "run").predict(texts)
    assert {answer["label"] for answer in answers} <= set(map(str, classes))
    assert [str(label) for label in fitted.predict(texts).tolist()] == [answer["label"] for answer in answers]
    assert fitted.predict_proba(texts[:1])[0].tolist() == [answers[0]["scores"][str(c)] for c in sorted(classes)]
    assert type(fitted.predict(texts[:1]).tolist()[0]) is type(classes[0])
