"""A Spec: layers with origins, and errors that name the nearest right word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart import methods, tasks
from headstart.core import spec
from headstart.core.errors import SpecError
from headstart.runs.resolve import resolve, stack

DATA = {"data": {"train": "a.csv"}}


def message(call, *arguments) -> str:
    with pytest.raises(SpecError) as caught:
        call(*arguments)
    return str(caught.value)


def test_the_last_layer_wins_and_origins_say_which():
    made, origins = spec.resolve_layers(("spec.yaml", {**DATA, "train": {"lr": 1e-3, "epochs": 2}}),
                                 ("--set", {"train": {"lr": 2e-3}}))
    assert (made.train.lr, made.train.epochs, made.train.optimizer) == (2e-3, 2, "adamw")
    assert [origins[f"train.{name}"] for name in ("lr", "epochs", "optimizer")] == ["--set", "spec.yaml", "default"]


def test_method_by_name_and_with_options():
    made, origins, _ = resolve([("spec.yaml", {**DATA, "method": "linear-probe"})])
    assert made.method == {"name": "linear-probe"}
    assert made.evaluate.baselines
    made, origins, _ = resolve([("call", {**DATA, "method": "fine-tuning"}),
                                ("--set", {"method": {"freeze_embeddings": False}})])
    assert made.method == {"name": "fine-tuning", "head_first": True, "freeze_embeddings": False, "last_blocks": None,
                           "encoder": None, "layer_decay": 1.0, "gradual": False, "l2_sp": 0.0, "average": "wise-ft",
                           "members": None}
    assert resolve([("call", DATA)])[0].method == {"name": "auto"}
    assert origins["method.freeze_embeddings"] == "--set"
    assert origins["train.dropout"] == "method fine-tuning"
    made, _, _ = resolve([("a", {**DATA, "method": {"name": "fine-tuning", "head_first": False}}),
                          ("b", {"method": "linear-probe"})])
    assert made.method == {"name": "linear-probe"}


def test_the_order_of_layers():
    layers = stack([("call", {**DATA, "task": "sentence-similarity", "method": "lora"}), ("--set", {"seed": 1})])
    chosen = ("chosen for 9 rows", {"train": {"epochs": 5, "lr": 7.0}, "seed": 7})
    made, origins = layers.resolve()
    assert (made.train.tokens_per_batch, made.train.lr, made.train.epochs) == (2048, 1e-3, None)
    made, origins = layers.resolve(chosen)
    assert (made.train.lr, made.train.epochs, made.seed) == (7.0, 5, 1)  # of all layers only the caller's are stronger
    assert [origins[path] for path in ("task.scale", "train.tokens_per_batch", "train.dropout", "train.epochs", "seed",
                                       "method.name", "evaluate.baselines")] == [
        "default", "task sentence-similarity", "method lora", "chosen for 9 rows", "--set", "call", "default"]


def test_identity_is_of_the_resolved_form():
    first, _ = spec.resolve_layers(("a", DATA))
    same, _ = spec.resolve_layers(("b", {**DATA, "seed": 0, "train": {"lr": 1e-4}}))
    other, _ = spec.resolve_layers(("b", {**DATA, "seed": 1}))
    assert first.identity() == same.identity() != other.identity()


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@given(train=texts, column=texts, lr=st.floats(1e-9, 1), seed=st.integers(0, 2**32 - 1),
       limit=st.none() | st.integers(1))
def test_yaml_round_trip(train, column, lr, seed, limit):
    made, origins = spec.resolve_layers(("x", {"data": {"train": train, "columns": {"text": column}, "limit": limit},
                                        "train": {"lr": lr}, "seed": seed}))
    again, _ = spec.resolve_layers(("y", spec.parse_yaml(spec.to_yaml(made, origins), "y.yaml")))
    assert again == made


@pytest.mark.parametrize(("fields", "expected"), [
    ({"data": {"trian": "x"}}, 'data.trian: is not a field; did you mean "train"? Known: columns, '),
    ({"data": {"trian": "x"}}, "data.train: is missing; it must hold: file, folder, hub:NAME or pip:PACKAGE/PATH"),
    ({**DATA, "trane": {}}, 'spec.yaml: trane: is not a field; did you mean "train"?'),
    ({**DATA, "train": {"lr": -1}}, "spec.yaml: train.lr: -1 is not allowed; it should be greater than 0"),
    ({**DATA, "train": {"optimizer": "adamv"}}, "\"adamv\" is not allowed; it should be 'adamw', 'adam', 'sgd'"),
    ({**DATA, "seed": "x"}, 'spec.yaml: seed: "x" is not allowed; it should be a valid integer'),
])
def test_a_field_that_cannot_be(fields, expected):
    assert expected in message(spec.resolve_layers, ("spec.yaml", fields))


def test_all_problems_come_together():
    text = message(spec.resolve_layers, ("s.yaml", {**DATA, "train": {"lr": -1, "epocs": 3}, "sede": 1}))
    assert all(word in text for word in ("train.lr", "train.epocs", "sede", "--help-spec"))


@pytest.mark.parametrize(("text", "expected"), [
    ("a: 1\na: 2", 's.yaml:2: the key "a" stands twice'),
    ("a: &x [1]\nb: *x", "s.yaml:2: aliases (*name) are not read"),
    ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", "s.yaml:2: aliases (*name) are not read"),
    ("[" * 5000, "s.yaml: cannot be read as YAML: nested too deeply"),
    ("a: [1", "s.yaml:1: expected ',' or ']'"),
    ("3: x", "s.yaml:1: the key 3 is not a string"),
    ("a: !!python/object/apply:os.system ['true']", "s.yaml:1: could not determine a constructor"),
    ("a: \x00", "cannot be read as YAML"),
])
def test_yaml_that_is_not_read(text, expected):
    assert expected in message(spec.parse_yaml, text, "s.yaml")


def test_spec_files_that_are_none(tmp_path):
    path = tmp_path / "s.yaml"
    assert "cannot be read: no such file or directory" in message(spec.read_spec, path)
    path.write_bytes(b"a: \xff")
    assert "byte 3 is not UTF-8" in message(spec.read_spec, path)
    path.write_text("- 1")
    assert "not a mapping" in message(spec.read_spec, path)
    path.write_text("#" * 1_000_001)
    assert "the limit is 1,000,000" in message(spec.read_spec, path)


def test_set():
    assert spec.parse_set(["train.epochs=2", "train.lr=3e-5", "data.columns.text=a b", "method=linear-probe"]) == {
        "train": {"epochs": 2, "lr": "3e-5"}, "data": {"columns": {"text": "a b"}}, "method": "linear-probe"}
    assert "is not KEY=VALUE" in message(spec.parse_set, ["train.epochs"])
    assert spec.resolve_layers(("x", DATA), ("--set", spec.parse_set(["train.lr=3e-5"])))[0].train.lr == 3e-5


def test_unknown_task_method_and_option():
    assert 'task.name: "text-clasification" is not a task; did you mean "text-classification"?' in message(
        tasks.find, "text-clasification")
    assert 'method.name: "fine-tunning" is not a method; did you mean "fine-tuning"?' in message(
        methods.build, {"name": "fine-tunning"})
    assert 'method.head_frist: is not an option of method "fine-tuning"; did you mean "head_first"?' in message(
        methods.build, {"name": "fine-tuning", "head_frist": True})
    assert "method.head_first: \"x\" is not allowed; it should be a valid boolean" in message(
        methods.build, {"name": "fine-tuning", "head_first": "x"})
    assert "it has none" in message(methods.build, {"name": "linear-probe", "lr": 1})


def test_the_reference_names_every_field():
    made, _ = spec.resolve_layers(("x", DATA))
    text = spec.reference()
    for path, _ in spec.leaves(made.model_dump(exclude={"method", "data"})):
        assert f"{path.rpartition('.')[2]}:" in text
