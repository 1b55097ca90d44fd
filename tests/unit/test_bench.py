"""The bench's tables say how old they are."""

from __future__ import annotations

import dataclasses

import bench

RUN = bench.Run(cell={"name": "a"}, result={}, seconds=1.0, others_share=0.0, finished="2026-01-01T00:00:00+00:00",
                machine={"cpu": "c", "n_cores": 1, "n_threads": 1, "device": "cpu", "platform": "p"}, versions={},
                sources="00000000")


def test_a_table_says_that_it_is_older_than_the_code(tmp_path):
    today = dataclasses.replace(RUN, cell={"name": "b"}, sources=bench.sources())
    written = bench.write(tmp_path, "x", "title", "body", [RUN, today], "command", missing=3)
    assert written.splitlines()[-1] == "- Beside the code: 1 of 2 runs are older than the code; cells never run: 3"
    assert bench.write_age(tmp_path, "x", [today], 0) == "no run is older than the code"
    lines = (tmp_path / "x.md").read_text("utf-8").splitlines()
    assert lines[:-1] == written.splitlines()[:-1]
    assert lines[-1] == "- Beside the code: no run is older than the code"
