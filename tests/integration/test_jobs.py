"""Jobs in processes of their own: results come in order, and one that fails or dies does not end the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart.core.errors import HeadstartError
from headstart.studies.jobs import LocalJobs


def test_a_job_that_fails_or_dies_does_not_end_the_others(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=":")
    results = list(LocalJobs().map("job_verbs:square", [{"n": n} for n in range(1, 5)]))
    assert [result.value for result in results] == [{"square": 1}, None, None, {"square": 16}]
    failed, died = results[1], results[2]
    assert "n: is 2." in failed.error
    assert failed.exit_code == 3
    assert "its process ended with status" in died.error
    assert died.exit_code == 1
    assert results[0].get("n") == {"square": 1}
    with pytest.raises(HeadstartError, match="job 2: n: is 2") as raised:
        failed.get("job 2")
    assert raised.value.exit_code == 3


def test_no_orders_start_no_process():
    assert list(LocalJobs().map("no_such_module:verb", [])) == []
