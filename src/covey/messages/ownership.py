"""Ownership of tensors that are sent and received.

A receiver may write to its tensor without effect on others, and so may the sender to the original. Each holds a
copy-on-write copy. It takes memory at the first write, through the tensor, a view of it, its `data` or numpy.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from covey.messages.payloads import KEPT

_copies_late = hasattr(torch, "_lazy_clone") and hasattr(torch._C, "_is_cow_tensor")
"""True if torch has copy-on-write. Both names are private to torch: they came in January 2024, before 2.3, and may
disappear. Without them tensors are copied at once, which takes more memory."""

is_shared: Callable[[Tensor], bool] = (
    torch._C._is_cow_tensor if _copies_late else lambda tensor: False  # type: ignore[attr-defined]
)
"""True if a copy by `own`, or its original, has certainly not been written to since."""


def can_be_shared(tensor: Tensor) -> Tensor:
    """The same numbers in memory that torch allocated: only such memory supports copy-on-write."""
    return tensor if tensor.untyped_storage().resizable() else tensor.clone()


def own(tensor: Tensor) -> Tensor:
    """A copy that can be written to without effect on the original."""
    source = tensor.detach() if tensor.requires_grad else tensor
    return torch._lazy_clone(source) if _copies_late and source.untyped_storage().resizable() else source.clone()


def keep(value: Tensor) -> Tensor:
    """A snapshot of a tensor, which later writes to the tensor do not change."""
    if hasattr(value, KEPT):
        return value
    kept = own(value)
    found = getattr(value, "known_finite", None)
    if found is not None and found == value._version:
        kept.known_finite = kept._version  # type: ignore[attr-defined]
    return kept


def readable(tensor: Tensor) -> Tensor:
    """The same numbers for access to the memory itself, which torch counts as a write. Threads may read meanwhile."""
    return tensor.clone() if is_shared(tensor) else tensor


def is_written(own: Tensor, original: Tensor) -> bool:
    """True if a copy by `own` or its original was written to. `is_shared` is a fast first test."""
    # A read by numpy breaks the sharing, too, so the numbers decide.
    return own.shape != original.shape or not torch.equal(_bits(own), _bits(original))


def _bits(tensor: Tensor) -> Tensor:
    """The bits of the numbers, so that NaN equals itself."""
    return tensor.detach().contiguous().view(torch.int32)
