"""The launcher's records of a run: rows, figures, averages, snapshots."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import numpy as np

from covey.messages import wire
from covey.messages.payloads import Payload
from covey.parts.errors import RunError, quoted
from covey.runtime.emulation.launcher.averages import Averages, check_round
from covey.runtime.emulation.launcher.checkpoints import Checkpoints
from covey.runtime.emulation.launcher.cuts import Cut
from covey.runtime.emulation.transport.connection import loop_time
from covey.runtime.experiment import Progress
from covey.runtime.mail import Held, check_held
from covey.runtime.mail import unpack as unpack_mail
from covey.runtime.prepared import Prepared
from covey.runtime.recorder import of_moment
from covey.runtime.runs import RunWriter
from covey.runtime.runs.counting import Moment
from covey.runtime.runs.schema import COMMIT_COLUMNS, COUNTED, MOMENTS, NETWORK, RECORDED
from covey.runtime.snapshots import COUNTERS, Snapshot, unpack
from covey.runtime.task import Summary

_MOST_MOMENTS = 2**53
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Time = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
"""A finite time: a NaN or infinity of one host would keep the rows of all from being written."""
# fmt: off
_Row = tuple[
    int, _Count, _Time, float | None,
    _Count, _Count, _Count, _Count, _Count, _Count, _Count, _Count, _Count,
    _Time, _Time, _Time, _Time,
]
# fmt: on
"""A commit: its node, round and time, its counters, and seconds by activity."""
_Rows = tuple[
    list[_Row],
    list[tuple[int, _Count, str, float]],
    list[tuple[_Time, int, str, str]],
    list[tuple[_Time, int, str, dict[str, Any]]],
]
"""The commits, figures, events and rows of tables of a host's report."""
_Figures = dict[str, Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]]
_COUNTED = slice(COMMIT_COLUMNS.index("bytes_out"), COUNTED.stop)
_SPENT = slice(COUNTED.stop, len(COMMIT_COLUMNS))
_STEPS = slice(COMMIT_COLUMNS.index("steps"), COMMIT_COLUMNS.index("bytes_out"))
_Counters = Annotated[list[_Count], msgspec.Meta(min_length=COUNTERS, max_length=COUNTERS)]
_TOTALS = ("dropped/", "payload_bytes_out", "frames_out", "socket_bytes_out")
"""The beginnings of the names of figures that a host counts from zero at each start."""


