"""What nodes ask a learner for, and what came of it.

Shapes: K models, S samples, P parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from covey.learning.dataset import Split
from covey.learning.mixture import Mixture, computed
from covey.learning.node import Metrics, Update, Work
from covey.learning.optimizers import Slots

if TYPE_CHECKING:
    from covey.learning.learner import Learner


@dataclass(slots=True, eq=False)
class Training:
    """One requested training, and what came of it."""

    holder: int
    """Whose data, by index among the nodes that hold data."""
    start: Tensor
    stream: int
    """The node's own randomness."""
    round: int
    call: int
    """How many trainings of the node in this round went before."""
    work: Work
    slots: Slots | None = None
    """What the optimiser remembers, 1 x P each without what is not trained, before and afterwards; None at first."""
    update: Update | None = None
    finite: bool = True
    gradient: Literal["", "batch", "all"] = ""
    """On what the model is only differentiated instead of being trained: the next batch, or all of the node's data. The
    gradient is then in the place of the model in `update`."""
    buffers: Tensor | None = None
    """Of a gradient, what it made of the model's buffers."""
    learner: "Learner | None" = None

    @property
    def worker(self) -> "Learner":
        assert self.learner is not None
        return self.learner

    @property
    def done(self) -> bool:
        return self.update is not None


@dataclass(slots=True, eq=False)
class Learned:
    """What a node that learns goes on from, beside its state."""

    model: Tensor | Mixture
    slots: Slots | None
    """What its optimiser remembers."""


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
        """Evaluate models; each job then has its `metrics`."""
        evaluated = self.learner.evaluate([computed(job.model) for job in jobs], self.split)
        for job, metrics in zip(jobs, evaluated, strict=True):
            job.metrics = metrics


@dataclass(slots=True, eq=False)
class Evaluating:
    """One requested evaluation, and what came of it."""

    worker: Judge
    model: Tensor | Mixture
    metrics: Metrics | None = None

    @property
    def done(self) -> bool:
        return self.metrics is not None


@dataclass(frozen=True, slots=True)
class Judged:
    """How good what a node said was, which it is judged by in place of its model."""

    figures: Metrics


@dataclass(slots=True, eq=False)
class Predictor:
    """Computes outputs."""

    learner: "Learner"
    at_once: int = 64
    soon: int = 1

    def do(self, jobs: Sequence["Predicting"]) -> None:
        """Compute outputs; each job then has its `outputs`."""
        self.learner.predict(jobs)


@dataclass(slots=True, eq=False)
class Predicting:
    """The outputs of models that a node asked for, and what came of it."""

    worker: Predictor
    models: Sequence[Tensor | Mixture]
    inputs: Tensor
    outputs: Tensor | None = None
    """K x S x ..."""

    @property
    def done(self) -> bool:
        return self.outputs is not None
