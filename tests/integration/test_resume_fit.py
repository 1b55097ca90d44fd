"""`fit --resume`: what was started is what is resumed; what lies damaged in its way is named, never believed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import yaml
from safetensors.torch import load_file, save_file

import headstart
from headstart.cli.app import app, main
from headstart.core.errors import Interrupted, RunFolderError
from headstart.core.manifest import seal
from headstart.core.progress import Progress
from headstart.runs.request import digest
from headstart.training import checkpoint
from headstart.training.checkpoint import checkpoints

Damage = Callable[[Path], object]


class StopsAfterAnEpochAndAHalf(Progress):
    """Sends this process a signal, as somebody who reads the progress would."""

    def say(self, line: str) -> None:
        if line.startswith("epoch 1.5:"):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A backbone of these tests' own: they change it."""
    return tiny.backbone(tmp_path_factory.mktemp("bert") / "model", num_hidden_layers=1)


@pytest.fixture(scope="module")
def spec(tmp_path_factory, model) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    fields = tiny.spec(tiny.write_csv(folder / "reviews.csv", tiny.rows(60)), model,
                       train={"tokens_per_batch": 128, "evaluations_per_epoch": 2, "patience": 99},
                       evaluate={"n_resamples": 100, "baselines": False})
    (folder / "spec.yaml").write_text(yaml.safe_dump(fields), "utf-8")
    return folder / "spec.yaml"


@pytest.fixture(scope="module")
def whole(spec, tmp_path_factory) -> Path:
    """The run that was never stopped."""
    return headstart.fit(spec, out=tmp_path_factory.mktemp("whole") / "run").folder


@pytest.fixture(scope="module")
def stopped(spec, tmp_path_factory) -> Path:
    """The work folder of a run that was stopped three quarters through; it has two checkpoints."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Interrupted):
        headstart.fit(spec, out=out, progress=StopsAfterAnEpochAndAHalf(quiet=True))
    work = out.with_name("run.partial")
    assert len(checkpoints(work)) == 2
    return work


@pytest.fixture
def work(stopped, tmp_path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(stopped, tmp_path / "run.partial")


@pytest.fixture
def resume(spec, capfd):
    """`headstart fit SPEC --resume` without a process of its own. Returns what it wrote to stderr."""

    def run(work: Path, *options: str, rc: int = 0) -> str:
        out = work.with_name("run")
        with pytest.raises(SystemExit) as ended:
            main(lambda: app(["fit", str(spec), "--out", str(out), "--resume", *options]))
        stderr = capfd.readouterr().err
        assert (ended.value.code or 0) == rc, stderr
        assert "Traceback" not in stderr
        return stderr

    return run


def assert_same(run: Path, whole: Path) -> None:
    for name in ("model.safetensors", "head.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    losses = [[json.loads(line)["loss"] for line in (folder / "steps.jsonl").read_text("utf-8").splitlines()]
              for folder in (run, whole)]
    assert losses[0] == losses[1]
    assert len(losses[0]) > 8


# ---- ways to damage -------------------------------------------------------------------------------------------------


def newest(work: Path) -> Path:
    return checkpoints(work)[-1]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def to_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "file").write_text("x")


def to_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def to_link(path: Path) -> None:
    moved = path.rename(path.with_name(f"moved-{path.name}"))
    path.symlink_to(moved)


def to_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def edit_json(path: Path, changes: dict) -> None:
    values = json.loads(path.read_text("utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value != "gone"}), "utf-8")


def edit_tensors(path: Path, change: Callable[[dict], object]) -> None:
    """In place, and sealed again: as a wrong program would leave it, not a bad disk."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    seal(path.parent)


def edit_request(path: Path, part: str, changes: dict) -> None:
    """With a hash that fits."""
    values = json.loads(path.read_text("utf-8"))
    values[part] |= changes
    values["sha256"] = digest({"same": values["same"], "noted": values["noted"]})
    path.write_text(json.dumps(values), "utf-8")


# ---- checkpoints ----------------------------------------------------------------------------------------------------

