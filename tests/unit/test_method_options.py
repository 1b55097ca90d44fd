"""What each option of a method does to a tiny model, and the error where it cannot."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.numpy import load_file

import headstart
from headstart import methods
from headstart.core import statistics
from headstart.core.errors import ArtifactError, SpecError
from headstart.core.values import Outputs
from headstart.models import backbone as backbones
from headstart.models import blocks
from headstart.runs import evidence, weights
from headstart.tasks.text_classification import TextClassification


@pytest.fixture
def model(backbone):
    task = TextClassification(labels=("bad", "good"))
    return backbones.build_model(backbones.load_backbone(str(backbone), 64), task, "mean", seed=0)


def prepared(model, **options):
    method = methods.build(options)
    method.prepare(model)
    return method


def moving(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_last_blocks_moves_the_upper_blocks_and_the_head(model):
    prepared(model, name="fine-tuning", last_blocks=1)
    assert moving(model) == {n for n, _ in model.named_parameters() if ".layer.1." in n or n.startswith("head.")}
    assert blocks.n_frozen(model.encoder) == 1


def test_bitfit_moves_biases_and_the_head(model):
    prepared(model, name="bitfit")
    assert len(moving(model)) > 10
    assert all(name.endswith("bias") or name.startswith("head.") for name in moving(model))
    assert not any("pooler" in name for name in moving(model))


def test_layer_decay_slows_the_lower_blocks(model):
    groups = prepared(model, name="fine-tuning", layer_decay=0.5).groups(model, 1.0, 0.0)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    rates = {name: rate[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert len(rate) == sum(len(group["params"]) for group in groups) == len(moving(model))
    assert rates["head.out.weight"] == 1.0
    assert rates["encoder.encoder.layer.1.output.dense.weight"] == 0.5
    assert rates["encoder.encoder.layer.0.output.dense.weight"] == 0.25
    assert rates["encoder.embeddings.position_embeddings.weight"] == 0.125


def test_gradual_thaws_from_the_top(model):
    method = prepared(model, name="fine-tuning", gradual=True)
    ever = [p for p in model.parameters() if p.requires_grad]
    frozen = []
    for epoch in (0, 1, 2, 0):
        method.at_epoch(model, epoch, ever)
        frozen.append(blocks.n_frozen(model.encoder))
    assert frozen == [1, 0, 0, 1]
    assert method.defaults["train"]["schedule"] == "slanted-triangular"
    method.at_epoch(model, 9, ever)
    assert moving(model) == {n for n, p in model.named_parameters() if id(p) in map(id, ever)}
    assert method.depths(model, 3) == [1, 0, 0]


def test_gradual_trains_equally_with_and_without_the_cache(backbone, reviews, tmp_path):
    weights = []
    for cache in ("fp32", "off"):
        spec = tiny.spec(reviews, backbone, method={"name": "fine-tuning", "gradual": True, "average": "none"},
                         cache=cache, data={"limit": 60}, train={"epochs": 3}, evaluate={"baselines": False})
        weights.append(load_file(headstart.fit(spec, out=tmp_path / cache).folder / "model.safetensors"))
    for name, value in weights[0].items():
        np.testing.assert_allclose(value, weights[1][name], atol=1e-5, err_msg=name)


def test_l2_sp_pulls_back(model):
    method = prepared(model, name="fine-tuning", l2_sp=0.1)
    first = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    assert method.penalty(model, first).item() == 0
    name = "encoder.encoder.layer.1.output.dense.weight"
    with torch.no_grad():
        dict(model.named_parameters())[name].add_(1.0)
        model.head.out.weight.add_(5.0)  # a head has no pretrained weights to go back to
    assert method.penalty(model, first).item() == pytest.approx(0.05 * first[name].numel(), rel=1e-4)


def test_adapters_hold_few_weights(model):
    n_all = sum(p.numel() for p in model.parameters())
    for options in ({"name": "adapter", "size": 2}, {"name": "lora", "rank": 1, "targets": ["query"]}, {"name": "ia3"}):
        fresh = prepared_copy(model, options)
        n_moving = sum(p.numel() for p in fresh.parameters() if p.requires_grad)
        assert 0 < n_moving < n_all / 20, options


def prepared_copy(model, options):
    import copy

    twin = copy.deepcopy(model)
    prepared(twin, **options)
    return twin


def test_last_blocks_of_lora_and_adapter_leave_the_lower_ones_frozen(model):
    for options in ({"name": "lora", "last_blocks": 1}, {"name": "adapter", "last_blocks": 1, "placement": "houlsby"}):
        assert blocks.n_frozen(prepared_copy(model, options).encoder) == 1


@pytest.mark.parametrize(("options", "message"), [
    ({"name": "fine-tuning", "last_blocks": 3}, r"method\.last_blocks: is 3, but the backbone has 2 blocks"),
    ({"name": "lora", "last_blocks": 3}, r"method\.last_blocks: is 3, but the backbone has 2 blocks"),
    ({"name": "lora", "targets": ["querry"]}, r'"querry" is no linear layer of this backbone; did you mean "query"\?'),
    ({"name": "lora", "rank": 0}, r"method\.rank: 0 is not allowed"),
    ({"name": "adapter", "placement": "parallel"}, r'method\.placement: "parallel" is not allowed'),
    ({"name": "bitfit", "rank": 2}, r"method\.rank: is not an option of method \"bitfit\""),
])
def test_options_that_cannot_be_are_refused(model, options, message):
    with pytest.raises(SpecError, match=message):
        prepared(model, **options)


def test_members_are_those_of_a_soup():
    assert methods.build({"name": "fine-tuning", "average": "soup"}).plan.n_members == 3
    assert methods.build({"name": "fine-tuning", "average": "soup", "members": 5}).plan.n_members == 5
    with pytest.raises(SpecError, match=r"method\.members: says .* a soup is of, and average is wise-ft"):
        methods.build({"name": "fine-tuning", "members": 5}).check(TextClassification())


def test_the_dropout_of_lora_is_its_own(backbone):
    task = TextClassification(labels=("bad", "good"))
    model = backbones.build_model(backbones.load_backbone(str(backbone), 64), task, "mean", seed=0, dropout=0.0)
    prepared(model, name="lora", dropout=0.3)
    assert isinstance(model, torch.nn.Module)
    rates = {name: m.p for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert {p for name, p in rates.items() if "lora_dropout" in name} == {0.3}
    assert {p for name, p in rates.items() if "lora_dropout" not in name} == {0.0}


def test_albert_has_no_blocks_to_choose_from(tmp_path):
    task = TextClassification(labels=("bad", "good"))
    loaded = backbones.load_backbone(str(tiny.backbone(tmp_path / "albert", "albert")), 64)
    with pytest.raises(SpecError, match="needs blocks that can be told apart"):
        prepared(backbones.build_model(loaded, task, "mean", seed=0), name="fine-tuning", last_blocks=1)


def test_prompts_leave_room_in_the_window(backbone):
    method = methods.build({"name": "prompt-tuning", "n_tokens": 20})
    loaded = backbones.load_backbone(str(backbone), 1000, method.plan.n_extra_tokens)
    assert loaded.reader.max_tokens == 130 - 20


def test_setfit_pulls_texts_of_one_label_together():
    method = methods.build({"name": "setfit"})
    target = {"label": torch.tensor([0, 0, 1, 1])}
    apart = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    mixed = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    task = TextClassification()
    (good, n), (bad, _) = (method.loss(task, Outputs(features_BD, features_BD), target)
                           for features_BD in (apart, mixed))
    assert n == 4
    assert good.item() == pytest.approx(0)
    assert bad.item() > 1
    alone, _ = method.loss(task, Outputs(apart[:1], apart[:1]), {"label": torch.tensor([0])})
    assert alone.item() == 0


def fit_auto(backbone, tmp_path, n_validation, n_test):
    rows = tiny.rows(500)
    files = {"train": rows[:200], "validation": rows[200 : 200 + n_validation], "test": rows[400 : 400 + n_test]}
    data = {name: str(tiny.write_csv(tmp_path / f"{name}.csv", chosen)) for name, chosen in files.items()}
    return headstart.fit(tiny.spec(Path(data["train"]), backbone, method="auto", head={"pooling": "first"}, data=data,
                                   train={"epochs": 24, "lr": 1e-3, "patience": 24}), out=tmp_path / "run")


def test_auto_ships_what_validation_makes_likely_and_keeps_the_outcomes_of_all(backbone, tmp_path):
    run = fit_auto(backbone, tmp_path, n_validation=160, n_test=20)
    scores, kept = run.certificate, run.certificate.kept
    assert kept.what == "the best trained weights"
    assert re.search(r"of the best trained weights against 0\.\d{4} of the first weights on 160 validation rows "
                     r"is \+.* points, more than 0\.5 standard errors", kept.why)
    assert f"shipped   {kept.what}: {kept.why}" in evidence.summary_text(scores, tmp_path)
    outcomes = run.outcomes()
    assert list(outcomes) == ["fitted", *scores.baselines]
    for name, score in {"fitted": scores.fitted, **scores.baselines}.items():
        assert run.task.score(outcomes[name])["accuracy"] == score.value
    for name, gain in scores.gains.items():
        again = statistics.paired(run.task, [outcomes["fitted"], outcomes[name]], 100, 0).difference(0, 1)
        assert (again.value, again.interval, again.p) == (gain.difference, gain.interval, gain.p)


def test_auto_trains_nothing_where_no_row_could_speak_for_it(backbone, tmp_path):
    run = fit_auto(backbone, tmp_path, n_validation=8, n_test=100)
    scores = run.certificate
    assert (scores.curve, scores.cost.n_steps, scores.kept.what) == ([], 0, "the first weights")
    assert scores.kept.why.startswith("nothing was trained, for 8 validation rows are too few")
    assert scores.baselines.keys() == {"majority", "tf-idf", "before-training"}


def fit_alone(backbone, reviews, out, name):
    return headstart.fit(tiny.spec(reviews, backbone, method={"name": name, "alone": True}, data={"limit": 60},
                                   train={"epochs": 1}, evaluate={"baselines": False}), out=out)


@pytest.mark.parametrize("name", ["lora", "adapter", "prompt-tuning", "prefix-tuning", "ia3"])
def test_an_adapter_alone_needs_its_backbone(backbone, reviews, tmp_path, name):
    copied = tmp_path / "backbone"
    copied.mkdir()
    for path in backbone.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    run = fit_alone(copied, reviews, tmp_path / "run", name)
    assert not (run.folder / "model.safetensors").exists()
    assert headstart.load(run.folder).predict(["a lovely film"]) == run.predict(["a lovely film"])
    tiny.backbone(copied, seed=7)
    with pytest.raises(ArtifactError, match="was learned on a backbone with sha256"):
        headstart.load(run.folder)


@pytest.mark.parametrize("name", ["lora", "ia3", "adapter"])
def test_an_adapter_alone_is_read_back_where_peft_shortens_its_list_of_layers(reviews, tmp_path, name):
    deep = tiny.backbone(tmp_path / "deep", num_hidden_layers=5)  # of twenty layers and more it keeps the ends of names
    run = fit_alone(deep, reviews, tmp_path / "run", name)
    assert headstart.load(run.folder).predict(["a lovely film"]) == run.predict(["a lovely film"])


def test_peft_itself_loads_what_lora_stored(backbone, reviews, tmp_path):
    import peft
    import transformers

    run = fit_alone(backbone, reviews, tmp_path / "run", "lora")
    plain = transformers.AutoModel.from_pretrained(backbone)
    theirs = peft.PeftModel.from_pretrained(plain, run.folder / "adapter").eval()
    ours, _ = weights.open_model(run.folder, run.task, run.spec)
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad():
        torch.testing.assert_close(theirs(**inputs).last_hidden_state, ours.eval().encoder(**inputs).last_hidden_state)


def test_a_merged_lora_is_a_plain_model(backbone, reviews, tmp_path):
    run = headstart.fit(tiny.spec(reviews, backbone, method="lora", data={"limit": 60}, train={"epochs": 1},
                                  evaluate={"baselines": False}), out=tmp_path / "run")
    assert not (run.folder / "adapter").exists()
    assert load_file(run.folder / "model.safetensors").keys() == load_file(backbone / "model.safetensors").keys()


def test_an_adapter_folder_that_headstart_did_not_write_is_refused(backbone, reviews, tmp_path):
    from headstart.models import adapters

    run = fit_alone(backbone, reviews, tmp_path / "run", "lora")
    folder = run.folder / "adapter"
    described = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**described, "peft_type": "XLORA"}), "utf-8")
    model = backbones.build_model(backbones.load_backbone(str(backbone), 64), run.task, "mean", seed=0)
    with pytest.raises(ArtifactError, match='"XLORA", which headstart does not write'):
        adapters.restore(model, folder)


@pytest.mark.parametrize(("validation_share", "n_evaluations"), [(0.05, 2), (0.3, 3)])
def test_setfit_lets_few_rows_choose_nothing(backbone, reviews, tmp_path, validation_share, n_evaluations):
    data = {"limit": 200, "validation_limit": 60, "validation_share": validation_share}
    run = headstart.fit(tiny.spec(reviews, backbone, method="setfit", data=data), out=tmp_path / "run")
    assert len(run.scores["curve"]) == n_evaluations  # before, and after each of two epochs where it may choose
    if n_evaluations == 2:
        assert run.scores["data"]["n_validation"] < 30
        assert run.scores["kept"]["what"] == "the best trained weights"


def test_options_come_in_reading_order():
    assert list(methods.options_of(methods.build({"name": "lora"}))) == [
        "name", "rank", "alpha", "dropout", "targets", "last_blocks", "alone"]
    assert list(methods.options_of(methods.build({"name": "prefix-tuning"}))) == ["name", "n_tokens", "alone"]


def test_concrete_methods_have_no_subclasses():
    kinds = [type(methods.build({"name": name})) for name in methods.names()]
    assert len(kinds) == 12
    assert all(not kind.__subclasses__() for kind in kinds)


def test_setfit_takes_no_micro_batches_for_its_loss_compares_the_rows_of_a_batch(backbone, reviews, tmp_path):
    spec = tiny.spec(reviews, backbone, method="setfit", train={"tokens_per_micro_batch": 64})
    with pytest.raises(SpecError, match=r'would change the loss of "setfit", which compares the rows of a batch'):
        headstart.fit(spec, out=tmp_path / "run")
