"""The server under clients that lie, dawdle, flood or leave: bytes over real sockets, one running server."""

from __future__ import annotations

import functools
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from served import Server, finished_run, wait_for

from headstart.core.manifest import seal
from headstart.exporters import export as exporting

BODY = b'{"rows": "a lovely room"}'
POST = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ASK = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
CLOSE = b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def exported(tmp_path_factory, run) -> Path:
    return exporting.export(run, out=tmp_path_factory.mktemp("exported") / "reviews-onnx").folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, exported):
    with Server(tmp_path_factory.mktemp("hostile") / "log", [exported], "--body-s", "1", "--write-s", "1",
                "--connections", "40") as running:
        yield running


def exchange(server, *pieces: bytes, half_closes: bool = False) -> bytes:
    """All that comes back until the server closes."""
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            if half_closes:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
    return answer


def parsed(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of the first answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, body[: int(headers.get("content-length", 0))]


def rss_mb(server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


REFUSED = {  # what is sent -> the status and the code that come back, in the one shape of errors
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "host_not_valid"),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400, "host_not_valid"),
    "a host that is none": (b"GET / HTTP/1.1\r\nHost: a b/c\r\n\r\n", 400, "host_not_valid"),
    "a foreign host": (b"GET / HTTP/1.1\r\nHost: evil.example:8000\r\n\r\n", 421, "host_not_allowed"),
    "a foreign host in the path": (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 421,
                                   "host_not_allowed"),
    "no path that is one": (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "http_not_valid"),
    "a large header": (GET + b"X: " + b"a" * 100_000 + b"\r\n\r\n", 431, "head_too_large"),
    "a header that does not end": (GET + b"X: " + b"a" * 45_000, 431, "head_too_large"),
    "a header just over the limit": (GET + b"X: " + b"a" * (1 << 15) + b"\r\n\r\n", 431, "head_too_large"),
    "5,000 headers": (GET + b"X: y\r\n" * 5000 + b"\r\n", 431, "head_too_large"),
    "only empty lines": (b"\r\n" * 50_000, 431, "head_too_large"),
    "a long path": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414, "path_too_long"),
    "length and encoding": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
                            "http_not_valid"),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, "http_not_valid"),
    "a list of lengths": (POST + b"Content-Length: 3, 3\r\n\r\nabc", 400, "http_not_valid"),
    "a negative length": (POST + b"Content-Length: -3\r\n\r\n", 400, "http_not_valid"),
    "a length beyond 64 bits": (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400, "http_not_valid"),
    "a huge length": (POST + b"Content-Length: 999999999999\r\n\r\n", 413, "too_many_bytes"),
    "another encoding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "transfer_encoding"),
    "an encoding of 1.0": (POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501,
                           "transfer_encoding"),
    "no hexadecimal chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, "http_not_valid"),
    "an extension without end": (POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 90_000, 413,
                                 "too_many_bytes"),
    "extensions": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + (b"1;" + b"a" * 500 + b"\r\na\r\n") * 1000, 413,
                   "too_many_bytes"),
    "a trailer without end": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 100_000, 413,
                              "too_many_bytes"),
    "trailers": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 20_000, 413, "too_many_bytes"),
    "a folded header": (GET + b"X: a\r\n b\r\n\r\n", 400, "http_not_valid"),
    "a space before the colon": (GET + b"X : a\r\n\r\n", 400, "http_not_valid"),
    "a null in a header": (GET + b"X: \0\r\n\r\n", 400, "http_not_valid"),
    "lines without CR": (GET.replace(b"\r", b"") + b"\n", 400, "http_not_valid"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "http_not_valid"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "http_not_valid"),
    "HTTP/3": (b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", 400, "http_not_valid"),
    "a tunnel": (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501, "method_not_known"),
    "another expectation": (POST + b"Expect: cake\r\nContent-Length: 3\r\n\r\n", 417, "expectation"),
    "a packed body": (POST + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", 415, "packed"),
    "a head that dawdles": (GET, 408, "head_too_slow"),
    "a body that dawdles": (POST + b"Content-Length: 30\r\n\r\nabc", 408, "body_too_slow"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_the_rules_is_refused_in_the_one_shape(server, name):
    request, status, code = REFUSED[name]
    came, headers, body = parsed(exchange(server, request))
    error = json.loads(body)["error"]
    assert (came, error["code"]) == (status, code)
    assert set(error) == {"code", "message", "param", "request_id"}
    assert headers["x-request-id"] == error["request_id"]
    assert headers["connection"] == "close"
    assert wait_for(lambda: [e for e in server.events("request") if e["id"] == error["request_id"]])
    assert server.ask("/health/live")[0] == 200


JSONS = [b"\xef\xbb\xbf" + BODY, BODY.decode().encode("utf-16"), b'{"rows": "a", "rows": "b"}', b'{"rows": [NaN]}',
         b'{"rows": {"text": "a", "x": Infinity}}', b'{"rows": {"text": "a", "text": "b"}}', b'{"rows": "\\uD800"}',
         b'{"rows": "\xff"}', b'{"rows": "\xed\xa0\x80"}', b'{"rows": ' + b"9" * 5000 + b"}", b"[" * 70 + b"]" * 70]


@pytest.mark.parametrize("body", JSONS)
def test_json_that_readers_differ_about_is_refused(server, body):
    status, answer, _ = server.ask("/v1/predict", body)
    assert (status, answer["error"]["code"]) == (400, "json_not_valid")


def test_a_column_that_is_not_known_is_refused(server):
    status, answer, _ = server.predict([{"text": "a", "txet_pair": "b"}])
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (422, "row_not_valid", "rows[0]")
    assert server.predict([{"text": "a", "label": "positive"}])[0] == 200  # the gold of a labelled file is not read


def test_a_pair_of_surrogates_is_one_character(server):
    assert server.ask("/v1/predict", b'{"rows": "\\ud83d\\ude00 a"}')[0] == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/metrics",
                                  "/v1/models", "/pages/style.css"])
def test_head_is_get_without_a_body(server, path):
    status, headers, _ = parsed(exchange(server, b"GET %b HTTP/1.1\r\nHost: localhost\r\n" % path.encode() + CLOSE))
    answer = exchange(server, b"HEAD %b HTTP/1.1\r\nHost: localhost\r\n" % path.encode() + CLOSE)
    assert (parsed(answer)[0], status) == (200, 200)
    assert answer.endswith(b"\r\n\r\n")
    if path != "/metrics":
        assert parsed(answer)[1]["content-length"] == headers["content-length"]


@pytest.mark.parametrize(("method", "path", "allowed"), [
    ("OPTIONS", "/v1/predict", "POST"), ("GET", "/v1/predict", "POST"), ("DELETE", "/v1/models", "GET, HEAD"),
    ("OPTIONS", "/health/live", "GET, HEAD")])
def test_another_method_hears_which_are_allowed(server, method, path, allowed):
    status, answer, headers = server.ask(path, method=method)
    assert (status, answer["error"]["code"], headers["allow"]) == (405, "method_not_allowed", allowed)


@pytest.mark.parametrize("path", ["/v1/models/", "/docs/", "/pages", "//evil.example/", "/health/live/"])
def test_nothing_redirects(server, path):
    status, headers, _ = parsed(exchange(server, b"GET %b HTTP/1.1\r\nHost: localhost\r\n" % path.encode() + CLOSE))
    assert status == 404
    assert "location" not in headers


def test_an_offer_to_upgrade_is_answered_as_http_1(server):
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    asked = POST + offer + b"Content-Length: %d\r\n\r\n" % len(BODY)
    answer = exchange(server, asked, BODY, GET + CLOSE)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert b'"predictions"' in answer
    assert exchange(server, asked + BODY + GET + CLOSE).count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_that_offers_http_2(server):
    url = f"http://127.0.0.1:{server.port}/v1/predict"
    answer = subprocess.run(["curl", "-sS", "--http2", "-m", "10", url, "-H", "content-type: application/json", "-d",
                             BODY.decode()], capture_output=True, check=True).stdout
    assert json.loads(answer)["predictions"]


def test_requests_that_come_at_once_are_answered_in_order(server):
    asked = [(b"HEAD" if i % 3 else b"GET") + GET[3:] + b"X-Request-Id: n-%d\r\n\r\n" % i for i in range(500)]
    answer = exchange(server, b"".join(asked), ASK, GET + CLOSE)
    ids = [int(part.split(b"\r\n")[0]) for part in answer.split(b"x-request-id: n-")[1:]]
    assert ids == list(range(500))
    assert b'"predictions"' in answer


def test_a_client_that_sends_no_more_gets_its_answers(server):
    answer = exchange(server, ASK + GET + b"\r\n", half_closes=True)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert exchange(server, POST + b"Content-Length: 30\r\n\r\nabc", half_closes=True) == b""


def test_continue_is_said_only_when_the_body_is_wanted(server):
    expect = b"Expect: 100-continue\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(POST + expect + b"Content-Length: %d\r\n\r\n" % len(BODY))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
    assert exchange(server, POST + expect + b"Content-Length: 99999999\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_an_id_of_128_characters_is_taken_and_another_is_not(server):
    for sent, taken in (("a" * 128, True), ("a" * 129, False), ("a b", False), ("", False)):
        assert (server.ask("/health/live", headers={"x-request-id": sent})[2]["x-request-id"] == sent) is taken


def test_bytes_behind_a_request_are_not_held(server):
    before = rss_mb(server)
    for head in (GET + b"Content-Length: 400000000\r\n\r\n", GET + CLOSE, b"BAD\r\n\r\n",
                 POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"):
        exchange(server, head, *[b"x: y\r\n" * 10_000] * 500)
    assert rss_mb(server) < before + 20


def test_a_connection_too_many_is_told_so(server):
    wait_for(lambda: server.ask("/health/live")[0] == 200)
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(40)]
    status, headers, body = parsed(exchange(server, GET + CLOSE))
    assert (status, json.loads(body)["error"]["code"], headers["retry-after"]) == (503, "too_many_connections", "1")
    for client in clients:
        client.close()
    assert wait_for(lambda: server.ask("/health/live")[0] == 200)


@pytest.mark.slow
def test_answers_that_nobody_reads_are_bounded_and_given_up(backbone, tmp_path):
    """Long labels make answers of 6 MB, of which the system itself holds some four for each connection."""
    run = finished_run(tmp_path / "run", backbone, "text-classification",
                       [{"text": "a", "label": letter * 20_000} for letter in "ab"])
    rows = json.dumps({"rows": ["a"] * 100}).encode()
    ask = POST + b"Content-Length: %d\r\n\r\n" % len(rows) + rows
    with Server(tmp_path / "log", [run], "--write-s", "3", "--unread-bytes", "9000000", "--answer-bytes", "13000000",
                "--deadline-s", "60") as server:
        assert server.ask("/v1/predict", {"rows": ["a"] * 400})[1]["error"]["code"] == "answer_too_large"
        clients = []
        for _ in range(6):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.sendall(ask)
            clients.append(client)

        def statuses() -> list[int]:
            return [event["status"] for event in server.events("request") if event["n_rows"] == 100]

        wait_for(lambda: len(statuses()) == 6, 60)
        assert set(statuses()) == {200, 503}
        open_files = Path(f"/proc/{server.process.pid}/fd")
        wait_for(lambda: sum("socket:" in os.readlink(file) for file in open_files.iterdir()) < 6)
        for client in clients:
            client.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_resets_no_request(exported, tmp_path, workers):
    """Thirty clients, half of them on connections that stay open: each request is answered, or was never taken."""
    broken: list[str] = []
    n_answers = 0

    def ask(port: int, keeps: bool) -> None:
        nonlocal n_answers
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        while True:
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                return
            try:
                connection.request("POST", "/v1/predict", BODY, {"content-type": "application/json"} | (
                    {} if keeps else {"connection": "close"}))
                assert connection.getresponse().read().startswith(b'{"model"')
                n_answers += 1
            except (OSError, http.client.HTTPException, AssertionError) as error:
                broken.append(repr(error))
                return

    with Server(tmp_path / "log", [exported], "--workers", workers) as server:
        wait_for(lambda: len(server.events("serving")) == int(workers))
        clients = [threading.Thread(target=ask, args=(server.port, i % 2 == 0)) for i in range(30)]
        for client in clients:
            client.start()
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join()
        assert server.process.wait(40) == 0
    assert (broken, n_answers > 30) == ([], True)


def test_a_panic_of_the_tokenizer_fails_one_request_and_refuses_a_new_artifact(exported, tmp_path):
    """The pattern backtracks without end over Greek letters, which nothing that tries it holds."""
    live, panicking = tmp_path / "live", tmp_path / "panicking"
    for folder in (live, panicking):
        shutil.copytree(exported, folder)
        tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        pattern = {"type": "Split", "pattern": {"Regex": r"(\p{Greek}+)+\p{Han}"}, "behavior": "Isolated",
                   "invert": False}
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [pattern, tokenizer["pre_tokenizer"]]}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
        (folder / "MANIFEST.json").unlink()
    lines = (panicking / "golden.jsonl").read_text("utf-8").splitlines()
    entry = json.loads(lines[0])
    entry["row"]["text"] = "Ω" * 40
    (panicking / "golden.jsonl").write_text("\n".join([json.dumps(entry), *lines[1:]]) + "\n", "utf-8")
    seal(live)
    seal(panicking)
    with Server(tmp_path / "log", [live], "--watch-s", "0.1") as server:
        before = server.predict("a lovely room")[1]["predictions"]
        status, answer, _ = server.predict("Ω" * 40)
        assert (status, answer["error"]["code"]) == (500, "internal")
        assert server.predict("a lovely room")[1]["predictions"] == before
        for folder, event in ((panicking, "artifact refused"), (exported, "artifact swapped")):
            live.rename(tmp_path / f"before {event}")
            shutil.copytree(folder, live)
            wait_for(functools.partial(server.events, event))
            assert server.predict("a lovely room")[1]["predictions"] == before
