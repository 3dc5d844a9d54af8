"""The node contract: all that a program may ask of the node it runs on, whichever engine is under it.

Tensor shapes: P parameters of the flat model.

Messages
    A message has a tag and, if it belongs to a round, that round's number. They arrive at most once, in order from
    one sender over one link, in any order between senders.
    - early: for a round that this node has not reached. It waits for its round.
    - late: for a round that this node has committed. It is dropped and counted.
    - duplicate: a second one of the same sender, tag and round. It is dropped and counted.
    - a message without a round waits in the queue of its tag until somebody takes it.
    - for a node that is away, or whose program has ended: dropped and counted.
    - with a number that is not finite, alone or in a tensor or list: dropped and counted, and its sender is named.
    A peer may send anything else: `usable` takes what has the entries that the program needs.

Tensors
    What a program is handed is its own, and what it hands over is taken as it is then: whoever writes to a tensor in
    place changes it for nobody else. A model that is written in place and not assigned ends the run, for it changes
    nothing.

Rounds
    `rounds()` counts 0, 1, 2 ... The end of each iteration commits the round: counters and metrics are recorded, the
    model is evaluated where the experiment asks for it (off the node's clock), a checkpoint may be taken. After a
    crash a node goes on at its first uncommitted round with the model and state of its last commit. A node that
    comes back and finds messages of later rounds waiting goes on at the latest of these rounds.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, NamedTuple, NewType, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from covey.messages.ownership import own
from covey.parts.parameters import Part, Setting

NodeId = NewType("NodeId", int)

Field: TypeAlias = int | float | str | bool | bytes | None | list[int] | list[float] | list[str]
Payload: TypeAlias = Mapping[str, Tensor | Field]
State: TypeAlias = dict[str, Tensor | Field]
Metrics: TypeAlias = dict[str, float]


class Pull(NamedTuple):
    """What draws some numbers of a model, each once, towards other values."""

    places: Tensor
    values: Tensor
    weight: float


HEARTBEAT: Final = "~"
"""How the tags of heartbeats begin: messages that say that somebody is there, or has done something. Those that nobody
takes are not counted as dropped."""


class _Model:
    """The type of `MODEL`."""

    __slots__ = ()


MODEL: Final = _Model()
"""A whole model: as many float32 numbers as the node's own has."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """So many float32 numbers, as an entry of a payload: a part of a model."""

    count: int


Expected: TypeAlias = _Model | Numbers | type | range
"""What an entry of a payload must be: a model, so many numbers, a value of a type (for float also an int), or an int of
a range."""


class Mixture:
    """A linear combination of models, sum of weights[k] * models[k], that an engine computes when it suits it.

    `node.model = Mixture(...)` is the cheap way to average: the mixtures of all nodes are computed together.

    Args:
        pulls: each adds weight * (values - models[0][places]) at its places: who sent a part of a model is averaged
            there, and the own numbers stand in for the rest.
    """

    __slots__ = ("models", "pulls", "value", "weights")

    def __init__(self, models: Sequence[Tensor], weights: Sequence[float], pulls: Sequence[Pull] = ()) -> None:
        self.models: Sequence[Tensor] | None = models
        self.weights = weights
        self.pulls = pulls
        self.value: Tensor | None = None

    def tensor(self) -> Tensor:
        """The combination, computed now unless it already was."""
        if self.value is None:
            assert self.models is not None
            total = torch.mul(self.models[0], self.weights[0])
            for model, weight in zip(self.models[1:], self.weights[1:], strict=True):
                total.add_(model, alpha=weight)
            own = self.models[0]
            for anywhere, values, weight in self.pulls:
                places = anywhere.to(own.device)
                total.scatter_add_(0, places, own.index_select(0, places).sub_(values).mul_(-weight))
            self.settle(total)
            return total
        return self.value

    def plus(self, models: Sequence[Tensor], weights: Sequence[float]) -> "Mixture":
        """This combination with further terms."""
        if self.models is None:
            return Mixture([self.tensor(), *models], [1.0, *weights])
        return Mixture([*self.models, *models], [*self.weights, *weights], self.pulls)

    def kept(self, keep: Callable[[Tensor], Tensor]) -> "Mixture":
        """The same of tensors to which nobody writes any more.

        Args:
            keep: makes such a tensor of one.
        """
        assert self.models is not None
        pulls = [Pull(keep(places), keep(values), weight) for places, values, weight in self.pulls]
        return Mixture([*map(keep, self.models)], [*self.weights], pulls)

    def settle(self, value: Tensor) -> None:
        """Fix the result and let go of what it was made of."""
        self.value = value
        self.models = None
        self.pulls = ()


