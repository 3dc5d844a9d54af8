"""The choice of a kernel for a module, its data and its objective."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from covey.learning.dataset import Data
from covey.learning.kernels.kernel import Recipe
from covey.learning.kernels.module import ModuleKernel
from covey.learning.kernels.stacked import StackedKernel
from covey.learning.kernels.vmapped import VmappedKernel
from covey.learning.layout import Layout
from covey.learning.models import Dense
from covey.parts.errors import ConfigurationError

KERNELS: dict[str, type[ModuleKernel]] = {"stacked": StackedKernel, "module": ModuleKernel, "vmap": VmappedKernel}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model for which a kernel is chosen.

    Attributes:
        title: the title of the model.
        make: makes its module.
        layout: the positions of its tensors in a flat model.
        start: a flat model, on the device.
        device: the device.
        data: the data set, on the device.
        recipe: how models are trained and judged.
        batch_size: the samples of one step.
        fewest: the samples of the node with fewest.
    """

    title: str
    make: Callable[[], nn.Module]
    layout: Layout
    start: Tensor
    device: torch.device
    data: Data
    recipe: Recipe
    batch_size: int
    fewest: int

    def kernel(self, asked: str) -> str:
        """The name of the requested kernel or, for "auto", of the best one.

        Raises:
            ConfigurationError: the requested kernel cannot compute the model.
        """
        if asked == "auto":
            return self._best()
        refused = f"The kernel {asked} computes"
        module = self.make()
        if asked == "stacked" and not is_dense(module, self.layout):
            raise ConfigurationError(f"{refused} dense models only, with all parameters trained, not {self.title}.")
        loss = self.recipe.scoring.loss
        if asked == "stacked" and not loss.is_the_tasks:
            raise ConfigurationError(f"The kernel stacked minimises the task's own loss only, not {loss.title()}.")
        if asked == "vmap" and draws(module):
            raise ConfigurationError(f"{refused} models without dropout, not {self.title}.")
        if asked == "vmap" and self.layout.buffers:
            raise ConfigurationError(f"{refused} models without buffers, not {self.title}.")
        if asked == "vmap" and (refusal := self._vmap_refusal()) is not None:
            raise ConfigurationError(f"The kernel vmap cannot compute the model {self.title}: {refusal}")
        return asked

    def _best(self) -> str:
        module = self.make()
        if is_dense(module, self.layout) and self.recipe.scoring.loss.is_the_tasks:
            return "stacked"
        if self.layout.buffers or draws(module) or any(isinstance(layer, nn.RNNBase) for layer in module.modules()):
            return "module"
        if self.device.type == "cuda":
            return "vmap" if self._vmap_refusal() is None else "module"
        # vmap computes every batch at its full size, even if a node has fewer samples.
        fitting = is_narrow(module) and self.batch_size <= self.fewest
        return "vmap" if fitting and self._vmap_refusal() is None and self._vmap_is_independent() else "module"

    def _vmap_refusal(self) -> str | None:
        return VmappedKernel.refusal(self.make, self.layout, self.data, self.recipe, self.start)

    def _vmap_is_independent(self) -> bool:
        return VmappedKernel.is_independent(self.make, self.layout, self.data, self.recipe, self.batch_size)


def is_narrow(module: nn.Module) -> bool:
    """True if several models at once were faster on CPUs than one after the other, in measurements."""
    weighted = [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))]
    return all(
        isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.out_channels <= 16)
        for layer in weighted
    )


def is_dense(module: nn.Module, layout: Layout) -> bool:
    """True if a module is one that the stacked kernel computes. A subclass of `Dense` may be different."""
    return (
        type(module) is Dense
        and all(type(layer) is nn.Linear for layer in module.layers)
        and layout.trainable == layout.size
    )


def draws(module: nn.Module) -> bool:
    """True if a module has dropout layers, which draw random numbers."""
    return any(isinstance(layer, nn.modules.dropout._DropoutNd) for layer in module.modules())


@torch.no_grad()
def moves_generator(module: nn.Module, inputs: Tensor) -> bool:
    """True if a module without dropout layers draws from torch's generator in training mode."""
    before = torch.get_rng_state()
    try:
        module(inputs)
    except Exception:
        return False  # The first training raises the error, unless the module works only on the device.
    return not torch.equal(before, torch.get_rng_state())
