"""CESAR (Biswas et al., 2024): pairwise masks over what a receiver's neighbours have in common, in three phases.

Shapes: P parameters. Values are masked as integers modulo 2**64, where masks cancel to the bit.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from covey.node import Field, Node, NodeId, Payload, Program
from covey.parameters import Seconds, param
from covey.topology import Topology

PRIME, BASE, ONE = 2**127 - 1, 3, 2.0**32
"""The group of the key agreement (large enough for a test only), and what 1.0 is as an integer."""


class Cesar(Program):
    """Neighbours learn a weighted sum of their neighbours' sparse models, and no single one of them.

    Two neighbours of a receiver agree on a key and on the parameters that both drew; there each adds the same mask with
    opposite signs. What only one of them drew is not sent. Phases end at fixed times of the clock, so that waiting for
    a silent neighbour makes nobody else late; who was silent once is not waited for again. The parameters that a
    neighbour drew which then stays silent still carry masks: their receiver keeps its own.
    """

    topology: Topology = param("A static, undirected graph.")
    fraction: float = param("The share of the parameters that a node draws in a round.", gt=0, le=1)
    patience: Seconds = param("How long a phase of a round may take.", gt=0)

    async def run(self, node: Node) -> None:
        node.state.setdefault("gone", [])
        async for t in node.rounds():
            node.model = (await node.train()).model
            gone: list[int] = node.state["gone"]  # type: ignore[assignment]
            peers = [peer for peer in self.topology.at(0).senders(node.id) if peer not in gone]
            node.state["gone"] = [*gone, *(await self.round(node, peers, t))]

    async def round(self, node: Node, peers: list[NodeId], t: int) -> list[int]:
        """The three phases; the neighbours that fell silent in one."""
        secret = int.from_bytes(node.random("secret", t).bytes(15), "little")
        key = pow(BASE, secret, PRIME).to_bytes(16, "little")
        keys, keys_at = await self.exchange(node, "keys", peers, t, 0, key)
        drawn_P = torch.from_numpy(node.random("drawn", t).random(node.model.numel()) < self.fraction)
        sets, sets_at = await self.exchange(node, "sets", list(keys), t, 2, drawn_P.nonzero().flatten())
        graph = self.topology.at(0)
        weights = dict(zip(graph.senders(node.id), graph.metropolis(node.id), strict=True))
        for receiver in keys_at.keys() & sets_at.keys():
            partners = {id: mask_of(places, drawn_P) for id, places in sets_at[receiver].items()}
            values_P = (node.model.double() * weights[receiver] * ONE).round().long()
            for partner, theirs_P in partners.items():
                agreed = pow(int.from_bytes(keys_at[receiver][partner], "little"), secret, PRIME)
                noise_P = self.noise(agreed, receiver, drawn_P.numel())
                values_P += torch.where(theirs_P, noise_P if node.id < partner else -noise_P, 0)
            node.send(receiver, {"values": values_P[kept(drawn_P, [drawn_P, *partners.values()])]}, tag="sum", round=t)
        held = {id: mask_of(places, drawn_P) for id, places in sets.items()}
        inbox = await node.receive(tag="sum", round=t, senders=list(sets), timeout=self.left(node, t, 4))
        sum_P, weight_P = torch.zeros_like(node.model, dtype=torch.int64), torch.zeros_like(node.model)
        for message in inbox:
            places_P = kept(held[message.sender], list(held.values()))
            sum_P[places_P] += message["values"]
            weight_P[places_P] += weights[message.sender]
        for id in inbox.missing:
            sum_P[held[NodeId(id)]], weight_P[held[NodeId(id)]] = 0, 0.0
        node.model = (sum_P.double() / ONE).float() + (1.0 - weight_P) * node.model
        return sorted(set(peers) - {message.sender for message in inbox})

    async def exchange(
        self, node: Node, what: str, peers: list[NodeId], t: int, phase: int, mine: Tensor | Field
    ) -> tuple[dict[NodeId, Any], dict[NodeId, dict[NodeId, Any]]]:
        """Tell the neighbours, who pass it on: what each neighbour said, and what each heard from its other ones."""
        node.send(peers, {"mine": mine}, tag=what, round=t)
        told = await node.receive(tag=what, round=t, senders=peers, timeout=self.left(node, t, phase))
        heard = {message.sender: message["mine"] for message in told}
        for receiver in heard:
            others: Payload = {str(id): value for id, value in heard.items() if id != receiver}
            node.send(receiver, others, tag=f"other {what}", round=t)
        passed = await node.receive(
            tag=f"other {what}", round=t, senders=list(heard), timeout=self.left(node, t, phase + 1)
        )
        return heard, {m.sender: {NodeId(int(id)): m[id] for id in m.payload} for m in passed}

    def left(self, node: Node, t: int, phase: int) -> float:
        """The seconds until a phase ends, by everybody's clock."""
        return max(0.0, (5 * t + phase + 1) * self.patience - node.now)

    def noise(self, key: int, receiver: NodeId, size: int) -> Tensor:
        """The mask that two neighbours of a receiver share."""
        bits = np.random.default_rng([key, receiver]).integers(-(2**63), 2**63, size, dtype=np.int64)
        return torch.from_numpy(bits)


def mask_of(places: Tensor, like_P: Tensor) -> Tensor:
    """Which parameters are among `places`."""
    return torch.zeros_like(like_P).index_fill_(0, places, True)


def kept(drawn_P: Tensor, all_drawn: list[Tensor]) -> Tensor:
    """Of the drawn parameters those that somebody else drew too."""
    return drawn_P & (torch.stack(all_drawn).sum(0) >= 2)
