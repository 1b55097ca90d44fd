"""Finished and exported runs that somebody changed on purpose, with a manifest that fits: one message, never more.

Each case changes a file of a sound folder and seals it again, so that nothing but what the file says can be at fault.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from headstart.core import manifest
from headstart.core.errors import ArtifactError, HeadstartError
from headstart.core.task import Head
from headstart.runs import artifact, runtime

Change = Callable[[Path], object]


DATA = Path(__file__).parents[1] / "data" / "before_rooms"
FINISHED, EXPORTED = DATA / "text-classification", DATA / "exported"


@pytest.fixture
def copy(tmp_path) -> Path:
    return shutil.copytree(FINISHED, tmp_path / "copy")


@pytest.fixture
def shipped(tmp_path) -> Path:
    return shutil.copytree(EXPORTED, tmp_path / "shipped")


def put(*path: Any, value: Any) -> Callable[[Any], Any]:
    """A JSON value with `value` at `path` in it."""
    def change(values: Any) -> Any:
        if not path:
            return value
        at = values
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        return values
    return change


def without(key: str) -> Callable[[Any], Any]:
    return lambda values: {k: v for k, v in values.items() if k != key}


def refused(folder: Path, match: str = "") -> str:
    with pytest.raises(HeadstartError, match=match or None) as caught:
        artifact.load(folder)
    assert caught.value.exit_code == 2
    return str(caught.value)


DEEP: Any = 0
for _ in range(90):
    DEEP = [DEEP]

TASK = {
    "not an object": put(value=[1]), "a number": put(value=7), "no format": without("format"),
    "another format": put("format", value=2), "a format that is a list": put("format", value=[]),
    "no name": without("name"), "no such task": put("name", value="mind-reading"), "a name that is a list": put(
        "name", value=["text-classification"]), "a name that is an object": put("name", value={}),
    "another task": put("name", value="text-regression"), "no fields": without("fields"),
    "fields that are a list": put("fields", value=[]), "fields that are null": put("fields", value=None),
    "no labels": put("fields", "labels", value=[]), "one label": put("fields", "labels", value=["negative"]),
    "three labels": put("fields", "labels", value=["a", "b", "c"]), "labels twice": put("fields", "labels", value=[
        "positive", "positive"]), "a label that is a number": put("fields", "labels", value=["negative", 1]),
    "a label that is a list": put("fields", "labels", value=["negative", []]), "an empty label": put(
        "fields", "labels", value=["negative", ""]), "labels as one string": put("fields", "labels", value="ab"),
    "labels as an object": put("fields", "labels", value={"negative": 0, "positive": 1}), "labels swapped": put(
        "fields", "labels", value=["positive", "negative"]), "labels null": put("fields", "labels", value=None),
    "a pair that is a word": put("fields", "has_pair", value="yes"), "a pair that is a number": put(
        "fields", "has_pair", value=1), "an outside that is none": put("fields", "outside", value="neutral"),
    "an outside that is a number": put("fields", "outside", value=3), "deep": put("fields", value=DEEP),
    "a hundred thousand labels": put("fields", "labels", value=[f"l{k}" for k in range(100_000)]),
}
SCORES = {
    "not an object": put(value=[]), "no metric": without("metric"), "no score": without("score"),
    "a score that is a word": put("score", value="good"), "a score as a string": put("score", value="0.5"),
    "a score that is null": put("score", value=None), "an interval of three": put("interval", value=[0, 1, 2]),
    "an interval of words": put("interval", value=["low", "high"]), "an interval that is a number": put(
        "interval", value=3), "n as a string": put("n_test", value="30"), "n as a fraction": put("n_test", value=1.5),
    "baselines that are a list": put("baselines", value=[1]), "a baseline that is a number": put(
        "baselines", value={"x": 1}), "a baseline without a score": put("baselines", value={"x": {}}),
    "gains that are a number": put("gain_over", value=1), "a gain without its interval": put(
        "gain_over", value={"x": {"difference": 1}}), "details that are a list": put("details", value=[[]]),
    "labels that are numbers": put("details", "labels", value=[1]), "a matrix of words": put(
        "details", "confusion", value=[["a"]]), "mistakes that are words": put("details", "mistakes", value=["a"]),
    "a curve that is a number": put("curve", value=5), "a step that is a word": put(
        "curve", value=[{"step": "x", "scores": {}}]), "data that is a word": put("data", value="x"),
    "a cost that is a word": put("cost", value={"n_steps": "many"}), "another format": put("format", value=9),
    "a head that is a list": put("head", value=[]), "versions that are numbers": put("versions", value={"torch": 2}),
    "a verdict that is a number": put("verdict", value=1), "kept that is a number": put("kept", value=4),
    "a truncation that is a list": put("truncation", value=[1]), "deep": put("machine", value={"x": DEEP}),
}
SPEC = {
    "tokens as a word": ("data: {train: x, max_tokens: many}", ""),
    "1e12 tokens a batch": ("data: {train: x}\nevaluate: {tokens_per_batch: 1000000000000}", "tokens_per_batch"),
    "1e12 resamples": ("data: {train: x}\nevaluate: {n_resamples: 1000000000000}", "n_resamples"),
    "1e12 tokens a window": ("data: {train: x, max_tokens: 1000000000000}", "max_tokens"),
    "no batch at all": ("data: {train: x}\nevaluate: {tokens_per_batch: 0}", "tokens_per_batch"),
    "no such field": ("data: {train: x}\nrun: true", "run"), "a list": ("[1, 2]", ""), "nothing": ("", ""),
    "no such method": ("data: {train: x}\nmethod: magic", "magic"), "an alias": ("a: &a 1\nb: *a", "alias"),
    "an object of Python": ("!!python/object/apply:os.system [ls]", ""), "no such pooling": (
        "data: {train: x}\nhead: {pooling: last}", "pooling"), "another pooling": (
        "data: {train: x}\nhead: {pooling: max}", ""), "native": ("data: {train: x}\nhead: {pooling: native}", ""),
}
EXPORT = {
    "not an object": put(value=[]), "no format": without("format"), "another format": put("format", value=2),
    "no reader": without("reader"), "a reader that is a list": put("reader", value=[]), "tokens as a word": put(
        "reader", "max_tokens", value="64"), "no tokens": put("reader", "max_tokens", value=0), "tokens below 0": put(
        "reader", "max_tokens", value=-5), "1e12 tokens": put("reader", "max_tokens", value=10**12),
    "a padding below 0": put("reader", "pad_id", value=-1), "a padding that is null": put(
        "reader", "pad_id", value=None),
    "types that are a word": put("reader", "has_types", value="no"), "no spec": without("spec"),
    "a spec that is a word": put("spec", value="x"), "a spec of nothing": put("spec", value={}),
    "1e12 tokens a batch": put("spec", "evaluate", "tokens_per_batch", value=10**12),
    "1e12 resamples": put("spec", "evaluate", "n_resamples", value=10**12), "a seed below 0": put(
        "spec", "seed", value=-1), "no tolerance": without("tolerance"), "any tolerance": put("tolerance", value=1e9),
    "a tolerance below 0": put("tolerance", value=-1.0), "a tolerance that is a word": put("tolerance", value="1e-3"),
    "graphs that are a number": put("graphs", value=3), "a graph that is a list": put("graphs", value={"model": []}),
    "a graph of a number": put("graphs", value={"model": {"file": 3}}), "no graph": put("graphs", value={}),
    "deep": put("spec", "method", value={"name": DEEP}), "has no such method": put("spec", "data", value=[]),
}
GOLDEN = {
    "empty": "", "blank": "\n\n", "not JSON": "no", "a list": "[]\n", "no row": '{"prediction": {}}',
    "no prediction": '{"row": {"text": "a"}}', "a row that is a word": '{"row": "a", "prediction": {}}',
    "a row without its text": '{"row": {}, "prediction": {}}', "a text that is a number": (
        '{"row": {"text": 5}, "prediction": {"label": "negative"}}'), "an empty text": (
        '{"row": {"text": " "}, "prediction": {}}'), "a prediction of nothing": (
        '{"row": {"text": "a"}, "prediction": {}}'),
    "NaN": '{"row": {"text": "a"}, "prediction": {"label": "positive", "scores": {"negative": NaN}}}',
    "beyond numbers": '{"row": {"text": "a"}, "prediction": {"label": "positive", "scores": {"negative": 1e999}}}',
    "a key twice": '{"row": {"text": "a"}, "row": {"text": "a"}, "prediction": {}}',
}


def rewrite(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    (folder / name).write_text(json.dumps(change(json.loads((folder / name).read_text("utf-8")))), "utf-8")
    manifest.seal(folder)


@pytest.mark.parametrize("change", TASK.values(), ids=TASK)
def test_a_task_that_cannot_be(shipped, change):
    rewrite(shipped, "task.json", change)
    refused(shipped)


@pytest.mark.parametrize("case", ["labels swapped", "three labels", "no labels", "a hundred thousand labels"])
def test_a_task_that_does_not_fit_the_weights(copy, case):
    rewrite(copy, "task.json", TASK[case])
    refused(copy)


@pytest.mark.parametrize("change", SCORES.values(), ids=SCORES)
def test_a_certificate_that_cannot_be(shipped, change):
    rewrite(shipped, "scores.json", change)
    refused(shipped, "scores.json")


@pytest.mark.parametrize("change", EXPORT.values(), ids=EXPORT)
def test_facts_of_an_export_that_cannot_be(shipped, change):
    rewrite(shipped, "export.json", change)
    refused(shipped)


@pytest.mark.parametrize(("text", "names"), SPEC.values(), ids=SPEC)
def test_a_spec_that_cannot_be(copy, text, names):
    (copy / "spec.yaml").write_text(text, "utf-8")
    manifest.seal(copy)
    refused(copy, names)


@pytest.mark.parametrize("text", GOLDEN.values(), ids=GOLDEN)
def test_golden_inputs_that_prove_nothing(shipped, text):
    (shipped / "golden.jsonl").write_text(text, "utf-8")
    manifest.seal(shipped)
    refused(shipped, "golden")


@pytest.mark.parametrize("name", ["task.json", "scores.json", "export.json", "tokenizer.json", "model.onnx"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": 1, "format": 1}', b"null"],
                         ids=["empty", "open", "not UTF-8", "deep", "a key twice", "null"])
def test_files_of_something_else(shipped, name, content):
    (shipped / name).write_bytes(content)
    manifest.seal(shipped)
    refused(shipped, name)


def heads() -> dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]]:
    return {
        "nothing": lambda t: {}, "no bias": lambda t: {"out.weight": t["out.weight"]},
        "one more": lambda t: {**t, "more": torch.zeros(1)},
        "wider": lambda t: {**t, "out.weight": torch.zeros(2, 64)}, "more labels": lambda t: {
            "out.weight": torch.zeros(3, 32), "out.bias": torch.zeros(3)},
        "flat": lambda t: {**t, "out.weight": t["out.weight"].flatten()}, "whole numbers": lambda t: {
            **t, "out.bias": torch.zeros(2, dtype=torch.int64)},
        "nan": lambda t: {**t, "out.bias": t["out.bias"] * float("nan")},
        "inf": lambda t: {**t, "out.weight": t["out.weight"] / 0}, "other weights": lambda t: {
            k: v + 1 for k, v in t.items()} | {"out.bias": torch.tensor([9.0, -9.0])},
    }


@pytest.mark.parametrize("change", heads().values(), ids=heads())
def test_a_head_that_does_not_fit(copy, change):
    tensors = change({name: tensor.clone() for name, tensor in load_file(copy / "head.safetensors").items()})
    save_file(tensors, copy / "head.safetensors")
    manifest.seal(copy)
    refused(copy)


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 100, b"\x08" + bytes(7) + b"{}      "])
def test_a_head_that_is_no_file_of_tensors(copy, content):
    (copy / "head.safetensors").unlink()
    if content is not None:
        (copy / "head.safetensors").write_bytes(content)
    manifest.seal(copy)
    refused(copy, "head.safetensors")


# --------------------------------------------------------------------------------------------------- what lies there


def plant(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}", "utf-8")
    return change


PLANTED: dict[str, Change] = {name: plant(name) for name in (
    "torch.py", "json.py", "sitecustomize.py", "pytorch_model.bin", "model.safetensors.index.json", "extra",
    "adapter/adapter_config.json", "chat_template.jinja", "sub/README.md", "encodings/__init__.py", "x.so", ".env")}
PLANTED |= {
    "a pipe": lambda folder: os.mkfifo(folder / "pipe"), "a link": lambda folder: (folder / "key").symlink_to(
        "/etc/passwd"), "a link to a folder": lambda folder: (folder / "adapter").symlink_to("/tmp"),
    "a folder": lambda folder: (folder / "adapter").mkdir(), "a link to nothing": lambda folder: (
        folder / "adapter").symlink_to("/nowhere"), "a device by link": lambda folder: (folder / "zero").symlink_to(
        "/dev/zero")}
REPLACED: dict[str, Change] = {
    "a pipe": lambda path: os.mkfifo(path), "a device by link": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(), "a link to nothing": lambda path: path.symlink_to("/nowhere"),
    "a link to itself": lambda path: path.symlink_to(path), "a link to another file": lambda path: path.symlink_to(
        "/etc/passwd"), "nothing": lambda path: None}


@pytest.mark.parametrize("change", PLANTED.values(), ids=PLANTED)
def test_what_was_planted_is_named_and_nothing_is_loaded(shipped, change):
    change(shipped)
    assert "is not in MANIFEST.json" in refused(shipped)


@pytest.mark.parametrize("name", ["task.json", "model.onnx", "golden.jsonl", "MANIFEST.json"])
@pytest.mark.parametrize("change", REPLACED.values(), ids=REPLACED)
def test_what_is_no_file_is_not_opened(shipped, name, change):
    (shipped / name).unlink()
    change(shipped / name)
    refused(shipped, name)


@pytest.mark.parametrize("name", ["torch.py", "evil.so", "model.pkl", "pytorch_model.bin", "x.pth", "noend"])
def test_sealed_or_not_nothing_that_python_would_run(shipped, name):
    (shipped / name).write_text("", "utf-8")
    manifest.seal(shipped)
    refused(shipped, "a kind of file that headstart does not write")


@pytest.mark.parametrize("name", ["README.md", "report.html", "report.md", "LICENSE", "NOTICE.txt", ".gitattributes",
                                  ".git/config", ".cache/huggingface/download/x.metadata", "MODEL_CARD.md"])
def test_what_people_add_may_lie_there_and_change(shipped, name):
    plant(name)(shipped)
    assert artifact.load(shipped).predict(["lovely"]) == artifact.load(EXPORTED).predict(["lovely"])
    manifest.seal(shipped)
    assert "README.md" not in manifest.read_manifest(shipped)


def test_a_card_that_an_older_version_sealed_may_be_edited(shipped):
    values = json.loads((shipped / "MANIFEST.json").read_text("utf-8"))
    values["sha256"]["README.md"] = "0" * 64
    (shipped / "MANIFEST.json").write_text(json.dumps(values), "utf-8")
    assert artifact.load(shipped)
    (shipped / "README.md").unlink()
    assert artifact.load(shipped)


def test_a_hub_cache_has_links_to_its_blobs(shipped, tmp_path):
    blobs, snapshot = tmp_path / "m" / "blobs", tmp_path / "m" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(sorted(shipped.iterdir())):
        shutil.move(path, blobs / str(i))
        (snapshot / path.name).symlink_to(f"../../blobs/{i}")
    assert len(artifact.load(snapshot).predict(["lovely"])) == 1


MANIFESTS = {
    "no format": without("format"), "another format": put("format", value=2), "a list": put(value=[]),
    "names that are a list": put("sha256", value=["task.json"]), "a hash that is null": put(
        "sha256", "task.json", value=None), "a hash that is short": put("sha256", "task.json", value="ab"),
    "a hash that is a list": put("sha256", "task.json", value=[1]), "an absolute path": put(
        "sha256", "/etc/passwd", value="0" * 64), "a path above": put("sha256", "../x", value="0" * 64),
    "a path above, inside": put("sha256", "a/../../x", value="0" * 64), "the same file twice": put(
        "sha256", "./task.json", value="0" * 64), "a name of nothing": put("sha256", "", value="0" * 64),
    "a name that a terminal obeys": put("sha256", "\x1b[2J", value="0" * 64), "a zero byte": put(
        "sha256", "a\0b", value="0" * 64), "itself": put("sha256", "MANIFEST.json", value="0" * 64), "too many": put(
        "sha256", value=dict.fromkeys(map(str, range(manifest.MAX_FILES + 1)), "0" * 64)), "nothing": put(
        "sha256", value={}), "fewer": lambda values: put(
            "sha256", value=dict(list(values["sha256"].items())[2:]))(values),
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_is_none(shipped, change):
    path = shipped / "MANIFEST.json"
    path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))), "utf-8")
    assert "\x1b" not in refused(shipped, "MANIFEST.json")


# ------------------------------------------------------------------------------------------------------------- graphs


def graph(*nodes: onnx.NodeProto, reads: tuple[str, ...] = ("input_ids",), gives: tuple[str, ...] = ("logits",),
          **constants: Any) -> bytes:
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in reads]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in gives]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(helper.make_graph(list(nodes), "g", inputs, outputs, held),
                              opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)])
    model.ir_version = 10
    return model.SerializeToString()


node, LARGE = helper.make_node, np.array([100_000, 100_000], np.int64)
FLOATS = node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT)
BRANCH = helper.make_graph([node("Identity", ["floats"], ["y"])], "b", [], [
    helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
SUM = (node("ReduceSum", ["large"], ["sum"], keepdims=0), node("Add", ["floats", "sum"], ["logits"]))
GRAPHS: dict[str, tuple[bytes, str]] = {
    "a branch": (graph(FLOATS, node("If", ["c"], ["logits"], then_branch=BRANCH, else_branch=BRANCH),
                       c=np.array(True)), "graphs in graphs"),
    "a loop": (graph(FLOATS, node("Loop", ["n", "c"], ["logits"], body=BRANCH), n=np.array(1), c=np.array(True)),
               "graphs in graphs"),
    "random": (graph(node("RandomNormal", [], ["logits"], shape=[2, 2])), "operator \"RandomNormal"),
    "an operator of others": (graph(FLOATS, node("Run", ["floats"], ["logits"], domain="evil")), "evil:Run"),
    "Python": (graph(FLOATS, node("PythonOp", ["floats"], ["logits"], domain="com.microsoft")), "PythonOp"),
    "strings": (graph(node("StringNormalizer", ["input_ids"], ["logits"])), "StringNormalizer"),
    "a constant of any size": (graph(node("ConstantOfShape", ["s"], ["logits"]), s=LARGE), "ConstantOfShape"),
    "other inputs": (graph(FLOATS, node("Add", ["floats", "x"], ["logits"]), reads=("input_ids", "x")), ""),
    "inputs of another kind": (graph(node("Identity", ["labels"], ["logits"]), reads=("labels",)), ""),
    "two outputs": (graph(FLOATS, node("Identity", ["floats"], ["logits"]), node("Neg", ["floats"], ["more"]),
                          gives=("logits", "more")), "2 outputs"),
    "another shape": (graph(FLOATS, node("Identity", ["floats"], ["logits"])), "task reads"),
    "no shape": (graph(FLOATS, node("ReduceSum", ["floats"], ["logits"], keepdims=0)), "task reads"),
    "one window": (graph(FLOATS, node("ReduceSum", ["floats"], ["sum"], keepdims=0), node(
        "Expand", ["sum", "s"], ["logits"]), s=np.array([1, 2])), "task reads"),
    "nan": (graph(FLOATS, node("ReduceSum", ["floats", "axis"], ["sum"]), node("Mul", ["sum", "nan"], ["logits"]),
                  axis=np.array([1]), nan=np.full(2, np.nan, np.float32)), "nan or inf"),
    "no answers": (graph(FLOATS, node("ReduceSum", ["floats", "axis"], ["sum"]), node("Mul", ["sum", "w"], ["logits"]),
                         axis=np.array([1]), w=np.ones(2, np.float32)), "golden input 1"),
    "terabytes, of constants": (graph(FLOATS, node("Expand", ["one", "s"], ["large"]), *SUM, one=np.float32(1),
                                      s=LARGE), "llocat"),
    "terabytes, of a range": (graph(FLOATS, node("Range", ["a", "b", "c"], ["large"]), *SUM, a=np.float32(0),
                                    b=np.float32(1e12), c=np.float32(1)), ""),
    "terabytes, of the inputs": (graph(
        FLOATS, node("ReduceMax", ["input_ids"], ["top"], keepdims=0), node("Mul", ["top", "s"], ["s2"]),
        node("Expand", ["one", "s2"], ["large"]), *SUM, one=np.float32(1), s=LARGE), "llocat"),
    "gigabytes, of a sum": (graph(FLOATS, node("Add", ["a", "b"], ["large"]), *SUM, a=np.ones((40_000, 1), np.float32),
                                  b=np.ones((1, 40_000), np.float32)), "llocat"),
    "a function": (onnx.ModelProto(graph=onnx.GraphProto(), functions=[onnx.FunctionProto(name="f")])
                   .SerializeToString(), "functions"),
    "a shape that says more": (onnx.ModelProto(graph=onnx.GraphProto(initializer=[onnx.TensorProto(
        dims=[1 << 40], data_type=1, raw_data=b"1234")])).SerializeToString(), "more numbers"),
    "a million fields": (b"\x72\x00" * 1_000_000, "fields"),
    "no graph": (b"\x08\x0a", ""),
}


@pytest.mark.parametrize(("content", "names"), GRAPHS.values(), ids=GRAPHS)
def test_a_graph_that_no_export_has(shipped, content, names):
    (shipped / "model.onnx").write_bytes(content)
    manifest.seal(shipped)
    refused(shipped, names)


def test_a_graph_that_takes_for_ever_is_stopped(tmp_path):
    many = [node("MatMul", [f"x{i}", "w"], [f"x{i + 1}"]) for i in range(100)]
    n = node("Expand", ["one", "s"], ["x0"])
    cast = node("Shape", ["input_ids"], ["shape"])
    (tmp_path / "model.onnx").write_bytes(graph(
        cast, node("Mul", ["shape", "many"], ["s"]), n, *many, node("Identity", ["x100"], ["logits"]),
        one=np.float32(1), many=np.array([500, 500]), w=np.ones((1000, 1000), np.float32)))
    opened = runtime.open_runtime({"model": tmp_path / "model.onnx"}, 1, Head("pooled", 1000))
    with (runtime.limited(opened, 0.05, 1 << 31) as bounded,
          pytest.raises(ArtifactError, match="cannot answer")):
        bounded.logits({"input_ids": np.ones((2, 2), np.int64)})


def test_the_limit_of_memory_is_taken_back():
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with runtime.bounded_memory(1 << 30):
        assert resource.getrlimit(resource.RLIMIT_AS)[0] not in (before[0], resource.RLIM_INFINITY)
        with pytest.raises(MemoryError):
            np.ones(1 << 33, np.uint8)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
