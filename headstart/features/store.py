"""Activations on disk: arrays by keys, shared by runs, sound under kills, damage and two processes at once.

    store = ActivationStore("name", width=384, dtype="<f2")
    with store.locked(progress):
        store.write(keys_N, lengths_N, pieces)
    store.get(keys_B)                            [n, D] for each key, or None

Deleting any of it changes nothing but time. Shape suffixes: B windows, T tokens, D width, M windows in a store.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import re
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ..core.errors import SpecError, shorten
from ..core.places import cache_folder
from ..core.progress import Progress
from ..core.untrusted import check_regular
from ..core.values import DECODER_IDS, PREDICTS

LIMIT_BYTES = 10_000_000_000  # of all stores together; HEADSTART_CACHE_BYTES says otherwise
FREE_BYTES = 1_000_000_000  # of the disk, left alone
CHECKSUM_BYTES = 4  # behind an index; those of earlier versions have none
RECORD = np.dtype([("memo", "<u8"), ("key", "<u8"), ("begin", "<i8"), ("n", "<i4"), ("crc", "<u4")])


def folder() -> Path:
    """Where stores lie: $HEADSTART_CACHE, or the platform's cache folder. Raises SpecError where there is no home."""
    return cache_folder("Name a folder for the cache: HEADSTART_CACHE=FOLDER; or do without: --set cache=off")


def folder_if_kept(cache: str) -> Path | None:
    """`folder()`, or None where there is none and where nothing is to be kept. cache: as in the Spec."""
    try:
        return folder() if cache != "off" else None
    except SpecError:
        return None


def limit_bytes() -> int:
    """How large all stores together may grow."""
    size = os.environ.get("HEADSTART_CACHE_BYTES")
    return parse_size(size) if size else LIMIT_BYTES


def parse_size(text: str | None) -> int:
    """Bytes of "2GB", "500 MB" or "1000000". Raises SpecError."""
    match = re.fullmatch(r"\s*([0-9]{1,20}(?:\.[0-9]*)?)\s*([KMGT]?)B?\s*", text or "", re.IGNORECASE)
    if match is None:
        raise SpecError("size", f"{shorten(text)} is not a size.", "For example: 2GB")
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))


