"""The stage under every engine: everything that happens to nodes and messages, apart from time.

An engine is a stage with a clock, links and computing.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

from covey.messages import wire
from covey.messages.payloads import Payload, not_finite_entry
from covey.parts import rng
from covey.parts.errors import ModelError, ProgramError, WireError
from covey.runtime.columns import Columns
from covey.runtime.disturbances import Disturbances
from covey.runtime.jobs import Job
from covey.runtime.mail import Mail
from covey.runtime.mailbox import Key, Mailbox, Waiter
from covey.runtime.node import Activity, Message, Sending
from covey.runtime.observers import OWN
from covey.runtime.prepared import Prepared
from covey.runtime.recorder import Recorder
from covey.runtime.running_node import SENT, RunningNode
from covey.runtime.sampler import Neighbours, Share
from covey.runtime.snapshots import Snapshot, restore_node, snapshot_of

_UNMEASURED = nullcontext()


def named(tag: str, name: int) -> str:
    """The tag under which messages for a name wait in the mailbox of its node."""
    return f"{tag}@{name}"


_REJECTED = 100
"""The number of wrong messages of a sender that are recorded as events. Further ones are only counted."""


class Stage(ABC):
    """The nodes of a process, and all that happens to them.

    Args:
        prepared: the experiment.
        ids: the nodes of this process.
    """

    batches: ClassVar[bool] = False
    """True if computing is delayed so that it can be done together for many nodes."""
    recorder: Recorder
    limits: wire.Limits = wire.DEFAULT
    """The limits of messages."""
    mail: Mail | None = None
    """The mail for checkpoints, if these hold mail."""

    def __init__(self, prepared: Prepared, ids: Sequence[int]) -> None:
        experiment = prepared.experiment
        self.prepared, self.task = prepared, prepared.task
        self.program, self.network = prepared.program, prepared.network
        self.evaluation = experiment.evaluation
        self.seed, self.rounds, self.size = experiment.seed, experiment.rounds, prepared.network.nodes
        self.ids = frozenset(range(self.size))
        """The ids of all nodes of the network."""
        self.speeds: list[float] = self.network.compute_speeds().tolist()
        """The samples per second of every node."""
        self.refused: Counter[str] = Counter()
        """The number of messages and frames that no node received, by reason."""
        self.disturbances = Disturbances(self, self.seed, self.speeds)
        self._disturbing = self.disturbances.of_messages
        self._loss, self._loss_key = self.network.loss, rng.purpose_key(self.seed, "message loss")
        self._rejected: Counter[int] = Counter()
        self.counts_rounds = prepared.in_step and not prepared.keeps_mail
        """True if all nodes go through the same rounds, so that counters of a round have messages up to that round."""
        self.columns = Columns()
        """The columns of tables."""
        self.here: Mapping[int, RunningNode] = {id: prepared.task.node(self, id) for id in ids}
        """The nodes of this process."""

    # ------------------------------------------------------------------ supplied by an engine: a clock

    @property
    @abstractmethod
    def now(self) -> float:
        """The seconds since the start of the run."""

    @abstractmethod
    async def sleep(self, node: RunningNode, seconds: float) -> None:
        """Wait for some seconds of a node's clock."""

    @abstractmethod
    def waiter(self, missing: set[int] | None, lost: set[int], left: int) -> Waiter:
        """A waiter that resumes the current activity when its messages have arrived."""

    @abstractmethod
    def woken(self, node: RunningNode, key: Key, waiter: Waiter, timeout: float | None) -> Awaitable[None]:
        """Wait until a waiter is resumed or the timeout has passed."""

    @abstractmethod
    def spawn(self, node: RunningNode, coroutine: Coroutine[Any, Any, None]) -> Activity:
        """Start a second activity of a node."""

    @abstractmethod
    def answer(self, node: RunningNode, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start the activity of a message handler, which does not end with the node's program."""

    @abstractmethod
    def answers(self, node: RunningNode) -> bool:
        """True if the current activity is one of a node's message handlers."""

    @abstractmethod
    def start(self, node: RunningNode) -> None:
        """Start the program of a node, from the beginning or from its restored state."""

    @abstractmethod
    def end_activities(self, node: RunningNode, *, main: bool) -> None:
        """End all activities of a node or, after its program has returned, those that end with it."""

    @abstractmethod
    async def never(self) -> None:
        """Wait for ever: the current activity must not continue."""

    # ------------------------------------------------------------------ supplied by an engine: computing

    @abstractmethod
    def compute(self, node: RunningNode, job: Job, seconds: float) -> Awaitable[None]:
        """Do a job, which takes `seconds` of the node."""

    def do_jobs(self) -> None:
        """Do the work that is delayed."""

    def seconds(self, node: RunningNode, samples: float, *, training: bool = False) -> float:
        """The duration of a node's work on some samples that begins now."""
        usual, devices = samples / self.speeds[node.id], self.network.devices
        if devices is None:
            return usual
        return devices.seconds(node.id, usual, self.now, (node.round, node.calls) if training else None)

    def measured(self, node: RunningNode, what: Literal["encoding", "mixing"]) -> AbstractContextManager[None]:
        """In real time, measure the time within the context as time of the node."""
        return _UNMEASURED

    # ------------------------------------------------------------------ supplied by an engine: links

    def mailbox(self, node: RunningNode) -> Mailbox:
        """A mailbox for a node."""
        return Mailbox(ordered=self.network.is_ordered)

    @abstractmethod
    def carry(self, node: RunningNode, receivers: Sequence[int], message: Message) -> Sending:
        """Send a message over the links to some nodes."""

    @abstractmethod
    def carry_disturbed(self, node: RunningNode, receivers: Sequence[int], message: Message) -> Sending:
        """The same as `carry` while faults affect messages. `disturbances.fates` decides about each copy."""

    @abstractmethod
    async def shares(self, node: RunningNode, round: int) -> Sequence[Share]:
        """The virtual nodes that a node acts for in a round, as the peer sampler tells it."""

    @abstractmethod
    def carry_to_names(self, node: RunningNode, copies: Sequence[Message]) -> Sending:
        """Send messages over the links, each to the node that acts under its name."""

    @abstractmethod
    def withdraw(self, node: RunningNode, tag: str | None) -> int:
        """Withdraw the messages of one tag, or all, that have not left a node. Return the number of copies."""

    # ------------------------------------------------------------------ messages

    def post(
        self, node: RunningNode, receivers: Sequence[int], payload: Payload, tag: str, round: int | None
    ) -> Sending:
        """Send a payload to some nodes, or from a virtual node of this one to its neighbours."""
        if not receivers:
            return SENT
        lengths = wire.lengths(payload, tag)
        if lengths.frame > wire.DEFAULT.header:
            self._check_sendable(node, payload, tag, lengths)
        node.count_sent(lengths, len(receivers))
        problem = not_finite_entry(payload)
        if problem is not None:
            node.event("rejected", f"'{problem}' in its message {tag!r} is not finite")
            for receiver in receivers:
                if receiver in self.here:
                    self.here[receiver].mail.drop("not-finite")
            return SENT
        if isinstance(receivers, Neighbours):
            return self._post_under(node, receivers, payload, tag, round, lengths)
        message = Message(node.id, tag, round, payload, lengths.frame)
        message.number = node.posted
        node.posted += 1
        if self._loss > 0:
            # Keyed by the node's count of events, which only grows. Its count of messages falls with a withdrawal.
            node.order += 1
            chance, key, sent = self._loss, rng.mix(self._loss_key, node.order), len(receivers)
            receivers = [r for r in receivers if rng.uniform(key, r) >= chance]
            if len(receivers) < sent:
                self.refuse("lost", sent - len(receivers))
            if not receivers:
                return SENT
        if self._disturbing:
            return self.carry_disturbed(node, receivers, message)
        return self.carry(node, receivers, message)

    def _post_under(
        self, node: RunningNode, peers: Neighbours, payload: Payload, tag: str, round: int | None, lengths: wire.Lengths
    ) -> Sending:
        """Send a payload that can be sent from a virtual node to its neighbours."""
        overlay = self.prepared.overlay
        assert overlay is not None
        hops = overlay.hops(len(peers))
        node.count_hops(lengths, hops)
        copies: list[Message] = []
        for peer in peers:
            message = Message(peers.name, tag, round, payload, lengths.frame)
            message.name, message.key = peer, (named(tag, peer), round)
            message.legs, message.load = overlay.legs, 1.0 + hops / len(peers)
            copies.append(message)
        if self._loss > 0:
            node.order += 1
            chance, key, sent = self._loss, rng.mix(self._loss_key, node.order), len(copies)
            copies = [copy for copy in copies if rng.uniform(key, copy.name or 0) >= chance]
            self.refuse("lost", sent - len(copies))
        return self.carry_to_names(node, copies) if copies else SENT

    def _check_sendable(self, node: RunningNode, payload: Payload, tag: str, lengths: wire.Lengths) -> None:
        try:
            wire.check_sendable(payload, tag, lengths, self.limits)
        except WireError as error:
            raise ProgramError(f"Node {node.id} sends a message {tag!r} that is too long: {error.detail}.") from error

    def delivery(self, node: RunningNode, *, again: bool = False) -> Callable[[Message], None]:
        """A function that delivers an arrived message to a node, and records it if the node is observed.

        Args:
            node: the node.
            again: True if the message had arrived, and had been observed, before the node's commit.
        """
        deliver, mail = node.mail.deliver if again else self._observed(node), self.mail
        if mail is None:
            return deliver

        def keep(message: Message) -> None:
            if mail.comes(node, message, self.now, again=again):
                deliver(message)

        return keep

    def _observed(self, node: RunningNode) -> Callable[[Message], None]:
        observer, deliver = self.prepared.experiment.observer, node.mail.deliver
        if observer is None or node.id not in observer.nodes:
            return deliver
        wants = observer.wants

        def observe(message: Message) -> None:
            if wants(message.tag) and not (node.mail.away and node.held is None):
                self.recorder.observe(self.now, node.id, message)
            deliver(message)

        return observe

    def remember(self, node: RunningNode) -> Snapshot:
        """Take a snapshot of a node, at which it resumes or returns."""
        node.committed = self.snapshot(node)
        if self.mail is not None:
            self.mail.commit(node)
        return node.committed

    def knows(self, senders: Iterable[int]) -> bool:
        """True if all senders are ids of nodes, or greater than these and so names of virtual nodes."""
        if self.prepared.overlay is None:
            return self.ids.issuperset(senders)
        return all(sender in self.ids or sender >= self.size for sender in senders)

    def refuse(self, reason: str, count: int = 1) -> None:
        """Count frames or messages that no node receives."""
        self.refused[reason] += count

    def reject(self, node: RunningNode, sender: int, detail: str, reason: str) -> None:
        """Drop a message that arrived at a node, and record an event unless its sender has had many."""
        node.mail.drop(reason)
        self._rejected[sender] += 1
        if self._rejected[sender] <= _REJECTED:
            node.event("rejected", f"message of {'node' if sender in self.ids else 'the name'} {sender}: {detail}")

    def event(self, node: int, kind: str, detail: str) -> None:
        """Record an event with the current time."""
        self.recorder.event(self.now, node, kind, detail)

    # ------------------------------------------------------------------ rounds

    @abstractmethod
    async def complete(self, node: RunningNode) -> None:
        """Complete the open round of a node, and wait until it may begin the next."""

    def commit(self, node: RunningNode) -> float:
        """Commit the open round of a node. Return the seconds that this takes of the node.

        Raises:
            ProgramError: a checkpoint cannot hold the node's state.
        """
        node.check_commit()
        node.mail.open(node.round + 1)
        node.calls, node.acted = 0, False
        evaluated = self.recorder.commit(node)
        self._record_own(node)
        if not (evaluated and self.evaluation.takes_time):
            return 0.0
        samples = self.task.evaluation_samples()
        seconds = self.seconds(node, samples)
        node.evaluated += samples
        node.busy += seconds
        return seconds

    def _record_own(self, node: RunningNode) -> None:
        """Record the model of an observed node, as a message to itself."""
        observer = self.prepared.experiment.observer
        if observer is None or not observer.models or node.id not in observer.nodes:
            return
        payload = self.task.model_of(node)
        if payload is not None:
            own = Message(node.id, OWN, node.round, payload, wire.size(payload, OWN))
            own.number = node.round
            self.recorder.observe(self.now, node.id, own)

    def snapshot(self, node: RunningNode) -> Snapshot:
        """A snapshot at which a node can resume."""
        return snapshot_of(node)

    def skip_to(self, node: RunningNode, round: int) -> None:
        """Move a node that was away to the round of the others."""
        node.event("caught up", f"from round {node.round} to {round}")
        node.mail.open(round)
        node.behind = False

    def finish(self, node: RunningNode) -> None:
        """Finish a node whose program has returned.

        Raises:
            ProgramError: a checkpoint cannot hold the node's state.
        """
        node.check_commit()
        self.end_activities(node, main=False)
        node.mail.clear(ended=True)
        node.mail.ended = True
        if not node.serves_on:
            self.recorder.ended(node)

    def answered(self, node: RunningNode) -> None:
        """Commit a node whose program has returned and whose handler has answered a message.

        Raises:
            ProgramError: a checkpoint cannot hold the node's state.
        """
        if node.serves_on:
            node.check_commit()
            self.remember(node)

    def end_serving(self) -> None:
        """End the handlers of all nodes, because the programs of all have returned."""
        for node in self.here.values():
            if node.serves_on:
                self.recorder.ended(node)
            node.mail.handlers = {}

    # ------------------------------------------------------------------ nodes that leave and return

    def stop(self, node: RunningNode) -> None:
        """End all activities of a node, and drop its messages."""
        self.end_activities(node, main=True)
        node.held = None
        node.mail.clear()

    def leave(self, node: RunningNode) -> None:
        """Let a node leave. Uncommitted work is lost."""
        node.mail.away = True
        self.withdraw(node, None)
        self.stop(node)
        node.event("left", f"in round {node.round}")

    def come_back(self, node: RunningNode) -> None:
        """Let a node return at its last commit."""
        assert node.committed is not None
        restore_node(node, node.committed, counters=False)
        node.mail.away, node.behind = False, True
        node.event("returned", f"at round {node.round}")
        self.start(node)

    @abstractmethod
    def leave_for_good(self, node: RunningNode) -> None:
        """Handle a node that has left for good."""

    async def drop(self, node: RunningNode, why: str) -> None:
        """Let a node leave for good, on request of one of its activities, which does not continue."""
        node.event("dropped", why)
        self.leave(node)
        node.mail.ended = True
        self.dropped(node)
        died_out = self.task.has_died_out(self)
        if died_out is not None:
            raise ModelError(died_out)
        await self.never()

    @abstractmethod
    def dropped(self, node: RunningNode) -> None:
        """Handle a node that was dropped."""

    def set_speed(self, node: RunningNode, samples_per_second: float) -> None:
        """Change the speed of a node's computing from now on."""
        self.speeds[node.id] = samples_per_second
