"""requests a second over HTTP, and how long each waits

`headstart serve` on an exported `minilm-l6` text classifier; the load is a closed loop of wrk's (Debian package wrk)
from the same machine: so many clients on connections that stay open, one short SST-2 text (five to nine words) a
request, each sends the next as soon as it has its answer. In process: the same artifact and texts without HTTP, all in
one call, 16 texts a call, 16 cut into calls as the server cuts them, and one. All of it takes turns in one run, since
this machine's speed drifts. wrk's own work is in the server's figures. "uvicorn alone" reads the same requests and
answers all of them with one constant.

Overload: an open loop, as far as clients that wait can make one. Each of some 1,000 connections waits 0 to 4.4 s (as if
a person read the answer) before it sends its next request, so that together they send 1.2 times what 64 clients got
just before, however slow the answers are. A closed loop of 16 clients before it, and two at once after it, show
whether the server comes back. Memory: closed loops of 16 clients with texts of all lengths, the server's resident
memory after each.

The classifier is fitted to 500 rows with a linear probe: what it says is of no interest here, its speed is that of any.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median
from typing import TYPE_CHECKING, Any

from bench import DATA, ROOT, Cell, Run, markdown, met, of, read_jsonl, write_jsonl

if TYPE_CHECKING:
    from headstart.core.values import Prediction, Row
    from headstart.runs.artifact import Artifact

N_ROUNDS = 3
N_WORDS = range(5, 10)  # of a text
CLIENTS = (1, 4, 16, 64)
WORKERS = (1, 2)
DEMANDED_CLIENTS, DEMANDED_SHARE = 16, 0.85  # of the bulk figure
FOLDER = ROOT / "runs" / "bench-serve"
OVERLOAD, MAX_WAIT_S, USUAL_ANSWER_S = 1.2, 4.4, 0.7
RECOVERED, GROWN_KB = 0.9, 100.0  # of the speed before; of memory, a thousand requests
SCRIPT = """
local bodies, at = {}, 0
for line in io.lines("%s") do bodies[#bodies + 1] = wrk.format("POST", "/v1/predict",
  {["content-type"] = "application/json"}, line) end
request = function() at = at %% #bodies + 1; return bodies[at] end
local max_wait_ms = %d
if max_wait_ms > 0 then delay = function() return math.random(0, max_wait_ms) end end
done = function(summary, latency, requests)
  local said = string.format('"n": %%d, "us": %%d, "max_us": %%d', summary.requests, summary.duration, latency.max)
  for name, n in pairs(summary.errors) do said = said .. string.format(', "%%s": %%d', name, n) end
  for _, p in ipairs({50, 99, 99.5}) do
    said = said .. string.format(', "p%%g_us": %%d', p, latency:percentile(p)) end
  print("{" .. said .. "}")
end
"""
BARE = """
import json, socket, sys, uvicorn
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [
        (b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]})
    await send({"type": "http.response.body", "body": BODY})
BODY = json.dumps({"model": "m", "version": "v" * 12, "predictions": [{"label": "a", "scores": {"a": 0.5, "b": 0.5}}],
                   "usage": {"n_rows": 1, "n_tokens": 10, "n_cut_tokens": 0}}).encode()
listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
print(json.dumps({"event": "serving", "url": "http://127.0.0.1:%d" % listener.getsockname()[1]}), file=sys.stderr)
uvicorn.Server(uvicorn.Config(app, loop="uvloop", http="httptools", ws="none", lifespan="off", log_level="warning",
                              access_log=False)).run([listener])
"""


def cells(quick: bool) -> list[Cell]:
    n_texts, n = (500, 1) if quick else (3000, N_ROUNDS)
    rounds = [{"name": "closed", "repeat": i, "n_texts": n_texts, "seconds": 3 if quick else 8,
               "clients": list((1, 16) if quick else CLIENTS)} for i in range(n)]
    return [*rounds, {"name": "overload", "seconds": 5 if quick else 120, "n_texts": n_texts},
            {"name": "memory", "n_requests": 1000 if quick else 20_000, "n_texts": n_texts}]


def measure(name: str, **cell: Any) -> dict[str, Any]:
    if shutil.which("wrk") is None:
        raise SystemExit("bench serve: needs wrk: apt-get install wrk")
    measures: dict[str, Callable[..., dict[str, Any]]] = {"closed": closed, "overload": overload, "memory": memory}
    return measures[name](**cell)


def texts_of(n: int, n_words: range = N_WORDS) -> list[str]:
    """SST-2's train texts of so many words that the classifier was not fitted to."""
    all_texts = (row["text"] for row in itertools.islice(read_jsonl(DATA / "sst2" / "train.jsonl"), 600, None))
    return list(itertools.islice((text for text in all_texts if len(text.split()) in n_words), n))


