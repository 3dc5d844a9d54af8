"""Lazy sums of models, which are computed when they are needed."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from covey.learning.deferred import KNOWN, Deferred, Depth
from covey.learning.sums import gathered, rounded_sums
from covey.parts.native import kernels

SHORT = 100
"""The greatest number of models that are added in float32."""


class Pull(NamedTuple):
    """A weighted step of some numbers of a model towards other values. Each index occurs once."""

    indices: Tensor
    values: Tensor
    weight: float


class Mixture:
    """A linear combination of models, sum of weights[k] * models[k], that the engine computes later.

    `node.model = Mixture(...)` is the cheapest way to average: the mixtures of all nodes are computed together.

    Args:
        models: the models.
        weights: the weight of each model.
        pulls: each adds weight * (values - models[0][indices]) at its indices. So a sender of a part of a model is
            averaged there, and the own numbers take the place of the rest.
    """

    __slots__ = ("later", "models", "pulls", "value", "weights")

    def __init__(self, models: Sequence[Tensor], weights: Sequence[float], pulls: Sequence[Pull] = ()) -> None:
        self.models: Sequence[Tensor] | None = models
        self.weights = weights
        self.pulls = pulls
        self.value: Tensor | None = None
        self.later: Deferred | None = None
        """The combination as a tensor that is computed when it is needed, if a program has it."""

    def tensor(self) -> Tensor:
        """The combination, computed now if it was not before."""
        self.settle()
        if self.value is None:
            assert self.models is not None
            own = self.models[0]
            if self.is_long and own.device.type == "cpu":
                (total,) = rounded_sums(gathered([(self.models, self.weights)], np.float64), one_by_one)
            else:
                total = torch.mul(own.double() if self.is_long else own, self.weights[0])
                for model, weight in zip(self.models[1:], self.weights[1:], strict=True):
                    total.add_(model, alpha=weight)
            return self.finish(total.to(own.dtype))
        return self.value

    def finish(self, total: Tensor) -> Tensor:
        """Set the result, with the pulls applied to the sum of all models, in place."""
        assert self.models is not None
        for pull in self.pulls:
            draw(total, self.models[0], pull)
        self.fix(total)
        return total

    def settle(self) -> None:
        """Compute the models that are deferred; this combination, too, if it waits for the same."""
        models = self.models
        if models is not None and any(type(model) is Deferred for model in models):
            settled = [*map(computed, models)]
            if self.models is not None:
                self.models = settled

    @property
    def is_long(self) -> bool:
        """True if it has so many models that they are added in float64, and rounded once: errors of float32 add up."""
        return self.models is not None and len(self.models) > SHORT

    def plus(self, models: Sequence[Tensor], weights: Sequence[float]) -> "Mixture":
        """This combination with further terms."""
        if self.models is None:
            return Mixture([self.tensor(), *models], [1.0, *weights])
        return Mixture([*self.models, *models], [*self.weights, *weights], self.pulls)

    def kept(self, keep: Callable[[Tensor], Tensor]) -> "Mixture":
        """The same combination of tensors that are never written to again.

        Args:
            keep: returns such a copy of a tensor.
        """
        assert self.models is not None
        pulls = [Pull(keep(indices), keep(values), weight) for indices, values, weight in self.pulls]
        return Mixture([*map(keep, self.models)], [*self.weights], pulls)

    def fix(self, value: Tensor) -> None:
        """Set the result, and drop models and pulls."""
        self.value = value
        self.models = None
        self.pulls = ()
        if self.later is not None:
            self.later.become(value)


def one_by_one(pieces: Sequence[Callable[[], None]]) -> None:
    """Call functions in this thread."""
    for piece in pieces:
        piece()


def draw(total: Tensor, own: Tensor, pull: Pull) -> None:
    """Apply a pull of the own model to a sum, in place."""
    native, wholes = kernels(), (total, own, pull.values)
    if (
        native is not None
        and all(map(_is_plain, (*wholes, pull.indices)))
        and all(whole.dtype == torch.float32 for whole in wholes)
        and pull.indices.dtype == torch.int64
        and native.pull(total.numpy(), own.numpy(), pull.indices.numpy(), pull.values.numpy(), pull.weight)
    ):
        return
    draw_with_torch(total, own, pull)


def _is_plain(tensor: Tensor) -> bool:
    """True if a tensor is a contiguous vector on the CPU without gradient."""
    return tensor.device.type == "cpu" and tensor.dim() == 1 and tensor.is_contiguous() and not tensor.requires_grad


def draw_with_torch(total: Tensor, own: Tensor, pull: Pull) -> None:
    """Apply a pull with torch: the reference of `draw`."""
    indices = pull.indices.to(own.device)
    total.scatter_add_(0, indices, own.index_select(0, indices).sub_(pull.values).mul_(-pull.weight))


def computed(model: Any) -> Tensor:
    """The model itself, or the value of a mixture or of a deferred model."""
    if isinstance(model, Mixture):
        return model.tensor()
    return model.value() if type(model) is Deferred else model


def depth_of(model: Tensor | Mixture) -> Depth:
    """The depth of a model among those that are not computed."""
    if type(model) is Deferred:
        return model.depth if model.found is None else KNOWN
    if isinstance(model, Mixture) and model.models is not None:
        trainings, mixtures = max(map(depth_of, model.models))
        return trainings, mixtures + 1
    return KNOWN
