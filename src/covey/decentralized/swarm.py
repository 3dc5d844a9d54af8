"""SwarmSGD (Nadiradze et al., 2021), blocking: pairs of nodes that have done their local steps average their models."""

from collections.abc import Sequence
from typing import Any

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
        self._interactions: dict[int, Sequence[tuple[int, int]]] = {}

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            for number, pair in enumerate(self.interactions(node, t)):
                if node.id in pair:
                    await self.interact(node, NodeId(sum(pair) - node.id), t, number)

    async def interact(self, node: LearningNode, peer: NodeId, t: int, number: int) -> None:
        """Do one interaction of one node."""
        update = await node.train(**steps_of(node, self.mean_steps, t, number))
        own, tag = self.selection.take(update.model), f"interaction {number}"
        node.send(peer, Exchange(model=own), tag=tag, round=t)
        inbox = await node.receive(tag=tag, round=t, senders=[peer], timeout=self.patience)
        models = [own, *(one.model for one in node.usable(inbox, Exchange, model=self.selection.entry))]
        node.model = self.mean(update.model, models)

    def interactions(self, node: LearningNode, t: int) -> Sequence[tuple[int, int]]:
        """The pairs of a round, in order, from a cache of the last ones."""
        if t not in self._interactions:
            graph = self.topology.at(t)
            drawn = node.public_random("interactions", t).integers(max(len(graph.sources), 1), size=graph.n // 2)
            pairs = (
                zip(graph.sources[drawn].tolist(), graph.targets[drawn].tolist(), strict=True) if graph.n > 1 else ()
            )
            self._interactions = {**dict([*self._interactions.items()][-64:]), t: [*pairs]}
        return self._interactions[t]


def steps_of(node: LearningNode, mean: int | None, *key: int) -> dict[str, Any]:
    """The local steps of a training: a geometric number, or those of the task."""
    return {} if mean is None else {"steps": int(node.random("steps", *key).geometric(1.0 / mean))}
