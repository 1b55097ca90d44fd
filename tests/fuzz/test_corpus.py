"""What once broke a verb is answered or refused now: the cases that the fuzz targets found."""

from __future__ import annotations

import json
from pathlib import Path

import fuzzing
import pytest

CASES = sorted(fuzzing.CORPUS.glob("*/*.json"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return fuzzing.sound_inputs(tmp_path_factory.mktemp("sound") / "inputs")


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_kept_case_is_answered_or_refused(path, inputs, tmp_path):
    start = fuzzing.load_to_serve if path.parent.name == "serve" else fuzzing.command_line
    case = fuzzing.Case(**json.loads(path.read_text("utf-8")))
    assert fuzzing.flaws(case, inputs, tmp_path, start) == []
