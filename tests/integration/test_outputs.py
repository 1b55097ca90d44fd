"""Every verb against every hostile place to write to: what headstart did not write stays as it is, and one says so."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import pytest
import tiny
from forked import Command

from headstart.cli.app import app, main
from headstart.core.errors import ResourceError, RunFolderError
from headstart.core.files import disk_errors, foreign_files, write_file, write_folder
from headstart.core.manifest import verify
from headstart.core.outputs import work_folder
from headstart.runs.folder import WORK, opened, remove

FILES = {"predict": "predict {run} {rows}", "evaluate": "evaluate {run} {rows}", "extract": "extract {backbone} {rows}",
         "mine": "mine {backbone} {pairs}"}
FOLDERS = {"fit": "fit {rows} --backbone {backbone}", "export": "export {run} --rows {rows}",
           "ensemble": "ensemble {run} {other}",
           "pretrain": "pretrain {rows} --backbone {backbone} --objective masked",
           "audit": "audit {rows} --set backbone={backbone}",
           "compare": "compare {rows} --methods linear-probe --set backbone={backbone}"}


@pytest.fixture
def place(tmp_path, monkeypatch, run, other_run, backbone) -> Path:
    """A working directory with the inputs of all verbs in it; the home lies beside it."""
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "home").mkdir()
    shutil.copytree(run, place / "run")
    shutil.copytree(other_run, place / "other")
    shutil.copytree(backbone, place / "backbone")
    tiny.write_csv(place / "rows.npy", tiny.rows(40))  # extract wants this ending of an output, and some are inputs
    (place / "rows.npy").rename(place / "rows.csv")
    tiny.write_csv(place / "pairs.csv", [{"text": row["text"], "text_pair": f"{row['text']} again"}
                                         for row in tiny.rows(12)])
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return place


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything in a folder: which file it is, of which kind, and what it holds."""
    paths = sorted(path for path in folder.rglob("*") if ".cache" not in path.parts)
    return {os.fsdecode(path.relative_to(folder)): (path.lstat().st_ino, path.lstat().st_mode,
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"") for path in paths}


def refused(capsys, command: str, out: str | Path, *options: str) -> str:
    """What stderr says of a command that must end with code 2."""
    inputs = {name: name if name in ("run", "other", "backbone") else f"{name}.csv"
              for name in ("run", "other", "backbone", "rows", "pairs")}
    arguments = [*command.format(**inputs).split(), "--out", str(out), *options]
    with pytest.raises(SystemExit) as end:
        main(lambda: app(arguments))
    stderr = capsys.readouterr().err
    assert end.value.code == 2, stderr
    first, _, rest = stderr.partition("\n")
    message = rest if first.endswith(" ...") else stderr  # verbs that compute say at once that they began
    assert message.startswith("headstart: "), stderr
    assert len(message.strip().splitlines()) > 1, stderr  # where, what and the rule; then what to do
    return stderr


def shown(value: object) -> str:
    return value.__name__ if isinstance(value, FunctionType) else str(value)[:20]


def with_photos(place: Path) -> str:
    (place / "photos").mkdir()
    (place / "photos" / "photo.jpg").write_bytes(b"photo")
    return "photos"


def run_with_a_note(place: Path) -> str:
    (place / "run" / "notes.txt").write_text("mine")
    shutil.copytree(place / "run", place / "older")
    (place / "run" / "notes.txt").unlink()
    return "older"


def run_with_a_folder(place: Path) -> str:
    shutil.copytree(place / "run", place / "older")
    (place / "older" / "photos").mkdir()
    return "older"


def manifest_that_names_nothing(place: Path) -> str:
    (place / "site").mkdir()
    (place / "site" / "MANIFEST.json").write_text('{"name": "my web app"}')
    return "site"


def link_to_folder(place: Path) -> str:
    shutil.copytree(place / "run", place / "older")
    (place / "latest").symlink_to("older")
    return "latest"


def dangling_link(place: Path) -> str:
    (place / "latest.npy").symlink_to("nowhere")
    return "latest.npy"


def fifo(place: Path) -> str:
    os.mkfifo(place / "pipe.npy")
    return "pipe.npy"


def a_socket(place: Path) -> str:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.npy")
    return "socket.npy"


