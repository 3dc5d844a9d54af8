"""Which kernel fits a module, its data and what is minimised."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from covey.learning.dataset import Data
from covey.learning.kernels.module import ModuleKernel
from covey.learning.kernels.stacked import StackedKernel
from covey.learning.kernels.vmapped import VmappedKernel
from covey.learning.layout import Layout
from covey.learning.models import Dense
from covey.learning.objectives import Objective
from covey.learning.optimizers import Optimizer
from covey.parts.errors import ConfigurationError

KERNELS: dict[str, type[ModuleKernel]] = {"stacked": StackedKernel, "module": ModuleKernel, "vmap": VmappedKernel}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model for which a kernel is chosen.

    Attributes:
        title: the model's.
        make: makes its module.
        layout: the positions of its tensors in a flat model.
        start: such a flat model, on the device.
        device: where it is computed.
        data: the data set, on the device.
        optimizer: the rule of a step.
        objective: what is minimised; None for the task's own loss.
        batch_size: samples of one step.
        fewest: samples of the node that has the fewest.
    """

    title: str
    make: Callable[[], nn.Module]
    layout: Layout
    start: Tensor
    device: torch.device
    data: Data
    optimizer: Optimizer
    objective: Objective | None
    batch_size: int
    fewest: int

    def kernel(self, asked: str) -> str:
        """The name of the kernel that is asked for, or of the best one where that is "auto".

        Raises:
            ConfigurationError: the one that is asked for cannot compute the model.
        """
        if asked == "auto":
            return self._best()
        refused = f"The kernel {asked} computes"
        module = self.make()
        if asked == "stacked" and not is_dense(module, self.layout):
            raise ConfigurationError(f"{refused} dense models only, with all parameters trained, not {self.title}.")
        if asked == "stacked" and self.objective is not None:
            raise ConfigurationError(
                f"The kernel stacked minimises the task's own loss only, not {self.objective.title()}."
            )
        if asked == "vmap" and draws(module):
            raise ConfigurationError(f"{refused} models without dropout, not {self.title}.")
        if asked == "vmap" and self.layout.buffers:
            raise ConfigurationError(f"{refused} models without buffers, not {self.title}.")
        if asked == "vmap" and (refusal := self._vmap_refusal()) is not None:
            raise ConfigurationError(f"The kernel vmap cannot compute the model {self.title}: {refusal}")
        return asked

    def _best(self) -> str:
        module = self.make()
        if is_dense(module, self.layout) and self.objective is None:
            return "stacked"
        if self.layout.buffers or draws(module) or any(isinstance(layer, nn.RNNBase) for layer in module.modules()):
            return "module"
        if self.device.type == "cuda":
            return "vmap" if self._vmap_refusal() is None else "module"
        # It computes every batch at its full size, however few the samples of a node.
        fitting = is_narrow(module) and self.batch_size <= self.fewest
        return "vmap" if fitting and self._vmap_refusal() is None and self._vmap_is_independent() else "module"

    def _vmap_refusal(self) -> str | None:
        return VmappedKernel.refusal(self.make, self.layout, self.data, self.optimizer, self.start, self.objective)

    def _vmap_is_independent(self) -> bool:
        return VmappedKernel.is_independent(self.make, self.layout, self.data, self.optimizer, self.batch_size)


def is_narrow(module: nn.Module) -> bool:
    """Whether several models at once are faster on CPUs than one after the other, as measured."""
    weighted = [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))]
    return all(
        isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.out_channels <= 16)
        for layer in weighted
    )


def is_dense(module: nn.Module, layout: Layout) -> bool:
    """Whether a module computes what the stacked kernel does: a class derived from `Dense` may do more."""
    return (
        type(module) is Dense
        and all(type(layer) is nn.Linear for layer in module.layers)
        and layout.trainable == layout.size
    )


def draws(module: nn.Module) -> bool:
    """Whether a module has layers that draw random numbers."""
    return any(isinstance(layer, nn.modules.dropout._DropoutNd) for layer in module.modules())


@torch.no_grad()
def moves_generator(module: nn.Module, inputs: Tensor) -> bool:
    """Whether a module in training mode moves torch's generator, though no dropout layer says so."""
    before = torch.get_rng_state()
    try:
        module(inputs)
    except Exception:
        return False  # The first training says what is wrong with it, or it works on the device alone.
    return not torch.equal(before, torch.get_rng_state())
