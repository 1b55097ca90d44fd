"""Everything about a run, and nothing else decides it: same Spec, same machine, same result.

    spec, origins = resolve_layers(("spec file", read_spec("tweets.yaml")), ("--set", {"train": {"epochs": 2}}))

Layers are merged from left to right, and `origins` remembers for every field which layer had the last word.
Nothing here opens a data file, and nothing here imports torch.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic
from pydantic import Field

from .errors import MAX_PROBLEMS_SHOWN, SpecError, nearest, shorten
from .pretrained import BackboneSpec, named
from .untrusted import read_text

MAX_SPEC_BYTES = 1_000_000
DEFAULT = "default"
NO_ENCODINGS = ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "unicode-escape", "raw-unicode-escape")
Origins = dict[str, str]  # "train.lr" -> "spec file"


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _text_encoding(name: str) -> str:
    """`name`, if it is a codec from bytes to text; others that Python has (base64, idna, unicode_escape) are not."""
    try:
        known = codecs.lookup(name)
        decoder = known.incrementaldecoder("surrogateescape")  # as files are read
        is_text = decoder.decode("a,b".encode(name)) == "a,b" and known.name not in NO_ENCODINGS
    except (LookupError, ValueError, TypeError, AssertionError):  # base64 asserts
        is_text = False
    if not is_text:
        raise ValueError("must be a text encoding that Python knows, such as utf-8, latin-1, cp1252, utf-16, gb18030 "
                         "or shift_jis")
    return name


def _delimiter(character: str) -> str:
    if character in '"\r\n\0':
        raise ValueError("must be a character that may stand between values, no quote and no end of a line")
    return character


def _names(columns: Any) -> Any:
    """A column called 0 or 1, as pandas calls those without a name, is a name too; YAML reads a number."""
    return {key: str(name) if type(name) is int else name for key, name in columns.items()} if isinstance(
        columns, Mapping) else columns


class DataSpec(_Part):
    """Where the rows come from and how they are read."""

    train: str = Field(description="file, folder, hub:NAME or pip:PACKAGE/PATH with the labeled rows")
    validation: str | None = Field(None, description="rows that choose the checkpoint; made from train when absent")
    test: str | None = Field(None, description="rows for the certificate; made from train when absent")
    columns: Annotated[dict[str, str], pydantic.BeforeValidator(_names)] = Field(
        {}, description="the task's column -> the file's column, such as text: review")
    limit: int | None = Field(None, ge=1, description="use at most this many train rows, drawn by seed")
    validation_limit: int | None = Field(None, ge=1, description="use at most this many validation rows")
    test_limit: int | None = Field(None, ge=1, description="use at most this many test rows")
    validation_share: float = Field(
        0.1, gt=0, lt=0.5, description="share of train that becomes validation when made, at most 2,000 rows of it")
    test_share: float = Field(0.1, gt=0, lt=0.5, description="share of train that becomes test when made")
    near_duplicate: float = Field(0.8, gt=0, le=1, description="texts of this Jaccard similarity stay on one side")
    encoding: Annotated[str, pydantic.AfterValidator(_text_encoding)] | None = Field(
        None, description="text encoding; by byte-order mark or UTF-8 when absent")
    delimiter: Annotated[str, Field(min_length=1, max_length=1), pydantic.AfterValidator(_delimiter)] | None = Field(
        None, description="CSV delimiter; detected when absent")
    errors: Literal["strict", "replace", "skip"] = Field(
        "strict", description="bad rows: stop, replace undecodable bytes, or skip the row; all are counted")
    rare_labels: Literal["error", "skip", "train"] = Field(
        "error", description="labels with too few rows to split: train keeps them there, skip leaves them out")
    normalize_labels: bool = Field(False, description="strip blanks and lower the case of labels")
    max_tokens: int = Field(256, ge=4, le=1_000_000, description="longest window; what does not fit is cut and counted")
    max_chars: int = Field(1_000_000, ge=1, description="longest text that is read at all")
    keep_texts: bool = Field(
        True, description="false: no row's text stands in the artifact; golden inputs are made up, mistakes left out")
    max_bytes: int = Field(4_000_000_000, ge=1, description="largest file, decompressed, that is read at all")


class HeadSpec(_Part):
    """What the task puts on the backbone."""

    pooling: Literal["mean", "first", "max", "native"] = Field(
        "mean", description="how hidden states become one vector; native: the family's own head in transformers")


class EncoderDecoderSpec(_Part):
    """A model that writes, made of an encoder and a decoder beside it with a vocabulary of its own."""

    encoder: str = Field(description="a name, a folder or a hub id of a pretrained encoder")
    decoder: str | None = Field(
        None, description="a pretrained encoder of the family bert whose lowest blocks begin the decoder; absent: new "
        "blocks")
    blocks: int = Field(3, ge=1, le=48, description="of the decoder")
    vocabulary: int = Field(
        8_000, ge=300, le=200_000, description="tokens of the target vocabulary, learned from the train rows, at most")


class TrainSpec(_Part):
    """How the weights are moved. A field that is not set takes the method's own default."""

    epochs: int | None = Field(None, ge=1, description="passes over the train rows; absent: 3, more for few rows")
    max_steps: int | None = Field(None, ge=1, description="stop after this many optimizer steps")
    lr: float = Field(1e-4, gt=0, description="peak learning rate")
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop", "adafactor"] = Field("adamw", description="by name")
    weight_decay: float = Field(0.01, ge=0, description="decoupled where the optimizer is; spares biases and norms")
    schedule: Literal["linear", "cosine", "constant", "slanted-triangular"] = Field(
        "linear", description="the learning rate's shape after warmup")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate rises from 0")
    tokens_per_batch: int = Field(512, ge=1, description="padded tokens that one optimizer step reads at most")
    tokens_per_micro_batch: int | None = Field(
        None, ge=1, description="padded tokens in memory at once; gradients of smaller pieces are summed exactly")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")
    dropout: float | None = Field(None, ge=0, lt=1, description="overrides the backbone's own dropout")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all labels")
    class_weights: Literal["none", "balanced"] = Field("none", description="balanced: inverse to a label's frequency")
    evaluations_per_epoch: int = Field(1, ge=1, description="how often validation is scored")
    patience: int = Field(3, ge=1, description="stop after this many evaluations without a better score")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="of the products in the backbone. auto: bf16 where the processor has instructions for it "
        "and was measured to be faster with them, else fp32; fp16 is for GPUs")
    checkpoint_every_s: float = Field(300.0, gt=0, description="seconds between checkpoints, beside one an evaluation")


