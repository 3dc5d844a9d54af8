"""The node of the simulation: the contract in virtual time."""

from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from covey.runtime.mailbox import Key, Waiter
from covey.runtime.node import Gradient, LocalData, Metrics, Mixture, Payload, Sending, Update, Work
from covey.runtime.participant import TRAINING, USUAL, Participant
from covey.runtime.simulation.activity import SimulatedActivity, suspended
from covey.runtime.snapshots import Snapshot

if TYPE_CHECKING:
    from covey.runtime.simulation.world import World


class SimulatedNode(Participant):
    """One node."""

    __slots__ = ("activities", "committed", "main", "world")

    def __init__(self, world: "World", id: int, role: str, holder: int | None, data: LocalData, model: Tensor) -> None:
        ordered = world.network.is_ordered
        careful = not world.prepared.is_trusted
        super().__init__(id, role, world.size, holder, data, model, careful=careful, seed=world.seed, ordered=ordered)
        self.world = world
        self.activities: list[SimulatedActivity] = []
        self.main: SimulatedActivity | None = None
        self.committed: Snapshot | None = None

    # ------------------------------------------------------------------ the contract

    @property
    def now(self) -> float:
        return self.world.now

    def rounds(self) -> AsyncIterator[int]:
        return _Rounds(self)

    async def train(self, model: Tensor | Mixture | None = None, **work: Any) -> Update:
        training = self.new_training(model, Work(**work) if work else USUAL)
        began = self.world.now
        self.world.submit(self, training)
        await suspended()
        self.spent[TRAINING] += self.world.now - began
        return self.trained(training)

    async def gradient(self, model: Tensor | Mixture | None = None, *, full: bool = False) -> Gradient:
        training = self.new_training(model, Work(steps=1), gradient="all" if full else "batch")
        began = self.world.now
        self.world.submit(self, training)
        await suspended()
        self.spent[TRAINING] += self.world.now - began
        return self.differentiated(training)

    async def evaluate(self, model: Tensor | Mixture | None = None, split: str = "validation") -> Metrics:
        self.check_split(split)
        world = self.world
        data = world.split(split, self.holder)
        (metrics,) = world.learner.evaluate([self.evaluated_model(model)], data)
        await self.sleep(len(data) / world.speeds[self.id])
        self.evaluated += len(data)
        return metrics

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> SimulatedActivity:
        activity = SimulatedActivity(self, coroutine)
        self.activities = [other for other in self.activities if not other.done]
        self.activities.append(activity)
        self.world.after(0.0, self, activity.resume)
        return activity

    async def sleep(self, seconds: float) -> None:
        world = self.world
        self._check_duration("sleeps for", seconds)
        assert world.current is not None
        world.after(seconds, self, world.current.resume)
        await suspended()

    def log(self, **metrics: float) -> None:
        self.world.recorder.log(self.id, self.round + 1, metrics)

    # ------------------------------------------------------------------ for what nodes have in common

    def _post(self, receivers: Sequence[int], payload: Payload, tag: str, round: int | None) -> Sending:
        return self.world.post(self, receivers, payload, tag, round)

    def _waiter(self, missing: set[int] | None, lost: set[int], left: int) -> Waiter:
        assert self.world.current is not None
        return Waiter(self.world.current.resume, missing, lost, left)

    def _heard(self, key: Key, waiter: Waiter, timeout: float | None) -> Awaitable[None]:
        if timeout is not None:
            mail = self.mail

            def give_up(_: None = None) -> None:
                if self.held is not None:
                    self.held.append(give_up)
                elif mail.waiters.get(key) is waiter:
                    mail.wake(key)

            self.world.after(timeout, self, give_up)
        return suspended()

    def event(self, kind: str, detail: str) -> None:
        self.world.recorder.event(self.world.now, self.id, kind, detail)

    def _mix(self, mixture: Mixture) -> None:
        self.world.mixtures.append(mixture)

    def _settle(self) -> None:
        self.world.settle()

    # ------------------------------------------------------------------ for the world

    def start(self, _: None = None) -> None:
        """Begin the program, from the start or from what was restored."""
        if self.mail.away and self.held is None:
            return  # It left in the moment in which it was to begin.
        self.main = SimulatedActivity(self, self.world.program.run(self))
        self.main.resume()

    def stop(self) -> None:
        """End all activities and forget what has arrived."""
        for activity in [*self.activities, *([self.main] if self.main else [])]:
            activity.cancel()
        self.activities = []
        self.held = None
        self.mail.clear()

    def close(self) -> None:
        """End the activities that never began: Python warns of coroutines that nobody awaits."""
        for activity in self.activities:
            if not activity.begun:
                activity.cancel()

    def finish(self) -> None:
        """The program has returned.

        Raises:
            ProgramError: the node's state holds what no checkpoint can.
        """
        self.check_commit()
        for activity in self.activities:
            activity.cancel()
        self.activities = []
        self.mail.clear(ended=True)
        self.mail.ended = True
        self.world.recorder.ended(self)
        self.world.ended = self.world.now
        self.world.passed_by(self)


class _Rounds:
    """Counts the rounds of a node and commits each."""

    def __init__(self, node: SimulatedNode) -> None:
        self.node = node
        self.open = False

    def __aiter__(self) -> "_Rounds":
        return self

    async def __anext__(self) -> int:
        node = self.node
        world, mail = node.world, node.mail
        if self.open:
            cost = world.commit(node)
            if cost:
                await node.sleep(cost)
            if mail.round in world.cuts:
                world.cut(node)
            if world.parks(node):
                await suspended()
        if node.behind:
            latest = mail.latest_round()
            if latest > mail.round:
                world.skip_to(node, min(latest, world.rounds))
        if mail.round >= world.rounds:
            raise StopAsyncIteration
        self.open = True
        return mail.round
