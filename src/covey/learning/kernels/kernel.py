"""The interface of kernels: their inputs and results.

Shapes: J trainings of a chunk, T steps, B samples of a batch, P parameters, S samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covey.learning.dataset import Data, Split
from covey.learning.layout import Layout
from covey.learning.node import Metrics
from covey.learning.objectives import Misfit, Objective
from covey.learning.optimizers import Optimizer, Slots

_AHEAD_BYTES = 1 << 26


@dataclass(slots=True)
class Chunk:
    """Trainings that are computed together.

    Attributes:
        starts: J models of P numbers, which must not be changed.
        samples: J x T x B indices into the training data, padded with -1.
        ragged: True if there is any -1 before the last step of a training.
        steps: the number of steps of each training, J, in decreasing order.
        lr: the learning rates, J x 1.
        proximal: the weight of the proximal term.
        slots: the optimiser's state of the J models.
        objective: the objective; None for the task's own loss.
        corrections: vectors that are added to every gradient, J x trained numbers.
        given: the samples into which `samples` are indices, instead of the training data.
        weights: the weight of the loss of each given sample.
    """

    starts: Sequence[Tensor]
    samples: Tensor
    ragged: bool
    steps: Sequence[int]
    lr: Tensor
    proximal: float
    slots: Slots
    objective: Objective | None = None
    corrections: Tensor | None = None
    given: Split | None = None
    weights: Tensor | None = None

    @property
    def is_bare(self) -> bool:
        """True if there is neither a proximal term nor a correction."""
        return not self.proximal and self.corrections is None

    def active(self, step: int) -> int:
        """The number of trainings, from the front, that make this step."""
        if self.steps[-1] > step:
            return len(self.steps)
        return sum(steps > step for steps in self.steps)


class Trained(NamedTuple):
    """The result of a chunk."""

    models: Sequence[Tensor]
    """The J models in separate memory, so that keeping one does not keep the others."""
    losses: Tensor
    """The sum of the loss over the samples used, J."""
    finite: Tensor
    """True for each model that is finite, J."""


class Kernel(ABC):
    """Trains and evaluates models of one module on one device. It is called from several threads at once.

    Args:
        make: makes a module, with any weights.
        layout: its layout in a flat model.
        data: the data set, on the device.
        optimizer: the rule of a step.
    """

    chunk: int = 1
    """The best number of trainings to compute together."""

    def __init__(self, make: Callable[[], nn.Module], layout: Layout, data: Data, optimizer: Optimizer) -> None:
        self.make = make
        self.layout = layout
        self.data = data
        self.optimizer = optimizer
        self.train_split = _scaled_ahead(data.train, data)
        self.test_split = _scaled_ahead(data.test, data)

    @abstractmethod
    def train(self, chunk: Chunk) -> Trained:
        """Make all steps of all trainings of a chunk."""

    def does(self, objective: Objective) -> bool:
        """True if it can minimise an objective other than the task's own loss."""
        return False

    @abstractmethod
    def predict(self, models: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """The outputs of K models for S inputs, K x S x ..."""

    @abstractmethod
    def evaluate(self, models: Sequence[Tensor], split: Split) -> list[Metrics]:
        """The loss and accuracy of every model on a split."""

    def inputs(self, split: Split, samples: Tensor | slice) -> Tensor:
        """The converted inputs of some samples."""
        return self.data.scaled(split.inputs[samples])

    def metrics(self, loss: float, accuracy: float) -> Metrics:
        """The metrics of one evaluated model. For values they include the root mean squared error."""
        if self.data.objective == "values":
            return {"loss": loss, "accuracy": accuracy, "rmse": loss**0.5}
        return {"loss": loss, "accuracy": accuracy}

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse predictions that do not fit their targets, which torch might broadcast silently.

        Raises:
            Misfit: the shapes differ.
        """
        if not isinstance(outputs, Tensor):
            raise Misfit(f"must return a tensor. Got a {type(outputs).__name__} instead")
        made, wanted = outputs.shape, targets.shape
        if self.data.objective == "values":
            if made == wanted or (outputs.numel() == 1 == targets.numel()):
                return
            expected, what = tuple(wanted), "a number per sample"
        else:
            classes = self.data.classes
            if made[:-1] == wanted and len(made) and made[-1] >= classes:
                return
            expected, what = (*wanted, classes), "a score for each class"
        raise Misfit(
            f"predicts {tuple(made)} for a batch whose targets are {tuple(wanted)}: it must be {expected}, {what}"
        )

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample."""
        self.check(outputs, targets)
        if self.data.objective == "values":
            return (outputs - targets).square()
        if self.data.objective == "sequence":
            return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1)
        return F.cross_entropy(outputs, targets, reduction="none")

    def mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of `losses`, in one operation."""
        self.check(outputs, targets)
        if self.data.objective == "values":
            return F.mse_loss(outputs, targets)
        return F.cross_entropy(outputs.transpose(1, 2) if self.data.objective == "sequence" else outputs, targets)

    def minimised(self, chunk: Chunk, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """The loss of each sample that a chunk minimises.

        Args:
            chunk: the chunk.
            outputs, targets: the predictions and targets of some samples.
            weights: the weights of the same samples.
        """
        losses = self.losses(outputs, targets) if chunk.objective is None else chunk.objective.losses(outputs, targets)
        return losses if weights is None else losses * weights

    def judge(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """The metrics of predictions."""
        losses, hits = self.losses(outputs, targets), self.hits(outputs, targets)
        return self.metrics(float(losses.mean(dtype=torch.float64)), float(hits.double().mean()))

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """True for each correct prediction: of the class, of the character, or of the value to within one half."""
        if self.data.objective == "values":
            return (outputs - targets).abs() <= 0.5
        return outputs.argmax(-1) == targets


def _scaled_ahead(split: Split, data: Data) -> Split:
    """The split with bytes converted to floats once, if that costs little memory."""
    inputs = split.inputs
    if inputs.dtype != torch.uint8 or inputs.numel() * 4 > _AHEAD_BYTES:
        return split
    return Split(inputs.float().mul_(data.scale).add_(data.shift), split.targets)
