"""How a module lies in one flat vector: the parameters that are trained, then the others, then its buffers."""

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
        frozen: parameters with `requires_grad=False`: averaged like the others, moved by no optimiser.
        buffers: floating-point buffers, such as BatchNorm's running statistics. They are part of the flat model, so
            they are averaged as numbers; integer buffers stay with the module.
        size: P, how many numbers a flat model has.
        trainable: how many of them, from the front, are trained.
    """

    def __init__(self, module: nn.Module) -> None:
        at = 0
        found: list[list[Piece]] = [[], [], []]
        parameters: list[tuple[str, Tensor]] = list(module.named_parameters())
        trained = [(name, p) for name, p in parameters if p.requires_grad]
        frozen = [(name, p) for name, p in parameters if not p.requires_grad]
        buffers = [(name, b) for name, b in module.named_buffers() if b.is_floating_point()]
        for pieces, tensors in zip(found, (trained, frozen, buffers), strict=True):
            for name, tensor in tensors:
                pieces.append(Piece(name, at, at + tensor.numel(), tensor.shape))
                at += tensor.numel()
        self.parameters, self.frozen, self.buffers = found
        self.size = at
        self.trainable = self.parameters[-1].stop if self.parameters else 0

    @property
    def pieces(self) -> list[Piece]:
        """All pieces, in their order."""
        return [*self.parameters, *self.frozen, *self.buffers]

    def flatten(self, module: nn.Module) -> Tensor:
        """A new flat float32 copy of the module."""
        tensors = _tensors(module)
        return torch.cat([tensors[piece.name].detach().reshape(-1).float() for piece in self.pieces])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views of a flat model, or of several in rows."""
        return {p.name: flat[..., p.start : p.stop].view((*flat.shape[:-1], *p.shape)) for p in self.pieces}

    def bind(self, module: nn.Module, flat: Tensor) -> None:
        """Make the module's parameters and buffers views of `flat`; a tensor with several names stays one tensor."""
        tensors = _tensors(module)
        for name, view in self.views(flat).items():
            tensors[name].data = view


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of a module once, under the first of its names."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def own_rows(models: Tensor) -> Sequence[Tensor]:
    """The rows of K x P models, each with memory of its own, so that keeping one does not keep all."""
    if models.device.type == "cpu":
        # Measured on 90 floats a row: 1.5 µs a row, against 3 for `clone` of each and 5 for torch's `unbind_copy`.
        return [torch.from_numpy(row.copy()) for row in models.numpy()]
    return [row.clone() for row in models]
