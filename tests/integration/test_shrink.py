"""`headstart shrink`: the smallest student that is proven to lose little, or none."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny

import headstart
from headstart.core.errors import HeadstartError, SpecError
from headstart.studies.shrink import evenly, shrink, sizes_of


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A run of four blocks that answers all of its many test rows right."""
    folder = tmp_path_factory.mktemp("big")
    rows = tiny.write_csv(folder / "rows.csv", tiny.rows(150))
    test = tiny.write_csv(folder / "test.csv", tiny.rows(400, seed=1))
    spec = tiny.spec(rows, tiny.backbone(folder / "model", num_hidden_layers=4), data={"test": str(test)},
                     train={"epochs": 6, "lr": 1e-2}, evaluate={"baselines": False})
    return headstart.fit(spec, out=folder / "run").folder


FAST = [("test", {"train": {"epochs": 6, "lr": 1e-2, "tokens_per_batch": 256}})]


def test_sizes_halve_and_blocks_are_spread():
    assert sizes_of(12, 0.5) == [6, 3, 1]
    assert sizes_of(6, 0.34) == [2, 1]
    assert evenly(3, 6) == [0, 2, 4]
    assert evenly(1, 4) == [0]
    for share in (0.1, 1.0):
        with pytest.raises(SpecError, match="a student must have one at least"):
            sizes_of(4, share)


def test_the_smallest_that_is_proven_is_exported(big, tmp_path):
    result = shrink(big, to=0.5, max_loss=30.0, out=tmp_path / "small", layers=FAST)
    assert [len(student["keep_blocks"]) for student in result["students"]] == [2, 1]
    assert all(student["is_proven"] for student in result["students"])
    assert result["chosen"]["keep_blocks"] == (0,)
    assert result["exported"] == str(tmp_path / "small" / "blocks-1-onnx")
    assert headstart.load(result["exported"]).predict("a lovely film")[0].keys() == {"label", "scores"}
    assert json.loads((tmp_path / "small" / "shrink.json").read_text("utf-8"))["n_test"] == 400
    assert "1 of 4 blocks are enough" in (tmp_path / "small" / "shrink.md").read_text("utf-8")


def test_none_is_said_where_no_loss_is_proven_and_resume_fits_nothing_twice(big, tmp_path, cli):
    words = ("shrink", big, "--max-loss", "0", "--out", tmp_path / "small", "--set", "train.max_steps=1", "--json")
    stdout, _ = cli(*words)
    result = json.loads(stdout.splitlines()[-1])
    assert result["chosen"] is None
    assert result["exported"] is None
    assert len(result["students"]) == 1  # the first that is not proven ends the search
    assert "None: no student's loss is proven" in stdout
    written = (tmp_path / "small" / "blocks-2" / "MANIFEST.json").stat().st_mtime_ns
    cli(*words, rc=2)
    cli(*words, "--resume")
    assert (tmp_path / "small" / "blocks-2" / "MANIFEST.json").stat().st_mtime_ns == written


def test_what_cannot_be_shrunk(big, backbone, reviews, tmp_path, cli):
    exported = headstart.export(big, out=tmp_path / "onnx").folder
    with pytest.raises(SpecError, match="is exported"):
        shrink(exported, out=tmp_path / "small")
    adapter = headstart.fit(tiny.spec(reviews, backbone, method="prompt-tuning", data={"limit": 60},
                                      train={"epochs": 1}, evaluate={"baselines": False}), out=tmp_path / "adapter")
    with pytest.raises(SpecError, match="is an adapter beside a backbone"):
        shrink(adapter.folder, out=tmp_path / "small")
    with pytest.raises(HeadstartError, match="is not a run's folder"):
        shrink(tmp_path / "none", out=tmp_path / "small")
    for share in ("2x", "half", "nan", "0"):
        assert "--to: is" in cli("shrink", big, "--to", share, "--out", tmp_path / "small", rc=2)[1]
    assert not (tmp_path / "small").exists()
    copy = shutil.copytree(big, tmp_path / "copy")
    with pytest.raises(HeadstartError):
        shrink(copy, out=copy / "inside", layers=FAST)
