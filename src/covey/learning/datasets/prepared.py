"""Prepared data sets: files from which all processes of a machine map the same samples into memory.

A file holds a head and, on pages of their own, the arrays of a data set as they are used. Its name is the digest of all
that decides its content: the data set's class, code and parameters, and the files that it was read from. A file is used
if it belongs to this user, no other user can write it, its head names the same digest, and the checksums of its arrays
are right; these are computed when the file is new to this machine since its start.
"""

import hashlib
import mmap
import os
import secrets
import stat
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from covey import __version__
from covey.learning.dataset import Data, Dataset, Location, Split
from covey.learning.dataset import Objective as Kind
from covey.learning.datasets.digests import digest, remember
from covey.learning.datasets.mapped import as_tensor
from covey.messages.files import sync_folder
from covey.parts.errors import ConfigurationWarning

FOLDER = "COVEY_CACHE"
"""The environment variable with the folder of prepared data, or "off"."""
FORMAT = 1
SMALLEST = 1 << 20
"""The bytes from which on data are worth a file."""
LARGEST = 8 << 30
"""The bytes of all files together. The ones that were not used for longest are removed."""
_MAGIC = b"covey prepared\n\0"
_MOST_HEAD = 1 << 16
_PAGE = max(mmap.PAGESIZE, 1 << 12)
_SUFFIX, _CHECKED, _PART = ".data", ".checked", ".part"
_ABANDONED = 3600.0
"""The seconds after which a part of a file is one of a process that was killed."""

Count = Annotated[int, msgspec.Meta(ge=0)]


class _Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An array of a file: its place, and the checksum of its bytes."""

    dtype: Literal["uint8", "int64", "float32"]
    shape: list[Count]
    start: Count
    checksum: str

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * np.dtype(self.dtype).itemsize


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The head of a file: facts of the data, and the inputs and targets for training, then those for testing."""

    key: str
    digest: str
    objective: Kind
    classes: Count
    label_names: list[str]
    scale: float
    shift: float
    sizes: dict[str, int]
    arrays: Annotated[list[_Array], msgspec.Meta(min_length=4, max_length=4)]


class _Unusable(Exception):
    """A file that is damaged, or that somebody else may have written."""


def folder() -> Path | None:
    """The folder of prepared data: that of COVEY_CACHE, else one where the system keeps caches; None if it is off."""
    named = os.environ.get(FOLDER, "")
    if named:
        return None if named == "off" else Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "covey" / "prepared"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "covey" / "prepared"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "covey" / "prepared"


def load(dataset: Dataset, location: Location) -> Data:
    """A data set, mapped from its file where it can have one; the file is made first if there is none.

    Raises:
        DataError: see `Dataset.load`.
    """
    place, key = folder(), _key(dataset, location)
    if place is None or key is None:
        return dataset.load(location.folder, quiet=location.quiet)
    path = place / f"{dataset.kind}-{key[:40]}{_SUFFIX}"
    with suppress(_Unusable, OSError):
        _check_folder(place)
        return _mapped(path, key)
    data = dataset.load(location.folder, quiet=location.quiet)
    # Missing files may have been downloaded meanwhile.
    if not _is_plain(data) or key != _key(dataset, location):
        return data
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_folder(place)
        _write(data, path, key)
        _make_room(place, path)
        return _mapped(path, key)
    except (_Unusable, OSError) as error:
        warnings.warn(
            f"The data of {dataset.named()} are in the memory of each process, as none can map them from {place}: "
            f"{error}. Set {FOLDER} to another folder, or to off.",
            ConfigurationWarning,
            stacklevel=2,
        )
        return data


def _key(dataset: Dataset, location: Location) -> str | None:
    """The digest of all that decides the content of a data set; None if it is not prepared."""
    # Data of a host's own stay where they are. The code of a user's class may change with all that it imports.
    if location.local is not None or not type(dataset).__module__.startswith("covey."):
        return None
    sources = dataset.sources(location.folder)
    if sources is None:
        return None
    found = hashlib.sha256(f"{FORMAT} {__version__} {sys.byteorder} {torch.__version__} {dataset!r}".encode())
    try:
        for one in type(dataset).__mro__:
            code = getattr(sys.modules.get(one.__module__), "__file__", None)
            if issubclass(one, Dataset) and code is not None:
                found.update(Path(code).read_bytes())
        for path in sources:
            is_at = path.resolve()
            state = is_at.stat()
            times = state.st_mtime_ns, state.st_ctime_ns
            found.update(repr((str(is_at), state.st_dev, state.st_ino, state.st_size, *times)).encode())
    except OSError:
        return None
    return found.hexdigest()


def _is_plain(data: Data) -> bool:
    """Whether a file can hold all facts of the data, which are large enough for one."""
    beside = (data.owners, data.own, data.stream, data.ignore_index)
    tensors = _tensors(data)
    return (
        all(one is None for one in beside)
        and not (data.columns or data.fields or data.owner_names)
        and all(isinstance(one, Tensor) and str(one.dtype)[6:] in ("uint8", "int64", "float32") for one in tensors)
        and sum(one.numel() * one.element_size() for one in tensors) >= SMALLEST
    )


def _tensors(data: Data) -> list[Tensor]:
    return [data.train.inputs, data.train.targets, data.test.inputs, data.test.targets]


# ---------------------------------------------------------------------- writing


