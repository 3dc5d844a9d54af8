"""Shatter (Biswas et al., 2025): nodes exchange chunks of their models under names that change with every round."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, cast

from covey.decentralized.graphs import SharesModels
from covey.decentralized.sharing.fragments import Cutting, Fragment, Fragments, cut_as
from covey.decentralized.topology.random_graphs import random_regular
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, Arrived, View
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param
from covey.parts.quantities import Seconds
from covey.runtime.node import Inbox, Pseudonym
from covey.runtime.patience import check_patience
from covey.runtime.runs.observed import holder_of
from covey.runtime.sampler import Overlay

_LEGS = 3
"""The links of a chunk if virtual nodes are on machines of others: to its virtual node, to another one, to its node."""
_LAYOUTS = 4
"""The number of layouts that are kept: nodes are in few rounds at a time."""


class Shatter(SharesModels):
    """Train, let each virtual node exchange one chunk of the model, and average every parameter over what came.

    In every round, the peer sampler connects all virtual nodes by a new regular graph, under new names.
    """

    kind = "shatter"
    virtual_nodes: int = param("The virtual nodes of a node, and the chunks of its model.", default=16, ge=1)
    degree: int = param("The number of neighbours of a virtual node.", default=4, ge=1)
    cutting: Cutting = cut_as()
    permutation: Literal["static", "every-round"] = param(
        "Whether a chunk has the same parameters in all rounds, or other ones in each. Only a cutting that permutes "
        "changes.",
        default="static",
    )
    exclude_own: bool = param(
        "Whether a chunk that comes from a virtual node of the same node is left out of the average.", default=False
    )
    placement: Literal["others", "own"] = param(
        'The machines of virtual nodes. On those of "others", every chunk passes two further links, and no address '
        'tells whose it is. With "own", addresses tell all.',
        default="others",
    )
    patience: Seconds | None = param(
        "The time that a node waits for the chunks of a round; by default, for ever.", default=None, ge=0
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_patience(self, setting, self.patience)
        count = setting.nodes * self.virtual_nodes
        if self.degree >= count or self.degree * count % 2:
            raise ConfigurationError(
                f"The 'degree' of {self.named()} must be less than the number of virtual nodes, "
                f"{setting.nodes} x {self.virtual_nodes} = {count}, and even if that is odd. Got {self.degree} instead."
            )

    def overlay(self, nodes: int) -> Overlay:
        holders = tuple(node for node in range(nodes) for _ in range(self.virtual_nodes))
        draw, hidden = partial(random_regular, len(holders), self.degree), self.placement == "others"
        return Overlay(holders, draw, legs=_LEGS if hidden else 1, relays=hidden)

    def most_received(self) -> int:
        return self.virtual_nodes * self.degree

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        narrowed = self.selection.narrowed(setting)

        def cut(epoch: int) -> Fragments:
            count, owner = self.virtual_nodes, self.named()
            return Fragments(narrowed, count, self.cutting, epoch=epoch, owner=owner, key="virtual_nodes")

        self._nodes, self._cut = setting.nodes, lru_cache(_LAYOUTS)(cut)
        self._cut(0)  # A wrong number of chunks shows now.

    def chunks(self, t: int) -> Fragments:
        """The chunks of round t."""
        return self._cut(t if self.permutation == "every-round" else 0)

    def findings(self) -> Mapping[str, str]:
        virtual = f"{self.virtual_nodes} virtual nodes of each node, with {self.degree} neighbours in a round"
        return {"virtual": virtual, "chunks": self.chunks(0).in_words()}

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            # A separate call, so that messages are freed at the end of the round.
            await self.round(node, t)

    async def round(self, node: LearningNode, t: int) -> None:
        """Do one round of one node."""
        trained, chunks = (await node.train()).model, self.chunks(t)
        own, virtual = self.selection.take(trained), await node.sampled(t)
        for one in virtual:
            one.send(chunks.cut(own, one.number))
        names = {one.id for one in virtual} if self.exclude_own else set()
        inbox = [
            message for one in await self.received(node, virtual) for message in one if message.sender not in names
        ]
        node.model = self.selection.put(trained, chunks.mean(own, chunks.usable(node, inbox, Fragment)))

    async def received(self, node: LearningNode, virtual: Sequence[Pseudonym]) -> list[Inbox]:
        """The messages of each virtual node, as far as they come within the patience."""
        began, patience, found = node.now, self.patience, []
        for one in virtual:
            left = None if patience is None else max(began + patience - node.now, 0.0)
            found.append(await one.receive(timeout=left))
        return found

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        for message in messages:
            if message.round is not None:
                chunks, start = self.chunks(message.round), adversary.begun_with(message.round)
                for one in chunks.usable(cast(LearningNode, adversary), [message], Fragment):
                    indices = chunks.indices(one.number)
                    yield adversary.view(message, one.values, indices, selection=self.selection, start=start)

    def owners(self, view: View, truth: Mapping[str, Any]) -> Sequence[int]:
        return [holder_of(truth, self._nodes, name) for name in view.senders]