class Records:
    """Checks and records the reports of hosts.

    Args:
        prepared: the experiment.
        owners: the host of every node.
        writer: records the run; None records nothing.
        progress: called from time to time with the progress of the run.
        checkpoint: the checkpoint to resume from.
        clock: the kind of time of the nodes' clocks.
        later: runs a coroutine in the background, and ends the run after an error.
    """

    def __init__(
        self,
        prepared: Prepared,
        owners: Sequence[int],
        writer: RunWriter | None,
        progress: Callable[[Progress], None] | None,
        checkpoint: Payload | None,
        *,
        clock: str,
        later: Callable[[Any], asyncio.Task[None]],
    ) -> None:
        self.prepared, self.owners, self.writer, self.progress = prepared, owners, writer, progress
        self.clock, self._later = clock, later
        self.size, self.rounds = prepared.network.nodes, prepared.experiment.rounds
        self.task = prepared.task
        self.learned: dict[int, Any] = {}
        """The final learned results of nodes."""
        self.states: dict[int, dict[str, Any]] = {}
        """The final states of nodes."""
        self.time = 0.0
        self.commits = 0
        self.stopping = False
        self.notice: str | None = None
        """A message for the user."""
        first = [] if checkpoint is None else unpack(checkpoint, prepared.task)
        self.elapsed = max((snapshot.clock for snapshot in first), default=0.0)
        """The time of the run before it was resumed."""
        # A resumption deletes events after the first of the nodes' moments.
        self.noted_until = min((s.clock if s.clock > 0 else -1.0 for s in first), default=-1.0)
        """The time up to which events of the network are recorded already."""
        self._round = [snapshot.completed for snapshot in first] or [0] * self.size
        """The completed rounds of each node, which decrease when it returns."""
        self._recorded = list(self._round)
        """The last round of each node with a row."""
        self._figured = list(self._round)
        """The last round of each node with a figure."""
        self._redone: dict[int, set[int]] = {}
        """The rounds of each node with figures from before it returned."""
        self._last_rows: dict[int, Sequence[Any]] = {}
        self._losses: dict[int, float] = {}
        self._shown = 0.0
        self.callbacks = prepared.callbacks
        self.averages, self.moments = self._averages(), self._of_moments()
        mail = Held([], []) if checkpoint is None else unpack_mail(checkpoint)
        self.checkpoints = Checkpoints(prepared, writer, first, mail, self._write_soon)
        self._jobs: deque[Callable[[], Awaitable[None]]] = deque()
        """Evaluations of averages, and checkpoints that wait for figures."""
        self.working: asyncio.Task[None] | None = None
        """The task that does these jobs in order."""
        self._totals: dict[int, dict[str, float]] = {}
        self._before: dict[int, dict[str, float]] = {}
        """The counters of each host when it was last lost."""

    def _averages(self) -> Averages:
        """The summaries of nodes after rounds."""
        writer = self.writer

        def record(completed: int, average: Summary, figures: Mapping[str, float]) -> None:
            if writer is not None:
                writer.metrics([(NETWORK, completed, name, value) for name, value in figures.items()])
            self.callbacks.close(completed, figures, average)

        return Averages(
            self.prepared, self.owners, self.rounds, record if writer is not None or self.callbacks else None, self._do
        )

    def _of_moments(self) -> Averages:
        """The summaries of nodes at moments of time."""
        writer, seconds = self.writer, self.prepared.experiment.evaluation.seconds or 0.0

        def record(number: int, average: Summary, figures: Mapping[str, float]) -> None:
            assert writer is not None
            writer.records([(number * seconds, NETWORK, MOMENTS, of_moment(average.accuracies, figures))])

        return Averages(self.prepared, self.owners, _MOST_MOMENTS, record if writer is not None else None, self._do)

    # ------------------------------------------------------------------ rows

    def check_own(self, host: int, nodes: Sequence[int]) -> None:
        """Refuse nodes that do not belong to a host.

        Raises:
            RunError: a node belongs to another host.
        """
        for node in nodes:
            if not (0 <= node < self.size and self.owners[node] == host):
                raise RunError(f"Host {host} reports for node {node}, which is not its own.")

    def take_rows(self, host: int, rows: Any) -> None:
        """Record commits, figures and events."""
        commits, figures, events, records = msgspec.msgpack.decode(rows, type=_Rows)
        self.check_own(host, [*(row[0] for row in [*commits, *figures]), *(row[1] for row in [*events, *records])])
        for _, _, table, columns in records:
            if any(type(value) not in RECORDED for value in columns.values()):
                raise RunError(f"Host {host} adds a value to the table {quoted(table)} that is not a plain one.")
        for row in commits:
            check_round(host, row[1], self.rounds)
        for _, round, *_ in figures:
            # Figures that a program logs after its last round have the next round.
            check_round(host, round, self.rounds + 1)
        writer = self.writer
        if writer is not None:
            writer.forget("commits", [row[:2] for row in commits if row[1] <= self._recorded[row[0]]])
            writer.forget("metrics", list(self._again(figures)))
        for row in commits:
            node, completed, time, loss = row[:4]
            self._round[node] = completed
            self._recorded[node] = max(self._recorded[node], completed)
            self._last_rows[node] = row
            self.time = max(self.time, time)
            if loss is not None:
                self._losses[node] = loss
            if self.callbacks:
                self.callbacks.committed(completed, time)
        if self.callbacks:
            self.callbacks.take(row for row in figures if row[0] != NETWORK)
        self.commits += len(commits)
        if commits:
            self.notice = None
        if writer is not None:
            writer.commits(commits)
            writer.metrics(figures)
            for event in events:
                writer.event(*event)
            writer.records(records)
        if self.progress is not None and loop_time() - self._shown > 0.1:
            self.show()

    def _again(self, figures: Sequence[tuple[int, int, str, float]]) -> Iterator[tuple[int, int]]:
        """The nodes and rounds whose earlier figures the given figures replace."""
        for node, round, *_ in figures:
            self._figured[node] = max(self._figured[node], round)
            redone = self._redone.get(node, ())
            if round in redone:
                self._redone[node].discard(round)
                yield node, round

    def event(self, time: float, node: int, kind: str, detail: str) -> None:
        """Record an event."""
        if self.writer is not None:
            self.writer.event(time, node, kind, detail)

    def take_observed(self, host: int, payload: Payload) -> None:
        """Record a message that an observed node has received."""
        node, time, frame = (
            msgspec.convert(payload["node"], int),
            msgspec.convert(payload["time"], _Time),
            payload["frame"],
        )
        self.check_own(host, [node])
        observer = self.prepared.experiment.observer
        if observer is None or node not in observer.nodes or not isinstance(frame, np.ndarray):
            raise RunError(f"Host {host} reports a message of node {node}, which is not observed.")
        data = frame.tobytes()
        wire.decode(data)
        if self.writer is not None:
            self.writer.observed([(time, node, data)])

    def take_moment(self, host: int, share: Mapping[str, Any]) -> None:
        """Add the share of a host in a moment, which closes all earlier ones for it."""
        number = share["number"]
        self.moments.add(host, number, share)
        self.moments.advance(host, number)

    def take_health(self, host: int, time: Any, packed: Any) -> Mapping[str, float]:
        """Record the figures of a host, and return them. Counters are summed over its restarts."""
        time = msgspec.convert(time, _Time)
        figures = msgspec.msgpack.decode(packed, type=_Figures)
        before, totals = self._before.get(host, {}), self._totals.setdefault(host, {})
        for name in figures:
            if name.startswith(_TOTALS):
                figures[name] += before.get(name, 0.0)
                totals[name] = figures[name]
        if self.writer is not None:
            self.writer.host_figures([(time, host, name, value) for name, value in figures.items()])
        return figures

    def show(self) -> None:
        """Report the progress of the run."""
        if self.progress is not None:
            self._shown = loop_time()
            losses = self._losses.values()
            self.progress(
                Progress(
                    rounds=sum(self._round) / self.size,
                    of=self.rounds,
                    time=self.time,
                    commits=self.commits,
                    loss=sum(losses) / len(losses) if losses else None,
                    accuracy=self.averages.accuracy,
                    clock=self.clock,
                    stopping=self.stopping,
                    notice=self.notice,
                )
            )

    # ------------------------------------------------------------------ lost and returning hosts

    async def roll_back(self) -> int:
        """Delete the records of all nodes after the last cut, and return its round.

        No reports may arrive meanwhile.
        """
        if self.working is not None:
            # A cut may wait for its last figures.
            await asyncio.wait([self.working])
        snapshots = self.checkpoints.roll_back()
        self._round = [snapshot.completed for snapshot in snapshots]
        self._recorded, self._figured = list(self._round), list(self._round)
        self._redone, self._last_rows, self.learned, self.states = {}, {}, {}, {}
        self.time = max(snapshot.clock for snapshot in snapshots)
        self._before = {host: dict(totals) for host, totals in self._totals.items()}
        accuracy = self.averages.accuracy
        self.averages, self.moments = self._averages(), self._of_moments()
        self.averages.accuracy = accuracy
        if self.writer is not None:
            clocks, ended = zip(*((snapshot.clock, snapshot.ended) for snapshot in snapshots), strict=True)
            self.writer.truncate(Moment(self._round, clocks, ended, self.prepared.judged().tolist()))
        return max(self._round)

    def begin_again(self, host: int, nodes: Sequence[int]) -> dict[int, Snapshot]:
        """Prepare the return of a host, and return the snapshots of its nodes."""
        self._before[host] = dict(self._totals.get(host, {}))
        snapshots = {node: replace(self.checkpoints.latest_of(node)) for node in nodes}
        for node, snapshot in snapshots.items():
            row = self._last_rows.get(node)
            if row is not None:
                # Bytes that were sent stay counted.
                reported = [*row[_COUNTED], *row[_STEPS]]
                snapshot.counters = [max(pair) for pair in zip(snapshot.counters, reported, strict=True)]
                snapshot.spent = [max(pair) for pair in zip(snapshot.spent, row[_SPENT], strict=True)]
            if self.writer is not None:
                self.writer.forget_records(node, snapshot.clock if snapshot.clock > 0 else -1.0)
                self.writer.forget_observed(node, snapshot.clock if snapshot.clock > 0 else -1.0)
            recorded = self._recorded[node]
            self._redone[node] = set(range(snapshot.completed + 1, recorded + 1))
            if self.writer is not None:
                # The round that was open has figures but no row, and may never have one.
                self.writer.forget("metrics", [(node, r) for r in range(recorded + 1, self._figured[node] + 1)])
            self._figured[node] = min(self._figured[node], recorded)
        self.averages.reopen(host, min(snapshot.completed for snapshot in snapshots.values()))
        return snapshots

    def end_nodes(self, host: int, nodes: Sequence[int]) -> None:
        """End the nodes of a host that does not return, with their last snapshots."""
        self.learned |= {node: self.checkpoints.latest_of(node).learned for node in nodes}
        self.averages.end(host)
        self.moments.end(host)

    def take_learned(self, host: int, node: Any, payload: Payload) -> None:
        """Record the final learned result of a node."""
        node = msgspec.convert(node, int)
        self.check_own(host, [node])
        self._check_learned(host, payload, 1)
        (self.learned[node],) = self.task.unpack(payload, 1)
        self.states[node] = {
            name.removeprefix("state/"): value for name, value in payload.items() if name.startswith("state/")
        }

    def take_end(self, host: int, nodes: Sequence[int], time: Any) -> None:
        """Record that a host has reported everything about its nodes."""
        time = msgspec.convert(time, _Time)
        if not self.learned.keys() >= set(nodes):
            raise RunError(f"Host {host} is done and has not reported the results of all of its nodes.")
        if not self._last_rows:
            self.time = max(self.time, time)
        self.averages.end(host)
        self.moments.end(host)

    # ------------------------------------------------------------------ jobs in the background

    def _do(self, job: Callable[[], Awaitable[None]]) -> None:
        """Queue a job."""
        self._jobs.append(job)
        if self.working is None:
            self.working = self._later(self._work())

    async def _work(self) -> None:
        while self._jobs:
            await self._jobs.popleft()()
        self.working = None

    async def finish(self) -> None:
        """Do all remaining jobs."""
        self.averages.close(math.inf)
        self.moments.close(math.inf)
        if self.working is not None:
            await self.working

    def _write_soon(self, write: Callable[[], None]) -> None:
        """Write a checkpoint after the figures of its rounds."""
        if self.working is None:
            write()
            return

        async def job() -> None:
            write()

        self._do(job)

    # ------------------------------------------------------------------ snapshots

    def _check_learned(self, host: int, payload: Payload, nodes: int) -> None:
        try:
            self.task.check(payload, nodes)
        except RunError as error:
            raise RunError(f"Host {host} reports an impossible learned state: {error}.") from error

    def take_snapshots(self, host: int, payload: Payload) -> None:
        """Take the snapshots of a host's nodes."""
        with self.checkpoints.cadence.at_work():
            taken = self._checked(host, payload)
        if "cut" not in payload:
            self.checkpoints.take(taken)
            return
        cut = self._cut_of(payload)
        if cut is not None:
            cut.add_snapshots(taken)
            self.checkpoints.came += len(taken)

    def _cut_of(self, payload: Payload) -> Cut | None:
        """The open cut, where a host reports of that."""
        cut = self.checkpoints.gathering
        return cut if cut is not None and payload["cut"] == cut.number else None

    def take_mail(self, host: int, payload: Payload) -> None:
        """Messages of an open cut that nodes are still to receive."""
        packed: Any = payload["held"]
        held = msgspec.msgpack.decode(packed, type=Held)
        try:
            with self.checkpoints.cadence.at_work():
                check_held(held, self.size)
        except RunError as error:
            raise RunError(f"Host {host} reports malformed mail: {error}.") from error
        for kept in held.messages:
            self.check_own(host, [kept.receiver if self.owners[kept.receiver] == host else kept.sender])
        self.check_own(host, [receiver for receiver, *_ in held.taken])
        cut = self._cut_of(payload)
        if cut is not None:
            cut.add_mail(held)

    def end_part(self, host: int, payload: Payload) -> None:
        """A host has reported its part of a cut."""
        if self._cut_of(payload) is not None:
            self.checkpoints.end_part(host, full=payload["full"] is True)

    def _checked(self, host: int, payload: Payload) -> dict[int, Snapshot]:
        nodes: Any = payload["nodes"]
        self.check_own(host, nodes)
        self._check_learned(host, payload, len(nodes))
        snapshots = unpack(payload, self.task)
        for snapshot in snapshots:
            check_round(host, snapshot.completed, self.rounds)
            msgspec.convert(snapshot.counters, _Counters)
            msgspec.convert([snapshot.clock, snapshot.busy, *snapshot.spent], list[_Time])
        return dict(zip(nodes, snapshots, strict=True))

    def ask_for_cut(self, hosts: Collection[int]) -> Payload | None:
        """The order to hosts to cut, if a checkpoint with mail is due."""
        return self.checkpoints.ask_for_cut(hosts, self.commits, self._round)

    def begin_cut(self, hosts: Collection[int]) -> Payload:
        """Begin a cut, and return the order to hosts."""
        return self.checkpoints.begin_cut(hosts, self.commits)

    def ask_for_snapshots(self, present: Iterable[int]) -> Payload | None:
        """The request to all hosts for snapshots, if a checkpoint is due, given the present nodes."""
        return self.checkpoints.ask(self._round, present)

    def posted(self) -> list[int]:
        """The number of messages that each node had sent at the commit from which it resumes."""
        latest = self.checkpoints.latest
        return [latest[node].posted if node in latest else 0 for node in range(self.size)]

    def mail_for(self, nodes: Collection[int]) -> Held:
        """The mail of nodes that resume from the last cut."""
        mail = self.checkpoints.mail
        messages = [kept for kept in mail.messages if kept.receiver in nodes]
        return Held(messages, [known for known in mail.taken if known[0] in nodes])

    # ------------------------------------------------------------------ the end

    @property
    def next_round(self) -> int:
        """The first round that no node has begun, as far as is known."""
        return max(self._round) + 1

    @property
    def has_ended(self) -> bool:
        """True if no node has anything left to do."""
        limit = self.prepared.experiment.duration
        return self.checkpoints.all_ended or (limit is not None and self.time >= limit)

    def result(self) -> Any:
        """The learned results of all nodes, for the run."""
        return self.task.result([self.learned.get(node) or self.task.initial(node) for node in range(self.size)])

    def final_states(self) -> list[dict[str, Any]]:
        """The final states of all nodes, if the run keeps them."""
        return [self.states.get(node, {}) for node in range(self.size)] if self.prepared.keeps_states else []
