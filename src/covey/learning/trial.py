"""A trial of a model and its data before a run, so that mistakes show before the first training."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from covey.learning.dataset import Data, Split
from covey.learning.kernels import Chunk, ModuleKernel, Recipe
from covey.learning.layout import Layout, tensors_of
from covey.learning.optimizers import Differentiation
from covey.parts.errors import ConfigurationError, DataError

_TARGETS = {"classes": torch.int64, "sequence": torch.int64, "values": torch.float32}
_ARE = {
    "classes": "a class per sample",
    "sequence": "a class for each position of a sample",
    "values": "the numbers of each sample",
}


def check_targets(data: Data, title: str) -> None:
    """Refuse targets that do not fit the data set's objective.

    Args:
        data: the data set.
        title: its title, for the error.

    Raises:
        DataError: the targets have another shape or type.
    """
    dtype, shape = _TARGETS[data.objective], data.train.targets.shape[1:]
    what = "a number per sample" if data.objective == "values" and shape in ((), (1,)) else _ARE[data.objective]
    for name, split in (("training", data.train), ("test", data.test)):
        targets, samples = split.targets, len(split)
        wanted: tuple[int | str, ...] = (samples,)
        if data.objective == "sequence":
            wanted = tuple(targets.shape) if targets.dim() > 1 else (samples, "...")
        elif data.objective == "values" and shape != (1,):
            wanted = (samples, *shape)
        if tuple(targets.shape) != wanted or len(targets) != samples or targets.dtype != dtype:
            of = f"({', '.join(map(str, wanted))}{',' * (len(wanted) == 1)})"
            raise DataError(
                f"The {name} targets of the dataset {title} must be {_name(dtype)} of {of}, {what}. "
                f"Got {_name(targets.dtype)} of {tuple(targets.shape)} instead."
            )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def try_out(
    make: Callable[[], nn.Module],
    layout: Layout,
    data: Data,
    model: Tensor,
    samples: Tensor,
    recipe: Recipe,
) -> None:
    """Train a model for one step on one batch, and evaluate it on that.

    Args:
        make: makes the module.
        layout: its layout.
        data: the data set.
        model: the flat model.
        samples: the indices of the batch in the training data.
        recipe: the settings of training and evaluation.

    Raises:
        Exception: the module's own error, or `Misfit` if its predictions do not fit the targets.
    """
    few = Split(data.train.inputs[samples], data.train.targets[samples])
    kernel = ModuleKernel(
        make, layout, replace(data, train=few, test=few), replace(recipe, optimizer=Differentiation())
    )
    chunk = Chunk(
        starts=[model],
        samples=torch.arange(len(few), device=model.device).view(1, 1, -1),
        ragged=False,
        steps=[1],
        lr=torch.zeros(1, 1, device=model.device),
        proximal=0.0,
        slots={},
    )
    kernel.train(chunk)
    kernel.evaluate([model], few)


def check_layers(module: nn.Module, title: str) -> None:
    """Refuse layers that a flat model cannot represent."""
    for name, tensor in tensors_of(module).items():
        if torch.nn.parameter.is_lazy(tensor):
            raise ConfigurationError(
                f"The {name!r} of the model {title} must have a shape from the start. "
                f"Got a lazy one instead: give its layer all sizes."
            )
    for name, layer in module.named_modules():
        cumulative = isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.momentum is None
        if cumulative and layer.training and layer.track_running_stats:
            raise ConfigurationError(
                f"The 'momentum' of BatchNorm {name!r} in the model {title} must be a number: with None it "
                "averages over all batches that it has counted, and a flat model has no counts."
            )


def check_numbers(module: nn.Module, layout: Layout, title: str) -> None:
    """Refuse tensors that are not float32."""
    tensors = tensors_of(module)
    for piece in layout.pieces:
        dtype = tensors[piece.name].dtype
        if dtype != torch.float32:
            raise ConfigurationError(
                f"The {piece.name!r} of the model {title} must be torch.float32. "
                f"Got {dtype} instead: call 'float()' on the module."
            )
