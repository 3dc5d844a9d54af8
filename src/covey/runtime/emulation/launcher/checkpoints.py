"""The launcher's checkpoints: the latest snapshots of nodes, and the last cut, at which all had completed one round.

A program that waits for ever for missing messages can only resume at a cut: messages of a round that some nodes have
taken are not sent again. So only a later cut replaces a cut. Programs with patience whose nodes are no longer in step
resume each node at its last completed round. Asynchronous ones resume at a cut that holds their mail: `cuts`. So do
synchronous ones while some nodes wait in an early round and the others go on without them.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

from covey.messages.payloads import Payload
from covey.runtime.cadence import Cadence
from covey.runtime.emulation.launcher.cuts import Cut
from covey.runtime.mail import Held
from covey.runtime.mail import pack as pack_mail
from covey.runtime.prepared import Prepared
from covey.runtime.runs import RunWriter
from covey.runtime.snapshots import COUNTERS, Snapshot, pack


class Checkpoints:
    """Collects the snapshots of nodes, and writes checkpoints.

    Args:
        prepared: the experiment.
        writer: writes checkpoints; None writes nothing.
        first: the snapshots of the checkpoint from which the run is resumed; empty for a new run.
        mail: the mail of that checkpoint.
        soon: calls a function as soon as all figures that belong to the current snapshots are written.
    """

    def __init__(
        self,
        prepared: Prepared,
        writer: RunWriter | None,
        first: Sequence[Snapshot],
        mail: Held,
        soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._task, self._size, self._rounds = prepared.task, prepared.network.nodes, prepared.experiment.rounds
        self._every, self._keep = prepared.experiment.checkpoint.every, prepared.experiment.checkpoint.keep
        self._judged = prepared.judged()
        self._waits_for_all, self._callbacks = prepared.waits_for_all, prepared.callbacks
        self._keeps_mail, self.mail = prepared.keeps_mail, mail
        """True if checkpoints may hold mail, and that of the last cut."""
        self._asynchronous = prepared.keeps_mail and not prepared.program.synchronous
        """True if all cuts hold mail."""
        self.can_cut = prepared.keeps_mail
        """True if hosts still keep all mail."""
        self.has_loose = False
        """True if nodes send messages without a round, which may lie in a mailbox or be in transit at its end."""
        self._owes_cut = False
        """True if nodes have completed the round of a checkpoint, which must hold mail."""
        self._seen: Sequence[int] | None = None
        """The completed rounds of nodes at the last look, if some may be going on without others."""
        self.gathering: Cut | None = None
        """The cut whose parts hosts report now."""
        self._cuts = self._commits = 0
        """The number of ordered cuts, and of completed rounds at the last complete one."""
        self._writer, self._soon = writer, soon
        self.in_step = prepared.in_step
        """True if all nodes go through the same rounds."""
        self.is_void = False
        """True if further snapshots are useless, because messages were lost and all nodes will be rolled back."""
        self.stopping = False
        """True if only the last checkpoint remains to be written."""
        self.latest: dict[int, Snapshot] = dict(enumerate(first))
        """The last snapshot of each node that has one."""
        self.came = 0
        """The number of received snapshots."""
        self._since = 0
        """The number of snapshots since the last checkpoint that is not a cut."""
        self._open: dict[int, dict[int, Snapshot]] = {}
        """The snapshots of incomplete cuts, by round."""
        self.cut: dict[int, Snapshot] = dict(self.latest)
        """The last cut, or the start of the run. Nodes without a snapshot are missing."""
        self._is_written = bool(first)
        """True if the cut is written."""
        self._waits = False
        """True if a checkpoint waits for figures."""
        folder = None if writer is None else writer.folder
        now = asyncio.get_running_loop().time
        self.cadence = Cadence(self._task.node_bytes * self._size, folder, now)
        self._wanted: int | None = None
        """The round of the cut that was requested."""
        self._awaited: set[int] = set()
        """The nodes whose last commit was requested."""
        self._ahead = 1
        """The rounds by which a requested cut must be ahead of the nodes' known progress, so that the request is not
        late."""

    def latest_of(self, node: int) -> Snapshot:
        """The latest snapshot of a node, or its initial one."""
        if node not in self.latest:
            self.latest[node] = self._initial(node)
        return self.latest[node]

    def _initial(self, node: int) -> Snapshot:
        return Snapshot(0, state={}, learned=self._task.initial(node), loss=None, counters=[0] * COUNTERS)

    @property
    def all_ended(self) -> bool:
        """True if the programs of all nodes have returned."""
        return len(self.latest) == self._size and all(snapshot.ended for snapshot in self.latest.values())

    # ------------------------------------------------------------------ checkpoints that are due by time

    def ask_for_cut(self, hosts: Collection[int], commits: int, completed: Sequence[int]) -> Payload | None:
        """The order to all hosts to cut, if a checkpoint with mail is due.

        Args:
            hosts: those that are present.
            commits: the number of rounds that nodes have completed, all together.
            completed: the known number of completed rounds of each node.
        """
        if self.stopping or self.gathering is not None:
            return None
        if not self._asynchronous:
            is_due = self._owes_cut or self._go_apart(completed)
        elif self._every is None:
            is_due = self.cadence.is_due
        else:
            is_due = commits - self._commits >= self._every * self._size
        return self.begin_cut(hosts, commits) if is_due else None

    def _go_apart(self, completed: Sequence[int]) -> bool:
        """True if nodes go on without those that have not reached the oldest open cut.

        Cuts that the others have all passed are then given up.
        """
        seen, self._seen = self._seen, None
        if not self._open:
            return False
        round = min(self._open)
        behind = [node for node in range(self._size) if node not in self._open[round]]
        others = [node for node, snapshot in self._open[round].items() if not snapshot.ended]
        last = min((completed[node] for node in others), default=0) - (self._every or 1)
        if last < round:
            return False
        self._seen = list(completed)
        if seen is None or any(completed[node] > seen[node] for node in behind):
            return False
        if not any(completed[node] > seen[node] for node in others):
            return False
        self._seen, self._wanted = None, None
        self._open = {later: cut for later, cut in self._open.items() if later > last}
        return True

    def begin_cut(self, hosts: Collection[int], commits: int) -> Payload:
        """Begin a cut; the order to all hosts."""
        self._cuts += 1
        self._owes_cut = False
        self.gathering = Cut(self._cuts, hosts, commits)
        return {"cut": self._cuts, "hosts": sorted(hosts)}

    def void_cut(self) -> None:
        """A message between hosts is lost, or a host is: nothing comes of the cut that hosts report."""
        self.gathering = None

    def ask(self, completed: Sequence[int], present: Iterable[int]) -> Payload | None:
        """The request to all hosts for snapshots, if a checkpoint is due.

        Args:
            completed: the known number of completed rounds of each node.
            present: the nodes of the hosts that are present.
        """
        if self._every is not None or self.stopping or self._asynchronous or self._wanted is not None or self._awaited:
            return None
        if self._owes_cut or self.gathering is not None:
            return None
        if not self.cadence.is_due:
            return None
        if not self.in_step:
            self._awaited = {node for node in present if not (node in self.latest and self.latest[node].ended)}
            return {"round": None} if self._awaited else None
        ended = {node for node, snapshot in self.latest.items() if snapshot.ended}
        round = max((rounds for node, rounds in enumerate(completed) if node not in ended), default=0) + self._ahead
        if round >= self._rounds:
            return None
        self._wanted = round
        return {"round": round}

    def missed(self, round: int) -> None:
        """Give up a requested cut, because a node had passed its round before the request arrived."""
        if round == self._wanted:
            self._wanted = None
            self._open.pop(round, None)
            self._ahead *= 2

    def lose(self, nodes: Sequence[int]) -> None:
        """Stop waiting for snapshots of lost nodes."""
        if self._awaited and self._awaited.issubset(nodes):
            self._write_soon(partial(self._write, dict(self.latest)))
        self._awaited.difference_update(nodes)

    # ------------------------------------------------------------------ received snapshots

    def roll_back(self) -> list[Snapshot]:
        """Roll back to the last cut, and return the snapshot of each node."""
        self.latest, self._open, self._waits = dict(self.cut), {}, False
        self._wanted, self._awaited, self.is_void, self.gathering = None, set(), False, None
        self._owes_cut, self._seen = False, None
        return [self.cut.get(node) or self._initial(node) for node in range(self._size)]

    def lose_step(self) -> None:
        """Let nodes go through different rounds from now on, if the program allows it."""
        if self.in_step and not self._waits_for_all:
            self.in_step = self.can_cut = self._owes_cut = False
            self.mail = Held([], [])
            self._open.clear()
            self._wanted = None

    def take(self, snapshots: Mapping[int, Snapshot]) -> None:
        """Take snapshots of some nodes."""
        if self.is_void:
            return
        if self._asynchronous:
            # Others are of no cut.
            snapshots = {node: snapshot for node, snapshot in snapshots.items() if snapshot.ended}
        awaited = bool(self._awaited)
        for node, snapshot in snapshots.items():
            self.latest[node] = snapshot
            self.came += 1
            self._since += 1
            self._awaited.discard(node)
            if self.in_step:
                self._put(node, snapshot)
        if self._every == 0 or self.stopping or self._asynchronous:
            return
        if self.in_step:
            for completed in sorted(completed for completed, cut in self._open.items() if len(cut) == self._size):
                cut = self._open.pop(completed)
                self._open = {later: cut for later, cut in self._open.items() if later > completed}
                if completed < self._rounds and self.has_loose and self.can_cut:
                    self._owes_cut, self._wanted = True, None
                elif completed < self._rounds:
                    self._write_soon(partial(self._advance, cut))
        elif (awaited and not self._awaited) if self._every is None else self._since >= self._size:
            self._since = 0
            self._write_soon(partial(self._write, dict(self.latest)))

    def end_part(self, host: int, *, full: bool) -> None:
        """A host has reported its part of the open cut."""
        cut = self.gathering
        if cut is None or not cut.end(host, full=full) or self.is_void:
            return
        self.gathering = None
        if self.in_step and not cut.has_all:
            self.can_cut = False  # Without its mail, the program cannot resume there.
            return
        self._commits = cut.commits
        each = {node: cut.snapshots.get(node) or self.latest_of(node) for node in range(self._size)}
        mail = cut.mail([each[node].posted for node in range(self._size)])
        if self.stopping:
            self._move_to(each, mail)
        else:
            self._write_soon(partial(self._write_cut, each, mail))

    def _move_to(self, each: dict[int, Snapshot], mail: Held) -> None:
        """Let nodes continue from a cut."""
        ended = {node: snapshot for node, snapshot in self.latest.items() if snapshot.ended}
        self.cut, self.mail, self._is_written = each, mail, False
        self.latest = each | ended

    def _write_cut(self, each: dict[int, Snapshot], mail: Held) -> None:
        self._move_to(each, mail)
        self._write(each)
        self._is_written = True

    def _put(self, node: int, snapshot: Snapshot) -> None:
        """Add a snapshot to the cut of its round."""
        if snapshot.ended:
            for cut in self._open.values():
                cut.setdefault(node, snapshot)
        elif snapshot.completed % self._every == 0 if self._every else snapshot.completed == self._wanted:
            if snapshot.completed not in self._open:
                if any(other.completed > snapshot.completed for other in self.latest.values() if not other.ended):
                    return  # The cut was given up.
                self._open[snapshot.completed] = {n: s for n, s in self.latest.items() if s.ended}
            self._open[snapshot.completed][node] = snapshot

    def _write_soon(self, write: Callable[[], None]) -> None:
        """Write a checkpoint after the figures that it relies on. Only one checkpoint waits at a time."""

        def write_now() -> None:
            self._waits = False
            write()

        if not self._waits:
            self._waits = True
            self._soon(write_now)

    def _advance(self, cut: dict[int, Snapshot]) -> None:
        """Write a cut, which replaces the last one."""
        if self.in_step:
            self.mail = Held([], [])
            self._write(cut)
            self.cut, self._is_written, self._wanted, self._ahead = cut, True, None, 1

    def write_last(self) -> None:
        """Write the state at which the run was stopped or, if the program cannot resume there, the last cut."""
        latest = {node: self.latest_of(node) for node in range(self._size)}
        goes_by_mail = self._asynchronous or (self.in_step and self.has_loose and self.can_cut)
        if goes_by_mail and (self.cut or self._waits_for_all):
            self._write_unwritten()
        elif not self.in_step or _is_cut(latest) or not (self._waits_for_all or self.cut):
            if self.in_step:
                self.mail = Held([], [])
            self._write(latest)
        else:
            self._write_unwritten()

    def _write_unwritten(self) -> None:
        """Write the last cut, or where there was none the beginning, unless a checkpoint holds it."""
        if not self._is_written:
            self._write({node: self.cut.get(node) or self._initial(node) for node in range(self._size)})

    def _write(self, snapshots: Mapping[int, Snapshot]) -> None:
        if self._writer is not None:
            with self.cadence.at_work():
                each = [snapshots[node] if node in snapshots else self.latest_of(node) for node in range(self._size)]
                round = max((s.completed for s in each if not s.ended), default=max(s.completed for s in each))
                mail = pack_mail(self.mail) if self._keeps_mail else {}
                nodes = {**pack(each, self._task), "judged": self._judged}
                payload = {"round": round, **nodes, **mail, **self._callbacks.freeze()}
                self._writer.checkpoint(round, payload, keep=self._keep)
            self.cadence.taken()


def _is_cut(snapshots: Mapping[int, Snapshot]) -> bool:
    """True if all nodes have completed the same round, except those that ended in it or before."""
    completed = {snapshot.completed for snapshot in snapshots.values() if not snapshot.ended}
    ended = max((snapshot.completed for snapshot in snapshots.values() if snapshot.ended), default=0)
    return not completed or completed == {max(ended, *completed)}
