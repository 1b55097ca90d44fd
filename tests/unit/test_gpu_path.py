"""What training does otherwise on a GPU, forced on a CPU: numbers are read late, batches made ahead, values kept on the
device, and what does not fit is cut."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from headstart.core.errors import DivergenceError, Interrupted, ResourceError
from headstart.core.manifest import seal
from headstart.core.progress import Progress
from headstart.core.values import Batch, Window
from headstart.core.windows import store
from headstart.features.forward import CachedForward
from headstart.models import backbone as backbones
from headstart.models import blocks, device, masks
from headstart.runs import fit, resolve
from headstart.tasks.text_classification import TextClassification
from headstart.training import batches, loop, prefetch
from headstart.training.checkpoint import checkpoints
from headstart.training.evaluator import Evaluator
from headstart.training.head import HeadSolver
from headstart.training.learner import Learner
from headstart.training.memory import Memory, padded_tokens
from headstart.training.signals import Stop

CPU = torch.device("cpu")
N_STEPS = 11


# ---- numbers read late -----------------------------------------------------------------------------------------------


def steps_of(size: int, spoil_at: tuple[int, ...]):
    """Steps over 64 rows in micro-batches of `size`; those of `spoil_at` end in a row whose loss is no number."""
    for n in range(1, N_STEPS + 1):
        rows = [Batch({"i": np.arange(i, min(i + size, 64))}, {}, size) for i in range(0, 64, size)]
        yield [*rows, Batch({"i": np.array([-1])}, {}, 1)] if n in spoil_at else rows


def train(name="adamw", size=64, spoil_at=(), accelerator=None, **how):
    """A small net under `loop.train`. Returns its weights' tensors and the iterator of steps."""
    torch.manual_seed(0)
    x, model = torch.randn(64, 3), torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.1),
                                                       torch.nn.Linear(8, 1))
    y = x.sum(1)

    def loss(batch):
        i = batch.inputs["i"]
        error = ((model(x[i]).squeeze(1) - y[i]) ** 2).sum()
        return (error * float("nan") if i[0] < 0 else error), torch.tensor(len(i))

    accelerator = accelerator or Accelerator()
    optimizer = accelerator.prepare_optimizer(
        loop.optimizer(name, [{"params": list(model.parameters()), "lr": 0.05, "weight_decay": 0.01}]))
    return list(model.parameters()), loop.train(loss, steps_of(size, spoil_at), optimizer, lambda n: 1 / n, seed=3,
                                                accelerator=accelerator, clip_norm=1.0, **how)


def numbers(steps):
    return [(step.n, step.loss, step.lr, step.grad_norm, step.n_tokens) for measured in steps for step in measured]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("size", [64, 10])
def test_steps_read_late_are_those_read_at_once(name, size):
    weights, steps = train(name, size)
    at_once = list(steps)
    later, steps = train(name, size, sync_every=4, is_due=lambda n: n == N_STEPS)
    read_late = list(steps)
    assert list(map(len, at_once)) == [1] * N_STEPS
    assert list(map(len, read_late)) == [0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 3]
    assert numbers(read_late) == numbers(at_once)  # to the last bit
    assert all(torch.equal(a, b) for a, b in zip(weights, later, strict=True))
    assert all(step.seconds > 0 for step in read_late[3])


def test_an_optimizer_that_cannot_be_stopped_on_the_device_is_waited_for():
    _, steps = train("rmsprop", sync_every=4)
    assert list(map(len, steps)) == [1] * N_STEPS


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize(("spoil_at", "before"), [((6, 7), [5]), ((5,), []), ((8,), [5, 6, 7])])
def test_divergence_that_is_read_late_names_its_step_and_has_moved_nothing(name, spoil_at, before):
    weights, steps = train(name)
    for _ in range(spoil_at[0] - 1):
        next(steps)
    sound = [p.detach().clone() for p in weights]
    weights, steps = train(name, spoil_at=spoil_at, sync_every=4)
    assert [step.n for measured in (next(steps) for _ in range(7)) for step in measured] == [1, 2, 3, 4]
    if before:
        assert [step.n for step in next(steps)] == before
    with pytest.raises(DivergenceError, match=f"step {spoil_at[0]}: loss nan, gradient norm nan; the weights were not"):
        next(steps)
    assert all(torch.equal(a, b) for a, b in zip(weights, sound, strict=True))


