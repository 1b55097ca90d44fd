"""The routes. Bodies are read within limits and checked by pydantic; the OpenAPI page follows from the tasks."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pydantic
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from .. import __version__
from ..tasks import Task
from ..types import Prediction, Row
from .guard import CLIENT_GONE
from .measures import Measures
from .models import Models, Served, checked, kind_of
from .refused import ClientGone, Refused, internal
from .settings import Settings

PAGES = Path(__file__).parent / "pages"
MAX_ROWS = 10_000
DRAINED_BODIES = 4  # times the limit: what is read of a body that is too large, and forgotten
T = TypeVar("T")
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


def make(settings: Settings, models: Models, measures: Measures) -> FastAPI:
    """The application behind the guard."""
    app = FastAPI(title="headstart", version=__version__, docs_url=None, redoc_url=None)
    app.router.route_class = _Direct
    app.state.ready = True
    _handle_errors(app)
    _add_predict(app, settings, models)
    _add_embeddings(app, settings, models)
    _add_rest(app, models, measures)
    _add_pages(app)

    def openapi() -> dict[str, Any]:
        page = get_openapi(title="headstart", version=__version__, routes=app.routes, description=(
            "Answers of models that were fitted with headstart. Every error has one shape."))
        return described(page, list(models), bool(settings.keys()))

    app.openapi = openapi  # type: ignore[method-assign]
    return app


class _Direct(APIRoute):
    """A route whose function turns the request into the response itself: FastAPI has nothing to look up for it."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        return self.endpoint


def _add_predict(app: FastAPI, settings: Settings, models: Models) -> None:
    @app.post("/v1/predict", response_model=PredictResponse, responses=REFUSALS, openapi_extra=_body(PredictRequest))
    async def predict(request: Request) -> Response:
        """Answer one row or many."""
        asked = parsed(PredictRequest, await read_body(request, settings))
        served = _named(request, models, asked.model)
        given = asked.rows if isinstance(asked.rows, list) else [asked.rows]
        answers, n_tokens, n_cut = await _answers(request, settings, served, given, "rows")
        return _json({"model": served.name, "version": served.version, "predictions": answers,
                      "usage": {"n_rows": len(given), "n_tokens": n_tokens, "n_cut_tokens": n_cut}})


