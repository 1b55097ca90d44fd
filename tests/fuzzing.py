"""What the fuzz targets share: sound inputs, changes at random, a case that can be kept, and what must hold of each."""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import tiny
import yaml

from headstart.cli.app import app, main
from headstart.core.manifest import seal
from headstart.studies.jobs import LIBRARIES

SECONDS = float(os.environ.get("HEADSTART_FUZZ_S", "20"))
CORPUS = Path(__file__).parent / "fuzz" / "corpus"
FILES = Path(__file__).parent / "data" / "before_rooms"
LIMIT_S = 20.0  # of CPU
HANG_S = 120.0
LIMIT_KB = 1_000_000
CODES = (0, 2, 3, 4, 130, 143)
OUTPUTS = ("out*", "runs*", "cache*", "tmp*", "home*", "*/report.html", "*/report.md", "*-onnx*", "*-int8*")
ODD: list[Any] = [0, -1, 1, 2, 3, 10**6, 10**9, 2**63, -(2**63), 0.5, -0.5, 1e308, True, False, None, "", "a", "12",
                  "[PAD]", "(a+)+$", [], {}, [1], ["a"], {"a": 1}, [[1]], "\0", "é" * 50, "x" * 5000]
PIECES = [b"text", b"label", b",", b"\t", b";", b"\n", b"\r", b'"', b'""', b"\xe9", b"\xff\xfe", b"\xef\xbb\xbf", b"\0",
          b"{", b"}", b"[" * 2000, b":", b'"\\ud800"', b"NaN", b"1e999", b"9" * 5000, b"PAR1", b"x" * 5000, b"- ",
          b"&a ", b"*a", b"!!python/object:os.system ", b"!!binary ", b"2020-01-01", b".inf", b"<<: ", b"? ", b"|\n"]
ODD_TEXTS = ["", " ", "-", "a", "0", "-1", "1", "1e999", "nan", "inf", "9" * 30, "9" * 5000, "x" * 5000, "None",
             "\udce9", "é", "[", "{}", "=", "..", "latin-1", "latin1x", "base64", "utf-16", "a,b", "2GB", ":",
             "lora:rank=0", "linear-probe", "\n", "\x1b[31m", "1,2", "./" * 3000]
# No named pipe: a reader of rows rightly waits a minute for somebody to write to it.
ODD_PATHS = ["", "-", ".", "..", "/", "~", "~nouser/x", "nothing", "nothing.csv", "empty", "empty.csv",
             "folder.csv", "loop", "loop.yaml", "dangling.csv", "/dev/zero", "/dev/null", "/dev/stdin",
             "/dev/full", "/proc/self/mem", "/proc/self/maps", "/proc/self/fd/0", "x" * 300, "a/" * 3000,
             "caf\udce9.csv", "hub:", "hub:a/b", "pip:", "pip:os/x.csv", "pip:numpy/__init__.py", "backbone",
             "text-classification", "sentence-similarity", "token-classification", "exported", "compared",
             "reviews.csv", "spec.yaml", "rows.parquet", "file:///etc"]
OUTS = ["out/new", "out/new.npy", "out/new.parquet", "out/a/b/c", "", ".", "..", "fifo", "loop", "reviews.csv",
        "backbone", "empty", "x" * 300, "out/caf\udce9", "out/\n", "text-classification/new", "reviews.csv/new",
        "folder.csv"]


class OutOfTime(BaseException):
    """A case took too long."""


@dataclass
class Case:
    """Arguments of `headstart`, and what is changed in the sound inputs beside which it runs.

    files: path -> its content, zlib and base64. seal: folders whose manifest is made to fit again.
    """

    arguments: list[str]
    files: dict[str, str] = field(default_factory=dict)
    seal: list[str] = field(default_factory=list)

    def write(self, root: Path) -> None:
        """Apply the changes to a copy of the sound inputs."""
        for name, content in self.files.items():
            (root / name).unlink(missing_ok=True)  # it is a link to what other cases use
            (root / name).write_bytes(unpack(content))
        for name in self.seal:
            (root / name / "MANIFEST.json").unlink(missing_ok=True)
            seal(root / name)


def pack(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()


def unpack(content: str) -> bytes:
    return zlib.decompress(base64.b64decode(content))


def sound_inputs(root: Path) -> Path:
    """Runs, an exported run, a model and rows in each format; and beside them what is no file.

    The libraries are loaded, too: a time limit that ends in the middle of `import torch` spoils it for good.
    """
    for name in LIBRARIES:
        importlib.import_module(name)
    shutil.copytree(FILES, root, ignore=shutil.ignore_patterns("cache", "make.py"))
    rows = tiny.rows(60)
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "rows.json").write_text(json.dumps(rows))
    (root / "rows.txt").write_text("".join(row["text"] + "\n" for row in rows))
    (root / "rows.tsv").write_text("text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in rows))
    (root / "rows.conll").write_text("".join("".join(f"{w} O\n" for w in row["text"].split()) + "\n" for row in rows))
    (root / "keys").write_text("k" * 20 + "\n")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), root / "rows.parquet")
    (root / "empty.csv").touch()
    for name in ("empty", "folder.csv"):
        (root / name).mkdir()
    for name in ("loop", "loop.yaml"):
        (root / name).symlink_to(name)
    (root / "dangling.csv").symlink_to("nowhere")
    for name in ("fifo", "fifo.csv"):
        os.mkfifo(root / name)
    return root


