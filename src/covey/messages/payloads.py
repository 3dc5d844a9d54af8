"""Payloads of messages: named arrays, of torch or numpy, and plain values."""

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

Field: TypeAlias = int | float | str | bool | bytes | None | list[int] | list[float] | list[str]
if TYPE_CHECKING:
    from torch import Tensor

    Entry: TypeAlias = Tensor | np.ndarray | Field
    Payload: TypeAlias = Mapping[str, Entry]
else:
    # The types of a program's parameters can be resolved without torch.
    Entry = Any
    Payload = Mapping[str, Any]


KEPT = "kept"
"""The attribute of a tensor that is never written to again, because programs get copies of it."""


_tensor: type | None = None
"""The tensor class of torch, once torch is imported."""


def is_tensor(value: object) -> "TypeGuard[Tensor]":
    """True if a value is a tensor of torch. False if torch is not imported."""
    global _tensor
    if _tensor is None:
        _tensor = getattr(sys.modules.get("torch"), "Tensor", None)
        if _tensor is None:
            return False
    return isinstance(value, _tensor)


def private(value: Any) -> Any:
    """A copy of a value of a payload that its receiver may change."""
    if is_tensor(value):
        from covey.messages.ownership import own

        return own(value)
    return value.copy() if isinstance(value, list | np.ndarray) else value


def private_all(value: Any) -> Any:
    """`private` for everything inside tuples, named tuples, lists and dicts."""
    if isinstance(value, tuple):
        entries = map(private_all, value)
        return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
    if type(value) is list:
        return [private_all(entry) for entry in value]
    if type(value) is dict:
        return {name: private_all(entry) for name, entry in value.items()}
    return private(value)


def frozen(array: np.ndarray) -> np.ndarray:
    """A read-only copy of an array, or the array itself if nothing can change it."""
    if not array.flags.writeable and array.base is None:
        return array
    copy = array.copy()
    copy.setflags(write=False)
    return copy


def not_finite_entry(payload: Payload) -> str | None:
    """The name of an entry that is or contains NaN or infinity, or None.

    A tensor that was finite is examined again only after a write.
    """
    for name, value in payload.items():
        if type(value) is float and not math.isfinite(value):
            return name
        if type(value) is list and not all(math.isfinite(item) for item in value if type(item) is float):
            return name
        if isinstance(value, np.ndarray):
            if value.dtype.kind == "f" and not bool(np.isfinite(value).all()):
                return name
        elif is_tensor(value) and not is_known_to_be_finite(value):
            return name
    return None


def is_known_to_be_finite(tensor: "Tensor") -> bool:
    """True if all numbers of a tensor are finite. It is examined again only after a write, and so are views of it."""
    base = tensor._base
    for seen in (tensor,) if base is None or base.dtype != tensor.dtype else (tensor, base):
        known = getattr(seen, "known_finite", None)
        if known is not None and known == tensor._version:
            return True
    if not tensor.is_floating_point():
        return True
    finite = _is_finite(tensor)
    if finite and not tensor.is_inference():
        tensor.known_finite = tensor._version  # type: ignore[attr-defined]
    return finite


def _is_finite(tensor: "Tensor") -> bool:
    """True if all numbers of a tensor are finite."""
    # The sum is finite only if they are: it takes 0.1x the time for 40,000 numbers. That of large ones may overflow.
    if tensor.element_size() >= 4 and math.isfinite(tensor.detach().sum().item()):
        return True
    return bool(tensor.isfinite().all())
