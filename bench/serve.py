"""requests a second over HTTP, and how long each waits

`headstart serve` on an exported `minilm-l6` text classifier; the load is a closed loop of wrk's (Debian package wrk)
from the same machine: so many clients on connections that stay open, one short SST-2 text (five to nine words) a
request, each sends the next as soon as it has its answer. In process: the same artifact and texts without HTTP, all in
one call and one text a call. All of it takes turns in one run, since this machine's speed drifts. wrk's own work is in
the server's figures.

The classifier is fitted to 500 rows with a linear probe: what it says is of no interest here, its speed is that of any.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench import DATA, ROOT, Cell, Run, markdown, met, read_jsonl, write_jsonl

N_ROUNDS = 3
N_WORDS = range(5, 10)  # of a text
CLIENTS = (1, 4, 16, 64)
DEMANDED_CLIENTS, DEMANDED_SHARE = 16, 0.85  # of the bulk figure
FOLDER = ROOT / "runs" / "bench-serve"
SCRIPT = """
local bodies, at = {}, 0
for line in io.lines("%s") do bodies[#bodies + 1] = wrk.format("POST", "/v1/predict",
  {["content-type"] = "application/json"}, line) end
request = function() at = at %% #bodies + 1; return bodies[at] end
done = function(summary, latency, requests)
  print(string.format('{"n": %%d, "us": %%d, "bad": %%d, "p50_us": %%d, "p99_us": %%d, "max_us": %%d}',
    summary.requests, summary.duration, summary.errors.status + summary.errors.connect + summary.errors.read
    + summary.errors.write + summary.errors.timeout, latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def cells(quick: bool) -> list[Cell]:
    return [{"name": "closed", "repeat": i, "clients": list((1, 16) if quick else CLIENTS),
             "seconds": 3 if quick else 15, "n_texts": 500 if quick else 3000} for i in range(1 if quick else N_ROUNDS)]


def measure(name: str, repeat: int, clients: list[int], seconds: int, n_texts: int) -> dict[str, Any]:
    if shutil.which("wrk") is None:
        raise SystemExit("bench serve: needs wrk: apt-get install wrk")
    folder = classifier()
    all_texts = (row["text"] for row in itertools.islice(read_jsonl(DATA / "sst2" / "train.jsonl"), 600, None))
    texts = list(itertools.islice((text for text in all_texts if len(text.split()) in N_WORDS), n_texts))
    found: dict[str, Any] = {"in_process": in_process(folder, texts), "http": {}}
    with tempfile.TemporaryDirectory() as temporary, server(folder, Path(temporary) / "log") as (url, process):
        bodies, script = Path(temporary) / "bodies", Path(temporary) / "script.lua"
        bodies.write_text("".join(json.dumps({"rows": text}) + "\n" for text in texts), "utf-8")
        script.write_text(SCRIPT % bodies, "utf-8")
        wrk(url, script, max(clients), 2)  # not counted
        for n in clients if repeat % 2 == 0 else clients[::-1]:
            found["http"][str(n)] = wrk(url, script, n, seconds)
        found["rss_mb"] = _rss_mb(process.pid)
    return found


def classifier() -> Path:
    """An exported text classifier; made when it is not there."""
    out = FOLDER.with_name(FOLDER.name + "-onnx")
    if not out.exists():
        import headstart
        from headstart import exporting

        with tempfile.TemporaryDirectory() as folder:
            rows = itertools.islice(read_jsonl(DATA / "sst2" / "train.jsonl"), 500)
            headstart.fit({"data": write_jsonl(Path(folder), train=rows), "method": "linear-probe"}, out=FOLDER,
                          overwrite=True)
            exporting.export(FOLDER, out=out)
    return out


def in_process(folder: Path, texts: list[str]) -> dict[str, float]:
    """Texts a second of one call with all of them and of a call for each; median seconds of the latter."""
    from headstart import artifact

    loaded = artifact.load(folder)
    loaded.predict(texts[:200])
    began = time.perf_counter()
    loaded.predict(texts)
    bulk_s = time.perf_counter() - began
    each_s = []
    for text in texts[:500]:
        began = time.perf_counter()
        loaded.predict([text])
        each_s.append(time.perf_counter() - began)
    return {"bulk_per_s": len(texts) / bulk_s, "single_per_s": len(each_s) / sum(each_s),
            "single_p50_ms": 1000 * median(each_s)}


@contextmanager
def server(folder: Path, log: Path) -> Any:
    """(address, process) of a server with its defaults."""
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "headstart", "serve", str(folder), "--port", "0"], cwd=ROOT,
                                   stderr=file)
    try:
        while '"serving"' not in log.read_text():
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.05)
        yield json.loads(log.read_text().splitlines()[0])["url"], process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wrk(url: str, script: Path, clients: int, seconds: int) -> dict[str, float]:
    """One closed loop: answers a second, milliseconds."""
    out = subprocess.run(["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), url],
                         capture_output=True, text=True, check=True).stdout
    said = json.loads(out.splitlines()[-1])
    return {"per_s": 1e6 * said["n"] / said["us"], "bad": said["bad"],
            **{f"{name}_ms": said[f"{name}_us"] / 1000 for name in ("p50", "p99", "max")}}


def _rss_mb(pid: int) -> float:
    line = next(one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def table(runs: Sequence[Run]) -> str:
    def mid(*path: str) -> float:
        values = []
        for run in runs:
            value: Any = run.result
            for part in path:
                value = value[part]
            values.append(float(value))
        return median(values)

    clients = [n for n in map(str, CLIENTS) if all(n in run.result["http"] for run in runs)]
    share = median(run.result["http"][str(DEMANDED_CLIENTS)]["per_s"] / run.result["in_process"]["bulk_per_s"]
                   for run in runs)
    rows: list[list[object]] = [
        ["in process, all texts in one call", f"{mid('in_process', 'bulk_per_s'):,.0f}", "", "", ""],
        ["in process, one text a call", f"{mid('in_process', 'single_per_s'):,.0f}",
         f"{mid('in_process', 'single_p50_ms'):.1f}", "", ""]]
    rows += [[f"HTTP, {n} client{'s' if n != '1' else ''}", f"{mid('http', n, 'per_s'):,.0f}",
              f"{mid('http', n, 'p50_ms'):.1f}", f"{mid('http', n, 'p99_ms'):.1f}", f"{mid('http', n, 'bad'):.0f}"]
             for n in clients]
    return "\n\n".join([
        f"Medians of {len(runs)} rounds.",
        markdown(["load", "texts a second", "p50, ms", "p99, ms", "errors"], rows),
        f"{DEMANDED_CLIENTS} clients get {share:.0%} of the texts a second of one call in process (demanded: "
        f"{DEMANDED_SHARE:.0%}; met: {met(share >= DEMANDED_SHARE)}). Peak memory of the server "
        f"{mid('rss_mb'):,.0f} MB."])
