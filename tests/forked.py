"""`headstart` in a process of its own that does not wait for imports: forked from one that has loaded the libraries."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from headstart.cli.app import main
from headstart.studies.jobs import LIBRARIES, JobResult, run_verb

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["pytest", *LIBRARIES, "headstart.runs.fit", "headstart.studies.compare", "forked"])


def inherit(folder: str, environ: dict[str, str]) -> None:
    """The folder and the environment of who starts the process, not of when the server was started."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)


def run(arguments: tuple[str, ...], logs: tuple[str, str], file_bytes: int | None, *inherited: Any) -> None:
    inherit(*inherited)
    for number, path in enumerate(logs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    sys.argv = ["headstart", *arguments]
    main()


class Command:
    """As `subprocess.Popen`: it can be signaled, killed and waited for. file_bytes: no larger file may it write."""

    def __init__(self, *arguments: object, file_bytes: int | None = None) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.logs = tuple(str(Path(self.folder.name) / name) for name in ("stdout", "stderr"))
        self.process = context.Process(target=run, args=(tuple(map(str, arguments)), self.logs, file_bytes,
                                                         os.getcwd(), dict(os.environ)))
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        assert self.process.pid is not None  # it was started
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.process.join(timeout)
        with self.folder:
            stdout, stderr = (Path(path).read_text("utf-8") if Path(path).exists() else "" for path in self.logs)
        return stdout, stderr

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode


def run_job(results: Any, verb: str, order: Mapping[str, Any], *inherited: Any) -> None:
    inherit(*inherited)
    results.send(run_verb(verb, order))


class ForkedJobs:
    """As LocalJobs, but without a worker that has to load the libraries first."""

    def map(self, verb: str, orders: Iterable[Mapping[str, Any]]) -> Iterator[JobResult]:
        for order in orders:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=run_job, args=(sender, verb, order, os.getcwd(), dict(os.environ)))
            with receiver, sender:
                process.start()
                result = receiver.recv()
            process.join()
            yield result
