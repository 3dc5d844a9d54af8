"""Parts of a user's own that declare a kind, one of them that of a built-in part."""

import numpy as np

from covey.decentralized.gossip import Gossip
from covey.decentralized.sharing import Full
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages
from covey.decentralized.topology import Topology
from covey.network.faults import Fate, Fault, Target
from covey.network.graph import Graph
from covey.parts.parameters import param


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
    """A topology with the kind of a built-in one."""

    kind = "ring"


class Doubtful(Full):
    """The whole model to every receiver, and a word."""

    kind = "doubtful"

    def outgoing(self, round: Round) -> Messages:
        return [(to, {"model": whole.model, "word": "perhaps"}) for to, whole in super().outgoing(round)]


class Outer:
    """A scope in which a part may be defined."""

    class Inner(Mirror):
        """A part within a class."""

        kind = "inner"


class Muted(Fault):
    """Nodes of which nobody hears; it calls itself what a built-in fault is called, and is not."""

    kind = "cut"

    def fate(self, sender: int, receiver: int, chance: float) -> Fate:
        return "muted"


class Tired(Fault):
    """Nodes that now and then fall asleep, and compute slowly."""

    kind = "tired"
    loses = False
    naps: float = param("The time for which nodes sleep, and are slow.", default=0.3, gt=0)

    @property
    def seconds(self) -> float:
        return self.naps

    def hit(self, target: Target) -> None:
        target.pause()


class Weary(Tired):
    """Nodes that compute slowly, the later ones the more so."""

    kind = "weary"

    def hit(self, target: Target) -> None:
        """Sleep not at all."""

    def slowdown(self, node: int) -> float:
        return 2.0 + node
