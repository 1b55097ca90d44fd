"""CachedForward answers as the plain model does, in whatever order it is called and weights move between calls."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headstart import methods
from headstart.core.progress import Progress
from headstart.core.values import Window
from headstart.core.windows import store
from headstart.features.forward import CachedForward
from headstart.models import adapters, blocks
from headstart.models import backbone as backbones
from headstart.tasks.text_classification import TextClassification

CALLS = ["remember 1", "remember 2", "remember features", "freeze 1", "freeze 2", "freeze encoder", "thaw", "step",
         "write", "write back", "wrap", "merge", "as pretrained", "train mode"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.backbone(tmp_path_factory.mktemp("model") / "bert", hidden_dropout_prob=0.0,
                         attention_probs_dropout_prob=0.0)


class Session:
    """One model, its cached forward pass, and the calls that a run could make."""

    def __init__(self, folder, work):
        self.task = TextClassification(labels=("bad", "good"))
        loaded = backbones.load_backbone(str(folder), 64)
        self.model = backbones.build_model(loaded, self.task, "mean", seed=0)
        encoded = [self.task.encode(i, {"text": row["text"]}, loaded.reader)[0] for i, row in enumerate(tiny.rows(4))]
        windows = store((Window(w.row, w.inputs) for w in encoded), work, loaded.reader.pad_id)
        self.parts = [(windows, np.arange(4))]
        self.inputs = windows.batch(np.arange(4)).inputs
        self.forward = CachedForward(self.model, torch.device("cpu"), "fp32", Progress(quiet=True))
        self.first = [p.detach().clone() for p in self.model.parameters()]
        self.is_wrapped = False

    def call(self, name):
        what, _, which = name.partition(" ")
        model, encoder = self.model, self.model.encoder
        if name == "remember features":
            self.forward.remember_features(self.parts, 256)
        elif what == "remember":
            self.forward.remember(self.parts, [int(which)], 256)
        elif name == "freeze encoder":
            encoder.requires_grad_(False)
        elif what == "freeze":
            blocks.freeze(encoder, int(which))
        elif name == "thaw":
            model.requires_grad_(True)
        elif name == "step":  # fused, as in training: torch does not count its writes
            self.forward(self.inputs).logits.square().sum().backward()
            moved = [p for p in model.parameters() if p.grad is not None]
            optimizer = torch.optim.AdamW(moved, lr=1e-2, fused=True)
            optimizer.step()
            optimizer.zero_grad()
        elif name == "write":
            with torch.no_grad():
                next(model.parameters()).add_(0.1)
        elif name == "write back" and not self.is_wrapped:
            with torch.no_grad():
                for p, value in zip(model.parameters(), self.first, strict=True):
                    p.copy_(value)
        elif name == "wrap" and not self.is_wrapped:
            methods.build({"name": "lora", "rank": 2}).prepare(model)
            self.is_wrapped = True
        elif name == "merge" and self.is_wrapped:
            adapters.merged(model)
            self.is_wrapped = False
        elif name == "as pretrained":
            with adapters.disabled(model):
                self.forward.remember_features(self.parts, 256)
                self.check()
        elif name == "train mode":
            blocks.train_mode(model)

    def check(self):
        """Logits, features and gradients are those of the plain model."""
        tensors = {name: torch.from_numpy(a) for name, a in self.inputs.items()}
        with torch.no_grad():
            plain = self.model(tensors)
            torch.testing.assert_close(self.forward(self.inputs).logits, plain.logits, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(self.forward.features(self.inputs), plain.features, rtol=1e-4, atol=1e-5)
        moving = [p for p in self.model.parameters() if p.requires_grad]
        if moving:
            gradients = [torch.autograd.grad(logits.square().sum(), moving, allow_unused=True, materialize_grads=True)
                         for logits in (self.forward(self.inputs).logits, self.model(tensors).logits)]
            torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@settings(max_examples=25, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(st.sampled_from(CALLS), min_size=1, max_size=10), check_each=st.booleans())
def test_any_order_of_calls_answers_as_the_plain_model(folder, tmp_path_factory, calls, check_each):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HEADSTART_CACHE", str(tmp_path_factory.mktemp("cache")))
        session = Session(folder, tmp_path_factory.mktemp("work") / "windows")
        for name in calls:
            session.call(name)
            if check_each:
                session.check()
        session.check()


@pytest.mark.parametrize("calls", [
    ["remember 2", "freeze 2", "thaw", "step", "freeze 2"],
    ["remember features", "freeze encoder", "thaw", "step", "freeze encoder"],
    ["remember features", "write"],
    ["remember 1", "freeze 1", "thaw", "step", "write back", "freeze 1"],
    ["wrap", "remember features", "step", "as pretrained", "merge"],
    ["remember 2", "freeze encoder", "wrap", "step", "merge", "freeze encoder"],
])
def test_orders_in_which_stored_values_go_stale(folder, tmp_path, monkeypatch, calls):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    session = Session(folder, tmp_path / "windows")
    for name in calls:
        session.call(name)
    session.check()
