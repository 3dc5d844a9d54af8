"""What a program may ask of a node that learns, beside what any node offers.

Tensor shapes: P parameters of the flat model.

Tensors
    What a program is handed is its own, and what it hands over is taken as it is then: whoever writes to a tensor in
    place changes it for nobody else. A model that is written in place and not assigned ends the run, for it changes
    nothing.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from covey.learning.dataset import Split
from covey.learning.mixture import Mixture
from covey.learning.models import Model
from covey.learning.objectives import Objective
from covey.learning.optimizers import Optimizer
from covey.messages.ownership import own
from covey.parts.parameters import Setting
from covey.runtime.node import Expected, Node, Program

Metrics: TypeAlias = dict[str, float]


class _Model(Expected):
    """The type of `MODEL`."""

    __slots__ = ()

    def admits(self, value: Any, node: Node) -> bool:
        # Of no model does the device matter.
        return isinstance(value, Tensor) and value.dtype == torch.float32 and value.shape == node.shape  # type: ignore[attr-defined]

    def in_words(self, node: Node) -> str:
        return f"{node.shape[0]} float32 numbers"  # type: ignore[attr-defined]


MODEL = _Model()
"""A whole model: as many float32 numbers as the node's own has."""


class Update:
    """What local training brought."""

    __slots__ = ("_start", "_used", "loss", "model", "normaliser", "samples", "steps")

    def __init__(
        self,
        model: Tensor,
        start: Tensor,
        loss: float,
        samples: int,
        steps: int,
        *,
        normaliser: float | None = None,
        used: Callable[[], np.ndarray | None] = lambda: None,
    ) -> None:
        self.model = model
        """The trained model, P numbers."""
        self._start = start
        self.loss = loss
        """The mean training loss over the samples that were used."""
        self.samples = samples
        """How many samples were used, each as often as it was."""
        self.steps = steps
        """How many optimiser steps were made."""
        self.normaliser = float(steps) if normaliser is None else normaliser
        """The weight of all its gradients together, in learning rates: what FedNova divides the change by. Of SGD the
        number of steps, with momentum more."""
        self._used = used

    @property
    def label_counts(self) -> np.ndarray | None:
        """How many samples of each class were used, each as often as it was; None where targets are no classes."""
        return self._used()

    @property
    def start(self) -> Tensor:
        """The model that training began from."""
        return own(self._start)

    @property
    def delta(self) -> Tensor:
        """The change that training made, to be added to a model that has moved meanwhile."""
        return self.model - self._start

    def applied_to(self, model: Tensor) -> Mixture:
        """`model` moved by the change that training made."""
        return Mixture([model, self.model, self._start], [1.0, 1.0, -1.0])


@dataclass(slots=True)
class Gradient:
    """One gradient of the loss at a model."""

    vector: Tensor
    """P numbers, 0 for what is not trained."""
    loss: float
    samples: int
    buffers: Tensor
    """The model's buffers, such as BatchNorm's statistics, as they are after its pass over the samples."""


class Samples(NamedTuple):
    """Inputs as a model takes them, and what is to be predicted for each, where that is known."""

    inputs: Tensor
    targets: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """How local training differs from what the task says; None leaves the task's value."""

    steps: int | None = None
    epochs: int | None = None
    lr: float | None = None
    proximal: float = 0.0
    """The weight mu of the proximal term mu/2 * |x - start|^2 that FedProx adds to the loss."""
    batch_size: int | None = None
    objective: Objective | None = None
    """What is minimised."""
    on: Split | None = None
    """What it trains on in place of the node's own data."""
    weights: Tensor | None = None
    """What the loss of each sample is multiplied by, in the order of `on` or of `samples("train")`."""
    correction: Tensor | None = None
    """What is added to every gradient, of the model's size or as many numbers as are trained: SCAFFOLD's c - c_i."""

    @property
    def is_plain(self) -> bool:
        """Whether it is training on the node's own data, by what the task minimises."""
        changes = (self.objective, self.on, self.weights, self.correction, self.batch_size)
        return all(change is None for change in changes)


