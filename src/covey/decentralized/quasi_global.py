"""Quasi-global momentum (Lin et al., 2021): momentum along the change of a round, mixing included.

    m(t+1) = beta m(t) + (1 - beta) (x(t) - x(t+1)) / (lr K)

Each of the K steps of a round goes along its gradient plus beta m(t). With usual momentum, nodes with different labels
would drift apart; what is left of a round after mixing is nearer to the direction of all nodes.
"""

import torch
from torch import Tensor

from covey.decentralized.gossip import Gossip
from covey.decentralized.weights import check_gradients
from covey.learning.node import LearningNode, Update
from covey.learning.selection import Selection
from covey.parts.parameters import Setting, param
from covey.runtime.state import State


class Momentum(State):
    """The momentum of a node, and what it needs to update it."""

    momentum: Tensor | None = None
    start: Tensor | None = None
    """The trained numbers of the model with which the last training began."""
    moved: float = 0.0
    """The total weight of the gradients of that training."""


class QuasiGlobal(Gossip):
    """Gossip with a momentum that a node computes from its models before and after each round."""

    kind = "quasi-global-momentum"
    beta: float = param("The factor of the momentum.", default=0.9, ge=0, lt=1)

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_gradients(self, setting)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._trained = Selection.of(setting, owner=self.named(), beside=True)

    async def trained(self, node: LearningNode) -> Update:
        if not self.beta:
            return await node.train()
        kept, start = node.keep(Momentum), self._trained.take(node.model)
        if kept.start is not None and kept.moved:
            along = torch.sub(kept.start, start).mul_((1.0 - self.beta) / kept.moved)
            kept.momentum = along if kept.momentum is None else along.add_(kept.momentum, alpha=self.beta)
        update = await node.train(correction=None if kept.momentum is None else kept.momentum * self.beta)
        kept.start, kept.moved = start, update.lr * update.normaliser
        return update