class ActivationStore:
    """Arrays [n, D] by 64-bit keys, in segments: NAME.bin holds values, NAME.npy says where; no index, no segment."""

    def __init__(self, name: str, width: int, dtype: str) -> None:
        self.folder, self.width, self.dtype = folder() / name, width, np.dtype(dtype)
        self.identity = np.uint64(int(hashlib.sha256(name.encode()).hexdigest()[:16], 16))
        self.n_damaged = 0
        self.files: dict[int, int] = {}  # descriptors, from a segment's first read on: they outlive its deletion
        self.open()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the files of values; they are opened again when they are read."""
        for descriptor in getattr(self, "files", {}).values():
            os.close(descriptor)
        self.files = {}

    def hold(self) -> None:
        """Open all files of values, so that a deletion from now on changes nothing."""
        for segment in np.unique(self.segment_M):
            with suppress(OSError):
                self._descriptor(int(segment))

    def _descriptor(self, segment: int) -> int:
        if segment not in self.files:
            self.files[segment] = os.open(self.paths[segment].with_suffix(".bin"), os.O_RDONLY | os.O_NONBLOCK)
        return self.files[segment]

    def open(self) -> None:
        """Read the indices there are. A segment that does not fit together is left out, and said to be damaged."""
        self.close()
        self.paths: list[Path] = []
        self.broken: list[Path] = []
        indices = []
        for path in sorted(self.folder.glob("*.npy")):
            index = self._index(path)
            if index is None:
                self.n_damaged += 1
                self.broken.append(path)
                continue
            with suppress(OSError):
                os.utime(path)  # it was used: the clean-up takes the longest unused first
            indices.append((len(self.paths), index))
            self.paths.append(path)
        index_M = np.concatenate([index for _, index in indices]) if indices else np.empty(0, RECORD)
        segment_M = np.concatenate([np.full(len(index), i) for i, index in indices]) if indices else np.empty(0, int)
        order_M = np.argsort(index_M["key"], kind="stable")
        self.index_M, self.segment_M = index_M[order_M], segment_M[order_M]
        self.keys_M = np.ascontiguousarray(self.index_M["key"])

    def _index(self, path: Path) -> np.ndarray | None:
        try:
            check_regular(path, SpecError)
            size = check_regular(path.with_suffix(".bin"), SpecError).st_size
            content = path.read_bytes()
        except (OSError, SpecError):
            return None
        header = _index_header(len(content) // RECORD.itemsize)  # read by comparison: a flipped bit parses as anything
        rows, rest = divmod(len(content) - len(header), RECORD.itemsize)
        header = _index_header(rows) if rows > 0 else b""
        body = content[len(header) : len(header) + rows * RECORD.itemsize]
        if rows <= 0 or not content.startswith(header) or rest not in (0, CHECKSUM_BYTES):
            return None
        if rest and content[-rest:] != zlib.crc32(body).to_bytes(CHECKSUM_BYTES, "little"):
            return None
        index = np.frombuffer(body, RECORD)
        n_lines, odd = divmod(size, self.width * self.dtype.itemsize)
        sound = (not odd and (index["memo"] == self.identity).all() and (index["n"] > 0).all()
                 and (index["begin"] >= 0).all() and (index["begin"] <= n_lines - index["n"]).all()
                 and int((index["begin"] + index["n"]).max()) == n_lines)
        return index if sound else None

    def contains(self, keys_N: np.ndarray) -> np.ndarray:
        """Which of `keys_N` are there, [N] bool."""
        if not len(self.keys_M):
            return np.zeros(len(keys_N), bool)
        at_N = np.minimum(np.searchsorted(self.keys_M, keys_N), len(self.keys_M) - 1)
        return np.asarray(self.keys_M[at_N] == keys_N)

    def n_lines(self, keys_N: np.ndarray) -> int:
        """How many lines the arrays of those of `keys_N` that are there have together; each is counted once."""
        keys_N = np.unique(keys_N)
        return int(self.index_M["n"][np.searchsorted(self.keys_M, keys_N[self.contains(keys_N)])].sum())

    def get(self, keys_B: np.ndarray) -> list[np.ndarray] | None:
        """The arrays of `keys_B`; None when one is not known or was damaged on the disk since it was written."""
        if not self.contains(keys_B).all():
            return None
        out = []
        for at in np.searchsorted(self.keys_M, keys_B):
            record = self.index_M[at]
            begin, n = int(record["begin"]), int(record["n"])
            segment = int(self.segment_M[at])
            try:
                value = self._values(segment, begin, n)
            except OSError:  # no damage: too many open files, say. Left out for now, and left alone
                self._leave_out(segment)
                return None
            if value is None or zlib.crc32(value.data) != record["crc"]:
                self.n_damaged += 1
                self._forget(segment)
                return None
            out.append(value)
        return out

    def check(self, keys_N: np.ndarray) -> None:
        """Read those of `keys_N` that are there, and drop each segment with a damaged one. Cost: one pass over them."""
        for key in keys_N[self.contains(keys_N)]:
            self.get(np.array([key], np.uint64))

    def _values(self, segment: int, begin: int, n: int) -> np.ndarray | None:
        """Lines of a segment, copied (a file that is cut under a memory map would end the process); None: it is cut."""
        n_bytes = self.width * self.dtype.itemsize
        content = os.pread(self._descriptor(segment), n * n_bytes, begin * n_bytes)
        return np.frombuffer(content, self.dtype).reshape(n, self.width) if len(content) == n * n_bytes else None

    def _forget(self, segment: int) -> None:
        """Leave a damaged segment out from now on, and let the next run compute it again."""
        for path in (self.paths[segment], self.paths[segment].with_suffix(".bin")):
            with suppress(OSError):
                path.unlink()
        self._leave_out(segment)

    def _leave_out(self, segment: int) -> None:
        kept_M = self.segment_M != segment
        self.index_M, self.segment_M, self.keys_M = self.index_M[kept_M], self.segment_M[kept_M], self.keys_M[kept_M]

    @contextmanager
    def locked(self, progress: Progress) -> Iterator[None]:
        """Hold the store for writing: two processes that want the same do the work once."""
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(self.folder)
        with open(os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600),
                  "rb", buffering=0) as lock:
            if not stat.S_ISREG(os.fstat(lock.fileno()).st_mode):
                raise OSError(errno.EINVAL, "its lock is no regular file")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.say("cache: another process is computing frozen layers for it; waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for path in [*self.broken, *self.folder.glob("*.tmp"), *self.folder.glob("*.bin")]:
                if path in self.broken or path.suffix == ".tmp" or not path.with_suffix(".npy").exists():
                    path.unlink(missing_ok=True)  # left by a process that was killed
            self.open()
            yield

    def unwritable(self, error: OSError) -> str:
        """What a run says when it could not add."""
        return f"cache: {self.folder} cannot be written ({error.strerror}); going on without it"

    def write(self, keys_N: np.ndarray, lengths_N: np.ndarray,
              pieces: Iterator[tuple[np.ndarray, list[np.ndarray]]]) -> None:
        """Publish one segment. pieces: (places in keys_N, arrays [n, D] of each), in any order."""
        index_N = np.zeros(len(keys_N), RECORD)
        index_N["memo"], index_N["key"], index_N["n"] = self.identity, keys_N, lengths_N
        index_N["begin"] = np.cumsum(lengths_N) - lengths_N
        path = self.folder / f"{int(keys_N[0]):016x}-{len(keys_N)}-{os.getpid()}"
        line_bytes = self.width * self.dtype.itemsize
        temporary = path.with_suffix(".tmp")
        try:
            with path.with_suffix(".bin").open("xb", buffering=0) as values:
                os.posix_fallocate(values.fileno(), 0, int(lengths_N.sum()) * line_bytes)  # a full disk says so now
                for places, arrays in pieces:
                    for i, array in zip(places, arrays, strict=True):
                        content = np.ascontiguousarray(array, self.dtype).tobytes()
                        if os.pwrite(values.fileno(), content, int(index_N["begin"][i]) * line_bytes) < len(content):
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                        index_N["crc"][i] = zlib.crc32(content)
                os.fsync(values.fileno())
            with temporary.open("xb") as file:
                np.save(file, index_N, allow_pickle=False)
                file.write(zlib.crc32(index_N.tobytes()).to_bytes(CHECKSUM_BYTES, "little"))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path.with_suffix(".npy"))
        except BaseException:  # a full disk: half a segment would keep it full
            for partial in (temporary, path.with_suffix(".bin")):
                partial.unlink(missing_ok=True)
            raise


def _make_private(path: Path) -> None:
    """Make a store that only its owner can read, or tighten one of ours; the folder above may be shared on purpose."""
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.stat()
    if status.st_uid == os.getuid() and status.st_mode & 0o077:
        path.chmod(0o700)


def _index_header(n: int) -> bytes:
    """What `np.save` writes before `n` records."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": np.lib.format.dtype_to_descr(RECORD),
                                                  "fortran_order": False, "shape": (n,)})
    return header.getvalue()


