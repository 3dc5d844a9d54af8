"""The node contract: all that a program may ask of the node it runs on, whichever engine is under it.

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
    place changes it for nobody else.

Rounds
    `rounds()` counts 0, 1, 2 ... The end of each iteration commits the round: counters and metrics are recorded, a
    checkpoint may be taken. After a crash a node goes on at its first uncommitted round with the state of its last
    commit. A node that
    comes back and finds messages of later rounds waiting goes on at the latest of these rounds.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, TypeAlias, TypeVar

import numpy as np

from covey.messages.payloads import Entry, Payload, private
from covey.network.graph import Graph
from covey.parts.nodes import NodeId
from covey.parts.parameters import Part, Setting

if TYPE_CHECKING:
    from covey.runtime.state import State

T = TypeVar("T")
S = TypeVar("S", bound="State")
Entries: TypeAlias = dict[str, Entry]

HEARTBEAT: Final = "~"
"""How the tags of heartbeats begin: messages that say that somebody is there, or has done something. Those that nobody
takes are not counted as dropped."""


class Expected:
    """What an entry of a payload must be, where a type or a range does not say it."""

    __slots__ = ()

    def admits(self, value: Any, node: "Node") -> bool:
        """Whether a value that a node received is such."""
        raise NotImplementedError

    def in_words(self, node: "Node") -> str:
        """What it must be, as in "10 float32 numbers"."""
        raise NotImplementedError


Wanted: TypeAlias = Expected | type | range
"""What an entry of a payload must be: a value of a type (for float also an int), an int of a range, or else."""


@dataclass(frozen=True, slots=True)
class Numbers(Expected):
    """So many numbers in one row: a part of a model."""

    count: int
    dtype: str = "float32"

    def admits(self, value: Any, node: "Node") -> bool:
        return getattr(value, "shape", None) == (self.count,) and str(value.dtype).rpartition(".")[2] == self.dtype

    def in_words(self, node: "Node") -> str:
        return f"{self.count} {self.dtype} numbers"


class Message:
    """One message as its receiver sees it; `message["name"]` is an entry of the payload, to do with as one likes.

    Args:
        shared: the payload as all of its receivers have it, which nobody may write to.
    """

    __slots__ = ("key", "number", "round", "sender", "shared", "size", "tag", "understood")

    def __init__(self, sender: NodeId, tag: str, round: int | None, shared: Payload, size: int) -> None:
        self.sender = sender
        self.tag = tag
        self.round = round
        self.key = (tag, round)
        """What a `receive` asks for."""
        self.shared = shared
        self.size = size
        """Bytes of its wire encoding."""
        self.number = 0
        """How many messages its sender had sent before."""
        self.understood: Any = None
        """What a sharing made of it: simulated receivers share one message, and need not all read it."""

    @property
    def payload(self) -> Payload:
        """All entries."""
        return {name: self[name] for name in self.shared}

    def __getitem__(self, name: str) -> Any:
        return private(self.shared[name])

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


class Sending(Protocol):
    """A message to one or more receivers on its way."""

    def cancel(self) -> int:
        """Withdraw what has not left the sender; how many receivers will not get it."""


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
    state: Entries
    """What a resumed node needs: named tensors and plain values, as messages may hold them. `keep` gives it types."""

    @property
    @abstractmethod
    def now(self) -> float:
        """Seconds since the start, virtual or real."""

    @abstractmethod
    def keep(self, state: type[S], of: Part | str = "") -> S:
        """The node's state, as far as a class declares it.

        Args:
            state: the class.
            of: the part whose state it is, or another name that its entries begin with; the program's own by default.
        """

    @abstractmethod
    def rounds(self) -> AsyncIterator[int]:
        """The numbers of the rounds; the end of each iteration commits the round."""

    @abstractmethod
    def send(
        self, to: NodeId | Sequence[NodeId], payload: Payload, *, tag: str = "", round: int | None = None
    ) -> Sending:
        """Send a payload, as it is now, to one node or to several; never waits."""

    @abstractmethod
    def withdraw(self, tag: str) -> int:
        """Withdraw all messages of a tag that have not left this node; how many receivers will not get one."""

    @abstractmethod
    async def receive(
        self,
        *,
        tag: str | tuple[str, ...] = "",
        round: int | None = None,
        senders: Sequence[NodeId] | None = None,
        count: int | None = None,
        timeout: float | None = None,
        after: Sequence[str] | None = None,
    ) -> Inbox:
        """Wait for a message of each of `senders`, or for `count` messages of anybody.

        Args:
            tag, round: which messages; without a round, those of the tag's queue. Of several tags, messages of any of
                them are waited for, and each says its own.
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
    def usable(self, messages: Iterable[Message], /, **entries: Wanted) -> list[Message]:
        """Those messages whose payloads have some entries; the others are rejected.

        Args:
            messages: what arrived.
            entries: what each must be: a type such as int (for float also an int), a range such as range(100) for an
                int in it, `Numbers(10)`, or another `Expected`.
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
    def serve(self, tag: str, handler: Callable[[Message], Coroutine[Any, Any, None]]) -> None:
        """Let `handler` answer every message of a tag without a round, from now on, also after the program has ended.

        Who serves keeps nobody waiting: the run is over when the programs of all nodes have ended.
        """

    @abstractmethod
    async def compute(
        self,
        function: Callable[..., T],
        *arguments: Any,
        samples: float | None = None,
        seconds: float | None = None,
    ) -> T:
        """What a function gives, which takes the node time.

        Args:
            function: a pure one: what it gives depends on its arguments alone, and it changes nothing. It may be called
                in another thread and at another time. One with a parameter `random` is given a generator of the
                node's own. Where it has an attribute `together`, that is called with a list of such arguments for many
                nodes at once, and gives a list.
            arguments: arrays and plain values, taken as they are now.
            samples: how much work it is, in samples that the node would train on meanwhile; or
            seconds: how long it takes.
        """

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
        """Record figures of this node: under its round, or, outside of rounds, at this time in the table "log"."""

    @abstractmethod
    def record(self, table: str, /, **columns: bool | int | float | str | bytes | None) -> None:
        """Add a row to a table of the run, which `run.table` gives; a column has one type in all rows."""

    def measured(self, what: Literal["encoding", "mixing"]) -> AbstractContextManager[None]:
        """Counts what is done within it, which awaits nothing, as time spent on that. In virtual time it takes none."""
        return _UNMEASURED


_UNMEASURED = nullcontext()


class Program(Part):
    """What every node runs. Its parameters are its fields; one object serves all nodes of a process, so what belongs
    to one node lives in its state (`node.keep`)."""

    family: ClassVar[str] = "program"
    synchronous: ClassVar[bool] = False
    """Whether all nodes go through the same rounds, waiting in each for what it brings. Then a checkpoint is taken of a
    round, and a resumed run has the models of an uninterrupted one."""
    needs: ClassVar[type] = Node
    """What kind of node it runs on."""
    without_data: ClassVar[frozenset[str]] = frozenset()
    """The roles whose nodes hold no data."""
    evaluated_roles: ClassVar[frozenset[str] | None] = None
    """The roles whose models are evaluated, where nodes have models; None for all."""

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        """Who plays which role; every id in exactly one."""
        return {"peer": range(nodes)}

    def networks(self, setting: Setting) -> Mapping[str, Any]:
        """Models beside the nodes' own, by name, where nodes learn."""
        return {}

    def graph(self, t: int) -> Graph | None:
        """Who sends to whom in round t, with the weights of what is merged, where these are known beforehand.

        None where the program has no graphs.
        """
        return None

    has_one_graph: ClassVar[bool] = True
    """Whether the graph of all rounds is that of the first."""

    @property
    def tolerates_loss(self) -> bool:
        """Whether a node goes on without a message that never comes: where the program has a `patience`."""
        return getattr(self, "patience", None) is not None

    def cycle(self) -> int:
        """After how many rounds the program does the same again: where models are comparable."""
        return 1

    def most_received(self) -> int:
        """From how many others a node hears in a round, at most, as far as it is known beforehand."""
        graph = self.graph(0)
        return 1 if graph is None else int(graph.in_degrees.max())

    async def run(self, node: Any) -> None:
        """The protocol, from the point of view of one node of the kind that it needs."""
        raise NotImplementedError
