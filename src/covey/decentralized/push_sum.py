"""Stochastic gradient push (Nedic and Olshevsky, 2016; Assran et al., 2019): averaging over directed graphs.

A node has a sum x of models and its weight w, at first its own model and 1. In a round it divides both into equal
shares for itself and each of its receivers. So the sums over all nodes stay the same, although no node knows the number
of its senders in advance. The model x / w is trained, sent and evaluated; x itself is never stored.

If patience may end before a message arrives, a message holds the sum of all shares that its sender ever gave to its
receiver, and the receiver takes the difference to the last sum that it got (running sums: Hadjicostis, Vaidya and
Dominguez-Garcia, 2016). The next message then makes up for a lost one, and a late one counts when it arrives. On a
graph that changes, the next message may be far, so a node asks for sums that it missed. Sums are rounded to float32,
and the rounding error stays with the sender, so that both ends use the same numbers.

Shapes: P numbers of a model, T of which are trained. Shares, sums and weights are of the trained ones. Buffers are
averaged with the same weights, and frozen values stay local.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, cast

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from covey.decentralized.graphs import OnGraph, SharesModels
from covey.decentralized.schedule import EveryRound, Schedule
from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.selection import Selection
from covey.learning.views import Adversary, Arrived, View
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError, ProgramError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.content import Content
from covey.runtime.entries import Numbers, Within
from covey.runtime.node import Inbox, Message, Wanted
from covey.runtime.patience import PATIENCE, TIMES, Heartbeats, Reception, check_patience
from covey.runtime.state import State

_LEAST = 1e-9
"""The least weight. With less, training moves a node's model only by noise."""
_SUM, _MISSED = "sum", "missed"
_ROUNDS = range(1 << 63)
_AHEAD = 1000
"""The greatest number of kept messages of later rounds: a peer may name any round."""


class Shares(State):
    """A node's share of the sum, and the running sums of its shares."""

    weight: float = 1.0
    """The weight of the node's share."""
    missed: list[int] = []
    """The senders whose sums have not arrived in time."""
    sent: dict[NodeId, Tensor] = {}
    """The sum of all shares for each receiver."""
    sent_weights: dict[NodeId, float] = {}
    received: dict[NodeId, Tensor] = {}
    """The last such sum from each sender."""
    received_weights: dict[NodeId, float] = {}


class Push(Content):
    """A share of a sum and of its weight."""

    model: Tensor
    weight: Annotated[float, Within(gt=0, lt="nodes")]


class Sum(Content):
    """The sum of all shares that its sender ever gave to its receiver."""

    sum: Tensor
    weight: float
    round: Annotated[int, _ROUNDS]
    buffers: Tensor | None = None
    """The buffers of the sender's model, if it has any."""


class Sent(Content):
    """The announcement that the sum of a round was sent."""

    round: Annotated[int, _ROUNDS]


