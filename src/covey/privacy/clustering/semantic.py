"""Semantic clustering (Alaggan, Gambs and Kermarrec, 2016): a gossip by which nodes find those of similar profiles."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from covey.parts.errors import BudgetExceeded, ConfigurationError
from covey.parts.mechanisms import NOT_REPEATED, Mechanism
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.parts.seeds import Seeds, is_fresh, seeds
from covey.privacy.clustering.broker import Broker
from covey.privacy.clustering.levels import Homogeneous, Levels
from covey.privacy.clustering.messages import Order, Share, Taste, Vector, View, Wish
from covey.privacy.clustering.products import SEED_BYTES, mask_of, share_of, wrapped
from covey.privacy.clustering.profiles import Profiles
from covey.privacy.clustering.similarity import BITS, Integers, nearest, noise_of, scale_of, shrunk
from covey.privacy.randomness import KEY_BYTES, MOST_SCALE
from covey.runtime.entries import Numbers
from covey.runtime.node import Node, Program


class SemanticClustering(Program):
    """Find the peers of most similar profiles, under heterogeneous differential privacy.

    In a round, a node compares itself to peers in the views that it has received, and to random ones, keeps the most
    similar as its view, and exchanges views with one of them. The last node is the broker, which sees the compared
    pairs. A pair is compared once, and its noisy similarity is kept.
    """

    kind = "semantic-clustering"
    synchronous = True
    epsilon: float = param("The epsilon of one comparison, for items of privacy 1; inf for no protection.", gt=0)
    profiles: Profiles = param("The profiles of users. Node i is user i.")
    levels: Levels = param("The privacy that users want for their items.", factory=Homogeneous)
    noise: Literal["local", "trusted"] = param(
        "The source of noise: both nodes of a pair, while the broker sees no profile; or the broker, which sees all "
        "shrunk profiles.",
        default="local",
    )
    view: int = param("The number of peers in a view.", default=10, ge=1)
    candidates: int = param("The most peers of others' views that a node asks to compare in a round.", default=10, ge=0)
    random_peers: int = param("The random peers that a node asks to compare in a round.", default=2, ge=1)
    budget: float | None = param(
        "The most epsilon that an item of privacy 1 spends on all peers together; without it, all may be compared.",
        default=None,
        gt=0,
    )
    outside: Literal["raise", "clip"] = param(
        "The treatment of profiles with values outside [0, 1]: an error, or the nearest values within.", default="raise"
    )
    seeds: Seeds = seeds()

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        return {"peer": range(nodes - 1), "broker": [nodes - 1]}

    def nodes_with_hosts_of_their_own(self, nodes: int) -> Sequence[int]:
        return [nodes - 1] if self.noise == "local" and not math.isinf(self.epsilon) else []

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if setting.nodes < 3:
            raise ConfigurationError(
                f"{self.named().capitalize()} must have two users and a broker. Got {setting.nodes} nodes instead."
            )
        if setting.losses:
            raise ConfigurationError(
                f"{self.named().capitalize()} needs every message, and the experiment has "
                f"{' and '.join(setting.losses)}."
            )
        if not scale_of(self.epsilon) <= MOST_SCALE:
            least = scale_of(1.0) / MOST_SCALE
            raise ConfigurationError(
                f"The 'epsilon' of {self.named()} must be a float in [{least:.3g}, inf]. Got {self.epsilon} instead."
            )
        if self.budget is not None and self.budget < self.epsilon:
            raise ConfigurationError(
                f"The 'budget' of {self.named()} must be at least its 'epsilon', {self.epsilon:g}, the cost of one "
                f"comparison. Got {self.budget:g} instead."
            )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        users, most = setting.nodes - 1, self.profiles.most()
        if most is not None and users > most:
            raise ConfigurationError(
                f"The profiles {self.profiles.title()} are those of {most} users, and one node is the broker: 'nodes' "
                f"must be at most {most + 1}. Got {setting.nodes} instead."
            )
        self._users, self._broker = range(users), NodeId(users)
        self._fresh = is_fresh(self.seeds, setting.clock)
        affordable = users - 1 if self.budget in (None, math.inf) else self.budget / self.epsilon * (1 + 1e-12)
        self._most = int(min(users - 1, affordable))

    def mechanisms(self, setting: Setting) -> Iterable[Mechanism]:
        brokered = (
            "the broker, which has all shrunk profiles, keeps them to itself"
            if self.noise == "trusted"
            else "the broker, which sees no profile, gives neither node of a pair the other's mask"
        )
        for against, releases in (("all other users together", self._most), ("one other user", 1)):
            yield Mechanism(
                part=self.named(),
                protects="one item of a user's profile, at privacy 1",
                against=against,
                delta=0.0,
                releases=releases,
                pure=self.epsilon,
                assumes=[
                    "an item of privacy v has v times this epsilon, and v itself is not protected",
                    brokered,
                    "all nodes follow the protocol, and only the receiver of a message reads it",
                    "a profile does not change",
                    NOT_REPEATED if self._fresh else "the keys of noise are fresh, which they are not in this run",
                ],
            )

    async def run(self, node: Node) -> None:
        if node.role == "broker":
            await Broker(self.profiles.width, self.epsilon, self._most, self.noise).run(node, self.secret(node))
        else:
            await self.user(node)

    async def user(self, node: Node) -> None:
        """Compare, keep the best, and exchange views."""
        kept = node.keep(Taste)
        own = self.shrunk(node.id)
        kept.secret = kept.secret or self.secret(node)
        async for t in node.rounds():
            if t == 0 and self.noise == "trusted":
                node.send(self._broker, Vector(vector=own), tag="profile", round=t)
            node.send(self._broker, self.wish(node, kept, t), tag="wish", round=t)
            inbox = await node.receive(tag="order", round=t, senders=[self._broker])
            for order in node.usable(inbox, Order):
                values = await self.compared(node, kept, own, order, t)
                kept.values.update(values)
                kept.view = nearest(dict(kept.values), self.view)
                await self.exchange(node, kept, order.partners, t)
            node.log(similarity=self.similarity(kept), compared=len(kept.values))

    def wish(self, node: Node, kept: Taste, t: int) -> Wish:
        """The peers to compare, of received views and at random, and one of the view to exchange views with."""
        draw, known = node.random("peers", t), {*kept.values, node.id}
        mentioned = [peer for peer in kept.mentioned if peer not in known]
        chosen = draw.permutation(mentioned)[: self.candidates].tolist()
        others = [peer for peer in self._users if peer not in known and peer not in chosen]
        strangers = draw.permutation(others)[: self.random_peers].tolist()
        partner = int(draw.choice(kept.view)) if kept.view else -1
        return Wish(peers=sorted([*chosen, *strangers]), partner=partner)

    async def compared(self, node: Node, kept: Taste, own: Integers, order: Order, t: int) -> dict[NodeId, int]:
        """The noisy similarities of the peers of an order. With noise by the nodes, each pair computes its own."""
        self.charge(node, kept, order.peers)
        peers = [NodeId(peer) for peer in order.peers]
        if self.noise == "trusted":
            return dict(zip(peers, order.numbers, strict=True))
        seeds = [order.seeds[start : start + SEED_BYTES] for start in range(0, len(order.seeds), SEED_BYTES)]
        masks = {peer: mask_of(seed, len(own)) for peer, seed in zip(peers, seeds, strict=True)}
        for peer in peers:
            node.send(peer, Vector(vector=own + masks[peer]), tag="masked", round=t)
        inbox = await node.receive(tag="masked", round=t, senders=sorted(peers))
        received = {one.sender: one.vector for one in node.usable(inbox, Vector, vector=Numbers(len(own), "int64"))}
        mine = {}
        for peer, number in zip(peers, order.numbers, strict=True):
            vector = received.get(peer, np.zeros(len(own), dtype=np.int64))
            mine[peer] = share_of(own, masks[peer], vector, number, first=node.id < peer)
            mine[peer] = wrapped(mine[peer] + noise_of(kept.secret, node.id, peer, self.epsilon))
            node.send(peer, Share(share=mine[peer]), tag="share", round=t)
        shares = node.usable(await node.receive(tag="share", round=t, senders=sorted(peers)), Share)
        return {one.sender: wrapped(mine[one.sender] + one.share) for one in shares if one.sender in received}

    def charge(self, node: Node, kept: Taste, peers: Sequence[int]) -> None:
        """Refuse an order beyond the budget: a pair that was compared before, or more pairs than it pays for."""
        for number, peer in enumerate(peers, start=len(kept.values)):
            again = peer in kept.values
            if again or number >= self._most:
                first = int(self.levels.of(node.id, self.profiles.width).argmax())
                raise BudgetExceeded(peer, first, 0.0, self.epsilon)

    async def exchange(self, node: Node, kept: Taste, partners: list[NodeId], t: int) -> None:
        """Exchange views with some peers, and keep the unknown ones of theirs for the next rounds."""
        node.send(partners, View(peers=kept.view), tag="view", round=t)
        views = node.usable(await node.receive(tag="view", round=t, senders=partners), View)
        mentioned = {peer for view in views for peer in view.peers if peer in self._users}
        kept.mentioned = sorted(mentioned - {*kept.values, node.id})

    def shrunk(self, user: int) -> Integers:
        """The shrunk profile of a user."""
        privacy = self.levels.of(user, self.profiles.width)
        return shrunk(self.profiles.of(user), privacy, clip=self.outside == "clip")

    def secret(self, node: Node) -> bytes:
        """A key that no other node has."""
        return os.urandom(KEY_BYTES) if self._fresh else node.random("noise").bytes(KEY_BYTES)

    def similarity(self, kept: Taste) -> float:
        """The mean noisy similarity of the view."""
        return float(np.mean([kept.values[NodeId(peer)] for peer in kept.view])) * 4.0**-BITS if kept.view else 0.0
