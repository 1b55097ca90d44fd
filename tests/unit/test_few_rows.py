"""Few rows: they choose the head, and are tested, in folds; no row is answered by what learned from it or its twin."""

import random

import numpy as np
import pytest
import tiny
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

import headstart
from headstart.core import statistics
from headstart.core.scores import Scores
from headstart.core.spec import DataSpec
from headstart.data import splits
from headstart.data.table import COUNTS, Table
from headstart.tasks.text_classification import TextClassification
from headstart.tasks.text_regression import TextRegression

TASK = TextClassification()
PARTS = ("train", "validation", "test")


def table(rows):
    return Table(list(rows), np.arange(2, len(rows) + 2), "a.csv", "line", {}, {}, dict.fromkeys(COUNTS, 0))


def rows_of(n, seed=0, n_labels=2, n_copies=1):
    """Random words with random labels: nothing can be learned but a row itself and its copies."""
    draws = random.Random(seed)
    return [row for i in range(n // n_copies) for row in [
        {"text": " ".join(draws.choices(tiny.FILL, k=12)), "label": f"label {i % n_labels}"}] * n_copies]


def make(n, given=(), seed=0, **settings):
    tables = {"train": table(rows_of(n))} | {name: table(rows_of(20, seed=k + 1)) for k, name in enumerate(given)}
    return splits.make(tables, DataSpec(train="a.csv", **settings), TASK, seed)


@pytest.mark.parametrize(("n", "given", "settings", "parts_in_folds"), [
    (60, (), {}, PARTS), (900, (), {}, PARTS), (1200, (), {}, ()),  # validation is 120 rows: enough
    (60, ("test",), {}, PARTS[:2]), (60, ("validation",), {}, PARTS[:2]), (60, ("validation", "test"), {}, PARTS[:2]),
    (600, (), {"test_share": 0.2}, PARTS[:2]),  # 120 test rows are enough
    (2500, (), {"validation_share": 0.01}, ())])  # too many for a head a fold
def test_where_rows_are_dealt_into_folds(n, given, settings, parts_in_folds):
    made = make(n, given, **settings)
    assert tuple(made.fold_N) == parts_in_folds
    assert made.n_folds == (splits.N_FOLDS if parts_in_folds else 0)
    assert all(len(fold_N) == len(getattr(made, part)) for part, fold_N in made.fold_N.items())


@pytest.mark.parametrize(("n_labels", "n_copies", "n_folds"), [(2, 1, 5), (2, 3, 5), (7, 1, 5), (20, 1, 3)])
def test_twins_share_a_fold_and_labels_are_spread(n_labels, n_copies, n_folds):
    made = splits.make({"train": table(rows_of(60, n_labels=n_labels, n_copies=n_copies))}, DataSpec(train="a.csv"),
                       TASK, 0).pooled()
    fold_N, texts = made.fold_N["train"], [row["text"] for row in made.train.rows]
    assert sorted(texts) == sorted(row["text"] for row in rows_of(60, n_labels=n_labels, n_copies=n_copies))
    assert made.train.rows == made.test.rows
    assert made.n_folds == n_folds
    assert len({(text, fold) for text, fold in zip(texts, fold_N.tolist(), strict=True)}) == 60 // n_copies
    counts = np.bincount(fold_N)
    assert counts.min() >= 60 / n_folds / 2
    for label in {row["label"] for row in made.train.rows}:
        assert len({fold for row, fold in zip(made.train.rows, fold_N, strict=True) if row["label"] == label}) >= 2


def test_folds_do_not_depend_on_the_order_of_the_rows():
    rows = rows_of(80)
    made, again = (splits.make({"train": table(some)}, DataSpec(train="a.csv"), TASK, 0).pooled()
                   for some in (rows, random.Random(1).sample(rows, len(rows))))
    assert made.train.rows == again.train.rows
    assert made.fold_N["test"].tolist() == again.fold_N["test"].tolist()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny.backbone(tmp_path_factory.mktemp("few") / "backbone")


def fitted(backbone, folder, rows, **fields):
    source = tiny.write_csv(folder / "rows.csv", rows)
    return headstart.fit(tiny.spec(source, backbone, **{"method": "linear-probe", **fields}), out=folder / "run")


