"""Mosaic Learning (Biswas et al., 2026): every fragment of a model is averaged along a graph of its own.

Shapes: K fragments, E edges.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from covey.aggregation.aggregation import Aggregation, Contribution
from covey.decentralized.sharing.fragments import Cutting, Fragments, cut_as
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages, Sharing
from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, Arrived, View
from covey.messages.ownership import readable
from covey.messages.payloads import is_known_to_be_finite
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError, WireError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting
from covey.runtime.content import Content
from covey.runtime.node import Inbox, Message
from covey.runtime.reading import understood

_ROUNDS = 8
"""The number of rounds whose plans are kept. Nodes that do not wait for each other may be in different ones."""


class Bundle(Content):
    """All fragments of one sender for one receiver."""

    values: Tensor
    layout: str
    """The digest of the sender's layout."""


class Bundled(NamedTuple):
    """The fragments that travel along an edge."""

    fragments: tuple[int, ...]
    weights: tuple[float, ...]
    """The weight that the receiver gives to each."""


Plan = dict[tuple[NodeId, NodeId], Bundled]
"""The fragments that travel along each edge of a round, by sender and receiver."""


class Mosaic(Sharing):
    """Each fragment along the graph that the topology draws for it, in one message to each receiver.

    With a topology that draws one graph for whole models, it is full sharing.
    """

    kind = "mosaic"
    takes_buffers = True
    cutting: Cutting = cut_as()

    def check_with(self, topology: Topology, aggregation: Aggregation) -> None:
        self._count = topology.fragments_of_models()
        if self._count > 1 and aggregation.of_edges(topology.at(0)) is None:
            raise ConfigurationError(
                f"{self.named().capitalize()} needs an aggregation with fixed weights, which may differ between "
                f"fragments. Use 'mean' instead of '{aggregation.title()}'."
            )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.fragments = Fragments(setting, self._count, self.cutting, owner=self.named())
        self._plans: dict[int, Plan] = {}
        self._sent: dict[NodeId, tuple[Tensor, Tensor]] = {}

    def findings(self) -> Mapping[str, str]:
        return {"fragments": self.fragments.in_words()}

    def outgoing(self, round: Round) -> Messages:
        layout, plan, sender = self.fragments, self._plan(round.t, round.topology, round.aggregation), round.node.id
        parts = layout.split(self._ordered(round.node))
        receivers: dict[tuple[int, ...], list[NodeId]] = {}
        for receiver in round.receivers:
            receivers.setdefault(plan[sender, receiver].fragments, []).append(receiver)
        for numbers, some in receivers.items():
            values = parts[numbers[0]] if len(numbers) == 1 else torch.cat([parts[number] for number in numbers])
            yield some, Bundle(values=values, layout=layout.digest)

    def merge(self, round: Round, inbox: Inbox) -> Tensor | Mixture:
        node, layout, plan = round.node, self.fragments, self._plan(round.t, round.topology, round.aggregation)
        arrived = self._read(node, inbox, plan)
        if layout.count == 1:
            return round.merge(node.model, [Contribution(bundle.sender, bundle.values) for bundle, _ in arrived])
        missing = {*round.senders} - {bundle.sender for bundle, _ in arrived}
        steps = _steps(arrived, [plan[sender, node.id] for sender in missing], layout)
        ordered = self._ordered(node)
        del self._sent[node.id]
        return FragmentMixture(ordered, layout, steps)

    def _ordered(self, node: LearningNode) -> Tensor:
        """The model of a node with its fragments one after the other, which is kept until the node has merged."""
        model = node.model
        sent, ordered = self._sent.get(node.id, (None, None))
        if ordered is None or sent is not model:
            ordered = self.fragments.ordered(model)
            if self.fragments.count > 1:
                is_known_to_be_finite(ordered)
                self._sent[node.id] = model, ordered
        return ordered

    def views(
        self, adversary: Adversary, topology: Topology, aggregation: Aggregation, messages: Iterable[Arrived]
    ) -> Iterator[View]:
        for message in messages:
            if not message.tag and message.round is not None:
                plan = self._plan(message.round, topology, aggregation)
                for bundle, bundled in self._read(adversary.narrowed(self.selection), [message], plan):
                    indices = self.fragments.together(bundled.fragments)
                    yield self.view(adversary, message, bundle.values, indices)

    def _read(self, node: Any, messages: Iterable[Message], plan: Plan) -> list[tuple[Bundle, Bundled]]:
        """The bundles of messages to a node, and their fragments; wrong messages are rejected."""

        def read(bundle: Bundle) -> Bundled:
            bundled = plan.get((bundle.sender, node.id))
            if bundled is None:
                raise WireError("bad-field", f"its sender does not send to node {node.id} in the round")
            if (reason := self.fragments.mistake(bundled.fragments, bundle.values, bundle.layout)) is not None:
                raise WireError("bad-field", reason)
            return bundled

        return list(understood(node, node.usable(messages, Bundle), read))

    def _plan(self, t: int, topology: Topology, aggregation: Aggregation) -> Plan:
        """The plan of round t."""
        plan = self._plans.get(t)
        if plan is None:
            plan = self._plans[t] = _planned(topology.of_fragments(t), aggregation)
            if len(self._plans) > _ROUNDS:
                del self._plans[next(iter(self._plans))]
        return plan


