"""Text classification of pairs: which column is the second text, what is cut, and what a model of pairs demands."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import torch

import headstart
from headstart.core.errors import DataError
from headstart.core.spec import DataSpec
from headstart.data import table as data
from headstart.models import backbone as backbones
from headstart.models import runtime
from headstart.tasks.text_classification import TextClassification
from headstart.use.answers import answers

TASK = TextClassification


def pairs(n: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows whose label says whether the second text is of the same mood as the first."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        moods = (tiny.GOOD, tiny.BAD)
        first = int(rng.integers(2))
        second = first if i % 2 else 1 - first
        words = [f"{tiny.FILL[int(rng.integers(20))]} {tiny.FILL[int(rng.integers(20))]} {rng.choice(moods[k])}"
                 for k in (first, second)]
        out.append({"text_a": f"{words[0]} {i}", "text_b": words[1], "label": ("other", "same")[i % 2]})
    return out


@pytest.fixture(scope="module")
def paraphrases(tmp_path_factory):
    return tiny.write_csv(tmp_path_factory.mktemp("pairs") / "pairs.csv", pairs(120))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, backbone, paraphrases):
    return headstart.fit(tiny.spec(paraphrases, backbone), out=tmp_path_factory.mktemp("runs") / "pairs")


@pytest.mark.parametrize(("first", "second"), [("text", "text_pair"), ("text_a", "text_b"), ("premise", "hypothesis"),
                                               ("sentence1", "sentence2")])
def test_the_second_text_is_found_by_its_usual_names(tmp_path, first, second):
    rows = [{first: "a film", second: "a room", "label": "x"}, {first: "we", second: "it", "label": "y"}]
    table = data.read_table(str(tiny.write_csv(tmp_path / "x.csv", rows)), DataSpec(train="x"), TASK())
    assert table.rows[0] == {"text": "a film", "text_pair": "a room", "label": "x"}


def test_a_file_without_one_is_of_single_texts(tmp_path):
    path = tiny.write_csv(tmp_path / "x.csv", tiny.rows(4))
    table = data.read_table(str(path), DataSpec(train="x"), TASK())
    assert set(table.rows[0]) == {"text", "label"}
    assert not TASK().learn(table.rows).has_pair
    with pytest.raises(DataError, match='no column is called "second"'):
        data.read_table(str(path), DataSpec(train="x", columns={"text_pair": "second"}), TASK())


def test_an_empty_second_text_is_named(tmp_path):
    rows = [{"text": "a", "text_b": "b", "label": "x"}, {"text": "a", "text_b": " ", "label": "y"}]
    with pytest.raises(DataError, match=r'x\.csv:3: column "text_b" \(the task\'s "text_pair"\) is empty'):
        data.read_table(str(tiny.write_csv(tmp_path / "x.csv", rows)), DataSpec(train="x"), TASK())


def test_the_longer_text_is_cut(backbone):
    reader = backbones.load_backbone(str(backbone), 16).reader
    task = TASK(labels=("a", "b"), has_pair=True)
    window, = task.encode(0, {"text": "the film " * 20, "text_pair": "a room"}, reader)
    ids = window.inputs["input_ids"]
    assert len(ids) == 16
    assert ids[-3:] == [*reader.tokenizer.encode("a room", add_special_tokens=False).ids, 3]
    assert window.notes["n_cut_tokens"] == 40 - 11
    assert window.inputs["token_type_ids"] == [0] * 13 + [1] * 3


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_every_family_reads_pairs(family, tmp_path):
    loaded = backbones.load_backbone(str(tiny.backbone(tmp_path / family, family)), 32)
    task = TASK(labels=("a", "b"), has_pair=True)
    window, = task.encode(0, {"text": "the film", "text_pair": "a room"}, loaded.reader)
    assert ("token_type_ids" in window.inputs) == (family in ("bert", "electra", "albert"))
    runtime.TorchRuntime(backbones.build_model(loaded, task, "mean", seed=0), torch.device("cpu")).logits(
        {**{k: np.array([v]) for k, v in window.inputs.items()}, "attention_mask": np.ones((1, len(window)), int)})


def test_a_model_of_pairs_answers_pairs(fitted):
    rows = [{"text": r["text_a"], "text_pair": r["text_b"]} for r in pairs(8, seed=5)]
    answers = fitted.predict(rows)
    assert len(answers) == 8
    swapped = fitted.predict([{**row, "text_pair": "we found it"} for row in rows])
    assert answers != swapped  # the second text is read
    with pytest.raises(DataError, match=r'row 1: has no "text_pair".\n .* reads: text .*text_pair'):
        fitted.predict(["one text alone"])
    with pytest.raises(DataError, match=r'row 1: has no "text_pair".\n .* reads: text .*text_pair'):
        fitted.evaluate([{"text": "a", "label": "same"}])


def test_a_file_of_single_texts_is_refused_by_a_model_of_pairs(fitted, tmp_path):
    path = tiny.write_csv(tmp_path / "new.csv", [{"text": "a", "more": "b"}])
    with pytest.raises(DataError, match='no column is called "text_b"'):
        list(answers(fitted.folder, str(path)))


def test_the_cache_tells_pairs_apart(backbone, paraphrases, tmp_path):
    scores = {}
    for cache in ("fp32", "off"):
        spec = tiny.spec(paraphrases, backbone, method={"name": "fine-tuning", "last_blocks": 1}, cache=cache)
        scores[cache] = [json.dumps(a) for a in headstart.fit(spec, out=tmp_path / cache).predict(
            [{"text": r["text_a"], "text_pair": r["text_b"]} for r in pairs(8, seed=5)])]
    assert scores["fp32"] == scores["off"]


@pytest.mark.parametrize("text", ["", "the film", "the film was a delight from start to end", "房间" * 9, "\u200b"])
def test_a_text_alone_is_read_as_among_others(backbone, text):
    for n in (4, 8, 64):
        reader = backbones.load_backbone(str(backbone), n).reader
        assert reader.read(text) == reader.read_all(["another", text])[1]
        assert len(reader.read(text)[0]["input_ids"]) <= n
