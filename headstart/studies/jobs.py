"""Work in processes of its own, so that the peak memory of each job is its own.

    for result in LocalJobs().map("headstart.studies.compare:run_cell", orders): ...

A study is a loop over `Jobs.map`; a cluster is a second implementation of it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ..core.errors import HeadstartError

LIBRARIES = ("accelerate", "jinja2", "peft", "sklearn.linear_model", "sklearn.feature_extraction.text",
             "safetensors.torch", "transformers.models.bert.modeling_bert")  # seconds to import: once, not in each job

Worker = subprocess.Popen[str]


@dataclass(frozen=True)
class JobResult:
    """What a verb returned; or, when it failed, why and with which exit code."""

    value: Mapping[str, Any] | None = None
    error: str = ""
    exit_code: int = 0

    def get(self, where: str) -> dict[str, Any]:
        """The value. where: names the job when HeadstartError has to be raised in its place."""
        if self.value is None:
            error = HeadstartError(where, self.error, "")  # what to do stands in it
            error.exit_code = self.exit_code
            raise error
        return dict(self.value)


class Jobs(Protocol):
    """Where the jobs of a study run."""

    def map(self, verb: str, orders: Iterable[Mapping[str, Any]]) -> Iterator[JobResult]:
        """Call a function with each order, and give the results in the same order.

        verb: "module:function"; orders and what it returns are JSON values. A job that fails does not end the others.
        """


class LocalJobs:
    """One job after another on this machine, each forked from one process that has loaded the libraries already."""

    def map(self, verb: str, orders: Iterable[Mapping[str, Any]]) -> Iterator[JobResult]:
        """As `Jobs.map`; an order is taken when the one before it is finished."""
        worker: Worker | None = None
        with ExitStack() as stack:
            for order in orders:
                if worker is None or worker.poll() is not None:
                    worker = stack.enter_context(_start())
                yield _ask(worker, verb, order)


def _start() -> Worker:
    # -P: a file that lies where we were started is not imported.
    command = [sys.executable, "-P", "-c", "from headstart.studies.jobs import serve; serve()"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(worker: Worker, verb: str, order: Mapping[str, Any]) -> JobResult:
    assert worker.stdin is not None, "it was opened with pipes"
    assert worker.stdout is not None, "it was opened with pipes"
    worker.stdin.write(json.dumps({"verb": verb, "order": order}) + "\n")
    worker.stdin.flush()
    return JobResult(**json.loads(worker.stdout.readline() or '{"error": "its process died", "exit_code": 1}'))


def serve() -> None:
    """The worker: for each line of stdin a forked child runs a job and writes one line to stdout.

    This process computes nothing itself, so it has no threads that a fork could lose. What a job prints goes to stderr.
    """
    for library in LIBRARIES:
        importlib.import_module(library)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as results:
        os.dup2(2, 1)
        for line in sys.stdin:
            message = json.loads(line)
            importlib.import_module(message["verb"].partition(":")[0])
            child = os.fork()
            if child == 0:
                results.write(json.dumps(asdict(run_verb(message["verb"], message["order"]))) + "\n")
                results.flush()
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if status:
                error = {"error": f"its process ended with status {status}", "exit_code": 1}
                results.write(json.dumps(error) + "\n")
                results.flush()


def run_verb(verb: str, order: Mapping[str, Any]) -> JobResult:
    """Call "module:function" with an order, in this process."""
    module, _, function = verb.partition(":")
    try:
        return JobResult(getattr(importlib.import_module(module), function)(order))
    except HeadstartError as error:
        return JobResult(error=str(error), exit_code=error.exit_code)