def closed(repeat: int, clients: list[int], seconds: int, n_texts: int) -> dict[str, Any]:
    """Texts a second in process and by numbers of clients."""
    texts = texts_of(n_texts)
    found: dict[str, Any] = {"in_process": in_process(classifier(), texts), "http": {}}
    for workers in WORKERS if repeat % 2 == 0 else WORKERS[::-1]:
        with server(headstart_serve("--workers", str(workers)), texts) as one:
            found["http"][str(workers)] = {str(n): one.wrk(n, seconds) for n in clients}
            if workers == 1:  # of more it would be the parent's, which loads no model
                found["rss_mb"] = one.memory_kb("VmHWM") / 1024
    with server(["-c", BARE], texts) as one:
        found["bare"] = one.wrk(DEMANDED_CLIENTS, seconds)
    return found


def headstart_serve(*options: str) -> list[str]:
    """Python's arguments for a server of the classifier."""
    return ["-m", "headstart", "serve", str(classifier()), "--port", "0", *options]


def overload(seconds: int, n_texts: int) -> dict[str, Any]:
    """More than it can answer, for a while: what is refused, how long the others wait, and how it is after."""
    with server(headstart_serve(), texts_of(n_texts)) as one:
        before = one.wrk(16, 5)
        capacity = one.wrk(64, 10)["per_s"]
        counted = one.statuses()
        n_connections = round(OVERLOAD * capacity * (MAX_WAIT_S / 2 + USUAL_ANSWER_S))
        said = one.wrk(n_connections, seconds, MAX_WAIT_S)
        statuses = {status: n - counted.get(status, 0) for status, n in one.statuses().items()}
        at_once, after = one.wrk(16, 5), one.wrk(16, 5)
    return {"capacity_per_s": capacity, "n_connections": n_connections, "offered_per_s": said["per_s"], "said": said,
            "statuses": statuses, "before_per_s": before["per_s"], "at_once_per_s": at_once["per_s"],
            "after_per_s": after["per_s"]}


def memory(n_requests: int, n_texts: int) -> dict[str, Any]:
    """Resident memory by requests answered."""
    n, points = 0, []
    with server(headstart_serve(), texts_of(n_texts, range(1, 100))) as one:
        while n < n_requests:
            n += int(one.wrk(16, 2)["n"])
            points.append((n, one.memory_kb("VmRSS")))
    return {"points": points}


def classifier() -> Path:
    """An exported text classifier; made when it is not there."""
    out = FOLDER.with_name(FOLDER.name + "-onnx")
    if not out.exists():
        import headstart
        from headstart.exporters import export as exporting

        with tempfile.TemporaryDirectory() as folder:
            rows = itertools.islice(read_jsonl(DATA / "sst2" / "train.jsonl"), 500)
            headstart.fit({"data": write_jsonl(Path(folder), train=rows), "method": "linear-probe"}, out=FOLDER,
                          overwrite=True)
            exporting.export(FOLDER, out=out)
    return out


def in_process(folder: Path, texts: list[str]) -> dict[str, float]:
    """Texts a second of one call with all of them, of a call for as many as clients ask at once, of a call for each.

    "cut" is what a server could at most reach whose clients are answered together.
    """
    from headstart.runs import artifact

    loaded = artifact.load(folder)
    loaded.predict(texts[:200])
    began, busy = time.perf_counter(), time.process_time()
    loaded.predict(texts)
    bulk_s, bulk_cpu_s = time.perf_counter() - began, time.process_time() - busy
    few = [texts[at : at + DEMANDED_CLIENTS] for at in range(0, len(texts), DEMANDED_CLIENTS)]
    began = time.perf_counter()
    for some in few:
        loaded.predict(some)
    few_s = time.perf_counter() - began
    began = time.perf_counter()
    for some in few:
        answer_cut(loaded, some)
    cut_s, each_s = time.perf_counter() - began, []
    for text in texts[:500]:
        began = time.perf_counter()
        loaded.predict([text])
        each_s.append(time.perf_counter() - began)
    return {"bulk_per_s": len(texts) / bulk_s, "few_per_s": len(texts) / few_s,
            "cut_per_s": len(texts) / cut_s, "bulk_cpu_ms": 1000 * bulk_cpu_s / len(texts),
            "single_per_s": len(each_s) / sum(each_s), "single_p50_ms": 1000 * median(each_s)}


