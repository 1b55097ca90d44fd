"""Every task whose answers have a mean: several models answer as one, from the decode to the exported folder."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tiny
from cards import rows_of, run_the_card

import headstart
from headstart import tasks
from headstart.core.ensemble import Blend, Member, joined
from headstart.core.predict import is_close, predict
from headstart.core.values import LinearMap, MemberLogits
from headstart.models import backbone as backbones
from headstart.models.runtime import TorchRuntime

QUICK = ("text-classification", "token-classification", "sentence-similarity")
BLENDABLE = [name for name in tiny.ANSWERING if tasks.build({"name": name}).is_blendable]
STACKABLE = ["text-classification", "multi-label-classification", "text-regression", "multiple-choice",
             "relation-extraction"]


def some(names: list[str]) -> list:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def test_every_task_that_answers_at_once_has_a_mean():
    assert BLENDABLE == tiny.ANSWERING
    assert len(BLENDABLE) == 8
    assert not tasks.build({"name": "summarization"}).is_blendable


@pytest.fixture(params=BLENDABLE)
def task(request):
    kind = tasks.find(request.param)
    return kind().learn(kind.examples)


@pytest.fixture
def members(task, backbone, tmp_path):
    """Two models of two families, one of which reads token types and the other does not."""
    import torch

    folders = (backbone, tiny.backbone(tmp_path / "distilbert", "distilbert", seed=1))
    made: list[Member] = []
    for folder in folders:
        loaded = backbones.load_backbone(str(folder), 64)
        model = backbones.build_model(loaded, task, "mean", seed=len(made)).eval()
        made.append(Member(task, loaded.reader, TorchRuntime(model, torch.device("cpu"))))
    return made


def alone(member, rows):
    return list(predict(member.task, rows, member.reader, member.runtime))


def together(task, members, blend, rows):
    both, runtime = joined(task, members, blend)
    return list(predict(both, rows, members[0].reader, runtime, tokens_per_batch=64))


def test_a_member_with_all_the_weight_answers_alone(task, members):
    blind = [task.without_gold(row) for row in task.examples]
    for m, member in enumerate(members):
        answers = together(task, members, Blend(np.eye(2)[m]), blind)
        if "embedding" in answers[0] or "embeddings" in answers[0]:  # the vectors of the other one stand beside, as 0
            answers = [{"similarity": answer.get("similarity")} for answer in answers]
            expected = [{"similarity": answer.get("similarity")} for answer in alone(member, blind)]
        else:
            expected = alone(member, blind)
        assert is_close(expected, answers, 1e-4)


def test_the_same_model_twice_answers_as_once(task, members):
    blind = [task.without_gold(row) for row in task.examples]
    answers = together(task, [members[0]] * 2, Blend(np.array([0.25, 0.75])), blind)
    expected = alone(members[0], blind)
    strip = {"embedding", "embeddings"}
    assert is_close([{k: v for k, v in a.items() if k not in strip} for a in expected],
                    [{k: v for k, v in a.items() if k not in strip} for a in answers], 1e-4)


def test_the_order_of_labels_does_not_matter(task, members):
    if not getattr(task, "labels", ()):
        return
    other = dataclasses.replace(task, labels=task.labels[::-1])
    blind = [task.without_gold(row) for row in task.examples]
    windows = [task.encode(i, row, members[0].reader) for i, row in enumerate(blind)]
    rng = np.random.default_rng(0)
    for row, of_row in zip(blind, windows, strict=True):
        shape = (lambda w: (len(w), task.n_outputs)) if task.head.kind == "tokens" else (lambda w: (task.n_outputs,))
        logits = [rng.normal(size=shape(w)).astype(np.float32) for w in of_row]
        names, others = ((t.tags_K if hasattr(t, "tags_K") else t.labels) for t in (task, other))
        order = [names.index(name) for name in others]
        parts = [MemberLogits(task, of_row, logits), MemberLogits(other, of_row, [z[..., order] for z in logits])]
        assert is_close(task.decode(row, of_row, logits), task.blend(row, parts, np.array([0.5, 0.5])), 1e-5)


def test_answers_are_the_same_alone_and_in_a_batch(task, members):
    blind = [task.without_gold(row) for row in task.examples]
    blend = Blend(np.array([0.5, 0.5]))
    in_a_batch = together(task, members, blend, blind)
    one_by_one = [together(task, members, blend, [row])[0] for row in blind]
    assert is_close(in_a_batch, one_by_one, 1e-4)


def test_a_head_on_the_first_members_logits_is_that_member(task, members):
    if task.name not in STACKABLE:
        return
    n = task.n_outputs
    head = LinearMap(np.hstack([np.eye(n), np.zeros((n, n))]).astype(np.float32), np.zeros(n, np.float32), 1.0)
    blind = [task.without_gold(row) for row in task.examples]
    answers = together(task, members, Blend(np.array([0.5, 0.5]), head), blind)
    assert is_close(alone(members[0], blind), answers, 1e-4)


@pytest.mark.parametrize("name", some(BLENDABLE))
def test_runs_become_one_artifact_that_answers_and_is_exported(name, backbone, tmp_path):
    kind = tasks.find(name)
    rows = rows_of(kind)
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    other = tiny.backbone(tmp_path / "distilbert", "distilbert", seed=1)
    for out, model in (("a", backbone), ("b", other)):
        headstart.fit(tiny.spec(source, model, task=name, data={"near_duplicate": 1, "validation_share": 0.3},
                                train={"epochs": 1}, evaluate={"n_resamples": 100}), out=tmp_path / out)
    how = "stacking" if name in STACKABLE else "mean"
    both = headstart.ensemble([tmp_path / "a", tmp_path / "b"], out=tmp_path / "both", how=how)
    blind = [kind().without_gold(row) for row in kind.examples]
    answers = both.predict(blind)
    assert answers == headstart.load(tmp_path / "both").predict(blind)
    assert both.evaluate(rows)["n"] == len(rows)
    assert {"best-member"} < set(both.scores["baselines"])
    assert both.certificate.fitted.n == both.certificate.data.n_test
    run_the_card(both.folder)
    exported = headstart.export(tmp_path / "both", out=tmp_path / "both-onnx")
    assert is_close(answers, exported.predict(blind), 1e-3)