class Waits(TorchDispatchMode):
    """Counts what a GPU would be waited for in."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().partition("::")[2] in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2"):
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "albert"])
@pytest.mark.parametrize("task", ["text-classification", "multi-label-classification"])
def test_nothing_in_a_step_waits_for_the_device(data, tmp_path, family, task):
    learner = learner_of((data[0], tiny.backbone(tmp_path / "model", family)), tmp_path / "work", task=task)
    job, sync_every = learner.job, 5
    masks.never_look(job.model)

    def steps():
        return loop.train(learner._loss({}), batches.steps(job.windows["train"], 256, 64, 0), learner.optimizer,
                          lambda n: 1.0, accelerator=job.accelerator, clip_norm=1.0, seed=0, sync_every=sync_every)

    blocks.train_mode(job.model)
    taken = steps()
    with Waits() as waits:
        assert [len(next(taken)) for _ in range(5)] == [0, 0, 0, 0, 5]
    assert waits.names == []
    sync_every = 1
    taken = steps()
    with Waits() as waits:
        next(taken)
    assert waits.names  # it sees them where they are


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_masks_that_nobody_looks_at_are_the_same_masks(tmp_path, family):
    loaded = backbones.load_backbone(str(tiny.backbone(tmp_path / "model", family)), 64)
    model: Any = backbones.build_model(loaded, TextClassification(labels=("a", "b")), "mean", seed=0)
    inputs = {"input_ids": torch.randint(5, 40, (3, 9)), "attention_mask": torch.ones(3, 9, dtype=torch.int64)}
    some = {**inputs, "attention_mask": inputs["attention_mask"].tril(6)}
    before = [model(some).logits, model(inputs).logits]
    config = str(model.encoder.config.to_dict())
    masks.never_look(model)
    assert str(model.encoder.config.to_dict()) == config  # it names stored activations
    for logits, now in zip(before, (some, inputs), strict=True):
        torch.testing.assert_close(model(now).logits, logits, rtol=1e-6, atol=1e-6)
        with torch.inference_mode():
            torch.testing.assert_close(model(now).logits, logits, rtol=1e-6, atol=1e-6)
    assert torch.isfinite(before[0]).all()


class Scaling:
    """What accelerate does under fp16, which it allows on a GPU only, with torch's own loss scaler."""

    def __init__(self):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
        self.autocast = contextlib.nullcontext

    def prepare_optimizer(self, optimizer):
        def step():
            self.scaler.step(optimizer)
            self.scaler.update()

        return SimpleNamespace(optimizer=optimizer, param_groups=optimizer.param_groups, step=step,
                               zero_grad=optimizer.zero_grad)

    def backward(self, loss):
        self.scaler.scale(loss).backward()

    def unscale_gradients(self, prepared):
        self.scaler.unscale_(prepared.optimizer)


def test_a_scaler_skips_steps_read_late_as_those_read_at_once():
    weights, steps = train(accelerator=Scaling(), spoil_at=(2, 6))
    at_once = numbers(steps)
    later, steps = train(accelerator=Scaling(), spoil_at=(2, 6), sync_every=4, is_due=lambda n: n == N_STEPS)
    assert [n for n, loss, *_ in at_once if not np.isfinite(loss)] == [2, 6]
    assert str(numbers(steps)) == str(at_once)  # nan is not equal to itself
    assert all(torch.equal(a, b) for a, b in zip(weights, later, strict=True))
    _, steps = train(accelerator=Scaling(), spoil_at=tuple(range(2, 30)), sync_every=4)
    assert len(numbers(steps)) == 8  # fewer overflows in a row than are allowed


# ---- a whole run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return tiny.write_csv(folder / "reviews.csv", tiny.rows(200)), tiny.backbone(folder / "bert", num_hidden_layers=1)


def learner_of(data, work, sync_every=None, stop_at=0, **fields) -> Learner:
    """The Learner that `fit` makes. stop_at: the step in which a signal comes."""
    work.mkdir(exist_ok=True)
    stop = Stop()
    layers = resolve.stack([("test", tiny.spec(*data, **fields))])
    job = fit.prepare(*layers.resolve(), layers.method, work, stop, Progress(quiet=True), layers)
    fit.store_frozen(job)
    evaluator = Evaluator(job)
    learner = Learner(job, evaluator, HeadSolver(job, evaluator), sync_every)

    n_moved = itertools.count(1)

    def count(*_):
        if next(n_moved) == stop_at:
            stop.signum = 15

    prepared: Any = learner.optimizer
    prepared.optimizer.register_step_post_hook(count)
    return learner