def link_or_copy(source: str, target: str) -> None:
    if os.path.isfile(source):
        os.link(source, target)
    else:
        os.mkfifo(target)


@contextlib.contextmanager
def copy_of(inputs: Path, folder: Path) -> Iterator[Path]:
    """A copy of the sound inputs as the working directory, with the cache, the home and TMPDIR in it."""
    root = shutil.copytree(inputs, folder / "case", symlinks=True, copy_function=link_or_copy)
    before, environ = os.getcwd(), dict(os.environ)
    for name, variable in (("cache", "HEADSTART_CACHE"), ("home", "HOME"), ("tmp", "TMPDIR")):
        (root / name).mkdir(exist_ok=True)
        os.environ[variable] = str(root / name)
    tempfile.tempdir = None
    os.chdir(root)
    try:
        yield root
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environ)
        tempfile.tempdir = None
        shutil.rmtree(root)


def state(root: Path) -> dict[str, tuple[int, int, int]]:
    """Size, time and kind of all that lies below `root`, less what a command may write."""
    out = {}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, root)
            if not any(fnmatch(relative, pattern) for pattern in OUTPUTS):
                status = os.lstat(path)
                out[relative] = (0 if name in folders else status.st_size, 0 if name in folders else status.st_mtime_ns,
                                 status.st_mode)
    return out


def run(command: Callable[[], Any]) -> tuple[Any, str]:
    """What `command` ends with in the command line's own `main`, and what it writes to stderr."""
    streams = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"text,label\na lovely room,positive\n"))
    sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()

    def give_up(*_: Any) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        main(command)
        code: Any = 0
    except SystemExit as ended:
        code = ended.code or 0
    except OutOfTime:
        code = "no end"
    except BaseException:  # noqa: BLE001 - what Python would print with a traceback
        code = 1
        traceback.print_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        stderr = sys.stderr.getvalue()
        sys.stdin, sys.stdout, sys.stderr = streams
    return code, stderr


def flaws(case: Case, inputs: Path, folder: Path, start: Callable[[list[str]], Any]) -> list[str]:
    """What is wrong with the way in which `headstart` ends; nothing, for any input."""
    with copy_of(inputs, folder) as root:
        case.write(root)
        before, began = state(root), time.process_time()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        code, stderr = run(lambda: start(case.arguments))
        took, grew = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        after = state(root)
    checks = {f"exit code {code}: {stderr[-3000:]}": code in CODES,
              f"a traceback: {stderr[-3000:]}": "Traceback (most" not in stderr,
              f"no word of what to do: {stderr[-1000:]}": code != 2 or "\n  " in stderr or "Usage:" in stderr,
              f"{took:.1f} s of CPU": took <= LIMIT_S, f"{grew:,} KB more": grew < LIMIT_KB,
              f"changed: {set(before.items()) ^ set(after.items())}": before == after}
    return [words for words, holds in checks.items() if not holds]


def command_line(arguments: list[str]) -> None:
    app(arguments)


def load_to_serve(arguments: list[str]) -> None:
    """What `serve` does before it listens. arguments: its runs, then the file of keys."""
    from headstart.serve.measures import Measures
    from headstart.serve.models import Models
    from headstart.serve.settings import Settings

    settings = Settings(tuple(map(Path, arguments[:-1])), key_file=Path(arguments[-1]))
    settings.names()
    settings.keys()
    Models(settings, Measures(), 1)


def keep(verb: str, case: Case) -> Path:
    path = CORPUS / verb / f"{zlib.crc32(json.dumps(asdict(case)).encode()):08x}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(case), indent=1) + "\n")
    return path


def mutated(value: Any, rng: random.Random) -> Any:
    """`value` with one thing changed: exchanged, left out, doubled or moved, at a random depth."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        i = rng.randrange(len(value))
        return rng.choice([value[:i], value + value[i:], [*value[:i], mutated(value[i], rng), *value[i + 1:]]])
    if type(value) in (int, float) and rng.random() < 0.5:
        return rng.choice([value + 1, value - 1, value * 2, -value, float(value)])
    return rng.choice(ODD)


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """`content` with bytes exchanged, cut off, left out, doubled or put in."""
    i, j = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    flipped = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if flipped:
            flipped[rng.randrange(len(flipped))] = rng.randrange(256)
    return rng.choice([bytes(flipped), content[:i], content[:i] + content[j:], content[:j] + content[i:],
                       content[:i] + rng.choice(PIECES) + content[rng.choice([i, j]):]])


def changed(name: str, content: bytes, rng: random.Random) -> bytes:
    """The content of a file with something changed that its format knows of, or bytes of it."""
    if rng.random() < 0.3:
        return changed_bytes(content, rng)
    try:
        if name.endswith(".jsonl"):
            lines = content.decode().splitlines()
            i = rng.randrange(len(lines))
            lines[i] = json.dumps(mutated(json.loads(lines[i]), rng))
            return "\n".join(lines).encode()
        if name.endswith(".json"):
            return json.dumps(mutated(json.loads(content), rng)).encode()
        if name.endswith(".yaml"):
            return yaml.safe_dump(mutated(yaml.safe_load(content), rng)).encode()
        if name.endswith(".safetensors"):
            end = 8 + int.from_bytes(content[:8], "little")
            header = json.dumps(mutated(json.loads(content[8:end]), rng)).encode()
            return len(header).to_bytes(8, "little") + header + content[end:]
    except (ValueError, RecursionError, yaml.YAMLError):
        pass  # an earlier change left nothing to parse
    return changed_bytes(content, rng)
