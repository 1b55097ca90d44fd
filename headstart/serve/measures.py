"""What /metrics shows, in Prometheus' text format. Labels are routes and loaded models: nobody can invent new ones."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector  # type: ignore[attr-defined]

from .settings import SHARED_FOLDER

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class Measures:
    """The counts and histograms of one process; with several workers `text` adds up all of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("headstart_requests", "Requests answered.", ("route", "method", "status", "model"),
                                registry=self.registry)
        self.seconds = self._histogram("request_seconds", "From a request's head to its answer.", SECONDS,
                                       "route", "model")
        self.queue_seconds = self._histogram("queue_seconds", "From a request's tokens to its first batch.", SECONDS)
        self.batch_seconds = self._histogram("batch_seconds", "One run of a model, with decoding.", SECONDS)
        self.batch_windows = self._histogram("batch_windows", "Windows in a batch.", WINDOWS)
        self.batch_tokens = self._histogram("batch_tokens", "Tokens in a batch, padding not counted.", TOKENS)
        self.queue_requests = self._gauge("queue_requests", "Requests that wait or run.", "model")
        self.queue_tokens = self._gauge("queue_tokens", "Tokens that wait or run.", "model")
        self.tokens = self._counter("tokens", "Tokens read.")
        self.cut_tokens = self._counter("cut_tokens", "Tokens that did not fit a window.")
        self.rows = self._counter("rows", "Rows answered.")
        self.cache_hits = self._counter("cache_hits", "Rows answered from recent answers.")
        self.reloads = Counter("headstart_reloads", "New artifacts tried.", ("model", "outcome"),
                               registry=self.registry)
        self.ready = self._gauge("ready", "Processes that take new requests.")

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"headstart_{name}", about, labels or ("model",), buckets=buckets, registry=self.registry)

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(f"headstart_{name}", about, ("model",), registry=self.registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"headstart_{name}", about, labels, registry=self.registry, multiprocess_mode="livesum")

    def text(self) -> bytes:
        """The page."""
        if SHARED_FOLDER not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
