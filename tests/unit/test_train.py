"""The loop: schedules, optimizers, micro-batches, and losses that are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from headstart.core.errors import DivergenceError
from headstart.core.values import Batch, Window
from headstart.core.windows import WindowStore, store
from headstart.training import batches
from headstart.training import loop as train
from headstart.training.step import average_and_clip


def line(n: int = 64, seed: int = 0) -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(n, 3)
    return torch.nn.Linear(3, 1), x, (x @ torch.tensor([[1.0], [-2.0], [0.5]])).squeeze(1)


def steps_of(x, y, size, spoil_at=None):
    """Lists of micro-batches of `size` rows each, four times over the data."""
    for n in range(4):
        rows = [Batch({"i": np.arange(i, min(i + size, len(x)))}, {}, size) for i in range(0, len(x), size)]
        yield rows if n + 1 != spoil_at else [*rows, Batch({"i": np.array([-1])}, {}, 1)]


def run(name="adamw", size=64, spoil_at=None, spoil=float("nan")):
    model, x, y = line()

    def loss(batch):
        i = batch.inputs["i"]
        error = ((model(x[i]).squeeze(1) - y[i]) ** 2).sum()
        return (error * spoil if i[0] < 0 else error), torch.tensor(len(i))

    accelerator = Accelerator()
    optimizer = accelerator.prepare_optimizer(train.optimizer(name, [{"params": list(model.parameters()), "lr": 0.05}]))
    steps = train.train(loss, steps_of(x, y, size, spoil_at), optimizer, lambda n: 1.0, accelerator=accelerator,
                        clip_norm=10.0, seed=0)
    return model, (step for measured in steps for step in measured)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop", "adafactor"])
def test_every_optimizer_lowers_the_loss(name):
    _, steps = run(name)
    losses = [step.loss for step in steps]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_micro_batches_take_the_same_steps():
    whole, steps = run(size=64)
    first = list(steps)
    for size in (16, 5, 1):
        pieces, steps = run(size=size)
        for a, b in zip(first, steps, strict=True):
            assert b.loss == pytest.approx(a.loss, rel=1e-5)
            assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-5)
        torch.testing.assert_close(pieces.weight, whole.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spoil", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_moves_nothing(spoil):
    model, steps = run(spoil_at=3, spoil=spoil)
    next(steps), next(steps)
    before = model.weight.detach().clone()
    with pytest.raises(DivergenceError) as caught:
        next(steps)
    assert torch.equal(model.weight, before)
    assert caught.value.exit_code == 3
    assert "the weights were not changed." in str(caught.value)
    assert "Lower train.lr (0.05) or raise train.warmup_share." in str(caught.value)


def test_gradients_are_clipped():
    gradients = [torch.full((3,), 4.0), torch.full((2, 2), -4.0)]
    weights: list[torch.Tensor] = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for w, g in zip(weights, gradients, strict=True):
        w.grad = g.clone()
    norm = average_and_clip(weights, 2.0, 1.0)
    assert norm == pytest.approx(2 * math.sqrt(7))
    clipped = [w.grad for w in weights if w.grad is not None]
    assert len(clipped) == len(weights)
    assert math.sqrt(sum(float((g**2).sum()) for g in clipped)) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "slanted-triangular"])
def test_schedules_rise_to_the_peak_and_fall(name):
    rate = train.schedule(name, 100, 0.1)
    values = [rate(n) for n in range(1, 101)]
    assert all(0 < v <= 1 for v in values)
    assert values[:10] == sorted(values[:10])
    assert max(values) == pytest.approx(1.0)
    assert values[10:] == sorted(values[10:], reverse=True)
    assert values[-1] == 1.0 if name == "constant" else values[-1] < 0.06


def windows(lengths, tmp_path) -> WindowStore:
    made = (Window(i, {"input_ids": [1] * n}, {"label": i % 2}) for i, n in enumerate(lengths))
    return store(made, tmp_path / "w", 0)


def test_batches_keep_the_budget_and_every_window(tmp_path):
    lengths = np.random.default_rng(0).integers(3, 60, 500)
    stored = windows(lengths, tmp_path)
    for number in range(3):
        order = batches.epoch(stored, 256, 7, number)
        assert sorted(np.concatenate(order)) == list(range(500))
        assert all(lengths[b].max() * len(b) <= 256 or len(b) == 1 for b in order)
        assert batches.padding_share(stored.lengths_N, order) < 0.08
    again = batches.epoch(stored, 256, 7, 1)
    assert all(np.array_equal(a, b) for a, b in zip(batches.epoch(stored, 256, 7, 1), again, strict=True))
    assert not np.array_equal(np.concatenate(again), np.concatenate(order))


def test_steps_can_be_entered_anywhere(tmp_path):
    stored = windows(np.random.default_rng(1).integers(3, 30, 100), tmp_path)
    from itertools import islice

    whole = list(islice(batches.steps(stored, 128, 64, 3), 40))
    for first in (1, 2, 17, 33):
        again = list(islice(batches.steps(stored, 128, 64, 3, first=first), 40 - first + 1))
        for a, b in zip(whole[first - 1 :], again, strict=True):
            assert len(a) == len(b)
            assert all(np.array_equal(x.inputs["input_ids"], y.inputs["input_ids"]) for x, y in zip(a, b, strict=True))
            assert all(np.array_equal(x.target["label"], y.target["label"]) for x, y in zip(a, b, strict=True))


def test_the_plan_counts_steps_and_evaluations(tmp_path):
    stored = windows([10] * 100, tmp_path)  # 12 windows in a batch of 128 tokens: 9 batches
    assert batches.plan(stored, 128, 0, 2, None, 1) == (18, {0: 0.0, 9: 1.0, 18: 2.0}, [0, 9])
    assert batches.plan(stored, 128, 0, 1, None, 3) == (9, {0: 0.0, 3: 1 / 3, 6: 2 / 3, 9: 1.0}, [0])
    n, evaluate_at, epochs_at = batches.plan(stored, 128, 0, 1, 12, 1)
    assert (n, list(evaluate_at), epochs_at) == (12, [0, 9, 12], [0, 9])
    assert batches.plan(stored, 128, 0, 5, 4, 1)[0] == 4


def test_few_rows_are_passed_over_more_often():
    assert batches.usual_epochs(np.full(100_000, 10), 512) == 3
    assert batches.usual_epochs(np.full(5_000, 13), 512) == 5
    assert batches.usual_epochs(np.full(10, 10), 512) == 12
