"""The messages and states of semantic clustering."""

from typing import Annotated

import numpy as np

from covey.parts.nodes import NodeId
from covey.privacy.clustering.products import SEED_BYTES
from covey.runtime.content import Content
from covey.runtime.entries import Within
from covey.runtime.node import Node
from covey.runtime.state import State


class Taste(State):
    """The similarities that a node knows, and its view."""

    secret: bytes = b""
    """The key of its noise."""
    values: dict[NodeId, int] = {}
    """The noisy similarity of each compared peer. It is never computed again."""
    view: list[NodeId] = []
    """The most similar peers."""
    mentioned: list[NodeId] = []
    """Peers in the views of others, which are not compared yet."""


class Dealings(State):
    """The pairs that the broker has let compare, and with trusted noise the shrunk profiles."""

    secret: bytes = b""
    pairs: np.ndarray | None = None
    profiles: np.ndarray | None = None


class Wish(Content):
    """The peers that a node wants to compare itself to, and one to exchange views with."""

    peers: list[NodeId]
    partner: Annotated[int, Within(ge=-1, lt="nodes")] = -1


class Order(Content):
    """The peers that a node is compared to in a round, and those that it exchanges views with.

    With noise by the nodes, there are a seed and a number for each product; else numbers are noisy similarities.
    """

    peers: list[NodeId]
    partners: list[NodeId]
    numbers: list[int]
    seeds: bytes = b""

    def check(self, node: Node) -> str | None:
        for listed in (self.peers, self.partners):
            if sorted({*listed} - {node.id}) != listed or not {*listed} <= {*range(node.nodes - 1)}:
                return "its lists are not those of other users, in order"
        right = len(self.numbers) == len(self.peers) and len(self.seeds) in (0, SEED_BYTES * len(self.peers))
        return None if right else "its lists differ in length"


class Vector(Content):
    """A masked profile for a peer or, with trusted noise, the shrunk profile for the broker."""

    vector: np.ndarray


class Share(Content):
    """A share of a product, with noise."""

    share: Annotated[int, range(-(1 << 63), 1 << 63)]


class View(Content):
    """The view of a node."""

    peers: list[NodeId]