def _add_embeddings(app: FastAPI, settings: Settings, models: Models) -> None:
    @app.post("/v1/embeddings", response_model=EmbeddingsResponse, responses=REFUSALS,
              openapi_extra=_body(EmbeddingsRequest))
    async def embeddings(request: Request) -> Response:
        """Turn texts into vectors, in OpenAI's shape."""
        asked = parsed(EmbeddingsRequest, await read_body(request, settings))
        served = _named(request, models, asked.model)
        if not served.width:
            raise Refused(422, "no_embeddings", "this model gives no embeddings; those of sentence-similarity do.",
                          "model")
        texts = asked.input if isinstance(asked.input, list) else [asked.input]
        answers, n_tokens, _ = await _answers(request, settings, served, texts, "input")
        vectors_ND = np.array([one["embedding"] for one in answers])
        if asked.dimensions is not None:
            if asked.dimensions > served.width:
                raise Refused(422, "too_many_dimensions", f"vectors have {served.width} numbers.", "dimensions")
            vectors_ND = vectors_ND[:, : asked.dimensions]
            vectors_ND /= np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
        is_float = asked.encoding_format == "float"
        written = vectors_ND.tolist() if is_float else [
            base64.b64encode(vector_D.astype("<f4").tobytes()).decode() for vector_D in vectors_ND]
        data = [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(written)]
        return _json({"object": "list", "data": data, "model": served.name,
                      "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens}})


def _add_rest(app: FastAPI, models: Models, measures: Measures) -> None:
    @app.get("/v1/models", response_model=ModelsResponse, responses={401: REFUSALS[401]})
    async def list_models(_: Request) -> Response:
        """Which models are served, and what they read."""
        return _json({"object": "list", "data": [served.describe() for served in models]})

    @app.get("/health/live", response_model=Health)
    async def live(_: Request) -> Response:
        """Whether the process answers at all."""
        return _json({"status": "live"})

    @app.get("/health/ready", response_model=Health, responses={503: {"model": Health, "description": "Draining"}})
    async def ready(_: Request) -> Response:
        """Whether new requests may be sent here."""
        return _json({"status": "ready"}) if app.state.ready else _json({"status": "draining"}, 503)

    @app.get("/metrics", response_class=Response, responses={401: REFUSALS[401]})
    async def metrics(_: Request) -> Response:
        """Counts and histograms for Prometheus."""
        return Response(measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_pages(app: FastAPI) -> None:
    def page(name: str) -> Response:
        return Response((PAGES / name).read_bytes(), media_type="text/html; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def playground(_: Request) -> Response:
        return page("index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs(_: Request) -> Response:
        return page("docs.html")

    app.mount("/pages", StaticFiles(directory=PAGES))


def _handle_errors(app: FastAPI) -> None:
    """Every error in the one shape, also those that FastAPI raises."""

    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, ClientGone):
            return Response(status_code=CLIENT_GONE)
        if isinstance(error, Refused):
            refused = error
        elif isinstance(error, HTTPException):
            code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
            refused = Refused(error.status_code, code, f"{error.detail}.", headers=dict(error.headers or {}))
        else:
            refused = internal()
        return Response(refused.body(request.scope["facts"].request_id), refused.status, refused.headers,
                        "application/json")

    for kind in (Refused, ClientGone, HTTPException, Exception):
        app.add_exception_handler(kind, refuse)


def _named(request: Request, models: Models, name: str | None) -> Served:
    served = models.get(name)
    request.scope["facts"].model = served.name
    return served


async def read_body(request: Request, settings: Settings) -> bytes:
    """The body, if it is JSON by its own account, not packed, and within the limits of size and time."""
    headers = request.headers
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _closing(Refused(415, "not_json", "send application/json."))
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise _closing(Refused(415, "packed", "send the body as it is, without a Content-Encoding."))
    too_large = _closing(Refused(413, "too_many_bytes", f"a body has at most {settings.body_bytes:,} bytes."))
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 18 or int(length) > settings.body_bytes:
        await _drain(request, DRAINED_BODIES * settings.body_bytes)
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_s):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > settings.body_bytes:
                    raise too_large
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise _closing(Refused(408, "body_too_slow", f"the body must arrive within {settings.body_s:g} s.")) from None


async def _drain(request: Request, n_bytes: int) -> None:
    """Take what a client still sends, up to `n_bytes` and a second.

    Most clients read no answer before they have sent all, and a connection that is closed under them is reset.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            while n_bytes > 0:
                message = await request.receive()
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
                n_bytes -= len(message.get("body", b""))


def _closing(refused: Refused) -> Refused:
    """What is left of the body is not read: the connection ends."""
    refused.headers["connection"] = "close"
    return refused


Asked = TypeVar("Asked", bound=BaseModel)


def parsed(kind: type[Asked], body: bytes) -> Asked:
    """The request that a body means. Raises Refused with the place and the rule, never with the value."""
    try:
        return kind.model_validate_json(body)
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        raise Refused(400, "json_not_valid", "the body is not valid JSON (UTF-8, not nested deeply).")
    known = set(kind.model_fields)
    path = [part for part in first["loc"] if isinstance(part, int) or part in known]
    place = "".join(f"[{part}]" if isinstance(part, int) else part for part in path)
    said = ("has a field that is not known" if first["type"] == "extra_forbidden" else
            "is missing" if first["type"] == "missing" else "is not as it must be")
    raise Refused(422, "request_not_valid", f"{place or 'the request'} {said}; fields: {', '.join(sorted(known))}.",
                  place or None)


async def _answers(request: Request, settings: Settings, served: Served, given: Sequence[str | Row],
                   param: str) -> tuple[list[Prediction], int, int]:
    """Check and answer rows before the deadline; when the client goes away its place is free at once."""
    facts = request.scope["facts"]
    facts.n_rows = len(given)
    if not given:
        raise Refused(422, "no_rows", f"{param} is empty.", param)
    if len(given) > MAX_ROWS:
        raise Refused(413, "too_many_rows", f"a request has at most {MAX_ROWS:,} rows.", param)
    rows = checked(served.task, given, param)
    answers, n_tokens, n_cut = await _while_client_waits(request, served.batcher.answer(rows), settings.deadline_s)
    facts.n_tokens = n_tokens
    return answers, n_tokens, n_cut


async def _while_client_waits(request: Request, work: Awaitable[T], limit_s: float) -> T:
    """What `work` gives. It is cancelled at the deadline (Refused, 504) and when the client goes (ClientGone)."""
    me = asyncio.current_task()
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        if me is not None:
            me.cancel()

    watching = asyncio.create_task(watch())
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError:
        raise Refused(504, "too_late", f"there was no answer within {limit_s:g} s; the request was dropped.") from None
    except asyncio.CancelledError:
        if not is_gone:
            raise  # the server ends, and its grace is over
        raise ClientGone from None
    finally:
        watching.cancel()


def _json(value: Any, status: int = 200) -> Response:
    return Response(to_json(value), status, media_type="application/json")


# ---------------------------------------------------------------------------------------------------- the OpenAPI page


def _body(kind: type[BaseModel]) -> dict[str, Any]:
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
               for c, rule in task.columns.items() if c not in task.gold}
    row = {"type": "object", "title": task.name, "properties": columns, "required": list(task.needed)}
    return {"anyOf": [row, TEXT]} if "text" in task.columns and set(task.needed) <= {"text"} else row
