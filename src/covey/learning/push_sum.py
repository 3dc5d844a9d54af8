"""Stochastic gradient push (Nedic and Olshevsky, 2016; Assran et al., 2019): averaging over directed graphs.

A node has a sum x of models and the weight w of that sum, at first its own model and 1. In a round it cuts both into
equal shares, for itself and each of its receivers, so over all nodes nothing is lost and nothing is made, although
nobody knows how many send to whom. The model x / w trains, is sent and is evaluated: x itself is never written down.
"""

from scipy.sparse.csgraph import connected_components

from covey.errors import ConfigurationError, ProgramError
from covey.learning.hearing import PATIENCE, check_patience, hearing
from covey.node import MODEL, Inbox, Message, Mixture, Node, Program
from covey.parameters import Seconds, Setting, param
from covey.schedule import EveryRound, Schedule
from covey.topology import Graph, Topology

_LEAST = 1e-9
"""With less weight than this, a node's training moves its model by nothing but noise."""


class PushSum(Program):
    """Train, push equal shares of the model and its weight to some, and take the mean by weight of what arrives."""

    kind = "push-sum"
    topology: Topology = param("Who sends to whom in a round; directed or not.")
    schedule: Schedule = param("Who trains in which round.", factory=EveryRound)
    patience: Seconds | None = param(PATIENCE, default=None, ge=0)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        check_patience(self, setting, self.patience)
        if self.topology.static and self.topology.can_be_drawn():
            links = self.topology.at(0).mixing("mean")
            if connected_components(links, connection="strong")[0] > connected_components(links)[0]:
                raise ConfigurationError(
                    f"The 'topology' of {self.named()} must lead back to every node, along its edges' directions, from "
                    f"all that it leads to. Got {self.topology.title()} instead, in which some only ever give."
                )

    def cycle(self) -> int:
        return self.schedule.cycle()

    def round_bytes(self, setting: Setting, model_bytes: int) -> float | None:
        return self.topology.messages() * model_bytes

    def waiting_bytes(self, setting: Setting, message_bytes: int) -> float:
        return 2.0 * self.topology.most_heard() * message_bytes

    async def run(self, node: Node) -> None:
        node.state.setdefault("weight", 1.0)
        async for t in node.rounds():
            await self.round(node, self.topology.at(t), t)

    async def round(self, node: Node, graph: Graph, t: int) -> None:
        """One round of one node."""
        weight: float = node.state["weight"]  # type: ignore[assignment]
        if self.schedule.trains(node, t):
            update = await node.train()
            # Training moves the sum by what it changed, and so the model by 1 / weight of it.
            node.model = Mixture([update.start, update.model], [1.0 - 1.0 / weight, 1.0 / weight])
        receivers = graph.receivers(node.id)
        share = weight / (1 + len(receivers))
        node.send(receivers, {"model": node.model, "weight": share}, round=t)
        heard = self.shares(node, await hearing(node, graph.senders(node.id), t, self.patience)(""))
        models = [node.model, *(message["model"] for message in heard)]
        weights = [share, *(message["weight"] for message in heard)]
        weight = sum(weights)
        if weight < _LEAST:
            raise ProgramError(
                f"Of its weight of 1, node {node.id} has {weight:.1g} left after round {t}: what was sent and never "
                f"arrived took it along. Use 'push-sum' without 'loss', 'churn' and faults, or 'gossip' instead."
            )
        node.model = Mixture(models, [part / weight for part in weights])
        node.state["weight"] = weight
        node.log(weight=weight)

    def shares(self, node: Node, inbox: Inbox) -> list[Message]:
        """The messages that hold a model and a weight that can be; the others are rejected."""
        heard = []
        for message in node.usable(inbox, model=MODEL, weight=float):
            if 0.0 < message["weight"] < node.nodes:
                heard.append(message)
            else:
                node.reject(message, f"its weight is not between 0 and {node.nodes}, the number of nodes")
        return heard
