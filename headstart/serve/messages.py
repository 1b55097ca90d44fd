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
          413: "too many bytes, tokens or rows, or too large an answer",
          415: "not application/json", 422: "not what the model reads",
          421: "a Host that is not allowed",
          429: "the queue is full; Retry-After says when to come back", 504: "no answer before the deadline"}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": what.capitalize()} for status, what in ERRORS.items()}


def body_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """The schema that FastAPI writes for a body it reads itself; we read ours, within limits."""
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe_models(page: dict[str, Any], served: Sequence[Served], has_keys: bool) -> dict[str, Any]:
    """The OpenAPI page with the columns and example rows of what is served."""
    routes = {  # path -> (model, an example request, the columns that differ from model to model)
        "/v1/predict": [(model, {"rows": model.examples()}, {"rows": _item_or_list(_row_schema(model.task))})
                        for model in served],
        "/v1/embeddings": [(model, {"input": [row["text"] for row in model.examples()]},
                            {"input": _item_or_list(TEXT),
                             "dimensions": {"type": "integer", "minimum": 1, "maximum": model.width}})
                           for model in served if model.width]}
    for path, requests in routes.items():
        body = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        body["examples"] = {model.name: {"summary": f"{model.name}: {model.task.name}", "value": {
            "model": model.name, **example}} for model, example, _ in requests}
        if requests:  # else every request is refused here
            body["schema"] = {"anyOf": [_for_model(body["schema"], model.name, columns, is_alone=len(served) == 1)
                                        for model, _, columns in requests]}
    if has_keys:
        page["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        page["security"] = [{"key": []}]
    return page


def _for_model(schema: dict[str, Any], name: str, columns: dict[str, Any], is_alone: bool) -> dict[str, Any]:
    """The schema of a request to one model; `model` is required only where there are several."""
    narrowed = {c: {"description": schema["properties"][c].get("description", "")} | rule
                for c, rule in {"model": {"const": name}, **columns}.items()}
    return {**schema, "title": name, "required": [*schema["required"], *([] if is_alone else ["model"])],
            "properties": schema["properties"] | narrowed}


def _item_or_list(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1, "maxItems": MAX_ROWS}]}


def _row_schema(task: Task) -> dict[str, Any]:
    shown = {c: v for row in reversed(task.examples) for c, v in row.items()}
    columns = {c: {"description": rule, **JSON_KINDS[kind_of(shown.get(c))]}
               for c, rule in task.columns.rules.items() if c not in task.columns.gold}
    needed = task.columns.required_inputs
    row = {"type": "object", "title": task.name, "properties": columns, "required": list(needed),
           "additionalProperties": False}
    return {"anyOf": [row, TEXT]} if "text" in task.columns.rules and set(needed) <= {"text"} else row
