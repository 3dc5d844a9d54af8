"""Kernels: the tensor programs that train and evaluate models, chosen by model family and device."""

from covey.task.kernels.kernel import Chunk, Kernel, Misfit, Trained
from covey.task.kernels.module import ModuleKernel
from covey.task.kernels.stacked import StackedKernel
from covey.task.kernels.vmapped import VmappedKernel

__all__ = ["Chunk", "Kernel", "Misfit", "ModuleKernel", "StackedKernel", "Trained", "VmappedKernel"]
