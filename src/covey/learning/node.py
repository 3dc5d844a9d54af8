"""The contract between a program and a node that learns, in addition to that of any node.

Tensor shapes: P parameters of the flat model.

Tensors
    A program owns the tensors that it gets, and the node takes a snapshot of those that it is given. A write in place
    changes a tensor at no other node. A write to `node.model` in place without an assignment would have no effect, so
    it ends the run with an error.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from covey.learning.dataset import Split
from covey.learning.deferred import Deferred
from covey.learning.mixture import Mixture
from covey.learning.models import Model
from covey.learning.objectives import Objective
from covey.learning.optimizers import Optimizer
from covey.messages.ownership import own
from covey.parts.errors import ProgramError
from covey.parts.parameters import Setting
from covey.runtime.node import Expected, Node, Program, Wanted

if TYPE_CHECKING:
    from covey.learning.views import Adversary, Arrived, View

Metrics: TypeAlias = dict[str, float]


class _Model(Expected):
    """The type of `MODEL`."""

    __slots__ = ()

    def admits(self, value: Any, node: Node) -> bool:
        # The device does not matter.
        return isinstance(value, Tensor) and value.dtype == torch.float32 and value.shape == node.shape  # type: ignore[attr-defined]

    def is_within(self, declared: Wanted) -> bool:
        return declared is Tensor

    def in_words(self, node: Node) -> str:
        return f"{node.shape[0]} float32 numbers"  # type: ignore[attr-defined]


MODEL = _Model()
"""The type of an entry that is a whole model, a float32 vector of the size of the node's model."""


class Update:
    """The result of local training."""

    __slots__ = ("_normaliser", "_start", "_used", "guesses", "loss", "lr", "model", "samples", "steps")

    def __init__(
        self,
        model: Tensor,
        start: Tensor,
        loss: float,
        samples: int,
        steps: int,
        *,
        lr: float = 1.0,
        normaliser: float | None = None,
        guesses: int = 0,
        used: Callable[[], np.ndarray | None] = lambda: None,
    ) -> None:
        self.model = model
        """The trained model, P numbers."""
        self._start = start
        self.loss = loss
        """The mean training loss over the samples used."""
        self.samples = samples
        """The number of samples used, with repetitions."""
        self.steps = steps
        """The number of optimiser steps."""
        self.lr = lr
        """The learning rate of its steps."""
        self.guesses = guesses
        """The number of guesses after them: moves without a gradient, by the optimiser `guessed`."""
        self._normaliser = normaliser
        self._used = used

    @property
    def label_counts(self) -> np.ndarray | None:
        """The number of samples of each class that were used, with repetitions; None if targets are not classes."""
        return self._used()

    @property
    def normaliser(self) -> float:
        """The total weight of its gradients, in learning rates, by which FedNova divides the change.

        For SGD it is the number of steps. Momentum and guesses make it greater.

        Raises:
            ProgramError: the change is no sum of gradients with fixed weights, as with Adam.
        """
        if self._normaliser is None:
            raise ProgramError(
                "A training has no 'normaliser' if its optimizer does not add gradients: use sgd in the task."
            )
        return self._normaliser

    @property
    def start(self) -> Tensor:
        """The model from which training started."""
        # A deferred one is never written to.
        return self._start if type(self._start) is Deferred else own(self._start)

    @property
    def delta(self) -> Tensor:
        """The change of the model by training."""
        return self.model - self._start

    @property
    def gradient(self) -> Tensor:
        """The mean of the gradients by which SGD moved the model, with corrections; 0 if the learning rate is 0."""
        moved = self.lr * self.normaliser
        return torch.sub(self._start, self.model).mul_(1.0 / moved if moved else 0.0)

    def applied_to(self, model: Tensor) -> Mixture:
        """`model` plus the change of training."""
        return Mixture([model, self.model, self._start], [1.0, 1.0, -1.0])


@dataclass(slots=True)
class Gradient:
    """One gradient of the loss at a model."""

    vector: Tensor
    """The gradient, P numbers; 0 for values that are not trained."""
    loss: float
    samples: int
    buffers: Tensor
    """The model's buffers, such as BatchNorm's statistics, after the pass over the samples."""


class Samples(NamedTuple):
    """Converted inputs, and their targets if known."""

    inputs: Tensor
    targets: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """The settings of one training that differ from the task's. None means the task's value."""

    steps: int | None = None
    epochs: int | None = None
    lr: float | None = None
    proximal: float = 0.0
    """The weight mu of the proximal term mu/2 * |x - start|^2 that FedProx adds to the loss."""
    batch_size: int | None = None
    objective: Objective | None = None
    """The loss that is minimised."""
    on: Split | None = None
    """The samples to train on instead of the node's own data."""
    weights: Tensor | None = None
    """The weight of each sample's loss, in the order of `on` or of `samples("train")`."""
    expected: int | None = None
    """The number of steps that a server expects. Guesses that `fill-up` make up for those that are not made."""
    guesses: int | None = None
    """The largest number of guesses after the last step, such as a server's rule gives it."""
    correction: Tensor | None = None
    """A vector that is added to every gradient, such as SCAFFOLD's c - c_i: of all numbers, or of the trained ones."""

    @property
    def is_plain(self) -> bool:
        """True if it trains on the node's own data with the task's objective and batch size, unweighted."""
        changes = (self.objective, self.on, self.weights, self.correction, self.batch_size)
        return all(change is None for change in changes)