@dataclass(frozen=True, slots=True)
class LocalData:
    """What a node may know of its own data without touching it."""

    samples: int
    label_counts: np.ndarray | None = None
    """Samples of each class; None where the data have no classes."""


@dataclass(frozen=True, slots=True)
class Further:
    """A model of another kind than the nodes' own, such as an aggregator or a student."""

    model: Model
    inputs: tuple[int, ...] | None = None
    """The shape of one input, in float32; None for samples as the data set has them."""
    outputs: int | None = None
    """How many classes it tells apart; None for those of the data set."""
    optimizer: Optimizer | None = None
    """By which rule it is trained, beginning anew each time; None for the task's."""


class LearningNode(Node):
    """A node that has data and a model."""

    __slots__ = ()

    data: LocalData

    @property
    @abstractmethod
    def model(self) -> Tensor:
        """The current model: P float32 numbers; what is evaluated and checkpointed. Changes count when assigned."""

    @model.setter
    @abstractmethod
    def model(self, value: Tensor | Mixture) -> None: ...

    @abstractmethod
    async def train(self, model: Tensor | Mixture | None = None, *, of: str = "", **work: Any) -> Update:
        """Train on the node's own data, from `model` or from the current one, which is not changed.

        Args:
            model: where to start.
            of: the name of a further network of the program, which is trained in place of the node's model. A sample
                takes as much of its time as the network has of the model's numbers.
            work: the fields of `Work`, where this training differs from the task's; an objective also by its name or
                table, and `on` as (inputs, targets). A node without data trains `on` samples that it has otherwise.
        """

    @abstractmethod
    def initial(self, of: str) -> Tensor:
        """What a further network of the program begins with, the same at every node."""

    @abstractmethod
    def samples(self, split: str = "train", count: int | None = None, *key: int) -> Samples:
        """Samples of the node's own "train" or "validation" data, of the "test" set, or of those that are "public".

        Those of the test set on which models are judged, and public ones, come without targets.

        Args:
            count: draws so many, or all where there are fewer; all by default, in their order.
            key: the same gives the same samples again; of the test set and public ones at every node.
        """

    @abstractmethod
    async def predict(
        self, models: Tensor | Mixture | Sequence[Tensor | Mixture] | None = None, *, on: Samples | Tensor, of: str = ""
    ) -> Tensor:
        """The outputs of a model, by default the current one, or of K models together, a row each.

        Args:
            of: the name of a further network of the program, whose models they are.
            on: the samples, or their inputs. Every model takes the time that training on them does.
        """

    @abstractmethod
    def judge(self, outputs: Tensor, split: str = "test") -> Metrics:
        """Record how good outputs are: accuracy, loss ... of what an ensemble says to all of `samples(split)`.

        On the test set, a round that is evaluated takes them in place of those of the node's model. Other figures have
        the split in their names, as `validation_accuracy`.

        Args:
            outputs: scores of classes, or values, as the node's model gives them.
        """

    @abstractmethod
    async def gradient(self, model: Tensor | Mixture | None = None, *, full: bool = False) -> Gradient:
        """The gradient on the next mini-batch, or on all of the node's data."""

    @abstractmethod
    async def evaluate(self, model: Tensor | Mixture | None = None, split: str = "validation") -> Metrics:
        """Loss, accuracy ... of a model on "validation", "test" or the node's own "train" data, on the node's clock."""


class LearningProgram(Program):
    """A program whose nodes have data and a model."""

    needs: ClassVar[type] = LearningNode
    synchronous: ClassVar[bool] = True

    def networks(self, setting: Setting) -> Mapping[str, Further]:
        """Models beside the nodes' own, by names for `of`; asked for before the program is prepared."""
        return {}

    async def run(self, node: LearningNode) -> None:
        """The protocol, from the point of view of one node."""
        raise NotImplementedError