class EvaluateSpec(_Part):
    """How the certificate is computed."""

    n_resamples: int = Field(
        2000, ge=100, le=1_000_000, description="bootstrap resamples behind the intervals of F1 and of correlations; "
        "shares of rows, such as accuracy, need none: their intervals and tests follow from counts")
    baselines: bool = Field(True, description="also fit and score what the model must beat")
    tokens_per_batch: int = Field(
        1024, ge=1, le=10_000_000, description="padded tokens in one forward pass; a GPU likes more")


NAMED = ("task", "method", "backbone")  # fields that are {name: ..., option: value}


def _yes_or_no(value: Any) -> Any:
    """`cache: false` and `cache: true` as YAML reads them."""
    return {True: "fp16", False: "off"}[value] if isinstance(value, bool) else value


class Spec(_Part):
    """One run: data and backbone in, artifact out."""

    task: dict[str, Any] = Field({"name": "text-classification"},
                                 description="the kind of question, with options such as metric: macro_f1")
    backbone: Annotated[BackboneSpec, pydantic.BeforeValidator(named)] = BackboneSpec()
    encoder_decoder: EncoderDecoderSpec | None = Field(
        None, description="in place of backbone, for tasks that write: {encoder: NAME, decoder: NAME, blocks: 3, "
        "vocabulary: 8000}; a decoder is put beside an encoder")
    method: dict[str, Any] = Field({"name": "auto"}, description="how knowledge is carried over, with options")
    head: HeadSpec = HeadSpec()
    data: DataSpec
    train: TrainSpec = TrainSpec()
    evaluate: EvaluateSpec = EvaluateSpec()
    cache: Annotated[Literal["fp16", "fp32", "off"], pydantic.BeforeValidator(_yes_or_no)] = Field(
        "fp16", description="how frozen blocks' activations are kept between epochs and runs; off or false: not at all")
    seed: int = Field(0, ge=0, lt=2**32, description="drives splits, order, new weights and dropout")

    def identity(self) -> str:
        """sha256 (hex) of the resolved Spec: equal identities ask for equal runs."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


def resolve_layers(*layers: tuple[str, Mapping[str, Any]]) -> tuple[Spec, Origins]:
    """Merge `layers`, (origin, values) each, into a valid Spec. The last one to set a field wins.

    Returns the Spec and, for every leaf, the origin of its value. Raises SpecError with all that is wrong.
    """
    merged: dict[str, Any] = {}
    origins: Origins = {}
    for origin, values in layers:
        _merge(merged, _with_names(values), origin, origins, "")
    try:
        spec = Spec.model_validate(merged)
    except pydantic.ValidationError as error:
        raise _explain(error, origins) from None
    origins["backbone"] = origins.get("backbone.name", origins.get("backbone", DEFAULT))
    return spec, {path: origins.get(path, DEFAULT) for path, _ in leaves(spec.model_dump())}


def check_data_spec(values: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> DataSpec:
    """How rows are read: `values`, and `settings` over them. Raises SpecError with all that is wrong in them."""
    return resolve_layers(("settings", {"data": {**values, **(settings or {})}}))[0].data


def _with_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """`method: lora` is short for `method: {name: lora}`; `task` and `backbone` likewise."""
    return {key: named(value) if key in NAMED else value for key, value in values.items()}


def _merge(into: dict[str, Any], values: Mapping[str, Any], origin: str, origins: Origins, prefix: str) -> None:
    for key, value in values.items():
        path = f"{prefix}{key}"
        is_renamed = (path in NAMED and isinstance(value, Mapping) and isinstance(into.get(key), dict)
                          and path in origins
                          and value.get("name", into[key].get("name")) != into[key].get("name"))
        if isinstance(value, Mapping) and isinstance(into.get(key), dict) and not is_renamed:
            _merge(into[key], value, origin, origins, path + ".")
            continue
        into[key] = {} if isinstance(value, Mapping) else value
        for stale in [p for p in origins if p.startswith(path + ".")]:
            del origins[stale]
        origins[path] = origin
        if isinstance(value, Mapping):
            _merge(into[key], value, origin, origins, path + ".")


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("train.lr", 1e-4) and so on, in order. An empty mapping is a leaf."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _explain(error: pydantic.ValidationError, origins: Origins) -> SpecError:
    """pydantic's problems as one error: where, what came, the rule, the nearest name."""
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        origin = origins.get(path, "")
        where = f"{origin}: {path}" if origin else f"Spec: {path}"
        if problem["type"] == "extra_forbidden":
            *parents, name = problem["loc"]
            lines.append(f"{where}: is not a field; {nearest(str(name), _fields_at(tuple(parents)))}")
        elif problem["type"] == "missing":
            lines.append(f"{where}: is missing; it must hold: {_description(problem['loc'])}")
        else:
            rule = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
            lines.append(f"{where}: {shorten(problem['input'])} is not allowed; it {rule}")
    if len(lines) > MAX_PROBLEMS_SHOWN:
        lines[MAX_PROBLEMS_SHOWN:] = [f"... and {len(lines) - MAX_PROBLEMS_SHOWN} more"]
    return SpecError("", "\n".join(lines), "All fields with their defaults: headstart fit --help-spec")


