"""Stochastic gradient push (Nedic and Olshevsky, 2016; Assran et al., 2019): averaging over directed graphs.

A node has a sum x of models and the weight w of that sum, at first its own model and 1. In a round it cuts both into
equal shares, for itself and each of its receivers, so over all nodes nothing is lost and nothing is made, although
nobody knows how many send to whom. The model x / w trains, is sent and is evaluated: x itself is never written down.

Where patience may end before a message comes, a message holds no share but the sum of all shares that its sender ever
gave to its receiver, who takes the difference to the last sum that it saw (running sums: Hadjicostis, Vaidya and
Dominguez-Garcia, 2016). What a lost message would have brought comes with the next one, and a late one counts when it
comes. On a graph that changes, where the next one may be far, a node asks for what it missed. Sums are rounded to
float32, and what rounding keeps back stays with the sender: both ends reckon with the same numbers.

Shapes: P numbers of a model, T of which are trained. Shares, sums and weights are of the trained ones; buffers are
averaged with the same weights, and what is frozen stays where it is.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from covey.decentralized.graphs import OnGraph
from covey.decentralized.schedule import EveryRound, Schedule
from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.selection import Selection
from covey.messages.payloads import Payload
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError, ProgramError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.node import Inbox, Message, Numbers, Wanted
from covey.runtime.patience import PATIENCE, TIMES, Heartbeats, Reception, check_patience
from covey.runtime.state import State

_LEAST = 1e-9
"""With less weight than this, a node's training moves its model by nothing but noise."""
_SUM, _MISSED = "sum", "missed"
_ROUNDS = range(1 << 63)
_AHEAD = 1000
"""So many messages of rounds that a node has not reached are kept: a stranger may name any round."""


class Shares(State):
    """The part of the sum that a node has, and all that it ever gave and took."""

    weight: float = 1.0
    """Its weight."""
    missed: list[int] = []
    """The senders whose sums have not come, where patience may end."""
    given: dict[NodeId, Tensor] = {}
    """The sum of all shares that a receiver was ever given."""
    given_weights: dict[NodeId, float] = {}
    taken: dict[NodeId, Tensor] = {}
    """The last such sum that came from a sender."""
    taken_weights: dict[NodeId, float] = {}


