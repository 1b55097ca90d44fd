"""A model that was loaded before its process was forked, as by gunicorn --preload, answers in the child or says why."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch

import headstart
from headstart.core.errors import ArtifactError
from headstart.exporters import export as exporting

TEXTS = ["a lovely room " * 20] * 64  # enough that both libraries share the work out among their threads


@pytest.fixture(scope="module")
def exported(tmp_path_factory, run) -> Path:
    return exporting.export(run, out=tmp_path_factory.mktemp("exported") / "reviews-onnx").folder


def in_child(artifact: headstart.Artifact) -> object:
    """What a forked process gets; its result, or the message of its error."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def answer() -> None:
        try:
            results.put(artifact.predict(TEXTS))
        except ArtifactError as error:
            results.put(str(error))

    process = context.Process(target=answer)
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        return "it hangs"
    assert process.exitcode == 0
    return results.get()


@pytest.mark.parametrize("kind", ["run", "exported"])
def test_a_model_answers_in_a_forked_process(kind, request):
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        artifact = headstart.load(request.getfixturevalue(kind), n_threads=2)
        expected = artifact.predict(TEXTS)
        assert in_child(artifact) == expected
        assert artifact.predict(TEXTS) == expected
    finally:
        torch.set_num_threads(n_threads)


def test_an_export_that_was_replaced_meanwhile_is_refused_in_the_child(exported, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    artifact = headstart.load(folder, n_threads=2)
    os.utime(folder / "model.onnx", (0, 0))
    assert "Load the artifact in the child" in str(in_child(artifact))