class PushSum(SharesModels, OnGraph):
    """Train, send equal shares of the model and its weight, and take the weighted mean of the shares that arrive."""

    kind = "push-sum"
    topology: Topology = param("The graph of a round, directed or not.")
    schedule: Schedule = param("The rounds in which nodes train.", factory=EveryRound)
    patience: Seconds | None = param(PATIENCE, default=None, ge=0)

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_patience(self, setting, self.patience)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._heartbeats = Heartbeats.where(setting, several=False, static=self.topology.static)
        self._trained = Selection.of(setting, owner=self.named(), beside=True)

    def check_graphs(self) -> None:
        if self.topology.static and self.topology.can_be_drawn():
            links = self.topology.at(0).mixing("mean")
            if connected_components(links, connection="strong")[0] > connected_components(links)[0]:
                raise ConfigurationError(
                    f"The 'topology' of {self.named()} must have a path back to every node from all nodes that it "
                    f"reaches. Got {self.topology.title()} instead, in which some nodes only lose weight."
                )

    def cycle(self) -> int:
        return self.schedule.cycle()

    @property
    def _announces(self) -> bool:
        """True if a node sends heartbeats after its sums."""
        return self.patience is not None and self._heartbeats.sent

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        """Shares hold the model itself. The increase of a running sum is the model times a weight."""
        known: dict[NodeId, tuple[Tensor, float]] = {}
        trained = adversary.narrowed(self._trained)
        for message in messages:
            if message.tag == "":
                for push in adversary.usable([message], Push, model=self.selection.entry):
                    start = adversary.begun_with(message.round)
                    yield adversary.view(message, push.model, selection=self.selection, start=start)
            elif message.tag == _SUM and "sum" in message.shared:
                for now in trained.usable([message], Sum, sum=Numbers(self._trained.size)):
                    before, weight = known.get(now.sender, (torch.zeros_like(now.sum), 0.0))
                    known[now.sender] = now.sum, now.weight
                    if now.weight > weight:
                        model = (now.sum.double() - before.double()) / (now.weight - weight)
                        start = adversary.begun_with(now.round if weight == 0.0 else None)
                        yield adversary.view(message, model.float(), selection=self._trained, start=start)

    async def run(self, node: LearningNode) -> None:
        sums = Sums(node, self._trained.entry, len(self.selection.buffers(node.model)))
        if self.patience is not None and not self.topology.static:
            node.spawn(self.answer(node))
        async for t in node.rounds():
            await self.round(node, self.topology.at(t), t, sums)

    async def round(self, node: LearningNode, graph: Graph, t: int, sums: "Sums") -> None:
        """Do one round of one node."""
        kept = node.keep(Shares)
        weight = kept.weight
        # Sums have their own heartbeats.
        reception = Reception(cast(LearningNode, sums), graph, t, self.patience, replace(self._heartbeats, sent=False))
        if self.schedule.trains(node, t):
            update = await node.train()
            start, trained = self._trained.take(update.start), self._trained.take(update.model)
            # Training adds its change to the sum, and so 1 / weight of it to the model.
            moved = Mixture([start, trained], [1.0 - 1.0 / weight, 1.0 / weight])
            node.model = self._trained.put(update.model, moved)
        if self.patience is None:
            weight = await self.exchange(node, graph, t, weight)
        else:
            weight = await self.exchange_sums(node, graph, t, weight, sums, reception)
        kept.weight = weight
        node.log(weight=weight)

    async def exchange(self, node: LearningNode, graph: Graph, t: int, weight: float) -> float:
        """Send shares and add all that arrive, without losses. Return the new weight."""
        receivers = graph.receivers(node.id)
        own = Push(model=self.selection.take(node.model), weight=weight / (1 + len(receivers)))
        node.send(receivers, own, round=t)
        inbox = await node.receive(round=t, senders=graph.senders(node.id))
        shares = [own, *node.usable(inbox, Push, model=self.selection.entry)]
        weight = _total(node, t, [share.weight for share in shares])
        mean = Mixture([share.model for share in shares], [share.weight / weight for share in shares])
        node.model = self.selection.put(node.model, mean)
        return weight

    # ------------------------------------------------------------------ with losses

    async def exchange_sums(
        self, node: LearningNode, graph: Graph, t: int, weight: float, sums: "Sums", reception: Reception
    ) -> float:
        """Send running sums and add the differences of those that arrive. Return the new weight."""
        receivers, kept = graph.receivers(node.id), node.keep(Shares)
        total_T = self._trained.take(node.model).double() * weight
        part_T, share = total_T / (1 + len(receivers)), weight / (1 + len(receivers))
        for receiver in receivers:
            sent_T, sent = _add_share(kept, receiver, part_T, share)
            total_T, weight = total_T - sent_T, weight - sent
            node.send(receiver, self.running_sum(node, receiver, t), tag=_SUM)
        if self._announces:
            for _ in range(TIMES):
                node.send(receivers, Sent(round=t), tag=_SUM)
        if not self.topology.static:
            self.ask(node, graph, t, sums)
        await reception.over(graph, reception.heartbeats)("")
        kept.missed = sums.missed(graph.senders(node.id), t)
        weights, buffers = [weight], [self.selection.buffers(node.model)]
        for arrived in sums.take(t):
            gained = arrived.weight - kept.received_weights.get(arrived.sender, 0.0)
            if gained >= node.nodes:
                node.reject(arrived, f"its weight has grown by {node.nodes} or more, the number of nodes")
            elif gained > 0.0:  # Otherwise it is older than the known sum, or its sender was restored.
                total_T = total_T + _increase(kept, arrived)
                weights.append(gained)
                if arrived.buffers is not None:
                    buffers.append(arrived.buffers)
        weight = _total(node, t, weights)
        mean = Mixture(buffers, [part / weight for part in weights]) if len(buffers[0]) else None
        node.model = self._trained.put(node.model, (total_T / weight).to(node.model.dtype), mean)
        return weight

    def running_sum(self, node: LearningNode, receiver: NodeId, t: int) -> Sum:
        """The running sum for a receiver."""
        kept, buffers = node.keep(Shares), self.selection.buffers(node.model)
        return Sum(
            sum=kept.sent[receiver],
            weight=kept.sent_weights[receiver],
            round=t,
            buffers=buffers if len(buffers) else None,
        )

    def ask(self, node: LearningNode, graph: Graph, t: int, sums: "Sums") -> None:
        """Ask for missed sums of nodes that do not send in this round."""
        for sender in sums.missed([], t):
            if sender not in graph.senders(node.id):
                node.send(NodeId(sender), {}, tag=_MISSED)

    async def answer(self, node: LearningNode) -> None:
        """Answer requests for missed sums."""
        async for message in node.messages(_MISSED):
            if message.sender in node.keep(Shares).sent:
                node.send(message.sender, self.running_sum(node, message.sender, 0), tag=_SUM)


