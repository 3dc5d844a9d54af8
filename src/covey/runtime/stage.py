"""The stage under every engine: what happens to nodes and their messages, apart from time.

An engine is a stage with a clock, links and a place to compute.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

from covey.messages import wire
from covey.messages.payloads import Payload
from covey.parts import rng
from covey.parts.errors import ModelError, ProgramError, WireError
from covey.runtime.disturbances import Disturbances
from covey.runtime.jobs import Job
from covey.runtime.mail import Mail
from covey.runtime.mailbox import Key, Mailbox, Waiter
from covey.runtime.node import Activity, Message, Sending
from covey.runtime.prepared import Prepared
from covey.runtime.recorder import Recorder
from covey.runtime.running_node import SENT, RunningNode, not_finite_entry
from covey.runtime.snapshots import Snapshot

_UNMEASURED = nullcontext()
_REJECTED = 100
"""How many wrong messages of a sender are reported one by one; then they are only counted."""


class Stage(ABC):
    """Nodes that run.

    Args:
        prepared: the experiment.
        ids: which of its nodes are here.
    """

    batches: ClassVar[bool] = False
    """Whether what nodes need is computed as late as possible, with what others need."""
    recorder: Recorder
    limits: wire.Limits = wire.DEFAULT
    """What a message may be."""
    mail: Mail | None = None
    """Where checkpoints hold the mail of nodes."""

    def __init__(self, prepared: Prepared, ids: Sequence[int]) -> None:
        experiment = prepared.experiment
        self.prepared, self.task = prepared, prepared.task
        self.program, self.network = prepared.program, prepared.network
        self.evaluation = experiment.evaluation
        self.seed, self.rounds, self.size = experiment.seed, experiment.rounds, prepared.network.nodes
        self.speeds: list[float] = self.network.compute_speeds().tolist()
        """Samples per second of every node."""
        self.refused: Counter[str] = Counter()
        """Messages and frames that came to no node, by reason."""
        self.disturbances = Disturbances(self, self.seed, self.speeds)
        self._disturbing = self.disturbances.of_messages
        self._loss, self._loss_key = self.network.loss, rng.purpose_key(self.seed, "message loss")
        self._rejected: Counter[int] = Counter()
        self.columns: dict[tuple[str, str], type] = {}
        """Of which type the columns are of the tables that nodes here add rows to."""
        self.here: Mapping[int, RunningNode] = {id: prepared.task.node(self, id) for id in ids}
        """The nodes of this process."""

    # ------------------------------------------------------------------ what an engine brings: a clock

    @property
    @abstractmethod
    def now(self) -> float:
        """Seconds since the run began."""

    @abstractmethod
    async def sleep(self, node: RunningNode, seconds: float) -> None:
        """Let a node's time pass."""

    @abstractmethod
    def waiter(self, missing: set[int] | None, lost: set[int], left: int) -> Waiter:
        """What resumes the current activity when its messages are here."""

    @abstractmethod
    def woken(self, node: RunningNode, key: Key, waiter: Waiter, timeout: float | None) -> Awaitable[None]:
        """Until a waiter is resumed, or in vain."""

    @abstractmethod
    def spawn(self, node: RunningNode, coroutine: Coroutine[Any, Any, None]) -> Activity:
        """Begin a second activity of a node."""

    @abstractmethod
    def answer(self, node: RunningNode, coroutine: Coroutine[Any, Any, None]) -> None:
        """Begin what answers a message: an activity that does not end with the node's program."""

    @abstractmethod
    def start(self, node: RunningNode) -> None:
        """Begin the program of a node, from the start or from what was restored."""

    @abstractmethod
    def end_activities(self, node: RunningNode, *, main: bool) -> None:
        """End what a node does: all of it, or what ends with its program, which has returned."""

    @abstractmethod
    async def never(self) -> None:
        """What the current activity awaits that is not to go on."""

    # ------------------------------------------------------------------ what an engine brings: computing

    @abstractmethod
    def compute(self, node: RunningNode, job: Job, seconds: float) -> Awaitable[None]:
        """Do a job of a node, which takes it so long."""

    def measured(self, node: RunningNode, what: Literal["encoding", "mixing"]) -> AbstractContextManager[None]:
        """Counts what is done within it as time that a node spends, where time is real."""
        return _UNMEASURED

    # ------------------------------------------------------------------ what an engine brings: links

    def mailbox(self, node: RunningNode) -> Mailbox:
        """Where the messages of a node lie."""
        return Mailbox(ordered=self.network.is_ordered)

    @abstractmethod
    def carry(self, node: RunningNode, receivers: Sequence[int], message: Message) -> Sending:
        """Put a message onto the links to some nodes."""

    @abstractmethod
    def carry_disturbed(self, node: RunningNode, receivers: Sequence[int], message: Message) -> Sending:
        """The same while faults strike the links: `disturbances.fates` says what becomes of each copy."""

    @abstractmethod
    def withdraw(self, node: RunningNode, tag: str | None) -> int:
        """Take back what has not left a node, of one tag or of all; how many copies."""

    # ------------------------------------------------------------------ messages

    def post(
        self, node: RunningNode, receivers: Sequence[int], payload: Payload, tag: str, round: int | None
    ) -> Sending:
        """Send a payload to some nodes."""
        if not receivers:
            return SENT
        lengths = wire.lengths(payload, tag)
        if lengths.frame > wire.DEFAULT.header:
            self._check_sendable(node, payload, tag, lengths)
        message = Message(node.id, tag, round, payload, lengths.frame)
        message.number = node.posted
        node.posted += 1
        node.count_sent(lengths, len(receivers))
        problem = not_finite_entry(payload)
        if problem is not None:
            node.event("rejected", f"'{problem}' in its message {tag!r} is not finite")
            for receiver in receivers:
                if receiver in self.here:
                    self.here[receiver].mail.drop("not-finite")
            return SENT
        if self._loss > 0:
            # Drawn by the node's count of events, which only grows: that of its messages falls when some are withdrawn.
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

    def _check_sendable(self, node: RunningNode, payload: Payload, tag: str, lengths: wire.Lengths) -> None:
        try:
            wire.check_sendable(payload, tag, lengths, self.limits)
        except WireError as error:
            raise ProgramError(f"Node {node.id} sends a message {tag!r} that is too long: {error.detail}.") from error

    def delivery(self, node: RunningNode, *, again: bool = False) -> Callable[[Message], None]:
        """What gives a node a message that has arrived; where the node is observed, that is kept.

        Args:
            node: the node.
            again: whether the message had arrived before, and had been observed, when the node committed.
        """
        deliver, mail = node.mail.deliver if again else self._observed(node), self.mail
        if mail is None:
            return deliver

        def keep(message: Message) -> None:
            if mail.comes(node, message, self.now):
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
        """Let a node go on from here after a resume, or when it comes back."""
        node.committed = self.snapshot(node)
        if self.mail is not None:
            self.mail.commit(node)
        return node.committed

    def refuse(self, reason: str, count: int = 1) -> None:
        """Count frames or messages that come to no node."""
        self.refused[reason] += count

    def reject(self, node: RunningNode, sender: int, detail: str, reason: str) -> None:
        """Drop a message that came to a node, and say so unless its sender was named often enough."""
        node.mail.drop(reason)
        self._rejected[sender] += 1
        if self._rejected[sender] <= _REJECTED:
            node.event("rejected", f"message of node {sender}: {detail}")

    def event(self, node: int, kind: str, detail: str) -> None:
        """Record something that happened now."""
        self.recorder.event(self.now, node, kind, detail)

    # ------------------------------------------------------------------ rounds

    @abstractmethod
    async def complete(self, node: RunningNode) -> None:
        """The open round of a node is over; until it may begin the next."""

    def commit(self, node: RunningNode) -> float:
        """Record the open round of a node, which is over; how many seconds that costs it.

        Raises:
            ProgramError: the node's state holds what no checkpoint can.
        """
        node.check_commit()
        node.mail.open(node.round + 1)
        node.calls = 0
        evaluated = self.recorder.commit(node)
        if not (evaluated and self.evaluation.takes_time):
            return 0.0
        samples = self.task.evaluation_samples()
        node.evaluated += samples
        return samples / self.speeds[node.id]

    def snapshot(self, node: RunningNode) -> Snapshot:
        """What a node could go on from now."""
        return node.snapshot()

    def skip_to(self, node: RunningNode, round: int) -> None:
        """A node that was away goes on where the others are."""
        node.event("caught up", f"from round {node.round} to {round}")
        node.mail.open(round)
        node.behind = False

    def finish(self, node: RunningNode) -> None:
        """The program of a node has returned.

        Raises:
            ProgramError: the node's state holds what no checkpoint can.
        """
        node.check_commit()
        self.end_activities(node, main=False)
        node.mail.clear(ended=True)
        node.mail.ended = True
        self.recorder.ended(node)

    # ------------------------------------------------------------------ nodes that leave, and come back

    def stop(self, node: RunningNode) -> None:
        """End all that a node does, and forget what has arrived."""
        self.end_activities(node, main=True)
        node.held = None
        node.mail.clear()

    def leave(self, node: RunningNode) -> None:
        """A node goes away; what it has not committed is lost."""
        node.mail.away = True
        self.withdraw(node, None)
        self.stop(node)
        node.event("left", f"in round {node.round}")

    def come_back(self, node: RunningNode) -> None:
        """A node that was away goes on from its last commit."""
        assert node.committed is not None
        node.restore(node.committed, counters=False)
        node.mail.away, node.behind = False, True
        node.event("returned", f"at round {node.round}")
        self.start(node)

    @abstractmethod
    def leave_for_good(self, node: RunningNode) -> None:
        """Nothing will happen at a node any more."""

    async def drop(self, node: RunningNode, why: str) -> None:
        """Let a node leave for good, of whose activities one asks for it, which does not go on."""
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
        """A node has been dropped."""

    def set_speed(self, node: RunningNode, samples_per_second: float) -> None:
        """Let what a node computes from now on take another time."""
        self.speeds[node.id] = samples_per_second
