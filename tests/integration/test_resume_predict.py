"""An interrupted `headstart predict --out` goes on behind the answers that are there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny

from headstart.cli.app import main
from headstart.core import machine
from headstart.core.errors import DataError, RunFolderError
from headstart.core.files import write_lines
from headstart.core.predict import ROWS_AT_ONCE
from headstart.runs import artifact


def numbers(n: int, fail_at: int | None = None):
    """Lines from `skip` on; at `fail_at` the rows turn out bad."""
    def lines(skip: int):
        for i in range(skip, n):
            if i == fail_at:
                raise DataError("rows.csv:9", "is bad.", "Mend it.")
            yield f"line {i} é"
    return lines


def test_what_was_answered_is_kept_and_not_answered_again(tmp_path):
    out, asked = tmp_path / "answers.jsonl", []

    def counted(skip: int):
        asked.append(skip)
        return numbers(9)(skip)

    with pytest.raises(DataError, match=r"Mend it\.\n  4 answers are kept in .*jsonl\.partial; go on .*--resume"):
        write_lines(out, numbers(9, fail_at=4), {"source": "a"})
    assert not out.exists()
    with pytest.raises(RunFolderError, match="was not finished"):
        write_lines(out, numbers(9), {"source": "a"})
    with pytest.raises(RunFolderError, match="was begun by another run"):
        write_lines(out, numbers(9), {"source": "b"}, resume=True)
    assert write_lines(out, counted, {"source": "a"}, resume=True) == 9
    assert asked == [4]
    assert out.read_text("utf-8") == "".join(f"line {i} é\n" for i in range(9))
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize(("left", "n"), [("", 0), ("line 0", 0), ("line 0 é\n", 1), ("line 0 é\nline 1 é\nli", 2)])
def test_half_a_line_is_written_again(tmp_path, left, n):
    out = tmp_path / "answers.jsonl"
    (tmp_path / "answers.jsonl.partial").write_text(left, "utf-8")
    (tmp_path / "answers.jsonl.partial.json").write_text("{}", "utf-8")
    skipped = []

    def lines(skip):
        skipped.append(skip)
        return numbers(4)(skip)

    assert write_lines(out, lines, {}, resume=True) == 4
    assert skipped == [n]
    assert out.read_text("utf-8") == "".join(f"line {i} é\n" for i in range(4))


def test_overwrite_starts_anew_and_nothing_answered_leaves_nothing(tmp_path):
    out = tmp_path / "answers.jsonl"
    with pytest.raises(DataError):
        write_lines(out, numbers(9, fail_at=0), {})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError):
        write_lines(out, numbers(9, fail_at=5), {})
    assert write_lines(out, numbers(2), {}, overwrite=True) == 2
    assert len(out.read_text("utf-8").splitlines()) == 2


def test_two_processes_do_not_write_one_file(tmp_path):
    out = tmp_path / "answers.jsonl"

    def lines(skip: int):
        yield "one"
        with pytest.raises(RunFolderError, match="is in use by another process"):
            write_lines(out, numbers(3), {}, resume=True)
        yield "two"

    assert write_lines(out, lines, {}) == 2
    assert out.read_text("utf-8") == "one\ntwo\n"


def test_predict_resumes(run, tmp_path, capsys):
    rows = [{"text": row["text"]} for row in tiny.rows(ROWS_AT_ONCE + 20, seed=2)]
    whole, out = tiny.write_csv(tmp_path / "whole.csv", rows), tmp_path / "out.jsonl"
    data = tmp_path / "rows.csv"
    tiny.write_csv(data, [*rows[:-9], {"text": ""}, *rows[-8:]])

    def predict(*arguments: object, code: int = 0) -> str:
        import sys

        before, sys.argv = sys.argv, ["headstart", "predict", *map(str, arguments)]
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:
            sys.argv = before
        assert end.value.code == code
        return capsys.readouterr().err

    assert f"{ROWS_AT_ONCE:,} answers are kept" in predict(run, data, "--out", out, code=2)
    data.write_text(whole.read_text("utf-8"), "utf-8")  # the row is mended
    predict(run, data, "--out", out, "--resume")
    found = [json.loads(line)["label"] for line in out.read_text("utf-8").splitlines()]
    assert found == [one["label"] for one in artifact.load(run).predict(rows)]
    assert "--out" in predict(run, data, "--resume", code=2)


# --------------------------------------------------------------------------------------------------------- threads


def cgroup(root: Path, name: str, **files: str) -> None:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(("lines", "cpus"), [
    ("0::/", 3.0),
    ("0::/a/b", 1.5),  # the strictest of those above it
    ("0::/not/seen/here", 3.0),  # a container sees its own at the root
    ("4:cpu,cpuacct:/one", 2.0),
    ("4:memory:/one", 1e6),
    ("", 1e6),
])
def test_the_quota_of_a_cgroup(tmp_path, lines, cpus):
    cgroup(tmp_path, ".", cpu__max="300000 100000\n")
    cgroup(tmp_path, "a", cpu__max="150000 100000\n")
    cgroup(tmp_path, "a/b", cpu__max="max 100000\n")
    cgroup(tmp_path, "cpu/one", cpu__cfs_quota_us="200000\n", cpu__cfs_period_us="100000\n")
    own = tmp_path / "own"
    own.write_text(lines + "\n")
    assert machine.cpu_quota(tmp_path, own) == cpus
    assert machine.cpu_quota(tmp_path, tmp_path / "none") == 1e6


def test_threads_follow_what_the_process_may_use(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine.usable_cpus() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    allowed = os.sched_getaffinity(0)
    assert 1 <= machine.usable_cpus() <= len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert machine.usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)
