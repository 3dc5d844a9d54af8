"""Data as a folder of .npy files, which are mapped into memory and read where they are needed.

Shapes: S samples.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from covey.learning.dataset import Data, Objective, Split
from covey.learning.datasets.arrays import Names, made
from covey.learning.datasets.files import Arrays, found, unreadable
from covey.learning.datasets.mapped import as_tensor, file_of
from covey.learning.fields import Field
from covey.parts.errors import DataError

FACTS = "data.json"
_COLUMNS = "columns"
_OWNERS = "owners.npy"
_SPLITS = {"train": "", "test": "_test"}


class Facts(msgspec.Struct, frozen=True):
    """The facts of a folder about its arrays."""

    objective: Objective
    classes: int
    label_names: list[str]
    scale: float
    shift: float
    sizes: dict[str, int]
    columns: list[str]
    fields: list[Field] = []
    ignore_index: int | None = None


class NPY(Arrays):
    """A folder with x.npy, y.npy, x_test.npy and y_test.npy, which stay on the disk: data may be larger than memory."""

    kind = "npy"

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        path = found(self.path, folder, self, "path")
        if (path / FACTS).exists():
            return load(path)
        arrays = [mapped(path / f"{name}{suffix}.npy") for suffix in _SPLITS.values() for name in ("x", "y")]
        columns = {file.stem: mapped(file) for file in sorted((path / _COLUMNS).glob("*.npy"))}
        names = Names(f"The file {path / 'x.npy'}", f"The file {path / 'y.npy'}")
        return made(arrays[0], arrays[1], (arrays[2], arrays[3]), self.wanted(columns, names))


def mapped(path: Path) -> NDArray[Any]:
    """An array of a file, which is read where it is needed.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, error) from error


def store(data: Data, folder: Path) -> None:
    """Write data to a folder from which `load` has the same; arrays that are mapped from whole files are linked to."""
    folder.mkdir(parents=True)
    for name, suffix in _SPLITS.items():
        split: Split = getattr(data, name)
        for letter, tensor in (("x", split.inputs), ("y", split.targets)):
            _write(tensor.cpu().numpy(), folder / f"{letter}{suffix}.npy", file_of(tensor))
    if data.owners is not None:
        np.save(folder / _OWNERS, data.owners.numpy(), allow_pickle=False)
    (folder / _COLUMNS).mkdir()
    for index, values in enumerate(data.columns.values()):
        plain = values.astype(str) if values.dtype.kind == "O" else values
        _write(plain, folder / _COLUMNS / f"{index}.npy")
    names = [str(name) for name in data.label_names]
    facts = Facts(
        data.objective,
        data.classes,
        names,
        data.scale,
        data.shift,
        dict(data.sizes),
        list(data.columns),
        list(data.fields),
        data.ignore_index,
    )
    (folder / FACTS).write_bytes(msgspec.json.encode(facts))


def load(folder: Path) -> Data:
    """The data of a folder that `store` has written.

    Raises:
        DataError: the folder has none.
    """
    try:
        facts = msgspec.json.decode((folder / FACTS).read_bytes(), type=Facts)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"The folder {folder} has no data that can be read: {error}.") from error
    train, test = (
        Split(*(as_tensor(mapped(folder / f"{letter}{suffix}.npy")) for letter in "xy")) for suffix in _SPLITS.values()
    )
    owners = folder / _OWNERS
    columns = {name: mapped(folder / _COLUMNS / f"{index}.npy") for index, name in enumerate(facts.columns)}
    return Data(
        train, test, facts.objective, facts.classes,
        owners=as_tensor(mapped(owners)) if owners.exists() else None, label_names=facts.label_names,
        scale=facts.scale, shift=facts.shift, sizes=facts.sizes, columns=columns, fields=tuple(facts.fields),
        ignore_index=facts.ignore_index,
    )  # fmt: skip


def _write(values: NDArray[Any], path: Path, source: Path | None = None) -> None:
    """Write an array, or link to the file that holds it."""
    if source is not None:
        with suppress(OSError):  # No links on this file system.
            path.symlink_to(source)
            return
    np.save(path, values, allow_pickle=False)
