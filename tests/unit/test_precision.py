"""16 bits where the processor is faster with them, measured; never emulated; 32 bits in all that is not a product."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import headstart
from headstart import methods
from headstart.core.errors import Interrupted, RunFolderError, SpecError
from headstart.core.model import Precision
from headstart.core.progress import Progress
from headstart.models import backbone as backbones
from headstart.models import blocks
from headstart.models.precision import FP32, Timing, bf16_instructions, choose, timing
from headstart.tasks.text_classification import TextClassification
from headstart.use.vectors import Extractor

CPU = torch.device("cpu")
BF16 = Precision("bf16", bf16_instructions(CPU))
needs_bf16 = pytest.mark.skipif(not BF16.instructions, reason="the processor has no instructions for bf16")
SLOWER, FASTER = Timing(1.0, 0.9), Timing(1.0, 0.5)


def never(device: torch.device, width: int) -> Timing:
    raise AssertionError("was measured")


# ---- what is chosen -------------------------------------------------------------------------------------------------


def without_bf16(*command: str) -> subprocess.CompletedProcess[str]:
    """Python on a processor that has no bf16, as far as the library that computes can tell."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=False)


def test_a_processor_without_the_instructions_is_never_asked_to_emulate_them():
    program = """
import torch
from headstart.core.errors import SpecError
from headstart.models.precision import choose
def never(device, width): raise AssertionError("was measured")
cpu = torch.device("cpu")
print(choose("auto", cpu, 4096, measure=never).name)
try: choose("bf16", cpu, 4096, measure=never)
except SpecError as error: print(error)
"""
    ended = without_bf16("-c", program)
    assert ended.returncode == 0, ended.stderr
    chosen, refused = ended.stdout.split("\n", 1)
    assert chosen == "fp32"
    assert 'train.precision: "bf16" is not for this machine' in refused
    assert "Use auto or fp32." in refused


def test_a_run_that_wants_what_the_processor_lacks_is_refused(backbone, reviews, tmp_path):
    out = tmp_path / "run"
    ended = without_bf16("-m", "headstart", "fit", str(reviews), "--out", str(out), "--set", f"backbone={backbone}",
                         "--set", "train.precision=bf16")
    assert ended.returncode == 2
    assert "would emulate" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not out.exists()


def test_fp16_is_for_gpus():
    with pytest.raises(SpecError, match='"fp16" is for a GPU; this run computes on cpu'):
        choose("fp16", CPU, 384)


def test_a_precision_that_there_is_not_is_refused(backbone, run):
    with pytest.raises(SpecError, match='precision: "bf61" is none; did you mean "bf16"'):
        Extractor(str(backbone), precision="bf61")
    with pytest.raises(SpecError, match='precision: "double" is none'):
        headstart.load(run, precision="double")


@needs_bf16
def test_auto_takes_what_was_measured_to_be_faster_and_measures_once(tmp_path):
    assert choose("auto", CPU, 384, measure=lambda device, width: SLOWER).name == "fp32"
    assert choose("auto", CPU, 384, tmp_path, lambda device, width: FASTER) == BF16
    assert choose("auto", CPU, 384, tmp_path, never) == BF16
    assert choose("auto", CPU, 768, tmp_path, lambda device, width: SLOWER).name == "fp32"  # another width, measured
    [path] = [path for path in tmp_path.iterdir() if json.loads(path.read_text())["width"] == 384]
    path.write_text('{"fp32_s": "fast"}')
    assert choose("auto", CPU, 384, tmp_path, lambda device, width: SLOWER).name == "fp32"  # damaged: measured again
    assert choose("auto", CPU, 384, tmp_path, never).name == "fp32"


@needs_bf16
def test_what_need_not_be_measured_is_not(tmp_path):
    assert choose("auto", CPU, 64, measure=never).name == "fp32"
    assert choose("fp32", CPU, 384, measure=never).name == "fp32"
    assert choose("bf16", CPU, 384, measure=never) == BF16


