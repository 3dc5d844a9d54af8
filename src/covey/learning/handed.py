"""Samples that a program was handed, recognised in what it sends."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

_FEW = 64


class Handed:
    """The memory of samples that a node was handed, as long as it is used.

    It recognises the tensors themselves, their views and NumPy views, also where tensors were made of these again. It
    cannot recognise values that were computed from samples, copies among them.
    """

    def __init__(self) -> None:
        self._storages: dict[int, StorageWeakRef] = {}
        self._most = _FEW

    def add(self, tensor: Tensor) -> None:
        """Note a tensor that is handed out."""
        ref = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        self._storages[ref.cdata] = ref
        if len(self._storages) > self._most:
            self._storages = {key: ref for key, ref in self._storages.items() if not ref.expired()}  # type: ignore[no-untyped-call]
            self._most = max(_FEW, 2 * len(self._storages))

    def holds(self, value: Any) -> bool:
        """Whether a value lies in that memory."""
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            # Memory that is not torch's own may be that of a NumPy view.
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
    """Where a tensor lies; `data_ptr` would copy one that shares its memory until it is written to."""
    return int(torch._C._data_address(tensor)) if tensor.device.type == "cpu" else 0  # type: ignore[attr-defined]
