"""The stage of one host, in real time: its nodes' programs, links and rounds."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, ParamSpec, TypeVar

from covey.messages import wire
from covey.messages.payloads import Payload, not_finite_entry
from covey.parts.errors import CoveyError, ProgramError, described
from covey.runtime.emulation.host.activity import AwaitedMessages, HostActivity
from covey.runtime.emulation.host.cuts import MARKER, Cuts
from covey.runtime.emulation.host.inbox import Inbox
from covey.runtime.emulation.host.links import Lateness
from covey.runtime.emulation.host.names import WORD, Names
from covey.runtime.emulation.host.reporter import Reporter
from covey.runtime.emulation.host.schedule import Schedule
from covey.runtime.emulation.host.traffic import Traffic
from covey.runtime.emulation.host.trainer import Trainer
from covey.runtime.emulation.transport.connection import Connection, loop_time
from covey.runtime.emulation.transport.handshake import say
from covey.runtime.emulation.transport.peers import Peers
from covey.runtime.jobs import Job
from covey.runtime.mail import MOST, Held, Mail, received
from covey.runtime.mailbox import Key, Waiter
from covey.runtime.node import Activity, Message, Sending
from covey.runtime.prepared import Prepared
from covey.runtime.running_node import RunningNode
from covey.runtime.runs.schema import SPENT
from covey.runtime.sampler import Share
from covey.runtime.snapshots import Snapshot, restore_node
from covey.runtime.stage import Stage

P = ParamSpec("P")
B = TypeVar("B")
_STALL = 5.0
"""The longest wait, in seconds, of a node that has completed a round for its messages to leave."""


class HostStage(Stage):
    """The stage of the nodes of one host.

    Args:
        prepared: the experiment.
        ids: the nodes of this host.
        owners: the host of every node.
        me: the number of this host.
        control: the connection to the launcher.
        most: the limit of bytes in a node's inbox, and at its links.
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
        self.owners, self.me, self.control, self.most = owners, me, control, most
        # A longer frame would not fit into a queue or an inbox.
        self.limits = replace(wire.DEFAULT, frame=min(wire.DEFAULT.frame, most))
        super().__init__(prepared, ids)
        self.nodes = self.here
        self.cuts: Cuts | None = None
        if prepared.keeps_mail:
            self.mail = Mail(self.here, self.size, MOST // (1 + max(owners)))
            self.cuts = Cuts(self, self.mail)
        self.names = None if prepared.overlay is None else Names(self)
        self._measuring: set[int] = set()
        """The nodes with a running measurement."""
        self.trainer = Trainer(self.task.begin_thread)
        self.acting = set(ids)
        """The nodes whose programs may still act."""
        self.recorder: Reporter = Reporter(self, control)
        self.peers: Peers | None = None
        self.over = asyncio.Event()
        """Set when nothing further will happen on this host."""
        self.failure: CoveyError | None = None
        self.training_late = Lateness()
        self.traffic = Traffic(self)
        self._began = 0.0
        self.schedule = Schedule(self)
        self._keep_after: int | None = None
        """The round after which the launcher wants a cut."""
        self._holding = False
        self._park_after: int | None = None
        self._parks_for_good = False
        """True if the run will not resume where nodes park: they are evaluated there."""
        self._released = asyncio.Event()

    def mailbox(self, node: RunningNode) -> Inbox:
        def refused(sender: int, reason: str) -> None:
            self.reject(
                node, sender, "the inbox is full" if reason == "inbox-full" else "its round is too far ahead", reason
            )

        ordered = self.network.is_ordered
        return Inbox(self.most, refused, self.owners, self.me, lambda: node.behind, ordered=ordered)

    # ------------------------------------------------------------------ time

    @property
    def now(self) -> float:
        """The seconds since the start of the run."""
        return loop_time() - self._began

    def begin(
        self, elapsed: float, restored: Mapping[int, Snapshot], held: Held | None = None, posted: Sequence[int] = ()
    ) -> None:
        """Start the programs.

        Args:
            elapsed: the seconds since the start of the run.
            restored: the snapshots at which nodes resume. The others start at the beginning.
            held: the mail for nodes of this host.
            posted: the number of messages that each node of the network had sent at its commit.
        """
        self._began = loop_time() - elapsed
        limit = self.prepared.experiment.duration
        if limit is not None:
            asyncio.get_running_loop().call_later(max(limit - elapsed, 0.0), self._time_is_over)
        for id, node in self.nodes.items():
            if id in restored:
                restore_node(node, restored[id], counters=True)
                node.mail.drops.clear()  # A host counts from zero at each start.
                if restored[id].ended:
                    node.mail.ended, node.mail.away = True, restored[id].away
                    node.committed = restored[id]
                    self.leave_for_good(node)
        self._restore_mail(held or Held([], []), posted or [0] * self.size)
        self.schedule.begin(elapsed)
        for node in self.nodes.values():
            if node.mail.ended:
                continue
            if self.network.churn.has_churn:
                self.schedule.follow_absences(node)
            else:
                self.start(node)

    def _restore_mail(self, held: Held, posted: Sequence[int]) -> None:
        """Let what a checkpoint holds come, before the nodes themselves go on from it."""
        again = [] if self.mail is None else list(self.mail.restore(held, posted))
        for node in self.nodes.values():
            if not node.mail.ended:
                node.committed = self.snapshot(node)
        for node, kept, message in again:
            assert isinstance(node.mail, Inbox)
            if message.round is not None and message.round >= self.rounds:
                self.refuse("wrong-round")
            else:
                with node.mail.unlimited():
                    self.delivery(node, again=kept.counted)(message)

    def _time_is_over(self) -> None:
        self.schedule.cancel()
        for node in self.nodes.values():
            self.stop(node)
        self.acting.clear()
        self.over.set()

    def leave_for_good(self, node: RunningNode) -> None:
        self.acting.discard(node.id)
        if not self.acting:
            self.over.set()

    # ------------------------------------------------------------------ programs

    def start(self, node: RunningNode) -> None:
        if not (node.mail.away and node.held is None):  # An absent node starts when it returns.
            node.main = asyncio.create_task(self._run_program(node))

    async def _run_program(self, node: RunningNode) -> None:
        """Run the program of a node to its end."""
        try:
            await self._awake(node)
            await self.program.run(node)
            self.finish(node)
            committed = self.remember(node)
            if committed.ended:
                self.recorder.snapshots({node.id: committed})
        except Exception as error:
            self.fail(node.failure(self.program, error))
        else:
            self.leave_for_good(node)

    def spawn(self, node: RunningNode, coroutine: Coroutine[Any, Any, None]) -> Activity:
        task = self._task(node, coroutine)
        node.activities = [other for other in node.activities if not other.done()]
        node.activities.append(task)
        return HostActivity(task)

    def answer(self, node: RunningNode, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._task(node, coroutine)
        node.answers = [other for other in node.answers if not other.done()]
        node.answers.append(task)

    def answers(self, node: RunningNode) -> bool:
        return asyncio.current_task() in node.answers

    @property
    def serves(self) -> bool:
        """True if a node has handlers of messages, which work after its program has ended."""
        return any(node.mail.handlers for node in self.nodes.values())

    def _task(self, node: RunningNode, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """The task of a second activity of a node."""
        task = asyncio.create_task(self._watched(node, coroutine))
        task.add_done_callback(lambda _: coroutine.close())  # It may have ended before the coroutine began.
        return task

    async def _watched(self, node: RunningNode, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a second activity of a node."""
        try:
            await coroutine
        except Exception as error:
            self.fail(node.failure(self.program, error))

    def end_activities(self, node: RunningNode, *, main: bool) -> None:
        ending = node.activities
        if main:
            ending = [*ending, *node.answers, *([node.main] if node.main else [])]
            node.answers = []
        for task in ending:
            if task is not asyncio.current_task():
                task.cancel()
        node.activities = []

    @staticmethod
    def is_idle(node: RunningNode) -> bool:
        """True if all activities of a node wait for messages."""
        tasks = [task for task in [node.main, *node.activities] if task is not None and not task.done()]
        return len({id(waiter) for waiter in node.mail.waiters.values()}) >= len(tasks) > 0

    async def _awake(self, node: RunningNode) -> None:
        """Wait until a node is not paused."""
        while node.held is not None:
            awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake(awake: asyncio.Future[None] = awake) -> None:
                # The waiting activity may have been stopped meanwhile.
                if not awake.done():
                    awake.set_result(None)

            node.held.append(wake)
            await awake

    async def sleep(self, node: RunningNode, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._awake(node)

    async def never(self) -> None:
        await asyncio.Event().wait()

    def waiter(self, missing: set[int] | None, lost: set[int], left: int) -> Waiter:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def resume() -> None:
            if not woken.done():
                woken.set_result(None)

        return AwaitedMessages(woken, resume, missing, lost, left)

    def woken(self, node: RunningNode, key: Key, waiter: Waiter, timeout: float | None) -> Awaitable[None]:
        assert isinstance(waiter, AwaitedMessages)
        if timeout is not None:
            mail = node.mail

            def give_up() -> None:
                if node.held is not None:
                    node.held.append(give_up)
                elif mail.waiters.get(key) is waiter:
                    mail.wake(key)

            timer = asyncio.get_running_loop().call_later(timeout, give_up)
            waiter.woken.add_done_callback(lambda _: timer.cancel())
        return waiter.woken

    async def compute(self, node: RunningNode, job: Job, seconds: float) -> None:
        began = self.now
        await self.trainer.do(job)
        left = began + seconds - self.now
        if left > 0:
            await asyncio.sleep(left)
        else:
            self.training_late.add(-left)
        await self._awake(node)

    @contextmanager
    def measured(self, node: RunningNode, what: Literal["encoding", "mixing"]) -> Iterator[None]:
        if node.id in self._measuring:
            yield  # A nested measurement is part of the outer one.
            return
        self._measuring.add(node.id)
        began = loop_time()
        try:
            yield
        finally:
            self._measuring.discard(node.id)
            node.seconds[SPENT.index(what)] += loop_time() - began

    def fail(self, error: Exception) -> None:
        """End the run with an error."""
        if self.failure is None:
            self.failure = error if isinstance(error, CoveyError) else ProgramError(described(error))
        self.over.set()

    def guarded(self, act: Callable[P, B]) -> Callable[P, B]:
        """A function for timers and connections that turns errors of `act` into the failure of the run."""

        def guarded(*arguments: P.args, **named: P.kwargs) -> B:
            try:
                return act(*arguments, **named)
            except Exception as error:
                self.fail(error)
                raise

        return guarded

    def dropped(self, node: RunningNode) -> None:
        self.recorder.snapshots({node.id: self.remember(node)})
        self.leave_for_good(node)

    async def complete(self, node: RunningNode) -> None:
        cost = self.commit(node)
        committed = self.remember(node)
        every = self.prepared.experiment.checkpoint.every
        is_due = node.round % every == 0 if every else node.round == self._keep_after
        if is_due and node.round < self.rounds and self.program.synchronous:
            self.recorder.snapshots({node.id: committed})
        if cost:
            await asyncio.sleep(cost)
        await self._room(node)
        while self._holding or (self._park_after is not None and self._park_after <= node.round < self.rounds):
            if not self._holding:
                if self._parks_for_good:
                    self.recorder.ended(node)
                self.recorder.snapshots({node.id: committed})
                self.leave_for_good(node)
            self._released.clear()
            await self._released.wait()
        await asyncio.sleep(0)
        await self._awake(node)

    async def _room(self, node: RunningNode) -> None:
        """Wait until at most half of the limit is queued at a node's uplink and for other hosts, or for `_STALL`."""
        late = loop_time() + _STALL
        uplink, peers = self.traffic.uplinks[node.id], self.peers
        while uplink.held > self.most // 2 or (peers is not None and peers.is_crowded):
            if loop_time() >= late:
                return
            await asyncio.sleep(0.01)

    # ------------------------------------------------------------------ checkpoints by time

    def keep(self, round: int | None) -> None:
        """Send snapshots of nodes after they have completed a round or, with None, now."""
        nodes = [node for node in self.nodes.values() if not node.mail.ended or node.serves_on]
        if round is not None and any(node.round > round for node in nodes if not node.serves_on):
            self.say("missed", {"round": round})
            return
        self._keep_after = round
        committed = {node.id: node.committed for node in nodes if round in (None, node.round)}
        self.recorder.snapshots({id: snapshot for id, snapshot in committed.items() if snapshot is not None})

    # ------------------------------------------------------------------ stopping

    @property
    def stops(self) -> bool:
        """True if nodes begin no further rounds, or only some."""
        return self._holding or self._park_after is not None

    def hold(self) -> int:
        """Let no node begin a further round, and return the last round of any node."""
        self._holding = True
        return max((self.nodes[id].round + 1 for id in self.acting), default=0)

    def park_after(self, round: int, *, for_good: bool) -> None:
        """Let all nodes stop after a round.

        Args:
            round: the round.
            for_good: True if the run ends there, so that nodes are evaluated.
        """
        self._holding, self._park_after, self._parks_for_good = False, round, for_good
        self._released.set()

    def stop_now(self, *, for_good: bool) -> None:
        """End all programs, and send snapshots. `for_good` is that of `park_after`."""
        self.schedule.cancel()
        for node in self.nodes.values():
            if not node.mail.ended:
                self.stop(node)
                if for_good:
                    self.recorder.ended(node)
        committed = {id: node.committed for id, node in self.nodes.items() if node.committed is not None}
        self.recorder.snapshots(committed)
        self.acting.clear()
        self.over.set()

    async def close(self, *, in_peace: bool) -> None:
        """End all activities.

        Args:
            in_peace: True if the run is over, so that the last messages must still be sent.
        """
        self.schedule.cancel()
        for node in self.nodes.values():
            self.stop(node)
        self.trainer.close()
        if self.peers is not None:
            await self.peers.close(in_peace=in_peace)

    # ------------------------------------------------------------------ messages

    def carry(self, node: RunningNode, receivers: Sequence[int], message: Message) -> Sending:
        return self.traffic.carry(node, [(receiver, 1.0) for receiver in receivers], message)

    def carry_disturbed(self, node: RunningNode, receivers: Sequence[int], message: Message) -> Sending:
        return self.traffic.carry(node, self.disturbances.fates(node, receivers), message)

    async def shares(self, node: RunningNode, round: int) -> Sequence[Share]:
        assert self.names is not None
        return await self.names.shares(node.id, round)

    def carry_to_names(self, node: RunningNode, copies: Sequence[Message]) -> Sending:
        return self.traffic.carry_to_names(node, copies)

    def withdraw(self, node: RunningNode, tag: str | None) -> int:
        return self.traffic.withdraw(node, tag)

    def deliver(self, frame: wire.Frame) -> None:
        """Deliver a message from another host."""
        if self.cuts is not None and not self.cuts.lets_in(frame):
            return
        problem = not_finite_entry(frame.payload)
        if problem is not None:
            self.reject(self.nodes[frame.receiver], frame.sender, f"'{problem}' is not finite", "not-finite")
            return
        message = received(frame)
        if self.mail is not None and self.cuts is not None:
            self.mail.post([frame.receiver], message)
            self.cuts.note(frame.receiver, message)
        self.traffic.arrive(frame.receiver, message)

    def take_frame(self, host: int, frame: wire.Frame) -> None:
        """Take a frame of another host for this host itself."""
        if self.names is not None and frame.tag == WORD:
            self.names.take_word(host, frame.payload)
        elif self.cuts is None or frame.tag != MARKER:
            self.refuse("unknown-word")
        else:
            self.cuts.mark(host, frame.payload)

    def break_from(self, host: int) -> None:
        """Report a connection to another host that ended unexpectedly."""
        self.say("broken", {"host": host})
        self.lose(host)

    def lose(self, host: int) -> None:
        """Give up the open cut: messages of another host may be lost."""
        if self.cuts is not None:
            self.cuts.lose(host)

    def say(self, tag: str, payload: Payload) -> None:
        """Send a frame to the launcher."""
        say(self.control, tag, payload)
