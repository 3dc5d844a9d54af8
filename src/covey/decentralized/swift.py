"""SWIFT (Bornstein et al., 2023): wait-free averaging with the stored models of neighbours, on a static graph."""

from typing import Annotated, Literal

from torch import Tensor

from covey.decentralized.graphs import OnGraph, SharesModels, check_undirected
from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.parts.nodes import NodeId
from covey.parts.parameters import param
from covey.runtime.content import Content
from covey.runtime.state import State

_ROUNDS = range(1 << 53)


class Stored(State):
    """The models that a node has of its neighbours, and the rounds that these had completed."""

    models: dict[NodeId, Tensor] = {}
    rounds: dict[NodeId, int] = {}


class Broadcast(Content):
    """A model, and the number of its sender's round."""

    model: Tensor
    round: Annotated[int, _ROUNDS]


class Swift(SharesModels, OnGraph):
    """Train, broadcast the model, and average with the last stored model of every neighbour. No node waits."""

    kind = "swift"
    synchronous = False
    tolerates_loss = True
    topology: Topology = param("The graph; static and undirected.")
    every: int = param("The number of rounds from one average to the next (s + 1 in the paper).", default=1, ge=1)
    memory: bool = param(
        "Whether the stored model of a neighbour counts in every average, or only in the first one after it arrived.",
        default=True,
    )
    weights: Literal["degree", "influence"] = param(
        "The weights of neighbours: symmetric ones by degree (Metropolis-Hastings), or ones that keep the mean in "
        "expectation although faster nodes average more often.",
        default="degree",
    )

    def check_graphs(self) -> None:
        check_undirected(self)

    async def run(self, node: LearningNode) -> None:
        neighbours, stored = self.topology.at(0).senders(node.id), node.keep(Stored)
        if self.memory and not stored.models:
            stored.models = dict.fromkeys(neighbours, self.selection.take(node.model))
        async for t in node.rounds():
            update = await node.train()
            node.model, own = update.model, self.selection.take(update.model)
            node.send(neighbours, Broadcast(model=own, round=t), tag="model")
            for arrived in node.usable(node.arrived(tag="model"), Broadcast, model=self.selection.entry):
                if arrived.sender in neighbours:
                    stored.models[arrived.sender], stored.rounds[arrived.sender] = arrived.model, arrived.round + 1
                else:
                    node.reject(arrived, f"it is not a neighbour of node {node.id}")
            if (t + 1) % self.every == 0:
                weights = self.weights_of(node.id, t + 1, stored)
                models = [own, *stored.models.values()]
                node.model = self.selection.put(update.model, Mixture(models, [1.0 - sum(weights), *weights]))
                if not self.memory:
                    stored.models = {}

    def weights_of(self, node: NodeId, rounds: int, stored: Stored) -> list[float]:
        """The weights that a node gives to stored models.

        Without memory, fewer models share the weight. The influence of a node is the number of its rounds: weights with
        p_i w_ij = p_j w_ji keep the mean of all models in expectation.
        """
        degrees, ratio = self.topology.at(0).in_degrees, 1.0
        share, found = (len(stored.models) + 1) / (degrees[node] + 1), []
        for sender in stored.models:
            if self.weights == "influence":
                ratio = stored.rounds.get(sender, rounds) / rounds
            found.append(float(min(1.0 / (degrees[node] + 1), ratio / (degrees[sender] + 1)) / share))
        return found
