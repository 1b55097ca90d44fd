"""Methods beside each other on the same rows; features of texts; and scikit-learn's way in."""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import shutil

import numpy as np
import pytest
import tiny
from forked import ForkedJobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

import headstart
from headstart.core.errors import DataError, RunFolderError, SpecError
from headstart.sklearn import TextClassifier, TextFeatures
from headstart.studies.compare import compare
from headstart.use.vectors import Extractor

METHODS = ["linear-probe", "lora:rank=2"]


@pytest.fixture(scope="module")
def spec(backbone, reviews):
    return tiny.spec(reviews, backbone, data={"limit": 120}, train={"epochs": 1}, evaluate={"n_resamples": 200})


@pytest.fixture(scope="module")
def compared(spec, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "out"
    return out, compare(spec, METHODS, seeds=2, rows=[80], out=out, jobs=ForkedJobs())


def test_every_method_answers_the_same_rows(compared):
    out, table = compared
    assert [size["rows"] for size in table["sizes"]] == [80]
    for size in table["sizes"]:
        assert [system["method"] for system in size["systems"]] == METHODS
        assert all(len(system["scores"]) == 2 for system in size["systems"])
        assert set(size["baselines"]) >= {"majority", "tf-idf", "before-training"}
        assert len(size["pairs"]) == 1
        assert all(pair["p"] <= pair["p_holm"] <= 1 for pair in size["pairs"])
    cells = [json.loads(line) for line in (out / "cells.jsonl").read_text("utf-8").splitlines()]
    assert len(cells) == 4
    assert {cell["n_test"] for cell in cells} == {table["n_test"]}
    gold = [np.load(out / "outcomes" / f"{cell['name']}.npy")[:, 0] for cell in cells]
    assert all(np.array_equal(gold[0], other) for other in gold)
    assert not list(out.glob("cell-*"))


def test_a_dominated_method_is_not_on_the_front(compared):
    _, table = compared
    for size in table["sizes"]:
        for system in size["systems"]:
            is_beaten = any(other["score"] >= system["score"] and other["seconds"] < system["seconds"]
                            for other in size["systems"])
            assert system["fronts"]["seconds"] != is_beaten


def test_the_page_shows_the_tables(compared):
    out, _ = compared
    page = (out / "compare.html").read_text("utf-8")
    assert all(method in page for method in METHODS)
    assert not re.search(r'(src|href)="http', page)
    assert (out / "compare.md").read_text("utf-8").count("| linear-probe |") >= 1


def test_finished_cells_are_not_run_again(compared, spec):
    out, table = compared
    before = (out / "cells.jsonl").read_text("utf-8")
    again = compare(spec, METHODS, seeds=2, rows=[80], out=out, resume=True, jobs=ForkedJobs())
    assert (out / "cells.jsonl").read_text("utf-8") == before
    assert again == table
    (out / "cells.jsonl").write_text(before[:-40], "utf-8")  # killed while it wrote a line
    more = compare(spec, METHODS, seeds=2, rows=[80], out=out, resume=True, jobs=ForkedJobs())
    assert [size["systems"][0]["scores"] for size in more["sizes"]] == \
        [size["systems"][0]["scores"] for size in table["sizes"]]


def test_what_cannot_be_compared_is_said_before_any_work(compared, spec, tmp_path):
    out, _ = compared
    with pytest.raises(RunFolderError, match="exists already"):
        compare(spec, METHODS, out=out)
    with pytest.raises(SpecError, match='"lorra" is not a method; did you mean "lora"'):
        compare(spec, ["lorra"], out=tmp_path / "a")
    with pytest.raises(SpecError, match=r"method\.rang: is not an option"):
        compare(spec, ["lora:rang=2"], out=tmp_path / "a")
    with pytest.raises(SpecError, match="5000 is not a number of train rows; there are 120"):
        compare(spec, METHODS, rows=[5000], out=tmp_path / "a")
    with pytest.raises(SpecError, match="other data or another seed"):
        compare({**spec, "seed": 3}, METHODS, out=out, resume=True, jobs=ForkedJobs())
    assert not (tmp_path / "a" / "cells.jsonl").exists()


REPAIRED = {
    "a line of garbage": lambda out: (out / "cells.jsonl").open("ab").write(b"\xff{[1]\n"),
    "no object": lambda out: (out / "cells.jsonl").open("ab").write(b"[1]\n"),
    "a sound line of another": lambda out: (out / "cells.jsonl").open("ab").write(b'{"name": "x", "score": 1}\n'),
    "rows cut": lambda out: (out / "data" / "train.jsonl").write_text(""),
}


@pytest.mark.parametrize("kind", REPAIRED)
def test_a_damaged_comparison_is_named_and_repaired(compared, spec, tmp_path, kind, capsys):
    out = shutil.copytree(compared[0], tmp_path / "out")
    REPAIRED[kind](out)
    again = compare(spec, METHODS, seeds=2, rows=[80], out=out, resume=True, jobs=ForkedJobs())
    assert [[system["scores"] for system in size["systems"]] for size in again["sizes"]] == \
        [[system["scores"] for system in size["systems"]] for size in compared[1]["sizes"]]
    assert ("cells.jsonl:5: is damaged" in capsys.readouterr().err) == (kind != "rows cut")


def test_outcomes_that_are_not_those_of_the_cell_are_computed_again(compared, spec, tmp_path, capsys):
    out = shutil.copytree(compared[0], tmp_path / "out")
    damaged = sorted((out / "outcomes").iterdir())[0]
    sound = damaged.read_bytes()
    damaged.write_bytes(b"")
    compare(spec, METHODS, seeds=2, rows=[80], out=out, resume=True, jobs=ForkedJobs())
    assert damaged.read_bytes() == sound
    assert "its cell is run again" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b'{"sp', b"[1]", b"\xff", b'{"x": NaN}', b'{"spec.seed": 0}'])
