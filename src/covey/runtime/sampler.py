"""The peer sampler: it gives virtual nodes new names and new neighbours in every round.

Its randomness is no node's. In simulation it is a hash of the experiment's seed outside of all that
`Setting.generator`, `Node.random` and `Node.public_random` can give; in the emulation it is a secret of the launcher.
A node receives its own share: the names of its virtual nodes, and the names of their neighbours.

Shapes: V virtual nodes, E edges.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from covey.parts import rng
from covey.parts.nodes import NodeId
from covey.runtime.runs.observed import NAMES

Ids: TypeAlias = NDArray[np.int64]
_KEPT = 4
"""The number of rounds that are kept: nodes are in few rounds at a time."""
MOST_NAMES = 1 << 31
"""The bound of names, which have 32 bits in a frame."""


@dataclass(frozen=True)
class Overlay:
    """The virtual nodes of a program, and the graph that connects them.

    Attributes:
        holders: the node that acts for each virtual node, V.
        draw: draws the edges of a round, as the two ends of each, with a generator.
        legs: the number of links that a message passes one after the other. With more than 1, the transfers between a
            node and its virtual nodes are part of the message, and count with it.
        relays: whether messages between hosts of an emulation pass another one.
    """

    holders: tuple[int, ...]
    draw: Callable[[np.random.Generator], tuple[Ids, Ids]]
    legs: int = 1
    relays: bool = False

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The number of each virtual node among those of its node, V."""
        seen: dict[int, int] = {}
        found = []
        for holder in self.holders:
            found.append(seen.get(holder, 0))
            seen[holder] = found[-1] + 1
        return tuple(found)

    def hops(self, copies: int) -> int:
        """The number of further transfers that a virtual node with some neighbours needs in a round: its message comes
        to it, and all that it receives goes from it."""
        return copies + 1 if self.legs > 1 else 0


class Neighbours(tuple[NodeId, ...]):
    """The names of the neighbours of a virtual node, in order; receivers that a node sends to under its name."""

    name: NodeId
    """The name of the virtual node."""


class Share(NamedTuple):
    """A virtual node, as its node receives it from the peer sampler."""

    number: int
    """Its number among those of its node."""
    id: NodeId
    """Its name of the round."""
    peers: Neighbours


def share(number: int, id: int, peers: Iterable[int]) -> Share:
    """A virtual node."""
    neighbours = Neighbours(map(NodeId, peers))
    neighbours.name = NodeId(id)
    return Share(number, neighbours.name, neighbours)


class Drawn:
    """The names and the graph of one round.

    Args:
        overlay: the virtual nodes.
        first: the first name of the round.
        draw: the generator.
    """

    def __init__(self, overlay: Overlay, first: int, draw: np.random.Generator) -> None:
        count = len(overlay.holders)
        self.first = first
        self.virtual: list[int] = draw.permutation(count).tolist()
        """The virtual node of each name, V."""
        ends_2E = np.stack(overlay.draw(draw))
        sources, targets = np.concatenate([ends_2E, ends_2E[::-1]], axis=1)
        order = np.lexsort((targets, sources))
        names = (targets[order] + first).tolist()
        ends = np.bincount(sources, minlength=count).cumsum().tolist()
        self.shares: dict[int, list[Share]] = {}
        """The virtual nodes of each node, in order of their names."""
        begin = 0
        for name, (virtual, end) in enumerate(zip(self.virtual, ends, strict=True)):
            found = share(overlay.numbers[virtual], first + name, names[begin:end])
            self.shares.setdefault(overlay.holders[virtual], []).append(found)
            begin = end


class Sampler:
    """The peer sampler of a run.

    Args:
        overlay: the virtual nodes.
        nodes: the number of nodes of the network. Names are greater than their ids, and are never used again.
        secret: the seed that no node has.
    """

    def __init__(self, overlay: Overlay, nodes: int, secret: int) -> None:
        self.overlay, self._nodes, self._secret = overlay, nodes, secret
        self._rounds: OrderedDict[int, Drawn] = OrderedDict()

    def _generator(self, t: int) -> np.random.Generator:
        return rng.generator(self._secret, "peer sampler", t)

    def at(self, t: int) -> Drawn:
        """The names and the graph of round t."""
        found = self._rounds.get(t)
        if found is None:
            first = self._nodes + t * len(self.overlay.holders)
            found = self._rounds[t] = Drawn(self.overlay, first, self._generator(t))
            if len(self._rounds) > _KEPT:
                self._rounds.popitem(last=False)
        return found

    def shares(self, node: int, t: int) -> Sequence[Share]:
        """The virtual nodes of a node in round t, in order of their names."""
        return self.at(t).shares.get(node, ())

    def holder(self, name: int) -> int:
        """The node that acts under a name."""
        t, place = divmod(name - self._nodes, len(self.overlay.holders))
        return self.overlay.holders[self.at(t).virtual[place]]

    def truth(self, since: int, rounds: int) -> dict[str, Ids]:
        """The entry of the ground truth of a run with the node that acts under each name from a round on."""
        holders = np.array(self.overlay.holders)
        found = [holders[self._generator(t).permutation(len(holders))] for t in range(since, rounds)]
        return {f"{NAMES}{since}": np.stack(found)} if found else {}


def simulated_secret(seed: int) -> int:
    """The secret of the peer sampler in simulation. `Setting.generator` and generators of nodes cannot give it."""
    return int.from_bytes(blake2b(str(seed).encode(), person=b"covey sampler").digest(), "little")