@pytest.fixture(scope="module")
def unlearnable(backbone, tmp_path_factory):
    """A run on 80 rows: 40 texts, twice each, labels drawn at random."""
    rows = rows_of(80, n_copies=2)
    return fitted(backbone, tmp_path_factory.mktemp("unlearnable"), rows), rows


def test_no_row_is_answered_by_what_learned_from_it_or_its_twin(unlearnable):
    run, rows = unlearnable
    leaky = cross_val_score(make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10)),
                            *zip(*((row["text"], row["label"]) for row in rows), strict=True),
                            cv=StratifiedKFold(5, shuffle=True, random_state=0))
    assert leaky.mean() > 0.8  # where twins are parted, whoever knows a row by heart answers its twin
    scores = run.certificate
    for system in (scores.fitted, *scores.baselines.values()):
        assert system.n == 80
        assert system.value < 0.7
    assert scores.verdict_kind != "positive"


def test_a_certificate_says_how_it_came_about(unlearnable):
    run, _ = unlearnable
    scores = run.certificate
    assert (scores.n_folds, scores.test_rows) == (5, "80 rows in 5-fold cross-validation")
    assert (scores.data.n_train, scores.data.n_validation, scores.data.n_test) == (80, 0, 0)
    assert Scores.from_json(scores.to_json()) == scores
    for page in ("report.md", "README.md"):
        text = (run.folder / page).read_text("utf-8")
        assert "On 80 rows in 5-fold cross-validation, each answered by what was learned without its fold" in text
        assert "seen in train" not in text
    older = {key: value for key, value in scores.to_json().items() if key != "n_folds"}
    assert Scores.from_json(older).test_rows == "80 held-out test rows"


def test_its_gains_can_be_checked_from_the_artifact(unlearnable):
    run, _ = unlearnable
    scores, outcomes = run.certificate, run.outcomes()
    for name, gain in scores.gains.items():
        again = statistics.paired(run.task, [outcomes["fitted"], outcomes[name]], 100, 0, scores.n_folds)
        assert again.difference(0, 1).interval == pytest.approx(gain.interval)
        assert again.interval(0) == pytest.approx(scores.fitted.interval)


@pytest.mark.parametrize(("given", "method", "n_test"), [("test", "linear-probe", 30), ("", "fine-tuning", 8)])
def test_rows_are_held_out_where_they_are_named_or_weights_move(backbone, tmp_path, given, method, n_test):
    data = {given: str(tiny.write_csv(tmp_path / "given.csv", tiny.rows(30, seed=3)))} if given else {}
    scores = fitted(backbone, tmp_path, tiny.rows(80), method=method, data=data, train={"max_steps": 1}).certificate
    assert (scores.n_folds, scores.fitted.n) == (0, n_test)
    assert scores.test_rows == f"{n_test} held-out test rows"


@pytest.mark.parametrize("n", [10, 60, 300])
@pytest.mark.parametrize("kind", [TASK, TextRegression()])
def test_answers_of_folds_prove_less_than_as_many_held_out(n, kind):
    draws = np.random.default_rng(0)
    if kind is TASK:
        task, gold_N = TextClassification(labels=("a", "b")), draws.integers(2, size=n)
        systems = [np.column_stack([gold_N, np.where(draws.random(n) < share, gold_N, 1 - gold_N)])
                   for share in (0.9, 0.6)]
    else:
        task, gold_N = kind, draws.normal(size=n)
        systems = [np.column_stack([gold_N, gold_N + draws.normal(size=n) * noise]) for noise in (0.3, 2)]
    held_out, in_folds = (statistics.paired(task, systems, 200, 0, n_folds) for n_folds in (0, 5))
    for of in (lambda paired: paired.interval(0), lambda paired: paired.difference(0, 1).interval):
        (low, high), (lower, higher) = of(held_out), of(in_folds)
        assert higher - lower > (high - low) * (1.05 if n < 60 else 1.15)
    assert in_folds.difference(0, 1).is_proven is (n > 10)
    assert statistics.rows_needed(0.1, 0.2, 5) == pytest.approx(1.6 * statistics.rows_needed(0.1, 0.2), abs=2)