class PushSum(OnGraph):
    """Train, push equal shares of the model and its weight to some, and take the mean by weight of what arrives."""

    kind = "push-sum"
    topology: Topology = param("Who sends to whom in a round; directed or not.")
    schedule: Schedule = param("Who trains in which round.", factory=EveryRound)
    patience: Seconds | None = param(PATIENCE, default=None, ge=0)

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_patience(self, setting, self.patience)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._says = Heartbeats.where(setting, several=False, static=self.topology.static)
        self.selection = Selection.of(setting, owner=self.named())
        self._trained = Selection.of(setting, owner=self.named(), beside=True)

    def check_graphs(self) -> None:
        if self.topology.static and self.topology.can_be_drawn():
            links = self.topology.at(0).mixing("mean")
            if connected_components(links, connection="strong")[0] > connected_components(links)[0]:
                raise ConfigurationError(
                    f"The 'topology' of {self.named()} must lead back to every node, along its edges' directions, from "
                    f"all that it leads to. Got {self.topology.title()} instead, in which some only ever give."
                )

    def cycle(self) -> int:
        return self.schedule.cycle()

    @property
    def _tells(self) -> bool:
        """Whether a node tells that it has sent a sum."""
        return self.patience is not None and self._says.sent

    async def run(self, node: LearningNode) -> None:
        sums = Sums(node, self._trained.entry, len(self.selection.buffers(node.model)))
        if self.patience is not None and not self.topology.static:
            node.spawn(self.answer(node))
        async for t in node.rounds():
            await self.round(node, self.topology.at(t), t, sums)

    async def round(self, node: LearningNode, graph: Graph, t: int, sums: "Sums") -> None:
        """One round of one node."""
        kept = node.keep(Shares)
        weight = kept.weight
        # Sums have words of their own that say that they are sent.
        reception = Reception(cast(LearningNode, sums), graph, t, self.patience, replace(self._says, sent=False))
        if self.schedule.trains(node, t):
            update = await node.train()
            start, trained = self._trained.take(update.start), self._trained.take(update.model)
            # Training moves the sum by what it changed, and so the model by 1 / weight of it.
            moved = Mixture([start, trained], [1.0 - 1.0 / weight, 1.0 / weight])
            node.model = self._trained.put(update.model, moved)
        if self.patience is None:
            weight = await self.exchange(node, graph, t, weight)
        else:
            weight = await self.exchange_sums(node, graph, t, weight, sums, reception)
        kept.weight = weight
        node.log(weight=weight)

    async def exchange(self, node: LearningNode, graph: Graph, t: int, weight: float) -> float:
        """Give shares and take what arrives, all of it; gives the new weight."""
        receivers, own = graph.receivers(node.id), self.selection.take(node.model)
        share = weight / (1 + len(receivers))
        node.send(receivers, {"model": own, "weight": share}, round=t)
        received = self.shares(node, await node.receive(round=t, senders=graph.senders(node.id)))
        models = [own, *(message["model"] for message in received)]
        weights = [share, *(message["weight"] for message in received)]
        weight = _total(node, t, weights)
        node.model = self.selection.put(node.model, Mixture(models, [part / weight for part in weights]))
        return weight

    def shares(self, node: LearningNode, inbox: Inbox) -> list[Message]:
        """The messages that hold a model and a weight that can be; the others are rejected."""
        received = []
        for message in node.usable(inbox, model=self.selection.entry, weight=float):
            if 0.0 < message["weight"] < node.nodes:
                received.append(message)
            else:
                node.reject(message, f"its weight is not between 0 and {node.nodes}, the number of nodes")
        return received

    # ------------------------------------------------------------------ where messages may be missed

    async def exchange_sums(
        self, node: LearningNode, graph: Graph, t: int, weight: float, sums: "Sums", reception: Reception
    ) -> float:
        """Give shares as sums and take what has come since the last ones; gives the new weight."""
        receivers, kept = graph.receivers(node.id), node.keep(Shares)
        total_T = self._trained.take(node.model).double() * weight
        part_T, share = total_T / (1 + len(receivers)), weight / (1 + len(receivers))
        for receiver in receivers:
            gave_T, left = _give(kept, receiver, part_T, share)
            total_T, weight = total_T - gave_T, weight - left
            node.send(receiver, self.given(node, receiver, t), tag=_SUM)
        if self._tells:
            for _ in range(TIMES):
                node.send(receivers, {"round": t}, tag=_SUM)
        if not self.topology.static:
            self.ask(node, graph, t, sums)
        await reception.over(graph, reception.says)("")
        kept.missed = sums.missed(graph.senders(node.id), t)
        weights, buffers = [weight], [self.selection.buffers(node.model)]
        for message in sums.take(t):
            gained = message["weight"] - kept.taken_weights.get(message.sender, 0.0)
            if gained >= node.nodes:
                node.reject(message, f"its weight has grown by {node.nodes} or more, the number of nodes")
            elif gained > 0.0:  # Else it is older than what is known, or its sender has gone back to an earlier round.
                total_T = total_T + _took(kept, message)
                weights.append(gained)
                if len(buffers[0]):
                    buffers.append(message["buffers"])
        weight = _total(node, t, weights)
        mean = Mixture(buffers, [part / weight for part in weights]) if len(buffers[0]) else None
        node.model = self._trained.put(node.model, (total_T / weight).to(node.model.dtype), mean)
        return weight

    def given(self, node: LearningNode, receiver: NodeId, t: int) -> Payload:
        """The message that tells a receiver all that it was ever given."""
        kept = node.keep(Shares)
        said: Payload = {"sum": kept.given[receiver], "weight": kept.given_weights[receiver], "round": t}
        buffers = self.selection.buffers(node.model)
        return {**said, "buffers": buffers} if len(buffers) else said

    def ask(self, node: LearningNode, graph: Graph, t: int, sums: "Sums") -> None:
        """Ask for the sums that were missed and do not come in this round anyway."""
        for sender in sums.missed([], t):
            if sender not in graph.senders(node.id):
                node.send(NodeId(sender), {}, tag=_MISSED)

    async def answer(self, node: LearningNode) -> None:
        """Tell those who have missed something all that they were ever given."""
        async for message in node.messages(_MISSED):
            if message.sender in node.keep(Shares).given:
                node.send(message.sender, self.given(node, message.sender, 0), tag=_SUM)


