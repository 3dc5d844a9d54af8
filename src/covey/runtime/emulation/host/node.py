"""The node of the emulation: the contract in real time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from covey.learning.learner import Training
from covey.runtime.emulation.transport.connection import loop_time
from covey.runtime.mailbox import Key, Waiter
from covey.runtime.node import Gradient, LocalData, Message, Metrics, Mixture, Payload, Sending, Update, Work
from covey.runtime.participant import TRAINING, USUAL, Participant
from covey.runtime.runs.schema import SPENT
from covey.runtime.snapshots import Snapshot

if TYPE_CHECKING:
    from covey.runtime.emulation.host.site import Site


class _Waiter(Waiter):
    """An activity that waits for a future."""

    __slots__ = ("heard",)

    def __init__(self, heard: asyncio.Future[None], *others: Any) -> None:
        super().__init__(*others)
        self.heard = heard


class EmulatedActivity:
    """A second activity of a node."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task

    @property
    def done(self) -> bool:
        return self.task.done()

    async def wait(self) -> None:
        await asyncio.wait([self.task])


class EmulatedNode(Participant):
    """One node of a host."""

    __slots__ = ("activities", "committed", "main", "measuring", "site")

    def __init__(self, site: "Site", id: int, role: str, holder: int | None, data: LocalData, model: Tensor) -> None:
        careful, ordered = not site.prepared.is_trusted, site.network.is_ordered
        super().__init__(id, role, site.size, holder, data, model, careful=careful, seed=site.seed, ordered=ordered)
        self.site = site
        self.activities: list[asyncio.Task[None]] = []
        self.main: asyncio.Task[None] | None = None
        self.committed: Snapshot | None = None
        self.measuring = False

    # ------------------------------------------------------------------ the contract

    @property
    def now(self) -> float:
        return self.site.now

    def rounds(self) -> AsyncIterator[int]:
        return self._rounds()

    async def _rounds(self) -> AsyncIterator[int]:
        site, mail = self.site, self.mail
        while True:
            await self._awake()
            if self.behind:
                latest = mail.latest_round()
                if latest > mail.round:
                    site.skip_to(self, min(latest, site.rounds))
            if mail.round >= site.rounds:
                return
            yield mail.round
            await site.commit(self)

    async def _awake(self) -> None:
        """Until the node does not stand still."""
        while self.held is not None:
            awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake(awake: asyncio.Future[None] = awake) -> None:
                # Who was stopped meanwhile waits no more.
                if not awake.done():
                    awake.set_result(None)

            self.held.append(wake)
            await awake

    async def train(self, model: Tensor | Mixture | None = None, **work: Any) -> Update:
        training = self.new_training(model, Work(**work) if work else USUAL)
        await self._train(training)
        if not training.finite:
            await self.site.not_finite(self)
        return self.trained(training)

    async def gradient(self, model: Tensor | Mixture | None = None, *, full: bool = False) -> Gradient:
        training = self.new_training(model, Work(steps=1), gradient="all" if full else "batch")
        await self._train(training)
        return self.differentiated(training)

    async def _train(self, training: Training) -> None:
        site = self.site
        training.start = self.mixed(training.start)
        began = site.now
        await site.trainer.train(training)
        await site.stretch(began, site.learner.cost(training) / site.speeds[self.id])
        await self._awake()
        self.spent[TRAINING] += site.now - began

    async def evaluate(self, model: Tensor | Mixture | None = None, split: str = "validation") -> Metrics:
        self.check_split(split)
        site = self.site
        data = site.split(split, self.holder)
        began = site.now
        metrics = await site.trainer.evaluate(self.evaluated_model(model), data)
        await site.stretch(began, len(data) / site.speeds[self.id])
        self.evaluated += len(data)
        await self._awake()
        return metrics

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> EmulatedActivity:
        task = asyncio.create_task(self.site.watched(self, coroutine))
        self.activities = [other for other in self.activities if not other.done()]
        self.activities.append(task)
        return EmulatedActivity(task)

    async def sleep(self, seconds: float) -> None:
        self._check_duration("sleeps for", seconds)
        await asyncio.sleep(seconds)
        await self._awake()

    def reject(self, message: Message, reason: str) -> None:
        self.mail.dropped += 1
        self.site.reject(self.id, message.sender, reason, "unusable")

    def log(self, **metrics: float) -> None:
        self.site.reporter.log(self.id, self.round + 1, metrics)

    @contextmanager
    def measured(self, what: Literal["encoding", "mixing"]) -> Iterator[None]:
        if self.measuring:
            yield  # What is done within something else is a part of that.
            return
        self.measuring, began = True, loop_time()
        try:
            yield
        finally:
            self.measuring = False
            self.spent[SPENT.index(what)] += loop_time() - began

    def mixed(self, model: Tensor | Mixture) -> Tensor:
        """A model of this node, computed now where it was not yet."""
        if isinstance(model, Tensor):
            return model
        with self.measured("mixing"):
            return model.tensor()

    def _computed(self) -> Tensor:
        self._model = self.mixed(self._model)
        return self._model

    # ------------------------------------------------------------------ for what nodes have in common

    def _post(self, receivers: Sequence[int], payload: Payload, tag: str, round: int | None) -> Sending:
        return self.site.post(self, receivers, payload, tag, round)

    def _waiter(self, missing: set[int] | None, lost: set[int], left: int) -> Waiter:
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def resume() -> None:
            if not heard.done():
                heard.set_result(None)

        return _Waiter(heard, resume, missing, lost, left)

    def _heard(self, key: Key, waiter: Waiter, timeout: float | None) -> Awaitable[None]:
        assert isinstance(waiter, _Waiter)
        if timeout is not None:
            mail = self.mail

            def give_up() -> None:
                if self.held is not None:
                    self.held.append(give_up)
                elif mail.waiters.get(key) is waiter:
                    mail.wake(key)

            timer = asyncio.get_running_loop().call_later(timeout, give_up)
            waiter.heard.add_done_callback(lambda _: timer.cancel())
        return waiter.heard

    def event(self, kind: str, detail: str) -> None:
        self.site.reporter.event(self.now, self.id, kind, detail)

    # ------------------------------------------------------------------ for the site

    @property
    def is_idle(self) -> bool:
        """Whether all of its activities wait for messages."""
        tasks = [task for task in [self.main, *self.activities] if task is not None and not task.done()]
        return len(self.mail.waiters) >= len(tasks) > 0

    def start(self) -> None:
        """Begin the program, from the start or from what was restored."""
        if self.mail.away and self.held is None:
            return  # It is away, and begins when it comes back.
        self.main = asyncio.create_task(self.site.run_program(self))

    def stop(self) -> None:
        """End all activities and forget what has arrived."""
        for task in [*self.activities, *([self.main] if self.main else [])]:
            if task is not asyncio.current_task():
                task.cancel()
        self.activities = []
        self.held = None
        self.mail.clear()

    def finish(self) -> None:
        """The program has returned."""
        for task in self.activities:
            task.cancel()
        self.activities = []
        self.mail.clear(ended=True)
        self.mail.ended = True
