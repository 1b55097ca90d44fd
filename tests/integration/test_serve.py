"""The server as its users meet it: a process of its own, real HTTP, a real browser."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tiny
from served import Server, finished_run, wait_for

import headstart
from headstart.core import files as sealed
from headstart.core import manifest
from headstart.core.predict import is_close
from headstart.exporters import export as exporting
from headstart.runs import artifact

SECRET = "Zanzibar-7731"  # stands in every text of these tests; no log and no error may hold it
KEY = "k" * 20
ORIGIN = "https://shop.example"
EVIL_NAME, EVIL_LABEL = "<i>evil", "<img src=x onerror=document.title='owned'>"
CHROMIUM = shutil.which("chromium")


def texts(n: int, n_words: int = 8) -> list[dict[str, str]]:
    rng = np.random.default_rng(n)
    return [{"text": f"{SECRET} " + " ".join(rng.choice(tiny.FILL, n_words))} for _ in range(n)]


@pytest.fixture(scope="module")
def exported(run) -> Path:
    """What is served without torch, and so starts at once."""
    return exporting.export(run).folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, run, backbone) -> list[Path]:
    """A run of every task."""
    folder = tmp_path_factory.mktemp("every-task")
    found = [run, *(finished_run(folder / name, backbone, name) for name in tiny.ANSWERING
                    if name != "text-classification")]
    assert len(found) == len(tiny.ANSWERING) >= 8
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory, runs, backbone):
    evil = finished_run(tmp_path_factory.mktemp("evil") / EVIL_NAME, backbone, "text-classification",
                        [{"text": "a", "label": "<b>bad</b>"}, {"text": "b", "label": EVIL_LABEL}])
    with Server(tmp_path_factory.mktemp("server") / "log", [*runs, evil], "--body-s", "1") as one:
        yield one


@pytest.fixture(scope="module")
def strict(tmp_path_factory, exported):
    """One place in the queue, a short deadline, a key."""
    folder = tmp_path_factory.mktemp("strict")
    (folder / "keys").write_text(f"{KEY}\n{'old' * 10}\n")
    with Server(folder / "log", [exported], "--queue-requests", "1", "--deadline-s", "1", "--body-bytes", "20000000",
                "--request-tokens", "10000000", "--queue-tokens", "10000000", "--api-key-file",
                str(folder / "keys")) as one:
        one.headers = AUTHORIZED
        yield one


@pytest.fixture(scope="module")
def kept(tmp_path_factory, exported):
    """Two recent answers are kept; one web page may call."""
    with Server(tmp_path_factory.mktemp("kept") / "log", [exported], "--cache-answers", "2", "--allow-origin",
                ORIGIN) as one:
        yield one


AUTHORIZED = {"authorization": f"Bearer {KEY}"}


def test_every_task_answers_as_its_artifact_does(server, runs):
    for folder in runs:
        loaded = artifact.load(folder)
        rows = [{k: v for k, v in row.items() if k not in loaded.task.columns.gold} for row in loaded.task.examples]
        rows = [row for row in rows if all(column in row for column in loaded.task.columns.required_inputs)] * 5
        assert rows
        status, said, _ = server.predict(rows, folder.name)
        assert status == 200, said
        assert is_close(said["predictions"], json.loads(json.dumps(loaded.predict(rows))), 1e-4)
        assert said["model"] == folder.name
        assert said["usage"]["n_rows"] == len(rows)


def test_a_row_a_string_and_a_list_are_the_same_question(server):
    row, string, many = (server.predict(rows, "reviews")[1]["predictions"]
                         for rows in ({"text": "a lovely room"}, "a lovely room", [{"text": "a lovely room"}]))
    assert row == string == many


def test_what_does_not_fit_is_counted(server):
    usage = server.predict(" ".join(["room"] * 200), "reviews")[1]["usage"]
    assert usage == {"n_rows": 1, "n_tokens": 64, "n_cut_tokens": 200 + 2 - 64}


def test_embeddings_have_openai_s_shape(server, runs):
    texts = ["The staff was kind.", "a loud hotel"]
    status, said, _ = server.ask("/v1/embeddings", {"model": "sentence-similarity", "input": texts})
    assert (status, said["object"], [one["index"] for one in said["data"]]) == (200, "list", [0, 1])
    vectors_ND = np.array([one["embedding"] for one in said["data"]])
    expected = artifact.load(next(r for r in runs if r.name == "sentence-similarity")).predict(texts)
    assert np.allclose(vectors_ND, [one["embedding"] for one in expected], atol=1e-4)
    packed = server.ask("/v1/embeddings", {"model": "sentence-similarity", "input": texts[0],
                                           "encoding_format": "base64", "dimensions": 8})[1]["data"][0]["embedding"]
    vector_D = np.frombuffer(base64.b64decode(packed), "<f4")
    assert np.allclose(vector_D, vectors_ND[0, :8] / np.linalg.norm(vectors_ND[0, :8]), atol=1e-4)
    assert server.ask("/v1/embeddings", {"model": "reviews", "input": "a"})[1]["error"]["code"] == "no_embeddings"


def test_requests_that_come_together_run_together(server):
    n_before = server.metric("headstart_batch_windows_count", model="reviews")
    rows = texts(200)
    alone = artifact_answers = [server.predict([row], "reviews")[1]["predictions"][0] for row in rows[:20]]
    n_alone = server.metric("headstart_batch_windows_count", model="reviews") - n_before
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda row: server.predict([row], "reviews"), rows))
    n_together = server.metric("headstart_batch_windows_count", model="reviews") - n_before - n_alone
    assert {status for status, *_ in answers} == {200}
    assert is_close([said["predictions"][0] for _, said, _ in answers[:20]], alone, 1e-4)
    assert n_alone == len(artifact_answers) == 20
    assert n_together < 200


BAD = [  # what is sent to /v1/predict, headers, the status and the code that come back
    (b"{", {}, 400, "json_not_valid"), (b"", {}, 400, "json_not_valid"), (b"[" * 100_000, {}, 400, "json_not_valid"),
    (b'{"rows": "\xff\xfe"}', {}, 400, "json_not_valid"), (b'{"rows": "\\ud800"}', {}, 400, "json_not_valid"),
    (b'{"model": "reviews"}', {}, 422, "request_not_valid"),
    (b'{"rows": "a", "rowz": 1}', {}, 422, "request_not_valid"),
    (b'{"rows": 7, "model": "reviews"}', {}, 422, "request_not_valid"), (b"7", {}, 422, "request_not_valid"),
    (b'{"rows": [], "model": "reviews"}', {}, 422, "no_rows"), (b'{"rows": "a"}', {}, 422, "model_missing"),
    (b'{"rows": " ", "model": "reviews"}', {}, 422, "row_not_valid"),
    (b'{"rows": [{"text": ["Zanzibar-7731"]}], "model": "reviews"}', {}, 422, "row_not_valid"),
    (b'{"rows": [{"txt": "Zanzibar-7731"}], "model": "reviews"}', {}, 422, "row_not_valid"),
    (b'{"rows": "a", "model": "Zanzibar-7731"}', {}, 404, "model_not_found"),
    (b'{"rows": "a"}', {"content-type": "text/plain"}, 415, "not_json"),
    (gzip.compress(b'{"rows": "a"}', mtime=0), {"content-encoding": "gzip"}, 415, "packed"),
    (b'{"rows": "' + b"a" * (1 << 20) + b'"}', {}, 413, "too_many_bytes"),
    (json.dumps({"model": "reviews", "rows": "a " * 100_000}).encode(), {}, 413, "too_many_tokens"),
    (json.dumps({"model": "reviews", "rows": ["a"] * 10_001}).encode(), {}, 413, "too_many_rows"),
]


@pytest.mark.parametrize(("body", "headers", "status", "code"), BAD)
def test_bad_requests_have_one_shape_and_show_nothing(server, body, headers, status, code):
    came, said, _ = server.ask("/v1/predict", body, headers=headers)
    assert (came, said["error"]["code"]) == (status, code)
    assert set(said["error"]) == {"code", "message", "param", "request_id"}
    assert "Zanzibar" not in json.dumps(said)
    assert server.ask("/health/live")[0] == 200


def test_a_complaint_names_the_place(server):
    error = server.predict([{"text": "a"}, {"text": " "}], "reviews")[1]["error"]
    assert error["param"] == "rows[1].text"
    assert "a string that is not empty" in error["message"]


def raw(server, *pieces: bytes) -> bytes:
    """What comes back for bytes that no client library would send."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        said = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            while piece := connection.recv(65536):
                said += piece
        except (BrokenPipeError, ConnectionResetError):
            pass
        return said


