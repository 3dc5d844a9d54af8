"""Objectives of local training: losses of each sample.

Targets are classes, or outputs such as those of a teacher. All objectives take either: `mse` and `l1` take a class as a
one-hot vector.

Shapes: S samples, C classes. The loss of a sample with several positions, such as a sequence, is the mean over them.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, build, param
from covey.parts.signatures import Wrapped, wrapped


class Misfit(Exception):
    """Predictions that do not fit their targets. The text continues a sentence that begins with the model's name."""


class Objective(Part):
    """The loss that local training minimises."""

    family: ClassVar[str] = "objective"
    classes_last: ClassVar[bool] = False
    """True if the scores of classes must be in the last dimension; others take the outputs of the module."""

    @classmethod
    def shorthand(cls, value: object) -> "Objective | None":
        return build(cls, {"kind": value}) if callable(value) else None

    @classmethod
    def adopt(cls, name: str, found: Any) -> "type[Objective] | None":
        """A user's own function, or a loss of torch, made an objective of the name under which it was found."""
        if isinstance(found, type):
            return wrapped(ClassObjective, name, found, asks=_REDUCTION) if issubclass(found, nn.Module) else None
        return wrapped(FunctionObjective, name, found, positions=2) if callable(found) else None

    @property
    def is_the_tasks(self) -> bool:
        """True if it is the task's own loss, which kernels have built in."""
        return False

    @property
    def ignored(self) -> int | None:
        """The class that losses and metrics leave out, beside that of the data set; None for none."""
        return None

    def check_targets(self, targets: Tensor, name: str) -> None:
        """Raise ConfigurationError if the targets of a data set make no sense with this loss.

        Args:
            targets: the targets of a split, at least one.
            name: the split, as messages call it.
        """

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample, or of each position or output of it.

        Args:
            outputs: S x C scores, or S values.
            targets: S int64 classes, or numbers of the shape of the outputs.

        Raises:
            Misfit: outputs and targets do not fit each other.
        """
        raise NotImplementedError

    def of_samples(self, outputs: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
        """The loss of each sample: the mean over its positions.

        Args:
            outputs, targets: see `losses`.
            counted: true for each target whose loss counts; the loss of the others is 0. By default all count.

        Raises:
            Misfit: outputs and targets do not fit each other, or the losses are not those of the samples.
        """
        found = self.losses(outputs, targets)
        if not isinstance(found, Tensor) or found.shape[:1] != targets.shape[:1]:
            got = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise Misfit(
                f"is trained by the objective {self.title()}, which must give a loss for each of {len(targets)} "
                f"samples. Got {got} instead: torch's losses do with reduction='none'"
            )
        if not found.is_floating_point() or (outputs.requires_grad and not found.requires_grad):
            got = "one without a gradient" if found.is_floating_point() else f"one of {found.dtype}"
            raise Misfit(
                f"is trained by the objective {self.title()}, which must give a loss that is computed from the outputs "
                f"by operations of torch. Got {got} instead"
            )
        if counted is None:
            return mean_of_samples(found)
        if found.dim() < counted.dim():  # The loss of a sample, by the share of its positions that count.
            return found * mean_of_samples(counted.to(found.dtype))
        counted = counted.reshape(*counted.shape, *[1] * (found.dim() - counted.dim()))
        return mean_of_samples(found.where(counted, 0.0))


class OwnLoss(Objective):
    """The task's own loss: the cross-entropy of classes, or the squared error of values."""

    kind = "own"

    @property
    def is_the_tasks(self) -> bool:
        return type(self).losses is Objective.losses


class CrossEntropy(Objective):
    """The cross-entropy with classes, or with given probabilities."""

    kind = "cross-entropy"
    classes_last = True
    ignore_index: int | None = param("The class that losses and metrics leave out; none by default.", default=None)

    @property
    def ignored(self) -> int | None:
        return self.ignore_index

    def check_targets(self, targets: Tensor, name: str) -> None:
        if not targets.is_floating_point():
            return
        low, total = float(targets.min()), targets.sum(-1)
        if targets.dim() < 2 or low < 0 or not torch.allclose(total, torch.ones_like(total), atol=1e-3):
            raise ConfigurationError(
                f"The {name} targets of the loss {self.title()} must be classes, or probabilities with a sum of 1. "
                f"Got numbers from {low:.4g} to {float(targets.max()):.4g} instead: 'mse' and 'l1' take any."
            )

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        scores = _scores(outputs, self)
        if _are_classes(outputs, targets):
            return F.cross_entropy(scores.movedim(-1, 1), targets, reduction="none")
        log_p = F.log_softmax(scores, -1)
        return -(targets * log_p).sum(-1)


class KL(Objective):
    """The Kullback-Leibler divergence from given scores, both softened by a temperature (Hinton et al., 2015)."""

    kind = "kl"
    classes_last = True
    temperature: float = param(
        "The divisor of scores. The loss is multiplied by its square, so that gradients keep their size.",
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
        return divergence * self.temperature**2


class MSE(Objective):
    """The mean squared difference over the outputs of a sample."""

    kind = "mse"
    classes_last = True

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - _as_outputs(outputs, targets)).square()


class L1(Objective):
    """The mean absolute difference over the outputs of a sample."""

    kind = "l1"
    classes_last = True

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - _as_outputs(outputs, targets)).abs()


class _Called(Wrapped, Objective):
    """A loss that leaves out the targets that its parameter `ignore_index` names, if it has one."""

    @property
    def ignored(self) -> int | None:
        return getattr(self, "ignore_index") if "ignore_index" in self.takes else None  # noqa: B009


class FunctionObjective(_Called):
    """A function of the user's own: `(outputs, targets, **parameters) -> a loss for each sample`."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = self.wraps(outputs, targets, **self.arguments())
        return found


_REDUCTION = ("reduction", "size_average", "reduce")
"""Parameters of torch's losses that say how they become one number."""


class ClassObjective(_Called):
    """A module that takes outputs and targets, such as `torch.nn:HuberLoss`."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        reduction = {"reduction": "none"} if "reduction" in self.asks else {}
        arguments = {
            name: torch.tensor(value, dtype=torch.float32, device=outputs.device) if _is_listed(value) else value
            for name, value in self.arguments().items()
        }  # Losses of torch take the weights of classes as a tensor.
        found: Tensor = self.wraps(**arguments, **reduction)(outputs, targets)
        return found


def _is_listed(value: object) -> bool:
    """True if it is a list of numbers."""
    return isinstance(value, list | tuple) and all(isinstance(entry, int | float) for entry in value)


def _are_classes(outputs: Tensor, targets: Tensor) -> bool:
    """True if targets are classes, one per row of scores.

    Raises:
        Misfit: they are neither classes nor numbers of the shape of the outputs.
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
    """Targets in the shape of the outputs. A class becomes a one-hot vector."""
    if _are_classes(outputs, targets):
        # vmap does not support one_hot.
        return (targets.unsqueeze(-1) == torch.arange(outputs.shape[-1], device=outputs.device)).to(outputs.dtype)
    return targets


def _scores(outputs: Tensor, objective: Objective) -> Tensor:
    """The outputs, after a check that they have a score for each class."""
    if outputs.dim() < 2:
        raise Misfit(f"predicts one number per sample, but the objective {objective.title()} takes scores of classes")
    return outputs


def mean_of_samples(losses: Tensor) -> Tensor:
    """The mean over all dimensions but the first."""
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses
