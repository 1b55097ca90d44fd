"""Stopped at any point, a run continues to the very same weights; damaged checkpoints are found; disks run full."""

from __future__ import annotations

import fcntl
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import yaml
from forked import Command

from headstart.core.manifest import verify
from headstart.training.checkpoint import checkpoints

LONG = {"epochs": 4, "checkpoint_every_s": 0.05, "tokens_per_batch": 128, "evaluations_per_epoch": 2, "patience": 99}


@pytest.fixture(scope="module")
def spec(tmp_path_factory, backbone, reviews) -> Path:
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    fields = tiny.spec(reviews, backbone, train=LONG, evaluate={"n_resamples": 100, "baselines": False})
    path.write_text(yaml.safe_dump(fields), "utf-8")
    return path


def start(spec: Path, out: Path, *options: str, file_bytes: int | None = None) -> Command:
    return Command("fit", str(spec), "--out", str(out), *options, file_bytes=file_bytes)


def start_anew(spec: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """As a shell starts it: nothing is loaded yet, and the interpreter ends in its own way."""
    return subprocess.Popen([sys.executable, "-m", "headstart", "fit", str(spec), "--out", str(out), *options],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: Command | subprocess.Popen[str], code: int = 0) -> str:
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    return stderr


@pytest.fixture(scope="module")
def uninterrupted(spec, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(start(spec, out))
    return out


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes() + (run / "head.safetensors").read_bytes()


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "steps.jsonl").read_text("utf-8").splitlines()]


def n_steps(work: Path) -> int:
    log = work / "steps.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def wait_for(condition, process: Command) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.002)


def kill_and_resume(spec: Path, out: Path, moments: list) -> list[int | None]:
    """Kill the run at each of `moments` (conditions on its work folder), then let it end. Returns: exit codes."""
    codes = []
    options: tuple[str, ...] = ()
    for moment in moments:
        process = start(spec, out, *options)
        wait_for(moment, process)
        process.kill()
        process.communicate()
        codes.append(process.returncode)
        options = ("--resume",) if out.exists() or out.with_name(out.name + ".partial").exists() else ()
    finish(start(spec, out, *options))
    return codes


def test_killed_twice_equals_uninterrupted(spec, tmp_path, uninterrupted):
    out = tmp_path / "run"
    work = tmp_path / "run.partial"
    inside_a_save = lambda: n_steps(work) > 5 and any(work.glob(".headstart-*"))  # noqa: E731
    far = lambda: n_steps(work) > 45  # noqa: E731
    assert kill_and_resume(spec, out, [inside_a_save, far]) == [-signal.SIGKILL] * 2
    assert weights(out) == weights(uninterrupted)
    assert losses(out) == losses(uninterrupted)
    assert not work.exists()


