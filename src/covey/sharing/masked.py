"""Sharings that hide each model in the sum of what a receiver's neighbours send.

For every receiver, its neighbours agree in pairs on masks that cancel in its sum. A round has three messages over each
edge: the places that a node has chosen (tag "places"), the same of the receiver's other neighbours (tag "others"), and
the masked numbers.

Shapes: P parameters, K places of one sender.
"""

import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey import wire
from covey.aggregation import Aggregation, Linear
from covey.crypto import KEY_BYTES, SEAL_BYTES, FixedPoint, KeyPair, Keys, PretendedKeys, derive, is_sealed, seal
from covey.crypto.fixed_point import Integers
from covey.errors import ConfigurationError, ConfigurationWarning, ModelError, WireError
from covey.node import Inbox, Message, Mixture, Node, NodeId, Payload
from covey.parameters import Setting, param
from covey.sharing.agreement import DIGEST_BYTES, Agreement, IndexSet, Member
from covey.sharing.sharing import Hear, Sharing
from covey.topology import Graph, Topology

_KEY, _WANTS, _MEMBERS, _HEARD = "key", "wants", "members", "heard"
_ROUNDS_LOOKED_AT = 9
"""Of how many rounds' graphs the bytes of keys are estimated, where graphs change."""


@dataclass(slots=True)
class _Round:
    """What a node knows between its agreement and its merging."""

    t: int
    keys: Keys
    known: dict[NodeId, bytes]
    """The public keys of others."""
    own: Member
    """What the node itself is to its receivers."""
    described: Payload
    """What tells the places of the node."""
    sum: Agreement | None = None
    """On what its neighbours and the node agree for its own sum."""
    towards: dict[NodeId, Agreement] = field(default_factory=dict)
    """By receiver; without those that do not count on this node."""
    heard: set[NodeId] = field(default_factory=set)
    """Which receivers have said on whom they count."""


