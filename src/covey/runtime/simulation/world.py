"""The simulated world: virtual time and its events.

Events are on one agenda, by time. Within a moment their `order` decides. It is unique, made of the node that caused the
event and a count of that node, so that ties are broken independently of other events. When the first completion of a
training is due, all trainings that have been submitted are computed together: their results depend on nothing that can
still change.
"""

import gc
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from covey.parts.errors import ProgramError
from covey.runtime.experiment import Progress
from covey.runtime.jobs import Job, Worker
from covey.runtime.mailbox import Key, Waiter
from covey.runtime.node import Message, Sending
from covey.runtime.prepared import Prepared
from covey.runtime.running_node import RunningNode
from covey.runtime.runs import RunWriter
from covey.runtime.runs.schema import NETWORK, STOPPED
from covey.runtime.sampler import Sampler, Share, simulated_secret
from covey.runtime.simulation.activity import SimulatedActivity, suspended
from covey.runtime.simulation.agenda import Agenda
from covey.runtime.simulation.checkpoints import Checkpoints
from covey.runtime.simulation.links import Fair, Links, Queued, Unlimited, several
from covey.runtime.simulation.recorder import SimulationRecorder
from covey.runtime.simulation.schedule import Schedule
from covey.runtime.snapshots import Snapshot, snapshot_of
from covey.runtime.stage import Stage

_MOST_WAITING = 4096
"""The greatest number of jobs that wait until their results are needed."""
_ABSENCES_IN_VAIN = 100
"""Churn keeps virtual time going for ever. All nodes are stuck when each has left this often without a round."""


