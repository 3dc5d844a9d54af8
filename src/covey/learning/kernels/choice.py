"""The choice of a kernel for a module, its data and its objective."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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
class Choice:
    """The chosen kernel.

    Attributes:
        kernel: its name.
        why_not: the reason against each faster kernel; empty if the user chose.
    """

    kernel: str
    why_not: Mapping[str, str] = field(default_factory=dict)


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
        recipe: the settings of training and evaluation.
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

    def choice(self, asked: str) -> "Choice":
        """The requested kernel or, for "auto", the best one.

        Raises:
            ConfigurationError: the requested kernel cannot compute the model.
        """
        if asked == "auto":
            return self._best()
        refused = f"The kernel {asked} computes"
        module, recipe = self.make(), self.recipe
        if asked == "stacked" and not is_dense(module, self.layout):
            raise ConfigurationError(f"{refused} dense models only, with all parameters trained, not {self.title}.")
        loss = recipe.scoring.loss
        if asked == "stacked" and not loss.is_the_tasks:
            raise ConfigurationError(f"The kernel stacked minimises the task's own loss only, not {loss.title()}.")
        if asked != "module" and recipe.optimizer.steps_modules:
            raise ConfigurationError(
                f"The kernel {asked} steps flat models, as sgd, adam and optimizers of your own do, "
                f"not {recipe.optimizer.title()}."
            )
        if asked != "module" and recipe.mixed:
            raise ConfigurationError(f"{refused} in float32 only, and the 'precision' of the task is bf16.")
        if asked == "vmap" and draws(module):
            raise ConfigurationError(f"{refused} models without dropout, not {self.title}.")
        if asked == "vmap" and self.layout.buffers:
            raise ConfigurationError(f"{refused} models without buffers, not {self.title}.")
        if asked == "vmap" and (refusal := self._vmap_refusal()) is not None:
            raise ConfigurationError(f"The kernel vmap cannot compute the model {self.title}: {refusal}")
        return Choice(asked)

    def _best(self) -> "Choice":
        module = self.make()
        why_not = {}
        if (reason := self._against_stacked(module)) is None:
            return Choice("stacked")
        why_not["stacked"] = reason
        if (reason := self._against_vmap(module)) is None:
            return Choice("vmap", why_not)
        return Choice("module", {**why_not, "vmap": reason})

    def _against_both(self) -> str | None:
        """The reason against the kernels that compute several nodes at once, in any case."""
        if self.recipe.optimizer.steps_modules:
            return f"the optimizer {self.recipe.optimizer.title()} is one of torch"
        return "the precision is bf16" if self.recipe.mixed else None

    def _against_stacked(self, module: nn.Module) -> str | None:
        if not is_dense(module, self.layout):
            return f"the model {self.title} is no dense network of covey's with all parameters trained"
        loss = self.recipe.scoring.loss
        return self._against_both() or (None if loss.is_the_tasks else f"the loss is {loss.title()}")

    def _against_vmap(self, module: nn.Module) -> str | None:
        if (reason := self._against_both()) is not None:
            return reason
        if self.layout.buffers:
            return "the model has buffers"
        if draws(module):
            return "the model has dropout"
        if any(isinstance(layer, nn.RNNBase) for layer in module.modules()):
            return "the model has recurrent layers"
        if self.device.type != "cuda" and not is_narrow(module):
            return "on CPUs, layers of this kind and width are faster one node after the other"
        if self.device.type != "cuda" and self.batch_size > self.fewest:
            return f"a node has fewer samples, {self.fewest}, than a batch, {self.batch_size}"
        if (refusal := self._vmap_refusal()) is not None:
            return f"torch's vmap does not support the model or the loss: {refusal}"
        if self.device.type != "cuda" and not self._vmap_is_independent():
            return "on this processor, results would depend on the nodes that are computed together"
        return None

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