class Message:
    """One message as its receiver sees it; `message["name"]` is an entry of the payload, to do with as one likes.

    Args:
        shared: the payload as all of its receivers have it, which nobody may write to.
    """

    __slots__ = ("key", "round", "sender", "shared", "size", "tag", "understood")

    def __init__(self, sender: NodeId, tag: str, round: int | None, shared: Payload, size: int) -> None:
        self.sender = sender
        self.tag = tag
        self.round = round
        self.key = (tag, round)
        """What a `receive` asks for."""
        self.shared = shared
        self.size = size
        """Bytes of its wire encoding."""
        self.understood: Any = None
        """What a sharing made of it: simulated receivers share one message, and need not all read it."""

    @property
    def payload(self) -> Payload:
        """All entries."""
        return {name: self[name] for name in self.shared}

    def __getitem__(self, name: str) -> Any:
        value = self.shared[name]
        if isinstance(value, Tensor):
            return own(value)
        return value.copy() if type(value) is list else value

    def __repr__(self) -> str:
        return f"Message(sender={self.sender}, tag={self.tag!r}, round={self.round}, size={self.size})"


class Inbox(list[Message]):
    """What a `receive` brought: the messages in order of their senders, and who was waited for in vain."""

    __slots__ = ("lost", "missing")

    def __init__(self, messages: Iterable[Message] = (), missing: Sequence[int] = (), lost: Sequence[int] = ()) -> None:
        list.__init__(self, messages)
        self.missing = missing
        self.lost = lost
        """Which of the missing are there, for something that they sent afterwards has come."""

    @property
    def complete(self) -> bool:
        """Whether everybody who was waited for was heard."""
        return not self.missing


class Update:
    """What local training brought."""

    __slots__ = ("_start", "loss", "model", "samples", "steps")

    def __init__(self, model: Tensor, start: Tensor, loss: float, samples: int, steps: int) -> None:
        self.model = model
        """The trained model, P numbers."""
        self._start = start
        self.loss = loss
        """The mean training loss over the samples that were used."""
        self.samples = samples
        """How many samples were used, each as often as it was."""
        self.steps = steps
        """How many optimiser steps were made."""

    @property
    def start(self) -> Tensor:
        """The model that training began from."""
        return own(self._start)

    @property
    def delta(self) -> Tensor:
        """The change that training made, to be added to a model that has moved meanwhile."""
        return self.model - self._start

    def applied_to(self, model: Tensor) -> Mixture:
        """`model` moved by the change that training made."""
        return Mixture([model, self.model, self._start], [1.0, 1.0, -1.0])


@dataclass(slots=True)
class Gradient:
    """One gradient of the loss at a model."""

    vector: Tensor
    """P numbers, 0 for what is not trained."""
    loss: float
    samples: int
    buffers: Tensor
    """The model's buffers, such as BatchNorm's statistics, as they are after its pass over the samples."""


@dataclass(frozen=True, slots=True)
class Work:
    """How local training differs from what the task says; None leaves the task's value."""

    steps: int | None = None
    epochs: int | None = None
    lr: float | None = None
    proximal: float = 0.0
    """The weight mu of the proximal term mu/2 * |x - start|^2 that FedProx adds to the loss."""


@dataclass(frozen=True, slots=True)
class LocalData:
    """What a node may know of its own data without touching it."""

    samples: int
    label_counts: np.ndarray | None = None
    """Samples of each class; None where the data have no classes."""


class Sending(Protocol):
    """A message to one or more receivers on its way."""

    def cancel(self) -> int:
        """Withdraw what still queues at the sender's own uplink; how many receivers will not get it."""


class Activity(Protocol):
    """A second activity of a node."""

    @property
    def done(self) -> bool:
        """Whether it has ended."""

    async def wait(self) -> None:
        """Until it has ended."""


