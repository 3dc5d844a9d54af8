"""Which kernel fits a module."""

import torch

from covey.learning.layout import Layout
from covey.learning.models import Dense


def is_narrow(module: torch.nn.Module) -> bool:
    """Whether several models at once are faster on CPUs than one after the other, as measured."""
    weighted = [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))]
    return all(
        isinstance(layer, torch.nn.Linear) or (isinstance(layer, torch.nn.Conv2d) and layer.out_channels <= 16)
        for layer in weighted
    )


def is_dense(module: torch.nn.Module, layout: Layout) -> bool:
    """Whether a module computes what the stacked kernel does: a class derived from `Dense` may do more."""
    return (
        type(module) is Dense
        and all(type(layer) is torch.nn.Linear for layer in module.layers)
        and layout.trainable == layout.size
    )


def draws(module: torch.nn.Module) -> bool:
    """Whether a module has layers that draw random numbers."""
    return any(isinstance(layer, torch.nn.modules.dropout._DropoutNd) for layer in module.modules())
