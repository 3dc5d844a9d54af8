"""Arrays as tensors in the same memory, be it that of a file."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor


def as_tensor(found: NDArray[Any]) -> Tensor:
    """An array as a tensor in the same memory, if possible; it is never written."""
    if any(stride < 0 for stride in found.strides):
        found = found.copy()
    if found.dtype.kind == "u" and found.dtype != np.uint8:
        found = found.astype(np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        tensor = torch.from_numpy(found)
    tensor.mapped_from = _file_of(found)  # type: ignore[attr-defined]
    return tensor


def file_of(tensor: Tensor) -> Path | None:
    """The .npy file that holds a tensor and nothing else, where it is mapped from one."""
    return getattr(tensor, "mapped_from", None)


def _file_of(values: NDArray[Any]) -> Path | None:
    base: Any = values
    while isinstance(base, np.ndarray) and not (isinstance(base, np.memmap) and not isinstance(base.base, np.ndarray)):
        base = base.base
    if not isinstance(base, np.memmap) or base.filename is None or base.nbytes != values.nbytes:
        return None
    path = Path(base.filename)
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(file)
    except (OSError, ValueError):
        return None
    same = shape == values.shape and dtype == values.dtype and not fortran and values.flags.c_contiguous
    return path.absolute() if same else None


def is_mapped(values: Any) -> bool:
    """Whether an array is one that is mapped from a file, or a view of one."""
    while values is not None:
        if isinstance(values, np.memmap):
            return True
        values = getattr(values, "base", None) if isinstance(values, np.ndarray) else None
    return False