FILES: dict[str, tuple[Damage, str]] = {
    "a file is missing": (lambda c: (c / "best.safetensors").unlink(), "best.safetensors is missing"),
    "tensors are cut": (lambda c: cut(c / "weights.safetensors"), "weights.safetensors is damaged"),
    "the manifest is gone": (lambda c: (c / "MANIFEST.json").unlink(), "MANIFEST.json is missing"),
    "the manifest is empty": (lambda c: (c / "MANIFEST.json").write_text(""), "MANIFEST.json is not valid JSON"),
    "the manifest names nothing": (lambda c: (c / "MANIFEST.json").write_text('{"format": 1, "sha256": {}}'),
                                   "state.json lies there and is not in MANIFEST.json"),
    "it is a file": (to_file, "is no folder"),
    "it is a link": (to_link, "is no folder"),
}
STATES: dict[str, tuple[dict, str]] = {
    "another field": ({"speed": 1}, '"speed" should not be there'),
    "a field less": ({"n_worse": "gone"}, "n_worse is missing"),
    "a text for a number": ({"n_tokens": "many"}, 'n_tokens is "many"'),
    "yes for a number": ({"n_mean": True}, "n_mean is True"),
    "a fraction of a step": ({"step": 1.5}, "step is 1.5"),
    "a negative step": ({"step": -1}, "step is -1"),
    "the step of another": ({"step": 1}, "step is 1 in a checkpoint of step"),
    "a huge number": ({"seconds": 10**400}, "seconds is 1000"),
    "nan": ({"best_score": float("nan")}, "NaN is not a JSON number"),
    "a best step to come": ({"best_step": 10**6}, "it knows more than its"),
    "no evaluation": ({"curve": []}, r"curve is \[\]"),
    "an evaluation of another shape": ({"curve": [{"step": 0}]}, "curve is"),
    "evaluations in disorder": ({"curve": [{"step": 2, "epoch": 1, "scores": {}}] * 2}, "they begin at 0 and ascend"),
    "a loss scaler of texts": ({"scaler": {"scale": "x"}}, "scaler is"),
    "another request": ({"request": "0" * 64}, "is of another run"),
}
LOGS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "does not hold the steps 1 to"),
    "lines are missing": (b'{"n": 1}\n{"n": 3}\n', "does not hold the steps 1 to"),
    "garbage": (b'{"n": 1}\n{"n": 2, "lo\n', "steps.jsonl:2: is not valid JSON"),
    "no objects": (b"[1]\n[2]\n", "does not hold the steps 1 to"),
    "not UTF-8": (b'{"n": 1, "x": "\xff"}\n', "is not UTF-8"),
}


def assert_refused(folder: Path, message: str) -> None:
    state = json.loads((checkpoints(folder.parent)[0] / "state.json").read_text("utf-8"))
    with pytest.raises(RunFolderError, match=message):
        checkpoint.read(folder, state["request"])


@pytest.mark.parametrize("kind", FILES)
def test_a_checkpoint_whose_files_are_not_those_that_were_written_is_not_read(work, kind):
    damage, message = FILES[kind]
    damage(newest(work))
    assert_refused(newest(work), message)


@pytest.mark.parametrize("kind", STATES)
def test_a_sealed_state_that_cannot_be_is_not_read(work, kind):
    changes, message = STATES[kind]
    edit_json(newest(work) / "state.json", changes)
    seal(newest(work))
    assert_refused(newest(work), message)


@pytest.mark.parametrize("kind", LOGS)
def test_a_sealed_log_that_forgets_steps_is_not_read(work, kind):
    content, message = LOGS[kind]
    (newest(work) / "steps.jsonl").write_bytes(content)
    seal(newest(work))
    assert_refused(newest(work), message)


def test_tensors_that_are_none_are_not_read(work):
    (newest(work) / "mean.safetensors").write_bytes(b"not tensors")
    seal(newest(work))
    assert_refused(newest(work), "holds tensors that cannot be read")


def first(tensors: dict) -> str:
    return next(name for name in sorted(tensors) if tensors[name].ndim)


