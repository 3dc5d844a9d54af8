"""Parts of a user's own that declare a kind, one of them that of a built-in part."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from covey.decentralized.gossip import Gossip
from covey.decentralized.sharing import Full
from covey.decentralized.topology import Topology
from covey.learning.node import LearningNode
from covey.messages.payloads import Payload
from covey.network.graph import Graph
from covey.parts.nodes import NodeId


class Slower(Gossip):
    """Gossip that says of itself what it is."""

    kind = "slower"


class Mirror(Topology):
    """Each node talks to the one on the other side."""

    kind = "mirror"

    def draw(self, setting, t):
        ids = np.arange(setting.nodes)
        return Graph(setting.nodes, ids, ids[::-1])


class Ring(Mirror):
    """What a built-in topology is called, and is not."""

    kind = "ring"


class Doubtful(Full):
    """The whole model to every receiver, and a word."""

    kind = "doubtful"

    def outgoing(
        self, node: LearningNode, graph: Graph, t: int, start: Tensor
    ) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        return [(to, {**payload, "word": "perhaps"}) for to, payload in super().outgoing(node, graph, t, start)]


class Outer:
    """What a part may be defined in."""

    class Inner(Mirror):
        """A part within a class."""

        kind = "inner"
