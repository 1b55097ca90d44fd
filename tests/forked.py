"""`headstart` in a process of its own that does not wait for imports: forked from one that has loaded the libraries."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
from pathlib import Path

from headstart.cli.app import main
from headstart.studies.jobs import LIBRARIES

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["pytest", *LIBRARIES, "headstart.runs.fit", "forked"])


def run(arguments: list[str], log: str, file_bytes: int | None) -> None:
    for number, path in ((1, os.devnull), (2, log)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    sys.argv = ["headstart", *arguments]
    main()


class Command:
    """As `subprocess.Popen`: it can be signaled, killed and waited for. file_bytes: no larger file may it write."""

    def __init__(self, *arguments: str, file_bytes: int | None = None) -> None:
        handle, self.log = tempfile.mkstemp()
        os.close(handle)
        self.process = context.Process(target=run, args=(arguments, self.log, file_bytes))
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
        stderr = Path(self.log).read_text("utf-8")
        os.unlink(self.log)
        return "", stderr

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode
