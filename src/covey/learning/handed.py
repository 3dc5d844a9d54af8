"""The detection of samples in messages of a program."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

_FEW = 64


class Handed:
    """The memory of the samples that a node gave to its program.

    It recognises the tensors themselves, their views, NumPy views, and tensors made of these. It does not recognise
    copies, or other values that were computed from samples.
    """

    def __init__(self) -> None:
        self._storages: dict[int, StorageWeakRef] = {}
        self._most = _FEW

    def add(self, tensor: Tensor) -> None:
        """Record a tensor that was given to the program."""
        ref = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        self._storages[ref.cdata] = ref
        if len(self._storages) > self._most:
            self._storages = {key: ref for key, ref in self._storages.items() if not ref.expired()}  # type: ignore[no-untyped-call]
            self._most = max(_FEW, 2 * len(self._storages))

    def holds(self, value: Any) -> bool:
        """True if a value is in that memory."""
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            # Memory that torch did not allocate may be that of a NumPy view.
            return storage._cdata in self._storages or (not storage.resizable() and self._has(_address(value)))
        if isinstance(value, np.ndarray):
            return self._has(value.__array_interface__["data"][0])
        return False

    def _has(self, address: int) -> bool:
        for ref in self._storages.values():
            storage = torch.UntypedStorage._new_with_weak_ptr(ref.cdata)
            if storage is not None and storage.device.type == "cpu":
                start = _address(torch.empty(0, dtype=torch.uint8).set_(storage))
                if start <= address < start + storage.nbytes():
                    return True
        return False


def _address(tensor: Tensor) -> int:
    """The address of a tensor. `data_ptr` would break copy-on-write sharing."""
    return int(torch._C._data_address(tensor)) if tensor.device.type == "cpu" else 0  # type: ignore[attr-defined]
