"""The node of the simulation: the contract in virtual time."""

from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from covey import rng
from covey.engines.simulation.activity import SimulatedActivity, suspended
from covey.engines.simulation.mailbox import Mailbox, Waiter, describe
from covey.errors import ModelError, ProgramError, told
from covey.node import (
    Gradient,
    Inbox,
    LocalData,
    Message,
    Metrics,
    Mixture,
    Node,
    NodeId,
    Payload,
    Sending,
    State,
    Update,
    Work,
)
from covey.task.learner import Training
from covey.task.optimizers import Slots

if TYPE_CHECKING:
    from covey.engines.simulation.world import World

USUAL = Work()
"""Training as the task says."""


class Snapshot:
    """What a node goes on from after a crash or a resume."""

    __slots__ = (
        "away",
        "clock",
        "completed",
        "counters",
        "ended",
        "loss",
        "model",
        "order",
        "slots",
        "state",
        "uplink",
    )

    def __init__(self, node: "SimulatedNode") -> None:
        self.clock = node.world.now
        self.completed = node.round
        self.ended, self.away = node.mail.ended, node.mail.away
        self.model = node.snapshot()
        self.state: State = dict(node.state)
        self.slots = node.slots
        self.loss = node.loss
        self.order = node.order
        self.counters = node.counters()
        self.uplink = node.world.links.uplink_busy_until(node.id)


