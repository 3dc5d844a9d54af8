"""SwarmSGD (Nadiradze et al., 2021), blocking: pairs of nodes that have done their local steps average their models."""

from typing import Any, NamedTuple

from torch import Tensor

from covey.decentralized.graphs import OnGraph, SharesModels
from covey.decentralized.topology import Topology
from covey.decentralized.topology.static import Complete
from covey.learning.node import LearningNode
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.content import Content
from covey.runtime.patience import check_patience

_ROUNDS = 64
"""The number of rounds whose interactions are kept."""


class Interactions(NamedTuple):
    """The interactions of a round."""

    pairs: list[tuple[int, int]]
    """The nodes of each, in order."""
    of_nodes: dict[int, list[tuple[int, NodeId]]]
    """The numbers of the interactions of a node, and its partners."""


class Exchange(Content):
    """A trained model, for the partner of an interaction."""

    model: Tensor


class Swarm(SharesModels, OnGraph):
    """Train for some steps before each interaction, then set both models of the pair to their mean.

    The pairs are random edges, which all nodes compute. A round is as many interactions as there are pairs of nodes,
    n / 2, so a node takes part in none, one or several. It waits for its partner, but for no other node.
    """

    kind = "swarm"
    topology: Topology = param("The graph of which every interaction has a random edge.", factory=Complete)
    mean_steps: int | None = param(
        "The mean of a geometric number of local steps; by default, the steps of the task.", default=None, ge=1
    )
    patience: Seconds | None = param(
        "The time that a node waits for its partner; by default, for ever.", default=None, ge=0
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_patience(self, setting, self.patience)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._interactions: dict[int, Interactions] = {}

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            for number, peer in self.interactions(node, t).of_nodes.get(node.id, ()):
                await self.interact(node, peer, t, number)

    async def interact(self, node: LearningNode, peer: NodeId, t: int, number: int) -> None:
        """Do one interaction of one node."""
        update = await node.train(**steps_of(node, self.mean_steps, t, number))
        own, tag = self.selection.take(update.model), f"interaction {number}"
        node.send(peer, Exchange(model=own), tag=tag, round=t)
        inbox = await node.receive(tag=tag, round=t, senders=[peer], timeout=self.patience)
        models = [own, *(one.model for one in node.usable(inbox, Exchange, model=self.selection.entry))]
        node.model = self.mean(update.model, models)

    def interactions(self, node: LearningNode, t: int) -> "Interactions":
        """The interactions of a round, from a cache of the last ones."""
        found = self._interactions.get(t)
        if found is None:
            graph = self.topology.at(t)
            drawn = node.public_random("interactions", t).integers(max(len(graph.sources), 1), size=graph.n // 2)
            ends = (graph.sources[drawn].tolist(), graph.targets[drawn].tolist()) if graph.n > 1 else ((), ())
            found = self._interactions[t] = Interactions([*zip(*ends, strict=True)], {})
            for number, (one, other) in enumerate(found.pairs):
                found.of_nodes.setdefault(one, []).append((number, NodeId(other)))
                found.of_nodes.setdefault(other, []).append((number, NodeId(one)))
            if len(self._interactions) > _ROUNDS:
                del self._interactions[next(iter(self._interactions))]
        return found


def steps_of(node: LearningNode, mean: int | None, *key: int) -> dict[str, Any]:
    """The local steps of a training: a geometric number, or those of the task."""
    return {} if mean is None else {"steps": int(node.random("steps", *key).geometric(1.0 / mean))}
