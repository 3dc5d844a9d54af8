"""Samples of a stream, written to files one after the other: data may be larger than memory.

Shapes: S samples.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from numpy.lib import format as npy
from numpy.typing import NDArray

from covey.learning.datasets.arrays import plain, stored_as
from covey.parts.errors import DataError


def spool(samples: Iterable[tuple[Any, Any]], folder: Path, suffix: str, what: str) -> list[Any]:
    """Write the inputs of samples to a file, and return their targets.

    Args:
        samples: pairs (x, y).
        folder: the folder of the file.
        suffix: the end of the file's name, "x" + suffix + ".npy".
        what: the samples, for the middle of a sentence.

    Raises:
        DataError: there are none, their inputs differ in shape or type, or the file exists.
    """
    targets: list[Any] = []
    path = folder / f"x{suffix}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("xb")
    except FileExistsError as error:
        raise DataError(
            f"The folder {folder} must be a new one: it has {path.name}. To use what it holds, name the dataset "
            f'{{ kind = "npy", path = "{folder}" }}.'
        ) from error
    with file:
        first: NDArray[Any] | None = None
        for index, (x, y) in enumerate(samples):
            row = stored_as(plain([x], f"The inputs of the {what}"), f"The inputs of the {what}")
            if first is None:
                first = row
                _write_header(file, 0, row)
            if row.shape != first.shape or row.dtype != first.dtype:
                raise DataError(
                    f"The inputs of the {what} must be {first.dtype} of {first.shape[1:]}, as its first sample. "
                    f"Got {row.dtype} of {row.shape[1:]} in sample {index}."
                )
            file.write(row.tobytes())
            targets.append(y)
        if first is None:
            raise DataError(f"The {what} must have a sample or more. Got none.")
        file.seek(0)
        _write_header(file, len(targets), first)
    return targets


def _write_header(file: BinaryIO, samples: int, row: NDArray[Any]) -> None:
    """Write the header of an array of rows, which has the same length for any number of them."""
    shape = (samples, *row.shape[1:])
    npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(row.dtype), "fortran_order": False, "shape": shape})