@needs_bf16
def test_a_folder_that_cannot_be_written_costs_only_the_measurement(tmp_path):
    (tmp_path / "file").write_text("x")
    assert choose("auto", CPU, 384, tmp_path / "file", lambda device, width: FASTER) == BF16


def test_both_are_timed():
    times = timing(CPU, 128, seconds=0.01)
    assert 0 < times.fp32_s < 5
    assert 0 < times.bf16_s < 60


# ---- what computes in which -----------------------------------------------------------------------------------------


@pytest.fixture(params=["mean", "native"])
def model(request, backbone):
    loaded = backbones.load_backbone(str(backbone), 64)
    return backbones.build_model(loaded, TextClassification(labels=("a", "b")), request.param, seed=0).eval()


def batch() -> dict[str, torch.Tensor]:
    ids_BT = torch.randint(5, 40, (4, 12), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}


@needs_bf16
def test_products_in_the_blocks_are_in_16_bits_and_all_else_is_in_32(model):
    seen: dict[str, set[torch.dtype]] = {"linear": set(), "norm": set(), "head": set()}
    inside = {id(m) for m in model.encoder.modules()}

    def note(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        kind = "norm" if isinstance(module, nn.LayerNorm) else "linear" if id(module) in inside else "head"
        seen[kind].add(output.dtype)

    for module in model.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.register_forward_hook(note)
    model.set_precision(BF16)
    outputs = model(batch(), want=frozenset({"features", "hidden"}))
    assert seen == {"linear": {torch.bfloat16}, "norm": {torch.float32}, "head": {torch.float32}}
    assert {t.dtype for t in (outputs.logits, outputs.features, *outputs.hidden)} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")
    outputs.logits.sum().backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@needs_bf16
def test_precision_can_be_set_and_set_back(model):
    with torch.inference_mode():
        plain = model(batch()).logits
        model.set_precision(BF16)
        rounded = model(batch()).logits
        model.set_precision(FP32)
        again = model(batch()).logits
    assert torch.equal(plain, again)
    assert not torch.equal(plain, rounded)
    torch.testing.assert_close(plain, rounded, atol=0.05, rtol=0)


@needs_bf16
def test_an_encoder_that_raises_leaves_nothing_switched_on(model):
    model.set_precision(BF16)
    with pytest.raises(IndexError):
        model({"input_ids": torch.full((1, 3), 10**6), "attention_mask": torch.ones(1, 3, dtype=torch.long)})
    assert not torch.is_autocast_enabled("cpu")
    assert torch.isfinite(model(batch()).logits).all()


@needs_bf16
def test_precision_follows_the_encoder_into_adapters_and_spans(backbone):
    loaded = backbones.load_backbone(str(backbone), 64)
    model = backbones.build_model(loaded, TextClassification(labels=("a", "b")), "mean", seed=0)
    model.set_precision(BF16)
    methods.build({"name": "lora"}).prepare(model)
    model.eval()
    with torch.inference_mode():
        wrapped = model(batch()).logits
        entered = blocks.Span(model, 1)(batch(), blocks.Span(model, 0, 1).hidden(batch())).logits
        model.set_precision(FP32)
        plain = model(batch()).logits
    assert torch.equal(wrapped, entered)
    assert not torch.equal(wrapped, plain)


# ---- whole runs -----------------------------------------------------------------------------------------------------


class StopsInTheMiddle(Progress):
    """Sends this process a signal, as somebody who reads the progress would."""

    def say(self, line: str) -> None:
        if line.startswith("epoch 1:"):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def spec(backbone, reviews):
    return tiny.spec(reviews, backbone, train={"precision": "bf16", "epochs": 2, "patience": 99},
                     evaluate={"n_resamples": 100, "baselines": False})


@pytest.fixture(scope="module")
def fitted(spec, tmp_path_factory) -> Path:
    if not BF16.instructions:
        pytest.skip("the processor has no instructions for bf16")
    return headstart.fit(spec, out=tmp_path_factory.mktemp("bf16") / "run").folder


def test_a_run_says_what_it_computed_in(fitted):
    scores = json.loads((fitted / "scores.json").read_text("utf-8"))
    assert (scores["machine"]["precision"], scores["machine"]["instructions"]) == ("bf16", BF16.instructions)
    steps = [json.loads(line) for line in (fitted / "steps.jsonl").read_text("utf-8").splitlines()]
    assert {step["precision"] for step in steps} == {"bf16"}
    report = (fitted / "report.html").read_text("utf-8").replace("<wbr>", "")
    assert BF16.instructions in report


def test_a_run_in_16_bits_is_resumed_bit_for_bit_and_only_in_16_bits(spec, fitted, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        headstart.fit(spec, out=out, progress=StopsInTheMiddle(quiet=True))
    with pytest.raises(RunFolderError, match=r"precision was \"bf16 \(\w+\)\" and is now \"fp32\"\.\s+Resume it in"):
        headstart.fit({**spec, "train": {**spec["train"], "precision": "fp32"}}, out=out, resume=True)
    headstart.fit(spec, out=out, resume=True)
    for name in ("model.safetensors", "head.safetensors"):
        assert (out / name).read_bytes() == (fitted / name).read_bytes()


@needs_bf16
def test_a_run_that_began_in_32_bits_goes_on_so_by_what_is_advised(spec, tmp_path):
    begun = {**spec, "train": {**spec["train"], "precision": "auto"}}  # 32 bits: the model is narrow
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        headstart.fit(begun, out=out, progress=StopsInTheMiddle(quiet=True))
    with pytest.raises(RunFolderError, match=r"go on so: --resume --set train\.precision=fp32"):
        headstart.fit(spec, out=out, resume=True)
    assert headstart.fit({**spec, "train": {**spec["train"], "precision": "fp32"}}, out=out, resume=True)


def test_what_was_fitted_in_16_bits_answers_on_a_machine_that_has_none(fitted, tmp_path):
    (tmp_path / "new.txt").write_text("the room was lovely\na dull film\n", "utf-8")
    here = subprocess.run([sys.executable, "-m", "headstart", "predict", str(fitted), str(tmp_path / "new.txt")],
                          capture_output=True, text=True, check=True)
    there = without_bf16("-m", "headstart", "predict", str(fitted), str(tmp_path / "new.txt"))
    assert there.returncode == 0, there.stderr
    both = [[json.loads(line) for line in ended.stdout.splitlines()] for ended in (here, there)]
    assert [answer["label"] for answer in both[0]] == [answer["label"] for answer in both[1]]
    assert len(both[0]) == 2


def test_in_16_bits_too_a_batch_answers_as_each_row_alone(fitted):
    loaded = headstart.load(fitted)
    rows = [{"text": text} for text in ("the room was lovely", "dull", "a very long and broken story " * 5)]
    together, alone = loaded.predict(rows), [loaded.predict([row])[0] for row in rows]
    assert [answer["label"] for answer in together] == [answer["label"] for answer in alone]
    scores = [[answer["scores"]["positive"] for answer in answers] for answers in (together, alone)]
    np.testing.assert_allclose(scores[0], scores[1], atol=0.01)


@needs_bf16
def test_what_frozen_layers_computed_is_kept_apart_by_precision(spec, tmp_path, cache):
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    os.environ["HEADSTART_CACHE"] = str(tmp_path / "cache")
    try:
        for precision in ("fp32", "bf16"):
            headstart.fit({**spec, "method": {"name": "linear-probe"}, "train": {"precision": precision}},
                          out=tmp_path / precision)
        assert len(list((tmp_path / "cache").glob("*-features"))) == 2
    finally:
        os.environ["HEADSTART_CACHE"] = str(cache)