def test_a_comparison_whose_request_is_damaged_is_refused(compared, spec, tmp_path, content):
    out = shutil.copytree(compared[0], tmp_path / "out")
    (out / "request.json").write_bytes(content)
    with pytest.raises(headstart.HeadstartError, match=r"(request\.json|was begun with other data)[^\0]*--overwrite"):
        compare(spec, METHODS, seeds=2, rows=[80], out=out, resume=True, jobs=ForkedJobs())


def test_a_comparison_on_a_changed_backbone_or_setting_is_refused(compared, spec, tmp_path):
    out = shutil.copytree(compared[0], tmp_path / "out")
    with pytest.raises(SpecError, match=r"train\.lr was 0\.003 and is now 0\.5"):
        compare({**spec, "train": {**spec["train"], "lr": 0.5}}, METHODS, out=out, resume=True, jobs=ForkedJobs())
    values = json.loads((out / "request.json").read_text("utf-8"))
    (out / "request.json").write_text(json.dumps({**values, "backbone.weights": "0" * 64}), "utf-8")
    with pytest.raises(SpecError, match=r"backbone\.weights was sha256 000000000000… and is now sha256 "):
        compare(spec, METHODS, out=out, resume=True, jobs=ForkedJobs())


def test_a_cell_that_fails_says_which(spec, tmp_path):
    with pytest.raises(headstart.HeadstartError, match=r"fine-tuning:last_blocks=7.*the backbone has 2 blocks"):
        compare(spec, ["fine-tuning:last_blocks=7"], out=tmp_path / "a", jobs=ForkedJobs())


