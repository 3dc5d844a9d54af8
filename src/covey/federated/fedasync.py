"""FedAsync: asynchronous federated optimisation (Xie et al., "Asynchronous Federated Optimization", 2019)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from covey.federated.answers import Whole
from covey.federated.asynchronous import AsynchronousProgram
from covey.federated.client_work import ClientWork, LocalTraining
from covey.federated.staleness import Polynomial, Staleness
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, View
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import param


class FedAsync(AsynchronousProgram):
    """x becomes (1 - a) x + a y for each trained model y that arrives, where a is alpha times the weight of staleness.

    The paper's rho, which keeps clients near the model that they were given, is the `proximal_mu` of `work`.
    """

    kind = "fedasync"
    computes = "model"
    alpha: float = param("The weight of a fresh model.", default=0.6, gt=0, le=1)
    decay: float = param("The factor of alpha from version `decay_at` on.", default=0.5, gt=0, le=1)
    decay_at: int | None = param("The version from which on alpha is smaller; by default, none.", default=None, ge=1)
    staleness: Staleness = param("The weight of a model by its staleness.", factory=Polynomial)
    work: ClientWork = param("The work of a client with the server's model.", factory=LocalTraining)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay_at is None and self.decay != FedAsync.decay:
            raise ConfigurationError(
                f"The 'decay' of {self.named()} needs a 'decay_at', the version from which on it counts. Got "
                f"{self.decay:g} without one."
            )

    def alpha_at(self, t: int) -> float:
        """The weight of a fresh model that meets version t."""
        return self.alpha * self.decay if self.decay_at is not None and t >= self.decay_at else self.alpha

    async def outcome(self, node: LearningNode, t: int) -> Tensor:
        return self.selection.take((await self.work.train(node, node.model, t)).model)

    def absorb(
        self, node: LearningNode, t: int, vectors: Sequence[Tensor], weights: Sequence[float]
    ) -> Tensor | Mixture:
        x, (y,), (weight,) = self.selection.take(node.model), vectors, weights
        return self.selection.put(node.model, torch.lerp(x, y, self.alpha_at(t) * weight))

    def view(self, server: Adversary, answer: Whole, start: Tensor) -> View:
        return server.view(answer.message, answer.vector, selection=self.selection, start=start)
