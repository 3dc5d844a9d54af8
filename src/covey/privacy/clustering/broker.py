"""The broker of semantic clustering: it chooses the pairs of a round, and deals what their comparisons need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from covey.parts.nodes import NodeId
from covey.privacy.clustering.messages import Dealings, Order, Vector, Wish
from covey.privacy.clustering.products import dealt
from covey.privacy.clustering.similarity import BITS, Integers, key_of, noise_of
from covey.privacy.randomness import Source
from covey.runtime.entries import Numbers
from covey.runtime.node import Node

Pair = tuple[NodeId, NodeId]


@dataclass(frozen=True)
class Broker:
    """The last node.

    Attributes:
        width: the number of items.
        epsilon: the epsilon of a comparison.
        most: the greatest number of peers that a user is compared to.
        noise: "local" if users add it; with "trusted" the broker has the shrunk profiles and adds it.
    """

    width: int
    epsilon: float
    most: int
    noise: str

    async def run(self, node: Node, secret: bytes) -> None:
        """Take the wishes of each round, and order comparisons: one for each pair."""
        kept, users = node.keep(Dealings), [NodeId(user) for user in range(node.nodes - 1)]
        kept.secret = kept.secret or secret
        async for t in node.rounds():
            if t == 0 and self.noise == "trusted":
                inbox = await node.receive(tag="profile", round=t, senders=users)
                kept.profiles = self.collected(node.usable(inbox, Vector, vector=Numbers(self.width, "int64")), users)
            wishes = node.usable(await node.receive(tag="wish", round=t, senders=users), Wish)
            pairs, partners = self.allowed(node, kept, wishes, t), partners_of(wishes, users)
            for user, order in self.orders(kept, pairs, partners).items():
                node.send(user, order, tag="order", round=t)

    def collected(self, profiles: Sequence[Vector], users: Sequence[NodeId]) -> Integers:
        """The shrunk profiles of all users."""
        found = np.zeros((len(users), self.width), dtype=np.int64)
        for one in profiles:
            found[one.sender] = one.vector.clip(0, 1 << BITS)
        return found

    def allowed(self, node: Node, kept: Dealings, wishes: Sequence[Wish], t: int) -> list[Pair]:
        """The pairs that are wished and not compared yet, while the budgets of both users last."""
        users = node.nodes - 1
        done = np.zeros((users, users), dtype=bool) if kept.pairs is None else kept.pairs.copy()
        wished = sorted(
            {
                (min(wish.sender, peer), max(wish.sender, peer))
                for wish in wishes
                for peer in wish.peers
                if peer in range(users) and peer != wish.sender
            }
        )
        found, counts = [], done.sum(axis=1)
        for number in node.random("pairs", t).permutation(len(wished)):
            low, high = wished[number]
            if not done[low, high] and max(counts[low], counts[high]) < self.most:
                done[low, high] = done[high, low] = True
                counts[[low, high]] += 1
                found.append((low, high))
        kept.pairs = done
        return sorted(found)

    def orders(
        self, kept: Dealings, pairs: Sequence[Pair], partners: Mapping[NodeId, list[NodeId]]
    ) -> dict[NodeId, Order]:
        """The order of each user, with noisy similarities or the randomness of products."""
        lists: dict[NodeId, list[tuple[NodeId, int, bytes]]] = {user: [] for user in partners}
        for low, high in pairs:
            (first, second), seeds = self.numbers(kept, low, high)
            lists[low].append((high, first, seeds[0]))
            lists[high].append((low, second, seeds[1]))
        return {
            user: Order(
                peers=[peer for peer, _, _ in sorted(found)],
                numbers=[number for _, number, _ in sorted(found)],
                seeds=b"".join(seed for _, _, seed in sorted(found)),
                partners=partners[user],
            )
            for user, found in lists.items()
        }

    def numbers(self, kept: Dealings, low: NodeId, high: NodeId) -> tuple[tuple[int, int], tuple[bytes, bytes]]:
        """The numbers and seeds of both users of a pair."""
        if kept.profiles is not None:
            noisy = int(kept.profiles[low] @ kept.profiles[high]) + noise_of(kept.secret, low, high, self.epsilon)
            return (noisy, noisy), (b"", b"")
        first, second, own = (key_of(kept.secret, purpose, low, high) for purpose in ("first", "second", "own"))
        return dealt(first, second, self.width, Source(own)), (first, second)


def partners_of(wishes: Sequence[Wish], users: Sequence[NodeId]) -> dict[NodeId, list[NodeId]]:
    """The peers that each user exchanges views with, by the wish of one of both."""
    found: dict[NodeId, set[NodeId]] = {user: set() for user in users}
    for wish in wishes:
        partner = NodeId(wish.partner)
        if partner in found and partner != wish.sender:
            found[wish.sender].add(partner)
            found[partner].add(wish.sender)
    return {user: sorted(partners) for user, partners in found.items()}
