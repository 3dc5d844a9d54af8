"""The node of the simulation: the contract in virtual time."""

from collections.abc import AsyncIterator, Coroutine, Generator, Iterable, Sequence
from types import coroutine
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from covey import rng
from covey.errors import ModelError, ProgramError
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

Key = tuple[str, int | None]
"""A tag and a round."""

_USUAL = Work()


_WAITING = object()


@coroutine
def suspended() -> Generator[object, Any, Any]:
    """Hand control back to the world until somebody resumes this activity."""
    return (yield _WAITING)


class SimulatedActivity:
    """A coroutine of a node."""

    __slots__ = ("coroutine", "done", "node", "watchers")

    def __init__(self, node: "SimulatedNode", coroutine: Coroutine[Any, Any, None]) -> None:
        self.node = node
        self.coroutine = coroutine
        self.done = False
        self.watchers: list[SimulatedActivity] = []

    def resume(self, value: Any = None) -> None:
        """Let it run until it waits again."""
        if self.done:
            return
        world = self.node.world
        before, world.current = world.current, self
        try:
            asked = self.coroutine.send(value)
        except StopIteration:
            self._end()
        except Exception as error:
            self.done = True
            raise self.node.failure(error) from error
        else:
            if asked is not _WAITING:
                raise ProgramError(
                    f"The program {world.program.title()} awaits something at node {self.node.id} "
                    f"that the node does not offer."
                )
        finally:
            world.current = before

    def _end(self) -> None:
        self.done = True
        if self is self.node.main:
            self.node.finish()
        for watcher in self.watchers:
            watcher.resume()

    def cancel(self) -> None:
        """End it where it is."""
        if not self.done:
            self.done = True
            self.coroutine.close()

    async def wait(self) -> None:
        if not self.done:
            current = self.node.world.current
            assert current is not None
            self.watchers.append(current)
            await suspended()


class Waiter:
    """An activity that waits for messages."""

    __slots__ = ("activity", "count", "lost", "missing")

    def __init__(self, activity: SimulatedActivity, missing: set[int], count: int) -> None:
        self.activity = activity
        self.missing = missing
        """Who is still waited for, where it matters whom."""
        self.count = count
        """How many are still waited for, where it does not."""
        self.lost: set[int] = set()
        """Whose message is known to be lost."""


class Snapshot:
    """What a node goes on from after a crash or a resume."""

    __slots__ = ("clock", "completed", "counters", "loss", "model", "order", "slots", "state", "uplink")

    def __init__(self, node: "SimulatedNode") -> None:
        self.clock = node.world.now
        self.completed = node.round
        self.model = node.snapshot()
        self.state: State = dict(node.state)
        self.slots = node.slots
        self.loss = node.loss
        self.order = node.order
        self.counters = node.counters()
        self.uplink = node.world.links.uplink_busy_until(node.id)


