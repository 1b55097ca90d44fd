"""What the server says of itself, held against what it does: Schemathesis over its OpenAPI description."""

from __future__ import annotations

import os
from collections import Counter

import hypothesis
import pytest
import schemathesis
import tiny
from schemathesis.checks import negative_data_rejection, positive_data_acceptance
from served import Server, finished_run

from headstart import tasks

# Schemathesis' own pytest plugin does not run under pytest 9.2: its strategies and its checks are called by hand.
N_EXAMPLES = {"GET": 5, "POST": int(os.environ.get("HEADSTART_FUZZ", "150"))}
# Rules that our JSON Schema does not say: spans within the text, choices that differ, a context that may be empty,
# one of two columns, wrong texts only beside a right one.
HARD_TO_DESCRIBE = ("relation-extraction", "multiple-choice", "token-classification", "sentence-similarity")


@pytest.fixture(scope="module")
def server(tmp_path_factory, backbone):
    folder = tmp_path_factory.mktemp("schema")
    # In company, the documents' own example of a task is known in this process, and not in the server.
    own = [name for name in tiny.ANSWERING if tasks.find(name, "task").__module__.startswith("headstart.")]
    runs = [finished_run(folder / name, backbone, name) for name in own]
    with Server(folder / "log", runs, "--body-s", "1") as one:
        yield one


def beyond_schema(case, response):
    """The checks that would take a right answer for a wrong one."""
    if response.status_code == 413:
        yield negative_data_rejection  # it does not know this way to refuse
    if isinstance(case.body, dict) and case.body.get("model") in HARD_TO_DESCRIBE:
        if response.status_code == 200:
            yield negative_data_rejection
        elif response.status_code == 422 and response.json()["error"]["code"] == "row_not_valid":
            yield positive_data_acceptance


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_no_request_is_answered_otherwise_than_described(server, mode):
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    statuses: Counter[tuple[str, int]] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode == "negative" and operation.method.upper() == "GET":
            continue  # takes nothing that could be wrong

        @hypothesis.settings(max_examples=N_EXAMPLES[operation.method.upper()], deadline=None, derandomize=True,
                             database=None, suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(case=operation.as_strategy(schemathesis.GenerationMode(mode)))
        def ask(case):
            response = case.call()
            statuses[case.operation.path, response.status_code] += 1
            case.validate_response(response, excluded_checks=list(beyond_schema(case, response)))

        ask()
    for path in ("/v1/predict", "/v1/embeddings"):
        assert statuses[path, 200 if mode == "positive" else 422] > 20, statuses
    assert not [status for _, status in statuses if status >= 500]