TENSORS: dict[str, tuple[str, Callable[[dict], object], str]] = {
    "another shape": ("weights", lambda t: t.update({first(t): t[first(t)][:1].clone()}), "tensor .* is torch.float32"),
    "another dtype": ("best", lambda t: t.update({first(t): t[first(t)].half()}), "tensor .* is torch.float16"),
    "another name": ("weights", lambda t: t.update(x=t.pop(first(t))), "holds tensors of other names"),
    "nan": ("weights", lambda t: t[first(t)].fill_(float("nan")), "holds nan or inf"),
    "no optimizer": ("optimizer", dict.clear, "lacks the optimizer"),
    "half of an optimizer": ("optimizer", lambda t: t.pop("0.exp_avg"), "holds tensors of other names"),
    "an optimizer of more weights": ("optimizer", lambda t: t.update({"999.step": t["0.step"].clone()}),
                                     "holds tensors of other names"),
    "an optimizer of no weights": ("optimizer", lambda t: t.update({"x": t["0.step"].clone()}), "other names"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_do_not_fit_are_not_used(work, resume, whole, kind):
    file, change, message = TENSORS[kind]
    edit_tensors(newest(work) / f"{file}.safetensors", change)
    damaged = newest(work)
    stderr = resume(work)
    assert re.search(rf"{damaged}: checkpoint is damaged and was not used: .*{message}.*kept as damaged-1-", stderr)
    assert_same(work.with_name("run"), whole)


# ---- what is repaired -----------------------------------------------------------------------------------------------


def cut_all(work: Path) -> None:
    for folder in checkpoints(work):
        cut(folder / "state.json")


def cut_all_and_the_request(work: Path) -> None:
    cut_all(work)
    cut(work / "request.json")


REPAIRED: dict[str, tuple[Damage, str]] = {
    "nothing": (lambda work: None, "resuming after step"),
    "the request is empty": (lambda w: (w / "request.json").write_text(""), "request.json: is not valid JSON"),
    "the request is cut": (lambda w: cut(w / "request.json"), "request.json: is not valid JSON"),
    "the request is not UTF-8": (lambda w: (w / "request.json").write_bytes(b"\xff\xfe"), "request.json: .* not UTF-8"),
    "the request is a list": (lambda w: (w / "request.json").write_text("[1]"), "a JSON object is wanted here"),
    "the request holds texts": (lambda w: edit_json(w / "request.json", {"same": "x"}), "request.json: is damaged"),
    "the request holds more": (lambda w: edit_json(w / "request.json", {"x": 1}), "request.json: is damaged"),
    "the request is of another format": (lambda w: edit_json(w / "request.json", {"format": 3}), "has format 3, not 2"),
    "the request is gone": (lambda w: (w / "request.json").unlink(), "resuming after step"),
    "the request is a folder": (lambda w: to_folder(w / "request.json"), "request.json: is a folder"),
    "a checkpoint is a file": (lambda w: to_file(checkpoints(w)[0]), "resuming after step"),
    "the log is empty": (lambda w: (w / "steps.jsonl").write_text(""), "resuming after step"),
    "the log is gone": (lambda w: (w / "steps.jsonl").unlink(), "resuming after step"),
    "the log has steps to come": (lambda w: (w / "steps.jsonl").open("ab").write(b'\xff{"n": 999'), "resuming after"),
    "windows are a file": (lambda w: to_file(w / "windows"), "resuming after"),
    "windows are a pipe": (lambda w: to_pipe(w / "windows/train/inputs.input_ids.bin"), "resuming after"),
    "features are a folder": (lambda w: to_folder(w / "features-train.bin"), "resuming after"),
    "no checkpoint is whole": (cut_all, "training begins anew at step 1"),
    "nothing is whole": (cut_all_and_the_request, "begins anew at step 1"),
    "a checkpoint without a step": (lambda w: newest(w).rename(w / "checkpoint-last"), "resuming after step"),
    "a stray file": (lambda w: (w / "checkpoint-x").write_text("x"), "resuming after step"),
    "another processor": (lambda w: edit_request(w / "request.json", "noted", {"machine.cpu": "Z80"}),
                          'machine.cpu was "Z80" and is now .*; the last bits of the weights may differ'),
}


@pytest.mark.parametrize("kind", REPAIRED)
def test_what_can_be_made_again_is_and_the_weights_are_the_same(work, resume, whole, kind):
    damage, message = REPAIRED[kind]
    damage(work)
    assert re.search(message, resume(work))
    assert_same(work.with_name("run"), whole)
    assert not work.exists()


# ---- what is refused ------------------------------------------------------------------------------------------------

CHANGED: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "weights": (lambda spec, model: edit_tensors(model / "model.safetensors", lambda t: t[first(t)].mul_(1.5)),
                "backbone.weights was sha256 .* and is now sha256 "),
    "the tokenizer": (lambda spec, model: (model / "tokenizer.json").write_text(
        (model / "tokenizer.json").read_text("utf-8").replace('"lowercase":true', '"lowercase":false')
        .replace('"lowercase": true', '"lowercase": false'), "utf-8"), "backbone.tokenizer.json was sha256 "),
    "the configuration": (lambda spec, model: edit_json(model / "config.json", {"layer_norm_eps": 1e-6}),
                          "backbone.config.json was sha256 "),
    "another tokenizer file": (lambda spec, model: (model / "vocab.txt").write_text("[PAD]"),
                               "backbone.vocab.txt was None and is now sha256 "),
    "the rows": (lambda spec, model: tiny.write_csv(spec.with_name("reviews.csv"), tiny.rows(61)),
                 "rows.train was sha256 "),
}


@pytest.fixture
def put_back(spec, model, tmp_path):
    """What a test changes of the Spec's data and backbone is as it was for the next one."""
    kept = [(folder, shutil.copytree(folder, tmp_path / folder.name)) for folder in (spec.parent, model)]
    yield
    for folder, copy in kept:
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)