class Masked(Sharing):
    """Adds masks to what `choose` picks, and has receivers of too few messages keep their models."""

    hides = True
    masks: int = param(
        "Under how many masks each value must be that is sent, each shared with another neighbour of its receiver.",
        default=1,
        ge=1,
    )
    ring: int = param("The bits of the integers that are added up and sent.", default=64, choices=(64, 32))
    fraction: int | None = param(
        "How many of them stand behind the point; by default 32 of 64, and 24 of 32.", default=None, ge=1
    )
    keys: Literal["seeded", "fresh"] | None = param(
        "Where private keys come from: the experiment's seed, so that all messages can be repeated and nothing is "
        "secret, or the operating system; by default seeded in simulations and fresh in real time.",
        default=None,
    )
    masking: bool = param(
        "Whether masks are made. Without them a simulation has the same sums, models and bytes, and is faster.",
        default=True,
    )
    too_few: Literal["refuse", "keep"] = param(
        "What becomes of a node with no more neighbours than 'masks': refuse the experiment, or keep its own model.",
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
        self._numbers = FixedPoint(self.ring, fraction)
        self._of = "models"

    def whole(self) -> Self:
        """The same sharing of whole vectors."""
        raise NotImplementedError

    def beside(self, of: str) -> Self:
        sharing = self.whole()
        sharing._of = of
        return sharing

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if not self.masking and setting.clock == "real":
            raise ConfigurationError(
                f"The 'masking' of {self.named()} must be true where nodes send real messages. Got False instead."
            )
        self._keys: dict[NodeId, tuple[int, Keys]] = {}
        """Of each node here its latest round and its keys. They are no part of its state, which is written to disk."""
        self._rounds: dict[NodeId, _Round] = {}
        self._sets: dict[int, tuple[weakref.ref[Tensor], IndexSet]] = {}
        self._agreements: weakref.WeakValueDictionary[bytes, Agreement] = weakref.WeakValueDictionary()

    def check(self, topology: Topology, aggregation: Aggregation) -> None:
        if not isinstance(aggregation, Linear):
            raise ConfigurationError(
                f"{self.named().capitalize()} needs weights that are known beforehand, for who sends applies them. "
                f"Use aggregation 'metropolis-hastings' or 'mean' instead of '{aggregation.title()}'."
            )
        self._topology, graph = topology, topology.at(0)
        if topology.one_way() or not graph.is_undirected:
            raise ConfigurationError(
                f"{self.named().capitalize()} needs an undirected graph, for neighbours pass on what they hear, "
                f"but {topology.title()} is directed."
            )
        self._graph, self._aggregation = graph, aggregation
        few = np.flatnonzero(graph.in_degrees <= self.masks)
        if not len(few):
            return
        said = (
            f"The 'masks' of {self.named()} must be below the number of neighbours of every node. Got {self.masks} "
            f"instead, and node {few[0]} has {graph.in_degrees[few[0]]} of them"
            + ("" if self._of == "models" else f" to average {self._of} with")
        )
        if self.too_few == "refuse":
            raise ConfigurationError(f'{said}. With too_few = "keep" such nodes keep their own {self._of}.')
        kept = f"{said}: {len(few)} of {graph.n} nodes keep their own {self._of}."
        warnings.warn(kept, ConfigurationWarning, stacklevel=2)

    # ------------------------------------------------------------------ what a subclass says

    def choose(self, node: Node, t: int, start: Tensor) -> tuple[Tensor, Payload]:
        """The places that a node wants to send, and what tells others."""
        raise NotImplementedError

    def chosen(self, message: Message) -> Tensor:
        """The places that a message tells.

        Raises:
            WireError: it does not tell them.
        """
        raise NotImplementedError

    def kept(self, degree: int) -> float:
        """How many values a node is expected, or sure not to exceed, to send to a receiver with so many neighbours."""
        raise NotImplementedError

    def most(self) -> int:
        """How many values a node may send to a receiver."""
        raise NotImplementedError

    def places_bytes(self) -> float:
        """The expected bytes that tell the places of one node."""
        raise NotImplementedError

    # ------------------------------------------------------------------ before the masked messages

    async def agree(self, node: Node, graph: Graph, t: int, start: Tensor, hear: Hear) -> None:
        keys = self._own_keys(node, t)
        places, described = self.choose(node, t, start)
        own = Member(keys.public, self._set_of(places))
        now = self._rounds[node.id] = _Round(t, keys, self._known(node, graph), own, described)
        told: list[int] = node.state.get("mask told", [])  # type: ignore[assignment]
        if node.state.get("mask key") != keys.public:
            told = []
        self._tell(node, graph, now, told)
        self._pass_on(node, graph, now, told, await hear("places"))
        confirmed = self._take(node, graph, now, await hear("others"))
        node.state["mask key"] = keys.public
        node.state["mask told"] = [int(id) for id in graph.receivers(node.id) if id in told or id in confirmed]
        node.state["mask peers"] = [int(id) for id in now.known]
        node.state["mask keys"] = b"".join(now.known.values())

    def _tell(self, node: Node, graph: Graph, now: _Round, told: Sequence[int]) -> None:
        """Tell the neighbours the own places; the key until they count on it; and whether some key is unknown here."""
        for peer in graph.receivers(node.id):
            said = dict(now.described)
            if peer not in told:
                said[_KEY] = now.keys.public
            if any(other != node.id and other not in now.known for other in (peer, *graph.senders(peer))):
                said[_WANTS] = True
            node.send(peer, said, tag="places", round=now.t)

    def _pass_on(self, node: Node, graph: Graph, now: _Round, told: Sequence[int], inbox: Inbox) -> None:
        """Tell each neighbour on whom this node counts, with what places, and the keys that are new to it."""
        doubtful: list[int] = node.state.get("doubtful", [])  # type: ignore[assignment]
        heard: dict[NodeId, Payload] = {}
        members: dict[NodeId, Member] = {}
        for message in inbox:
            sender = message.sender
            try:
                self._learn(now, sender, message.payload.get(_KEY))
                chosen = self._told(sender, now.t, {name: message.payload.get(name) for name in now.described})
            except WireError as error:
                node.reject(message, error.detail)
                continue
            heard[sender] = message.payload
            if sender in now.known and sender not in doubtful:
                members[sender] = Member(now.known[sender], chosen)
        now.sum = self._agreement(node.id, now.t, members)
        for peer in graph.receivers(node.id):
            wants = peer in doubtful or heard.get(peer, {}).get(_WANTS) is True
            said: dict[str, Any] = {_MEMBERS: [int(id) for id in members]}
            if wants and peer in told:
                said[_KEY] = now.keys.public
            for place, (id, member) in enumerate(members.items()):
                if id != peer:
                    said |= {_at(place, name): heard[id][name] for name in now.described}
                    if wants or _KEY in heard[id]:
                        said[_at(place, _KEY)] = member.public
            node.send(peer, said, tag="others", round=now.t)

    def _take(self, node: Node, graph: Graph, now: _Round, inbox: Inbox) -> set[NodeId]:
        """Take in on whom the receivers count; which of them count on this node, and so have its key."""
        confirmed = set()
        for message in inbox:
            receiver = message.sender
            try:
                self._learn(now, receiver, message.payload.get(_KEY))
                ids = self._members(message, graph)
                members = {id: self._member(node, graph, now, message, place, id) for place, id in enumerate(ids)}
            except WireError as error:
                node.reject(message, error.detail)
                continue
            now.heard.add(receiver)
            if node.id not in ids:
                continue
            confirmed.add(receiver)
            complete = {id: member for id, member in members.items() if member is not None}
            if receiver in now.known and len(complete) == len(ids):
                now.towards[receiver] = self._agreement(receiver, now.t, complete)
        return confirmed

    def _own_keys(self, node: Node, t: int) -> Keys:
        latest, keys = self._keys.get(node.id, (-1, None))
        seeded = self.keys == "seeded" or (self.keys is None and self._setting.clock == "virtual")
        if keys is None and not self.masking:
            keys = PretendedKeys(node.random("pretended mask key").bytes(KEY_BYTES))
        elif keys is None and seeded:
            keys = KeyPair(node.random("mask key").bytes(KEY_BYTES))
        elif keys is None or (latest >= t and not seeded and self.masking):
            # A round that is tried again may have other values, and no stream may hide two.
            keys = KeyPair()
        self._keys[node.id] = t, keys
        return keys

    def _known(self, node: Node, graph: Graph) -> dict[NodeId, bytes]:
        """The public keys from earlier rounds of those who are near in this one."""
        near = {other for peer in graph.senders(node.id) for other in (peer, *graph.senders(peer))}
        peers: list[int] = node.state.get("mask peers", [])  # type: ignore[assignment]
        keys: bytes = node.state.get("mask keys", b"")  # type: ignore[assignment]
        return {
            NodeId(peer): keys[place * KEY_BYTES : (place + 1) * KEY_BYTES]
            for place, peer in enumerate(peers)
            if peer in near
        }

    def _learn(self, now: _Round, id: NodeId, key: Any) -> None:
        """Take in the public key that a message holds."""
        if key is None:
            return
        if not isinstance(key, bytes) or now.keys.secret(key) is None:
            raise WireError("bad-field", f"what it says to be the key of node {id} is none")
        now.known[id] = key

    def _told(self, sender: NodeId, t: int, fields: Payload) -> IndexSet:
        """The places that somebody says to send."""
        return self._set_of(self.chosen(Message(sender, "", t, fields, 0)))

    def _members(self, message: Message, graph: Graph) -> list[NodeId]:
        """Who sends to the sender of a message, by its own account."""
        ids = message.payload.get(_MEMBERS)
        senders = graph.senders(message.sender)
        if not isinstance(ids, list) or [id for id in senders if id in ids] != ids:
            raise WireError("bad-field", "its members are no neighbours of its sender, in increasing order")
        return [NodeId(int(id)) for id in ids]

    def _member(self, node: Node, graph: Graph, now: _Round, message: Message, place: int, id: NodeId) -> Member | None:
        """What a receiver says of one of its members; None where nobody has told the key."""
        if id == node.id:
            return now.own
        if id not in graph.senders(node.id):  # A neighbour tells its key itself.
            self._learn(now, id, message.payload.get(_at(place, _KEY)))
        chosen = self._told(id, now.t, {name: message.payload.get(_at(place, name)) for name in now.described})
        return Member(now.known[id], chosen) if id in now.known else None

    def _set_of(self, places: Tensor) -> IndexSet:
        """All nodes of this process get the same tensor, which need then be looked at once."""
        key = id(places)
        tensor, found = self._sets.get(key, (None, None))
        if tensor is None or tensor() is not places or found is None:
            found = IndexSet(places.cpu().numpy(), self._setting.parameters)
            self._sets[key] = weakref.ref(places, lambda _: self._sets.pop(key, None)), found
        return found

    def _agreement(self, receiver: NodeId, t: int, members: Mapping[NodeId, Member]) -> Agreement:
        """What its members and its receiver know alike is kept once."""
        agreement = Agreement(receiver, t, members, self.masks)
        return self._agreements.setdefault(agreement.digest, agreement)

    # ------------------------------------------------------------------ the masked messages

    def outgoing(self, node: Node, graph: Graph, t: int, start: Tensor) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        now = self._rounds[node.id]
        values_K = node.model[torch.from_numpy(now.own.chosen.places_K)].cpu().numpy()
        encoded: dict[float, Integers] = {}
        largest = float(np.abs(values_K).max(initial=0.0))
        for receiver in graph.receivers(node.id):
            agreement = now.towards.get(receiver)
            if agreement is None:
                yield [receiver], {_HEARD: receiver in now.heard}
                continue
            weights = dict(zip(graph.senders(receiver), self._aggregation.weights(receiver, graph), strict=True))
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
            masked = agreement.masked(node.id, encoded[weight], now.keys.secret if self.masking else None)
            tag = bytes(SEAL_BYTES)
            if self.masking:
                tag = seal(self._seal_key(now, now.known[receiver], node.id, agreement), masked)
            yield [receiver], {"values": torch.from_numpy(masked), "agreed": agreement.digest, "seal": tag}

    def _seal_key(self, now: _Round, peer: bytes, sender: NodeId, agreement: Agreement) -> bytes:
        secret = now.keys.secret(peer)
        assert secret is not None
        return derive(secret, "seal", now.t, sender, agreement.receiver, context=agreement.digest)

    def _values(self, node: Node, message: Message, now: _Round, own: Agreement) -> Integers | None:
        """The numbers of a message; None where it is not from who it says, or of another agreement."""
        if _HEARD in message.payload:
            return None  # Its sender has not heard on whom this node counts, or not the key of one of them.
        values, agreed, tag = (message.payload.get(name) for name in ("values", "agreed", "seal"))
        size, bits = own.places(message.sender).shape, self._numbers.bits
        if agreed != own.digest:
            node.reject(message, "its sender knows of other members, keys or places")
        elif not isinstance(values, Tensor) or values.dtype != self._numbers.tensor_dtype or values.shape != size:
            node.reject(message, f"its values are not {size[0]} numbers of {bits} bits")
        elif not isinstance(tag, bytes) or len(tag) != SEAL_BYTES:
            node.reject(message, "it has no seal")
        else:
            numbers: Integers = values.numpy()
            key = self._seal_key(now, own.members[message.sender].public, message.sender, own)
            if not self.masking or is_sealed(key, numbers, tag):
                return numbers
            node.reject(message, "its seal is broken, or of another round, sender or receiver")
        return None

    def merge(self, node: Node, graph: Graph, t: int, inbox: Inbox, aggregation: Aggregation) -> Tensor | Mixture:
        now = self._rounds.pop(node.id)
        own = now.sum
        assert own is not None
        arrived: dict[NodeId, Integers] = {}
        answered = set()
        for message in inbox:
            values = self._values(node, message, now, own) if message.sender in own.members else None
            if values is not None:
                arrived[message.sender] = values
            if values is not None or message.payload.get(_HEARD) is True:
                answered.add(message.sender)
        # Who did not hear on whom this node counts is not counted on until it does: it would spoil every sum.
        before: list[int] = node.state.get("doubtful", [])  # type: ignore[assignment]
        node.state["doubtful"] = sorted(int(id) for id in {*own.members, *before} - answered)
        if not own.kept_P.any():
            return node.model
        if len(arrived) < len(own.members):
            # The masks that others share with who is silent are still in the sum: nothing of it can be used.
            discarded = int(node.state.get("discarded", 0)) + 1  # type: ignore[arg-type]
            node.state["discarded"] = discarded
            node.log(discarded=discarded)
            return node.model
        weights = dict(zip(graph.senders(node.id), self._aggregation.weights(node.id, graph), strict=True))
        return self._merged(node.model, own, arrived, weights)

    def _merged(
        self, own: Tensor, agreement: Agreement, arrived: Mapping[NodeId, Integers], weights: Mapping[NodeId, float]
    ) -> Tensor:
        """The sum at each place, and a node's own value as much as is missing to 1."""
        own_P: NDArray[np.float32] = own.cpu().numpy()
        sum_P = np.zeros(own_P.shape, dtype=self._numbers.dtype)
        weight_P = np.zeros(own_P.shape)
        for sender, values in arrived.items():
            places = agreement.places(sender)
            sum_P[places] += values
            weight_P[places] += weights[sender]
        merged_P = self._numbers.decode(sum_P) + (1.0 - weight_P) * own_P
        return torch.from_numpy(merged_P.astype(np.float32)).to(own.device)

    # ------------------------------------------------------------------ bytes

    def message_bytes(self, model_bytes: int) -> float | None:
        """A mean over the graph's edges of all three messages; keys are told where edges are new."""
        graph, fresh = self._graph, self._new_edges()
        degrees, nodes = np.unique(graph.in_degrees[graph.in_degrees > 0], return_counts=True)
        each = [self._bytes(int(degree), self.kept(int(degree)), fresh) for degree in degrees]
        return float(each @ (degrees * nodes)) / max(len(graph.targets), 1)

    def largest_bytes(self, model_bytes: int) -> float:
        """All three messages to the receiver with the most neighbours, who are new to each other."""
        return self._bytes(int(self._graph.in_degrees.max()), self.most(), 1.0)

    def _bytes(self, degree: int, count: float, fresh: float) -> float:
        """Of all three messages to a receiver with so many neighbours, of whom a share is new to it."""
        told, key, empty = self.places_bytes(), bytes(KEY_BYTES), wire.size({})
        first = fresh * (wire.size({_KEY: key, _WANTS: True}) - empty)
        passed_on = told + fresh * (wire.size({_at(0, _KEY): key}) - empty)
        receiver = int(np.flatnonzero(self._graph.in_degrees == degree)[0])
        ids = [int(id) for id in self._graph.senders(receiver)]
        values = torch.empty(round(count), dtype=self._numbers.tensor_dtype)
        sizes = [
            wire.size({}, "places") + told + first,
            wire.size({_MEMBERS: ids}, "others") + (degree - 1) * passed_on,
            wire.size({"values": values, "agreed": bytes(DIGEST_BYTES), "seal": bytes(SEAL_BYTES)}),
        ]
        return sum(sizes)

    def _new_edges(self) -> float:
        """Which share of a round's edges was not there in the round before, a mean over all rounds."""
        rounds = max(self._setting.rounds, 1)
        if self._topology.static:
            return 1 / rounds
        edges = [set(zip(*self._ends(t), strict=True)) for t in range(min(rounds, _ROUNDS_LOOKED_AT))]
        new = [len(now - before) / max(len(now), 1) for before, now in pairwise(edges)]
        return (1 + (rounds - 1) * float(np.mean(new or [0.0]))) / rounds

    def _ends(self, t: int) -> tuple[list[int], list[int]]:
        graph = self._topology.at(t)
        return graph.sources.tolist(), graph.targets.tolist()


def _at(place: int, name: str) -> str:
    """What an entry of a member's message is called where it is passed on."""
    return f"{place} {name}"
