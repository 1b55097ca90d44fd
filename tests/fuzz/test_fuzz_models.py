"""Model folders and adapters changed at random: each opens, or ends in one error of ours, in bounded time.

HEADSTART_FUZZ_S=600 pytest -m slow tests/fuzz/test_fuzz_models.py      for longer than 20 seconds each
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tiny
from fuzzing import SECONDS, mutated

from headstart.core.errors import HeadstartError
from headstart.models import adapters
from headstart.models import backbone as backbones
from headstart.tasks.text_classification import TextClassification

pytestmark = pytest.mark.slow


def change(path: Path, rng: random.Random) -> None:
    """Change a JSON file, or the JSON header of a safetensors file, or a few bytes of either."""
    content = bytearray(path.read_bytes())
    start, stop = (8, 8 + int.from_bytes(content[:8], "little")) if path.suffix == ".safetensors" else (0, len(content))
    if rng.random() < 0.2:
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(min(stop, len(content)))] = rng.randrange(256)
    else:
        text = json.dumps(mutated(json.loads(content[start:stop]), rng)).encode()
        size = len(text).to_bytes(8, "little") if start else b""
        content = bytearray(size + text + content[stop:])
    path.unlink()
    path.write_bytes(content)


def build(folder: Path) -> Any:
    backbone = backbones.load_backbone(str(folder), 64)
    for text in ("", "a lovely room 好", "x" * 500):
        backbone.reader.read(text)
        backbone.reader.read(text, text)
        backbone.reader.read_windows(text, "a", 2)
    return backbones.build_model(backbone, TextClassification(labels=("a", "b")), "mean", 0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of each family, with an adapter in its folder where it takes one."""
    root = tmp_path_factory.mktemp("families")
    for name in tiny.FAMILIES:
        fresh = build(tiny.backbone(root / name, name))
        layers = list(adapters.linears(fresh.encoder))
        adapters.wrap(fresh, "LoraConfig", r=2, target_modules=layers[:2])
        adapters.save(fresh, root / name / "adapter")
    return root


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors", "adapter/adapter_config.json",
                                  "adapter/adapter_model.safetensors"])
def test_a_changed_folder_opens_or_is_refused(folders, tmp_path, file):
    n_refused = n_wrong = 0
    seed, end = random.SystemRandom().randrange(2**32), time.monotonic() + SECONDS
    rng = random.Random(seed)
    while time.monotonic() < end:
        folder = shutil.copytree(folders / rng.choice(list(tiny.FAMILIES)), tmp_path / "model", copy_function=os.link)
        for _ in range(rng.choice([1, 1, 1, 3])):
            with suppress(ValueError):  # it is no JSON any more
                change(folder / file, rng)
        began = time.monotonic()
        try:
            fresh = build(folder)
            if file.startswith("adapter"):
                adapters.restore(fresh, folder / "adapter")
        except HeadstartError as error:
            n_refused += error.exit_code == 2 and bool(error.where)
            n_wrong += error.exit_code != 2 or not error.where
        except BaseException:
            shutil.copytree(folder, folders.parent / f"broken-{seed}", dirs_exist_ok=True)
            raise
        assert time.monotonic() - began < 20, f"seed {seed}"
        shutil.rmtree(folder)
    assert n_refused > 0
    assert n_wrong == 0