class Sums:
    """The sums that have arrived at a node and are not taken yet. `Reception` uses it in the place of the node.

    A sum of an earlier round counts like any other. A sum of a later round waits for its round.
    """

    def __init__(self, node: LearningNode, entry: Wanted, buffers: int) -> None:
        self._node = node
        self._wanted: dict[str, Wanted] = {"sum": entry, **({"buffers": Numbers(buffers)} if buffers else {})}
        self._here: list[Sum] = []
        self._sent: dict[NodeId, int] = {}
        """The last round for which each sender has announced its sum."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    async def receive(self, *, tag: str, round: int, senders: Sequence[NodeId], timeout: float) -> Inbox:
        """Wait for the sums of a round. A sum that has not arrived after its announcement is lost."""
        deadline = self._node.now + timeout
        self._look()
        while missing := {*senders} - self._of(round) - self._lost(round):
            left = deadline - self._node.now
            if left <= 0.0:
                break
            self._add(await self._node.receive(tag=_SUM, count=1, timeout=left))
            self._look()
        here = [arrived.message for arrived in self._here if arrived.round >= round]
        lost = {*senders} & self._lost(round) - self._of(round)
        return Inbox(here, sorted(missing | lost), sorted(lost))

    def missed(self, senders: Sequence[NodeId], t: int) -> list[int]:
        """The senders whose sums of this round or earlier ones have not arrived."""
        self._look()
        return sorted({*self._node.keep(Shares).missed} - self._of(0) | {*senders} - self._of(t))

    def take(self, t: int) -> list[Sum]:
        """The sums that count in a round, in order of senders and of arrival."""
        now = [arrived for arrived in self._here if arrived.round <= t]
        self._here = [arrived for arrived in self._here if arrived.round > t][-_AHEAD:]
        return sorted(now, key=lambda arrived: arrived.sender)

    def _look(self) -> None:
        self._add(self._node.arrived(tag=_SUM))

    def _add(self, messages: Sequence[Message]) -> None:
        words = [message for message in messages if message.shared.keys() == {"round"}]
        self._sent |= {sent.sender: sent.round for sent in self._node.usable(words, Sent)}
        sums = [message for message in messages if message not in words]
        self._here += self._node.usable(sums, Sum, **self._wanted)

    def _of(self, round: int) -> set[NodeId]:
        """The senders whose sum of a round or a later one has arrived."""
        return {arrived.sender for arrived in self._here if arrived.round >= round}

    def _lost(self, round: int) -> set[NodeId]:
        """The senders that have announced their sum of a round or a later one, so that it has arrived or is lost."""
        return {sender for sender, sent in self._sent.items() if sent >= round}


def _total(node: LearningNode, t: int, weights: Sequence[float]) -> float:
    weight = sum(weights)
    if weight < _LEAST:
        raise ProgramError(
            f"Node {node.id} has {weight:.1g} of its weight of 1 left after round {t}: the rest is in lost messages. "
            f"Use 'push-sum' with fewer losses, or 'gossip' instead."
        )
    return weight


def _add_share(kept: Shares, receiver: NodeId, part_T: Tensor, share: float) -> tuple[Tensor, float]:
    """Add a share to the running sum of a receiver. Return the increase of the sum and of its weight."""
    weight = kept.sent_weights.get(receiver, 0.0)
    was_T = kept.sent[receiver].double() if receiver in kept.sent else torch.zeros_like(part_T)
    after_T, after = (was_T + part_T).float(), weight + share
    kept.sent[receiver], kept.sent_weights[receiver] = after_T, after
    return after_T.double() - was_T, after - weight


def _increase(kept: Shares, arrived: Sum) -> Tensor:
    """The increase of a sender's running sum since its last one, which it replaces."""
    now_T, before_T = arrived.sum, kept.received.get(arrived.sender)
    kept.received[arrived.sender], kept.received_weights[arrived.sender] = now_T, arrived.weight
    return now_T.double() if before_T is None else now_T.double() - before_T.double()