@pytest.mark.parametrize("kind", CHANGED)
def test_what_was_started_is_what_is_resumed(work, resume, spec, model, put_back, kind):
    change, message = CHANGED[kind]
    change(spec, model)
    before = {path: path.read_bytes() for path in checkpoints(work)[-1].iterdir()}
    stderr = resume(work, rc=2)
    assert re.search(rf"{work}: cannot be resumed: .*{message}", stderr)
    assert "Resume with what began it, or start anew: --overwrite" in stderr
    assert {path: path.read_bytes() for path in checkpoints(work)[-1].iterdir()} == before


REFUSED: dict[str, tuple[Damage, tuple[str, ...], str]] = {
    "another Spec": (lambda w: None, ("--set", "train.lr=0.5"), r"train\.lr was 0\.003 and is now 0\.5\."),
    "another version": (lambda w: edit_request(w / "request.json", "same", {"version.torch": "1.0"}), (),
                        r'version\.torch was "1\.0" and is now '),
    "another precision": (lambda w: edit_request(w / "request.json", "same", {"precision": "bf16"}), (),
                          'precision was "bf16" and is now "fp32"'),
    "an empty request and another Spec": (lambda w: (w / "request.json").write_text(""), ("--seed", "3"),
                                          "the checkpoints beside it are of another Spec"),
    "a run of an earlier version": (lambda w: (w / "request.json").rename(w / "asked.json"), (),
                                    "was begun by an earlier headstart"),
    "the lock is a folder": (lambda w: to_folder(w / "lock"), (), "what headstart did not write"),
    "the Spec is a folder": (lambda w: to_folder(w / "spec.yaml"), (), "spec.yaml: is a folder"),
    "the request is a pipe": (lambda w: to_pipe(w / "request.json"), (),
                              'what headstart did not write: "request.json"'),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_resumed_is_refused_and_stays(work, resume, kind):
    damage, options, message = REFUSED[kind]
    damage(work)
    assert re.search(message, resume(work, *options, rc=2))
    assert len(checkpoints(work)) == 2
    assert not work.with_name("run").exists()


def test_a_finished_run_of_another_spec_is_not_called_the_finished_one(whole, resume):
    assert "is finished already." in resume(whole)
    assert "is finished already, and of another Spec: train.lr was 0.003 and is now 0.5." in \
        resume(whole, "--set", "train.lr=0.5", rc=2)


# ---- what is checked before and after training ----------------------------------------------------------------------


def test_a_name_that_no_file_of_the_artifact_could_hold_is_refused_before_any_work(spec, tmp_path):
    source = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")
    shutil.copyfile(spec.with_name("reviews.csv"), source)
    with pytest.raises(headstart.HeadstartError, match=r"data\.train: .* holds \"\\udcff\", which is not UTF-8"):
        headstart.fit(source, out=tmp_path / "run")
    assert not (tmp_path / "run.partial").exists()


class MakesOut(Progress):
    """Somebody else writes to the place of the run while it trains."""

    def __init__(self, out: Path) -> None:
        super().__init__(quiet=True)
        self.out = out

    def say(self, line: str) -> None:
        if line.startswith("epoch 1:"):
            self.out.mkdir()
            (self.out / "photo").write_text("x")


def test_what_came_to_be_there_while_the_run_trained_is_not_replaced(spec, tmp_path, resume, whole):
    out = tmp_path / "run"
    with pytest.raises(RunFolderError, match="while the run trained; it is not replaced"):
        headstart.fit(spec, out=out, progress=MakesOut(out))
    assert (out / "photo").exists()
    out.rename(tmp_path / "photos")
    resume(tmp_path / "run.partial")
    assert_same(out, whole)
