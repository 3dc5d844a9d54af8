"""The work of a client of fedavg with the server's model."""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from covey.learning.mixture import Mixture, computed
from covey.learning.node import LearningNode, Update
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, param
from covey.runtime.state import State


class ClientWork(Part):
    """The work that makes an update of the server's model. One object serves all clients."""

    family: ClassVar[str] = "client-work"
    usual = "local"

    async def train(
        self, node: LearningNode, model: Tensor | Mixture, t: int, *, correction: Tensor | None = None
    ) -> Update:
        """Do the work of a client in round t.

        Args:
            node: the client.
            model: the server's model, with the client's unshared values.
            t: the round.
            correction: numbers that are added to every gradient, if the program corrects gradients.
        """
        raise NotImplementedError

    def effective(self, update: Update) -> float:
        """The steps of an update by which the server of FedNova moves, in learning rates."""
        return update.normaliser


class Course(State):
    """The server's course, as a client has seen it."""

    last: Tensor | None = None
    """The server's model at the client's last training."""
    round: int = 0
    step: float = math.inf
    """The length of the server's mean step a round before that."""
    most: int = 0
    """The largest number of guesses."""


def most_guesses() -> Any:
    """The parameter with the number of guesses that a client begins with."""
    return param(
        "The guesses of a client's first training with the optimizer guessed, if they are to fall: by one each time "
        "that the server's mean step has grown.",
        default=None,
        ge=0,
    )


def guesses_of(work: ClientWork, node: LearningNode, model: Tensor | Mixture, t: int, first: int | None) -> int | None:
    """The largest number of guesses of a training in round t; None if they do not fall."""
    if first is None:
        return None
    course, now = node.keep(Course, work), computed(model).clone()
    if course.last is None:
        course.most = first
    else:
        step = float(torch.linalg.vector_norm(now - course.last)) / max(t - course.round, 1)
        course.most, course.step = max(course.most - (step > course.step), 0), step
    course.last, course.round = now, t
    return course.most


class LocalTraining(ClientWork):
    """Training on the client's data, by default as in the task. With `proximal_mu`, FedProx (Li et al., 2020)."""

    kind = "local"
    steps: int | None = param("The number of mini-batch steps; by default, that of the task.", default=None, ge=1)
    epochs: int | None = param("The number of passes over the data, instead of steps.", default=None, ge=1)
    eta_l: float | None = param("The learning rate; by default, that of the task's optimizer.", default=None, gt=0)
    batch_size: int | Literal["all"] | None = param(
        "The samples of a step, or all of the client's; by default, as in the task.", default=None, ge=1
    )
    proximal_mu: float = param(
        "The weight mu of FedProx's term, which keeps clients near the server's model.", default=0.0, ge=0
    )
    most_guesses: int | None = most_guesses()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.epochs is not None:
            raise ConfigurationError(
                f"The 'epochs' of {self.named()} replace 'steps'. Got both, {self.epochs} and {self.steps}."
            )

    async def train(
        self, node: LearningNode, model: Tensor | Mixture, t: int, *, correction: Tensor | None = None
    ) -> Update:
        work: dict[str, Any] = {
            "steps": self.steps,
            "epochs": self.epochs,
            "lr": self.eta_l,
            "batch_size": node.data.samples if self.batch_size == "all" else self.batch_size,
            "proximal": self.proximal_mu or None,
            "correction": correction,
            "guesses": guesses_of(self, node, model, t, self.most_guesses),
        }
        return await node.train(model, **{name: value for name, value in work.items() if value is not None})

    def effective(self, update: Update) -> float:
        return float(update.steps) if self.proximal_mu else update.normaliser
