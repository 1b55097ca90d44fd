"""The default model on real sentences: the whole of `fit`, and every claim of its scores checked from outside.

The data is not in the repository: HEADSTART_BENCH_DATA names a folder that holds uci_sentiment_sentences (2,400 train,
300 validation, 300 test rows; Kotzias et al. 2015), ../shared/data when absent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import headstart

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("HEADSTART_BENCH_DATA", ROOT.parent / "shared" / "data")) / "uci_sentiment_sentences"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there; HEADSTART_BENCH_DATA names another folder")
def test_three_thousand_real_sentences(tmp_path: Path) -> None:
    out = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count())}
    done = subprocess.run([sys.executable, "-m", "headstart", "fit", DATA, "--out", out, "--json"], text=True,
                          capture_output=True, env=environment, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["metric"], said["n_test"]) == ("accuracy", 300)
    assert said["score"] >= 0.87, said
    for name in ("majority", "tf-idf", "before-training"):
        assert said["gain_over"][name]["interval"][0] > 0, (name, said)
    assert said["verdict"].startswith(("positive transfer", "no proof")), said

    rows = [json.loads(line) for line in (DATA / "test.jsonl").read_text("utf-8").splitlines()]
    answers = headstart.load(out).predict([row["text"] for row in rows])
    right = sum(answer["label"] == row["label"] for answer, row in zip(answers, rows, strict=True))
    assert right / len(rows) == pytest.approx(said["score"])

    piped = subprocess.run([sys.executable, "-m", "headstart", "predict", out, DATA / "test.jsonl"], text=True,
                           capture_output=True, env=environment, check=True)
    assert [json.loads(line)["label"] for line in piped.stdout.splitlines()] == [a["label"] for a in answers]
