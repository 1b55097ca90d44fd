"""What goes over the wire: the shapes of requests and answers, and the OpenAPI page that is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..core.task import Task
from .models import Served, kind_of

MAX_ROWS = 10_000
TEXT = {"type": "string", "pattern": r"[^\s\x1c-\x1f\x85]"}  # not empty; Python has blanks that other \s lack
JSON_KINDS: dict[str, dict[str, Any]] = {
    "text": TEXT, "list": {"type": "array", "items": TEXT},
    "span": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2}}


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = Annotated[int, BeforeValidator(_whole)]  # 31.0 is one in JSON


class PredictRequest(BaseModel):
    """Rows to answer: one or many, each with the task's own columns. A string is short for {"text": string}."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str | None = Field(None, max_length=256, description="Which model; may be left out where only one is served")
    rows: str | dict[str, Any] | list[str | dict[str, Any]]


class Usage(BaseModel):
    """What was read. Tokens that did not fit the model's window were not."""

    n_rows: int
    n_tokens: int
    n_cut_tokens: int


class PredictResponse(BaseModel):
    """One answer a row, in their order; what an answer holds is the task's to say."""

    model: str
    version: str = Field(description="The first digits of the artifact's sha256")
    predictions: list[dict[str, Any]]
    usage: Usage


class EmbeddingsRequest(BaseModel):
    """OpenAI's request for embeddings; texts only, no token ids."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str | None = Field(None, max_length=256)
    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: WholeNumber | None = Field(None, ge=1, description="Only the first numbers, made of norm one again")
    user: str | None = Field(None, max_length=256, description="Not read")


class Embedding(BaseModel):
    """One vector of norm one; base64 is little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """OpenAI's answer."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class ModelsResponse(BaseModel):
    """The models that are served: task, columns, made-up examples, score of the test rows."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]


class Health(BaseModel):
    """How this process is."""

    status: str


class Fault(BaseModel):
    """What went wrong: a code for programs, a sentence for people, the place in the request."""

    code: str
    message: str
    param: str | None
    request_id: str


class ErrorResponse(BaseModel):
    """The one shape of all errors."""

    error: Fault


ERRORS = {400: "not JSON", 401: "no valid API key", 404: "no such model", 408: "the body came too slowly",
          413: "too many bytes, tokens or rows", 415: "not application/json", 422: "not what the model reads",
          429: "the queue is full; Retry-After says when to come back", 504: "no answer before the deadline"}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": what.capitalize()} for status, what in ERRORS.items()}


def body_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """What FastAPI would say of a body that it reads itself; ours are read within limits."""
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def described(page: dict[str, Any], served: Sequence[Served], has_keys: bool) -> dict[str, Any]:
    """The OpenAPI page with the columns and example rows of what is served."""
    ways = {  # path -> (model, an example of what is asked of it, the columns that differ from model to model)
        "/v1/predict": [(one, {"rows": one.examples()}, {"rows": _one_or_many(_row_schema(one.task))})
                        for one in served],
        "/v1/embeddings": [(one, {"input": [row["text"] for row in one.examples()]},
                            {"input": _one_or_many(TEXT),
                             "dimensions": {"type": "integer", "minimum": 1, "maximum": one.width}})
                           for one in served if one.width]}
    for path, found in ways.items():
        asked = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        asked["examples"] = {one.name: {"summary": f"{one.name}: {one.task.name}", "value": {
            "model": one.name, **example}} for one, example, _ in found}
        if found:  # else what is asked here is refused, whatever it is
            asked["schema"] = {"anyOf": [_for_model(asked["schema"], one.name, columns, is_alone=len(served) == 1)
                                         for one, _, columns in found]}
    if has_keys:
        page["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        page["security"] = [{"key": []}]
    return page


def _for_model(schema: dict[str, Any], name: str, columns: dict[str, Any], is_alone: bool) -> dict[str, Any]:
    """The schema of a request to one model; which model need be said only where there are several."""
    said = {c: {"description": one.get("description", "")} for c, one in schema["properties"].items()}
    chosen = {c: said[c] | one for c, one in {"model": {"const": name}, **columns}.items()}
    return {**schema, "title": name, "required": [*schema["required"], *([] if is_alone else ["model"])],
            "properties": schema["properties"] | chosen}


def _one_or_many(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1, "maxItems": MAX_ROWS}]}


def _row_schema(task: Task) -> dict[str, Any]:
    shown = {c: v for row in reversed(task.examples) for c, v in row.items()}
    columns = {c: {"description": rule, **JSON_KINDS[kind_of(shown.get(c))]}
               for c, rule in task.columns.rules.items() if c not in task.columns.gold}
    needed = task.columns.required_inputs
    row = {"type": "object", "title": task.name, "properties": columns, "required": list(needed)}
    return {"anyOf": [row, TEXT]} if "text" in task.columns.rules and set(needed) <= {"text"} else row