def _part_of(annotation: Any) -> type[pydantic.BaseModel] | None:
    """The part of a Spec that a field holds, also one that may be absent; None of a field that is a plain value."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)), None)


def _part_at(path: tuple[Any, ...]) -> type[pydantic.BaseModel]:
    part: type[pydantic.BaseModel] = Spec
    for name in path:
        part = _part_of(part.model_fields[name].annotation) or part
    return part


def _fields_at(path: tuple[Any, ...]) -> list[str]:
    return list(_part_at(path).model_fields)


def _description(path: tuple[Any, ...]) -> str:
    field = _part_at(path[:-1]).model_fields[path[-1]]
    return field.description or f"a mapping with {', '.join(_fields_at(path))}"


@cache
def _loader() -> Any:
    """Made when a Spec is first read: an exported run is served without YAML."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe YAML that also refuses what a Spec never needs: a key twice, and aliases (they grow without bound)."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.MarkedYAMLError(problem="aliases (*name) are not read", problem_mark=mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[Any] = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, str):
                    raise yaml.MarkedYAMLError(problem=f"the key {key!r} is not a string",
                                               problem_mark=key_node.start_mark)
                if key in seen:
                    raise yaml.MarkedYAMLError(problem=f'the key "{key}" stands twice',
                                               problem_mark=key_node.start_mark)
                seen.add(key)
            return super().construct_mapping(node, deep)

        def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
            value = int(super().construct_yaml_int(node))  # type: ignore[no-untyped-call]
            if abs(value) >= 10**1000:  # Python does not write much longer ones
                raise yaml.MarkedYAMLError(problem="a number has more than 1,000 digits", problem_mark=node.start_mark)
            return value

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    Loader.add_constructor("tag:yaml.org,2002:timestamp", Loader.construct_yaml_str)  # type: ignore[type-var]
    for kind in ("binary", "omap", "pairs", "set"):  # values that no Spec holds, and that JSON does not know
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", Loader.construct_undefined)  # type: ignore[type-var]
    return Loader


