"""How these files were made, once, by the version before the sources moved into folders (commit 831387e):

    PYTHONPATH=<a checkout of 831387e>:<its tests> python make.py      in an empty folder

They are never made again: that the present version reads them is what tests/integration/test_before_rooms.py proves.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HEADSTART_CACHE="cache", OMP_NUM_THREADS="1")

import tiny

import headstart
from headstart import compare, sealed
from headstart.errors import DataError

SIZES = {"hidden_size": 16, "intermediate_size": 16, "max_position_embeddings": 40}
SPEC = """\
# A Spec as a user wrote it then.
backbone: backbone
task: text-classification
method: {name: fine-tuning, last_blocks: 1}
data: {train: reviews.csv, max_tokens: 32}
train: {epochs: 1, lr: 3e-3, tokens_per_batch: 256}
evaluate: {n_resamples: 100}
"""


def jsonl(path: str, rows: list[dict[str, object]]) -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def tagged(row: dict[str, str]) -> dict[str, object]:
    words = row["text"].split()
    return {"tokens": words, "tags": ["B-CUE" if word in tiny.GOOD + tiny.BAD else "O" for word in words]}


def main() -> None:
    tiny.backbone(Path("backbone"), **SIZES)
    rows = tiny.rows(60)
    tiny.write_csv(Path("reviews.csv"), rows)
    Path("spec.yaml").write_text(SPEC, "utf-8")
    headstart.fit("spec.yaml", out="text-classification")

    os.environ["HEADSTART_CACHE"] = "forgotten"
    settings = {"backbone": "backbone", "train": {"epochs": 1}, "evaluate": {"n_resamples": 100}}
    tokens = {"train": jsonl("tokens.jsonl", [tagged(row) for row in rows]), "max_tokens": 32}
    headstart.fit({**settings, "task": "token-classification", "method": "adapter", "data": tokens,
                   "train": {"epochs": 12, "lr": 0.01}}, out="token-classification")
    pairs = [{"text": a["text"], "text_pair": b["text"], "score": i % 5 / 4}
             for i, (a, b) in enumerate(zip(rows, rows[1:] + rows[:1], strict=True))]
    data = {"train": jsonl("pairs.jsonl", pairs), "max_tokens": 32}
    headstart.fit({**settings, "task": "sentence-similarity", "method": "fine-tuning", "data": data},
                  out="sentence-similarity")
    headstart.export("text-classification", out="exported")

    answers = headstart.load("text-classification").predict([row["text"] for row in rows])

    def until_a_bad_row(skip: int):
        yield from map(json.dumps, answers[skip:7])
        raise DataError("reviews.csv:9", "is bad.")

    made_by = {"runs": [sealed.identity("text-classification")], "source": "reviews.csv", "settings": {}}
    with contextlib.suppress(DataError):
        sealed.write_on(Path("answers.jsonl"), until_a_bad_row, made_by)
    compare.compare("spec.yaml", ["linear-probe", "bitfit"], out="compared")

    shutil.rmtree("forgotten")
    for page in [*Path().rglob("*.html"), *Path().rglob("report.md")]:
        page.unlink()  # they may be written again at any time


main()
