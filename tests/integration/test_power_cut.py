"""The power goes off at any moment: the old is on the disk or the new, whole; after exit 0 it is the new."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import power
import pytest
import tiny
import yaml
from forked import Command

from headstart.core.errors import DataError
from headstart.core.lines import Source, write_lines
from headstart.core.manifest import verify
from headstart.core.values import Row

LEARN = {"epochs": 2, "checkpoint_every_s": 0.001, "tokens_per_batch": 512}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, run, backbone):
    """The inputs of every verb."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = tiny.write_csv(folder / "rows.csv", tiny.rows(40))
    spec = folder / "spec.yaml"
    spec.write_text(yaml.safe_dump(tiny.spec(rows, backbone, train=LEARN, evaluate={"n_resamples": 100,
                                                                                   "baselines": False})), "utf-8")
    pairs = [{"text": row["text"], "text_pair": f"{row['text']} again"} for row in tiny.rows(12)]
    return {"run": run, "backbone": backbone, "rows": rows, "spec": spec,
            "pairs": tiny.write_csv(folder / "pairs.csv", pairs)}


FILES = {"predict": "predict {run} {rows}", "evaluate": "evaluate {run} {rows}",
         "extract.npy": "extract {backbone} {rows}", "extract.parquet": "extract {backbone} {rows}",
         "mine": "mine {backbone} {pairs}"}
FOLDERS = {"fit": "fit {spec}", "export": "export {run} --rows {rows}", "audit": "audit {spec} --no-suspects"}


def arguments(command: str, inputs: dict[str, Path], out: Path, *options: str) -> list[str]:
    return [*command.format(**inputs).split(), "--out", str(out), *options]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", FILES)
@pytest.mark.parametrize("is_there", [False, True])
def test_a_file_is_the_old_or_the_new(verb, is_there, inputs, tmp_path):
    root, name = tmp_path / "disk", f"new/{verb}"
    root.mkdir()
    out = root / name
    if is_there:
        out.parent.mkdir()
        out.write_bytes(b"old")
    cuts = power.cuts_of(root, *arguments(FILES[verb], inputs, out, *["--overwrite"] * is_there))
    new = out.read_bytes()
    assert len(new) > 100
    assert len(cuts) >= 3
    states = [(cut / name).read_bytes() if (cut / name).exists() else None for cut in cuts]
    assert set(states) <= {b"old" if is_there else None, new}
    assert states[-1] == new
    assert states == sorted(states, key=lambda state: state == new)  # and never back


@pytest.mark.parametrize("verb", ["fit", "audit", pytest.param("export", marks=pytest.mark.slow)])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_is_the_old_or_the_new(verb, is_there, inputs, tmp_path):
    root, name = tmp_path / "disk", f"new/{verb}"
    out = root / name
    root.mkdir()
    if is_there:
        shutil.copytree(inputs["run"], out)
    strangers = [out.with_name(out.name + end) for end in (".tmp", ".old")]
    for stranger in strangers:
        stranger.mkdir(parents=True)
        (stranger / "photo.jpg").write_bytes(b"mine")
    cuts = power.cuts_of(root, *arguments(FOLDERS[verb], inputs, out, *["--overwrite"] * is_there))
    old, new = content(inputs["run"]), content(out)
    assert all(content(stranger) == {"photo.jpg": b"mine"} for stranger in strangers)
    assert {path.name for path in out.parent.iterdir()} == {out.name, *(stranger.name for stranger in strangers)}
    for cut in cuts:
        if not (cut / name).exists():
            assert not is_there
        elif content(cut / name) != old or not is_there:
            assert verify(cut / name) == []
            assert content(cut / name).items() <= new.items()
    assert content(cuts[-1] / name) == new
    assert not (cuts[-1] / f"{name}.partial").exists()
    if verb == "fit" and not is_there:
        _resume(cuts, name, inputs, new)


def _resume(cuts: list[Path], name: str, inputs: dict[str, Path], new: dict[str, bytes]) -> None:
    """From any of the cuts a run comes to the very same weights."""
    begun = [cut for cut in cuts if (cut / f"{name}.partial").exists()]
    assert len(begun) > 20
    assert any("checkpoint-" in path for path in content(begun[-1]))
    for cut in begun[:: len(begun) // 5]:
        process = Command(*arguments(FOLDERS["fit"], inputs, cut / name, "--resume"))
        _, stderr = process.communicate(60)
        assert process.returncode == 0, stderr
        assert verify(cut / name) == []
        assert (cut / name / "model.safetensors").read_bytes() == new["model.safetensors"]


def test_a_report_is_the_old_or_the_new(run, tmp_path):
    root = tmp_path / "disk"
    shutil.copytree(run, root / "run")
    (root / "run" / "report.html").write_bytes(b"old")
    cuts = power.cuts_of(root, "report", str(root / "run"))
    new = (run / "report.html").read_bytes()
    assert {(cut / "run" / "report.html").read_bytes() for cut in cuts} == {b"old", new}
    assert content(cuts[-1]) == content(root)


# ---------------------------------------------------------------------------------------------------------- compare


def compare_here(spec: str, out: str) -> None:
    from headstart.studies.compare import compare, run_cell
    from headstart.studies.jobs import JobResult

    class Here:
        def map(self, verb, orders):
            return (JobResult(run_cell(order)) for order in orders)

    compare(spec, ["linear-probe"], out=out, jobs=Here(), seeds=2, resume=True)


def test_a_comparison_goes_on_from_any_moment(inputs, tmp_path):
    root = tmp_path / "disk"
    root.mkdir()
    cuts = power.cuts_of(root, str(inputs["spec"]), str(root / "out"), function=compare_here)
    assert content(cuts[-1]) == content(root)
    n_cells = [(cut / "out" / "cells.jsonl").read_text("utf-8").count("\n")
               for cut in cuts if (cut / "out" / "cells.jsonl").exists()]
    assert n_cells == sorted(n_cells)
    assert n_cells[-1] == 2
    for cut in cuts:
        for file in (cut / "out" / "outcomes").glob("*.npy"):
            assert file.read_bytes() == (root / "out" / "outcomes" / file.name).read_bytes()
        if (cut / "out" / "asked.json").exists():
            assert content(cut / "out" / "data") == content(root / "out" / "data")
            json.loads((cut / "out" / "asked.json").read_text("utf-8"))
    half = cuts[len(cuts) // 2]
    compare_here(str(inputs["spec"]), str(half / "out"))
    assert (half / "out" / "cells.jsonl").read_text("utf-8").count("\n") == 2


# ------------------------------------------------------------------------------------------------------------ lines


ROWS: list[Row] = [{"text": f"text {i}"} for i in range(9)]


def lines(rows: Iterable[Row]) -> Iterator[str]:
    return (json.dumps(row) for row in rows)


def source(fail_at: int) -> Source:
    def failing(rows: Iterable[Row]) -> Iterator[str]:
        for i, line in enumerate(lines(rows)):
            if i == fail_at:
                raise DataError("rows", "are bad.", "Mend them.")
            yield line
    return ROWS, failing


def write_in_three_parts(out: str) -> None:
    """Three commands: two end by an error after some lines each, the third ends well."""
    for n in (3, 2, 99):
        try:
            write_lines(Path(out), partial(source, n), {"source": "a"}, resume=True)
        except DataError:
            continue


def test_answers_go_on_from_any_moment(tmp_path):
    root = tmp_path / "disk"
    root.mkdir()
    cuts = power.cuts_of(root, str(root / "out"), function=write_in_three_parts)
    kept = [cut for cut in cuts if (cut / "out.partial").exists() and (cut / "out.partial").stat().st_size]
    assert len(kept) > 5
    for cut in cuts:
        if not (cut / "out").exists():
            assert write_lines(cut / "out", lambda: (ROWS, lines), {"source": "a"}, resume=True) == len(ROWS)
        assert (cut / "out").read_text("utf-8") == "".join(f"{line}\n" for line in lines(ROWS))
