"""What a message may hold: named arrays, of torch or numpy, and plain values."""

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
    # Who asks for the types of a program's parameters need not have imported torch.
    Entry = Any
    Payload = Mapping[str, Any]


KEPT = "kept"
"""The attribute of a tensor to which nobody writes any more, for programs are handed copies of it alone."""


_tensor: type | None = None
"""torch's class of tensors, once somebody has imported torch."""


def is_tensor(value: object) -> "TypeGuard[Tensor]":
    """Whether a value is a tensor of torch. Where nobody has imported torch, none is."""
    global _tensor
    if _tensor is None:
        _tensor = getattr(sys.modules.get("torch"), "Tensor", None)
        if _tensor is None:
            return False
    return isinstance(value, _tensor)


def private(value: Any) -> Any:
    """A value of a payload for somebody who may do with it as he likes."""
    if is_tensor(value):
        from covey.messages.ownership import own

        return own(value)
    return value.copy() if isinstance(value, list | np.ndarray) else value


def private_all(value: Any) -> Any:
    """The same of all that tuples, lists and tables hold."""
    if type(value) is tuple:
        return tuple(map(private_all, value))
    if type(value) is list:
        return [private_all(entry) for entry in value]
    if type(value) is dict:
        return {name: private_all(entry) for name, entry in value.items()}
    return private(value)


def frozen(array: np.ndarray) -> np.ndarray:
    """The numbers of an array as they are now, which nobody may change."""
    if not array.flags.writeable and array.base is None:
        return array
    copy = array.copy()
    copy.setflags(write=False)
    return copy
