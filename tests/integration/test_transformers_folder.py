"""A run whose head is ours loads in transformers as an encoder, and never answers there with a head made up."""

import json

import pytest
import tiny
import torch
import transformers

import headstart
from headstart.models.backbone import load_backbone


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, backbone, reviews):
    """A run with the family's own head, and an adapter that transformers does not see."""
    out = tmp_path_factory.mktemp("adapted") / "run"
    headstart.fit(tiny.spec(reviews, backbone, method="adapter", head={"pooling": "native"}, train={"max_steps": 2}),
                  out=out)
    return out


@pytest.fixture(params=["run", "adapted"])
def folder(request):
    return request.getfixturevalue(request.param)


def test_its_config_is_that_of_a_plain_encoder(folder):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["BertModel"]
    assert (config["id2label"], config["label2id"], config.get("problem_type")) == ({}, {}, None)
    assert "AutoModelForSequenceClassification" not in (folder / "README.md").read_text("utf-8")


def test_a_head_made_up_has_nothing_to_answer_with(folder):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert model(input_ids=torch.tensor([[2, 9, 3]])).logits.shape == (1, 0)
    with pytest.raises(ValueError, match="empty sequence"):
        transformers.pipeline("text-classification", str(folder), tokenizer=transformers.AutoTokenizer.from_pretrained(
            folder), device="cpu")("a lovely room")


def test_it_is_still_a_backbone_for_other_runs_and_for_training_elsewhere(folder):
    assert load_backbone(str(folder), 64).config.num_labels == 2  # what transformers takes where nothing is written
    assert transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).num_labels == 3


@pytest.mark.parametrize("labels", [{"id2label": {"0": "negative", "1": "positive"},
                                     "label2id": {"negative": 0, "positive": 1}}, {"id2label": {}, "label2id": {}}, {}])
def test_a_config_with_and_without_labels_is_read(backbone, tmp_path, labels):
    for path in backbone.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "config.json").unlink()
    config = json.loads((backbone / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, **labels}), "utf-8")
    assert load_backbone(str(tmp_path), 64).config.num_labels == 2
