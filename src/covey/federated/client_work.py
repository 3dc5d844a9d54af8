"""The work of a client of fedavg with the server's model."""

from typing import ClassVar

from torch import Tensor

from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode, Update
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, param


class ClientWork(Part):
    """The work that makes an update of the server's model. One object serves all clients."""

    family: ClassVar[str] = "client-work"
    usual = "local"

    async def train(self, node: LearningNode, model: Tensor | Mixture, t: int) -> Update:
        """Do the work of a client in round t. `model` is the server's, with the client's unshared values."""
        raise NotImplementedError


class LocalTraining(ClientWork):
    """Training on the client's data, by default as in the task. With `proximal`, FedProx (Li et al., 2020)."""

    kind = "local"
    steps: int | None = param("The number of mini-batch steps; by default, that of the task.", default=None, ge=1)
    epochs: int | None = param("The number of passes over the data, instead of steps.", default=None, ge=1)
    lr: float | None = param("The learning rate; by default, that of the task's optimizer.", default=None, gt=0)
    proximal: float = param(
        "The weight mu of FedProx's term, which keeps clients near the server's model.", default=0.0, ge=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.epochs is not None:
            raise ConfigurationError(
                f"The 'epochs' of {self.named()} replace 'steps'. Got both, {self.epochs} and {self.steps}."
            )

    async def train(self, node: LearningNode, model: Tensor | Mixture, t: int) -> Update:
        return await node.train(model, steps=self.steps, epochs=self.epochs, lr=self.lr, proximal=self.proximal)
