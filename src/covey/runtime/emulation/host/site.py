"""The nodes of one host, in real time: their programs, their links, their rounds."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor

from covey.learning.dataset import Split
from covey.messages import wire
from covey.messages.ownership import KEPT
from covey.network.faults import Strike, strikes
from covey.parts import rng
from covey.parts.errors import CoveyError, ModelError, ProgramError, told
from covey.runtime.disturbances import Disturbances
from covey.runtime.emulation.host.inbox import Inbox
from covey.runtime.emulation.host.links import Copy, Departure, Downlink, Lateness, SharedUplink, Throughput, Uplink
from covey.runtime.emulation.host.node import EmulatedNode
from covey.runtime.emulation.host.reporter import Reporter
from covey.runtime.emulation.host.trainer import Trainer
from covey.runtime.emulation.transport.connection import Connection, Corrupted, Parts, loop_time, readdressed
from covey.runtime.emulation.transport.handshake import say
from covey.runtime.emulation.transport.peers import Peers
from covey.runtime.node import LocalData, Message, NodeId, Payload, Sending
from covey.runtime.participant import SENT, not_finite_entry
from covey.runtime.prepared import Prepared
from covey.runtime.snapshots import Snapshot

_STALL = 5.0
"""How long a node that has completed a round waits until what it sent is on its way."""

_REJECTED = 100
"""How many wrong messages of a sender are reported one by one; then they are only counted."""


class Site:
    """The nodes of one host.

    Args:
        prepared: the experiment.
        ids: which nodes are here.
        owners: the host of every node.
        me: the number of this host.
        control: the connection to the launcher.
        most: how many bytes may wait in a node's inbox, and at its links.
    """

    def __init__(
        self,
        prepared: Prepared,
        ids: Sequence[int],
        owners: Sequence[int],
        me: int,
        control: Connection,
        most: int,
    ) -> None:
        experiment = prepared.experiment
        self.prepared, self.owners, self.me, self.control = prepared, owners, me, control
        self.program, self.network, self.learner = prepared.program, prepared.network, prepared.learner
        self.evaluation = experiment.evaluation
        self.seed, self.rounds, self.size = experiment.seed, experiment.rounds, prepared.network.nodes
        self.speeds: list[float] = self.network.compute_speeds().tolist()
        self._most = most
        self.refused: Counter[str] = Counter()
        """Frames and messages that were dropped, by reason."""
        self._rejected: Counter[int] = Counter()
        self.disturbances: Disturbances[EmulatedNode] = Disturbances(self, self.seed, self.speeds)
        self._disturbing = self.disturbances.of_messages
        self.trainer = Trainer(self.learner)
        self.nodes: dict[int, EmulatedNode] = {id: self._node(id) for id in ids}
        self.acting = set(ids)
        """Nodes whose programs may still do something."""
        self.reporter = Reporter(self, control)
        self.peers: Peers | None = None
        self.over = asyncio.Event()
        """Set when nothing will happen here any more."""
        self.failure: CoveyError | None = None
        self.training_late, self.sending_late, self.receiving_late = Lateness(), Lateness(), Lateness()
        self.carried = Throughput()
        """By the uplinks of all nodes here."""
        ups, downs = self.network.uplink_rates(), self.network.downlink_rates()
        self._up = [float("inf")] * self.size if ups is None else ups.tolist()
        self.uplinks = {id: self._uplink(node) for id, node in self.nodes.items()}
        self.downlinks = {
            id: Downlink(
                float("inf") if downs is None else float(downs[id]),
                self.nodes[id].mail.deliver,
                self.receiving_late,
                most,
                self.refuse,
            )
            for id in ids
        }
        self._began = 0.0
        self._loss_key = rng.purpose_key(self.seed, "message loss")
        self._splits: dict[tuple[str, int | None], Split] = {}
        self._absences: set[asyncio.Task[None]] = set()
        self._keep_after: int | None = None
        """The round of which the launcher wants a cut."""
        self._holding = False
        self._park_after: int | None = None
        self._released = asyncio.Event()

    def _node(self, id: int) -> EmulatedNode:
        holder = self.prepared.holders.get(id)
        data = LocalData(0) if holder is None else self.learner.local_data(holder)
        node = EmulatedNode(self, id, self.prepared.roles[id], holder, data, self.learner.initial(id))

        def refused(sender: int, reason: str) -> None:
            self.reject(id, sender, "there is no room for it" if reason == "inbox-full" else "it is far ahead", reason)

        ordered = self.network.is_ordered
        node.mail = Inbox(self._most, refused, self.owners, self.me, lambda: node.behind, ordered=ordered)
        return node

    def _uplink(self, node: EmulatedNode) -> Uplink:
        def withdrawn(message: Message) -> None:
            node.count_sent(wire.lengths(message.shared, message.tag), -1)

        kind = SharedUplink if self.network.queue == "fair" else Uplink
        rate = self._up[node.id]
        return kind(rate, self._emit, withdrawn, self.sending_late, self.carried, self._most, self.refuse)

    def refuse(self, reason: str) -> None:
        """Count a frame or message that was dropped."""
        self.refused[reason] += 1

    # ------------------------------------------------------------------ time

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return loop_time() - self._began

    async def stretch(self, began: float, seconds: float) -> None:
        """Wait until something that began at a time has taken so long."""
        left = began + seconds - self.now
        if left > 0:
            await asyncio.sleep(left)
        else:
            self.training_late.add(-left)

    def begin(self, elapsed: float, restored: Mapping[int, Snapshot]) -> None:
        """Let the programs begin.

        Args:
            elapsed: how many seconds ago the run began.
            restored: what nodes go on from; the others begin anew.
        """
        self._began = loop_time() - elapsed
        limit = self.prepared.experiment.duration
        if limit is not None:
            asyncio.get_running_loop().call_later(max(limit - elapsed, 0.0), self._time_is_over)
        for id, node in self.nodes.items():
            if id in restored:
                node.restore(restored[id], counters=True)
                node.mail.drops.clear()  # A host counts from zero each time that it begins.
                if restored[id].ended:
                    node.mail.ended, node.mail.away = True, restored[id].away
                    self.leave_for_good(node)
                    continue
            node.committed = node.snapshot()
        self._begin_strikes(elapsed)
        for node in self.nodes.values():
            if node.mail.ended:
                continue
            if self.network.churn.has_churn:
                self._later(self._follow_absences(node))
            else:
                node.start()

    def _later(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Let absences and faults take their course, while the run goes on here."""

        def on_end(task: asyncio.Task[None]) -> None:
            self._absences.discard(task)
            error = None if task.cancelled() else task.exception()
            if isinstance(error, Exception):
                self.fail(error)

        task = asyncio.create_task(coroutine)
        self._absences.add(task)
        task.add_done_callback(on_end)

    def _stay(self) -> None:
        """Let no node come or go any more."""
        for task in list(self._absences):
            task.cancel()

    def _time_is_over(self) -> None:
        self._stay()
        for node in self.nodes.values():
            node.stop()
        self.acting.clear()
        self.over.set()

    async def _until(self, time: float) -> None:
        await asyncio.sleep(max(time - self.now, 0.0))

    async def _follow_absences(self, node: EmulatedNode) -> None:
        present = False
        for start, end in self.network.churn.absences(node.id, self.prepared.setting):
            if end <= self.now:
                continue
            if start > self.now and not present:
                node.start()
                present = True
            await self._until(start)
            if node.mail.ended:
                return
            self.disturbances.leave(node, for_good=end == float("inf"))
            present = False
            if end == float("inf"):
                return
            await self._until(end)
            self.disturbances.come_back(node)
            present = True
        if not present:
            node.start()

    def _begin_strikes(self, elapsed: float) -> None:
        """Begin the strikes that are under way after so many seconds, and let the others follow."""
        upcoming = strikes(self.prepared.experiment.faults, self.prepared.setting)
        for strike in upcoming:
            if strike.start > elapsed:
                self._later(self._follow_strikes(strike, upcoming))
                return
            if strike.end > elapsed:
                self._strike(strike)

    async def _follow_strikes(self, first: Strike, others: Iterator[Strike]) -> None:
        for strike in chain([first], others):
            await self._until(strike.start)
            self._strike(strike)

    def _strike(self, strike: Strike) -> None:
        # Where the process of a host is struck, the launcher sees to it.
        if not strike.fault.stops_a_host:
            self.disturbances.begin(strike, self.nodes.values())
            if strike.end < float("inf"):
                self._later(self._end_strike(strike))

    async def _end_strike(self, strike: Strike) -> None:
        await self._until(strike.end)
        self.disturbances.end(strike)

    def leave(self, node: EmulatedNode) -> None:
        """A node goes away; what it has not committed is lost."""
        node.mail.away = True
        self.uplinks[node.id].withdraw(None)
        node.stop()
        node.event("left", f"in round {node.round}")

    def come_back(self, node: EmulatedNode) -> None:
        """A node that was away goes on from its last commit."""
        assert node.committed is not None
        node.restore(node.committed, counters=False)
        node.mail.away, node.behind = False, True
        node.event("returned", f"at round {node.round}")
        node.start()

    def leave_for_good(self, node: EmulatedNode) -> None:
        """Nothing will happen at a node any more."""
        self.acting.discard(node.id)
        if not self.acting:
            self.over.set()

    def set_speed(self, node: EmulatedNode, samples_per_second: float) -> None:
        """Let what a node trains from now on take another time."""
        self.speeds[node.id] = samples_per_second

    # ------------------------------------------------------------------ programs

    async def run_program(self, node: EmulatedNode) -> None:
        """Run the program of a node to its end."""
        try:
            await self.program.run(node)
            node.check_commit()
            node.finish()
            node.committed = node.snapshot()
            self.reporter.ended(node)
            self.reporter.snapshots({node.id: node.committed})
        except Exception as error:
            self.fail(node.failure(self.program, error))
        else:
            self.leave_for_good(node)

    async def watched(self, node: EmulatedNode, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a second activity of a node."""
        try:
            await coroutine
        except Exception as error:
            self.fail(node.failure(self.program, error))

    def fail(self, error: Exception) -> None:
        """End the run with an error."""
        if self.failure is None:
            self.failure = error if isinstance(error, CoveyError) else ProgramError(told(error))
        self.over.set()

    async def not_finite(self, node: EmulatedNode) -> None:
        """A node's model is no longer finite: the run ends, or the node does."""
        if self.prepared.experiment.task.non_finite == "stop":
            raise ModelError(
                f"The model of node {node.id} is no longer finite after its training in round {node.round}. "
                f'Lower the learning rate, or set non_finite = "drop" in the task to go on without such nodes.'
            )
        node.event("dropped", f"its model is no longer finite in round {node.round}")
        self.leave(node)
        node.mail.ended = True
        self.reporter.snapshots({node.id: node.snapshot()})
        self.leave_for_good(node)
        await asyncio.Event().wait()

    async def commit(self, node: EmulatedNode) -> None:
        """The open round of a node is over.

        Raises:
            ProgramError: the node's state holds what no checkpoint can.
        """
        node.check_commit()
        node.mail.open(node.round + 1)
        node.calls = 0
        evaluated = self.reporter.commit(node)
        node.committed = node.snapshot()
        every = self.prepared.experiment.checkpoint.every
        if (node.round % every == 0 if every else node.round == self._keep_after) and node.round < self.rounds:
            self.reporter.snapshots({node.id: node.committed})
        if evaluated and self.evaluation.takes_time:
            samples = len(self.split("test"))
            node.evaluated += samples
            await asyncio.sleep(samples / self.speeds[node.id])
        await self._room(node)
        while self._holding or (self._park_after is not None and self._park_after <= node.round < self.rounds):
            if not self._holding:
                self.reporter.snapshots({node.id: node.committed})
                self.leave_for_good(node)
            self._released.clear()
            await self._released.wait()
        await asyncio.sleep(0)

    async def _room(self, node: EmulatedNode) -> None:
        """Until no more than half of what may wait at a node's uplink and for other hosts does so, or for so long."""
        late = loop_time() + _STALL
        uplink, peers = self.uplinks[node.id], self.peers
        while uplink.held > self._most // 2 or (peers is not None and peers.is_crowded):
            if loop_time() >= late:
                return
            await asyncio.sleep(0.01)

    def skip_to(self, node: EmulatedNode, round: int) -> None:
        """A node that was away goes on where the others are."""
        node.event("caught up", f"from round {node.round} to {round}")
        node.mail.open(round)
        node.behind = False

    def split(self, name: str, holder: int | None = None) -> Split:
        """The data of an evaluation, remembered."""
        key = (name, None if name == "test" else holder)
        if key not in self._splits:
            samples = self.evaluation.samples if name == "test" else None
            self._splits[key] = self.learner.split(name, holder, samples)
        return self._splits[key]

    # ------------------------------------------------------------------ checkpoints that are due by time

    def keep(self, round: int | None) -> None:
        """Send what nodes can go on from: once they have completed a round, or where that is None, as they are."""
        nodes = [node for node in self.nodes.values() if not node.mail.ended]
        if round is not None and any(node.round > round for node in nodes):
            self.say("missed", {"round": round})
            return
        self._keep_after = round
        committed = {node.id: node.committed for node in nodes if round in (None, node.round)}
        self.reporter.snapshots({id: snapshot for id, snapshot in committed.items() if snapshot is not None})

    # ------------------------------------------------------------------ stopping

    def hold(self) -> int:
        """Let no node begin a further round; the last round that one here is in or has completed."""
        self._holding = True
        return max((self.nodes[id].round + 1 for id in self.acting), default=0)

    def park_after(self, round: int) -> None:
        """Let all nodes complete a round, and none a further one."""
        self._holding, self._park_after = False, round
        self._released.set()

    def stop_now(self) -> None:
        """End all programs and send what they could go on from."""
        self._stay()
        for node in self.nodes.values():
            if not node.mail.ended:
                node.stop()
        committed = {id: node.committed for id, node in self.nodes.items() if node.committed is not None}
        self.reporter.snapshots(committed)
        self.acting.clear()
        self.over.set()

    async def close(self, *, in_peace: bool) -> None:
        """End what is still going on.

        Args:
            in_peace: whether the run is over, so that the last messages are still to be sent.
        """
        self._stay()
        for node in self.nodes.values():
            node.stop()
        self.trainer.close()
        if self.peers is not None:
            await self.peers.close(in_peace=in_peace)

    # ------------------------------------------------------------------ messages

    def post(
        self, node: EmulatedNode, receivers: Sequence[int], payload: Payload, tag: str, round: int | None
    ) -> Sending:
        """Send a payload to some nodes."""
        if not receivers:
            return SENT
        lengths = wire.lengths(payload, tag)
        message = Message(node.id, tag, round, payload, lengths.frame)
        node.count_sent(lengths, len(receivers))
        problem = not_finite_entry(payload)
        if problem is not None:
            node.event("rejected", f"'{problem}' in its message {tag!r} is not finite")
            return SENT
        if self.network.loss > 0:
            node.order += 1
            key = rng.mix(self._loss_key, node.order)
            arriving = [r for r in receivers if rng.uniform(key, r) >= self.network.loss]
            for _ in range(len(receivers) - len(arriving)):
                self.refuse("lost")
            receivers = arriving
        uplink, between = self.uplinks[node.id], self.network.latency.between
        departure = Departure(uplink)
        fates = self.disturbances.fates(node, receivers) if self._disturbing else ((r, 1.0) for r in receivers)
        for receiver, fate in fates:
            garbled = fate == "corrupt" and self.owners[receiver] != self.me
            if isinstance(fate, str) and not garbled:
                # Within a host there are no bytes that could change.
                self.refuse(fate)
                continue
            extra = 1.0 if isinstance(fate, str) else fate
            uplink.add(Copy(message, receiver, between(node.id, receiver), departure, extra, garbled))
        return departure

    def _emit(self, copy: Copy) -> None:
        """A copy's time on the way is over: it goes onto a socket, or to a node of this host."""
        message, receiver = copy.message, copy.receiver
        owner = self.owners[receiver]
        if owner == self.me:
            self.downlinks[receiver].add(message, self._up[message.sender])
            return
        departure = copy.sending

        def frame(sequence: int) -> Parts:
            if departure.frame is None:
                with self.nodes[message.sender].measured("encoding"):
                    departure.frame = wire.encode_parts(
                        message.shared, tag=message.tag, sender=message.sender, round=message.round
                    )
            addressed = readdressed(departure.frame, receiver, sequence)
            return Corrupted(addressed, rng.mix(self._loss_key, receiver, sequence)) if copy.garbled else addressed

        assert self.peers is not None
        self.peers.send(owner, message.size, frame)

    def deliver(self, frame: wire.Frame) -> None:
        """A message has come from another host."""
        problem = not_finite_entry(frame.payload)
        if problem is not None:
            self.reject(frame.receiver, frame.sender, f"'{problem}' is not finite", "not-finite")
            return
        for value in frame.payload.values():
            if isinstance(value, Tensor):
                setattr(value, KEPT, True)  # Nobody else has it.
        message = Message(NodeId(frame.sender), frame.tag, frame.round, frame.payload, frame.size)
        self.downlinks[frame.receiver].add(message, self._up[frame.sender])

    def reject(self, receiver: int, sender: int, detail: str, reason: str) -> None:
        """Drop a message of a node, and say so unless that node was named often enough."""
        self.refuse(reason)
        self._rejected[sender] += 1
        if self._rejected[sender] <= _REJECTED:
            self.reporter.event(self.now, receiver, "rejected", f"message of node {sender}: {detail}")

    def say(self, tag: str, payload: Payload) -> None:
        """Tell the launcher something."""
        say(self.control, tag, payload)
