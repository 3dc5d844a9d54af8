"""Samples with several inputs, such as ids and a mask: one row of numbers each, which modules get by name.

All that handles samples handles one tensor. A module gets the inputs under the names of its `forward`.

Shapes: S samples.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from covey.parts.errors import DataError

_EXACT = 1 << 24
"""Whole numbers below this are the same in float32."""


@dataclass(frozen=True)
class Field:
    """One input of a sample.

    Attributes:
        name: its name.
        shape: its shape.
        dtype: its type, as a module takes it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """The number of values in the input."""
        return math.prod(self.shape)


def packed(inputs: Mapping[str, Tensor], what: str) -> tuple[Tensor, tuple[Field, ...]]:
    """Inputs of S samples as S rows of numbers, and where they lie in these.

    Args:
        inputs: each as a module takes it.
        what: the inputs, for the beginning of a sentence.

    Raises:
        DataError: whole numbers are too large to stand beside others.
    """
    fields = tuple(Field(name, tuple(x.shape[1:]), str(x.dtype).removeprefix("torch.")) for name, x in inputs.items())
    mixed = any(x.is_floating_point() for x in inputs.values())
    for name, x in inputs.items():
        if mixed and x.dtype == torch.int64 and x.numel() and int(x.abs().max()) >= _EXACT:
            raise DataError(f"{what} must have ids below {_EXACT:,} beside numbers. Got {int(x.max()):,} in {name!r}.")
    rows = [x.reshape(len(x), -1).to(torch.float32 if mixed else torch.int64) for x in inputs.values()]
    return torch.cat(rows, 1), fields


def unpack(module: nn.Module, fields: Sequence[Field]) -> None:
    """Let a module that is called with packed rows have its inputs by name."""
    ends = list(accumulate((field.size for field in fields), initial=0))

    def by_name(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (rows,) = args
        named = {}
        for field, start, stop in zip(fields, ends, ends[1:], strict=False):
            piece = rows[..., start:stop].reshape(*rows.shape[:-1], *field.shape)
            named[field.name] = piece.to(getattr(torch, field.dtype))
        return (), {**kwargs, **named}

    hook: Callable[..., Any] = by_name
    module.register_forward_pre_hook(hook, with_kwargs=True)