class SimulatedNode(Node):
    """One node."""

    __slots__ = (
        "_model",
        "activities",
        "behind",
        "bytes_out",
        "calls",
        "committed",
        "data",
        "holder",
        "id",
        "loss",
        "mail",
        "main",
        "messages_out",
        "nodes",
        "order",
        "role",
        "samples",
        "slots",
        "state",
        "steps",
        "stream",
        "world",
    )

    def __init__(self, world: "World", id: int, role: str, holder: int | None, data: LocalData, model: Tensor) -> None:
        self.world = world
        self.id = NodeId(id)
        self.role = role
        self.nodes = world.size
        self.holder = holder
        self.data = data
        self.state: State = {}
        self.slots: Slots | None = None
        self._model: Tensor | Mixture = model
        self.calls = 0
        self.order = id << 40
        """Ties of virtual time are settled by it, so that they do not depend on what else happened."""
        self.stream = rng.mix(rng.purpose_key(world.seed, "train"), id)
        self.mail = Mailbox(ordered=world.network.queue != "fair")
        self.activities: list[SimulatedActivity] = []
        self.main: SimulatedActivity | None = None
        self.committed: Snapshot | None = None
        self.behind = False
        self.loss: float | None = None
        self.bytes_out = self.messages_out = self.steps = self.samples = 0

    # ------------------------------------------------------------------ the contract

    @property
    def model(self) -> Tensor:
        model = self._model
        if isinstance(model, Mixture):
            if model.value is None:
                self.world.settle()
            self._model = model = model.tensor()
        return model

    @model.setter
    def model(self, value: Tensor | Mixture) -> None:
        if isinstance(value, Mixture):
            self.world.mixtures.append(value)
        elif value.shape != self.world.model_shape or value.dtype != torch.float32:
            raise ModelError(
                f"The model of node {self.id} must be {self.world.model_shape[0]} float32 numbers. "
                f"Got {tuple(value.shape)} of {value.dtype} instead."
            )
        self._model = value

    @property
    def now(self) -> float:
        return self.world.now

    @property
    def round(self) -> int:
        """The open round, which is also how many rounds the node has completed."""
        return self.mail.round

    def rounds(self) -> AsyncIterator[int]:
        return _Rounds(self)

    async def train(self, model: Tensor | Mixture | None = None, **work: Any) -> Update:
        training = self._training(model, Work(**work) if work else USUAL)
        world = self.world
        world.submit(self, training)
        await suspended()
        update = training.update
        assert update is not None
        self.slots = training.slots
        self.steps += update.steps
        self.samples += update.samples
        self.loss = update.loss
        return update

    async def gradient(self, model: Tensor | Mixture | None = None, *, full: bool = False) -> Gradient:
        world = self.world
        training = self._training(model, Work(steps=1))
        world.settle()
        training.start = _tensor(training.start)
        (gradient,) = world.learner.gradient([training], full=[full])
        await self.sleep(gradient.samples / world.speeds[self.id])
        self.samples += gradient.samples
        return gradient

    async def evaluate(self, model: Tensor | Mixture | None = None, split: str = "validation") -> Metrics:
        world = self.world
        if split not in ("train", "validation", "test"):
            raise ProgramError(f"The 'split' of evaluate must be one of 'train', 'validation', 'test'. Got {split!r}.")
        if self.holder is None and split != "test":
            raise ProgramError(f"Node {self.id} ({self.role}) holds no data and cannot evaluate on its {split} split.")
        data = world.split(split, self.holder)
        chosen = self.model if model is None else _tensor(model)
        (metrics,) = world.learner.evaluate([chosen], data)
        await self.sleep(len(data) / world.speeds[self.id])
        return metrics

    def send(
        self, to: NodeId | Sequence[NodeId], payload: Payload, *, tag: str = "", round: int | None = None
    ) -> Sending:
        # A copy: what is under way must not follow the program's own list.
        receivers = [int(to)] if isinstance(to, int | np.integer) else list(to)
        if receivers and not (min(receivers) >= 0 and max(receivers) < self.nodes):
            wrong = next(receiver for receiver in receivers if not 0 <= receiver < self.nodes)
            raise ProgramError(f"Node {self.id} sends to node {wrong}; ids are in [0, {self.nodes}).")
        return self.world.post(self, receivers, payload, tag, round)

    async def receive(
        self,
        *,
        tag: str = "",
        round: int | None = None,
        senders: Sequence[NodeId] | None = None,
        count: int | None = None,
        timeout: float | None = None,
    ) -> Inbox:
        key, mail, world = (tag, round), self.mail, self.world
        missing, left = None, 0
        lost: set[int] = set()
        if timeout is not None:
            self._check_duration("waits for at most", timeout)
        if senders is not None:
            missing = mail.lacking(key, senders)
            if missing:
                lost = mail.overtaken(key, missing)
                missing -= lost
        else:
            left = (count if count is not None else 1 if timeout is None else self.nodes) - mail.count(key)
        if not missing and left <= 0:
            return Inbox(mail.take(key, senders, count), sorted(lost))
        if key in mail.waiters:
            raise ProgramError(f"Two activities of node {self.id} wait for {describe(key)} at once.")
        assert world.current is not None
        waiter = mail.waiters[key] = Waiter(world.current, missing, lost, left)
        if timeout is not None:

            def give_up(_: None) -> None:
                if mail.waiters.get(key) is waiter:
                    del mail.waiters[key]
                    waiter.activity.resume()

            world.after(timeout, self, give_up)
        await suspended()
        absent = sorted(lost | missing) if missing else sorted(lost)
        return Inbox(mail.take(key, senders, count), absent)

    def arrived(self, *, tag: str = "", round: int | None = None) -> Inbox:
        return Inbox(self.mail.take((tag, round)))

    def reject(self, message: Message, reason: str) -> None:
        self.mail.dropped += 1
        self.world.recorder.event(self.now, self.id, "rejected", f"message of node {message.sender}: {reason}")

    def messages(self, tag: str) -> AsyncIterator[Message]:
        return _Messages(self, tag)

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

    def random(self, purpose: str, *key: int) -> np.random.Generator:
        return rng.generator(self.world.seed, f"node {purpose}", self.id, *key)

    def public_random(self, purpose: str, *key: int) -> np.random.Generator:
        return rng.generator(self.world.seed, f"public {purpose}", *key)

    def log(self, **metrics: float) -> None:
        self.world.recorder.log(self.id, self.round + 1, metrics)

    # ------------------------------------------------------------------ for the world

    def _training(self, model: Tensor | Mixture | None, work: Work) -> Training:
        if self.holder is None:
            raise ProgramError(f"Node {self.id} ({self.role}) holds no data and cannot train.")
        start: Any = self._model if model is None else model
        if isinstance(start, Mixture) and model is not None and start.value is None:
            self.world.mixtures.append(start)
        training = Training(self.holder, start, self.stream, self.mail.round, self.calls, work, self.slots)
        self.calls += 1
        return training

    def _check_duration(self, what: str, seconds: float) -> None:
        if not seconds >= 0:
            raise ProgramError(f"Node {self.id} {what} {seconds:g} seconds; that must be 0 or more.")

    def snapshot(self) -> Tensor | Mixture:
        """The current model, computed or not."""
        return self._model

    def counters(self) -> list[int]:
        """What the node has sent, received and done, less what arrived early and will arrive again after a resume."""
        early = self.mail.early()
        return [
            self.bytes_out,
            self.mail.bytes_in - sum(message.size for message in early),
            self.messages_out,
            self.mail.messages_in - len(early),
            self.mail.dropped,
            self.steps,
            self.samples,
        ]

    def restore(self, snapshot: Snapshot, *, counters: bool) -> None:
        """Go back to a snapshot; the counters only where the whole network does."""
        self._model = snapshot.model
        self.state = dict(snapshot.state)
        self.slots = snapshot.slots
        mail = self.mail
        mail.round = snapshot.completed
        self.calls = 0
        if counters:
            self.loss = snapshot.loss
            self.order = snapshot.order
            (
                self.bytes_out,
                mail.bytes_in,
                self.messages_out,
                mail.messages_in,
                mail.dropped,
                self.steps,
                self.samples,
            ) = snapshot.counters

    def start(self, _: None = None) -> None:
        """Begin the program, from the start or from what was restored."""
        self.main = SimulatedActivity(self, self.world.program.run(self))
        self.main.resume()

    def stop(self) -> None:
        """End all activities and forget what has arrived."""
        for activity in [*self.activities, *([self.main] if self.main else [])]:
            activity.cancel()
        self.activities = []
        self.mail.clear(dropped=True)

    def finish(self) -> None:
        """The program has returned."""
        for activity in self.activities:
            activity.cancel()
        self.activities = []
        self.mail.ended = True
        self.mail.clear(dropped=False)
        self.world.recorder.ended(self)
        self.world.ended = self.world.now
        self.world.passed_by(self)

    def failure(self, error: Exception) -> Exception:
        """What to raise when the program raised `error`."""
        if isinstance(error, ModelError | ProgramError):
            return error
        return ProgramError(
            f"The program {self.world.program.title()} fails at node {self.id} in round {self.round}: {told(error)}."
        )


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


class _Messages:
    """The messages of a tag, one by one."""

    def __init__(self, node: SimulatedNode, tag: str) -> None:
        self.node = node
        self.tag = tag

    def __aiter__(self) -> "_Messages":
        return self

    async def __anext__(self) -> Message:
        return (await self.node.receive(tag=self.tag, count=1))[0]


def _tensor(model: Any) -> Tensor:
    return model.tensor() if isinstance(model, Mixture) else model
