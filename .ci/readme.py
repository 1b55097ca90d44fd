"""Run the README's own commands, in its order, at a small size, in an empty folder. A command that fails fails CI."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMALL = "--set train.max_steps=3 --set evaluate.n_resamples=100"
SMALL_DEMO = "--set data.limit=80 --set data.validation_limit=20 --set data.test_limit=40"

sys.path.insert(0, str(ROOT / "tests"))


def commands(readme: str) -> list[str]:
    """The lines that begin with `headstart` or `echo` in the README's sh blocks, and its Python block as one."""
    lines = []
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", readme, re.DOTALL):
        if language == "python":
            lines.append(f"{sys.executable} - <<'PYTHON'\n{block}PYTHON")
        lines += [line.partition("  #")[0].strip() for line in block.splitlines()
                  if language == "sh" and line.startswith(("headstart", "echo"))]
    return lines


def small(command: str) -> str:
    """The same command on less."""
    if command.startswith("headstart pretrain"):
        return f"{command} {SMALL}"
    if not re.match(r"headstart fit \S+\.(csv|yaml)", command):
        return command
    return f"{command} {SMALL} {SMALL_DEMO if '.yaml' in command else ''}"


def serve(command: str, folder: Path, env: dict[str, str]) -> None:
    """Start the server, ask it the rows of the README's curl line, and end it as a supervisor would."""
    readme = (ROOT / "README.md").read_text("utf-8")
    (body,) = re.findall(r"^curl localhost:8000/v1/predict .* -d '(.*)'$", readme, re.MULTILINE)
    at = "http://localhost:8000"
    server = subprocess.Popen(command.split(), cwd=folder, env=env)
    try:
        for _ in range(120):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{at}/health/ready", timeout=5):
                break
            time.sleep(0.5)
        asked = urllib.request.Request(f"{at}/v1/predict", body.encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            print(answer.read().decode())
    finally:
        server.terminate()
    assert server.wait(30) == 0, server.returncode


def main() -> None:
    """Make the files that the README speaks of, then do as it says."""
    import tiny  # the tests' made-up reviews

    found = commands((ROOT / "README.md").read_text("utf-8"))
    assert len(found) >= 6, found
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.write_csv(folder / "reviews.csv", tiny.rows(200))
        tiny.write_csv(folder / "test.csv", tiny.rows(40, seed=1))
        texts = [row["text"] for row in tiny.rows(120, seed=3)]
        (folder / "texts.txt").write_text("\n".join(texts) + "\n", "utf-8")
        tiny.write_csv(folder / "new.csv", [{"text": row["text"]} for row in tiny.rows(20, seed=2)])
        (folder / "specs").symlink_to(ROOT / "specs")
        env = {**os.environ, "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1",
               "PYTHONPATH": f"{folder}"}
        for command in map(small, found):
            print(f"$ {command}", flush=True)
            if command.startswith("headstart serve"):
                serve(command, folder, env)
                continue
            subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=folder, env=env, check=True)
        answers = (folder / "answers.jsonl").read_text("utf-8").splitlines()
        assert len(answers) == 20, len(answers)
        assert all("label" in json.loads(line) for line in answers)
    print(f"{len(found)} README commands passed")


if __name__ == "__main__":
    main()