HEAD = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def test_bodies_that_lie_or_do_not_end(server):
    endless = [b"10000\r\n" + b"a" * 0x10000 + b"\r\n"] * 40
    raw(server, HEAD + b"x-request-id: endless\r\ntransfer-encoding: chunked\r\n\r\n", *endless)
    assert [one["status"] for one in server.events("request") if one["id"] == "endless"] == [413]
    assert b" 408 " in raw(server, HEAD + b"content-length: 50\r\n\r\n", b'{"rows"')[:20]
    assert b" 400 " in raw(server, HEAD + b"content-length: -5\r\n\r\n")[:20]
    assert b" 413 " in raw(server, HEAD + b"content-length: 99999999999\r\n\r\n")[:20]
    assert b" 200 " not in raw(server, HEAD + b"x: " + b"a" * 100_000)[:20]
    assert server.ask("/health/live")[0] == 200


def test_a_head_that_does_not_end_is_cut_off(server):
    began = time.monotonic()
    assert b" 200 " not in raw(server, b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n")  # by --body-s 1
    assert time.monotonic() - began > 0.9  # and it ended: `raw` does not wait for ever


def test_labels_of_metrics_are_bounded(server):
    for i in range(5):
        assert server.ask(f"/{SECRET}-{i}?{SECRET}")[0] == 404
        assert server.predict("a", f"{SECRET}-{i}")[0] == 404
        assert server.ask("/v1/predict", method="PATCH")[0] == 405
    text = server.ask("/metrics")[1]
    assert SECRET not in text
    assert 'route="none"' in text
    assert 'method="other"' in text


def test_headers_and_closed_doors(server):
    _, _, headers = server.ask("/", headers={"origin": "https://elsewhere.example", "x-request-id": "abc"})
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-request-id"] == "abc"
    assert "server" not in headers
    assert not [name for name in headers if name.startswith("access-control")]
    assert server.ask("/pages/..%2fapi.py")[0] == 404


def test_pages_name_no_other_host():
    pages = list((Path(headstart.__file__).parent / "serve" / "pages").iterdir())
    assert len(pages) >= 8
    for page in pages:
        found = re.findall(r"(?:https?:)?//[\w.]+\.\w+", re.sub(r"^\s*//.*$", "", page.read_text("utf-8"), flags=re.M))
        assert set(found) <= {"http://www.w3.org"}, page


def test_the_examples_of_the_openapi_page_are_answered(server, runs):
    page = server.ask("/openapi.json")[1]
    n = 0
    for path in ("/v1/predict", "/v1/embeddings"):
        for example in page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"].values():
            status, said, _ = server.ask(path, example["value"])
            assert status == 200, said
            n += 1
    assert n == len(runs) + 2


def test_one_valid_key_or_nothing(strict):
    for headers in ({}, {"authorization": "Bearer wrong" + KEY}, {"authorization": KEY}, {"x-api-key": ""},
                    {**AUTHORIZED, "x-api-key": KEY}, {"x-api-key": KEY + ", " + KEY}):
        for path, body in (("/v1/predict", {"rows": "a"}), ("/v1/models", None), ("/metrics", None),
                           ("/openapi.json", None)):
            status, said, found = strict.ask(path, body, headers=headers)
            assert (status, said["error"]["code"]) == (401, "key_not_valid")
            assert found["www-authenticate"] == "Bearer"
    assert strict.ask(f"/v1/models?api_key={KEY}", headers={})[0] == 401
    for headers in (AUTHORIZED, {"x-api-key": KEY}, {"authorization": "bearer " + "old" * 10}):
        assert strict.predict("a", headers=headers)[0] == 200
    for path in ("/", "/docs", "/pages/playground.js", "/health/ready"):
        assert strict.ask(path, headers={})[0] == 200
    assert KEY not in strict.log.read_text()


def test_recent_answers_are_kept_and_only_so_many(kept):
    def answer(*rows: str) -> tuple[list[dict], int]:
        _, said, _ = kept.predict(list(rows))
        return said["predictions"], said["usage"]["n_tokens"]

    first, n_tokens = answer("a b", "c d")
    assert n_tokens > 0
    assert answer("c d", "a b") == (first[::-1], 0)  # no token is read again
    assert kept.metric("headstart_cache_hits_total") == 2
    again, n_of_one = answer("e", "a b")  # "e" has the place of "c d", which nobody asked for as recently
    assert (again[1], 0 < n_of_one < n_tokens) == (first[0], True)
    assert answer("c d")[1] > 0


def test_only_the_pages_that_are_named_may_call(kept):
    def preflight(origin: str) -> dict[str, str]:
        asks = {"method": "POST", "headers": "content-type"}
        return kept.ask("/v1/predict", method="OPTIONS", headers={"origin": origin, **{
            f"access-control-request-{what}": value for what, value in asks.items()}})[2]

    assert preflight(ORIGIN)["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-origin" not in preflight("https://elsewhere.example")
    _, _, headers = kept.predict("a", headers={"origin": ORIGIN})
    assert headers["access-control-allow-origin"] == ORIGIN
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "access-control-allow-origin" not in kept.predict("a", headers={"origin": ORIGIN + ".evil.example"})[2]


def big(n: int = 10_000) -> bytes:
    """Seconds of work: more rows, or longer ones, are not read."""
    return json.dumps({"rows": texts(n, 60)}).encode()


def test_a_full_queue_and_the_deadline(strict):
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(strict.ask, "/v1/predict", big())
        wait_for(strict.is_busy)
        status, said, headers = strict.predict("a")
        assert (status, said["error"]["code"]) == (429, "queue_full")
        assert 1 <= int(headers["retry-after"]) <= 30
        assert strict.ask("/health/ready")[0] == 200
        status, said, _ = late.result()
        assert (status, said["error"]["code"]) == (504, "too_late")
    assert strict.predict("a")[0] == 200


def test_a_client_that_goes_away_frees_its_place(exported, tmp_path):
    options = ("--queue-requests", "1", "--deadline-s", "60", "--body-bytes", "20000000", "--request-tokens", "9999999",
               "--queue-tokens", "10000000")
    body = big()
    with Server(tmp_path / "log", [exported], *options) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(HEAD + b"x-request-id: gone\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            wait_for(server.is_busy)
        said = wait_for(lambda: [one for one in server.events("request") if one["id"] == "gone"])
        assert said[0]["status"] == 499
        assert server.predict("a")[0] == 200


def test_nothing_of_a_text_is_logged(server, strict, run, exported):
    for one, model in ((server, run), (strict, exported)):
        for _ in range(6):
            assert one.predict([f"{SECRET} is here"], model.name)[0] == 200
        assert len(one.events("request")) > 5
        assert "Zanzibar" not in one.log.read_text()
        assert "Traceback" not in one.log.read_text()
        assert not one.events("internal error")


def test_a_log_that_nobody_reads_ends_no_request(exported):
    process = subprocess.Popen([sys.executable, "-m", "headstart", "serve", str(exported), "--port", "0"],
                               stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    url = json.loads(next(line for line in process.stderr if '"serving"' in line))["url"]
    process.stderr.close()
    try:
        for _ in range(5):
            asked = urllib.request.Request(f"{url}/v1/predict", b'{"rows": "a"}', {"content-type": "application/json"})
            assert urllib.request.urlopen(asked, timeout=30).status == 200
    finally:
        process.terminate()
    assert process.wait(40) == 0


def test_sigterm_finishes_what_is_in_flight(exported, tmp_path):
    options = ("--drain-s", "0.5", "--body-bytes", "20000000", "--request-tokens", "10000000", "--queue-tokens",
               "10000000")
    with Server(tmp_path / "log", [exported], *options) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.ask, "/v1/predict", big(2_000))
        wait_for(server.is_busy)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.ask("/health/ready")[0] == 503)
        status, _, headers = server.predict("still answered")
        assert (status, headers["connection"]) == (200, "close")
        status, said, _ = answer.result()
        assert (status, len(said["predictions"])) == (200, 2_000)
        assert server.process.wait(30) == 0


def replaced(live: Path, source: Path, damage: bool = False, **scores: float) -> None:
    """Put a copy of `source` with other `scores` in the place of `live`, as `headstart fit --overwrite` does."""
    new = live.with_name("new")
    shutil.copytree(source, new)
    known = json.loads((new / "scores.json").read_text("utf-8"))
    (new / "scores.json").write_text(json.dumps({**known, **scores}), "utf-8")
    manifest.seal(new)
    if damage:
        (new / "model.onnx").write_bytes((new / "model.onnx").read_bytes()[:-100] + b"rubbish")
    sealed.exchange(new, live)
    shutil.rmtree(new)


def test_a_new_artifact_is_swapped_in_without_a_failed_request(exported, tmp_path):
    live = tmp_path / "live"
    shutil.copytree(exported, live)
    with Server(tmp_path / "log", [live], "--watch-s", "0.1") as server:
        said: list[tuple[int, str]] = []
        over = threading.Event()

        def load() -> None:
            while not over.is_set():
                status, answer, _ = server.predict(texts(3))
                said.append((status, answer.get("version", "")))

        clients = [threading.Thread(target=load) for _ in range(3)]
        for client in clients:
            client.start()
        first = wait_for(lambda: said)[0][1]
        replaced(live, exported, score=0.25)
        wait_for(lambda: server.events("artifact swapped"))
        second = server.predict("a")[1]["version"]
        assert server.ask("/v1/models")[1]["data"][0]["score"] == 0.25
        replaced(live, exported, damage=True)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.events("artifact refused"))
        shutil.rmtree(live)
        n = len(said)
        wait_for(lambda: len(said) > n + 10)
        over.set()
        for client in clients:
            client.join()
        assert {status for status, _ in said} == {200}
        assert {version for _, version in said} == {first, second}
        assert said[-1][1] == second != first
        assert server.metric("headstart_reloads_total", outcome="refused") >= 1


@pytest.mark.parametrize("kind", [pytest.param("run", marks=pytest.mark.slow), "exported"])
def test_rubbish_written_over_a_served_artifact_changes_nothing(kind, request, tmp_path):
    live = tmp_path / "live"
    shutil.copytree(request.getfixturevalue(kind), live)
    with Server(tmp_path / "log", [live], "--watch-s", "0.1") as server:
        before = server.predict(texts(20))[1]["predictions"]
        for path in live.iterdir():
            if path.is_file():
                path.write_bytes(b"rubbish")
        wait_for(lambda: server.events("artifact refused"))
        assert server.predict(texts(20))[1]["predictions"] == before


def test_an_exported_run_is_served_without_torch(strict, exported):
    rows = [row["text"] for row in texts(20)]
    assert is_close(strict.predict(rows)[1]["predictions"], artifact.load(exported).predict(rows), 1e-4)
    loaded = Path(f"/proc/{strict.process.pid}/maps").read_text()
    assert "onnxruntime" in loaded
    assert "torch" not in loaded


def test_workers_share_the_port_and_are_started_again(exported, tmp_path):
    with Server(tmp_path / "log", [exported], "--workers", "2", "--watch-s", "0") as server:
        wait_for(lambda: len(server.events("serving")) == 2)
        pids = {one["pid"] for one in server.events("serving")}
        for _ in range(20):
            assert server.predict("a")[0] == 200
        assert server.metric("headstart_rows_total") == 20
        refused = subprocess.run([sys.executable, "-m", "headstart", "serve", str(exported), "--workers", "2", "--port",
                                  str(server.port)], capture_output=True, text=True, timeout=60, check=False)
        assert (refused.returncode, "cannot listen on 127.0.0.1: Address already in use" in refused.stderr) == (2, True)
        os.kill(min(pids), signal.SIGKILL)
        wait_for(lambda: len(server.events("serving")) == 3)
        assert [one["exit_code"] for one in server.events("worker died")] == [-signal.SIGKILL]
        for _ in range(20):
            assert server.predict("a")[0] == 200
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(server.events("artifact swapped")) == 2)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers listen with one socket")
def test_connections_are_shared_out_among_workers(exported, tmp_path):
    """Of 64 on one socket, one worker may take nearly all; drawn one by one, fewer than 10 for one is no chance."""
    def n_open(pid: int) -> int:
        return sum("socket:" in os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir())

    with Server(tmp_path / "log", [exported], "--workers", "2", "--watch-s", "0") as server, ExitStack() as stack:
        wait_for(lambda: len(server.events("serving")) == 2)
        pids = [one["pid"] for one in server.events("serving")]
        before = [n_open(pid) for pid in pids]
        for _ in range(64):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        wait_for(lambda: sum(map(n_open, pids)) >= sum(before) + 64)
        assert min(n_open(pid) - n for pid, n in zip(pids, before, strict=True)) >= 10


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_damaged_artifact_is_not_served(exported, tmp_path, workers):
    bad = tmp_path / "bad"
    shutil.copytree(exported, bad)
    (bad / "model.onnx").write_bytes(b"rubbish")
    ended = subprocess.run([sys.executable, "-m", "headstart", "serve", str(bad), "--port", "0", "--workers", workers],
                           capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "model.onnx is damaged" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_port_and_two_names_alike_are_said(run, server, tmp_path):
    for arguments, said in (([str(run), "--port", str(server.port)], "Choose another --port"),
                            ([str(run), str(run)], "Rename one")):
        ended = subprocess.run([sys.executable, "-m", "headstart", "serve", *arguments], capture_output=True, text=True,
                               timeout=60, check=False)
        assert (ended.returncode, said in ended.stderr) == (2, True)


# --------------------------------------------------------------------------------------------------------- the pages


def browse(server, path: str, tmp_path: Path) -> str:
    """The page as it stands after its scripts have run; what the console said is appended."""
    ended = subprocess.run([str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
                            "--disable-background-networking", "--enable-logging=stderr", "--v=0",
                            f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000", "--dump-dom",
                            f"http://127.0.0.1:{server.port}/{path}"], capture_output=True, text=True, timeout=60,
                           check=True)
    return ended.stdout + "".join(line for line in ended.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_the_playground_draws_each_kind_of_answer(server, tmp_path):
    shown = {
        "reviews": r'<tr class="chosen"><th scope="row" dir="auto">(positive|negative)</th>.*?--share: ',
        "token-classification": r'<p class="text"[^>]*>.*<mark class="hue0" title=".*%">',
        "question-answering": r'<p class="text"[^>]*>.*<mark class="hue0"|does not answer this',
        "multiple-choice": r'<tr class="chosen"><th scope="row" dir="auto">It is (broken|kind)\.',
        "relation-extraction": r'<mark class="hue0"[^>]*>loud music<b>head</b></mark> broke the <mark class="hue1"',
        "text-regression": r'<div class="scale"', "sentence-similarity": r'<div class="scale"',
        "multi-label-classification": r'<th scope="row" dir="auto">(food|room)</th>'}
    assert len(shown) >= 8
    with ThreadPoolExecutor(2) as pool:
        pages = list(pool.map(lambda name: browse(server, f"#{name}", tmp_path / name), shown))
    for (name, pattern), page in zip(shown.items(), pages, strict=True):
        assert f'<h1 id="title">{name}</h1>' in page
        assert re.search(pattern, page, re.DOTALL), (name, page[-3000:])
        assert "CONSOLE" not in page, page[-500:]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_the_api_page_shows_every_route(server, tmp_path):
    page = browse(server, "docs", tmp_path)
    for path in ("/v1/predict", "/v1/embeddings", "/v1/models", "/health/ready", "/metrics"):
        assert f"<code>{path}</code>" in page
    assert "Two hours that I will never get back." in page
    assert "Which model; may be left out where only one is served" in page
    assert "CONSOLE" not in page, page[-500:]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_markup_in_names_and_labels_stays_text(server, tmp_path):
    page = browse(server, f"#{urllib.parse.quote(EVIL_NAME)}", tmp_path)
    assert "&lt;b&gt;bad&lt;/b&gt;</th>" in page
    assert "&lt;img src=x" in page
    assert "<img" not in page
    assert "<title>&lt;i&gt;evil: headstart</title>" in page
