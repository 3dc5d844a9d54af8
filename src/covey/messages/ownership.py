"""Tensors that change hands.

Whoever is handed a tensor may write to it, and nobody else sees that; whoever has handed one over may go on writing to
his. Either is a copy that takes memory only when somebody writes, whichever way he does: through the tensor, a view of
it, its `data` or numpy.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from covey.messages.payloads import KEPT

_copies_late = hasattr(torch, "_lazy_clone") and hasattr(torch._C, "_is_cow_tensor")
"""Whether torch copies a tensor when it is written to. Both names are its own affair: they came in January 2024, before
2.3, and may go. Without them tensors are copied at once, which takes more memory."""

is_shared: Callable[[Tensor], bool] = (
    torch._C._is_cow_tensor if _copies_late else lambda tensor: False  # type: ignore[attr-defined]
)
"""Whether a tensor that is a copy by `own`, or was copied by it, is sure not to have been written to since."""


def can_be_shared(tensor: Tensor) -> Tensor:
    """The same numbers in memory of torch's own, which alone is copied when somebody writes."""
    return tensor if tensor.untyped_storage().resizable() else tensor.clone()


def own(tensor: Tensor) -> Tensor:
    """The same numbers, to be written to without anybody else seeing it."""
    source = tensor.detach() if tensor.requires_grad else tensor
    return torch._lazy_clone(source) if _copies_late and source.untyped_storage().resizable() else source.clone()


def keep(value: Tensor) -> Tensor:
    """The numbers of a tensor as they are now, whatever becomes of it."""
    if hasattr(value, KEPT):
        return value
    kept = own(value)
    found = getattr(value, "known_finite", None)
    if found is not None and found == value._version:
        kept.known_finite = kept._version  # type: ignore[attr-defined]
    return kept


def readable(tensor: Tensor) -> Tensor:
    """The same numbers for who reads the memory itself, which torch takes for writing, while threads may read them."""
    return tensor.clone() if is_shared(tensor) else tensor


def is_written(own: Tensor, original: Tensor) -> bool:
    """Whether somebody has written to what `own` gave, or to what it was given; `is_shared` may know at once."""
    # Who reads by numpy gets a copy, too.
    return own.shape != original.shape or not torch.equal(_bits(own), _bits(original))


def _bits(tensor: Tensor) -> Tensor:
    """The numbers as such, of which NaN is equal to itself."""
    return tensor.detach().contiguous().view(torch.int32)