class SimulatedNode(Node):
    """One node. `round` is the number of its open round, which is also how many rounds it has completed."""

    __slots__ = (
        "_model",
        "activities",
        "away",
        "behind",
        "boxes",
        "bytes_in",
        "bytes_out",
        "calls",
        "committed",
        "data",
        "dropped",
        "ended",
        "holder",
        "id",
        "loss",
        "main",
        "messages_in",
        "messages_out",
        "nodes",
        "order",
        "queues",
        "role",
        "round",
        "samples",
        "slots",
        "state",
        "steps",
        "train_key",
        "waiters",
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
        self.round = 0
        self.calls = 0
        self.order = id << 40
        """Ties of virtual time are settled by it, so that they do not depend on what else happened."""
        self.train_key = rng.mix(rng.purpose_key(world.seed, "train"), id)
        self.boxes: dict[Key, dict[int, Message | None]] = {}
        """Messages of rounds by their sender; None where it was taken."""
        self.queues: dict[str, list[Message]] = {}
        self.waiters: dict[Key, Waiter] = {}
        self.activities: list[SimulatedActivity] = []
        self.main: SimulatedActivity | None = None
        self.committed: Snapshot | None = None
        self.away = self.ended = self.behind = False
        self.loss: float | None = None
        self.bytes_out = self.bytes_in = self.messages_out = self.messages_in = 0
        self.dropped = self.steps = self.samples = 0

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

    def rounds(self) -> AsyncIterator[int]:
        return _Rounds(self)

    async def train(self, model: Tensor | Mixture | None = None, **work: Any) -> Update:
        training = self._training(model, Work(**work) if work else _USUAL)
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
        training.start = _tensor(training.start)
        (gradient,) = world.learner.gradient([training], full=[full])
        await self.sleep(gradient.samples / world.speeds[self.id])
        self.samples += gradient.samples
        return gradient

    async def evaluate(self, model: Tensor | Mixture | None = None, split: str = "validation") -> Metrics:
        world = self.world
        data = world.split(split, self.holder)
        chosen = self.model if model is None else _tensor(model)
        (metrics,) = world.learner.evaluate([chosen], data)
        await self.sleep(len(data) / world.speeds[self.id])
        return metrics

    def send(
        self, to: NodeId | Sequence[NodeId], payload: Payload, *, tag: str = "", round: int | None = None
    ) -> Sending:
        receivers: Sequence[int] = (to,) if isinstance(to, int) else to
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
        key = (tag, round)
        present: Iterable[int]
        if round is None:
            present = [message.sender for message in self.queues.get(tag, ())]
        else:
            present = [sender for sender, message in self.boxes.get(key, {}).items() if message is not None]
        missing: set[int] = set()
        wanted = 0
        if senders is not None:
            missing.update(set(senders).difference(present))
        else:
            wanted = (count if count is not None else 1 if timeout is None else self.nodes) - len(list(present))
        if missing or wanted > 0:
            missing = await self._wait(key, missing, wanted, timeout)
        messages = self._take(key, senders, count)
        return Inbox(messages, [NodeId(sender) for sender in sorted(missing)])

    async def _wait(self, key: Key, missing: set[int], wanted: int, timeout: float | None) -> set[int]:
        """Wait until nobody is missing and enough came, or the time is over; who is missing then."""
        world = self.world
        if key in self.waiters:
            raise ProgramError(f"Two activities of node {self.id} wait for {describe(key)} at once.")
        assert world.current is not None
        waiter = self.waiters[key] = Waiter(world.current, missing, wanted)
        if timeout is not None:

            def give_up(_: None) -> None:
                if self.waiters.get(key) is waiter:
                    del self.waiters[key]
                    waiter.activity.resume()

            world.after(timeout, self, give_up)
        await suspended()
        return waiter.missing | waiter.lost

    def _take(self, key: Key, senders: Sequence[int] | None, count: int | None = None) -> list[Message]:
        """Remove and return messages, in the order of their senders."""
        tag, round = key
        if round is None:
            queue = self.queues.get(tag, [])
            if senders is not None:
                first: dict[int, Message] = {}
                chosen = set(senders)
                for message in queue:
                    if message.sender in chosen:
                        first.setdefault(message.sender, message)
                taken = [first[sender] for sender in sorted(first)]
                left = {id(message) for message in taken}
                self.queues[tag] = [message for message in queue if id(message) not in left]
                return taken
            cut = len(queue) if count is None else count
            self.queues[tag] = queue[cut:]
            return queue[:cut]
        box = self.boxes.get(key)
        if box is None:
            return []
        wanted = None if senders is None else set(senders)
        found: list[Message] = []
        for sender in sorted(box):
            waiting = box[sender]
            if waiting is not None and (wanted is None or sender in wanted) and (count is None or len(found) < count):
                found.append(waiting)
                box[sender] = None
        return found

    def arrived(self, *, tag: str = "", round: int | None = None) -> Inbox:
        return Inbox(self._take((tag, round), None))

    def reject(self, message: Message, reason: str) -> None:
        self.dropped += 1
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
        key = rng.mix(self.train_key, self.round, self.calls)
        self.calls += 1
        return Training(self.holder, start, key, self.round, work, self.slots)

    def deliver(self, message: Message) -> None:
        """A message has arrived."""
        if self.away:
            self.dropped += 1
            return
        self.messages_in += 1
        self.bytes_in += message.size
        round, sender = message.round, message.sender
        if self.ended or (round is not None and round < self.round):
            self.dropped += 1
            return
        key = (message.tag, round)
        if round is None:
            self.queues.setdefault(message.tag, []).append(message)
        else:
            box = self.boxes.get(key)
            if box is None:
                box = self.boxes[key] = {}
            elif sender in box:
                self.dropped += 1
                return
            box[sender] = message
        waiter = self.waiters.get(key)
        if waiter is None:
            if round is not None and self.waiters:
                self._overtaken(message)
            return
        waiter.missing.discard(sender)
        waiter.count -= 1
        if not waiter.missing and waiter.count <= 0:
            del self.waiters[key]
            waiter.activity.resume()

    def _overtaken(self, message: Message) -> None:
        """Messages keep their order over a link: one of a later round shows that an awaited one is lost."""
        assert message.round is not None
        for key, waiter in list(self.waiters.items()):
            tag, round = key
            if tag == message.tag and round is not None and round < message.round and message.sender in waiter.missing:
                waiter.missing.remove(message.sender)
                waiter.lost.add(message.sender)
                if not waiter.missing and waiter.count <= 0:
                    del self.waiters[key]
                    waiter.activity.resume()

    def snapshot(self) -> Tensor | Mixture:
        """The current model, computed or not."""
        return self._model

    def counters(self) -> list[int]:
        """What the node has sent, received and done, less what arrived early and will arrive again after a resume."""
        early = [
            m for (_, t), box in self.boxes.items() if t is not None and t >= self.round for m in box.values() if m
        ]
        return [
            self.bytes_out,
            self.bytes_in - sum(message.size for message in early),
            self.messages_out,
            self.messages_in - len(early),
            self.dropped,
            self.steps,
            self.samples,
        ]

    def restore(self, snapshot: Snapshot, *, counters: bool) -> None:
        """Go back to a snapshot; the counters only where the whole network does."""
        self._model = snapshot.model
        self.state = dict(snapshot.state)
        self.slots = snapshot.slots
        self.round = snapshot.completed
        self.calls = 0
        if counters:
            self.loss = snapshot.loss
            self.order = snapshot.order
            (
                self.bytes_out,
                self.bytes_in,
                self.messages_out,
                self.messages_in,
                self.dropped,
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
        self.dropped += sum(len(queue) for queue in self.queues.values())
        self.dropped += sum(message is not None for box in self.boxes.values() for message in box.values())
        self.queues, self.boxes, self.waiters = {}, {}, {}

    def finish(self) -> None:
        """The program has returned."""
        for activity in self.activities:
            activity.cancel()
        self.activities = []
        self.ended = True
        self.queues, self.boxes = {}, {}

    def failure(self, error: Exception) -> Exception:
        """What to raise when the program raised `error`."""
        if isinstance(error, ModelError | ProgramError):
            return error
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        where = f" ({last.tb_frame.f_code.co_filename}, line {last.tb_lineno})" if last else ""
        return ProgramError(
            f"The program {self.world.program.title()} fails at node {self.id} in round {self.round}: "
            f"{type(error).__name__}: {error}{where}."
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
        world = node.world
        if self.open:
            cost = world.commit(node)
            if cost:
                await node.sleep(cost)
            if node.round in world.cuts:
                world.cut(node)
            if world.parks(node):
                await suspended()
        if node.behind:
            later = [round for _, round in node.boxes if round is not None and round > node.round]
            if later:
                world.skip_to(node, min(max(later), world.rounds))
        if node.round >= world.rounds:
            raise StopAsyncIteration
        self.open = True
        return node.round


class _Messages:
    """The messages of a tag, one by one."""

    def __init__(self, node: SimulatedNode, tag: str) -> None:
        self.node = node
        self.tag = tag

    def __aiter__(self) -> "_Messages":
        return self

    async def __anext__(self) -> Message:
        return (await self.node.receive(tag=self.tag, count=1))[0]


def describe(key: Key) -> str:
    """A tag and a round in words."""
    tag, round = key
    return f"messages{f' tagged {tag!r}' if tag else ''}{'' if round is None else f' of round {round}'}"


def _tensor(model: Any) -> Tensor:
    return model.tensor() if isinstance(model, Mixture) else model