@dataclass(frozen=True, slots=True)
class LocalData:
    """The facts of a node's own data that need no access to samples."""

    samples: int
    label_counts: np.ndarray | None = None
    """The number of samples of each class; None if the data have no classes."""
    validation: int = 0
    """The number of further samples that it keeps for validation."""


@dataclass(frozen=True, slots=True)
class Further:
    """A further network of a program, such as an aggregator or a student, beside the nodes' model."""

    model: Model | None = None
    """The network; None for one like the nodes' model, with random weights of its own where no file gives them."""
    inputs: tuple[int, ...] | None = None
    """The shape of one float32 input; None for samples of the data set."""
    outputs: int | None = None
    """The number of classes; None for those of the data set."""
    optimizer: Optimizer | None = None
    """The optimiser; None for the task's, with `state = "reset"`. With "keep", each node keeps its state."""


class LearningNode(Node):
    """A node that has data and a model."""

    __slots__ = ()

    data: LocalData

    @property
    @abstractmethod
    def model(self) -> Tensor:
        """The current model, P float32 numbers, which is evaluated and checkpointed. Assign it to change it."""

    @model.setter
    @abstractmethod
    def model(self, value: Tensor | Mixture) -> None: ...

    @abstractmethod
    async def train(self, model: Tensor | Mixture | None = None, *, of: str = "", **work: Any) -> Update:
        """Train on the node's own data from `model`, by default the current one. The current model does not change.

        Args:
            model: the start.
            of: the name of a further network of the program, to train instead of the node's model. The time of a
                sample is scaled by the ratio of their sizes.
            work: the fields of `Work` that differ from the task's. An objective may be a name or a table, and `on`
                is (inputs, targets). A node without data needs `on`.
        """

    @abstractmethod
    def initial(self, of: str) -> Tensor:
        """The initial value of a further network of the program, the same at every node."""

    @abstractmethod
    def samples(self, split: str = "train", count: int | None = None, *key: int) -> Samples:
        """Samples of the node's own "train" or "validation" data, of the "test" set, or of the "public" data.

        Test and public samples have no targets.

        Args:
            split: the data.
            count: draw this many at random, or all if there are fewer. By default, all in order.
            key: the same key gives the same samples. Test and public samples are then the same at every node.
        """

    @abstractmethod
    async def predict(
        self, models: Tensor | Mixture | Sequence[Tensor | Mixture] | None = None, *, on: Samples | Tensor, of: str = ""
    ) -> Tensor:
        """The outputs of a model, by default the current one, or of K models together, a row each.

        Args:
            models: the models.

            of: the name of a further network of the program, if they are models of that.
            on: the samples, or their inputs. Each model takes as much time as training on them.
        """

    @abstractmethod
    def judge(self, outputs: Tensor, split: str = "test") -> Metrics:
        """Compute and record the metrics of outputs, such as those of an ensemble, for all of `samples(split)`.

        In an evaluated round, metrics on the test set replace those of the node's model. Those of another split are
        logged with its name, as `validation_accuracy`.

        Args:
            outputs: scores of classes, or values, in the form of the node's model.
            split: the data.
        """

    @abstractmethod
    async def gradient(self, model: Tensor | Mixture | None = None, *, full: bool = False) -> Gradient:
        """The gradient on the next mini-batch, or on all of the node's data."""

    @abstractmethod
    async def evaluate(self, model: Tensor | Mixture | None = None, split: str = "validation") -> Metrics:
        """The metrics of a model on "validation", "test" or the node's "train" data. It takes time of the node."""


class LearningProgram(Program):
    """A program whose nodes have data and a model."""

    needs: ClassVar[type] = LearningNode
    synchronous: ClassVar[bool] = True

    def networks(self, setting: Setting) -> Mapping[str, Further]:
        """The further networks of the program, by their names for `of`. Called before the program is prepared."""
        return {}

    async def run(self, node: LearningNode) -> None:
        """Run the protocol at one node."""
        raise NotImplementedError

    # ------------------------------------------------------------------ for attacks

    def views(self, adversary: "Adversary", messages: Iterable["Arrived"]) -> Iterator["View"]:
        """The models that the messages to an observed node tell of, for attacks: see `covey.learning.views`.

        By default, the entry `model` of each message that has one of the shared part's size, or of the model's.

        Args:
            adversary: the observed node.
            messages: all that it received, in the order of arrival.
        """
        selection = getattr(self, "selection", None)
        size = len(adversary.first) if selection is None else selection.size
        for message in messages:
            model = message.shared.get("model")
            if isinstance(model, Tensor) and model.dtype == torch.float32 and model.shape == (size,):
                yield adversary.view(message, model, selection=selection)

    def owners(self, view: "View", truth: Mapping[str, Any]) -> Sequence[int]:
        """The nodes whose models are in a view, for the scoring of attacks: its senders, unless these are pseudonyms.

        Args:
            view: the view.
            truth: the ground truth of the run.
        """
        return view.senders
