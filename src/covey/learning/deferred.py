"""Models that are computed when their numbers are needed, so that many are computed together.

In an asynchronous program the time of a training may pass without computing it. Its result, and mixtures of such
results, are `Deferred`: tensors that programs keep, send, mix and train further. The first operation on the numbers of
one computes all that were deferred, level by level (`covey.learning.mixing.levels`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Depth = tuple[int, int]
"""The trainings in sequence on which a value depends, and the mixtures in sequence since the last of them."""
KNOWN: Depth = (0, 0)
"""The depth of a value that is computed."""


class Deferred(Tensor):
    """A model whose numbers are computed when an operation needs them. It must not be written to."""

    found: Tensor | None
    """The model, if it is computed."""
    depth: Depth

    # Facts that need no numbers, without a call of torch for each.
    shape: Any = property(lambda self: self.size_of_model)
    device: Any = property(lambda self: self.place)
    dtype = torch.float32
    layout = torch.strided
    is_meta = False
    _base = None
    _version = 0
    known_finite = 0
    """Trainings are examined when they are computed."""

    @staticmethod
    def of(size: torch.Size, device: torch.device, depth: Depth, compute: Callable[[], None]) -> "Deferred":
        """A deferred model.

        Args:
            size: its shape.
            device: its device.
            depth: its depth.
            compute: computes all deferred models.
        """
        made: Any = torch.Tensor._make_wrapper_subclass(Deferred, size, device=device)
        made.found, made.depth, made._compute = None, depth, compute
        made.size_of_model, made.place = size, device
        return made  # type: ignore[no-any-return]

    def value(self) -> Tensor:
        """The model, computed now if it was not before."""
        if self.found is None:
            self._compute()
            assert self.found is not None
        return self.found

    def become(self, value: Tensor) -> None:
        """Set the numbers, which are computed."""
        self.found, self._compute = value, _nothing

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = {name: _value(argument) for name, argument in kwargs.items()} if kwargs else {}
        return function(*map(_value, args), **named)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = {name: _value(argument) for name, argument in kwargs.items()} if kwargs else {}
        return function(*map(_value, args), **named)


def _nothing() -> None:
    pass


def _value(argument: Any) -> Any:
    """An argument with numbers in place of deferred models."""
    if type(argument) is Deferred:
        return argument.value()
    return type(argument)(map(_value, argument)) if type(argument) in (tuple, list) else argument


class DeferredLoss:
    """The loss of a training that is computed when it is needed, for `float`."""

    __slots__ = ("_compute", "number")

    def __init__(self, compute: Callable[[], None]) -> None:
        self.number: float | None = None
        self._compute = compute

    def __float__(self) -> float:
        if self.number is None:
            self._compute()
            assert self.number is not None
        return self.number
