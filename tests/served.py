"""A real server in a process of its own, and a client that is nothing but sockets and JSON."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from headstart import tasks
from headstart.core import files as sealed
from headstart.core import spec as specs
from headstart.models import backbone as backbones
from headstart.runs import weights

JSON = {"content-type": "application/json"}


def finished_run(out: Path, backbone: Path, name: str, rows: Sequence[dict[str, Any]] = ()) -> Path:
    """The artifact of a task that learned its labels from `rows`, or from its own examples, and nothing else."""
    task = tasks.find(name)()
    rows = rows or task.examples
    task = task.learn(rows)
    spec, origins = specs.resolve_layers(("test", {"task": name, "method": "fine-tuning", "backbone": str(backbone),
                                            "data": {"train": "examples", "max_tokens": 64}}))
    loaded = backbones.load_backbone(str(backbone), spec.data.max_tokens)
    with sealed.write_folder(out) as folder:
        weights.save(folder, backbones.build_model(loaded, task, spec.head.pooling, 0), task, loaded, rows)
        (folder / "spec.yaml").write_text(specs.to_yaml(spec, origins), "utf-8")
        (folder / "scores.json").write_text(json.dumps({"metric": task.metric, "score": 0.5, "n_test": 8}), "utf-8")
    return out


class Server:
    """`headstart serve RUNS OPTIONS` on a free port; `with` waits until it answers and ends it by SIGTERM."""

    headers: dict[str, str]

    def __init__(self, log: Path, runs: list[Path], *options: str) -> None:
        self.log, self.headers = log, {}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headstart", "serve", *map(str, runs), "--port", "0", *options], stderr=file)

    def __enter__(self) -> Self:
        self.port = int(wait_for(lambda: self.events("serving"), 60, self)[0]["url"].rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(40) == 0, self.log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's whole lines of one kind."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines(keepends=True)
                 if line.endswith("\n") and line[0] == "{"]  # a library that panics writes lines of its own
        return [line for line in lines if line["event"] == name]

    def is_busy(self) -> bool:
        """Whether a request waits or runs."""
        return self.metric("headstart_queue_requests") > 0

    def ask(self, path: str, body: Any = None, *, method: str | None = None, headers: dict[str, str] | None = None,
            timeout: float = 30) -> tuple[int, Any, dict[str, str]]:
        """(status, JSON or text, headers) of one request on a connection of its own. body: bytes, or JSON's values."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            is_raw = body is None or isinstance(body, bytes)
            connection.request(method or ("GET" if body is None else "POST"), path,
                               body if is_raw else json.dumps(body).encode(),
                               {**({} if body is None else JSON), **(self.headers if headers is None else headers)})
            response = connection.getresponse()
            said = response.read().decode()
            found = {name.lower(): value for name, value in response.getheaders()}
            is_json = found.get("content-type", "").startswith("application/json")
            return response.status, json.loads(said) if is_json else said, found
        finally:
            connection.close()

    def predict(self, rows: Any, model: str | None = None, **options: Any) -> tuple[int, Any, dict[str, str]]:
        """POST /v1/predict."""
        return self.ask("/v1/predict", {"rows": rows, **({"model": model} if model else {})}, **options)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's lines that have these labels."""
        found = 0.0
        for line in self.ask("/metrics")[1].splitlines():
            if (line.startswith((f"{name}{{", f"{name} "))
                    and all(f'{key}="{value}"' in line for key, value in labels.items())):
                found += float(line.rpartition(" ")[2])
        return found


def wait_for(what: Callable[[], Any], limit_s: float = 20, server: Server | None = None) -> Any:
    """What `what` gives once it is something."""
    end = time.monotonic() + limit_s
    while not (found := what()):
        if time.monotonic() > end or (server is not None and server.process.poll() is not None):
            raise AssertionError(f"waited in vain; {server.log.read_text() if server else ''}")
        time.sleep(0.02)
    return found