def _write(data: Data, path: Path, key: str) -> None:
    """Write a file aside and put it in its place, so that a crash or another process at work leaves a whole one.

    Raises:
        OSError: the folder cannot be written.
    """
    arrays, start = [], _PAGE * -(-_MOST_HEAD // _PAGE)
    values = [tensor.contiguous().cpu().numpy() for tensor in _tensors(data)]
    for one in values:
        checksum = hashlib.sha256(one.reshape(-1).view(np.uint8).data).hexdigest()
        arrays.append(_Array(str(one.dtype), list(one.shape), start, checksum))  # type: ignore[arg-type]
        start += _PAGE * -(-one.nbytes // _PAGE)
    names = [str(name) for name in data.label_names]
    facts = data.objective, data.classes, names, data.scale, data.shift, dict(data.sizes)
    head = msgspec.json.encode(_Head(key, digest(data), *facts, arrays))
    if len(head) > _MOST_HEAD - 64:
        raise OSError("its facts are too many")
    with _appearing(path) as file:
        file.write(_MAGIC + len(head).to_bytes(8, "little") + hashlib.sha256(head).digest() + head)
        for array, one in zip(arrays, values, strict=True):
            file.seek(array.start)
            file.write(one.reshape(-1).view(np.uint8).data)
        file.truncate(start)


@contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes]]:
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_PART}")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def _make_room(place: Path, kept: Path) -> None:
    """Remove abandoned parts, and the files that were not used for longest until all are small enough together."""
    now = time.time()
    for part in place.glob(f"*{_PART}"):
        with suppress(OSError):
            if now - part.stat().st_mtime > _ABANDONED:
                part.unlink()
    total = 0
    for path in sorted(files(place), key=lambda one: (one == kept, _used(one)), reverse=True):
        with suppress(OSError):
            total += path.stat().st_size
            if total > LARGEST and path != kept:
                remove(path)


def files(place: Path) -> list[Path]:
    """The files of prepared data in a folder."""
    return sorted(place.glob(f"*{_SUFFIX}"))


def remove(path: Path) -> None:
    """Remove a file. Processes that have mapped it keep its content."""
    path.unlink(missing_ok=True)
    path.with_suffix(_CHECKED).unlink(missing_ok=True)


def _used(path: Path) -> float:
    """The time of the last use of a file."""
    for one in (path.with_suffix(_CHECKED), path):
        with suppress(OSError):
            return one.stat().st_mtime
    return 0.0


# ---------------------------------------------------------------------- reading


def _check_folder(place: Path) -> None:
    _check_owner(place.stat(), str(place))


def _check_owner(state: os.stat_result, name: str) -> None:
    """Refuse files that somebody else may have written."""
    if os.name != "nt" and (state.st_uid != os.getuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise _Unusable(f"{name} belongs to another user, or others can write it")


def _mapped(path: Path, key: str) -> Data:
    """The data of a file.

    Raises:
        OSError: there is none.
        _Unusable: it must not be used.
    """
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        state = os.fstat(file.fileno())
        _check_owner(state, str(path))
        head = _head(file, state.st_size)
        if head.key != key:
            raise _Unusable(f"{path} has other data")
        arrays = [_array(file, array) for array in head.arrays]
        _check_sums(path, state, head, arrays)
    inputs, targets, test_inputs, test_targets = map(as_tensor, arrays)
    data = Data(
        Split(inputs, targets), Split(test_inputs, test_targets), head.objective, head.classes,
        label_names=head.label_names, scale=head.scale, shift=head.shift, sizes=head.sizes,
    )  # fmt: skip
    remember(data, head.digest)
    return data


def _head(file: IO[bytes], size: int) -> _Head:
    start = file.read(len(_MAGIC) + 40)
    length = int.from_bytes(start[len(_MAGIC) :][:8], "little")
    if start[: len(_MAGIC)] != _MAGIC or length > _MOST_HEAD:
        raise _Unusable("it is no file of prepared data")
    text = file.read(length)
    if hashlib.sha256(text).digest() != start[-32:]:
        raise _Unusable("its head is damaged")
    try:
        head = msgspec.json.decode(text, type=_Head)
    except msgspec.MsgspecError as error:
        raise _Unusable(f"its head is damaged: {error}") from error
    if any(array.start % _PAGE or array.start + array.bytes > size for array in head.arrays):
        raise _Unusable("it is too short")
    return head


def _array(file: IO[bytes], array: _Array) -> np.ndarray:
    if not array.bytes:
        return np.empty(array.shape, array.dtype)
    return np.memmap(file, array.dtype, "r", array.start, tuple(array.shape))


def _check_sums(path: Path, state: os.stat_result, head: _Head, arrays: Sequence[np.ndarray]) -> None:
    """Check the arrays of a file, unless this was done since it changed and this machine started."""
    mark = path.with_suffix(_CHECKED)
    now = f"{head.key} {state.st_dev} {state.st_ino} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {_boot()}"
    with suppress(OSError):
        _check_owner(mark.lstat(), str(mark))
        if mark.read_text(encoding="utf-8") == now:
            os.utime(mark)
            return
    for array, values in zip(head.arrays, arrays, strict=True):
        if hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest() != array.checksum:
            raise _Unusable(f"{path} is damaged: a checksum does not fit")
    with suppress(OSError), _appearing(mark) as file:
        file.write(now.encode())


def _boot() -> str:
    """The name of this start of the machine, where the system has one: files may be damaged while it is off."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return ""