class World(Stage):
    """A network of simulated nodes.

    Args:
        prepared: the experiment.
        writer: records the run; None records nothing.
        progress: called from time to time with the progress of the run.
    """

    batches: ClassVar[bool] = True
    now: float = 0.0
    """The virtual time, in seconds."""

    def __init__(
        self, prepared: Prepared, writer: RunWriter | None = None, progress: Callable[[Progress], None] | None = None
    ) -> None:
        experiment = prepared.experiment
        self.now = 0.0
        super().__init__(prepared, range(prepared.network.nodes))
        self.nodes = list(self.here.values())
        overlay = prepared.overlay
        self.sampler = None if overlay is None else Sampler(overlay, self.size, simulated_secret(self.seed))
        self.limit = experiment.duration if experiment.duration is not None else float("inf")
        self.agenda = Agenda()
        self.current: SimulatedActivity | None = None
        self.submitted: list[tuple[float, int, SimulatedActivity, Job]] = []
        """Jobs that are not done: (due time, order, activity, job)."""
        self.waiting: list[Job] = []
        """Jobs whose time has passed, and whose results are not needed yet."""
        self._in_vain = 0
        """The number of departures of nodes since a node completed a round."""
        self.running = self.size
        """The number of programs that have not returned."""
        self.interrupted = False
        self._is_enough = False
        """True if a callback has stopped the run."""
        self.ended: float | None = None
        """The time at which the last program so far ended."""
        self._stop_after: int | None = None
        self.in_step = prepared.in_step
        self.schedule = Schedule(self)
        self.recorder: SimulationRecorder = SimulationRecorder(self, writer, progress)
        self.checkpoints = Checkpoints(self, writer)
        self.mail = self.checkpoints.mail()
        self._remembers = not self.in_step or self.mail is not None
        """True if nodes may resume at different moments, so that the last commit of each is kept."""
        self.deliver: list[Callable[[Message], None]] = [self.delivery(node) for node in self.nodes]
        self.links = self._links()
        prepared.callbacks.attach(self.stop_early, self.scale_learning_rate)

    def _links(self) -> Links:
        uplinks, downlinks = self.network.uplink_rates(), self.network.downlink_rates()
        if uplinks is None and downlinks is None:
            return Unlimited(self)
        kind = Fair if self.network.queue == "fair" else Queued
        return kind(self, uplinks, downlinks)

    # ------------------------------------------------------------------ time

    def at(self, time: float, node: RunningNode, action: Callable[[Any], None], argument: Any = None) -> None:
        """Schedule an event of a node at a time."""
        node.order += 1
        self.agenda.put(time, node.order, action, argument)

    def after(self, seconds: float, node: RunningNode, action: Callable[[Any], None]) -> None:
        """Schedule an event of a node after some seconds."""
        self.at(self.now + seconds, node, action)

    def begin(self) -> None:
        """Put every node at the start of its program."""
        self.schedule.begin(since=0.0)
        for node in self.nodes:
            if self._remembers:
                node.committed = self.snapshot(node)
            away = self.schedule.follow_absences(node, since=0.0)
            if not away:
                self.at(0.0, node, self.start_now, node)

    def run(self) -> None:
        """Let time pass until no event is left.

        Raises:
            ProgramError: the program failed, or nodes wait for messages that cannot arrive.
            ModelError: a model is not finite.
        """
        try:
            with _rare_garbage_collection():
                if not self._stops_early() and self._stop_after is None:
                    self.check_that_all_have_ended()
                    if self.ended is not None:
                        self.now = self.ended  # Later events were obsolete timeouts.
                elif self._is_enough and self.recorder.last_commit is not None:
                    self.now = self.recorder.last_commit
                elif self._stop_after is not None:
                    self.checkpoints.stopped(self._stop_after)
                self.recorder.finish()
        finally:
            for node in self.nodes:
                for activity in [*node.activities, *node.answers]:
                    if not activity.begun:
                        activity.cancel()  # Python warns about coroutines that are never awaited.

    def _stops_early(self) -> bool:
        """Process events. True if the run was stopped before the last one."""
        agenda = self.agenda
        while (time := agenda.next()) is not None:
            if time > self.limit:
                self.now = self.limit
                return True
            self.now = time
            moment = agenda.current
            while moment:
                _, action, argument = moment.pop()
                action(argument)
                if self.interrupted and self._stop_after is None and self._stop_now():
                    return True
                if self._is_enough and not self.in_step:
                    for node in self.nodes:
                        self.recorder.ended(node)
                    return True
        return False

    def check_that_all_have_ended(self) -> None:
        """Check that no present node waits.

        Raises:
            ProgramError: nodes wait for messages that cannot arrive.
        """
        stuck = [node for node in self.nodes if not node.mail.ended and not node.mail.away]
        if not stuck:
            return
        shown = "; ".join(
            f"node {node.id} in round {node.round} for {awaited}" for node in stuck[:3] for awaited in node.mail.waits()
        )
        experiment, network = self.prepared.experiment, self.network
        lossy = network.churn.has_churn or network.loss > 0 or bool(experiment.faults)
        lossy = lossy or any(node.mail.away for node in self.nodes)
        hint = " Nodes leave here, or messages are lost: give the program some 'patience'." if lossy else ""
        infinite = sum(node.mail.drops["not-finite"] for node in self.nodes)
        if infinite:
            hint += f" Messages with a number that is not finite were dropped: {infinite}."
        raise ProgramError(f"{len(stuck)} nodes wait for messages that cannot arrive: {shown or 'nothing'}.{hint}")

    def start(self, node: RunningNode) -> None:
        self.at(self.now, node, self.start_now, node)

    def start_now(self, node: RunningNode) -> None:
        """Start the program of a node, unless the node left at that moment."""
        if not (node.mail.away and node.held is None):
            node.main = SimulatedActivity(node, self, self.program.run(node))
            node.main.resume()

    def spawn(self, node: RunningNode, coroutine: Coroutine[Any, Any, None]) -> SimulatedActivity:
        activity = SimulatedActivity(node, self, coroutine)
        node.activities = [other for other in node.activities if not other.done]
        node.activities.append(activity)
        self.after(0.0, node, activity.resume)
        return activity

    def answer(self, node: RunningNode, coroutine: Coroutine[Any, Any, None]) -> None:
        activity = SimulatedActivity(node, self, coroutine)
        node.answers = [other for other in node.answers if not other.done]
        node.answers.append(activity)
        self.after(0.0, node, activity.resume)

    def answers(self, node: RunningNode) -> bool:
        return self.current in node.answers

    def end_activities(self, node: RunningNode, *, main: bool) -> None:
        ending = node.activities
        if main:
            ending = [*ending, *node.answers, *([node.main] if node.main else [])]
            node.answers = []
        for activity in ending:
            activity.cancel()
        node.activities = []

    async def sleep(self, node: RunningNode, seconds: float) -> None:
        assert self.current is not None
        self.after(seconds, node, self.current.resume)
        await suspended()

    async def never(self) -> None:
        await suspended()

    def waiter(self, missing: set[int] | None, lost: set[int], left: int) -> Waiter:
        assert self.current is not None
        return Waiter(self.current.resume, missing, lost, left)

    def woken(self, node: RunningNode, key: Key, waiter: Waiter, timeout: float | None) -> Awaitable[None]:
        if timeout is not None:
            mail = node.mail

            def give_up(_: None = None) -> None:
                if node.held is not None:
                    node.held.append(give_up)
                elif mail.waiters.get(key) is waiter:
                    mail.wake(key)

            self.after(timeout, node, give_up)
        return suspended()

    # ------------------------------------------------------------------ computing

    def compute(self, node: RunningNode, job: Job, seconds: float) -> Awaitable[None]:
        """Submit a job, whose result is needed when its time is over."""
        current = self.current
        assert current is not None
        due = self.now + seconds
        self.at(due, node, self._computed, (current, job))
        self.submitted.append((due, node.order, current, job))
        return suspended()

    def _computed(self, submitted: tuple[SimulatedActivity, Job]) -> None:
        """Handle the end of a job's time."""
        activity, job = submitted
        if activity.done:
            return
        if job.waits and not job.done:
            self.waiting.append(job)
            if len(self.waiting) >= min(job.worker.at_once, _MOST_WAITING):
                self.do_jobs()
        elif not job.done:
            self.do_jobs()
        activity.resume()

    def do_jobs(self) -> None:
        """Compute all that waits, evaluations, and the jobs that are due first, as many as fit."""
        past = set(map(id, self.waiting))
        jobs, left = self._by_worker(self.waiting), []
        for entry in sorted(entry for entry in self.submitted if not (entry[2].done or id(entry[3]) in past)):
            job = entry[3]
            chosen = jobs.setdefault(job.worker, [])
            if len(chosen) < job.worker.at_once:
                chosen.append(job)
            else:
                left.append(entry)
        self.waiting, self.submitted = [], left
        if past:  # The losses of commits are not known before.
            self.task.compute_pending(jobs)
        else:
            self.task.compute_pending()
        self.recorder.hand_over()
        self.recorder.evaluate()
        for worker, chosen in jobs.items():
            worker.do(chosen)

    def do_waiting(self) -> None:
        """Compute pending mixtures, and the jobs whose time has passed."""
        past = set(map(id, self.waiting))
        jobs, self.waiting = self._by_worker(self.waiting), []
        if past:
            self.submitted = [entry for entry in self.submitted if id(entry[3]) not in past]
        self.task.compute_pending(jobs)

    def _by_worker(self, jobs: Sequence[Job]) -> dict[Worker, list[Job]]:
        found: dict[Worker, list[Job]] = {}
        for job in jobs:
            found.setdefault(job.worker, []).append(job)
        return found

    # ------------------------------------------------------------------ messages

    def carry(self, node: RunningNode, receivers: Sequence[int], message: Message) -> Sending:
        if self.mail is not None:
            self.mail.post(receivers, message)
        return self.links.post(node, receivers, message)

    def carry_disturbed(self, node: RunningNode, receivers: Sequence[int], message: Message) -> Sending:
        by_factor: dict[float, list[int]] = {}
        for receiver, fate in self.disturbances.fates(node, receivers):
            if isinstance(fate, str):
                self.refuse(fate)
            else:
                by_factor.setdefault(fate, []).append(receiver)
                if self.mail is not None:
                    self.mail.post([receiver], message)
        return several([self.links.post(node, some, message, slower) for slower, some in by_factor.items()])

    async def shares(self, node: RunningNode, round: int) -> Sequence[Share]:
        assert self.sampler is not None
        return self.sampler.shares(node.id, round)

    def carry_to_names(self, node: RunningNode, copies: Sequence[Message]) -> Sending:
        assert self.sampler is not None
        carry = self.carry_disturbed if self._disturbing else self.carry
        receivers = [self.sampler.holder(message.name) for message in copies if message.name is not None]
        return several([carry(node, (id,), message) for id, message in zip(receivers, copies, strict=True)])

    def withdraw(self, node: RunningNode, tag: str | None) -> int:
        return self.links.withdraw_of(node.id, tag)

    # ------------------------------------------------------------------ rounds

    async def complete(self, node: RunningNode) -> None:
        self._in_vain = 0
        cost = self.commit(node)
        if self._remembers:
            self.remember(node)
        self.checkpoints.complete(node)
        if cost:
            await self.sleep(node, cost)
        self.checkpoints.reach(node)
        if self.parks(node):
            if self._is_enough:
                self.recorder.ended(node)
            await suspended()

    def finish(self, node: RunningNode) -> None:
        super().finish(node)
        self.ended = self.now
        self.dropped(node)
        self.running -= 1
        if not self.running:
            self._end_answers()

    def _end_answers(self) -> None:
        """End the activities of message handlers, because the programs of all nodes have ended."""
        for node in self.nodes:
            for activity in node.answers:
                activity.cancel()
        self.end_serving()

    def dropped(self, node: RunningNode) -> None:
        # A dropped node does not reach the round of a further checkpoint.
        if self._remembers:
            self.remember(node)
        self.checkpoints.end(node)

    def snapshot(self, node: RunningNode) -> Snapshot:
        return snapshot_of(node, self.links.uplink_busy_until(node.id))

    # ------------------------------------------------------------------ interruption

    def interrupt(self) -> None:
        """Make the run stop at the next moment at which it can be resumed."""
        self.interrupted = True
        self.recorder.show_soon()

    def stop_early(self, reason: str) -> None:
        """End the run for a callback, after the round that nodes are in; without rounds that all share, at once."""
        if self._is_enough or self.interrupted:
            return
        self._is_enough = True
        self.recorder.event(self.now, NETWORK, STOPPED, reason)
        if self.in_step:
            self._stop_after = self._next_round()

    def scale_learning_rate(self, factor: float) -> int:
        """Multiply the learning rate, from a round on that no node has begun; returns that round."""
        since = self._next_round()
        self.task.scale_learning_rate(since, factor)
        return since

    def _next_round(self) -> int:
        return max((node.round for node in self.nodes if not node.mail.ended), default=self.rounds) + 1

    def _stop_now(self) -> bool:
        """Begin to stop. True if the world can stop at once."""
        if self.checkpoints.stop_now():
            return True
        self._stop_after = self._next_round()
        self.checkpoints.stop_after(self._stop_after)
        return False

    @property
    def stops(self) -> bool:
        """True if nodes stop after a round."""
        return self._stop_after is not None

    @property
    def stopped_early(self) -> bool:
        """True if the run was interrupted before its end."""
        return self.interrupted and not self._is_enough and any(not node.mail.ended for node in self.nodes)

    def parks(self, node: RunningNode) -> bool:
        """True if a node must not continue."""
        return self._stop_after is not None and node.round >= self._stop_after and node.round < self.rounds

    # ------------------------------------------------------------------ nodes that leave and return

    def leave(self, node: RunningNode) -> None:
        self._in_vain += 1
        if self._in_vain > _ABSENCES_IN_VAIN * self.size:
            self.check_that_all_have_ended()
        super().leave(node)

    def leave_for_good(self, node: RunningNode) -> None:
        self.schedule.gone.add(node.id)


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Search for reference cycles less often: events have none, and the search took a quarter of a run."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(200_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