def parse_yaml(text: str, where: str) -> Any:
    """One YAML document as plain values. Raises SpecError that names the line."""
    import yaml

    try:
        return yaml.load(text, _loader())
    except yaml.MarkedYAMLError as error:
        line = f"{where}:{error.problem_mark.line + 1}" if error.problem_mark else where
        raise SpecError(line, f"{error.problem}; a Spec is a plain YAML mapping.", "Mend that line.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else shorten(str(error), 200)
        raise SpecError(where, f"cannot be read as YAML: {what}.", "A Spec is a short plain YAML mapping.") from None


def read_spec(path: str | Path) -> dict[str, Any]:
    """The mapping that a Spec file holds, not yet checked against the fields."""
    path = Path(path)
    values = parse_yaml(read_text(path, SpecError, MAX_SPEC_BYTES).removeprefix("\ufeff"), str(path))
    if not isinstance(values, dict):
        raise SpecError(str(path), f"holds {shorten(values)}, not a mapping.", "Start with: data: {train: FILE}")
    return values


def parse_set(assignments: list[str]) -> dict[str, Any]:
    """`["train.epochs=2"]` as {"train": {"epochs": 2}}; values are read as YAML."""
    out: dict[str, Any] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not all(path.split(".")):
            raise SpecError(f"--set {text}", "is not KEY=VALUE.", "For example: --set train.epochs=2")
        nested: dict[str, Any] = {}
        at = nested
        *parents, last = path.split(".")
        for part in parents:
            at = at.setdefault(part, {})
        at[last] = parse_yaml(value, f"--set {path}")
        _merge(out, nested, "", {}, "")
    return out


def to_yaml(spec: Spec, origins: Origins) -> str:
    """The resolved Spec as YAML that `read` takes back, each value followed by where it came from."""
    lines = ["# The resolved Spec of this run: every field, and where its value came from."]

    def write(values: Mapping[str, Any], prefix: str, indent: str) -> None:
        for key, value in values.items():
            if isinstance(value, Mapping) and value:
                lines.append(f"{indent}{_scalar(key)}:")
                write(value, f"{prefix}{key}.", indent + "  ")
            else:
                lines.append(f"{indent}{_scalar(key)}: {_scalar(value)}  # {origins.get(prefix + key, DEFAULT)}")

    write(spec.model_dump(), "", "")
    return "\n".join(lines) + "\n"


def reference() -> str:
    """Every field of a Spec with its default and its meaning, one a line."""
    lines = ["# Every field of a Spec: its default, and what it means. A method may preset some of train."]

    def write(part: type[pydantic.BaseModel], indent: str) -> None:
        for name, field in part.model_fields.items():
            inner = _part_of(field.annotation)
            if inner is not None:
                lines.append(f"{indent}{name}:" if field.default is not None else
                             f"{indent}{name}: null  # {field.description}; its fields:")
                write(inner, indent + ("  " if field.default is not None else "#   "))
            else:
                value = "REQUIRED" if field.is_required() else _scalar(field.default)
                lines.append(f"{indent}{name}: {value}  # {field.description}")

    write(Spec, "")
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")
