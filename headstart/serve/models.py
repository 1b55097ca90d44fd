"""Names to artifacts. A new artifact is loaded and proven beside the old one, then takes its place.

`artifact.load` checks hashes and answers the golden inputs again; what fails there is refused and the old one stays.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ArtifactError, HeadstartError
from ..core.manifest import sha256
from ..core.task import Task
from ..core.values import Row
from ..runs.artifact import Artifact, golden, load
from .batching import Batcher
from .errors import Refused, is_end
from .log import log_event
from .measures import Measures
from .settings import Settings

REPORTS = ("report.html", "report.md")  # the files of an artifact that may be written again at any time


@dataclass(frozen=True)
class Served:
    """One loaded artifact. width: numbers of the vector with which it answers a lone text; 0 where it does not."""

    name: str
    artifact: Artifact
    batcher: Batcher
    version: str
    width: int
    fields: list[dict[str, Any]]
    loaded_at: int

    @property
    def task(self) -> Task:
        return self.artifact.task

    def examples(self) -> list[Row]:
        """The task's own example rows; made up, so that no row of anybody's data is shown."""
        names = [field["name"] for field in self.fields]
        rows = [{name: row[name] for name in names if name in row} for row in self.task.examples]
        return [row for row in rows if row and all(column in row for column in self.task.columns.required_inputs)]

    def describe(self) -> dict[str, Any]:
        """Its entry in /v1/models."""
        scores = self.artifact.scores
        entry = {"id": self.name, "object": "model", "created": self.loaded_at, "owned_by": "headstart",
                 "task": self.task.name, "version": self.version, "embeddings": self.width > 0,
                 "fields": self.fields, "examples": self.examples(),
                 "metric": scores.get("metric"), "score": scores.get("score")}
        ends = getattr(self.task, "low", math.inf), getattr(self.task, "high", math.inf)
        return entry | ({"range": ends} if all(map(math.isfinite, ends)) else {})


class Models:
    """Every artifact that is served, and what they share: the thread that runs models, and those that read texts."""

    def __init__(self, settings: Settings, measures: Measures, n_threads: int) -> None:
        self.settings, self.measures, self.n_threads = settings, measures, n_threads
        self.folders = settings.names()
        self._thread = ThreadPoolExecutor(1, "model")
        self._encoders = ThreadPoolExecutor(2, "encode")
        self._loaders = ThreadPoolExecutor(1, "load")
        self._seen = {name: signature(folder) for name, folder in self.folders.items()}
        self._served = {name: self._load(name) for name in self.folders}

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def get(self, name: str | None) -> Served:
        """The artifact called `name`; the only one when there is no other. Raises Refused."""
        if name is None and len(self._served) == 1:
            return next(iter(self._served.values()))
        if name is None:
            raise Refused(422, "model_missing", f"say which model: {', '.join(sorted(self._served))}.", "model")
        if name not in self._served:
            raise Refused(404, "model_not_found", "no model has this name; GET /v1/models lists them.", "model")
        return self._served[name]

    def _load(self, name: str) -> Served:
        artifact = load(self.folders[name], n_threads=self.n_threads)
        if artifact.task.generation is not None:
            raise ArtifactError(str(self.folders[name]), f'is of task "{artifact.task.name}", which writes texts token '
                                "by token; only models that answer a text at once can be served so far.",
                                f"Use it on the command line: headstart predict {self.folders[name]} ROWS")
        # Both of a capability: a text alone is enough, and a vector is the answer.
        width = 0
        if artifact.task.columns.required_inputs == ("text",):
            width = len(artifact.predict([{"text": "a"}])[0].get("embedding", ()))
        batcher = Batcher(name, artifact.task, artifact.reader, artifact.runtime, self.settings, self.measures,
                          self._thread, self._encoders)
        version = sha256(self.folders[name] / "MANIFEST.json")[:12]
        golden_columns = {column for entry in golden(artifact.folder) for column in entry["row"]}
        return Served(name, artifact, batcher, version, width, fields(artifact.task, golden_columns), int(time.time()))

    async def reload(self, name: str) -> bool:
        """Try what is in the folder now; False when it is refused. Requests go on being answered, none fails."""
        old = self._served[name]
        try:
            new = await asyncio.get_running_loop().run_in_executor(self._loaders, self._load, name)
            if new.task.name != old.task.name:
                raise ArtifactError(str(self.folders[name]), f'answers "{new.task.name}" and not "{old.task.name}".',
                                    "Serve it under another name.")
        except BaseException as error:  # whatever is wrong with a folder, a panic too, the old artifact stays
            if is_end(error):
                raise
            reason = str(error) if isinstance(error, HeadstartError) else type(error).__name__
            log_event("error", "artifact refused", model=name, reason=reason, version=old.version)
            self.measures.reloads.labels(name, "refused").inc()
            return False
        self._served[name] = new  # requests that came before keep the old one until they are answered
        log_event("info", "artifact swapped", model=name, version=new.version, before=old.version)
        self.measures.reloads.labels(name, "swapped").inc()
        return True

    async def reload_all(self) -> None:
        """What SIGHUP asks for."""
        for name, folder in self.folders.items():
            self._seen[name] = signature(folder)
            await self.reload(name)

    async def watch(self) -> None:
        """Reload what changed, once it has stopped changing; without end."""
        pending: dict[str, Any] = {}
        while True:
            await asyncio.sleep(self.settings.watch_s)
            for name, folder in self.folders.items():
                now = signature(folder)
                if not now or now == self._seen[name]:  # deleted, or between two renames: the loaded one stays
                    pending.pop(name, None)
                elif pending.get(name) != now:
                    pending[name] = now
                else:
                    self._seen[name] = pending.pop(name)
                    await self.reload(name)


def signature(folder: Path) -> Sequence[Any]:
    """What changes when a file of `folder` does: paths, sizes, times. Empty when there is no artifact."""
    facts = []
    try:
        if not (folder / "MANIFEST.json").is_file():
            return ()
        for path in sorted(folder.rglob("*")):
            if path.name not in REPORTS:
                stat = path.stat()
                facts.append((str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    except OSError:
        return ()
    return facts


def validate_rows(task: Task, rows: Sequence[Row | str], param: str = "rows") -> list[Row]:
    """Rows as the task reads them. Raises Refused that names the row and the column, and shows nothing of them."""
    valid, columns = [], task.columns
    for i, raw in enumerate(rows):
        row = task.without_gold({"text": raw} if isinstance(raw, str) else dict(raw))
        wrong = [column for column in columns.required_inputs if column not in row]
        if not row.keys() <= columns.rules.keys():
            what, wrong = "has a column that is not known", []
        elif wrong:
            what = f"has no {_quoted(wrong)}"
        elif (complaint := task.check(row)) is not None:
            # The task's own words show the value; the column that they begin with is all that may leave the server.
            column = complaint.split('"')[1] if complaint.startswith('"') else ""
            wrong = [column] if column in columns.rules else []
            what = f"cannot be read: {_quoted(wrong)} is not as it must be" if wrong else "cannot be read"
        else:
            valid.append(row)
            continue
        reads = dict.fromkeys((*(columns.required_inputs or columns.inputs), *wrong))
        rule = "; ".join(f'"{c}" ({columns.rules[c]})' for c in reads)
        raise Refused(422, "row_not_valid", f'row {i} {what}; task "{task.name}" reads: {rule}.',
                      f"{param}[{i}]" + (f".{wrong[0]}" if wrong else ""))
    return valid


def _quoted(columns: Sequence[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def kind_of(value: Any) -> str:
    """What a column holds, by an example: "text", "list" (of texts) or "span" (two offsets into the text)."""
    if isinstance(value, list | tuple):
        return "span" if len(value) == 2 and all(isinstance(end, int) for end in value) else "list"
    return "text"


def fields(task: Task, golden_columns: Collection[str]) -> list[dict[str, Any]]:
    """The columns of an artifact's requests: what its task needs, and what its golden rows have besides."""
    columns = task.columns
    shown = {c: v for row in reversed(task.examples) for c, v in row.items()}
    chosen = [c for c in columns.inputs if c in columns.required or c in golden_columns]
    if not columns.required_inputs:  # one of several columns will do: a text is what a person types
        chosen = [c for c in columns.inputs if kind_of(shown.get(c)) == "text"][:1] or chosen
    return [{"name": c, "kind": kind_of(shown.get(c)), "rule": columns.rules[c],
             "required": c in columns.required or len(chosen) == 1} for c in chosen]
