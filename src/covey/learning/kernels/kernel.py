"""The interface of kernels: their inputs and results.

Shapes: J trainings of a chunk, T steps, B samples of a batch, P parameters, S samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from covey.learning.augmentation import Augmentation, augmented
from covey.learning.dataset import Data, Split
from covey.learning.layout import Layout
from covey.learning.node import Metrics
from covey.learning.objectives import Objective
from covey.learning.optimizers import Optimizer, Slots
from covey.learning.scoring import Scoring
from covey.parts import rng

if TYPE_CHECKING:
    from covey.learning.kernels.private import Privacy

_AHEAD_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class Recipe:
    """The optimizer, loss and metrics of models.

    Attributes:
        optimizer: the rule of a step.
        scoring: the loss and the metrics.
        clip: the largest norm of a step's gradient; None without a limit.
        augmentation: the random changes of the inputs of training batches.
        mixed: whether training computes by bfloat16 where torch's autocast does.
    """

    optimizer: Optimizer
    scoring: Scoring
    clip: float | None = None
    augmentation: Sequence[Augmentation] = ()
    mixed: bool = False

    def clipped(self, gradients: Tensor) -> Tensor:
        """Scale the K x P gradients of K models in place, each to the largest norm if its norm is larger."""
        if self.clip is None:
            return gradients
        norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
        return gradients.mul_((self.clip / (norms + 1e-6)).clamp_(max=1.0))  # As torch.nn.utils.clip_grad_norm_ has it.


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
        objective: the objective; None for the loss of the recipe.
        corrections: vectors that are added to every gradient, J x trained numbers.
        given: the samples into which `samples` are indices, instead of the training data.
        weights: the weight of the loss of each given sample.
        keys: the random key of each training's augmentation; None without augmentation.
        states: the state of each training's optimiser of torch, which the kernel replaces; empty for other optimisers.
        privacy: the protection of the trainings; None without any.
        guesses: the number of guesses after the steps of each training; none by default.
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
    keys: Sequence[int] | None = None
    states: list[Slots] = field(default_factory=list)
    privacy: "Privacy | None" = None
    guesses: Sequence[int] = ()

    def __post_init__(self) -> None:
        self.guesses = self.guesses or [0] * len(self.starts)

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
        recipe: the settings of training and evaluation.
    """

    chunk: int = 1
    """The best number of trainings to compute together."""
    most: int | None = None
    """The greatest number of trainings of small models to compute together in place; None for `chunk`."""

    def __init__(self, make: Callable[[], nn.Module], layout: Layout, data: Data, recipe: Recipe) -> None:
        self.make = make
        self.layout = layout
        self.data = data
        self.recipe, self.optimizer, self.scoring = recipe, recipe.optimizer, recipe.scoring
        self.train_split = _scaled_ahead(data.train, data)
        self.test_split = _scaled_ahead(data.test, data)

    def train_rows(self, models: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Train the models of a chunk in place, J x P; return losses and finite as in `Trained`."""
        trained = self.train(replace(chunk, starts=models.unbind()))
        for row, model in zip(models, trained.models, strict=True):
            row.copy_(model)
        return trained.losses, trained.finite

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
        """The loss, accuracy and metrics of every model on a split."""

    def inputs(self, split: Split, samples: Tensor | slice) -> Tensor:
        """The converted inputs of some samples."""
        return self.data.scaled(split.inputs[samples])

    def augmented(self, inputs: Tensor, chunk: Chunk, job: int, step: int) -> Tensor:
        """The inputs of one batch of one training after augmentation.

        Args:
            inputs: B x the shape of a sample, in memory of their own.
            chunk: the chunk.
            job: the index of the training.
            step: the step of the training.
        """
        if chunk.keys is None:
            return inputs
        return augmented(self.recipe.augmentation, inputs, rng.mix(chunk.keys[job], step))

    def augment(self, inputs: Tensor, samples: Tensor, chunk: Chunk, step: int) -> None:
        """Augment the batches of K trainings in place.

        Args:
            inputs: K x B x ..., in memory of their own.
            samples: the indices of the samples, K x B, with -1 at the end of smaller batches.
            chunk: the chunk. Its last training stands for those beyond.
            step: the step of the trainings.
        """
        if chunk.keys is None:
            return
        shape, last = self.data.sample_shape, len(chunk.keys) - 1
        for job, count in enumerate((samples >= 0).sum(1).tolist()):
            if count:
                rows = inputs[job, :count]
                batch = rows.view(count, *shape).clone()
                rows.copy_(self.augmented(batch, chunk, min(job, last), step).reshape(rows.shape))

    def minimised(
        self, chunk: Chunk, outputs: Tensor, targets: Tensor, weights: Tensor | None, share: Tensor | None = None
    ) -> Tensor:
        """The loss of each sample that a chunk minimises.

        Args:
            chunk: the chunk.
            outputs, targets: the predictions and targets of some samples.
            weights: the weights of the same samples.
            share: the weight of each sample in their mean; the same of all by default.
        """
        losses = self.scoring.losses(outputs, targets, chunk.objective)
        losses = self.scoring.weighed(losses, targets, chunk.objective, share)
        return losses if weights is None else losses * weights


def predicted(output: Any) -> Any:
    """The predictions in the output of a module: its `logits` if it has some."""
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


def _scaled_ahead(split: Split, data: Data) -> Split:
    """The split with bytes converted to floats once, if that costs little memory."""
    inputs = split.inputs
    if inputs.dtype != torch.uint8 or inputs.numel() * 4 > _AHEAD_BYTES:
        return split
    return Split(inputs.float().mul_(data.scale).add_(data.shift), split.targets)