def _planned(graphs: Sequence[Graph], aggregation: Aggregation) -> Plan:
    """The plan of a round with these graphs of fragments."""
    carried: dict[tuple[NodeId, NodeId], list[tuple[int, float]]] = {}
    for number, graph in enumerate(graphs):
        weights_E = aggregation.of_edges(graph)
        weights = [0.0] * len(graph.sources) if weights_E is None else weights_E.tolist()
        for source, target, weight in zip(graph.sources.tolist(), graph.targets.tolist(), weights, strict=True):
            carried.setdefault((source, target), []).append((number, weight))
    return {ends: Bundled(*zip(*held, strict=True)) for ends, held in carried.items()}


class Step(NamedTuple):
    """A received fragment and its weight."""

    fragment: int
    values: Tensor
    weight: float


def _steps(arrived: Sequence[tuple[Bundle, Bundled]], missing: Sequence[Bundled], layout: Fragments) -> list[Step]:
    """The received fragments. Those that are missing leave their weights to the own one and to those that came."""
    left_K = [1.0] * layout.count
    for bundled in missing:
        for number, weight in zip(*bundled, strict=True):
            left_K[number] -= weight
    steps = []
    for bundle, (numbers, weights) in arrived:
        parts = layout.split(bundle.values, numbers)
        steps += [
            Step(number, values, weight / left_K[number])
            for number, values, weight in zip(numbers, parts, weights, strict=True)
        ]
    return steps


class FragmentMixture(Mixture):
    """A model whose fragments are averaged with those of different nodes.

    Args:
        ordered: the model, with its fragments one after the other.
        layout: its fragments.
        steps: the fragments to average with. Of each fragment, the own numbers have the weight that is left.
    """

    __slots__ = ("_layout", "_steps")

    def __init__(self, ordered: Tensor, layout: Fragments, steps: Sequence[Step]) -> None:
        super().__init__([ordered], [1.0])
        self._layout, self._steps = layout, steps

    def tensor(self) -> Tensor:
        if self.value is None:
            assert self.models is not None
            kept_K = [1.0] * self._layout.count
            for step in self._steps:
                kept_K[step.fragment] -= step.weight
            total = self.models[0].clone()
            whole = _numbers(total)
            parts = [whole[span] for span in self._layout.spans]
            for number, kept in enumerate(kept_K):
                if kept != 1.0:
                    parts[number] *= kept
            for number, values, weight in self._steps:
                parts[number] += weight * _numbers(values)
            self._steps = ()
            self.fix(self._layout.restored(total))
        assert self.value is not None
        return self.value

    def plus(self, models: Sequence[Tensor], weights: Sequence[float]) -> Mixture:
        return Mixture([self.tensor(), *models], [1.0, *weights])

    def kept(self, keep: Callable[[Tensor], Tensor]) -> Mixture:
        assert self.models is not None
        steps = [step._replace(values=keep(step.values)) for step in self._steps]
        return FragmentMixture(keep(self.models[0]), self._layout, steps)


def _numbers(tensor: Tensor) -> Any:
    """The numbers of a tensor as an array, whose calls take a quarter of the time; of another device, the tensor."""
    return readable(tensor).numpy() if tensor.device.type == "cpu" else tensor
