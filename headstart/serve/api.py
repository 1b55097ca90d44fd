"""The routes. Bodies are read within limits and checked by pydantic."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydantic
import pydantic_core
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from pydantic_core import from_json, to_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import __version__
from ..core.errors import DataError
from ..core.untrusted import parse_json
from ..core.values import Row
from .errors import ClientGone, Refused, closing, internal
from .measures import Measures
from .messages import (
    MAX_ROWS,
    REFUSALS,
    EmbeddingsRequest,
    EmbeddingsResponse,
    Health,
    ModelsResponse,
    PredictRequest,
    PredictResponse,
    body_schema,
    describe_models,
)
from .models import Models, Served, validate_rows
from .settings import Settings

PAGES = Path(__file__).parent / "pages"
WATCH_AFTER_S = 0.05  # most are answered by then, and need no task that waits for their client to go
HALF = re.compile(r"\\u[dD][89a-fA-F]")
T = TypeVar("T")


def create_app(settings: Settings, models: Models, measures: Measures) -> FastAPI:
    """The application behind the guard."""
    app = FastAPI(title="headstart", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
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
        return describe_models(page, list(models), bool(settings.keys()))

    app.openapi = openapi  # type: ignore[method-assign]
    return app


class _Direct(APIRoute):
    """A route whose function turns the request into the response itself: FastAPI has nothing to look up for it."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        return self.endpoint


def shortcut(app: FastAPI) -> ASGIApp:
    """`app`, but what is posted goes straight to its function: a third of what HTTP costs are FastAPI's detours.

    What the function raises is for the guard to answer.
    """
    posted = {route.path: route.endpoint for route in app.routes
              if isinstance(route, _Direct) and "POST" in (route.methods or ())}

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = posted.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is None:
            await app(scope, receive, send)
            return
        scope["facts"].route = scope["path"]
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return answer


def _add_predict(app: FastAPI, settings: Settings, models: Models) -> None:
    @app.post("/v1/predict", response_model=PredictResponse, responses=REFUSALS,
              openapi_extra=body_schema(PredictRequest))
    async def predict(request: Request) -> Response:
        """Answer one row or many."""
        body = parse_body(PredictRequest, await read_body(request, settings))
        served = _named(request, models, body.model)
        rows = body.rows if isinstance(body.rows, list) else [body.rows]
        answers, n_tokens, n_cut = await _answers(request, settings, served, rows, "rows")
        about = to_json({"model": served.name, "version": served.version,
                         "usage": {"n_rows": len(rows), "n_tokens": n_tokens, "n_cut_tokens": n_cut}})
        return Response(b'%b,"predictions":[%b]}' % (about[:-1], b",".join(answers)), media_type="application/json")


def _add_embeddings(app: FastAPI, settings: Settings, models: Models) -> None:
    @app.post("/v1/embeddings", response_model=EmbeddingsResponse, responses=REFUSALS,
              openapi_extra=body_schema(EmbeddingsRequest))
    async def embeddings(request: Request) -> Response:
        """Turn texts into vectors, in OpenAI's shape."""
        body = parse_body(EmbeddingsRequest, await read_body(request, settings))
        served = _named(request, models, body.model)
        if not served.width:
            raise Refused(422, "no_embeddings", "this model gives no embeddings; those of sentence-similarity do.",
                          "model")
        texts = body.input if isinstance(body.input, list) else [body.input]
        answers, n_tokens, _ = await _answers(request, settings, served, texts, "input")
        vectors_ND = np.array([from_json(answer)["embedding"] for answer in answers])
        if body.dimensions is not None:
            if body.dimensions > served.width:
                raise Refused(422, "too_many_dimensions", f"vectors have {served.width} numbers.", "dimensions")
            vectors_ND = vectors_ND[:, : body.dimensions]
            vectors_ND /= np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
        is_float = body.encoding_format == "float"
        written = vectors_ND.tolist() if is_float else [
            base64.b64encode(vector_D.astype("<f4").tobytes()).decode() for vector_D in vectors_ND]
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(written)]
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
    """What FastAPI raises, in the one shape that errors have; the guard answers what we raise."""

    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
            refused = Refused(error.status_code, code, f"{error.detail}.", headers=dict(error.headers or {}))
            if refused.headers.get("Allow") == "GET":
                refused.headers["Allow"] = "GET, HEAD"
        else:
            refused = internal()
        return Response(refused.body(request.scope["facts"].request_id), refused.status, refused.headers,
                        "application/json")

    for kind in (HTTPException, Exception):
        app.add_exception_handler(kind, refuse)


