"""No verb opens a connection or writes outside its folders; and with --no-texts no artifact holds a user's text."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import headstart
from headstart.core.task import Task
from headstart.tasks import build, names

VERBS = """
import json, sys
from headstart.cli.app import app, main
for arguments in json.loads(sys.argv[1]):
    try:
        main(lambda: app(arguments))
    except SystemExit as ended:
        assert not ended.code, arguments
"""
CONTROL = "import socket, sys; socket.create_connection(('127.0.0.1', 9), 1)"
WRITES = re.compile(r'(?:openat\([^,]+|mkdirat\([^,]+|open|mkdir|creat)[(,]? ?"([^"]+)"(?:, ([A-Z_|]+))?')
# strace writes the family before the address; AF_UNIX is this machine (a name service's socket, say).
CONNECTS = re.compile(r"(?:connect|sendto)\(.*sa_family=(AF_INET6?),.*")


def trace(folder: Path, code: str, *arguments: str) -> tuple[list[str], list[str]]:
    """Run Python code under strace, with a home of its own: (connections, paths that were written or made)."""
    home = folder / "home"
    (home / "tmp").mkdir(parents=True)
    log = folder / "trace"
    # CI: onnxruntime tells nothing where it is set, so it must not be.
    env = {k: v for k, v in os.environ.items()
           if k not in ("CI", "HEADSTART_CACHE", "ORT_DISABLE_TELEMETRY") and not k.startswith("COV")}
    subprocess.run(
        ["strace", "-f", "-qq", "--seccomp-bpf", "-s", "300", "-o", str(log), "-e",
         "trace=connect,sendto,openat,open,creat,mkdir,mkdirat", sys.executable, "-B", "-c", code, *arguments],
        env=env | {"HOME": str(home), "TMPDIR": str(home / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)},
        check=code != CONTROL, capture_output=True, timeout=300)
    lines = log.read_text("utf-8", "replace").splitlines()
    written = [m[1] for line in lines if (m := WRITES.search(line)) and " = -1 " not in line
               and ("mkdir" in line or "creat(" in line or re.search("O_WRONLY|O_RDWR|O_CREAT", m[2] or ""))]
    return [line for line in lines if CONNECTS.search(line)], written


traced = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, run):
    """The run with its texts, exported without."""
    return headstart.export(run, out=tmp_path_factory.mktemp("exported") / "run", texts=False)


def stays_in_its_folders(folder: Path, verbs: list[list[object]]) -> None:
    """Run verbs that write to FOLDER/out: they open no connection and write there, to the cache and to TMPDIR."""
    connections, written = trace(folder, VERBS, json.dumps([[str(word) for word in verb] for verb in verbs]))
    assert connections == []
    home = folder / "home"
    allowed = tuple(map(str, (folder / "out", home / ".cache" / "headstart", home / "tmp", "/dev/", "/proc/")))
    assert any(path.startswith(allowed[0]) for path in written), "the tracer saw what was written"
    assert [path for path in written if not path.startswith(allowed) and path != str(home / ".cache")] == []


@traced
def test_an_exported_run_calls_nobody_and_writes_nothing_else(tmp_path, exported, reviews):
    stays_in_its_folders(tmp_path, [["predict", exported.folder, reviews, "--out", tmp_path / "out" / "answers.jsonl"]])


@traced
@pytest.mark.slow
def test_no_verb_opens_a_connection_or_writes_outside_its_folders(tmp_path, backbone, reviews):
    out = tmp_path / "out"
    small = ["--set", f"backbone={backbone}", "--set", "train.max_steps=2", "--set", "evaluate.n_resamples=100"]
    stays_in_its_folders(tmp_path, [
        ["fit", reviews, "--out", out / "run", "--set", "data.limit=80", *small], ["export", out / "run"],
        ["evaluate", out / "run", reviews, "--out", out / "scores.json"], ["report", out / "run"],
        ["extract", backbone, reviews, "--out", out / "vectors.npy"], ["audit", reviews, "--out", out / "audit"],
        ["compare", reviews, "--methods", "linear-probe", "--seeds", "1", "--out", out / "compare", *small]])


@traced
def test_the_tracer_sees_a_connection(tmp_path):
    connections, _ = trace(tmp_path, CONTROL)
    assert len(connections) == 1


@pytest.mark.parametrize("name", names())
def test_made_up_rows_are_rows_of_the_task(name):
    task: Task = build({"name": name})
    for example in task.examples:
        blind = task.without_gold(example)
        made_up = task.made_up({column: _other(value) for column, value in example.items()})
        assert made_up
        for row in made_up:
            assert row.keys() == blind.keys()
            assert task.check(row) is None


def _other(value):
    return "xyzzy" if isinstance(value, str) else ["xyzzy"] * len(value) if isinstance(value, list) else value


def test_without_texts_no_file_of_an_artifact_holds_one(tmp_path, backbone, reviews):
    rows = [row["text"] for row in tiny.rows(300)]
    run = headstart.fit(tiny.spec(reviews, backbone, data={"keep_texts": False}, train={"max_steps": 2}),
                        out=tmp_path / "run")
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert not [text for text in rows if text.encode() in content], path.name
    golden = [json.loads(line)["row"] for line in (run.folder / "golden.jsonl").read_text("utf-8").splitlines()]
    assert golden == run.task.made_up({"text": "x"})


def test_an_export_leaves_texts_out_that_the_run_has(run, exported):
    rows = [row["text"] for row in tiny.rows(300)]
    assert any(text in (run / "golden.jsonl").read_text("utf-8") for text in rows)
    for path in exported.folder.rglob("*"):
        assert not [text for text in rows if path.is_file() and text.encode() in path.read_bytes()], path.name
    assert headstart.load(exported.folder).predict(["a lovely room"]) == exported.predict(["a lovely room"])