def answer_cut(loaded: Artifact, texts: list[str]) -> list[Prediction]:
    """Answers to a few texts, cut into calls of the runtime as the server cuts them."""
    from headstart.core.predict import decode
    from headstart.serve.batching import run_few

    rows: list[Row] = [{"text": text} for text in texts]
    windows = [w for i, row in enumerate(rows) for w in loaded.task.encode(i, row, loaded.reader)]
    return list(decode(loaded.task, rows, windows, run_few(windows, loaded.reader, loaded.runtime)))


@dataclass
class Served:
    """A server that runs, and the load for it."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path

    def wrk(self, clients: int, seconds: int, max_wait_s: float = 0) -> dict[str, float]:
        """One loop: answers a second, of any status; milliseconds; broken connections."""
        script = self.folder / "script.lua"
        script.write_text(SCRIPT % (self.folder / "bodies", 1000 * max_wait_s), "utf-8")
        busy, wrk_busy = self.cpu_s(), resource.getrusage(resource.RUSAGE_CHILDREN)
        out = subprocess.run(["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script),
                              self.url], capture_output=True, text=True, check=True).stdout
        said = json.loads(out.splitlines()[-1])
        busy = self.cpu_s() - busy
        wrk_s = sum(b - a for a, b in zip(wrk_busy[:2], resource.getrusage(resource.RUSAGE_CHILDREN)[:2], strict=True))
        broken = sum(said[kind] for kind in ("connect", "read", "write", "timeout"))
        return {"n": said["n"], "per_s": 1e6 * said["n"] / said["us"], "bad": broken + said["status"],
                "broken": broken, "cpu_ms": 1000 * busy / said["n"], "wrk_cpu_ms": 1000 * wrk_s / said["n"],
                **{f"{name[:-3]}_ms": us / 1000 for name, us in said.items() if name[-3:] == "_us"}}

    def statuses(self) -> dict[str, int]:
        """Answers so far, by status."""
        found: dict[str, int] = {}
        for line in urllib.request.urlopen(f"{self.url}/metrics").read().decode().splitlines():
            if line.startswith("headstart_requests_total{") and "/v1/predict" in line:
                status = line.partition('status="')[2].partition('"')[0]
                found[status] = found.get(status, 0) + round(float(line.rpartition(" ")[2]))
        return found

    def cpu_s(self) -> float:
        """Seconds of the processors' time that the server and its workers have taken."""
        def of_process(pid: str) -> float:
            ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") + sum(map(of_process, children))

        return of_process(str(self.process.pid))

    def memory_kb(self, field: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


@contextmanager
def server(arguments: Sequence[str], texts: Sequence[str]) -> Iterator[Served]:
    """The warm server that Python starts with these arguments, and requests for each of `texts`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "bodies").write_text("".join(json.dumps({"rows": text}) + "\n" for text in texts), "utf-8")
        log = folder / "log"
        with log.open("w") as file:
            process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stderr=file)
        try:
            while '"serving"' not in log.read_text():
                if process.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.05)
            one = Served(json.loads(log.read_text().splitlines()[0])["url"], process, folder)
            one.wrk(max(CLIENTS), 2)  # not counted
            yield one
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def table(runs: Sequence[Run]) -> str:
    found = {name: of(runs, name=name) for name in ("closed", "overload", "memory")}
    return "\n\n".join(part for name, some in found.items() if some
                       for part in {"closed": _closed, "overload": _overload, "memory": _memory}[name](some))


def _closed(runs: Sequence[Run]) -> list[str]:
    def mid(*path: str) -> float:
        values = []
        for run in runs:
            value: Any = run.result
            for part in path:
                value = value[part]
            values.append(float(value))
        return median(values)

    rows: list[list[object]] = [
        ["in process, all texts in one call", f"{mid('in_process', 'bulk_per_s'):,.0f}", "", "", ""],
        [f"in process, {DEMANDED_CLIENTS} texts a call", f"{mid('in_process', 'few_per_s'):,.0f}", "", "", ""],
        [f"in process, {DEMANDED_CLIENTS} texts cut into calls as the server does",
         f"{mid('in_process', 'cut_per_s'):,.0f}", "", "", ""],
        ["in process, one text a call", f"{mid('in_process', 'single_per_s'):,.0f}",
         f"{mid('in_process', 'single_p50_ms'):.1f}", "", ""]]
    shares = []
    for w in map(str, WORKERS):
        rows += [[f"HTTP, --workers {w}, {n} client{'s' if n != '1' else ''}", f"{mid('http', w, n, 'per_s'):,.0f}",
                  f"{mid('http', w, n, 'p50_ms'):.1f}", f"{mid('http', w, n, 'p99_ms'):.1f}",
                  f"{mid('http', w, n, 'bad'):.0f}"] for n in runs[0].result["http"][w]]
        share = median(run.result["http"][w][str(DEMANDED_CLIENTS)]["per_s"] / run.result["in_process"]["bulk_per_s"]
                       for run in runs)
        shares.append(f"{share:.0%} with --workers {w} (met: {met(share >= DEMANDED_SHARE)})")
    rows.append([f"HTTP, uvicorn alone, {DEMANDED_CLIENTS} clients", f"{mid('bare', 'per_s'):,.0f}",
                 f"{mid('bare', 'p50_ms'):.1f}", f"{mid('bare', 'p99_ms'):.1f}", f"{mid('bare', 'bad'):.0f}"])
    return [f"Medians of {len(runs)} rounds.",
            markdown(["load", "texts a second", "p50, ms", "p99, ms", "errors"], rows),
            f"{DEMANDED_CLIENTS} clients get, of the texts a second of one call in process (demanded: "
            f"{DEMANDED_SHARE:.0%}), {', '.join(shares)}. Peak memory of the server {mid('rss_mb'):,.0f} MB.",
            _spent(mid, runs[0].machine["n_cores"])]


def _spent(mid: Callable[..., float], n_cores: int) -> str:
    """Where a core's time goes, and how much of it the demanded share would leave."""
    few, bulk = str(DEMANDED_CLIENTS), mid("in_process", "bulk_per_s")
    spent = [(f"--workers {w}", mid("http", str(w), few, "cpu_ms"), mid("http", str(w), few, "wrk_cpu_ms"))
             for w in WORKERS] + [("uvicorn alone", mid("bare", "cpu_ms"), mid("bare", "wrk_cpu_ms"))]
    said = ", ".join(f"{name} {ours:.2f} (and wrk {wrk:.2f})" for name, ours, wrk in spent)
    return (f"Milliseconds of a core for one text: in bulk {mid('in_process', 'bulk_cpu_ms'):.2f}; with {few} clients "
            f"{said}. Of {n_cores} cores {DEMANDED_SHARE:.0%} of bulk has "
            f"{1000 * n_cores / (DEMANDED_SHARE * bulk):.2f}. Cut into calls as the server does, {few} texts without "
            f"HTTP get {mid('in_process', 'cut_per_s') / bulk:.0%} of bulk.")


def _overload(runs: Sequence[Run]) -> list[str]:
    said = runs[-1].result
    statuses = said["statuses"]  # 499: wrk hung up, at its end
    n, n_answered = sum(statuses.values()), statuses.get("200", 0)
    others = sum(n for status, n in statuses.items() if status not in ("200", "429", "499")) + said["said"]["broken"]
    # Refusals are the quickest answers: the slowest 1 % of those answered are among the slowest of all.
    top = next((p for p in (99, 99.5) if p >= 100 - n_answered / n), 99.5)
    at_once, back = (said[f"{when}_per_s"] / said["before_per_s"] for when in ("at_once", "after"))
    return [f"Overload for {runs[-1].cell['seconds']} s: {said['offered_per_s']:,.0f} requests a second on "
            f"{said['n_connections']:,} connections, {said['offered_per_s'] / said['capacity_per_s']:.0%} of the "
            f"{said['capacity_per_s']:,.0f} that it can answer. Answered {n_answered / n:.1%}, refused with 429 "
            f"{statuses.get('429', 0) / n:.1%}, anything else {others:,} (demanded: 0; met: {met(others == 0)}). 99 % "
            f"of the answered waited at most {said['said'][f'p{top:g}_ms']:,.0f} ms, all {said['said']['max_ms']:,.0f} "
            f"ms. In the five seconds after it 16 clients got {at_once:.0%} of what they got before, in the next five "
            f"{back:.0%} (demanded: full speed within five seconds, here {RECOVERED:.0%}; met: "
            f"{met(back >= RECOVERED)})."]


def _memory(runs: Sequence[Run]) -> list[str]:
    points = runs[-1].result["points"]
    late = [(n, kb) for n, kb in points if n >= points[-1][0] / 2]  # the arenas have grown to what batches need
    slope = 1000 * linear_regression(*zip(*late, strict=True)).slope if len(late) > 1 else float("nan")
    return [f"Memory: {points[0][1] / 1024:,.0f} MB after {points[0][0]:,} requests, {points[-1][1] / 1024:,.0f} MB "
            f"after {points[-1][0]:,}; over the second half it grows by {slope:+.1f} KB a thousand requests (at "
            f"most {GROWN_KB:g} is no growth; met: {met(slope <= GROWN_KB)})."]
