"""The process: one port, what signals mean, and workers that are started again when they die.

SIGTERM, SIGINT: /health/ready says no; for drain_s new requests are still answered; then the socket closes and what is
in flight is finished within grace_s. A second one ends at once. SIGHUP: look at the artifacts and the keys again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from ..core import machine
from ..core.errors import HeadstartError, MissingExtraError, ResourceError
from .log import log_event
from .log import start as start_log
from .settings import SHARED_FOLDER, Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from .guard import Guard
    from .measures import Measures
    from .models import Models

PACKAGES = ("fastapi", "httptools", "prometheus_client", "uvicorn", "uvloop")
BACKLOG = 2048  # connections that wait to be taken
YOUNG_S = 5.0  # a worker that dies younger is started again only after a while


def serve(settings: Settings) -> None:
    """Serve until a signal says to end. Raises HeadstartError when an artifact, a key or the port cannot be had."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("serve", package, "serve")
    settings.names()
    settings.keys()
    listener = bind(settings)
    if settings.workers == 1:
        work(settings, listener)
    else:
        Supervisor(settings, listener).run()


def bind(settings: Settings) -> socket.socket:
    """A socket that holds the port: it listens, or, where every worker listens with its own, only keeps others away.

    Workers of one socket take what comes as they happen to wake up, and often one of them takes nearly all
    connections. Linux shares them out among sockets that share a port. Raises ResourceError.
    """
    listener = _socket(settings, settings.port, listens=True)  # without sharing: so nobody else has this port
    if settings.workers == 1 or sys.platform != "linux":
        return listener
    port = listener.getsockname()[1]
    listener.close()
    return _socket(settings, port, is_shared=True)


def _socket(settings: Settings, port: int, *, is_shared: bool = False, listens: bool = False) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((settings.host, port))
        if listens:
            bound.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        bound.close()
        why = getattr(error, "strerror", None) or error
        raise ResourceError(f"serve --port {settings.port}", f"cannot listen on {settings.host}: {why}.",
                            "Choose another --port or --host.") from None
    return bound


def work(settings: Settings, listener: socket.socket, is_ready: Any = None) -> None:
    """Load every artifact and answer until a signal says to end.

    is_ready: an event to set when requests are answered.
    """
    n_threads = max(1, machine.usable_cpus() // settings.workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(n_threads))  # torch reads it when it is imported
    from .guard import Keys
    from .measures import Measures
    from .models import Models

    start_log()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what is loaded now is the newest; its own handler comes below
    measures = Measures()
    models = Models(settings, measures, n_threads)
    app, guard, asgi = _application(settings, models, measures)

    def set_ready(ready: bool) -> None:
        app.state.ready, guard.draining = ready, not ready
        measures.ready.set(int(ready))

    async def reload() -> None:
        try:
            guard.keys = Keys(settings.keys())
        except HeadstartError as error:
            log_event("error", "keys refused", reason=str(error))
        await models.reload_all()

    def started() -> None:
        set_ready(True)
        log_event("info", "serving", url=_url(listener), pid=os.getpid(), n_threads=n_threads,
                  models={served.name: served.task.name for served in models})
        if is_ready is not None:
            is_ready.set()

    import uvloop

    uvloop.run(_until_ended(_server(settings, asgi, set_ready, started), listener, reload,
                            models.watch if settings.watch_s else None))
    log_event("info", "ended", pid=os.getpid())


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


async def _until_ended(server: Any, listener: socket.socket, reload: Callable[[], Coroutine[Any, Any, None]],
                       watch: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
    """Serve, `reload` at SIGHUP, and `watch` beside it; both end with the server."""
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()
    loop.add_signal_handler(signal.SIGHUP, lambda: running.add(loop.create_task(reload())))
    if watch is not None:
        running.add(loop.create_task(watch()))
    await server.serve([listener])
    for task in running:
        task.cancel()


def _application(settings: Settings, models: Models, measures: Measures) -> tuple[FastAPI, Guard, ASGIApp]:
    """(the routes, the guard before them, all of it as it meets the socket)."""
    from starlette.middleware.cors import CORSMiddleware

    from . import api
    from .guard import Guard, Keys

    app = api.create_app(settings, models, measures)
    guard = Guard(api.shortcut(app), Keys(settings.keys()), measures)
    if not settings.origins:
        return app, guard, guard
    return app, guard, CORSMiddleware(guard, allow_origins=settings.origins, allow_methods=["GET", "POST"],
                                      allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
                                      expose_headers=["retry-after", "x-request-id"])


def _server(settings: Settings, asgi: Any, set_ready: Callable[[bool], None], started: Callable[[], None]) -> Any:
    """uvicorn, with signals that mean what this module says."""
    import uvicorn

    from .protocol import limited_protocol

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, self._end)
            if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
                loop.add_signal_handler(signal.SIGINT, self._end)
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

        def _end(self) -> None:
            if not self.is_ending:
                self.is_ending = True
                log_event("info", "draining", pid=os.getpid())
                set_ready(False)
                late = threading.Timer(settings.drain_s + settings.grace_s + 2, os._exit, [1])
                late.daemon = True  # a run of a model that hangs must not keep the process
                late.start()
                asyncio.get_running_loop().call_later(settings.drain_s, setattr, self, "should_exit", True)
            else:
                self.should_exit = self.force_exit = True

        is_ending = False

    return Server(uvicorn.Config(
        asgi, http=limited_protocol(settings.body_s), ws="none", lifespan="off", log_config=None, access_log=False,
        log_level=logging.WARNING, server_header=False, proxy_headers=False, limit_concurrency=4096, backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(settings.grace_s))))


