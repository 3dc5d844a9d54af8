"""The layout of a module in one flat vector: trained parameters, then frozen ones, then buffers.

Constants are not part of the vector. Every training and evaluation starts with the values of the first module that was
built, so that nothing passes from one node to another through a module that both use. Constants are

- buffers registered with `persistent=False`, which follow from the rest of the module;
- buffers that are not floating-point, such as BatchNorm's count of batches;
- buffers and frozen parameters that hold infinity, NaN or numbers too large to be squared, such as attention masks:
  they cannot be averaged. So a flat model is finite at first, and only training can change that.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from covey.parts.pieces import ROLES, Piece


class Layout:
    """The positions of a module's parameters and buffers in a flat model.

    Attributes:
        parameters: the trained pieces, which come first.
        frozen: parameters with `requires_grad=False`. They are neither trained nor sent.
        buffers: floating-point buffers, such as BatchNorm's running statistics.
        constants: the values that are not part of the flat model, by name.
        size: P, the numbers of a flat model.
        trainable: the count of trained numbers, at the front.
        averaged: the index of the first buffer.
    """

    def __init__(self, module: nn.Module) -> None:
        at = 0
        found: list[list[Piece]] = [[], [], []]
        parameters: list[tuple[str, Tensor]] = list(module.named_parameters())
        trained = [(name, p) for name, p in parameters if p.requires_grad]
        frozen = [(name, p) for name, p in parameters if not p.requires_grad and _can_be_averaged(p)]
        persistent = _persistent(module)
        buffers = [(name, b) for name, b in module.named_buffers() if id(b) in persistent and _can_be_averaged(b)]
        for role, pieces, tensors in zip(ROLES, found, (trained, frozen, buffers), strict=True):
            for name, tensor in tensors:
                pieces.append(Piece(name, role, at, at + tensor.numel(), tuple(tensor.shape)))
                at += tensor.numel()
        self.parameters, self.frozen, self.buffers = found
        placed = {piece.name for piece in self.pieces}
        self.constants = {name: t.detach().clone() for name, t in tensors_of(module).items() if name not in placed}
        weights = {id(layer.weight) for layer in module.modules() if type(layer) is nn.Conv2d}
        images = {name for name, parameter in parameters if id(parameter) in weights}
        self._images = [piece for piece in self.pieces if piece.name in images]
        self.size = at
        self.trainable = self.parameters[-1].stop if self.parameters else 0
        self.averaged = self.buffers[0].start if self.buffers else at

    @property
    def pieces(self) -> list[Piece]:
        """All pieces, in order."""
        return [*self.parameters, *self.frozen, *self.buffers]

    def flatten(self, module: nn.Module) -> Tensor:
        """A new flat float32 copy of the module."""
        tensors = tensors_of(module)
        return torch.cat([tensors[piece.name].detach().reshape(-1).float() for piece in self.pieces])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views of a flat model, or of several in rows."""
        return {p.name: flat[..., p.start : p.stop].view((*flat.shape[:-1], *p.shape)) for p in self.pieces}

    def channels_last_views(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views of a flat model, or of its trained part, whose convolutions are channels_last."""
        views = {}
        for piece in self.pieces:
            if piece.stop <= len(flat):
                views[piece.name] = (_channels_last if piece in self._images else _plain)(flat, piece)
        return views

    def to_channels_last(self, flat: Tensor, into: Tensor) -> Tensor:
        """Copy a flat model, or its trained part, into one whose convolution weights are channels_last."""
        into.copy_(flat)
        for piece in self._images:
            if piece.stop <= len(flat):
                _channels_last(into, piece).copy_(_plain(flat, piece))
        return into

    def from_channels_last(self, flat: Tensor) -> Tensor:
        """A new flat model, or its trained part, from one whose convolution weights are channels_last."""
        found = flat.clone()
        for piece in self._images:
            if piece.stop <= len(flat):
                _plain(found, piece).copy_(_channels_last(flat, piece))
        return found

    def bind(self, module: nn.Module, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Make the module's parameters and buffers views of `flat`. A tensor with several names stays one tensor.

        Args:
            module: the module.
            flat: a flat model whose convolution weights are channels_last.

        Returns:
            The module's constants, each with its initial value.
        """
        tensors = tensors_of(module)
        for name, view in self.channels_last_views(flat).items():
            tensors[name].data = view
        constants = [(tensors[name], value.to(flat.device)) for name, value in self.constants.items()]
        for tensor, value in constants:
            tensor.data = value.clone()
        return constants


def _plain(flat: Tensor, piece: Piece) -> Tensor:
    return flat[piece.start : piece.stop].view(piece.shape)


def _channels_last(flat: Tensor, piece: Piece) -> Tensor:
    out, into, height, width = piece.shape
    return flat[piece.start : piece.stop].view(out, height, width, into).permute(0, 3, 1, 2)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of a module once, by its first name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _persistent(module: nn.Module) -> set[int]:
    """The ids of the buffers in a module's state dict."""
    return {
        id(buffer)
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False, remove_duplicate=False)
        if name not in owner._non_persistent_buffers_set
    }


def _can_be_averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.detach().float().square().sum().isfinite())


def own_rows(models: Tensor) -> Sequence[Tensor]:
    """The rows of K x P models in separate memory, so that keeping one does not keep all."""
    return [row.clone() for row in models.unbind()]
