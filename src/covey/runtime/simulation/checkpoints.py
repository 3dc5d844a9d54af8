"""The checkpoints of a simulation: when they are taken, and resumption from them."""

from collections.abc import Sequence
from operator import attrgetter
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from covey.messages.payloads import Payload
from covey.parts.errors import RunError
from covey.runtime import mail
from covey.runtime.cadence import Cadence
from covey.runtime.running_node import RunningNode
from covey.runtime.runs import RunWriter
from covey.runtime.simulation.cuts import Cut
from covey.runtime.snapshots import restore_node, unpack
from covey.runtime.task import LoadedTask

if TYPE_CHECKING:
    from covey.runtime.simulation.world import World


class Checkpoints:
    """Decides when a checkpoint is taken, and of which kind.

    Args:
        world: the nodes.
        writer: writes checkpoints; None writes nothing.
    """

    def __init__(self, world: "World", writer: RunWriter | None) -> None:
        self._world, self._writer = world, writer
        self._every, self._keep = world.prepared.experiment.checkpoint.every, world.prepared.experiment.checkpoint.keep
        self._interval = self._every or 1
        """The number of rounds between two checkpoints; 1 if they go by time."""
        folder = None if writer is None else writer.folder
        self._cadence = Cadence(world.task.node_bytes * world.size, folder, perf_counter)
        self.cuts: dict[int, Cut] = {}
        """The cuts after a round that not all nodes have reached."""
        self._furthest = 0
        """The greatest number of rounds that a node has completed."""
        self.apart = False
        """True if some nodes go on without others, although the program is in step."""
        self._rest = 0
        """The last round with a checkpoint of nodes that continue after others have ended."""
        self._parting: Cut | None = None
        """The last cut that all nodes are past, but for some that have not reached it."""
        self._together = 0.0
        """The last time at which one of these completed a round, or the others had not all passed the cut."""

    def mail(self) -> mail.Mail | None:
        """The mail to keep; None if all nodes resume after the same round, or if messages come from virtual nodes,
        which do not number them."""
        world = self._world
        if world.prepared.overlay is not None:
            return None
        if self._writer is None or self._every == 0 or (world.in_step and not world.prepared.keeps_mail):
            return None
        return mail.Mail(world.here, world.size, mail.MOST if world.in_step else float("inf"))

    @property
    def _can_part(self) -> bool:
        """True if the mail of all nodes is there, so that they may resume at different moments."""
        return self._world.mail is not None and not self._world.mail.is_full

    # ------------------------------------------------------------------ progress of nodes

    def complete(self, node: RunningNode) -> None:
        """Take a checkpoint after a commit of a node, or open a cut, if one is due."""
        if self._parting is not None:
            self._perhaps_part(node, self._parting)
        if self._every == 0:
            return
        if self._world.in_step:
            self._perhaps_open(node)
        elif self._is_whole and (self._every or self._cadence.is_due):
            self._save(Cut.of_commits(self._world))

    @property
    def _is_whole(self) -> bool:
        """True if nodes have completed, on average, a multiple of the rounds between two checkpoints."""
        return self._world.recorder.commits % (self._interval * self._world.size) == 0

    def _perhaps_open(self, node: RunningNode) -> None:
        round = node.round
        if self._every:
            due = round % self._every == 0
        else:
            # The first node that completes a round decides about a cut.
            due = (round > self._furthest or self.apart) and not self.cuts and self._cadence.is_due
            self._furthest = max(self._furthest, round)
        if not due or round in self.cuts or (self.apart and self._is_behind(node)):
            return
        if self._is_left_behind(node):
            self._save_the_rest(round)
        else:
            self._open(round)

    def _open(self, round: int) -> None:
        if round < self._world.rounds and round not in self.cuts:
            self.cuts[round] = Cut(self._world, round)

    def _is_behind(self, node: RunningNode) -> bool:
        """True if a node whose program runs has completed more rounds than this one."""
        return any(other.round > node.round for other in self._world.nodes if not other.mail.ended)

    def _is_left_behind(self, node: RunningNode) -> bool:
        """True if a node has ended after more rounds than this one. It will not send again what this one waits for."""
        return any(other.round > node.round for other in self._world.nodes if other.mail.ended)

    def _save_the_rest(self, round: int) -> None:
        """Take a checkpoint with mail, once a round, of the nodes that continue after others have ended."""
        if self._can_part and round not in (self._rest, self._world.rounds) and not self._world.stops:
            self._rest = round
            self._save(Cut.of_commits(self._world))

    def reach(self, node: RunningNode) -> None:
        """Add a node that is ready for its next round to the cut of its round."""
        if not self.cuts:
            return
        if node.round in self.cuts:
            self._add(node, self.cuts[node.round])
        if node.round - self._interval in self.cuts:
            self._go_past(self.cuts[node.round - self._interval])

    def end(self, node: RunningNode) -> None:
        """Add a node that has ended to all cuts."""
        for cut in list(self.cuts.values()):
            self._add(node, cut)
            if node.round < cut.round + self._interval:
                self._go_past(cut)

    def note_transfers(self, node: RunningNode, transfers: Sequence[Any]) -> None:
        """Record the transfers of nodes that have not reached the round of a cut."""
        for cut in self.cuts.values():
            cut.note(node, transfers)

    # ------------------------------------------------------------------ nodes that go on without others

    def _go_past(self, cut: Cut) -> None:
        """Count a node that is further than a cut by one checkpoint."""
        if cut.go_past() and self._can_part:
            self._parting, self._together = cut, self._world.now

    def _perhaps_part(self, node: RunningNode, cut: Cut) -> None:
        """Take a checkpoint with mail if nodes go on without those that have not reached a cut, instead of it."""
        now = self._world.now
        if node.id not in cut.snapshots or cut.round not in self.cuts:
            self._together = now
        elif now > self._together and not self._world.stops and self._can_part:
            self.cuts = {round: later for round, later in self.cuts.items() if round > cut.round}
            self._parting, self.apart = None, True
            self._save(Cut.of_commits(self._world))

    # ------------------------------------------------------------------ writing

    def _add(self, node: RunningNode, cut: Cut) -> None:
        if cut.add(node):
            del self.cuts[cut.round]
            self.apart = False
            kept = self._world.mail
            # Messages without a round are in no cut after a round.
            has_loose = kept is not None and kept.has_loose and self._can_part
            self._save(Cut.of_commits(self._world) if has_loose else cut)

    def _save(self, cut: Cut) -> None:
        with self._cadence.at_work():
            # A resumed run does not repeat what precedes its checkpoint, so all of that must be written first.
            self._world.recorder.flush()
            if self._writer is not None:
                self._writer.checkpoint(cut.round, cut.payload(), keep=self._keep)
        self._cadence.taken()

    # ------------------------------------------------------------------ interruption

    def stop_now(self) -> bool:
        """Take the last checkpoint, if the run can be resumed at this moment. True if it can."""
        if self._world.in_step and not (self.apart and self._can_part):
            return False
        self._save(Cut.of_commits(self._world))
        return True

    def stop_after(self, round: int) -> None:
        """Take the last checkpoint after a round."""
        self._open(round)

    def stopped(self, round: int) -> None:
        """Take the last checkpoint although some nodes wait in an earlier round."""
        if round in self.cuts and self._can_part:
            self._save(Cut.of_commits(self._world))


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
    world.schedule.begin(since=float(checkpoint["clocks"].max()))
    snapshots = unpack(checkpoint, world.task)
    world.checkpoints.apart = len({snapshot.completed for snapshot in snapshots if not snapshot.ended}) > 1
    for node, snapshot in zip(world.nodes, snapshots, strict=True):
        restore_node(node, snapshot, counters=True)
        node.committed = snapshot
        links.restore_uplink(node.id, snapshot.uplink)
        node.mail.ended, node.mail.away = snapshot.ended, snapshot.away
        world.running -= snapshot.ended
        if node.mail.ended or world.schedule.follow_absences(node, since=snapshot.clock):
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
    held = mail.Held(sorted(held.messages, key=attrgetter("time")), held.taken)
    for node, kept, message in kept_by.restore(held, posted):
        assert node.committed is not None
        deliver = world.delivery(node, again=True) if kept.counted else world.deliver[node.id]
        came_before = kept.time < node.committed.clock and not kept.queues
        if kept.counted or at_once or came_before:
            # Later messages of its sender, which are sent again, may arrive before the node continues.
            deliver(message)
        else:
            kept_by.post([node.id], message)
            # Its order within a moment is before that of what its sender sends again.
            order = (kept.sender << 40) + kept.number
            world.links.carry_again(message, node.id, mail.Due(kept.time, kept.queues), order)
