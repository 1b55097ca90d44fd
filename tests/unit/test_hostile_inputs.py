"""What is no data, no Spec and no setting: refused with exit code 2 and one message, at once."""

from __future__ import annotations

import os

import pytest

from headstart.cli.app import app, main
from headstart.core.errors import DataError
from headstart.data.sources.lines import Rules, open_lines

ARGUMENTS = {
    "unknown encoding": (["--encoding", "latin1x"], "must be a text encoding"),
    "codec that is no encoding": (["--encoding", "base64"], "must be a text encoding"),
    "idna": (["--encoding", "idna"], "must be a text encoding"),
    "undefined": (["--encoding", "undefined"], "must be a text encoding"),
    "wrong choice": (["--set", "data.errors=foo"], "'strict', 'replace' or 'skip'"),
    "quote as delimiter": (["--set", "data.delimiter='\"'"], "no quote"),
    "huge number": (["--set", f"data.max_chars={9 * 10**1500}"], "1,000 digits"),
}
SOURCES = {"~nouser/x.csv": "no such user", "/dev/zero": "none of", "{tmp}/folder.yaml": "is a folder",
           "{tmp}/device.csv": "is a device", "{tmp}/pipe.yaml": "is a named pipe", "{tmp}/wide.csv": "columns",
           "{tmp}/device.parquet": "is a device"}


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(lambda: app(arguments))
    stderr = capsys.readouterr().err
    assert ended.value.code == 2, stderr
    assert "Traceback" not in stderr
    return stderr


@pytest.mark.parametrize("kind", ARGUMENTS)
@pytest.mark.parametrize("verb", [["audit", "x.csv"], ["predict", "no-run", "x.csv"]], ids=["audit", "predict"])
def test_settings_that_cannot_be(verb, kind, capsys):
    arguments, rule = ARGUMENTS[kind]
    assert rule in refused([*verb, *arguments], capsys)


@pytest.mark.parametrize("source", SOURCES)
def test_sources_that_cannot_be(source, tmp_path, capsys):
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    for suffix in ("csv", "parquet"):
        (tmp_path / f"device.{suffix}").symlink_to("/dev/zero")
    (tmp_path / "wide.csv").write_text(",".join(f"c{i}" for i in range(20_000)) + "\n1\n")
    assert SOURCES[source] in refused(["audit", source.format(tmp=tmp_path)], capsys)


def test_a_pipe_to_which_nobody_writes_is_given_up(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="nobody has written"):
        open_lines(tmp_path / "pipe.csv", "pipe.csv", Rules(), wait_s=0.05)
