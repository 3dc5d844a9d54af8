"""FedBuff: buffered asynchronous aggregation (Nguyen et al., "Federated Learning with Buffered Asynchronous
Aggregation", 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from covey.federated.answers import Whole
from covey.federated.asynchronous import AsynchronousProgram
from covey.federated.client_work import ClientWork, LocalTraining
from covey.federated.server_optimizers import ServerOptimizer, ServerSGD
from covey.federated.staleness import Polynomial, Staleness
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, View
from covey.parts.parameters import param


class FedBuff(AsynchronousProgram):
    """x becomes x + eta times the mean of w(s) D over a buffer of K changes D, each weighted by its staleness s.

    The server's eta is that of its optimizer. Buffers of the model, such as BatchNorm's statistics, become the mean
    of those of the clients.
    """

    kind = "fedbuff"
    buffer: int = param("The number K of changes that make a version of the model.", default=10, ge=1, lt="nodes")
    staleness: Staleness = param("The weight w of a change by its staleness.", factory=Polynomial)
    work: ClientWork = param("The work of a client with the server's model.", factory=LocalTraining)
    server_optimizer: ServerOptimizer = param(
        "The server's optimizer. It takes the mean of the weighted changes for a negative gradient.", factory=ServerSGD
    )

    def updates(self) -> int:
        return self.buffer

    async def outcome(self, node: LearningNode, t: int) -> Tensor:
        update = await self.work.train(node, node.model, t)
        trained, buffers = self.selection.split(self.selection.take(update.model))
        change = trained - self.selection.split(self.selection.take(update.start))[0]
        return torch.cat([change, buffers]) if self.selection.buffered else change

    def absorb(
        self, node: LearningNode, t: int, vectors: Sequence[Tensor], weights: Sequence[float]
    ) -> Tensor | Mixture:
        changes, buffers = zip(*map(self.selection.split, vectors), strict=True)
        x, count = self.selection.split(self.selection.take(node.model))[0], len(vectors)
        merged = Mixture([x, *changes], [1.0, *(weight / count for weight in weights)]).tensor()
        if self.selection.buffered:
            merged = torch.cat([merged, Mixture(buffers, [1.0 / count] * count).tensor()])
        return self.server_optimizer.moved(node, merged, self.selection)

    def view(self, server: Adversary, answer: Whole, start: Tensor) -> View:
        change, buffers = self.selection.split(answer.vector)
        begun = self.selection.split(self.selection.take(start))[0]
        model = torch.cat([begun + change, buffers])
        return server.view(answer.message, model, selection=self.selection, start=start)
