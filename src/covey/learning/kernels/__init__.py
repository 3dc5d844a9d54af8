"""Kernels: the tensor programs that train and evaluate models, chosen by model family and device."""

from covey.learning.kernels.kernel import Chunk, Kernel, Recipe, Trained
from covey.learning.kernels.module import ModuleKernel
from covey.learning.kernels.private import Privacy, PrivateKernel
from covey.learning.kernels.stacked import StackedKernel
from covey.learning.kernels.vmapped import VmappedKernel

__all__ = [
    "Chunk",
    "Kernel",
    "ModuleKernel",
    "Privacy",
    "PrivateKernel",
    "Recipe",
    "StackedKernel",
    "Trained",
    "VmappedKernel",
]
