"""Gossip learning (Ormandi et al., 2013; Hegedus et al., 2021): asynchronous pushes at each node's own pace."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from torch import Tensor

from covey.decentralized.graphs import OnGraph, SharesModels
from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, Arrived, View
from covey.parts.parameters import param
from covey.parts.quantities import Seconds
from covey.runtime.content import Content
from covey.runtime.state import State


class Age(State):
    """The age of a node's model."""

    age: int = 0
    """The number of optimiser steps of which it is the result."""


_AGES = range(1 << 53)
"""The valid ages of a peer's model. Floats do not distinguish greater ones."""


class Push(Content):
    """A model and its age."""

    model: Tensor
    age: Annotated[int, _AGES]


class GossipLearning(SharesModels, OnGraph):
    """In every period, push the model to a random neighbour. Merge models that arrive, weighted by age, and train.

    A round is one period. The age of a model is the number of its optimiser steps. Of several models that arrive while
    the node trains, only the newest is merged.
    """

    kind = "gossip-learning"
    synchronous = False
    tolerates_loss = True
    topology: Topology = param("The graph of nodes that may push to each other.")
    period: Seconds = param("The time between two pushes of a node.", default=1.0, gt=0)
    jitter: float = param("The fraction by which a period varies, up or down.", default=0.1, ge=0, lt=1)
    mode: Literal["merge-update", "update", "update-merge"] = param(
        "The model that a received one leads to: the merged model, trained; the received model, trained, instead of "
        "the own one; or both, trained and then merged.",
        default="merge-update",
    )

    async def run(self, node: LearningNode) -> None:
        kept = node.keep(Age)
        node.spawn(self.listen(node))
        async for t in node.rounds():
            draw = node.random("push", t)
            # The first period has a random phase, so that nodes do not push in step.
            wait = draw.random() if t == 0 else 1.0 + self.jitter * (2.0 * draw.random() - 1.0)
            await node.sleep(self.period * wait)
            peers = self.topology.at(t).receivers(node.id)
            if peers:
                peer = peers[int(draw.integers(len(peers)))]
                part = self.selection.take(node.model)
                node.send(peer, Push(model=part, age=kept.age), tag="model")

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        for push in adversary.usable(messages, Push, model=self.selection.entry):
            yield adversary.view(push.message, push.model, selection=self.selection)

    async def listen(self, node: LearningNode) -> None:
        """Merge and train the models that arrive."""
        selection, kept = self.selection, node.keep(Age)
        async for message in node.messages("model"):
            arrived = node.usable([message, *node.arrived(tag="model")], Push, model=selection.entry)
            if not arrived:
                continue
            mine, own_age = node.model, kept.age
            theirs, age = arrived[-1].model, arrived[-1].age
            if self.mode == "update":
                update = await node.train(selection.put(mine, theirs))
                node.model = update.model
                self.grow(node, age + update.steps)
                continue
            if self.mode == "update-merge":
                for_own, update = await node.train(mine), await node.train(selection.put(mine, theirs))
                mine, theirs = for_own.model, selection.take(update.model)
                own_age, age = own_age + for_own.steps, age + update.steps
            share = own_age / (own_age + age) if own_age + age else 0.5
            node.model = selection.put(mine, Mixture([selection.take(mine), theirs], [share, 1.0 - share]))
            self.grow(node, max(own_age, age))
            if self.mode == "merge-update":
                update = await node.train()
                node.model = update.model
                self.grow(node, max(own_age, age) + update.steps)

    def grow(self, node: LearningNode, age: int) -> None:
        """Set the age of the node's model."""
        node.keep(Age).age = min(age, _AGES[-1])
