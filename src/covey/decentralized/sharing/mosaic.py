"""Mosaic Learning (Biswas et al., 2026): every fragment of a model is averaged along a graph of its own.

Shapes: K fragments, E edges.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
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


class Plan(NamedTuple):
    """A round of all nodes."""

    bundled: dict[tuple[NodeId, NodeId], Bundled]
    """The fragments that travel along each edge, by sender and receiver."""
    own_NK: list[list[float]]
    """The weight that each node gives to its own fragments."""


class Mosaic(Sharing):
    """Each fragment along the graph that the topology draws for it, in one message to each receiver.

    With a topology that draws one graph for whole models, it is full sharing.
    """

    kind = "mosaic"
    by_fragments = True
    takes_buffers = True
    cutting: Cutting = cut_as()

    def check_with(self, topology: Topology, aggregation: Aggregation) -> None:
        self._count, self._cut_by = topology.fragments_of_models(), topology.named()
        if self._count > 1 and aggregation.of_edges(topology.at(0)) is None:
            raise ConfigurationError(
                f"{self.named().capitalize()} needs an aggregation with fixed weights, which may differ between "
                f"fragments. Use 'mean' instead of '{aggregation.title()}'."
            )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.fragments = Fragments(setting, self._count, self.cutting, owner=self._cut_by)
        self._plans: dict[int, Plan] = {}
        self._sent: dict[NodeId, tuple[Tensor, Tensor]] = {}

    def findings(self) -> Mapping[str, str]:
        return {"fragments": self.fragments.in_words()}

    def outgoing(self, round: Round) -> Messages:
        layout, plan, sender = self.fragments, self._plan(round.t, round.topology, round.aggregation), round.node.id
        parts = layout.split(self._ordered(round.node))
        receivers: dict[tuple[int, ...], list[NodeId]] = {}
        for receiver in round.receivers:
            receivers.setdefault(plan.bundled[sender, receiver].fragments, []).append(receiver)
        for numbers, some in receivers.items():
            values = parts[numbers[0]] if len(numbers) == 1 else torch.cat([parts[number] for number in numbers])
            yield some, Bundle(values=values, layout=layout.digest)

    def merge(self, round: Round, inbox: Inbox) -> Tensor | Mixture:
        node, layout, plan = round.node, self.fragments, self._plan(round.t, round.topology, round.aggregation)
        arrived = self._read(node, inbox, plan)
        if layout.count == 1:
            return round.merge(node.model, [Contribution(bundle.sender, bundle.values) for bundle, _ in arrived])
        own_K, received = plan.own_NK[node.id], [(bundled, bundle.values) for bundle, bundled in arrived]
        missing = {*round.senders} - {bundle.sender for bundle, _ in arrived}
        if missing:
            own_K, received = _without([plan.bundled[sender, node.id] for sender in missing], own_K, received)
        ordered = self._ordered(node)
        del self._sent[node.id]
        return FragmentMixture(ordered, layout, received, own_K)

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
            bundled = plan.bundled.get((bundle.sender, node.id))
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
    n = graphs[0].n
    weights_of = [aggregation.of_edges(graph) for graph in graphs]
    weights_E = np.concatenate(
        [np.zeros(len(graph.sources)) if of is None else of for graph, of in zip(graphs, weights_of, strict=True)]
    )
    codes_E = np.concatenate([graph.sources * n + graph.targets for graph in graphs])
    order_E = np.argsort(codes_E, kind="stable")
    fragments = np.repeat(np.arange(len(graphs)), [len(graph.sources) for graph in graphs])[order_E].tolist()
    weights, codes = weights_E[order_E].tolist(), codes_E[order_E]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    ends = zip((codes[starts] // n).tolist(), (codes[starts] % n).tolist(), strict=True)
    spans = zip(starts.tolist(), [*starts[1:].tolist(), len(codes)], strict=True)
    bundled = {
        end: Bundled(tuple(fragments[first:last]), tuple(weights[first:last]))
        for end, (first, last) in zip(ends, spans, strict=True)
    }
    places = codes % n * len(graphs) + np.array(fragments, dtype=np.int64)
    given = np.bincount(places, weights=weights, minlength=n * len(graphs))
    return Plan(bundled, (1.0 - given).reshape(n, -1).tolist())


Received = list[tuple[Bundled, Tensor]]
"""Bundles and their values."""


def _without(missing: Iterable[Bundled], own_K: Sequence[float], received: Received) -> tuple[list[float], Received]:
    """The weights of own and of received fragments. They take over those of missing ones, in proportion."""
    left_K = [1.0] * len(own_K)
    for bundled in missing:
        for number, weight in zip(*bundled, strict=True):
            left_K[number] -= weight

    def scaled(bundled: Bundled) -> Bundled:
        weights = zip(*bundled, strict=True)
        return bundled._replace(weights=tuple(weight / left_K[number] for number, weight in weights))

    own = [weight / left for weight, left in zip(own_K, left_K, strict=True)]
    return own, [(scaled(bundled), values) for bundled, values in received]


class FragmentMixture(Mixture):
    """A model whose fragments are averaged with those of different nodes.

    Args:
        ordered: the model, with its fragments one after the other.
        layout: its fragments.
        received: the fragments to average with.
        own_K: the weights of the own fragments.
    """

    __slots__ = ("_layout", "_own_K", "_received")

    def __init__(self, ordered: Tensor, layout: Fragments, received: Received, own_K: Sequence[float]) -> None:
        super().__init__([ordered], [1.0])
        self._layout, self._received, self._own_K = layout, received, own_K

    def tensor(self) -> Tensor:
        if self.value is None:
            assert self.models is not None
            layout, own = self._layout, _numbers(self.models[0])
            parts = [weight * own[span] for weight, span in zip(self._own_K, layout.spans, strict=True)]
            for (numbers, weights), values in self._received:
                for number, weight, part in zip(numbers, weights, layout.split(values, numbers), strict=True):
                    parts[number] += weight * _numbers(part)
            self._received = []
            self.fix(layout.restored(_joined(parts)))
        assert self.value is not None
        return self.value

    def plus(self, models: Sequence[Tensor], weights: Sequence[float]) -> Mixture:
        return Mixture([self.tensor(), *models], [1.0, *weights])

    def kept(self, keep: Callable[[Tensor], Tensor]) -> Mixture:
        assert self.models is not None
        received = [(bundled, keep(values)) for bundled, values in self._received]
        return FragmentMixture(keep(self.models[0]), self._layout, received, self._own_K)


def _numbers(tensor: Tensor) -> Any:
    """The numbers of a tensor as an array, whose calls take a quarter of the time; of another device, the tensor."""
    return readable(tensor).numpy() if tensor.device.type == "cpu" else tensor


def _joined(parts: list[Any]) -> Tensor:
    """Arrays or tensors, one after the other."""
    return torch.cat(parts) if isinstance(parts[0], Tensor) else torch.from_numpy(np.concatenate(parts))
