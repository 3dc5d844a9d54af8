"""Consistent cuts through a run: the snapshots of nodes in a checkpoint, and the traffic or mail between them.

The cut of a synchronous program after round k holds every node as it was when it completed round k, although fast
nodes are ahead by the time slow ones get there. A resumed run starts every node at its own moment, and everything that
was sent later is sent again. Messages of rounds up to k are not sent again, but they may have occupied downlinks while
the first nodes were in round k + 1. They are kept as ghosts, which occupy links as before and deliver nothing. So a
resumed run repeats the uninterrupted one to the bit.

The cut of an asynchronous program, or of one with churn, holds the last commit of every node and the mail of all: see
`covey.runtime.mail`. So does that of a synchronous program while nodes go on without others, such as a server that
waits in one round for all that clients do in many: the cut after a round would have to wait for it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from covey.messages.payloads import Payload
from covey.runtime import mail
from covey.runtime.running_node import RunningNode
from covey.runtime.snapshots import Snapshot, pack

if TYPE_CHECKING:
    from covey.runtime.simulation.world import World


class Cut:
    """The checkpoint after a round, to which nodes are added as they reach it."""

    def __init__(self, world: "World", round: int) -> None:
        self.world = world
        self.round = round
        self.snapshots: dict[int, Snapshot] = {n.id: self._snapshot(n) for n in world.nodes if n.mail.ended}
        self.downlinks, self.transfers = world.links.freeze()
        self.holds_mail = False
        """True if nodes resume at different moments, with their mail."""
        self._past = len(self.snapshots)
        """The number of nodes that have ended or are one checkpoint further."""

    @classmethod
    def of_commits(cls, world: "World") -> "Cut":
        """The current last commits of all nodes."""
        cut = cls(world, max(node.round for node in world.nodes))
        # Messages that had begun to arrive are in the mail, and those that are sent again take capacity again.
        cut.downlinks, cut.transfers, cut.holds_mail = np.zeros_like(cut.downlinks), [], True
        cut.snapshots = {node.id: node.committed for node in world.nodes if node.committed is not None}
        return cut

    def note(self, node: RunningNode, transfers: Sequence[Any]) -> None:
        """Record transfers. Those of nodes before the cut will not be sent again."""
        if node.id not in self.snapshots:
            self.transfers.extend(transfers)

    def add(self, node: RunningNode) -> bool:
        """Add a node that has completed the round or has ended. True if it was the last."""
        self.snapshots.setdefault(node.id, self._snapshot(node))
        return len(self.snapshots) == self.world.size

    def _snapshot(self, node: RunningNode) -> Snapshot:
        return node.committed if node.serves_on and node.committed is not None else self.world.snapshot(node)

    def go_past(self) -> bool:
        """Count a node that has ended or is one checkpoint further. True if all are, but for some not added."""
        self._past += 1
        return self._past == len(self.snapshots) < self.world.size

    def payload(self) -> Payload:
        """The checkpoint as named tensors and plain values, for `RunWriter.checkpoint`."""
        ghosts = self.world.links.ghosts(self.transfers)
        return {
            "round": self.round,
            **pack([self.snapshots[id] for id in range(self.world.size)], self.world.task),
            "judged": self.world.prepared.judged(),
            "downlinks": self.downlinks,
            "ghosts": msgspec.msgpack.encode(ghosts),
            **self.world.recorder.freeze(None if self.holds_mail else self.round),
            **self._mail(),
            **self.world.prepared.callbacks.freeze(),
        }

    def _mail(self) -> Payload:
        """The mail of nodes that resume at different moments."""
        world = self.world
        if world.mail is None or not self.holds_mail:
            return {}
        posted = [self.snapshots[id].posted for id in range(world.size)]
        return mail.pack(world.mail.content(world.now, world.links.under_way()).held(posted).reduced(posted))
