"""Gradient tracking (Di Lorenzo and Scutari, 2016; Nedic et al., 2017): each node estimates the mean gradient of all.

    y(t) = W y(t-1) + g(t) - g(t-1),    x(t+1) = W (x(t) - lr y(t))

With c(t) = y(t) - g(t), what is added to a gradient, this is c(t+1) = c(t) + W y(t) - y(t). So a node keeps c, trains
with it as the correction of all of its K steps, and shares the mean of its corrected gradients y with its model: for
K > 1 this is K-GT (Liu et al., 2024) with a server's learning rate of 1.
"""

from collections.abc import Iterable, Iterator

from torch import Tensor

from covey.aggregation.aggregation import Aggregation, Contribution
from covey.decentralized.graphs import OnGraph, SharesModels
from covey.decentralized.topology import Topology
from covey.decentralized.weights import (
    AGGREGATION,
    check_complete,
    check_doubly_stochastic,
    check_gradients,
    usual_rule,
)
from covey.learning.mixture import computed
from covey.learning.node import LearningNode
from covey.learning.selection import Selection
from covey.learning.views import Adversary, Arrived, View
from covey.parts.parameters import Setting, param
from covey.runtime.content import Content
from covey.runtime.entries import Numbers
from covey.runtime.node import Wanted
from covey.runtime.state import State


class Tracker(State):
    """The difference between a node's estimate of the mean gradient and its own gradient."""

    correction: Tensor | None = None


class Step(Content):
    """A trained model, and the mean gradient of its training."""

    model: Tensor
    gradient: Tensor


class GradientTracking(SharesModels, OnGraph):
    """Train along corrected gradients, and average the models and these gradients with those of neighbours."""

    kind = "gradient-tracking"
    topology: Topology = param("The graph of a round.")
    aggregation: Aggregation | None = param(AGGREGATION, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.aggregation = self._rule = self.aggregation or usual_rule(self.topology)

    def check(self, setting: Setting) -> None:
        check_complete(self, setting)
        check_gradients(self, setting)
        super().check(setting)

    def check_graphs(self) -> None:
        self._rule.check_with(self.topology)
        check_doubly_stochastic(self, self.topology, self._rule)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._trained = Selection.of(setting, owner=self.named(), beside=True)

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        trained = adversary.narrowed(self._trained)
        for message in messages:
            start = adversary.begun_with(message.round)
            for step in adversary.usable([message], Step, model=self.selection.entry):
                yield adversary.view(message, step.model, selection=self.selection, start=start)
            for step in trained.usable([message], Step, gradient=Numbers(self._trained.size)):
                yield adversary.view(message, step.gradient, selection=self._trained, start=start, gradient=True)

    async def run(self, node: LearningNode) -> None:
        tracker, rule = node.keep(Tracker), self._rule
        wanted: dict[str, Wanted] = {"model": self.selection.entry, "gradient": Numbers(self._trained.size)}
        async for t in node.rounds():
            graph, update = self.topology.at(t), await node.train(correction=tracker.correction)
            own = Step(model=self.selection.take(update.model), gradient=self._trained.take(update.gradient))
            node.send(graph.receivers(node.id), own, round=t)
            inbox = await node.receive(round=t, senders=graph.senders(node.id))
            steps = node.usable(inbox, Step, **wanted)
            models = [Contribution(step.sender, step.model) for step in steps]
            gradients = [Contribution(step.sender, step.gradient) for step in steps]
            change = computed(rule.merge(node, graph, own.gradient, gradients)) - own.gradient
            tracker.correction = change if tracker.correction is None else change + tracker.correction
            node.model = self.selection.put(update.model, rule.merge(node, graph, own.model, models))
