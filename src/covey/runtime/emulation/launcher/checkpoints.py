"""The launcher's checkpoints: the latest snapshot of every node, and the last cut at which all had completed one round.

A program that waits for ever for what does not come goes on from a cut or not at all: of a round's messages those that
some nodes have taken are not sent again. So a cut gives way to a later cut and to nothing else. Programs with patience
that have lost step, and asynchronous ones, go on from whatever each of their nodes completed last.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from covey.messages.payloads import Payload
from covey.runtime.cadence import Cadence
from covey.runtime.prepared import Prepared
from covey.runtime.runs import RunWriter
from covey.runtime.snapshots import COUNTERS, Snapshot, pack


class Checkpoints:
    """Collects the snapshots of nodes and writes checkpoints of them.

    Args:
        prepared: the experiment.
        writer: where to write; None writes nothing.
        first: the snapshot of every node in the checkpoint that the run goes on from; empty where it begins.
        soon: does something as soon as all figures are written of what snapshots so far hold.
    """

    def __init__(
        self,
        prepared: Prepared,
        writer: RunWriter | None,
        first: Sequence[Snapshot],
        soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._task, self._size, self._rounds = prepared.task, prepared.network.nodes, prepared.experiment.rounds
        self._every, self._keep = prepared.experiment.checkpoint.every, prepared.experiment.checkpoint.keep
        self._waits_for_all, self._callbacks = prepared.waits_for_all, prepared.callbacks
        self._writer, self._soon = writer, soon
        self.in_step = prepared.in_step
        """Whether all nodes go through the same rounds."""
        self.is_void = False
        """Whether what comes is of a course that all nodes will go back from: some messages of it were lost."""
        self.stopping = False
        """Whether only the last checkpoint is still to be written."""
        self.latest: dict[int, Snapshot] = dict(enumerate(first))
        """The last snapshot of each node; those of nodes that have none yet are missing."""
        self.came = 0
        """How many snapshots have come."""
        self._since = 0
        """How many since the last checkpoint that is no cut."""
        self._open: dict[int, dict[int, Snapshot]] = {}
        """The snapshots of nodes that have completed a round that not all have, by that round."""
        self.cut: dict[int, Snapshot] = dict(self.latest)
        """The last cut, or where the run began; nodes that began with nothing are missing."""
        self._is_written = bool(first)
        """Whether a checkpoint holds it."""
        self._waits = False
        """Whether a checkpoint waits until it may be written."""
        folder = None if writer is None else writer.folder
        now = asyncio.get_running_loop().time
        self.cadence = Cadence(self._task.node_bytes * self._size, folder, now)
        self._wanted: int | None = None
        """The round after which hosts were asked for a cut."""
        self._awaited: set[int] = set()
        """Of which nodes they were asked for the last commit."""
        self._ahead = 1
        """By how many rounds a cut must be ahead of what is known of nodes, for all to hear of it in time."""

    def latest_of(self, node: int) -> Snapshot:
        """The latest snapshot of a node; where there is none, that with which it began."""
        if node not in self.latest:
            self.latest[node] = self._initial(node)
        return self.latest[node]

    def _initial(self, node: int) -> Snapshot:
        return Snapshot(0, state={}, learned=self._task.initial(node), loss=None, counters=[0] * COUNTERS)

    @property
    def all_ended(self) -> bool:
        """Whether the programs of all nodes have returned."""
        return len(self.latest) == self._size and all(snapshot.ended for snapshot in self.latest.values())

    # ------------------------------------------------------------------ checkpoints that are due by time

    def ask(self, completed: Sequence[int], present: Iterable[int]) -> Payload | None:
        """What all hosts are to be told where a checkpoint is due: to send snapshots.

        Args:
            completed: how many rounds each node has completed, as far as is known.
            present: the nodes of the hosts that are there.
        """
        if self._every is not None or self.stopping or self._wanted is not None or self._awaited:
            return None
        if not self.cadence.is_due:
            return None
        if not self.in_step:
            self._awaited = {node for node in present if not (node in self.latest and self.latest[node].ended)}
            return {"round": None} if self._awaited else None
        round = max(completed) + self._ahead
        if round >= self._rounds:
            return None
        self._wanted = round
        return {"round": round}

    def missed(self, round: int) -> None:
        """A node had gone past the round of a cut before its host heard of it."""
        if round == self._wanted:
            self._wanted = None
            self._open.pop(round, None)
            self._ahead *= 2

    def lose(self, nodes: Sequence[int]) -> None:
        """Nodes are gone: nothing comes of what was asked of them."""
        if self._awaited and self._awaited.issubset(nodes):
            self._write_soon(partial(self._write, dict(self.latest)))
        self._awaited.difference_update(nodes)

    # ------------------------------------------------------------------ what comes

    def roll_back(self) -> list[Snapshot]:
        """Go back to the last cut; returns what each node goes on from."""
        self.latest, self._open, self._waits = dict(self.cut), {}, False
        self._wanted, self._awaited, self.is_void = None, set(), False
        return [self.cut.get(node) or self._initial(node) for node in range(self._size)]

    def lose_step(self) -> None:
        """From now on nodes go through different rounds, where the program can do that."""
        if not self._waits_for_all:
            self.in_step = False
            self._open.clear()
            self._wanted = None

    def take(self, snapshots: Mapping[int, Snapshot]) -> None:
        """What some nodes can go on from."""
        if self.is_void:
            return
        awaited = bool(self._awaited)
        for node, snapshot in snapshots.items():
            self.latest[node] = snapshot
            self.came += 1
            self._since += 1
            self._awaited.discard(node)
            if self.in_step:
                self._put(node, snapshot)
        if self._every == 0 or self.stopping:
            return
        if self.in_step:
            for completed in sorted(completed for completed, cut in self._open.items() if len(cut) == self._size):
                cut = self._open.pop(completed)
                self._open = {later: cut for later, cut in self._open.items() if later > completed}
                if completed < self._rounds:
                    self._write_soon(partial(self._advance, cut))
        elif (awaited and not self._awaited) if self._every is None else self._since >= self._size:
            self._since = 0
            self._write_soon(partial(self._write, dict(self.latest)))

    def _put(self, node: int, snapshot: Snapshot) -> None:
        """Put a snapshot to those of other nodes that have completed the same round."""
        if snapshot.ended:
            for cut in self._open.values():
                cut.setdefault(node, snapshot)
        elif snapshot.completed % self._every == 0 if self._every else snapshot.completed == self._wanted:
            if snapshot.completed not in self._open:
                self._open[snapshot.completed] = {n: s for n, s in self.latest.items() if s.ended}
            self._open[snapshot.completed][node] = snapshot

    def _write_soon(self, write: Callable[[], None]) -> None:
        """Write something behind the figures that it counts on; while one checkpoint waits for these, no other does."""

        def write_now() -> None:
            self._waits = False
            write()

        if not self._waits:
            self._waits = True
            self._soon(write_now)

    def _advance(self, cut: dict[int, Snapshot]) -> None:
        """Write a cut, which takes the place of the last one."""
        if self.in_step:
            self._write(cut)
            self.cut, self._is_written, self._wanted, self._ahead = cut, True, None, 1

    def write_last(self) -> None:
        """Write where the run was stopped; where the program cannot go on from there, the last cut."""
        latest = {node: self.latest_of(node) for node in range(self._size)}
        if not self.in_step or _is_cut(latest) or not (self._waits_for_all or self.cut):
            self._write(latest)
        elif not self._is_written:
            self._write({node: self.cut.get(node) or self._initial(node) for node in range(self._size)})

    def _write(self, snapshots: Mapping[int, Snapshot]) -> None:
        if self._writer is not None:
            with self.cadence.at_work():
                each = [snapshots[node] if node in snapshots else self.latest_of(node) for node in range(self._size)]
                round = max((s.completed for s in each if not s.ended), default=max(s.completed for s in each))
                payload = {"round": round, **pack(each, self._task), **self._callbacks.freeze()}
                self._writer.checkpoint(round, payload, keep=self._keep)
            self.cadence.taken()


def _is_cut(snapshots: Mapping[int, Snapshot]) -> bool:
    """Whether all nodes have completed the same round, except those that ended in it or before."""
    completed = {snapshot.completed for snapshot in snapshots.values() if not snapshot.ended}
    ended = max((snapshot.completed for snapshot in snapshots.values() if snapshot.ended), default=0)
    return not completed or completed == {max(ended, *completed)}