def test_a_task_that_the_columns_mean_is_that_of_every_cell(backbone, tmp_path):
    rows = [{"sentence1": f"the room was lovely {i}", "sentence2": f"a dull film {i % 7}", "score": i % 5 / 2}
            for i in range(60)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    settings = {"backbone": str(backbone), "evaluate": {"n_resamples": 100}, "task": {"pooling_of_nothing": 1}}
    with pytest.raises(SpecError, match=r'pooling_of_nothing.* "text-regression"'):  # an option is the inferred task's
        compare(str(path), ["linear-probe"], seeds=1, out=tmp_path / "out", layers=[("test", settings)])
    del settings["task"]
    result = compare(str(path), ["linear-probe"], seeds=1, out=tmp_path / "out", layers=[("test", settings)])
    assert result["metric"] == "spearman"


def test_compare_and_cache_on_the_command_line(cli, backbone, reviews, tmp_path):
    stdout, _ = cli("compare", reviews, "--methods", "linear-probe", "--seeds", 1, "--out", tmp_path / "out", "--set",
                    f"backbone={backbone}", "--set", "evaluate.n_resamples=100", "--json")
    assert json.loads(stdout.splitlines()[-1])["sizes"][0]["systems"][0]["method"] == "linear-probe"
    _, stderr = cli("compare", reviews, "--methods", "linear-probe", "--rows", "ten", rc=2)
    assert "whole numbers with commas between" in stderr
    stdout, _ = cli("cache", "--json")
    assert json.loads(stdout)["bytes"] > 0
    _, stderr = cli("cache", "--keep", "much", rc=2)
    assert '"much" is not a size' in stderr


def test_extract_keeps_order_and_ids(cli, backbone, tmp_path):
    import pyarrow.parquet as pq

    rows = [{"id": f"r{i}", "text": row["text"]} for i, row in enumerate(tiny.rows(30))]
    source = tiny.write_csv(tmp_path / "new.csv", rows)
    stdout, _ = cli("extract", backbone, source, "--out", tmp_path / "f.parquet", "--json")
    assert json.loads(stdout)["n_rows"] == 30
    table = pq.read_table(tmp_path / "f.parquet").to_pydict()
    assert table["id"] == [row["id"] for row in rows]
    cli("extract", backbone, source, "--out", tmp_path / "f.npy")
    features_ND = np.load(tmp_path / "f.npy")
    assert features_ND.shape == (30, 32)
    np.testing.assert_allclose(features_ND, np.array(table["features"]), atol=1e-6)
    alone_ND = Extractor(str(backbone), store="off")([rows[7]["text"]])
    np.testing.assert_allclose(features_ND[7:8], alone_ND, atol=1e-5)
    _, stderr = cli("extract", backbone, source, "--out", tmp_path / "f.csv", rc=2)
    assert ".npy, .parquet" in stderr
    _, stderr = cli("extract", backbone, source, "--out", tmp_path / "f.npy", rc=2)
    assert "--overwrite" in stderr


@pytest.mark.parametrize("store", ["fp16", "off"])
def test_extract_of_layers_and_poolings(backbone, store):
    texts = [row["text"] for row in tiny.rows(5)]
    features = {(pooling, k): Extractor(str(backbone), pooling=pooling, last_layers=k, store=store)(texts)
                for pooling in ("mean", "first", "max") for k in (1, 2)}
    assert len({features_ND.tobytes() for features_ND in features.values()}) == 6
    with pytest.raises(SpecError, match="is 3; the backbone has 2 layers"):
        Extractor(str(backbone), last_layers=3)
    with pytest.raises(SpecError, match='"sum" is not a pooling'):
        Extractor(str(backbone), pooling="sum")


def test_extract_reads_a_run_whose_head_reads_tokens(backbone, tmp_path):
    texts = [row["text"].split() for row in tiny.rows(60)]
    rows = [{"tokens": words, "tags": ["B-X" if word in tiny.GOOD else "O" for word in words]} for words in texts]
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    made = headstart.fit(tiny.spec(source, backbone, task="token-classification", train={"epochs": 1}),
                         out=tmp_path / "run")
    assert Extractor(made.folder)(["the room was lovely", "dull"]).shape == (2, 32)


def test_extract_reads_a_run(run):
    from safetensors.numpy import load_file

    texts = [row["text"] for row in tiny.rows(5)]
    head = load_file(run / "head.safetensors")
    logits = Extractor(run)(texts) @ head["out.weight"].T + head["out.bias"]
    scores = [list(prediction["scores"].values()) for prediction in headstart.load(run).predict(texts)]
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), scores, atol=1e-4)


def test_features_in_a_pipeline(backbone):
    rows = tiny.rows(80)
    texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    pipeline = make_pipeline(TextFeatures(str(backbone)), LogisticRegression(C=100, max_iter=1000))
    assert cross_val_score(pipeline, texts, labels, cv=3).mean() > 0.6
    features = TextFeatures(str(backbone)).fit(texts)
    again = pickle.loads(pickle.dumps(features))
    np.testing.assert_array_equal(again.transform(texts), features.transform(texts))
    assert len(features.get_feature_names_out()) == 32
    with pytest.raises(DataError, match="text 2"):
        features.transform(["a", None])  # type: ignore[list-item]


def test_a_classifier_of_scikit_learns_shape(backbone, tmp_path):
    rows = tiny.rows(120)
    texts, labels = [row["text"] for row in rows], np.array([{"negative": 7, "positive": 11}[r["label"]] for r in rows])
    classifier = TextClassifier(str(backbone), method="linear-probe", out=str(tmp_path / "kept"))
    assert classifier.get_params()["method"] == "linear-probe"
    assert classifier.fit(texts, labels).score(texts, labels) > 0.7
    assert list(classifier.classes_) == [7, 11]
    shares = classifier.predict_proba(texts)
    assert shares.shape == (120, 2)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-4)
    held = pickle.dumps(classifier)
    named = {str(value).split()[0] for code, value, _ in pickletools.genops(held) if code.name == "SHORT_BINUNICODE"
             and re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", str(value))}
    assert named <= {"headstart.sklearn", "numpy._core.multiarray", "numpy._core.numeric"}
    np.testing.assert_array_equal(pickle.loads(held).predict(texts), classifier.predict(texts))
    assert headstart.load(tmp_path / "kept").predict(texts[:1])
    with pytest.raises(ValueError, match="one class only"):
        classifier.fit(texts, ["a"] * 120)
