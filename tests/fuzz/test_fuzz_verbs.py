"""Each verb with inputs changed at random: it answers, or ends in one error of ours, and spoils nothing.

make fuzz                                                            every target for HEADSTART_FUZZ_S seconds
HEADSTART_FUZZ_S=600 pytest -m slow tests/fuzz/test_fuzz_verbs.py -k predict

A case that fails is written to tests/fuzz/corpus/VERB, which test_corpus.py replays.
"""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path

import fuzzing
import pytest
import typer.main
import yaml
from fuzzing import ODD, ODD_PATHS, ODD_TEXTS, OUTS, Case

from headstart.cli.app import app
from headstart.core import spec

pytestmark = pytest.mark.slow

ROWS = ["reviews.csv", "rows.jsonl", "rows.json", "rows.txt", "rows.tsv", "rows.parquet", "rows.conll", "pairs.jsonl",
        "tokens.jsonl"]
RUNS = ["text-classification", "token-classification", "sentence-similarity", "exported"]
MODELS = [*RUNS, "backbone"]
QUICK = ["--set", "train.max_steps=1", "--set", "evaluate.n_resamples=20"]
# What stands behind a verb: lists of which one is taken, or words as they are.
VERBS: dict[str, list[str | list[str]]] = {
    "fit": [["spec.yaml", "spec.yaml", *ROWS], "--backbone", "backbone", "--out", "out/run", *QUICK],
    "predict": [RUNS, ROWS], "evaluate": [RUNS, ROWS],
    "export": [RUNS[:3], "--rows", ROWS, "--out", "out/run"],
    "extract": [MODELS, ROWS, "--out", ["out/x.npy", "out/x.parquet"]],
    "search": [MODELS, ROWS, "--query", "a lovely room"],
    "mine": [MODELS, ["pairs.jsonl", *ROWS], "--out", "out/x.jsonl"],
    "compare": [["spec.yaml", *ROWS], "--methods", ["linear-probe", "lora:rank=2"], "--seeds", "1", "--out", "out/c",
                *QUICK],
    "audit": [["spec.yaml", *ROWS], "--set", "backbone=backbone", "--out", "out/audit"],
    "serve": [RUNS, "keys"], "cache": [["--clear", "--keep"], "2GB"], "report": [RUNS],
}
FIELDS = [line.strip().partition(":")[0] for line in spec.reference().splitlines() if ":" in line and line[0] != "#"]
SECTIONS = ["", *(f"{name}." for name in re.findall(r"^(\w+):", spec.reference(), re.M))]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return fuzzing.sound_inputs(tmp_path_factory.mktemp("sound") / "inputs")


def odd_setting(rng: random.Random) -> str:
    value = rng.choice(ODD_TEXTS) if rng.random() < 0.5 else yaml.safe_dump(rng.choice(ODD), default_flow_style=True)
    return f"{rng.choice(SECTIONS)}{rng.choice(FIELDS)}={value.partition(chr(10))[0]}"


def change_arguments(case: Case, verb: str, rng: random.Random) -> None:
    """Exchange a path, or put an option with an odd value behind."""
    if rng.random() < 0.4 or verb == "serve":
        places = [i for i, word in enumerate(case.arguments) if i and word[:2] != "--" and "=" not in word]
        i = rng.choice(places or [0])
        case.arguments[i] = rng.choice(OUTS if case.arguments[i - 1] == "--out" else ODD_PATHS)
    elif rng.random() < 0.5:
        case.arguments += ["--set", odd_setting(rng)]
    else:
        option = rng.choice([param.opts[0] for param in typer.main.get_command(app).commands[verb].params])  # type: ignore[attr-defined]
        value = rng.choice(OUTS if option == "--out" else ODD_PATHS if rng.random() < 0.3 else ODD_TEXTS)
        case.arguments += [option, value] if option[:2] == "--" else [value]


def change_file(case: Case, inputs: Path, rng: random.Random) -> None:
    """Change a file that the arguments name, or one in a folder that they name: then its seal mostly fits again."""
    named = [name for name in case.arguments if name in os.listdir(inputs)]
    if "spec.yaml" in named:
        named.append("reviews.csv")
    chosen = rng.choice(named or ["spec.yaml"])
    if (inputs / chosen).is_dir():
        files = [path for path in (inputs / chosen).rglob("*") if path.is_file()]
        if rng.random() < 0.9 and chosen != "backbone":
            case.seal.append(chosen)
    else:
        files = [inputs / chosen]
    for _ in range(rng.choice([1, 1, 1, 3])):
        if files and all(path.is_file() for path in files):
            path = rng.choice(files)
            name = str(path.relative_to(inputs))
            content = fuzzing.unpack(case.files[name]) if name in case.files else path.read_bytes()
            case.files[name] = fuzzing.pack(fuzzing.changed(name, content, rng))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_answers_or_refuses(verb, inputs, tmp_path):
    start = fuzzing.load_to_serve if verb == "serve" else fuzzing.command_line
    seed, end = random.SystemRandom().randrange(2**32), time.monotonic() + fuzzing.SECONDS
    rng, n_cases, broken = random.Random(seed), 0, []
    while time.monotonic() < end:
        words = [verb, *VERBS[verb]][verb == "serve":]
        case = Case([word if isinstance(word, str) else rng.choice(word) for word in words])
        for _ in range(rng.choice([1, 1, 1, 2])):
            if rng.random() < 0.4:
                change_arguments(case, verb, rng)
            else:
                change_file(case, inputs, rng)
        running = fuzzing.keep(verb, case)  # it stays where the process dies of it
        wrong = fuzzing.flaws(case, inputs, tmp_path, start)
        n_cases += 1
        if wrong:
            broken.append((running.name, wrong))
            print(running.name, case.arguments, list(case.files), *wrong, sep="\n  ", flush=True)
        else:
            running.unlink()
    print(verb, n_cases, "cases, seed", seed)
    assert not broken, broken
