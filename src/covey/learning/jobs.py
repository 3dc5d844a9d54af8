"""Requests of nodes to a learner, and their results.

Shapes: K models, S samples, P parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from covey.learning.dataset import Split
from covey.learning.deferred import Deferred, DeferredLoss
from covey.learning.mixture import Mixture, computed
from covey.learning.node import Metrics, Update, Work
from covey.learning.optimizers import Slots
from covey.parts.errors import ModelError

if TYPE_CHECKING:
    from covey.learning.learner import Learner


@dataclass(slots=True, eq=False)
class Training:
    """A requested training or gradient, and its result."""

    holder: int
    """The node whose data are used, by index among the nodes that hold data."""
    start: Tensor
    stream: int
    """The random key of the node."""
    round: int
    call: int
    """The number of the node's earlier trainings in this round."""
    work: Work
    slots: Slots | None = None
    """The optimiser's state of the trained values, 1 x P each, before and after the training; None at first."""
    update: Update | None = None
    finite: bool = True
    gradient: Literal["", "batch", "all"] = ""
    """The data of a gradient, which takes the place of a training: the next batch, or all of the node's data. The
    gradient then takes the place of the model in `update`."""
    buffers: Tensor | None = None
    """The model's buffers after a gradient."""
    position: int = 0
    """The number of samples that the node has used before, from which on a stream is read."""
    learner: "Learner | None" = None
    waits: bool = False
    """True if its time may pass before it is computed."""
    later: "DeferredUpdate | None" = None
    """The result that its node has, if its time has passed before it was computed."""

    @property
    def worker(self) -> "Learner":
        assert self.learner is not None
        return self.learner

    @property
    def done(self) -> bool:
        return self.update is not None


def not_finite(node: int, round: int, what: str = "model") -> ModelError:
    """The error for a model that is not finite after a training."""
    return ModelError(
        f"The {what} of node {node} is not finite after its training in round {round}. "
        f'Lower the learning rate, or set non_finite = "drop" in the task to continue without such nodes.'
    )


class DeferredUpdate(Update):
    """The result of a training that is computed when it is needed.

    Args:
        training: the training.
        node: its node.
        model: the trained model.
        start: the model from which it starts.
        loss: its loss.
        steps: the number of its steps.
    """

    __slots__ = ("_deferred_loss", "_node", "_training")

    def __init__(
        self, training: Training, node: int, model: Deferred, start: Tensor, loss: DeferredLoss, steps: int
    ) -> None:
        self.model, self._start, self._used = model, start, self._counted
        self.samples, self.steps = training.worker.cost(training), steps
        self._training, self._node, self._deferred_loss = training, node, loss

    def done(self) -> Update:
        """The computed result."""
        computed(self.model)
        assert self._training.update is not None
        return self._training.update

    def fix(self, update: Update) -> None:
        """Set the computed result.

        Raises:
            ModelError: it is not finite.
        """
        if not self._training.finite:
            raise not_finite(self._node, self._training.round)
        assert isinstance(self.model, Deferred)
        self.model.become(update.model)
        self._deferred_loss.number = update.loss

    def _counted(self) -> np.ndarray | None:
        return self.done().label_counts

    loss: Any = property(lambda self: float(self._deferred_loss))
    lr: Any = property(lambda self: self.done().lr)
    guesses: Any = property(lambda self: self.done().guesses)
    normaliser: Any = property(lambda self: self.done().normaliser)


@dataclass(slots=True, eq=False)
class Learned:
    """The resumable state of a learning node, beside the state of its program."""

    model: Tensor | Mixture
    slots: Slots | None
    """The optimiser's state."""


@dataclass(slots=True, eq=False)
class Judge:
    """Evaluates models on one split."""

    learner: "Learner"
    split: Split

    @property
    def at_once(self) -> int:
        return self.learner.at_once

    @property
    def soon(self) -> int:
        return self.learner.soon

    def do(self, jobs: Sequence["Evaluating"]) -> None:
        """Evaluate the models of jobs, and set their `metrics`."""
        evaluated = self.learner.evaluate([computed(job.model) for job in jobs], self.split)
        for job, metrics in zip(jobs, evaluated, strict=True):
            job.metrics = metrics


@dataclass(slots=True, eq=False)
class Evaluating:
    """A requested evaluation, and its result."""

    worker: Judge
    model: Tensor | Mixture
    waits: ClassVar[bool] = False
    metrics: Metrics | None = None

    @property
    def done(self) -> bool:
        return self.metrics is not None


@dataclass(frozen=True, slots=True)
class Judged:
    """The metrics of a node's outputs, which replace those of its model."""

    figures: Metrics


@dataclass(frozen=True, slots=True)
class Shown:
    """The model, or the figures, by which a node with test samples of its own is evaluated.

    Attributes:
        model: the model, or the figures that the program gave in its place.
        holder: the node's index among the nodes with data; None without data.
    """

    model: Tensor | Mixture | Judged
    holder: int | None


@dataclass(slots=True, eq=False)
class Predictor:
    """Computes outputs of models."""

    learner: "Learner"
    at_once: int = 64
    soon: int = 1

    def do(self, jobs: Sequence["Predicting"]) -> None:
        """Compute outputs, and set the `outputs` of each job."""
        self.learner.predict(jobs)


@dataclass(slots=True, eq=False)
class Predicting:
    """A requested prediction, and its result."""

    worker: Predictor
    models: Sequence[Tensor | Mixture]
    inputs: Tensor
    waits: ClassVar[bool] = False
    outputs: Tensor | None = None
    """The outputs, K x S x ..."""

    @property
    def done(self) -> bool:
        return self.outputs is not None