WRITTEN = frozenset({PREDICTS, DECODER_IDS})  # of a window's inputs, those that frozen blocks do not see


def keys_of(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The key of each window of a padded batch, [B] uint64."""
    mask_BT, arrays = inputs.get("attention_mask"), {k: a for k, a in inputs.items() if k != "attention_mask"}
    if mask_BT is None:
        windows = (dict(zip(arrays, values, strict=True)) for values in zip(*arrays.values(), strict=True))
        return np.array([key_of(window) for window in windows], np.uint64)
    n_tokens, lengths_B = mask_BT.shape[1], mask_BT.sum(1)
    return np.fromiter((key_of({name: a[i, :n] if a.ndim > 1 and a.shape[1] == n_tokens else a[i]
                                for name, a in arrays.items()}) for i, n in enumerate(lengths_B)),
                       np.uint64, len(lengths_B))


def key_of(inputs: dict[str, np.ndarray]) -> int:
    """64 bits of a hash of a window's inputs, padding left away: of each the name, the numbers and, but for lists of
    whole numbers, their kind and shape. What a window says of what is written counts for nothing that is stored."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(inputs.keys() - WRITTEN):
        value = np.asarray(inputs[name])
        if value.ndim == 1 and value.dtype.kind in "iu":
            digest.update(name.encode() + np.ascontiguousarray(value, np.int32).tobytes())
        else:
            kind = "<f4" if value.dtype.kind == "f" else "<i4"
            digest.update(f"{name} {kind} {value.shape} ".encode() + np.ascontiguousarray(value, kind).tobytes())
    return int.from_bytes(digest.digest(), "little")


def used() -> list[tuple[Path, int, float]]:
    """Every segment's index file, its bytes with its values, and when it was last used; longest unused first."""
    segments = []
    for path in folder().glob("*/*.npy"):
        try:
            values = path.with_suffix(".bin").stat().st_size
            segments.append((path, values + path.stat().st_size, path.stat().st_mtime))
        except FileNotFoundError:
            continue
    return sorted(segments, key=lambda segment: segment[2])


def prune(to_bytes: int, keep: Path | None = None) -> int:
    """Delete the longest unused segments until at most `to_bytes` are left; those under `keep` stay.

    Returns bytes freed. A process that still reads one keeps its file open; the space comes back when it ends.
    """
    segments = used()
    total, freed = sum(size for _, size, _ in segments), 0
    for path, size, _ in segments:
        if total - freed <= to_bytes:
            break
        if keep is None or path.parent != keep:
            path.unlink(missing_ok=True)
            path.with_suffix(".bin").unlink(missing_ok=True)
            freed += size
    return freed


def make_room(n_bytes: int, store: Path) -> bool:
    """Whether `n_bytes` more fit under the limit and on the disk, after a clean-up where that is needed."""
    if n_bytes > limit_bytes():
        return False
    prune(limit_bytes() - n_bytes, keep=store)
    return (sum(size for _, size, _ in used()) + n_bytes <= limit_bytes()
            and shutil.disk_usage(store).free >= n_bytes + FREE_BYTES)