def _named(request: Request, models: Models, name: str | None) -> Served:
    served = models.get(name)
    request.scope["facts"].model = served.name
    return served


async def read_body(request: Request, settings: Settings) -> bytes:
    """The body, if it is JSON by its own account, not packed, and within the limits of size and time."""
    headers = request.headers
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise closing(Refused(415, "not_json", "send application/json."))
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise closing(Refused(415, "packed", "send the body as it is, without a Content-Encoding."))
    too_large = closing(Refused(413, "too_many_bytes", f"a body has at most {settings.body_bytes:,} bytes."))
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 18 or int(length) > settings.body_bytes:
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
        raise closing(Refused(408, "body_too_slow", f"the body must arrive within {settings.body_s:g} s.")) from None


Body = TypeVar("Body", bound=BaseModel)


def parse_body(kind: type[Body], body: bytes) -> Body:
    """The request that a body means. Raises Refused with the place and the rule, never with the value."""
    try:
        text = body.decode()
        value = parse_json(text, "body", DataError)
        if HALF.search(text):
            to_json(value)  # half of a pair of surrogates is no character
    except (DataError, UnicodeError, pydantic_core.PydanticSerializationError):
        raise Refused(400, "json_not_valid", "the body is not valid JSON: UTF-8 without a byte order mark, no key "
                      "twice, no NaN or Infinity, no half of a surrogate pair, not nested deeply.") from None
    try:
        return kind.model_validate(value)
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    known = set(kind.model_fields)
    path = [part for part in first["loc"] if isinstance(part, int) or part in known]
    place = "".join(f"[{part}]" if isinstance(part, int) else part for part in path)
    problem = ("has a field that is not known" if first["type"] == "extra_forbidden" else
               "is missing" if first["type"] == "missing" else "is not as it must be")
    raise Refused(422, "request_not_valid", f"{place or 'the request'} {problem}; fields: {', '.join(sorted(known))}.",
                  place or None)


async def _answers(request: Request, settings: Settings, served: Served, raw_rows: Sequence[str | Row],
                   param: str) -> tuple[list[bytes], int, int]:
    """Check and answer rows before the deadline; when the client goes away its place is free at once."""
    facts = request.scope["facts"]
    facts.n_rows = len(raw_rows)
    if not raw_rows:
        raise Refused(422, "no_rows", f"{param} is empty.", param)
    if len(raw_rows) > MAX_ROWS:
        raise Refused(413, "too_many_rows", f"a request has at most {MAX_ROWS:,} rows.", param)
    rows = validate_rows(served.task, raw_rows, param)
    answers, n_tokens, n_cut = await _while_client_waits(request, served.batcher.answer(rows), settings.deadline_s)
    facts.n_tokens = n_tokens
    return answers, n_tokens, n_cut


async def _while_client_waits(request: Request, work: Awaitable[T], limit_s: float) -> T:
    """What `work` gives. It is cancelled at the deadline (Refused, 504) and when the client goes (ClientGone)."""
    me = asyncio.current_task()
    watching: asyncio.Task[None] | None = None
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        if me is not None:
            me.cancel()

    def look() -> None:
        nonlocal watching
        watching = asyncio.create_task(watch())

    soon = asyncio.get_running_loop().call_later(WATCH_AFTER_S, look)
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
        soon.cancel()
        if watching is not None:
            watching.cancel()


def _json(value: Any, status: int = 200) -> Response:
    return Response(to_json(value), status, media_type="application/json")
