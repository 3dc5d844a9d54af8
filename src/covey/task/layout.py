"""How a module lies in one flat vector: its parameters in their order, then its floating-point buffers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Piece:
    """One parameter or buffer and its place."""

    name: str
    start: int
    stop: int
    shape: torch.Size


class Layout:
    """The places of a module's parameters and buffers in a flat model.

    Attributes:
        parameters: the trainable pieces; they come first.
        buffers: floating-point buffers, such as BatchNorm's running statistics. They are part of the flat model, so
            they are averaged as numbers; integer buffers stay with the module.
        size: P, how many numbers a flat model has.
        trainable: how many of them, from the front, are parameters.
    """

    def __init__(self, module: nn.Module) -> None:
        at = 0
        found: list[list[Piece]] = [[], []]
        parameters: list[tuple[str, Tensor]] = list(module.named_parameters())
        buffers = [(name, b) for name, b in module.named_buffers() if b.is_floating_point()]
        for pieces, tensors in zip(found, (parameters, buffers), strict=True):
            for name, tensor in tensors:
                pieces.append(Piece(name, at, at + tensor.numel(), tensor.shape))
                at += tensor.numel()
        self.parameters, self.buffers = found
        self.size = at
        self.trainable = self.parameters[-1].stop if self.parameters else 0

    def flatten(self, module: nn.Module) -> Tensor:
        """A new flat float32 copy of the module."""
        tensors = [p.detach() for p in module.parameters()] + [b for b in module.buffers() if b.is_floating_point()]
        return torch.cat([tensor.reshape(-1).float() for tensor in tensors])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views of a flat model, or of several in rows."""
        pieces = (*self.parameters, *self.buffers)
        return {p.name: flat[..., p.start : p.stop].view(*flat.shape[:-1], *p.shape) for p in pieces}

    def bind(self, module: nn.Module, flat: Tensor) -> None:
        """Make the module's parameters and buffers views of `flat`."""
        for piece, parameter in zip(self.parameters, module.parameters(), strict=True):
            parameter.data = flat[piece.start : piece.stop].view(piece.shape)
        for piece in self.buffers:
            owner, _, name = piece.name.rpartition(".")
            setattr(module.get_submodule(owner), name, flat[piece.start : piece.stop].view(piece.shape))


def own_rows(models: Tensor) -> Sequence[Tensor]:
    """The rows of K x P models, each with memory of its own, so that keeping one does not keep all."""
    if models.device.type == "cpu":
        # Measured on 90 floats a row: 1.5 µs a row, against 3 for `clone` of each and 5 for torch's `unbind_copy`.
        return [torch.from_numpy(row.copy()) for row in models.numpy()]
    return [row.clone() for row in models]
