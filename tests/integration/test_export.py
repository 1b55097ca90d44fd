"""What is exported answers as the run does, without torch, or nothing is exported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import headstart
from headstart import methods, tasks
from headstart.cli.app import app
from headstart.core.errors import ArtifactError, DataError, ParityError, RunFolderError, SpecError
from headstart.core.manifest import seal
from headstart.core.progress import Progress
from headstart.core.values import Runtime, Stepper
from headstart.exporters import fusions, graph, parity
from headstart.exporters.export import in_32_bits
from headstart.exporters.parity import Gate, Rows
from headstart.models import backbone as backbones
from headstart.models.runtime import TorchRuntime
from headstart.runs import artifact, runtime

HEAVY = {"torch", "transformers", "yaml", "sklearn", "scipy", "onnx", "peft", "safetensors", "pandas", "pyarrow"}
ROOT = Path(__file__).parent.parent.parent
TASKS = tiny.ANSWERING
ADAPTED = ["lora", "ia3", "prefix-tuning", "prompt-tuning", "adapter"]


NOT_FUSED = ("gpt2",)  # transformers 5.23 fuses it to a graph that onnxruntime 1.32 does not load
SKIPPING = ("albert", "bert", "camembert", "distilbert", "electra", "roberta",
            "xlm-roberta")  # the others have no attention that is fused
QUICK = ("relation-extraction", "prefix-tuning", "gpt2")  # of each kind, what is hardest to export; others are slow


def some(names: list[str]) -> list:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    """An export, by the command line."""
    out = tmp_path_factory.mktemp("exports") / "reviews"
    done = CliRunner().invoke(app, ["export", str(run), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["out"] == str(out)
    assert summary["gate"]["fp32"]["n_rows"] == 30
    assert "comparing on 30 rows" in done.stderr
    return out


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "copy")


def texts(n: int) -> list[str]:
    return [row["text"] for row in tiny.rows(n, seed=7)]


def facts(folder: Path) -> dict:
    return artifact.export_facts(folder)


def loaded_by(code: str, *arguments: object) -> set[str]:
    out = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)", *map(str, arguments)],
                         capture_output=True, text=True, check=True, input="the lovely room\n")
    return {name.split(".")[0] for name in out.stdout.splitlines()[-1].split()}


# ------------------------------------------------------------------------------------------------ what comes out


def test_an_export_answers_as_its_run(run, exported):
    there = sorted(path.name for path in exported.iterdir())
    assert there == ["MANIFEST.json", "README.md", "export.json", "golden.jsonl", "model.onnx", "scores.json",
                     "task.json", "tokenizer.json"]
    ours, theirs = headstart.load(run), headstart.load(exported)
    for a, b in zip(ours.predict(texts(50)), theirs.predict(texts(50)), strict=True):
        assert a["label"] == b["label"]
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-4)
    assert ours.evaluate(tiny.rows(60))["scores"] == theirs.evaluate(tiny.rows(60))["scores"]
    assert artifact.golden(exported) == artifact.golden(run)  # the answers are the run's own
    found = facts(exported)["gate"]["fp32"]
    assert found["rows"] == "the run's validation rows"
    assert found["agreement"] == 1
    assert found["n_rows"] == 30
    assert found["shapes"]["model"]["n"] >= 128
    assert facts(exported)["graphs"] == {
        "model": {"file": "model.onnx", "inputs": ["input_ids", "attention_mask"], "outputs": ["logits"]}}


def test_int8_is_smaller_and_says_what_it_lost(run, tmp_path, exported, reviews):
    small = headstart.export(run, int8=True, out=tmp_path / "small", rows=str(reviews), max_loss=10)
    found = facts(small.folder)
    assert found["model_bytes"] < facts(exported)["model_bytes"]
    assert found["gate"]["int8"]["passed"]
    assert found["gate"]["int8"]["rows"] == f"the rows of {reviews}"
    assert found["gate"]["int8"]["plan"] in found["gate"]["int8"]["tried"]
    assert "In 8 bits" in (small.folder / "README.md").read_text("utf-8")
    assert len(small.predict(texts(9))) == 9
    held = onnx.load(small.folder / "model.onnx")
    assert {t.data_type for t in held.graph.initializer} & {TensorProto.INT8, TensorProto.UINT8}


def test_the_graph_tells_nothing_of_the_machine_that_wrote_it(exported):
    held = (exported / "model.onnx").read_bytes()
    assert b"name_scopes" in held  # what plans are made of
    assert not {word for word in (b".py", b"/home", str(ROOT).encode()) if word in held}


def test_loading_and_predicting_loads_no_torch(exported):
    code = ("import sys, headstart\na = headstart.load(sys.argv[1]); a.predict(['the lovely room'])\n"
            "a.evaluate([{'text': 'a dull film', 'label': 'negative'}])")
    assert not HEAVY & loaded_by(code, exported)


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_the_command_line_loads_no_torch(exported, reviews, verb):
    code = ("import sys\nfrom headstart.cli import main\ntry: main()\nexcept SystemExit as end: assert not end.code")
    loaded = loaded_by(code, verb, exported, reviews)
    assert "onnxruntime" in loaded
    assert not HEAVY & loaded


@pytest.mark.slow
def test_a_fresh_environment_needs_the_runtime_extra_alone(exported, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"),
                    f"{ROOT}[runtime]"], check=True)
    there = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "scipy"} & {line.split()[0] for line in there.splitlines()}
    for verb in ("predict", "evaluate"):
        rows = tiny.write_csv(tmp_path / "rows.csv", tiny.rows(5))
        done = subprocess.run([python, "-m", "headstart", verb, str(exported), str(rows)], capture_output=True,
                              text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    done = subprocess.run([python, "-m", "headstart", "export", str(exported)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "headstart[train,export]" in done.stderr or "headstart[train]" in done.stderr


# ------------------------------------------------------------------------------- every task, method and family


def gate_of(task, model, reader) -> Gate:
    return Gate.of(task, reader, TorchRuntime(model.eval(), torch.device("cpu")),
                   Rows(list(task.examples), "the examples", True), 512)


def shipped(gate: Gate, model, path: Path) -> dict:
    assert path.name == "model.onnx"
    return in_32_bits(gate, model, path.parent, progress=Progress(quiet=True))[1]


def opened(path: Path) -> runtime.OnnxRuntime:
    return runtime.open_runtime({"model": path})


def kinds_of(path: Path) -> Counter:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def attentions(path: Path) -> list:
    return [node for node in onnx.load(path).graph.node if node.op_type == "MultiHeadAttention"]


def test_there_are_tasks_to_export():
    assert len(TASKS) >= 8


@pytest.mark.parametrize("name", some(TASKS))
def test_every_task_passes_its_gate(name, backbone, tmp_path):
    loaded, kind = backbones.load_backbone(str(backbone), 64), tasks.find(name)
    task = kind().learn(kind.examples)
    model = backbones.build_model(loaded, task, "mean", seed=0)
    gate = gate_of(task, model, loaded.reader)
    found, path, small = shipped(gate, model, tmp_path / "model.onnx"), tmp_path / "model.onnx", tmp_path / "int8.onnx"
    assert found["agreement"] == 1
    assert found["largest_difference"] < 1e-4
    assert found["fused"]
    kinds, n_blocks = kinds_of(path), loaded.config.num_hidden_layers
    assert kinds["MultiHeadAttention"] == n_blocks
    assert not kinds["Attention"]  # opened, so that its weights see tokens in a line
    assert not kinds["Softmax"]
    assert kinds["LayerNormalization"] == 2 * n_blocks + 1
    assert not kinds["SkipLayerNormalization"]  # slower than what it stands for
    assert opened(path).skips_padding
    assert all(node.input[4:] == [fusions.KEYS] for node in attentions(path))
    assert {one.f for node in attentions(path) for one in node.attribute if one.name == "mask_filter_value"} == {-60}
    plans = graph.plans(path)
    assert len(plans) >= 3
    assert [len(plan.keep) for plan in plans] == sorted({len(plan.keep) for plan in plans})
    graph.quantize(path, small, plans[0], True)
    assert small.stat().st_size < path.stat().st_size
    assert opened(small).skips_padding
    assert kinds_of(small)["MultiHeadAttention"] == n_blocks
    assert kinds_of(small)["MatMulInteger"] >= 4 * n_blocks  # queries, keys and values as one, and three layers more
    assert gate.close(opened(small), 100, 100, 0)["passed"]
    example = parity.batch(gate.windows(), 2, min(8, loaded.reader.max_tokens), loaded.reader.pad_id)
    graph.write(model, example, path, fuse=False)
    found, kinds = gate.exact(opened(path)), kinds_of(path)
    assert found["agreement"] == 1
    assert found["largest_difference"] < 1e-4
    assert kinds["Softmax"]
    assert not kinds["MultiHeadAttention"]
    assert not opened(path).skips_padding


def adapted(backbone, name):
    method, kind = methods.build({"name": name}), tasks.find("text-classification")
    loaded = backbones.load_backbone(str(backbone), 64, method.plan.n_extra_tokens)
    task = kind().learn(kind.examples)
    model = backbones.build_model(loaded, task, "mean", seed=0)
    method.prepare(model)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.05)
    return task, model, loaded.reader


@pytest.mark.parametrize("name", some(ADAPTED))
def test_adapters_are_exported(name, backbone, tmp_path):
    task, model, reader = adapted(backbone, name)
    shipped(gate_of(task, model, reader), model, tmp_path / "model.onnx")


@pytest.mark.parametrize("family", some(sorted(tiny.FAMILIES)))
def test_every_family_passes_its_gate(family, tmp_path):
    loaded = backbones.load_backbone(str(tiny.backbone(tmp_path / family, family)), 64)
    kind = tasks.find("text-classification")
    task = kind().learn(kind.examples)
    model = backbones.build_model(loaded, task, "mean", seed=0)
    gate = gate_of(task, model, loaded.reader)
    found = shipped(gate, model, tmp_path / "model.onnx")
    assert found["fused"] == (family not in NOT_FUSED)
    assert opened(tmp_path / "model.onnx").skips_padding == (family in SKIPPING)


@pytest.mark.parametrize("pooling", ["first", "native", "mean"])
def test_tokens_that_no_head_reads_are_not_computed(pooling, backbone, tmp_path):
    loaded, kind = backbones.load_backbone(str(backbone), 64), tasks.find("text-classification")
    task = kind().learn(kind.examples)
    model = backbones.build_model(loaded, task, pooling, seed=0)
    gate, path, small = gate_of(task, model, loaded.reader), tmp_path / "model.onnx", tmp_path / "int8.onnx"
    assert shipped(gate, model, path)["agreement"] == 1
    graph.quantize(path, small, graph.plans(path)[0], True)
    assert gate.close(opened(small), 100, 100, 0)["passed"]
    written = onnx.load(path)
    inner = [node.output[0] for node in written.graph.node if node.op_type == "BiasGelu"]
    written.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner)
    session = onnxruntime.InferenceSession(written.SerializeToString())
    inputs = {"input_ids": np.full((2, 5), 7), "attention_mask": np.array([[1] * 5, [1] * 3 + [0] * 2])}
    n_computed = [out.size // out.shape[-1] for out in session.run(inner, inputs)]
    assert len(n_computed) == loaded.config.num_hidden_layers > 1
    assert n_computed == [8] * (len(inner) - 1) + [8 if pooling == "mean" else 2]


@pytest.mark.parametrize("is_causal", [False, True])
def test_only_a_plain_mask_of_padding_is_read_as_such(is_causal):
    def const(name, value, kind=np.float32):
        return numpy_helper.from_array(np.array(value, kind), name)

    def node(kind, inputs, out, **options):
        return helper.make_node(kind, inputs.split(), [out], **options)

    rng, shape = np.random.default_rng(0), ["B", "T"]
    kept = node("Trilu", "both_int no", "kept_int", upper=0) if is_causal else node("Identity", "both_int", "kept_int")
    nodes = [node("Gather", "table input_ids", "text"), *(node("MatMul", f"text w{k}", k) for k in "qkv"),
             node("Cast", "attention_mask", "real", to=TensorProto.BOOL), node("Unsqueeze", "real key_axes", "keys"),
             node("Unsqueeze", "real query_axes", "queries"), node("Not", "queries", "others"),
             node("Or", "queries others", "all"), node("And", "all keys", "both"),
             node("Cast", "both", "both_int", to=TensorProto.INT64), kept,
             node("Cast", "kept_int", "kept", to=TensorProto.BOOL), node("Where", "kept zero far", "added"),
             helper.make_node("MultiHeadAttention", ["q", "k", "v", "", "", "added"], ["logits"],
                              domain=fusions.ONNXRUNTIME, num_heads=2)]
    model = helper.make_model(helper.make_graph(
        nodes, "causal", [helper.make_tensor_value_info(name, TensorProto.INT64, shape)
                          for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*shape, 8])],
        [const("table", rng.normal(size=(9, 8))), *(const(f"w{k}", rng.normal(size=(8, 8))) for k in "qkv"),
         const("zero", 0), const("far", fusions.FAR), const("key_axes", [1, 2], np.int64),
         const("query_axes", [1, 3], np.int64), const("no", 0, np.int64)]),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(fusions.ONNXRUNTIME, 1)], ir_version=10)
    inputs = {"input_ids": rng.integers(0, 9, (2, 5)), "attention_mask": np.array([[1] * 5, [1] * 3 + [0] * 2])}
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)[0]
    fusions.tuned(model)
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)[0]
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert ("added" in model.graph.node[-1].input) == is_causal
    assert (fusions.KEYS in model.graph.node[-1].input) == (not is_causal)
    far = [one.f for one in model.graph.node[-1].attribute if one.name == "mask_filter_value"]
    assert far == ([] if is_causal else [pytest.approx(fusions.FAR)])  # padding is no copy of a real token here


@pytest.mark.slow
def test_a_run_with_an_adapter_beside_the_backbone(backbone, reviews, tmp_path):
    method = {"name": "lora", "alone": True}
    run = headstart.fit(tiny.spec(reviews, backbone, method=method, train={"epochs": 1}), out=tmp_path / "run")
    out = headstart.export(run.folder)
    assert out.folder == tmp_path / "run-onnx"
    assert [a["label"] for a in run.predict(texts(9))] == [a["label"] for a in out.predict(texts(9))]


# ------------------------------------------------------------------------------------------------------ the gate


@dataclass
class Changed:
    """A runtime that answers as another one does, but for a change."""

    original: Runtime
    change: Callable[[dict[str, np.ndarray], np.ndarray], np.ndarray]
    skips_padding: ClassVar[bool] = False

    def logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self.change(inputs, self.original.logits(inputs))

    def stepper(self) -> Stepper:
        return self.original.stepper()


def test_another_model_does_not_pass(backbone, tmp_path):
    loaded, kind = backbones.load_backbone(str(backbone), 64), tasks.find("text-classification")
    task = kind().learn(kind.examples)
    one, other = (backbones.build_model(loaded, task, "mean", seed=seed) for seed in (0, 1))
    gate = gate_of(task, one, loaded.reader)
    with pytest.raises(ParityError, match=r"4 of 4 rows are answered otherwise; row 1 was answered"):
        shipped(gate, other, tmp_path / "model.onnx")


def test_a_shape_that_differs_does_not_pass(backbone):
    loaded, kind = backbones.load_backbone(str(backbone), 64), tasks.find("text-classification")
    task = kind().learn(kind.examples)
    model = backbones.build_model(loaded, task, "mean", seed=0)
    gate = gate_of(task, model, loaded.reader)

    off_at_37 = Changed(gate.original, lambda inputs, logits: logits + 1 if len(logits) == 37 else logits)
    with pytest.raises(ParityError, match='graph "model", a batch of 37 windows of up to 13 tokens: gives logits that '
                                          "are off by"):
        gate.exact(off_at_37)
    with pytest.raises(ParityError, match="finite: False"):
        gate.try_shapes(Changed(gate.original, lambda inputs, logits: logits * np.nan), np.inf)


def test_all_batch_sizes_and_the_ends_of_lengths_are_tried():
    tried = list(parity.shapes(256))
    assert {n for n, _ in tried} == set(range(1, 65))
    assert {1, 256} <= {t for _, t in tried}
    assert {t for _, t in parity.shapes(32)} == set(range(1, 33))


def test_a_loss_that_is_not_disproven_is_refused(run):
    loaded = headstart.load(run)
    rows = Rows(tiny.rows(100), "made up", True)
    gate = Gate.of(loaded.task, loaded.reader, loaded.runtime, rows, 1024)

    def turn(inputs, logits):  # says the contrary now and then
        return np.where((inputs["input_ids"].sum(1) % 20 == 0)[:, None], -logits, logits)

    found = gate.close(Changed(gate.original, turn), 0.5, 500, 0)
    assert found["agreement"] < 1
    assert not found["passed"]
    assert found["loss_points_at_most"] > found["loss_points"]
    for max_loss, passes in ((2.7, True), (2.6, False)):  # that 100 rows agree is no proof of nothing at all
        same = gate.close(gate.original, max_loss, 500, 0)
        assert (same["agreement"], same["loss_points"], same["passed"]) == (1, 0, passes)


def test_what_cannot_be_exported(run, exported, tmp_path):
    out = shutil.copytree(exported, tmp_path / "small")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(RunFolderError, match="exists already"):
        headstart.export(run, out=out)
    with pytest.raises(SpecError, match="must be 0 at least"):
        headstart.export(run, out=tmp_path / "x", max_loss=-1)
    with pytest.raises(DataError, match="no such file"):
        headstart.export(run, out=out, rows=str(tmp_path / "gone.csv"), overwrite=True)
    with pytest.raises(ArtifactError, match="is exported already"):
        headstart.export(exported, out=out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


def test_a_failed_gate_publishes_nothing_and_keeps_what_was_there(run, exported, tmp_path):
    """Labels drawn at random: some answer turns in 8 bits, so no loss of nothing at all can be proven."""
    rng = np.random.default_rng(0)
    rows = [{"text": " ".join(rng.choice(tiny.FILL, 9)), "label": str(rng.choice(["negative", "positive"]))}
            for _ in range(3000)]
    out, labelled = shutil.copytree(exported, tmp_path / "small"), tiny.write_csv(tmp_path / "rows.csv", rows)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ParityError, match=r"accuracy went from 0\.\d+ to .* on 3,000 rows at best; the loss is"):
        headstart.export(run, out=out, int8=True, rows=str(labelled), max_loss=0, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.csv", "small"]


@pytest.mark.parametrize(("train", "reason"), [
    ("gone.csv", "no such file"), ("-", "standard input cannot be read twice"),
    ("others.csv", "no longer holds the rows that the run was fitted on")])
def test_without_validation_rows_there_are_golden_inputs_alone(run, tmp_path, capsys, monkeypatch, train, reason):
    monkeypatch.chdir(tmp_path)
    tiny.write_csv(tmp_path / "others.csv", tiny.rows(200, seed=5))
    there = shutil.copytree(run, tmp_path / "run")
    spec = yaml.safe_load((there / "spec.yaml").read_text("utf-8"))
    spec["data"]["train"] = train
    (there / "spec.yaml").write_text(yaml.safe_dump(spec), "utf-8")
    seal(there)
    with pytest.raises(DataError, match="needs labelled rows"):
        headstart.export(there, int8=True, progress=Progress())
    shown = capsys.readouterr().err
    assert reason in shown
    assert "Comparing on its golden inputs alone; name more rows with --rows FILE" in shown


@pytest.mark.slow
def test_rows_that_are_gone_are_told(backbone, tmp_path, capsys):
    source = tiny.write_csv(tmp_path / "reviews.csv", tiny.rows(200))
    run = headstart.fit(tiny.spec(source, backbone, method="linear-probe"), out=tmp_path / "run").folder
    source.unlink()
    found = headstart.export(run, progress=Progress())
    said = capsys.readouterr().err
    assert "validation rows cannot be read again" in said
    assert "--rows FILE" in said
    assert facts(found.folder)["gate"]["fp32"]["rows"] == "the run's golden inputs"
    with pytest.raises(DataError, match="needs labelled rows"):
        headstart.export(run, int8=True)
    tiny.write_csv(source, tiny.rows(200, seed=5))
    headstart.export(run, progress=Progress(), overwrite=True)
    assert "no longer holds the rows" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- files from elsewhere


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "export.json", "golden.jsonl"])
def test_a_damaged_export_does_not_load(copy, name):
    path = copy / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ArtifactError, match=name):
        artifact.load(copy)


def relist(folder: Path, graphs: object) -> None:
    """Let export.json list these graphs; None: as it was before it listed any."""
    listed = {key: value for key, value in facts(folder).items() if key != "graphs"}
    (folder / "export.json").write_text(json.dumps(listed | ({} if graphs is None else {"graphs": graphs})), "utf-8")
    seal(folder)


def test_an_export_from_before_graphs_were_listed_answers(copy, exported):
    relist(copy, None)
    assert artifact.load(copy).predict(texts(5)) == artifact.load(exported).predict(texts(5))


def test_an_artifact_holds_several_graphs(copy):
    shutil.copyfile(copy / "model.onnx", copy / "step-2.onnx")
    relist(copy, {"model": {"file": "model.onnx"}, "step": {"file": "step-2.onnx"}})
    loaded = artifact.load(copy).runtime
    assert isinstance(loaded, runtime.OnnxRuntime)
    assert sorted(loaded.graphs) == ["model", "step"]
    inputs = {name: np.ones((1, 3), np.int64) for name in loaded.graphs["step"].inputs}
    np.testing.assert_array_equal(loaded.graphs["step"](inputs), loaded.logits(inputs))


@pytest.mark.parametrize("graphs", [
    {"model": {"file": "../model.onnx"}}, {"model": {"file": "/etc/passwd"}}, {"model": {"file": "sub/model.onnx"}},
    {"model": {"file": "tokenizer.json"}}, {"model": {"file": "unsealed.onnx"}}, {"model": "model.onnx"},
    {"encoder": {"file": "model.onnx"}}, {"model": {}}, {}, [], "model.onnx"])
def test_graphs_are_sealed_files_of_their_folder(copy, graphs):
    relist(copy, graphs)
    with pytest.raises(ArtifactError, match="lists graphs that cannot be opened"):
        artifact.load(copy)


def test_an_export_that_answers_otherwise_does_not_load(copy):
    lines = [json.loads(line) for line in (copy / "golden.jsonl").read_text("utf-8").splitlines()]
    lines[2]["prediction"]["scores"] = {k: 1 - v for k, v in lines[2]["prediction"]["scores"].items()}
    (copy / "golden.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    seal(copy)
    with pytest.raises(ArtifactError, match="golden input 3 was answered"):
        artifact.load(copy)


def test_an_export_is_no_run_to_train_from(exported):
    from headstart.runs import weights

    loaded = artifact.load(exported)
    with pytest.raises(ArtifactError, match="is exported and holds no weights"):
        weights.open_model(exported, loaded.task, loaded.spec)
    with pytest.raises(ArtifactError, match="answers on the CPU"):
        artifact.load(exported, "cuda")


def outside(nested: bool) -> onnx.ModelProto:
    """A model with a weight in /etc/passwd, in its graph or in a branch of an If."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], [0.0, 0.0])
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../../etc/passwd")
    y, x = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "yx")
    if not nested:
        made = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
        return helper.make_model(made)
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=weight)], "b", [], [y])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    return helper.make_model(helper.make_graph([node], "g", [c], [y]))


@pytest.mark.parametrize("nested", [False, True])
def test_weights_in_other_files_are_refused(tmp_path, nested):
    path = tmp_path / "model.onnx"
    path.write_bytes(outside(nested).SerializeToString())
    with pytest.raises(ArtifactError, match="keeps weights in other files"):
        opened(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"PK\x03\x04 no model", b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        opened(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(runtime.MAX_BYTES + 1)
    with pytest.raises(ArtifactError, match="the limit is"):
        opened(path)