class Node(ABC):
    """The handle that a program holds. Nothing else of the network, the engine or other nodes is within its reach."""

    __slots__ = ()

    id: NodeId
    role: str
    """"peer" unless the program assigns roles."""
    nodes: int
    """How many nodes the network has."""
    data: LocalData
    state: State
    """What a resumed node needs besides its model: named tensors and plain values, as messages may hold them."""

    @property
    @abstractmethod
    def model(self) -> Tensor:
        """The current model: P float32 numbers; what is evaluated and checkpointed. Changes count when assigned."""

    @model.setter
    @abstractmethod
    def model(self, value: Tensor | Mixture) -> None: ...

    @property
    @abstractmethod
    def now(self) -> float:
        """Seconds since the start, virtual or real."""

    @abstractmethod
    def rounds(self) -> AsyncIterator[int]:
        """The numbers of the rounds; the end of each iteration commits the round."""

    @abstractmethod
    async def train(self, model: Tensor | Mixture | None = None, **work: Any) -> Update:
        """Train on the node's own data, from `model` or from the current one, which is not changed.

        Args:
            model: where to start.
            work: the fields of `Work`, where this training differs from the task's.
        """

    @abstractmethod
    async def gradient(self, model: Tensor | Mixture | None = None, *, full: bool = False) -> Gradient:
        """The gradient on the next mini-batch, or on all of the node's data."""

    @abstractmethod
    async def evaluate(self, model: Tensor | Mixture | None = None, split: str = "validation") -> Metrics:
        """Loss, accuracy ... of a model on "validation", "test" or the node's own "train" data, on the node's clock."""

    @abstractmethod
    def send(
        self, to: NodeId | Sequence[NodeId], payload: Payload, *, tag: str = "", round: int | None = None
    ) -> Sending:
        """Send a payload, as it is now, to one node or to several; never waits."""

    @abstractmethod
    async def receive(
        self,
        *,
        tag: str = "",
        round: int | None = None,
        senders: Sequence[NodeId] | None = None,
        count: int | None = None,
        timeout: float | None = None,
        after: Sequence[str] | None = None,
    ) -> Inbox:
        """Wait for a message of each of `senders`, or for `count` messages of anybody.

        Args:
            tag, round: which messages; without a round, those of the tag's queue.
            senders: whom to wait for. With none of them, nothing is waited for.
            count: how many to wait for where it does not matter whose.
            timeout: seconds after which what has come is returned; `Inbox.missing` says who was waited for in vain.
            after: with which tags, or beginnings of tags, senders send messages of the round before these, and all
                others only later: where messages keep their order, nobody is waited for who has sent something later.
                By default that is known of messages of later rounds with the same tag alone.
        """

    @abstractmethod
    def arrived(self, *, tag: str = "", round: int | None = None) -> Inbox:
        """Take what is here already; never waits."""

    @abstractmethod
    def usable(self, messages: Iterable[Message], /, **entries: Expected) -> list[Message]:
        """Those messages whose payloads have some entries; the others are rejected.

        Args:
            messages: what arrived.
            entries: what each must be: `MODEL`, `Numbers(10)`, a type such as int, or a range such as range(100) for an
                int in it.
        """

    @abstractmethod
    def reject(self, message: Message, reason: str) -> None:
        """Count and record a message that the program cannot use, naming its sender."""

    @abstractmethod
    def messages(self, tag: str) -> AsyncIterator[Message]:
        """The messages of a tag without a round, one by one as they come: a handler's loop."""

    @abstractmethod
    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Activity:
        """Begin a second activity of this node. It ends with the program; its exception is the node's."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Let time pass."""

    @abstractmethod
    def random(self, purpose: str, *key: int) -> np.random.Generator:
        """Randomness of this node alone; the same (purpose, key) gives the same numbers again."""

    @abstractmethod
    def public_random(self, purpose: str, *key: int) -> np.random.Generator:
        """Randomness that every node can compute, the same at all."""

    @abstractmethod
    def log(self, **metrics: float) -> None:
        """Record figures of this node under its current round."""

    def measured(self, what: Literal["encoding", "mixing"]) -> AbstractContextManager[None]:
        """Counts what is done within it, which awaits nothing, as time spent on that. In virtual time it takes none."""
        return _UNMEASURED


_UNMEASURED = nullcontext()


class Program(Part):
    """What every node runs. Its parameters are its fields; one object serves all nodes of a process, so what belongs
    to one node lives in `node.state`."""

    family: ClassVar[str] = "program"
    synchronous: ClassVar[bool] = True
    """Whether all nodes go through the same rounds, waiting in each for what it brings. Then a checkpoint is taken of a
    round, and a resumed run has the models of an uninterrupted one."""
    without_data: ClassVar[frozenset[str]] = frozenset()
    """The roles whose nodes hold no data and may not train."""
    evaluated_roles: ClassVar[frozenset[str] | None] = None
    """The roles whose models are evaluated; None for all."""

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        """Who plays which role; every id in exactly one."""
        return {"peer": range(nodes)}

    @property
    def goes_on_without(self) -> bool:
        """Whether a node goes on without a message that never comes: where the program has a `patience`."""
        return getattr(self, "patience", None) is not None

    def cycle(self) -> int:
        """After how many rounds the program does the same again: where models are comparable."""
        return 1

    def round_bytes(self, setting: Setting, model_bytes: int) -> float | None:
        """The bytes that a node is expected to send in a round, a mean over nodes; None where nobody can know.

        Args:
            setting: the experiment.
            model_bytes: the wire size of a message that holds one whole model.
        """
        return None

    def waiting_bytes(self, setting: Setting, message_bytes: int) -> float:
        """What may wait at a node at once, where most does, if none of what it needs is to be dropped.

        Args:
            setting: the experiment.
            message_bytes: what a message with one whole model takes.
        """
        return message_bytes

    async def run(self, node: Node) -> None:
        """The protocol, from the point of view of one node."""
        raise NotImplementedError