class Sums:
    """The sums that have come to a node and are not taken yet, and the node as `reception` waits for them.

    A sum of a round that the node has left behind is as good as any; one of a round before it waits for its round.
    """

    def __init__(self, node: LearningNode, entry: Wanted, buffers: int) -> None:
        self._node = node
        self._wanted: dict[str, Wanted] = {"sum": entry, "weight": float, "round": _ROUNDS}
        if buffers:
            self._wanted["buffers"] = Numbers(buffers)
        self._here: list[Message] = []
        self._sent: dict[NodeId, int] = {}
        """Of which round each sender has said last that its sum is sent."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    async def receive(self, *, tag: str, round: int, senders: Sequence[NodeId], timeout: float) -> Inbox:
        """Wait for the sums of a round. One that is not here when its sender says that it is sent is lost."""
        deadline = self._node.now + timeout
        self._look()
        while missing := {*senders} - self._of(round) - self._lost(round):
            left = deadline - self._node.now
            if left <= 0.0:
                break
            self._add(await self._node.receive(tag=_SUM, count=1, timeout=left))
            self._look()
        here = [message for message in self._here if message["round"] >= round]
        lost = {*senders} & self._lost(round) - self._of(round)
        return Inbox(here, sorted(missing | lost), sorted(lost))

    def missed(self, senders: Sequence[NodeId], t: int) -> list[int]:
        """From whom something of this round or earlier ones has not come: who is to be asked again."""
        self._look()
        return sorted({*self._node.keep(Shares).missed} - self._of(0) | {*senders} - self._of(t))

    def take(self, t: int) -> list[Message]:
        """What counts in a round, in the order of senders, and as it came from each."""
        now = [message for message in self._here if message["round"] <= t]
        self._here = [message for message in self._here if message["round"] > t][-_AHEAD:]
        return sorted(now, key=lambda message: message.sender)

    def _look(self) -> None:
        self._add(self._node.arrived(tag=_SUM))

    def _add(self, messages: Sequence[Message]) -> None:
        words = [message for message in messages if message.shared.keys() == {"round"}]
        self._sent |= {word.sender: word["round"] for word in self._node.usable(words, round=_ROUNDS)}
        self._here += self._node.usable([message for message in messages if message not in words], **self._wanted)

    def _of(self, round: int) -> set[NodeId]:
        """Whose sum of a round or a later one is here."""
        return {message.sender for message in self._here if message["round"] >= round}

    def _lost(self, round: int) -> set[NodeId]:
        """Who has said that its sum of a round or a later one is sent, so that it is here or lost."""
        return {sender for sender, sent in self._sent.items() if sent >= round}


def _total(node: LearningNode, t: int, weights: Sequence[float]) -> float:
    weight = sum(weights)
    if weight < _LEAST:
        raise ProgramError(
            f"Of its weight of 1, node {node.id} has {weight:.1g} left after round {t}: the rest is on its way to "
            f"nodes that do not hear of it. Use 'push-sum' where fewer messages are lost, or 'gossip' instead."
        )
    return weight


def _give(kept: Shares, receiver: NodeId, part_T: Tensor, share: float) -> tuple[Tensor, float]:
    """Add a part to what a receiver was ever given; by how much that has grown, and its weight."""
    weight = kept.given_weights.get(receiver, 0.0)
    was_T = kept.given[receiver].double() if receiver in kept.given else torch.zeros_like(part_T)
    after_T, after = (was_T + part_T).float(), weight + share
    kept.given[receiver], kept.given_weights[receiver] = after_T, after
    return after_T.double() - was_T, after - weight


def _took(kept: Shares, message: Message) -> Tensor:
    """By how much a sum has grown since the last one that was taken of its sender; it is the last one from now on."""
    now_T: Tensor = message["sum"]
    before_T = kept.taken.get(message.sender)
    kept.taken[message.sender], kept.taken_weights[message.sender] = now_T, message["weight"]
    return now_T.double() if before_T is None else now_T.double() - before_T.double()
