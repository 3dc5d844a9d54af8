"""What local training minimises: a loss of each sample.

Targets are classes, or what the outputs themselves should be, such as those of a teacher: `kl` and `cross-entropy` take
either, and `mse` and `l1` hold a class to be 1 where its score is and 0 elsewhere.

Shapes: S samples, C classes. The same of sequences, whose outputs are S x T x C, is a mean over the T positions.
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from covey.parts.parameters import Part, param


class Misfit(Exception):
    """Predictions that do not fit their targets; the text goes on after the name of the model."""


class Objective(Part):
    """What local training minimises."""

    family: ClassVar[str] = "objective"

    @property
    def is_the_tasks(self) -> bool:
        """Whether it is the task's own loss, which kernels know by themselves."""
        return False

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample.

        Args:
            outputs: S x C scores, or S values.
            targets: S classes in int64, or numbers in the shape of the outputs.

        Raises:
            Misfit: they do not fit each other.
        """
        raise NotImplementedError


class OwnLoss(Objective):
    """The task's own: the cross-entropy of classes, the squared error of values. Kernels know it by themselves."""

    kind = "own"

    @property
    def is_the_tasks(self) -> bool:
        return type(self).losses is Objective.losses


class CrossEntropy(Objective):
    """The cross-entropy of classes, or of probabilities that are given in their place."""

    kind = "cross-entropy"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        log_p = F.log_softmax(_scores(outputs, self), -1)
        return _mean(-(_as_outputs(outputs, targets) * log_p).sum(-1))


class KL(Objective):
    """The Kullback-Leibler divergence from given scores, both softened by a temperature (Hinton et al., 2015)."""

    kind = "kl"
    temperature: float = param(
        "What scores are divided by; the loss is multiplied by its square, so that gradients keep their size.",
        default=1.0,
        gt=0,
    )

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        log_p = F.log_softmax(_scores(outputs, self) / self.temperature, -1)
        if _are_classes(outputs, targets):
            divergence = -(_as_outputs(outputs, targets) * log_p).sum(-1)
        else:
            log_target = F.log_softmax(targets / self.temperature, -1)
            divergence = (log_target.exp() * (log_target - log_p)).sum(-1)
        return _mean(divergence) * self.temperature**2


class MSE(Objective):
    """The squared difference, a mean over the outputs of a sample."""

    kind = "mse"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return _mean((outputs - _as_outputs(outputs, targets)).square())


class L1(Objective):
    """The absolute difference, a mean over the outputs of a sample."""

    kind = "l1"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return _mean((outputs - _as_outputs(outputs, targets)).abs())


def _are_classes(outputs: Tensor, targets: Tensor) -> bool:
    """Whether targets are classes, one in the place of each row of scores.

    Raises:
        Misfit: they are neither that nor numbers in the shape of the outputs.
    """
    if not isinstance(outputs, Tensor):
        raise Misfit(f"must return a tensor. Got a {type(outputs).__name__} instead")
    if targets.dtype == torch.int64 and targets.shape == outputs.shape[:-1]:
        return True
    if targets.is_floating_point() and targets.shape == outputs.shape:
        return False
    raise Misfit(
        f"predicts {tuple(outputs.shape)} where targets are {tuple(targets.shape)} of {targets.dtype}: they must be "
        f"numbers of the same shape, or classes in int64 without the last dimension"
    )


def _as_outputs(outputs: Tensor, targets: Tensor) -> Tensor:
    """What the outputs should be: of a class, 1 in its place."""
    if _are_classes(outputs, targets):
        # No one_hot: vmap does not carry it.
        return (targets.unsqueeze(-1) == torch.arange(outputs.shape[-1], device=outputs.device)).to(outputs.dtype)
    return targets


def _scores(outputs: Tensor, objective: Objective) -> Tensor:
    """The outputs, which must be a score for each class."""
    if outputs.dim() < 2:
        raise Misfit(f"predicts one number a sample, where the objective {objective.title()} takes scores of classes")
    return outputs


def _mean(losses: Tensor) -> Tensor:
    """The mean over all dimensions but that of the samples."""
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses
