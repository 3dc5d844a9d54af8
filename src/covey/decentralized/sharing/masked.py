"""Sharings that hide each model in a sum over a receiver's neighbours.

For every receiver, its neighbours agree in pairs on masks that cancel in its sum (`agreeing`); then they send it their
masked numbers.

Shapes: P parameters, K indices of one sender.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.aggregation.aggregation import Aggregation
from covey.decentralized.sharing.agreeing import Agreed, Agreeing, Kept
from covey.decentralized.sharing.agreement import Agreement, IndexSet, Member
from covey.decentralized.sharing.deposits import Depositor, Plan, most_lost, plan_for
from covey.decentralized.sharing.recovery import opened
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages
from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, Arrived, View
from covey.messages.crypto import SEAL_BYTES, FixedPoint, derive, is_sealed, seal
from covey.messages.crypto.fixed_point import Integers
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError, ConfigurationWarning, ModelError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.runtime.content import Content, entries_of
from covey.runtime.entries import Bytes, Exactly, Numbers
from covey.runtime.node import Inbox, Message, Node
from covey.runtime.reading import understood
from covey.runtime.state import State

_RECEIVED = "received"


class Outcomes(State):
    """The outcomes of a node's sums."""

    discarded: int = 0
    """The number of sums that were discarded."""
    recovered: int = 0
    """The number of opened sums that lacked a member."""


class Hidden(Content):
    """Masked numbers for a receiver's sum."""

    agreed: bytes
    """The digest of the sender's agreement on the sum."""
    values: Tensor
    seal: Annotated[bytes, Bytes(SEAL_BYTES)]


class Masked(Agreeing):
    """Adds masks to the chosen values. A receiver of too few messages keeps its model."""

    hides = True
    ring: int = param("The number of bits of the integers that are added and sent.", default=64, choices=(64, 32))
    fraction: int | None = param(
        "The number of bits after the binary point; by default, 32 of 64, and 24 of 32.", default=None, ge=1
    )
    recovery: Literal["none", "shamir"] = param(
        "The reaction to a sum that lacks the values of a node: discard it, or let the receiver's neighbours remove "
        "the masks of that node, of which they hold shares.",
        default="none",
    )
    threshold: int | None = param(
        "The number of a receiver's neighbours that must help it if 'recovery' is 'shamir'. By default, the number "
        "with which the most nodes may be missing while every value stays hidden.",
        default=None,
        ge=2,
    )
    too_few: Literal["refuse", "keep"] = param(
        "The reaction to a node with no more neighbours than 'masks': refuse the experiment, or let the node keep "
        "its own model.",
        default="refuse",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction = self.fraction if self.fraction is not None else {64: 32, 32: 24}[self.ring]
        if fraction > self.ring - 2:
            raise ConfigurationError(
                f"The 'fraction' of {self.named()} must be an int in [1, {self.ring - 2}] where 'ring' is {self.ring}. "
                f"Got {fraction} instead."
            )
        if self.threshold is not None and self.recovery == "none":
            raise ConfigurationError(
                f"The 'threshold' of {self.named()} must be left out where 'recovery' is 'none'. "
                f"Got {self.threshold} instead."
            )
        self._numbers = FixedPoint(self.ring, fraction)
        self._of = "models"

    def whole(self) -> Self:
        """The same sharing of whole vectors."""
        raise NotImplementedError

    def beside(self, of: str) -> Self:
        sharing = self.whole()
        sharing._of = of
        return sharing

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if not self.masking and setting.clock == "real":
            raise ConfigurationError(
                f"The 'masking' of {self.named()} must be true where nodes send real messages. Got False instead."
            )

    def check_with(self, topology: Topology, aggregation: Aggregation) -> None:
        if not topology.can_be_drawn():
            return
        graph = topology.at(0)
        if aggregation.of_edges(graph) is None:
            raise ConfigurationError(
                f"{self.named().capitalize()} needs weights that are known beforehand, because senders apply them. "
                f"Use aggregation 'metropolis-hastings' or 'mean' instead of '{aggregation.title()}'."
            )
        if topology.one_way() or not graph.is_undirected:
            raise ConfigurationError(
                f"{self.named().capitalize()} needs an undirected graph, because neighbours pass on what they "
                f"receive, but {topology.title()} is directed."
            )
        if self.recovery == "shamir":
            self._check_plans(topology, graph)
        few = np.flatnonzero(graph.in_degrees <= self.masks)
        if not len(few):
            return
        said = (
            f"The 'masks' of {self.named()} must be below the number of neighbours of every node. Got {self.masks} "
            f"instead, and node {few[0]} has {graph.in_degrees[few[0]]} of them"
            + ("" if self._of == "models" else f" to average {self._of} with")
        )
        if self._of != "models":
            raise ConfigurationError(
                f"{said}: its model would reveal its own. Use larger cliques or neighbourhoods, or a 'size' with no "
                "rest."
            )
        if self.too_few == "refuse":
            raise ConfigurationError(f'{said}. With too_few = "keep" such nodes keep their own models.')
        kept = f"{said}: {len(few)} of {graph.n} nodes keep their own models."
        warnings.warn(kept, ConfigurationWarning, stacklevel=2)

    def plan(self, graph: Graph, receiver: NodeId) -> Plan | None:
        return self._plan_of(len(graph.senders(receiver)))

    def recovers(self, graph: Graph) -> bool:
        return self._plan_of(int(graph.in_degrees.max())) is not None

    def _plan_of(self, count: int) -> Plan | None:
        """The plan of a receiver with so many neighbours."""
        return None if self.recovery == "none" else plan_for(count, self.masks, self.threshold)

    def _check_plans(self, topology: Topology, graph: Graph) -> None:
        """Raise ConfigurationError if the neighbours of a receiver are too few for recovery."""
        if not topology.static:
            raise ConfigurationError(
                f"The 'recovery' of {self.named()} must be 'none' over a topology that changes, such as "
                f"{topology.title()}: shares are for neighbours of neighbours whose keys are known. Got "
                f"'{self.recovery}' instead."
            )
        for node, count in enumerate(graph.in_degrees.tolist()):
            if self._plan_of(count) is not None:
                continue
            if plan_for(count, self.masks) is not None:
                safe = [number for number in range(1, count) if most_lost(count, number, self.masks)]
                raise ConfigurationError(
                    f"The 'threshold' of {self.named()} must be an int in [{safe[0]}, {safe[-1]}] where 'masks' is "
                    f"{self.masks} and a node has {count} neighbours, as node {node}. Got {self.threshold} instead."
                )
            if self.too_few == "refuse":
                raise ConfigurationError(
                    f"The 'recovery' of {self.named()} needs {self.masks + 2} neighbours of every node where 'masks' "
                    f"is {self.masks}, so that one may be missing. Node {node} has {count} instead. With too_few = "
                    '"keep", sums of such nodes are discarded if a neighbour is missing.'
                )

    # ------------------------------------------------------------------ the masked messages

    def outgoing(self, round: Round) -> Messages:
        node, t = round.node, round.t
        now = self._rounds[node.id]
        introductions = self._introduce(round, now)
        values_K = node.model[torch.from_numpy(now.own.chosen.indices_K)].cpu().numpy()
        encoded: dict[float, Integers] = {}
        largest = float(np.abs(values_K).max(initial=0.0))
        for receiver in round.receivers:
            agreement = now.towards.get(receiver)
            introduction = entries_of(introductions.get(receiver, {}), node)
            if agreement is None or node.id not in agreement.members:
                yield [receiver], {_RECEIVED: receiver in now.received, **introduction}
                continue
            weights = round.weights(receiver)
            limit = self._numbers.limit(len(weights)) / sum(map(abs, weights.values()))
            if not largest <= limit:
                raise ModelError(
                    f"The values of the {self._of.removesuffix('s')} of node {node.id} must be finite and at most "
                    f"{limit:g} in size in round {t}, for {self.named()} to add them up in {self._numbers.bits} bits, "
                    f"{self._numbers.fraction} of them behind the point. Got {largest:g} instead."
                )
            weight = weights[node.id]
            if weight not in encoded:
                encoded[weight] = self._numbers.encode(values_K, weight)
            tag, seed = bytes(SEAL_BYTES), None
            if agreement.plan is not None and self.masking:
                seed = Depositor(now.keys, t, receiver, agreement.plan).seed
            masked = agreement.masked(node.id, encoded[weight], now.keys.secret if self.masking else None, seed)
            if self.masking:
                tag = seal(self._seal_key(now, now.known[receiver], node.id, agreement), masked)
            hidden = Hidden(agreed=agreement.digest, values=torch.from_numpy(masked), seal=tag)
            yield [receiver], {**entries_of(hidden, node), **introduction}

    # ------------------------------------------------------------------ for attacks

    def views(
        self, adversary: Adversary, topology: Topology, aggregation: Aggregation, messages: Iterable[Arrived]
    ) -> Iterator[View]:
        """The masked values of each neighbour, which are noise, and the sum of all neighbours where it opens."""
        if not self.masking:
            raise ConfigurationError(
                f"The 'masking' of {self.named()} must be true in a run that is attacked: without it, messages hold "
                "values that a real receiver never sees."
            )
        sets: dict[tuple[int, NodeId], IndexSet] = {}
        sums: dict[int, dict[NodeId, tuple[Arrived, Integers]]] = {}
        for message in messages:
            t, sender = message.round, message.sender
            if t is None or message.tag not in ("", "indices"):
                continue
            if message.tag == "indices":
                for _, chosen in understood(cast(Node, adversary), [message], self.chosen):
                    sets[t, sender] = self._set_of(chosen)
            elif "values" in message.shared and t < self._setting.rounds:
                for hidden in adversary.usable([message], Hidden):
                    if hidden.values.dim() != 1 or str(hidden.values.dtype) != f"torch.int{self._numbers.bits}":
                        adversary.reject(message, f"its 'values' are no {self._numbers.bits}-bit integers")
                        continue
                    sums.setdefault(t, {})[sender] = message, hidden.values.numpy()
                    graph = topology.at(t)
                    weights = dict(
                        zip(graph.senders(adversary.id), aggregation.weights(adversary.id, graph) or (), strict=True)
                    )
                    if weights.keys() == sums[t].keys():
                        yield from self._opened(adversary, t, sums.pop(t), sets, weights)

    def _opened(
        self,
        adversary: Adversary,
        t: int,
        arrived: Mapping[NodeId, tuple[Arrived, Integers]],
        sets: Mapping[tuple[int, NodeId], IndexSet],
        weights: Mapping[NodeId, float],
    ) -> Iterator[View]:
        """The views of the messages of a round of all neighbours."""
        for sender in arrived:
            if self.foreseen:
                sets = {**sets, (t, sender): self._set_of(self.chosen(Message(sender, "", t, {}, 0)))}
        members = {id: Member(b"", sets[t, id]) for id in sorted(arrived) if (t, id) in sets}
        agreement = Agreement(adversary.id, t, members, self.masks)
        if any(id not in members or len(agreement.indices(id)) != len(v) for id, (_, v) in arrived.items()):
            adversary.reject(next(iter(arrived.values()))[0], "the neighbours agreed on other values than these")
            return
        size = self._setting.parameters
        sum_P, weight_P = np.zeros(size, dtype=self._numbers.dtype), np.zeros(size)
        last = max((message for message, _ in arrived.values()), key=lambda message: message.time)
        for id, (message, values) in arrived.items():
            indices = agreement.indices(id)
            sum_P[indices] += values
            weight_P[indices] += weights[id]
            noise = torch.from_numpy(self._numbers.decode(values) / weights[id])
            yield self.view(adversary, message, noise, torch.from_numpy(indices), hidden=True)
        known = np.flatnonzero(weight_P)
        mean = torch.from_numpy(self._numbers.decode(sum_P[known]) / weight_P[known])
        yield self.view(adversary, last, mean, torch.from_numpy(known), senders=tuple(map(int, sorted(members))))

    def _seal_key(self, now: Agreed, peer: bytes, sender: NodeId, agreement: Agreement) -> bytes:
        secret = now.keys.secret(peer)
        assert secret is not None
        return derive(secret, "seal", now.t, sender, agreement.receiver, context=agreement.digest)

    def _values(self, node: LearningNode, message: Message, now: Agreed, own: Agreement) -> Integers | None:
        """The numbers of a message; None if its sender or its agreement is not the right one."""
        if _RECEIVED in message.shared:
            return None  # Its sender lacks the members of this node's sum, or the key of one of them.
        agreed = Exactly(own.digest, "the digest of the members, keys and indices that this node knows")
        values = Numbers(len(own.indices(message.sender)), f"int{self._numbers.bits}")
        for hidden in node.usable([message], Hidden, agreed=agreed, values=values):
            numbers: Integers = hidden.values.numpy()
            key = self._seal_key(now, own.members[hidden.sender].public, hidden.sender, own)
            if not self.masking or is_sealed(key, numbers, hidden.seal):
                return numbers
            node.reject(hidden, "its seal is broken, or of another round, sender or receiver")
        return None

    async def receive(self, round: Round) -> Tensor | Mixture:
        inbox, node = await self.collect(round), round.node
        now = self._rounds[node.id]
        own = now.sum
        assert own is not None
        for message in inbox:
            values = self._values(node, message, now, own) if message.sender in own.members else None
            if values is not None:
                now.arrived[message.sender] = values
        if self.recovers(round.graph):
            now.opened = await opened(round, now, now.arrived.keys(), masking=self.masking)
        with node.measured("mixing"):
            return self.merge(round, inbox)

    def merge(self, round: Round, inbox: Inbox) -> Tensor | Mixture:
        node = round.node
        now = self._rounds.pop(node.id)
        self._keep(round, now)
        own = now.sum
        assert own is not None
        # A node that missed the members of this sum is left out until it receives them: it would spoil every sum.
        answered = {*now.arrived, *(message.sender for message in inbox if message.shared.get(_RECEIVED) is True)}
        if self.recovers(round.graph):
            answered |= now.ahead.keys()  # Where sums can be opened, such a node spoils none.
        outcomes, kept = node.keep(Outcomes, self), node.keep(Kept, self)
        kept.doubtful = sorted({*own.members, *kept.doubtful} - answered)
        if not own.kept_P.any():
            return node.model
        lost = len(own.members) - len(now.arrived)
        if lost if own.plan is None else now.opened is None:
            # The masks that others share with who is silent are still in the sum: nothing of it can be used.
            outcomes.discarded += 1
            node.log(discarded=outcomes.discarded)
            return node.model
        if lost:
            outcomes.recovered += 1
            node.log(recovered=outcomes.recovered)
        return self._merged(node.model, now, own, lost, round.weights(node.id))

    def _merged(
        self, own: Tensor, now: Agreed, agreement: Agreement, lost: int, weights: Mapping[NodeId, float]
    ) -> Tensor:
        """The sum at each index, plus the node's own value with the weight that is missing to 1."""
        own_P: NDArray[np.float32] = own.cpu().numpy()
        sum_P = np.zeros(own_P.shape, dtype=self._numbers.dtype)
        weight_P = np.zeros(own_P.shape)
        for sender, values in now.arrived.items():
            if now.opened is not None:
                secrets, seed = now.opened.with_missing(sender), now.opened.seeds.get(sender)
                values = agreement.opened(sender, values, lost, secrets, seed)
            indices = agreement.indices(sender, lost)
            sum_P[indices] += values
            weight_P[indices] += weights[sender]
        merged_P = self._numbers.decode(sum_P) + (1.0 - weight_P) * own_P
        return torch.from_numpy(merged_P.astype(np.float32)).to(own.device)
