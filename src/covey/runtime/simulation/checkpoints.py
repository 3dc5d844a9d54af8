"""Consistent cuts through a run, and resumption from them.

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
from covey.parts.errors import RunError
from covey.runtime import mail
from covey.runtime.running_node import RunningNode
from covey.runtime.snapshots import Snapshot, pack, unpack
from covey.runtime.task import LoadedTask

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
        cut.transfers, cut.holds_mail = [], True
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
        return mail.pack(world.mail.content(world.now).held(posted).reduced(posted))


_Ghosts = list[tuple[float, int, float, int, int, float]]


def check(payload: Payload, nodes: int, task: LoadedTask) -> None:
    """Check the entries that the simulation adds to snapshots.

    Raises:
        RunError: an entry is missing or wrong.
    """
    downlinks = payload.get("downlinks")
    if not isinstance(downlinks, np.ndarray) or downlinks.shape not in ((0,), (nodes,)):
        raise RunError(f"'downlinks' is missing, or is not of {nodes} nodes")
    try:
        ghosts = msgspec.msgpack.decode(payload.get("ghosts"), type=_Ghosts)  # type: ignore[arg-type]
    except (TypeError, msgspec.MsgspecError) as error:
        raise RunError(f"'ghosts' is missing, or not a list of transfers: {error}") from error
    if any(not 0 <= node < nodes for ghost in ghosts for node in ghost[3:5]):
        raise RunError(f"'ghosts' has a node beyond the {nodes} of the run")
    for name, value in payload.items():
        family, _, rest = name.partition("/")
        round, _, figure = rest.partition("/")
        if family == "average" and not (round.isdecimal() and task.check_frozen(figure, value)):
            raise RunError(f"'{name}' is not a sum of models")


def restore(world: "World", payload: Payload) -> None:
    """Restore a checkpoint in a new world.

    Args:
        world: the world.
        payload: a checkpoint that `check` and `snapshots.check` accepted, or one of the emulation.
    """
    checkpoint: dict[str, Any] = dict(payload)
    links = world.links
    if "ghosts" in checkpoint:
        links.thaw(checkpoint["downlinks"], msgspec.msgpack.decode(checkpoint["ghosts"], type=_Ghosts))
    world.recorder.thaw(checkpoint)
    for since, factor in world.prepared.callbacks.rates:
        world.task.scale_learning_rate(since, factor)
    world.follow_faults()
    world.follow_moments(since=float(checkpoint["clocks"].max()))
    snapshots = unpack(checkpoint, world.task)
    world.apart = len({snapshot.completed for snapshot in snapshots if not snapshot.ended}) > 1
    for node, snapshot in zip(world.nodes, snapshots, strict=True):
        node.restore(snapshot, counters=True)
        node.committed = snapshot
        links.restore_uplink(node.id, snapshot.uplink)
        node.mail.ended, node.mail.away = snapshot.ended, snapshot.away
        world.running -= snapshot.ended
        if node.mail.ended or world.follow_absences(node, since=snapshot.clock):
            continue
        # It is the node's own next event, so its order within the moment stays the same.
        world.at(snapshot.clock, node, world.start_now, node)
        node.order -= 1
    if world.mail is not None:
        _deliver_again(world, world.mail, mail.unpack(checkpoint), at_once="ghosts" not in checkpoint)


def _deliver_again(world: "World", kept_by: mail.Mail, held: mail.Held, *, at_once: bool) -> None:
    """Deliver the mail of a checkpoint before the nodes themselves continue.

    Args:
        world: the world.
        kept_by: the mail of the world.
        held: the mail of the checkpoint.
        at_once: deliver all of it at the start, because it was under way in real time.
    """
    posted = [node.posted for node in world.nodes]
    for index, (node, kept, message) in enumerate(kept_by.restore(held, posted)):
        assert node.committed is not None
        deliver = world.delivery(node, again=True) if kept.counted else world.deliver[node.id]
        if kept.counted or at_once:
            deliver(
                message
            )  # Later messages of its sender, which are sent again, may arrive before the node continues.
        else:
            world.agenda.put(max(kept.time, node.committed.clock), index - (1 << 40), deliver, message)
