"""The part of fedavg that says what a client does with the server's model."""

from typing import ClassVar

from torch import Tensor

from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode, Update
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, param


class ClientWork(Part):
    """Makes an update of the server's model; one object serves all clients."""

    family: ClassVar[str] = "client-work"
    usual = "local"

    async def train(self, node: LearningNode, model: Tensor | Mixture, t: int) -> Update:
        """The work of a client in round t, from `model`, the server's with whatever is the client's own."""
        raise NotImplementedError


class LocalTraining(ClientWork):
    """Training on the client's data as the task says, or otherwise; with `proximal` it is FedProx (Li et al., 2020)."""

    kind = "local"
    steps: int | None = param("How many mini-batch steps; as the task says by default.", default=None, ge=1)
    epochs: int | None = param("How many passes over the data, in place of steps.", default=None, ge=1)
    lr: float | None = param("The learning rate; that of the task's optimizer by default.", default=None, gt=0)
    proximal: float = param(
        "The weight mu of FedProx's term, which holds clients near the server's model.", default=0.0, ge=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.epochs is not None:
            raise ConfigurationError(
                f"The 'epochs' of {self.named()} stand in place of 'steps'. Got both, {self.epochs} and {self.steps}."
            )

    async def train(self, node: LearningNode, model: Tensor | Mixture, t: int) -> Update:
        return await node.train(model, steps=self.steps, epochs=self.epochs, lr=self.lr, proximal=self.proximal)
