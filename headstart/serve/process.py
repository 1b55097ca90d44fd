"""The process: one port, what signals mean, and workers that are started again when they die.

SIGTERM, SIGINT: /health/ready says no; for drain_s new requests are still answered; then the socket closes and what is
in flight is finished within grace_s. A second one ends at once. SIGHUP: look at the artifacts and the keys again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import multiprocessing
import os
import resource
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
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

    from .guard import Guard
    from .measures import Measures
    from .models import Models
    from .protocol import Connections

SO_ATTACH_FILTER = 26
# BPF: load the byte of TCP's flags; if SYN is among them, keep nothing of the packet; else all of it.
NOT_SYN = (0x30, 0, 0, 13, 0x45, 0, 1, 2, 0x06, 0, 0, 0, 0x06, 0, 0, 0xFFFFFFFF)
PACKAGES = ("fastapi", "httptools", "prometheus_client", "uvloop")
BACKLOG = 2048  # connections that wait to be taken
SPARE_FILES = 384  # of the process's open files: what is no connection, and those over the limit that are told so
ACCEPTED_S = 0.1  # after new connections are held off, for those that were begun to be taken
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
    from .protocol import Connections

    start_log()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what is loaded now is the newest; its own handler comes below
    measures = Measures()
    models = Models(settings, measures, n_threads)
    app, guard = _application(settings, models, measures)
    connections = Connections(guard, settings, min(settings.connections, _open_files() - SPARE_FILES))

    def set_ready(ready: bool) -> None:
        app.state.ready, connections.is_draining = ready, not ready
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

    uvloop.run(_until_ended(connections, listener, set_ready, started, [reload, models.watch]))
    log_event("info", "ended", pid=os.getpid())


def _open_files() -> int:
    """How many files this process may open, after it has asked for as many as it can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return 1 << 20 if soft == resource.RLIM_INFINITY else max(soft, SPARE_FILES + 1)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _application(settings: Settings, models: Models, measures: Measures) -> tuple[FastAPI, Guard]:
    """(the routes, the guard before them)."""
    from . import api
    from .guard import Guard, Keys

    app = api.create_app(settings, models, measures)
    return app, Guard(api.shortcut(app), Keys(settings.keys()), measures, settings.hosts(), settings.origins)


async def _until_ended(connections: Connections, listener: socket.socket, set_ready: Callable[[bool], None],
                       started: Callable[[], None], jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends at once. jobs: what SIGHUP asks for, what runs all the time."""
    from .protocol import Protocol

    loop, settings = asyncio.get_running_loop(), connections.settings
    running: set[asyncio.Task[None]] = set()
    drained, at_once = asyncio.Event(), asyncio.Event()

    def end() -> None:
        if connections.is_draining:
            drained.set()
            at_once.set()
            return
        log_event("info", "draining", pid=os.getpid())
        set_ready(False)
        late = threading.Timer(settings.drain_s + settings.grace_s + 2, os._exit, [1])
        late.daemon = True  # a run of a model that hangs must not keep the process
        late.start()
        loop.call_later(settings.drain_s, drained.set)

    reload, watch = jobs
    server = await loop.create_server(lambda: Protocol(connections), sock=listener, backlog=BACKLOG)
    started()
    loop.add_signal_handler(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGINT, end)
    loop.add_signal_handler(signal.SIGHUP, lambda: running.add(loop.create_task(reload())))
    if settings.watch_s:
        running.add(loop.create_task(watch()))
    await drained.wait()
    await _stop_accepting(server, listener)
    connections.end()
    deadline = time.monotonic() + settings.grace_s
    while connections.open and not at_once.is_set() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    for protocol in list(connections.open):
        protocol.transport.abort()
    for task in running:
        task.cancel()


async def _stop_accepting(server: asyncio.Server, listener: socket.socket) -> None:
    """Take every connection that a client believes to have, then close: a queue that is closed resets those in it.

    Linux forgets packets that begin a connection as soon as a filter says so. Their senders try again after a second
    and are refused, or reach another worker.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            code = ctypes.create_string_buffer(struct.pack("HBBI" * 4, *NOT_SYN))
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 4, ctypes.addressof(code)))
    for _ in range(2):  # a loop that was held up looks at the socket once more in between
        await asyncio.sleep(ACCEPTED_S / 2)
    server.close()


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
