"""What every kernel is given and gives back.

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
        starts: J models of P numbers, not to be changed.
        samples: J x T x B indices into the training data, -1 where there is none.
        ragged: whether there is any -1 before the last step of a training.
        steps: J, how many steps each makes, in decreasing order.
        lr: J x 1 learning rates.
        proximal: the weight that pulls towards the start.
        slots: the optimiser's memory of the J models.
        objective: what is minimised; None for the task's own loss.
        corrections: J x as many numbers as are trained, added to every gradient.
        given: what `samples` are taken from, in place of the training data.
        weights: what the loss of each of the samples that are given is multiplied by.
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
        """Whether the gradient of the loss is all that moves a model."""
        return not self.proximal and self.corrections is None

    def active(self, step: int) -> int:
        """How many trainings, from the front, still make this step."""
        if self.steps[-1] > step:
            return len(self.steps)
        return sum(steps > step for steps in self.steps)


class Trained(NamedTuple):
    """What a chunk became."""

    models: Sequence[Tensor]
    """J models, each with memory of its own, so that keeping one keeps none of the others."""
    losses: Tensor
    """J sums of the loss over the samples used."""
    finite: Tensor
    """J, whether the model is still finite."""


class Kernel(ABC):
    """Trains and evaluates models of one module on one device; called from several threads at once.

    Args:
        make: makes a module of the family, whatever its weights.
        layout: its positions in a flat model.
        data: the data set, on the device.
        optimizer: the rule of a step.
    """

    chunk: int = 1
    """How many trainings go together best."""

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
        """Whether it can minimise another loss than the task's own."""
        return False

    @abstractmethod
    def predict(self, models: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """The outputs of K models for S inputs: K x S x ..."""

    @abstractmethod
    def evaluate(self, models: Sequence[Tensor], split: Split) -> list[Metrics]:
        """Loss and accuracy of every model on all of a split."""

    def inputs(self, split: Split, samples: Tensor | slice) -> Tensor:
        """The inputs at some samples, as the model takes them."""
        return self.data.scaled(split.inputs[samples])

    def metrics(self, loss: float, accuracy: float) -> Metrics:
        """The figures of one evaluated model; with the root of the squared error where values are predicted."""
        if self.data.objective == "values":
            return {"loss": loss, "accuracy": accuracy, "rmse": loss**0.5}
        return {"loss": loss, "accuracy": accuracy}

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """See whether predictions fit their targets: torch would broadcast a column against a row without a word.

        Raises:
            Misfit: they do not.
        """
        if not isinstance(outputs, Tensor):
            raise Misfit(f"must return a tensor. Got a {type(outputs).__name__} instead")
        made, wanted = outputs.shape, targets.shape
        if self.data.objective == "values":
            if made == wanted or (outputs.numel() == 1 == targets.numel()):
                return
            expected, what = tuple(wanted), "a number a sample"
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
        """What a chunk minimises, of each sample.

        Args:
            weights: of the same samples.
        """
        losses = self.losses(outputs, targets) if chunk.objective is None else chunk.objective.losses(outputs, targets)
        return losses if weights is None else losses * weights

    def judge(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """How good predictions are."""
        losses, hits = self.losses(outputs, targets), self.hits(outputs, targets)
        return self.metrics(float(losses.mean(dtype=torch.float64)), float(hits.double().mean()))

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether each prediction is right: the class, the character, or the value to within one half."""
        if self.data.objective == "values":
            return (outputs - targets).abs() <= 0.5
        return outputs.argmax(-1) == targets


def _scaled_ahead(split: Split, data: Data) -> Split:
    """The split with its bytes turned to numbers once, where that costs little memory."""
    inputs = split.inputs
    if inputs.dtype != torch.uint8 or inputs.numel() * 4 > _AHEAD_BYTES:
        return split
    return Split(inputs.float().mul_(data.scale).add_(data.shift), split.targets)