def home_is_a_run(place: Path) -> str:
    home = place.parent / "home"
    home.rmdir()
    shutil.copytree(place / "run", home)
    return str(home)


def stands_in_a_run(place: Path) -> str:
    os.chdir(shutil.copytree(place / "run", place / "older"))
    return str(place / "older")


def data_in_a_folder(place: Path) -> str:
    (place / "data").mkdir()
    (place / "rows.csv").rename(place / "data" / "rows.csv")
    (place / "rows.csv").symlink_to("data/rows.csv")
    return "data"


BOTH: list[tuple[str | Callable[[Path], str], str]] = [
    (".", "is no name of a new file or folder"), ("..", "is no name"), ("/", "is no name"),
    ("rows.csv/x.npy", "a part of its path is a file"), ("x" * 300 + ".npy", "its name is too long"),
    (os.fsdecode(b"caf\xe9.npy"), "which is not UTF-8"), (dangling_link, "is a symbolic link"),
    (fifo, "is a named pipe"), (a_socket, "is a socket"), ("/dev/full", "is a device"),
    ("run/new.npy", "which is finished and sealed"), ("run/deep/er/new.npy", "which is finished and sealed"),
]
HOSTILE_FOLDERS = [
    *BOTH, (with_photos, 'did not write: "photo.jpg"'), (run_with_a_note, 'did not write: "notes.txt"'),
    (run_with_a_folder, 'did not write: "photos/"'), (manifest_that_names_nothing, 'did not write: "MANIFEST.json"'),
    (link_to_folder, "is a symbolic link"), ("pairs.csv", "is a file"), (home_is_a_run, "is, or holds, the home"),
    (stands_in_a_run, "is, or holds, the working directory"), (data_in_a_folder, "holds an input of this command"),
    ("backbone", ""),
]
SAYS_SO_ITSELF = {"is a named pipe", "is a socket", "is a device", "is a file", "is a symbolic link"}


@pytest.mark.parametrize("verb", FOLDERS)
@pytest.mark.parametrize(("out", "words"), HOSTILE_FOLDERS, ids=shown)
def test_a_folder_is_refused(verb, out, words, place, capsys):
    out = out if isinstance(out, str) else out(place)
    before = state(place.parent)
    stderr = refused(capsys, FOLDERS[verb], out, "--overwrite")
    if verb == "ensemble" and "an input" in words:
        words = "did not write"  # it reads no file but those that its runs name
    if verb == "compare":  # its folder grows in its place, and it knows what may be in there
        words = "" if words in SAYS_SO_ITSELF else words.partition(":")[0]
    assert words in stderr
    assert state(place.parent) == before


def a_folder(place: Path) -> str:
    (place / "folder.npy").mkdir()
    return "folder.npy"


def hard_link_to_rows(place: Path) -> str:
    os.link(place / "rows.csv", place / "same.npy")
    os.link(place / "pairs.csv", place / "same2.npy")
    return "same.npy"


HOSTILE_FILES = [*BOTH, (a_folder, "is a folder"), ("run/scores.json", ""), ("backbone/config.json", "")]


@pytest.mark.parametrize("verb", FILES)
@pytest.mark.parametrize(("out", "words"), HOSTILE_FILES, ids=shown)
def test_a_file_is_refused(verb, out, words, place, capsys):
    if out == "backbone/config.json" and verb in ("predict", "evaluate"):
        pytest.skip("no input of it")
    if verb == "extract" and isinstance(out, str) and not out.endswith(".npy"):
        words = "has no known ending"
    out = out if isinstance(out, str) else out(place)
    before = state(place.parent)
    assert words in refused(capsys, FILES[verb], out, "--overwrite")
    assert state(place.parent) == before


@pytest.mark.parametrize(("verb", "name"), [("predict", "rows.csv"), ("evaluate", "rows.csv"), ("mine", "pairs.csv"),
                                            ("extract", "rows.npy")])
@pytest.mark.parametrize("how", ["itself", "another path", "hard link", "link as input", "its partial"])
def test_a_file_never_replaces_its_input(verb, name, how, place, capsys):
    command, out = FILES[verb], name
    if verb == "extract":
        (place / "rows.csv").rename("rows.npy")
        command = command.replace("{rows}", "rows.npy")
    if how == "another path":
        out = f"../place/./{name}"
    if how == "hard link":
        out = "same.npy"
        os.link(name, out)
    if how == "link as input":
        out = "same.npy"
        Path(name).rename(out)
        Path(name).symlink_to(out)
    if how == "its partial":
        if verb != "predict":
            pytest.skip("has none")
        Path(name).rename("out.partial")
        command, out = command.replace("{rows}", "out.partial"), "out"
    before = state(place)
    assert "is an input of this command" in refused(capsys, command, out, "--overwrite")
    assert state(place) == before


@pytest.mark.parametrize("out", ["run", "../place/run"])
def test_an_export_never_replaces_its_run(out, place, capsys):
    before = state(place)
    assert "is an input of this command" in refused(capsys, FOLDERS["export"], out, "--overwrite")
    assert state(place) == before


@pytest.mark.parametrize("verb", ["fit", "audit", "compare"])
def test_a_run_that_is_the_backbone_is_not_replaced(verb, place, capsys):
    before = state(place)
    assert "is an input of this command" in refused(capsys, FOLDERS[verb].replace("{backbone}", "run"), "run",
                                                    "--overwrite")
    assert state(place) == before


# ------------------------------------------------------------------------------------------------- NAME.partial


STRANGERS = {"a folder with a photo": {"photo.jpg": "mine"}, "a lock of others": {"lock": "pid 3"},
             "a known name and no lock": {"steps.jsonl": "mine"}, "our lock and a photo": {
                 "lock": "process 1 on x", "photo.jpg": "mine"}, "a link": {}}


@pytest.mark.parametrize("options", [(), ("--overwrite",), ("--resume",)])
@pytest.mark.parametrize("kind", STRANGERS)
def test_a_work_folder_of_others_is_neither_continued_nor_cleared(kind, options, place, capsys):
    work = place / "new.partial"
    if kind == "a link":
        work.symlink_to("run")
    else:
        work.mkdir()
    for name, text in STRANGERS[kind].items():
        (work / name).write_text(text)
    before = state(place)
    assert "where the work of this command would lie" in refused(capsys, FOLDERS["fit"], "new", *options)
    assert state(place) == before


def test_what_was_put_into_a_work_folder_meanwhile_stays(tmp_path):
    with opened(tmp_path / "new", resume=False, overwrite=False) as work:
        (work / "steps.jsonl").write_text("{}\n")
        (work / "notes.txt").write_text("mine")
        remove(work)
    assert [path.name for path in work.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("left", [[], ["lock"]])
def test_a_kill_before_the_lock_was_written_is_not_in_the_way(left, tmp_path):
    work = tmp_path / "new.partial"
    work.mkdir()
    for name in left:
        (work / name).touch()
    with work_folder(work, WORK, "a run", resume=False, overwrite=True):
        assert (work / "lock").read_text().startswith("process ")


# ------------------------------------------------------------------------------------------------- write_folder


def test_names_beside_an_output_are_nobodys_business(tmp_path):
    before = {}
    for end in (".tmp", ".old", ".partial", ".new", "~"):
        (tmp_path / f"out{end}").mkdir()
        (tmp_path / f"out{end}" / "photo.jpg").write_text("mine")
        (tmp_path / f"answers{end}").write_text("mine")
    before = state(tmp_path)
    for _ in range(2):
        with write_folder(tmp_path / "out") as folder:
            (folder / "x").write_text("new")
        write_file(tmp_path / "answers", ["new"])
    after = state(tmp_path)
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {"out", "out/x", "out/MANIFEST.json", "answers"}


@pytest.mark.parametrize("make", [lambda path: path.write_text("x"), lambda path: path.symlink_to("x"),
                                  lambda path: (path.mkdir(), (path / "photo.jpg").write_text("x"))])
def test_what_came_meanwhile_is_not_replaced(make, tmp_path):
    out = tmp_path / "out"

    def write() -> None:
        with write_folder(out) as folder:
            (folder / "x").write_text("new")
            make(out)

    with pytest.raises(RunFolderError):
        write()
    assert foreign_files(tmp_path) == (["out/"] if out.is_dir() else ["out"])  # and no temporary


def test_what_came_meanwhile_needs_overwrite(tmp_path):
    out = tmp_path / "out"

    def write(text: str, and_then: Callable[[], None]) -> None:
        with write_folder(out, overwrite=False) as folder:
            (folder / "x").write_text(text)
            and_then()

    with pytest.raises(RunFolderError, match="exists already"):
        write("new", lambda: write("other", lambda: None))
    assert (out / "x").read_text() == "other"


def test_what_a_kill_leaves_is_removed_later_and_only_that(tmp_path):
    abandoned, young, similar = (tmp_path / name for name in (
        ".headstart-0123456789abcdef", ".headstart-0123456789abcdee", ".headstart-notes"))
    for path in (abandoned, young, similar):
        path.mkdir()
    hour_ago = time.time() - 3600
    for path in (abandoned, similar):
        os.utime(path, (hour_ago, hour_ago))
    with write_folder(tmp_path / "out") as folder:
        os.utime(folder, (hour_ago, hour_ago))
        with write_folder(tmp_path / "out2") as inner:  # the first is old, too, but its writer lives
            (inner / "x").write_text("x")
        (folder / "x").write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, similar.name, "out", "out2"]
    assert verify(tmp_path / "out") == []


# ---------------------------------------------------------------------------------------------------- the disk


@pytest.mark.parametrize(("error", "words"), [
    (OSError(28, "No space left on device"), "out: cannot be written: the disk is full"),
    (OSError(122, "Disk quota exceeded"), "the disk quota is used up"), (OSError(30, "x"), "the disk is read-only"),
    (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
    (OSError("[Errno 28] Error writing bytes to file"), "the disk is full"),
    (OSError("1024 requested and 12 written"), "the disk is full, or"),
    (PermissionError(13, "Permission denied", "/data/rows.csv"), "/data/rows.csv: cannot be used: permission"),
    (PermissionError(13, "Permission denied", "/x/out.partial/lock"), "/x/out: cannot be written: permission"),
])
def test_what_a_disk_says_is_told(error, words):
    with pytest.raises(ResourceError) as caught, disk_errors(Path("/x/out")):
        raise error
    assert words in str(caught.value)


@pytest.mark.parametrize(("verb", "n_bytes"), [("predict", 2_000), ("extract", 3_000), ("mine", 700), ("audit", 2_000),
                                               ("fit", 3_000), pytest.param("export", 20_000, marks=pytest.mark.slow)])
def test_a_full_disk_is_told_and_loses_nothing(verb, n_bytes, run, backbone, reviews, tmp_path):
    pairs = tiny.write_csv(tmp_path / "pairs.csv", [{"text": row["text"], "text_pair": f"{row['text']} again"}
                                                    for row in tiny.rows(12)])
    inputs = {"run": run, "backbone": backbone, "rows": reviews, "pairs": pairs}
    (tmp_path / "place").mkdir()
    out = tmp_path / "place" / "out.npy"
    is_file = verb in FILES
    if is_file:
        out.write_text("old")
    else:
        shutil.copytree(run, out)
    before = state(out.parent)
    command = (FILES if is_file else FOLDERS)[verb].format(**inputs).split()
    process = Command(*command, "--out", str(out), "--overwrite", file_bytes=n_bytes)
    _, stderr = process.communicate(60)
    assert process.returncode == 2, stderr
    assert "cannot be written: the" in stderr
    assert "Traceback" not in stderr
    kept = {name: value for name, value in state(out.parent).items() if not name.startswith("out.npy.partial")}
    assert kept == before


def test_what_is_shared_has_the_umasks_mode_and_work_is_private(tmp_path):
    before = os.umask(0o027)
    try:
        with write_folder(tmp_path / "out") as folder:
            (folder / "inner").mkdir(mode=0o700)
            for name in ("a", "inner/b"):
                (folder / name).write_text("x")
                (folder / name).chmod(0o600)  # as safetensors does
    finally:
        os.umask(before)
    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")}
    assert modes == {"out/a": 0o640, "out/inner": 0o750, "out/inner/b": 0o640, "out/MANIFEST.json": 0o640}
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    with opened(tmp_path / "run", resume=False, overwrite=False) as work:
        assert work.stat().st_mode & 0o777 == 0o700
