"""Artifacts over HTTP: `headstart serve RUN`. A request's way, top to bottom:

    process.py     the port, signals, workers
    protocol.py    HTTP/1.1 within limits of bytes and seconds
    guard.py       request id, Host, API key, security headers, errors in one shape, one line of log, counts
    api.py         routes; bodies within limits; what the OpenAPI page says
    models.py      names to artifacts; a new artifact is loaded beside the old one and swapped in
    batching.py    waiting requests to batches under a token budget, bounded, with deadlines
    measures.py    what /metrics shows
    pages/         the playground and the OpenAPI page: plain files, no asset from elsewhere

encode and decode are the task's own: an answer over HTTP is that of `artifact.predict`.
"""

from .settings import Settings

__all__ = ["Settings"]