def learn(data, work, resume=False, **how) -> Learner:
    learner = learner_of(data, work, **how)
    learner.learn(resume=resume)
    return learner


def log_of(work):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in (work / "steps.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_a_run_read_late_is_the_run_also_when_it_is_stopped_between_two_looks(data, tmp_path, average):
    fields = {"method": {"name": "fine-tuning", "average": average},
              "train": {"evaluations_per_epoch": 2, "epochs": 2, "patience": 9}}
    whole = learn(data, tmp_path / "whole", **fields)
    late = learn(data, tmp_path / "late", sync_every=4, **fields)
    with pytest.raises(Interrupted):
        learn(data, tmp_path / "stopped", sync_every=4, stop_at=5, **fields)
    assert checkpoints(tmp_path / "stopped")[-1].name == "checkpoint-00000005"
    assert len(log_of(tmp_path / "stopped")) == 5
    resumed = learn(data, tmp_path / "stopped", resume=True, sync_every=4, **fields)
    assert len(log_of(tmp_path / "whole")) > 16
    assert len(whole.state.curve) == 5
    for other, work in ((late, "late"), (resumed, "stopped")):
        assert log_of(tmp_path / work) == log_of(tmp_path / "whole")
        assert other.state.curve == whole.state.curve
        assert all(torch.equal(p, whole.moving[name]) for name, p in other.moving.items())


def test_a_run_that_diverges_has_logged_what_came_before(data, tmp_path):
    fields = {"train": {"max_steps": 12, "lr": 1e30, "schedule": "constant", "warmup_share": 0.0}}
    messages = []
    for work, sync_every in ((tmp_path / "at-once", 1), (tmp_path / "late", 10)):
        with pytest.raises(DivergenceError) as caught:
            learn(data, work, sync_every=sync_every, **fields)
        messages.append((str(caught.value), log_of(work), checkpoints(work)))
    assert messages[0] == messages[1]
    assert 1 <= len(messages[0][1]) < 10


# ---- pieces cut by memory --------------------------------------------------------------------------------------------


def padded(lengths, rows=None) -> Batch:
    """Windows of these lengths as a batch; the target counts their tokens."""
    n_tokens = max(lengths)
    mask_BT = (np.arange(n_tokens) < np.array(lengths)[:, None]).astype(np.int64)
    return Batch({"input_ids": mask_BT * 7, "attention_mask": mask_BT},
                 {"label": np.array(lengths), "tags": np.where(mask_BT == 1, 1, -100)}, sum(lengths), rows)


def test_cut_batches_hold_the_same_windows_without_their_padding():
    whole, memory = padded([3, 9, 2, 2, 5, 9]), Memory(20)
    pieces = memory.cut([whole])
    assert [piece.target["label"].tolist() for piece in pieces] == [[3], [9, 2], [2], [5, 9]]
    assert all(padded_tokens(piece) <= 20 for piece in pieces)
    assert sum(piece.n_tokens for piece in pieces) == whole.n_tokens
    for piece in pieces:
        assert piece.inputs["input_ids"].shape == (piece.n_windows, piece.target["label"].max())
        assert piece.inputs["input_ids"].sum() == 7 * piece.n_tokens
        assert piece.target["tags"].shape == piece.inputs["attention_mask"].shape
    assert Memory().cut([whole]) == [whole]


def test_a_row_whose_windows_stay_together_is_not_cut():
    pieces = Memory(1).cut([padded([4, 4, 4, 5, 5], rows=np.array([8, 8, 3, 3, 3]))])
    assert [list(piece.rows_B) for piece in pieces if piece.rows_B is not None] == [[8, 8], [3, 3, 3]]
    with pytest.raises(ResourceError, match="step 7: does not fit"):
        Memory().ran_out(pieces[:1], 7)
    with pytest.raises(ResourceError, match="Lower train"):
        Memory(can_cut=False).ran_out([padded([4, 4])], 1)


def run_in(limit, memory, sync_every=1):
    """Losses of windows that fit up to `limit` padded tokens; half of the gradient is there when memory runs out."""
    torch.manual_seed(1)
    model = torch.nn.Linear(1, 1)
    lengths = np.random.default_rng(0).integers(1, 12, (6, 16))
    sizes = []

    class OnlyUpToLimit(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value, n):
            ctx.n = n
            return value

        @staticmethod
        def backward(ctx, gradient):
            if ctx.n > limit:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return gradient, None

    def loss(batch):
        sizes.append(padded_tokens(batch))
        x = torch.from_numpy(batch.target["label"]).float()[:, None]
        error = ((OnlyUpToLimit.apply(model(x), padded_tokens(batch)) + 0 * model.bias - 2 * x) ** 2).sum()
        return error, torch.tensor(batch.n_windows)

    optimizer = loop.optimizer("adamw", [{"params": list(model.parameters()), "lr": 0.1}])
    steps = loop.train(loss, ([padded(of_step.tolist())] for of_step in lengths), optimizer, lambda n: 1.0, seed=0,
                       accelerator=Accelerator(), clip_norm=1e9, memory=memory, sync_every=sync_every)
    return [step for measured in steps for step in measured], model, sizes


@pytest.mark.parametrize("sync_every", [1, 2])
def test_a_step_that_does_not_fit_is_the_sum_of_its_pieces(sync_every):
    whole, of_whole, _ = run_in(10_000, None)
    memory = Memory()
    pieces, of_pieces, sizes = run_in(50, memory, sync_every)
    assert memory.tokens <= 50
    assert sum(size > 50 for size in sizes) <= 2  # it is learned once, not in each step
    assert len(whole) == len(pieces) == 6
    for a, b in zip(whole, pieces, strict=True):
        assert (b.loss, b.grad_norm, b.n_tokens) == (pytest.approx(a.loss), pytest.approx(a.grad_norm), a.n_tokens)
    torch.testing.assert_close(of_pieces.weight, of_whole.weight, rtol=1e-5, atol=1e-6)


def test_a_window_that_does_not_fit_alone_ends_the_run():
    with pytest.raises(ResourceError, match="step 1: does not fit into the device's memory"):
        run_in(5, Memory())
    with pytest.raises(torch.OutOfMemoryError):
        run_in(5, None)


def test_a_resumed_run_knows_what_memory_held(data, tmp_path):
    fields = {"train": {"epochs": 1}}
    stopped = learner_of(data, tmp_path / "run", stop_at=3, **fields)
    stopped.memory.tokens = 64
    with pytest.raises(Interrupted):
        stopped.learn(resume=False)
    shutil.copytree(tmp_path / "run", tmp_path / "older")
    resumed = learn(data, tmp_path / "run", resume=True, **fields)
    assert resumed.memory.tokens == resumed.state.micro_tokens == 64
    for folder in checkpoints(tmp_path / "older"):  # as versions wrote it that knew nothing of this
        state = json.loads((folder / "state.json").read_text("utf-8"))
        assert state.pop("micro_tokens") == 64
        (folder / "state.json").write_text(json.dumps(state), "utf-8")
        seal(folder)
    older = learner_of(data, tmp_path / "older", **fields)
    assert older._restore().count("\n") == 3
    assert older.memory.tokens == 0


def test_answers_that_do_not_fit_at_once_are_computed_by_halves():
    inputs = {"x": np.arange(22, dtype=np.float32).reshape(11, 2)}
    n_windows = []

    def compute(inputs):
        n_windows.append(len(inputs["x"]))
        if len(inputs["x"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 2 * inputs["x"]

    assert np.array_equal(device.by_halves(compute, inputs), 2 * inputs["x"])
    assert n_windows[:3] == [11, 5, 2]

    def never(inputs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(ResourceError, match="of one window"):
        device.by_halves(never, inputs)
    assert device.tokens_at_once(1024, True, CPU) == 1024
    assert device.tokens_at_once(1024, True, torch.device("cuda")) == device.GPU_TOKENS
    assert device.tokens_at_once(1024, False, torch.device("cuda")) == 1024


# ---- batches made ahead ----------------------------------------------------------------------------------------------


def test_on_a_cpu_batches_come_as_they_are():
    def endless():
        while True:
            yield [padded([3, 2])]

    steps = endless()
    assert prefetch.for_device(steps, CPU) is steps
    batch = next(steps)[0]
    tensors = device.to_device(batch.inputs, CPU)
    assert all(tensors[name].data_ptr() == array.ctypes.data for name, array in batch.inputs.items())


def test_batches_made_ahead_keep_their_order_and_are_few():
    made = []

    def numbers():
        for n in range(20):
            made.append((n, threading.current_thread().name))
            yield n

    doubled = prefetch.ahead(numbers(), lambda n: 2 * n, 3)
    for n in range(20):
        assert next(doubled) == 2 * n
        assert len(made) <= n + 1 + 3
    assert next(doubled, None) is None
    assert {name.partition("_")[0] for _, name in made} == {"prefetch"}


@pytest.mark.parametrize("fails_in", ["items", "ready"])
def test_what_goes_wrong_ahead_is_raised_in_its_place(fails_in):
    def numbers():
        for n in range(5):
            if n == 3 and fails_in == "items":
                raise ZeroDivisionError
            yield n

    steps = prefetch.ahead(numbers(), lambda n: n if fails_in == "items" else n // (n != 3))
    assert [next(steps) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(steps)


def test_the_thread_ends_when_no_more_batches_are_wanted():
    before = threading.active_count()
    steps = prefetch.ahead(iter(range(10**9)), lambda n: n)
    assert next(steps) == 0
    assert threading.active_count() == before + 1
    steps.close()
    assert threading.active_count() == before


# ---- values kept on the device ---------------------------------------------------------------------------------------


@pytest.fixture
def forwards(data, tmp_path, monkeypatch):
    """Makes a CachedForward with a budget, of one model and its 40 windows."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    task = TextClassification(labels=("negative", "positive"))
    loaded = backbones.load_backbone(str(data[1]), 64)
    encoded = (task.encode(i, {"text": row["text"]}, loaded.reader)[0] for i, row in enumerate(tiny.rows(40)))
    windows = store((Window(w.row, w.inputs) for w in encoded), tmp_path / "windows", loaded.reader.pad_id)
    model = backbones.build_model(loaded, task, "mean", seed=0).eval().requires_grad_(False)

    def make(resident_bytes, precision="fp16"):
        forward = CachedForward(model, CPU, precision, Progress(quiet=True), resident_bytes)
        forward.remember([(windows, np.arange(40))], [1], 256)
        return forward

    return make, windows, tmp_path / "cache"


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_values_on_the_device_are_those_on_the_disk(forwards, precision):
    make, windows, _ = forwards
    n_bytes = int(windows.lengths_N.sum()) * 32 * {"fp16": 2, "fp32": 4}[precision]
    plain = make(None, precision)
    assert plain.stored[1].resident is None  # a CPU keeps none unless it is told to
    rng = np.random.default_rng(0)
    batches = [windows.batch(rng.permutation(40)[:n]).inputs for n in (7, 1, 40, 13, 40, 3)]
    with torch.inference_mode():
        wanted = [plain(inputs).logits for inputs in batches]
    for budget, share in ((n_bytes, 1.0), (10 * n_bytes, 1.0), (n_bytes // 2, 0.5), (200, 0.1), (10, 0.0)):
        forward = make(budget, precision)
        resident = forward.stored[1].resident
        assert (resident is not None) == (share > 0)
        for inputs, logits in zip(batches, wanted, strict=True):
            with torch.inference_mode():
                assert torch.equal(forward(inputs).logits, logits)
        if resident is not None:
            assert resident.n_bytes <= budget
            held = sum(n for _, n in resident.places.values()) / int(windows.lengths_N.sum())
            assert held == 1.0 if share == 1.0 else held <= share


def test_what_is_on_the_device_is_read_from_the_disk_once(forwards):
    make, windows, cache = forwards
    forward = make(10**9)
    inputs = windows.batch(np.arange(40)).inputs
    before = forward(inputs).logits
    damaged = list(cache.rglob("*.bin"))
    assert damaged
    for path in damaged:
        path.write_bytes(b"")
    assert torch.equal(forward(inputs).logits, before)
    assert forward.stored[1].store.n_damaged == 0  # nobody looked
    assert forward.stored[1].resident.n_used == windows.lengths_N.sum()


def test_training_from_the_device_is_training_from_the_disk(data, tmp_path):
    losses = []
    for name, budget in (("disk", None), ("device", 10**9)):
        learner = learner_of((data[0], tiny.backbone(tmp_path / name)), tmp_path / f"{name}.work",
                             method={"name": "fine-tuning", "last_blocks": 1})
        forward = learner.job.forward
        forward.stored.clear()
        forward.resident_bytes = budget
        fit.store_frozen(learner.job)
        learner.learn(resume=False)
        losses.append(log_of(tmp_path / f"{name}.work"))
    resident = forward.stored[1].resident
    assert resident is not None
    assert resident.n_used > 0
    assert losses[0] == losses[1]