def test_a_soup_killed_in_each_of_its_trainings_equals_uninterrupted(backbone, reviews, tmp_path):
    """The optimizer, the mean so far and the place in the plan are those of the training that was cut."""
    fields = tiny.spec(reviews, backbone, train=LONG | {"epochs": 2}, evaluate={"n_resamples": 100, "baselines": False},
                       method={"name": "fine-tuning", "average": "soup", "members": 3})
    spec, work = tmp_path / "spec.yaml", tmp_path / "run.partial"
    spec.write_text(yaml.safe_dump(fields), "utf-8")
    finish(start(spec, tmp_path / "whole"))
    n = len(losses(tmp_path / "whole"))
    moments = [lambda: n_steps(work) > n // 6, lambda: n_steps(work) > n // 2, lambda: n_steps(work) > 5 * n // 6]
    assert kill_and_resume(spec, tmp_path / "run", moments) == [-signal.SIGKILL] * 3
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


class Delay:
    """True once so many seconds have passed since it was first asked."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.end: float | None = None

    def __call__(self) -> bool:
        if self.end is None:
            self.end = time.monotonic() + self.seconds
        return time.monotonic() > self.end


@pytest.mark.slow
def test_killed_at_fifty_random_points(spec, tmp_path, uninterrupted):
    rng = random.Random(0)
    for i in range(17):
        out = tmp_path / f"run{i}"

        kill_and_resume(spec, out, [Delay(rng.uniform(0.1, 4.0)) for _ in range(3)])
        assert weights(out) == weights(uninterrupted)


@pytest.mark.parametrize(("signum", "code", "resume"), [(signal.SIGINT, 130, start_anew), (signal.SIGTERM, 143, start)])
def test_a_signal_saves_and_leaves(spec, tmp_path, uninterrupted, signum, code, resume):
    out = tmp_path / "run"
    process = start(spec, out)
    wait_for(lambda: n_steps(tmp_path / "run.partial") > 20, process)
    process.send_signal(signum)
    stderr = finish(process, code)
    assert f"interrupted by {signal.Signals(signum).name}" in stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    finish(resume(spec, out, "--resume"))
    assert weights(out) == weights(uninterrupted)


@pytest.mark.timing
def test_a_signal_is_obeyed_within_ten_seconds(spec, tmp_path):
    process = start(spec, tmp_path / "run")
    wait_for(lambda: n_steps(tmp_path / "run.partial") > 20, process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    finish(process, 143)
    assert time.monotonic() - began < 10


@pytest.fixture(scope="module")
def killed(spec, tmp_path_factory) -> Path:
    """A work folder with two checkpoints."""
    work = tmp_path_factory.mktemp("killed") / "run.partial"
    process = start(spec, work.with_name("run"))
    wait_for(lambda: n_steps(work) > 40 and len(checkpoints(work)) == 2, process)
    process.kill()
    process.communicate()
    for extra in checkpoints(work)[2:]:
        shutil.rmtree(extra)
    return work


@pytest.fixture
def partial(killed, tmp_path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(killed, tmp_path / "run.partial")


def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(spec, partial, uninterrupted):
    newest = checkpoints(partial)[-1]
    file = newest / "weights.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    out = partial.with_name("run")
    stderr = finish(start(spec, out, "--resume"))
    assert f"{newest}: checkpoint is damaged and was not used: weights.safetensors is damaged" in stderr
    assert weights(out) == weights(uninterrupted)


def test_a_run_in_use_is_refused(spec, partial):
    before = {path: path.stat().st_mtime_ns for path in partial.rglob("*") if path.is_file()}
    holder = (partial / "lock").read_text("utf-8")  # the killed process wrote its name; another one holds the lock now
    assert holder.startswith("process ")
    with (partial / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stderr = finish(start(spec, partial.with_name("run"), "--resume"), 2)
    assert f"is in use by \"{holder}\"" in stderr
    assert "Wait for it, stop it, or choose another --out." in stderr
    assert {path: path.stat().st_mtime_ns for path in partial.rglob("*") if path.is_file()} == before


def test_resume_refuses_another_spec(spec, partial):
    stderr = finish(start(spec, partial.with_name("run"), "--resume", "--set", "train.lr=0.5"), 2)
    assert "cannot be resumed: train.lr was 0.003 and is now 0.5." in stderr
    assert "--overwrite" in stderr


def test_an_unfinished_and_a_finished_run_are_not_replaced_silently(spec, partial, uninterrupted):
    stderr = finish(start(spec, partial.with_name("run")), 2)
    assert "holds a run that was not finished." in stderr
    assert "Continue it: --resume. Start anew: --overwrite" in stderr
    before = weights(uninterrupted)
    stderr = finish(start(spec, uninterrupted), 2)
    assert "exists already." in stderr
    assert weights(uninterrupted) == before


def test_a_full_disk_is_told_and_loses_nothing(spec, uninterrupted):
    before = weights(uninterrupted)
    stderr = finish(start(spec, uninterrupted, "--overwrite", file_bytes=60_000), 2)
    assert "cannot be written: the file would be larger than this process may write." in stderr
    assert "Traceback" not in stderr
    assert weights(uninterrupted) == before
    assert verify(uninterrupted) == []


def test_an_output_that_cannot_be_made_is_told(spec, tmp_path):
    (tmp_path / "file").write_text("x")
    stderr = finish(start(spec, tmp_path / "file" / "run"), 2)
    assert "cannot be written: a part of its path is a file, not a folder." in stderr
