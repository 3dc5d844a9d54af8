"""The standard round of decentralized learning, composed of four parts.

With a static topology and Metropolis-Hastings weights it is D-PSGD (Lian et al., 2017). With an epidemic topology and
equal weights it is Epidemic Learning (de Vos et al., 2023).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch import Tensor

from covey.aggregation.aggregation import Aggregation
from covey.decentralized.graphs import OnGraph
from covey.decentralized.linear import LinearGossip, against
from covey.decentralized.schedule import EveryRound, Schedule
from covey.decentralized.sharing import Full, Sharing
from covey.decentralized.topology import Topology
from covey.decentralized.weights import AGGREGATION, usual_rule
from covey.learning.node import LearningNode, Update
from covey.learning.views import Adversary, Arrived, View
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.linear import LinearRounds
from covey.runtime.patience import PATIENCE, Heartbeats, Reception, check_patience


class Gossip(OnGraph):
    """Train, send, receive, merge: D-PSGD, Epidemic Learning, and algorithms that differ from these in one part."""

    kind = "gossip"
    topology: Topology = param("The graph of a round.")
    sharing: Sharing = param("The content of messages.", factory=Full)
    schedule: Schedule = param("The rounds in which nodes train.", factory=EveryRound)
    aggregation: Aggregation | None = param(AGGREGATION, default=None)
    overlap: bool = param(
        "Whether a round sends the model with which it begins and trains meanwhile (the original D-PSGD), "
        "instead of training first and sending the result.",
        default=False,
    )
    patience: Seconds | None = param(PATIENCE, default=None, ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.aggregation = self.aggregation or usual_rule(self.topology)

    def check(self, setting: Setting) -> None:
        super().check(replace(setting, patient=self.patience is not None))
        check_patience(self, setting, self.patience)
        if self.overlap and self.sharing.by_change:
            raise ConfigurationError(
                f"The sharing {self.sharing.kind} sends the change of training, so it cannot send while a node trains. "
                f"Set 'overlap' to false."
            )

    def check_graphs(self) -> None:
        assert self.aggregation is not None
        fragments = self.topology.fragments_of_models()
        if fragments > 1 and not self.sharing.by_fragments:
            raise ConfigurationError(
                f"{self.topology.named().capitalize()} draws {fragments} graphs a round, one for each fragment of a "
                f"model, but {self.sharing.named()} sends no fragments. Use the sharing mosaic."
            )
        self.aggregation.check_with(self.topology)
        self.sharing.check_with(self.topology, self.aggregation)

    def prepare(self, setting: Setting) -> None:
        super().prepare(replace(setting, patient=self.patience is not None))
        self._heartbeats = self._heartbeats_of(setting, self.sharing)
        assert self.aggregation is not None
        self._aggregation = self.aggregation
        if self.sharing.selection.buffered:
            self._check_signs(self._aggregation)

    def _check_signs(self, aggregation: Aggregation) -> None:
        """Refuse negative weights for averaged buffers, because variances would become negative."""
        weights_E = aggregation.of_edges(self.topology.at(0))
        if weights_E is not None and (weights_E < 0).any():
            raise ConfigurationError(
                f"The 'buffers' of {self.sharing.named()} must be 'keep' if the weights of {aggregation.title()} "
                f"over {self.topology.title()} are negative. Got 'average' instead: variances would be negative, too."
            )

    def cycle(self) -> int:
        return self.schedule.cycle()

    def linear(self, setting: Setting) -> LinearRounds | None:
        return None if self.against_linear(setting) else LinearGossip(self, setting.parameters)

    def against_linear(self, setting: Setting) -> str | None:
        if any(getattr(type(self), name) is not getattr(Gossip, name) for name in ("run", "round", "learn", "trained")):
            return f"the program {self.title()} has a round of its own"
        return against(self)

    def _heartbeats_of(self, setting: Setting, sharing: Sharing) -> Heartbeats:
        """The heartbeats of nodes with a sharing."""
        if self.patience is None:
            return Heartbeats(late=False)
        return Heartbeats.where(setting, several=sharing.several, static=self.topology.static)

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            # A separate call, so that messages are freed at the end of the round.
            await self.round(node, t)

    async def round(self, node: LearningNode, t: int) -> None:
        """Do one round of one node."""
        sharing, graph, update = self.sharing, self.topology.at(t), None
        reception = Reception(node, graph, t, self.patience, self._heartbeats)
        trains = self.schedule.trains(node, t)
        start = await self.learn(node, t, reception) if trains and not self.overlap else None
        receive = reception.over(graph, self._heartbeats)
        round = sharing.round(node, self.topology, t, self._aggregation, receive, start)
        await sharing.send(round)
        del start, round.start  # Free these models while the node waits.
        if trains and self.overlap:
            update = await self.trained(node)
        merged = round.whole(await sharing.receive(round))
        node.model = merged if update is None else sharing.selection.applied(update, merged)

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        for view in self.sharing.views(adversary, self.topology, self._aggregation, messages):
            yield view if self.overlap else replace(view, start=adversary.begun_with(view.round))

    async def learn(self, node: LearningNode, t: int, reception: Reception) -> Tensor:
        """Do the local work of a round, which changes `node.model`, and return the model before it."""
        update = await self.trained(node)
        node.model = update.model
        return update.start if self.sharing.by_change else node.model

    async def trained(self, node: LearningNode) -> Update:
        """The training of a round, from the node's model."""
        return await node.train()
