"""Real processes in odd surroundings: a stdout that takes nothing, no home, another user, names that are no UTF-8.

An exported run answers in a second, since it loads no torch.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

import headstart

HEADSTART = [sys.executable, "-m", "headstart"]
NOBODY = 54321  # an id that /etc/passwd does not have
TEXTS = ["a lovely room", "ein schönes Zimmer", "房间很好"]

# What setpriv makes of root: a user without an entry who may read all the same, as the interpreter lies where it lies;
# and a root who may read no more than the files' modes say.
STRANGER = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", "--inh-caps=+dac_override",
            "--ambient-caps=+dac_override"]
NO_RIGHTS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
needs_root = pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can give up rights")


@pytest.fixture(scope="module")
def place(run) -> Iterator[Path]:
    """An exported run and rows, which every user may read: pytest's own folders are private."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        headstart.export(run, out=place / "exported")
        (place / "rows.txt").write_text("\n".join(TEXTS) + "\n", "utf-8")
        yield place


def headstart_in(place: Path, *arguments: object, env: dict[str, str] | None = None, before: Sequence[str] = (),
                 **options: Any) -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(env or {})}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    command = [os.fsencode(str(word)) for word in (*before, *HEADSTART, *arguments)]
    env = {key: value for key, value in environ.items() if value}
    return cast(subprocess.CompletedProcess[bytes],
                subprocess.run(command, cwd=place, check=False, timeout=120, env=env, **streams))


def answers(ended: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    assert ended.returncode == 0, ended.stderr.decode()
    lines = ended.stdout.decode().splitlines()
    assert len(lines) == len(TEXTS)
    return [json.loads(line) for line in lines]


def refused(ended: subprocess.CompletedProcess[bytes], words: str, rc: int = 2) -> None:
    stderr = ended.stderr.decode()
    assert (ended.returncode, "Traceback" in stderr, "Exception ignored" in stderr) == (rc, False, False), stderr
    assert words in stderr, stderr


@pytest.fixture(scope="module")
def wanted(place) -> list[dict[str, Any]]:
    return answers(headstart_in(place, "predict", "exported", "rows.txt"))


def test_a_stdout_that_is_full(place):
    with open("/dev/full", "wb") as full:
        refused(headstart_in(place, "predict", "exported", "rows.txt", stdout=full), "no space left on device")


def test_a_stdout_that_is_closed(place):
    refused(headstart_in(place, "predict", "exported", "rows.txt", stdout=None, preexec_fn=lambda: os.close(1)),
            "standard output: is closed")


def test_a_reader_that_has_seen_enough(place):
    read, write = os.pipe()
    os.close(read)
    ended = headstart_in(place, "predict", "exported", "rows.txt", stdout=write)
    os.close(write)
    refused(ended, "", rc=141)


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0",
                                                                 "PYTHONCOERCECLOCALE": "0"}], ids=str)
def test_a_stdout_in_ascii(env, place, wanted):
    assert answers(headstart_in(place, "predict", "exported", "rows.txt", env=env)) == wanted


def test_names_that_are_no_utf8(place, wanted):
    rows, run = b"caf\xe9.txt", b"run\xe9"
    shutil.copy(place / "rows.txt", place / os.fsdecode(rows))
    shutil.copytree(place / "exported", place / os.fsdecode(run))
    assert answers(headstart_in(place, "predict", "exported", os.fsdecode(rows))) == wanted
    refused(headstart_in(place, "predict", os.fsdecode(run), "rows.txt"), "onnxruntime cannot open it")
    refused(headstart_in(place, "predict", "exported", "rows.txt", "--out", os.fsdecode(b"\xe9.jsonl")), "not UTF-8")


def test_process_substitution(place, wanted):
    command = f'"{sys.executable}" -m headstart predict exported <(cat rows.txt)'
    ended = subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, timeout=120, check=False,
                           env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert answers(ended) == wanted


def test_few_open_files(place, wanted):
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    assert answers(headstart_in(place, "predict", "exported", "rows.txt", preexec_fn=few)) == wanted


@needs_root
def test_a_user_without_home_and_passwd_entry(place, wanted):
    env = {"HOME": "", "HEADSTART_CACHE": "", "XDG_CACHE_HOME": "", "USER": "", "LOGNAME": ""}
    assert answers(headstart_in(place, "predict", "exported", "rows.txt", before=STRANGER, env=env)) == wanted


@needs_root
@pytest.mark.parametrize(("arguments", "mode", "words"), [
    (["predict", "exported", "secret.txt"], "file", "secret.txt"),
    (["evaluate", "exported", "secret.csv"], "file", "secret.csv"),
    (["predict", "secret", "rows.txt"], "folder", "secret"),
], ids=str)
def test_what_a_user_may_not_read(arguments, mode, words, place):
    path = place / next(word for word in arguments if "secret" in word)
    path.mkdir() if mode == "folder" else path.write_text("text,label\na,b\n")
    path.chmod(0o000)
    refused(headstart_in(place, *arguments, before=NO_RIGHTS), words)


def test_what_lies_in_the_working_directory_is_not_imported(place, wanted):
    folder = place / "planted"
    folder.mkdir()
    for name in ("json", "numpy", "onnxruntime", "tokenizers", "typer", "sitecustomize", "headstart"):
        (folder / f"{name}.py").write_text('raise SystemExit("planted")\n')
    ended = subprocess.run([Path(sys.executable).with_name("headstart"), "predict", place / "exported",
                            place / "rows.txt"], cwd=folder, capture_output=True, timeout=120, check=False)
    assert answers(ended) == wanted


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/none"])
def test_a_cache_that_cannot_be_is_done_without(place, reviews, backbone, tmp_path, monkeypatch, cli):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / place))
    options = "--set", "method.name=linear-probe", "--set", "data.max_tokens=64"
    _, stderr = cli("fit", reviews, "--backbone", backbone, "--out", tmp_path / "run", *options)
    assert "going on without" in stderr
    assert headstart.load(tmp_path / "run").predict(["a lovely room"])
