"""The standard round of decentralized learning, made of four parts.

With a static topology and Metropolis-Hastings weights it is D-PSGD (Lian et al., 2017); with an epidemic topology and
equal weights it is Epidemic Learning (de Vos et al., 2023).
"""

from collections.abc import Sequence

from torch import Tensor

from covey.aggregation import Aggregation, Given, Mean, MetropolisHastings
from covey.errors import ConfigurationError
from covey.node import Inbox, Mixture, Node, NodeId, Program
from covey.parameters import Seconds, Setting, param
from covey.schedule import EveryRound, Schedule
from covey.sharing import Full, Hear, Sharing
from covey.topology import Graph, Topology


class Gossip(Program):
    """Train, send to some, hear from some, merge: D-PSGD, Epidemic Learning and all that differ in one part."""

    kind = "gossip"
    topology: Topology = param("Who talks to whom in a round.")
    sharing: Sharing = param("What is sent.", factory=Full)
    schedule: Schedule = param("Who trains in which round.", factory=EveryRound)
    aggregation: Aggregation | None = param(
        "How models are merged; by default given where the topology has weights of its own, "
        "metropolis-hastings on other static undirected graphs, else mean.",
        default=None,
    )
    overlap: bool = param(
        "Whether a round sends the model that it began with and trains meanwhile (the original D-PSGD), "
        "instead of training first and sending the result.",
        default=False,
    )
    patience: Seconds | None = param(
        "How long a node waits for its neighbours in a round; for ever by default. "
        "Whom it waited for in vain it waits for again only after 1, 2, 4 ... rounds, until it is heard.",
        default=None,
        ge=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aggregation is None:
            symmetric = self.topology.static and not self.topology.one_way()
            self.aggregation = Given() if self.topology.weighted else MetropolisHastings() if symmetric else Mean()

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        assert self.aggregation is not None
        self._aggregation = self.aggregation
        if self.overlap and self.sharing.by_change:
            raise ConfigurationError(
                f"The sharing {self.sharing.kind} sends what training changed, so it cannot send while a node trains. "
                f"Set 'overlap' to false."
            )
        self._aggregation.check(self.topology)
        self.sharing.check(self.topology, self._aggregation)

    def cycle(self) -> int:
        return self.schedule.cycle()

    def round_bytes(self, setting: Setting, model_bytes: int) -> float | None:
        if self.sharing.at_most:
            return None
        return float(self.topology.at(0).out_degrees.mean()) * self.sharing.message_bytes(model_bytes)

    def waiting_bytes(self, setting: Setting, message_bytes: int) -> float:
        # A neighbour that has heard everybody begins its next round while its receivers still wait for others.
        return 2.0 * float(self.topology.at(0).in_degrees.max()) * self.sharing.message_bytes(message_bytes)

    async def run(self, node: Node) -> None:
        async for t in node.rounds():
            # A call of its own, so that what arrived is forgotten when the round ends and not kept through the next.
            await self.round(node, self.topology.at(t), t)

    async def round(self, node: Node, graph: Graph, t: int) -> None:
        """One round of one node."""
        sharing, hear = self.sharing, self.hearing(node, graph.senders(node.id), t)
        start, update = None, None
        trains = self.schedule.trains(node, t)
        if trains and not self.overlap:
            start = await self.learn(node, t)
        start = start if start is not None and sharing.by_change else node.model
        await sharing.agree(node, graph, t, start, hear)
        for receivers, payload in sharing.outgoing(node, graph, t, start):
            node.send(receivers, payload, round=t)
        del start
        if trains and self.overlap:
            update = await node.train()
        merged = sharing.merge(node, graph, t, await hear(""), self._aggregation)
        if update is not None:
            mixture = merged if isinstance(merged, Mixture) else Mixture([merged], [1.0])
            merged = mixture.plus([update.model, update.start], [1.0, -1.0])
        node.model = merged

    async def learn(self, node: Node, t: int) -> Tensor:
        """The local work of a round, after which `node.model` is another; gives the model that it began with."""
        update = await node.train()
        node.model = update.model
        return update.start

    def hearing(self, node: Node, senders: Sequence[NodeId], t: int) -> Hear:
        """What waits for the messages of the senders of a round, one tag after the other."""
        deadline = 0.0
        earlier: list[str] = []

        async def hear(tag: str) -> Inbox:
            if self.patience is None:
                return await node.receive(tag=tag, round=t, senders=senders)
            # Whom a sender waited for in vain made it late: who waits for several messages has patience for that too.
            nonlocal deadline
            deadline = max(deadline, node.now) + self.patience
            inbox = await self._hear(node, senders, t, tag, deadline - node.now, earlier)
            earlier.append(tag)
            return inbox

        return hear

    async def _hear(
        self, node: Node, senders: Sequence[NodeId], t: int, tag: str, timeout: float, earlier: Sequence[str]
    ) -> Inbox:
        """What the senders of a round sent.

        Who waits for a dead neighbour is late for the others, who then miss its message: so nobody waits every round.
        """
        # In threes: a silent neighbour, the round from which it is waited for again, and the next pause.
        kept: list[int] = node.state.get("silent", [])  # type: ignore[assignment]
        silent = {peer: (again, pause) for peer, again, pause in zip(kept[::3], kept[1::3], kept[2::3], strict=True)}
        for message in (late for before in earlier for late in node.arrived(tag=before, round=t)):
            silent.pop(message.sender, None)  # It was too late with its message before, and is here.
        awaited = [peer for peer in senders if peer not in silent or silent[peer][0] <= t]
        inbox = await node.receive(tag=tag, round=t, senders=awaited, timeout=timeout)
        for peer in inbox.missing:
            _, pause = silent.get(peer, (t, 1))
            silent[peer] = t + 1 + pause, 2 * pause
        heard = list(inbox)
        for message in node.arrived(tag=tag, round=t):
            if message.sender in senders:
                heard.append(message)
            else:
                node.reject(message, f"nobody sends to node {node.id} from there in round {t}")
        heard.sort(key=lambda message: message.sender)
        for message in heard:
            silent.pop(message.sender, None)
        node.state["silent"] = [number for peer, times in silent.items() for number in (peer, *times)]
        return Inbox(heard, inbox.missing)
