"""DynSGD: asynchronous SGD whose learning rate falls with staleness (Jiang et al., "Heterogeneity-aware Distributed
Parameter Servers", 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from covey.federated.answers import Whole
from covey.federated.asynchronous import AsynchronousProgram
from covey.federated.staleness import Inverse, Staleness
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, View
from covey.parts.parameters import param


class DynSGD(AsynchronousProgram):
    """x becomes x - lr w(s) g for each gradient g that arrives, with w(s) = 1 / (1 + s) for a staleness of s.

    A client computes the gradient of one mini-batch. With the staleness `constant` this is plain asynchronous SGD.
    Buffers of the model, such as BatchNorm's statistics, move to the client's by w(s).
    """

    kind = "dynsgd"
    computes = "gradient"
    lr: float = param("The server's learning rate.", default=0.1, ge=0)
    staleness: Staleness = param("The weight w of a gradient by its staleness.", factory=Inverse)

    async def outcome(self, node: LearningNode, t: int) -> Tensor:
        gradient = await node.gradient()
        trained, _ = self.selection.split(self.selection.take(gradient.vector))
        if not self.selection.buffered:
            return trained
        size = len(gradient.vector) - len(gradient.buffers)
        return torch.cat([trained, self.selection.buffers(torch.cat([gradient.vector[:size], gradient.buffers]))])

    def absorb(
        self, node: LearningNode, t: int, vectors: Sequence[Tensor], weights: Sequence[float]
    ) -> Tensor | Mixture:
        (vector,), (weight,) = vectors, weights
        gradient, buffers = self.selection.split(vector)
        x, before = self.selection.split(self.selection.take(node.model))
        moved = torch.add(x, gradient, alpha=-self.lr * weight)
        if not self.selection.buffered:
            return self.selection.put(node.model, moved)
        return self.selection.put(node.model, moved, torch.lerp(before, buffers, weight))

    def view(self, server: Adversary, answer: Whole, start: Tensor) -> View:
        gradient, _ = self.selection.split(answer.vector)
        places = torch.arange(self.selection.trained) if self.selection.buffered else None
        return server.view(answer.message, gradient, places, selection=self.selection, start=start, gradient=True)