def _worker(settings: Settings, listener: socket.socket, is_ready: Any) -> None:
    """`work` in a process of its own; ends when its parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent passes it on

    def follow() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    try:
        if listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            listener = _socket(settings, listener.getsockname()[1], is_shared=True, listens=True)
        work(settings, listener, is_ready)
    except HeadstartError as error:
        print(f"headstart: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


class Supervisor:
    """Starts workers on one port, passes signals on, and starts a worker again that dies."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.settings, self.listener = settings, listener
        self.context = multiprocessing.get_context("spawn")
        self.workers: dict[int, tuple[SpawnProcess, Any, float]] = {}  # place -> process, event, when it began
        self.was_ready = False
        self.is_ending = False

    def run(self) -> None:
        """Until a signal says to end. Raises SystemExit(2) when the artifacts cannot be served at all."""
        start_log()
        os.environ["PYTHONSAFEPATH"] = "1"  # workers do not import what lies where we were started
        with tempfile.TemporaryDirectory(prefix="headstart-metrics-") as shared:
            os.environ[SHARED_FOLDER] = shared
            woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            signal.set_wakeup_fd(wake)
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(signum, self._signal)
            for place in range(self.settings.workers):
                self._start(place)
            while self.workers:
                wait([process.sentinel for process, *_ in self.workers.values()] + [woken], 1.0)
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 512)
                self._look()

    def _start(self, place: int) -> None:
        event = self.context.Event()
        process = self.context.Process(target=_worker, args=(self.settings, self.listener, event))
        process.start()
        self.workers[place] = process, event, time.monotonic()

    def _look(self) -> None:
        """Note who is ready and who died."""
        for place, (process, event, began) in list(self.workers.items()):
            self.was_ready = self.was_ready or event.is_set()
            if process.is_alive():
                continue
            from prometheus_client.multiprocess import mark_process_dead

            mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
            del self.workers[place]
            if self.is_ending:
                continue
            if process.exitcode == HeadstartError.exit_code and not self.was_ready:
                self._pass_on(signal.SIGTERM)
                self._join([other for other, *_ in self.workers.values()])
                raise SystemExit(process.exitcode)
            log_event("error", "worker died", pid=process.pid, exit_code=process.exitcode)
            if time.monotonic() - began < YOUNG_S:
                time.sleep(1.0)
            self._start(place)

    def _signal(self, signum: int, _frame: Any) -> None:
        self.is_ending = self.is_ending or signum != signal.SIGHUP
        self._pass_on(signal.SIGHUP if signum == signal.SIGHUP else signal.SIGTERM)

    def _pass_on(self, signum: int) -> None:
        for process, event, _ in self.workers.values():
            # Before it is ready a worker has no handler: SIGHUP would kill it, and it reads the newest artifact anyway.
            if process.pid is not None and process.is_alive() and (event.is_set() or signum != signal.SIGHUP):
                os.kill(process.pid, signum)

    def _join(self, processes: Sequence[SpawnProcess]) -> None:
        for process in processes:
            process.join(self.settings.drain_s + self.settings.grace_s + 5)
