"""An interrupted `headstart predict --out` goes on behind the answers that are there."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import tiny

from headstart.cli.app import main
from headstart.core import machine
from headstart.core.errors import DataError, RunFolderError
from headstart.core.lines import Source, write_lines
from headstart.core.predict import ROWS_AT_ONCE
from headstart.core.values import Row
from headstart.runs import artifact


def texts(n: int) -> list[Row]:
    return [{"text": f"text {i} é"} for i in range(n)]


def source(rows: list[Row], fail_at: int | None = None) -> Callable[[], Source]:
    """A line for each of `rows`; at `fail_at` they turn out bad."""
    def lines(some: Iterable[Row]) -> Iterator[str]:
        for row in some:
            if fail_at is not None and row == rows[fail_at]:
                raise DataError("rows.csv:9", "is bad.", "Mend it.")
            yield f"line of {row['text']}"
    return lambda: (iter(rows), lines)


def whole(n: int) -> str:
    return "".join(f"line of text {i} é\n" for i in range(n))


@pytest.fixture
def unfinished(tmp_path) -> Path:
    """answers.jsonl, of which four lines are there."""
    out = tmp_path / "answers.jsonl"
    with pytest.raises(DataError, match=r"Mend it\.\n  4 answers are kept in .*jsonl\.partial; go on .*--resume"):
        write_lines(out, source(texts(9), fail_at=4), {"source": "a"})
    assert not out.exists()
    return out


def test_what_was_answered_is_kept_and_not_answered_again(unfinished):
    answered: list[Row] = []

    def counted() -> Source:
        def lines(rows: Iterable[Row]) -> Iterator[str]:
            for row in rows:
                answered.append(row)
                yield f"line of {row['text']}"
        return texts(9), lines

    with pytest.raises(RunFolderError, match="was not finished"):
        write_lines(unfinished, source(texts(9)), {"source": "a"})
    with pytest.raises(RunFolderError, match="was begun by another run"):
        write_lines(unfinished, source(texts(9)), {"source": "b"}, resume=True)
    assert write_lines(unfinished, counted, {"source": "a"}, resume=True) == 9
    assert answered == texts(9)[4:]
    assert unfinished.read_text("utf-8") == whole(9)
    assert [path.name for path in unfinished.parent.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize("changed", [0, 3])
def test_rows_that_changed_behind_an_answer_are_refused(unfinished, changed):
    rows = texts(9)
    rows[changed] = {"text": "another"}
    with pytest.raises(RunFolderError, match="answers other rows: the first 4 of \"a\" have changed since"):
        write_lines(unfinished, source(rows), {"source": "a"}, resume=True)
    with pytest.raises(RunFolderError, match="answers other rows"):  # and again: nothing was lost by asking
        write_lines(unfinished, source(texts(3)), {"source": "a"}, resume=True)
    assert write_lines(unfinished, source(rows), {"source": "a"}, overwrite=True) == 9
    assert unfinished.read_text("utf-8").count("another") == 1


def test_rows_that_changed_before_their_answer_are_answered_as_they_are(unfinished):
    rows = texts(5)
    rows[4] = {"text": "another"}
    assert write_lines(unfinished, source(rows), {"source": "a"}, resume=True) == 5
    assert unfinished.read_text("utf-8") == whole(4) + "line of another\n"


@pytest.mark.parametrize("damage", [lambda lines: lines[:-1], lambda lines: lines.replace("text 0", "text 7"),
                                    lambda lines: "", lambda lines: lines[20:]])
def test_lines_that_changed_are_not_continued(unfinished, damage):
    partial = unfinished.with_name("answers.jsonl.partial")
    damaged = damage(partial.read_text("utf-8"))
    partial.write_text(damaged, "utf-8")
    if damaged:
        with pytest.raises(RunFolderError, match=r"is damaged: its lines are not those that were written\.\n.*--over"):
            write_lines(unfinished, source(texts(9)), {"source": "a"}, resume=True)
    assert write_lines(unfinished, source(texts(9)), {"source": "a"}, resume=not damaged, overwrite=True) == 9
    assert unfinished.read_text("utf-8") == whole(9)


def test_half_a_line_behind_what_was_noted_is_written_again(unfinished):
    with unfinished.with_name("answers.jsonl.partial").open("a") as file:
        file.write("line of text 4 é\nline of te")  # a kill before the note was
    assert write_lines(unfinished, source(texts(9)), {"source": "a"}, resume=True) == 9
    assert unfinished.read_text("utf-8") == whole(9)


@pytest.mark.parametrize("note", [None, "", "{", "[]", "{}", '{"n": 1}', '{"source": "a"}', "\0" * 99,
                                  '{"made_by": {"source": "a"}, "n": -1, "n_bytes": 0, "lines_sha256": "", '
                                  '"rows_sha256": ""}'])
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_note_that_is_damaged_or_of_others_is_not_touched(unfinished, note, options):
    partial, path = (unfinished.with_name(f"answers.jsonl.partial{end}") for end in ("", ".json"))
    path.unlink() if note is None else path.write_text(note)
    kept = partial.read_bytes()
    with pytest.raises(RunFolderError, match=r"damaged, or headstart did not write them\.\n.*rm -f ") as caught:
        write_lines(unfinished, source(texts(9)), {"source": "a"}, **options)
    assert partial.read_bytes() == kept
    subprocess.run(shlex.split(caught.value.fix.partition("remove them: ")[2]), check=True)  # what it says works
    assert write_lines(unfinished, source(texts(9)), {"source": "a"}, **options) == 9


def test_overwrite_starts_anew_and_nothing_answered_leaves_nothing(unfinished):
    assert write_lines(unfinished, source(texts(2)), {}, overwrite=True) == 2
    assert unfinished.read_text("utf-8") == whole(2)
    unfinished.unlink()
    with pytest.raises(DataError):
        write_lines(unfinished, source(texts(9), fail_at=0), {})
    assert list(unfinished.parent.iterdir()) == []


def test_two_processes_do_not_write_one_file(tmp_path):
    out = tmp_path / "answers.jsonl"

    def lines(rows: Iterable[Row]) -> Iterator[str]:
        for row in rows:
            with pytest.raises(RunFolderError, match="is in use by another process"):
                write_lines(out, source(texts(3)), {}, resume=True)
            yield f"line of {row['text']}"

    assert write_lines(out, lambda: (texts(2), lines), {}) == 2
    assert out.read_text("utf-8") == whole(2)


def test_predict_resumes(run, tmp_path, capsys):
    rows = [{"text": row["text"]} for row in tiny.rows(ROWS_AT_ONCE + 20, seed=2)]
    sound, out = tiny.write_csv(tmp_path / "whole.csv", rows), tmp_path / "out.jsonl"
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
    data.write_text(sound.read_text("utf-8"), "utf-8")  # the row is mended
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
