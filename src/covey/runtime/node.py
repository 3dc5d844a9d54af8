"""The contract between a program and its node, the same in every engine.

Messages
    A message has a tag and, if it belongs to a round, that round's number. Messages arrive at most once. Those of one
    sender arrive in order, unless links are shared (`queue = "fair"`).
    - An early message, for a round that this node has not reached, waits for its round.
    - A late message, for a round that this node has committed, is dropped and counted.
    - A duplicate, a second one of the same sender, tag and round, is dropped and counted.
    - A message without a round waits in the queue of its tag until the program takes it.
    - A message for a node that is away, or whose program has ended, is dropped and counted.
    - A message with a number that is not finite, alone or in a tensor or list, is dropped and counted, and an event
      names its sender.
    A peer may send anything else. `usable` selects the messages that have the entries which the program needs.

Tensors
    A program owns the tensors that it gets, and the node takes a snapshot of those that it is given. A write in place
    changes a tensor at no other node.

Rounds
    `rounds()` counts 0, 1, 2 ... The end of each iteration commits the round: counters and metrics are recorded, and a
    checkpoint may be taken. After a crash a node resumes at its first uncommitted round, with the state of its last
    commit. A node that returns and finds messages of later rounds continues at the latest of these rounds.

Pseudonyms
    A program with an `overlay` has virtual nodes, each of which a node acts for. In every round a peer sampler gives
    them new names and a new graph. No randomness of a node or of the setting gives its numbers: `sampled` tells each
    node its own share, and nothing else tells which node acts under a name.
    - A message under a name has the name as its sender, the number 0, and the entries that the program gives it.
    - Names are uniform in each round, and independent of those of other rounds. A name is never used again.
    - Messages of a pseudonym belong to its round, and `receive` orders them by names.
    The time at which a message arrives, and all that the program writes into it, are not hidden.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, TypeAlias, TypeVar, overload

import numpy as np

from covey.messages.payloads import Entry, Payload, private
from covey.network.devices import Features
from covey.network.graph import Graph
from covey.parts.nodes import NodeId
from covey.parts.parameters import Part, Setting

if TYPE_CHECKING:
    from covey.runtime.content import Content
    from covey.runtime.linear import LinearRounds
    from covey.runtime.sampler import Overlay
    from covey.runtime.state import State

T = TypeVar("T")
S = TypeVar("S", bound="State")
C = TypeVar("C", bound="Content")
Entries: TypeAlias = dict[str, Entry]

HEARTBEAT: Final = "~"
"""The first character of the tags of heartbeats, messages that show that a node is alive or has done something. Those
that are not taken do not count as dropped."""


class Expected:
    """A type of entry of a payload, in addition to plain types and ranges."""

    __slots__ = ()

    def admits(self, value: Any, node: "Node") -> bool:
        """True if a value that a node received is of this type."""
        raise NotImplementedError

    def is_within(self, declared: "Wanted") -> bool:
        """True if all values of this type are certainly of a declared one."""
        return False

    def in_words(self, node: "Node") -> str:
        """A description of the values, as in "10 float32 numbers"."""
        raise NotImplementedError


Wanted: TypeAlias = Expected | type | range
"""The type of an entry of a payload: a type (float includes int), a range of ints, or an `Expected`."""


class Message:
    """A message at its receiver. `message["name"]` is a copy of an entry of the payload that may be changed.

    Args:
        sender: its sender.
        tag: its tag.
        round: its round, or None.
        shared: the payload in memory that all receivers share. It must not be written to.
        size: the bytes of its frame.
    """

    __slots__ = ("key", "legs", "load", "name", "number", "round", "sender", "shared", "size", "tag", "understood")

    def __init__(self, sender: NodeId, tag: str, round: int | None, shared: Payload, size: int) -> None:
        self.sender = sender
        self.tag = tag
        self.round = round
        self.key = (tag, round)
        """The tag and round, by which `receive` selects messages."""
        self.shared = shared
        self.size = size
        """The bytes of its frame."""
        self.number = 0
        """The number of messages that its sender had sent before."""
        self.name: NodeId | None = None
        """The name of the virtual node for which it came; None for a message to the node itself."""
        self.legs, self.load = 1, 1.0
        """The factors of its latency and of its time on the sender's uplink, if it passes other machines."""
        self.understood: Any = None
        """The result of a sharing's decoding: simulated receivers share one message, and only the first decodes it."""

    @property
    def payload(self) -> Payload:
        """Copies of all entries."""
        return {name: self[name] for name in self.shared}

    def __getitem__(self, name: str) -> Any:
        return private(self.shared[name])

    def __contains__(self, name: object) -> bool:
        return name in self.shared

    def __repr__(self) -> str:
        return f"Message(sender={self.sender}, tag={self.tag!r}, round={self.round}, size={self.size})"


class Inbox(list[Message]):
    """The result of a `receive`: the messages in order of senders, and the senders whose message did not arrive."""

    __slots__ = ("lost", "missing")

    def __init__(self, messages: Iterable[Message] = (), missing: Sequence[int] = (), lost: Sequence[int] = ()) -> None:
        list.__init__(self, messages)
        self.missing = missing
        self.lost = lost
        """The missing senders whose message is lost, because a later one of theirs has arrived."""

    @property
    def complete(self) -> bool:
        """True if a message of each awaited sender arrived."""
        return not self.missing


class Sending(Protocol):
    """A message in transit to one or more receivers."""

    def cancel(self) -> int:
        """Withdraw the copies that have not left the sender, and return their number."""


class Pseudonym(ABC):
    """A virtual node that a node acts for, in one round."""

    __slots__ = ()

    id: NodeId
    """Its name of the round, which is no node's id."""
    number: int
    """Its number among the virtual nodes of its node."""
    peers: tuple[NodeId, ...]
    """The names of its neighbours, in order. It sends to them, and receives from them."""

    @abstractmethod
    def send(self, payload: "Payload | Content", *, tag: str = "") -> Sending:
        """Send a snapshot of a payload to all neighbours, without waiting."""

    @abstractmethod
    async def receive(self, *, tag: str = "", timeout: float | None = None) -> Inbox:
        """Wait for a message of each neighbour, for at most some seconds."""


class Activity(Protocol):
    """A second activity of a node."""

    @property
    def done(self) -> bool:
        """True if it has ended."""

    async def wait(self) -> None:
        """Wait until it has ended."""


class Node(ABC):
    """The handle of a program. The program can reach nothing else of the network, the engine or other nodes."""

    __slots__ = ()

    id: NodeId
    role: str
    """The role, "peer" unless the program assigns roles."""
    nodes: int
    """The number of nodes of the network."""
    state: Entries
    """The named tensors and plain values that survive a crash or a resumption. `keep` gives them types."""

    @property
    @abstractmethod
    def now(self) -> float:
        """The seconds since the start, in virtual or real time."""

    @property
    @abstractmethod
    def device(self) -> Features:
        """The current features of the node's own device, read-only: "model", and numbers by name. Empty without
        `devices` of the network."""

    @property
    @abstractmethod
    def spent(self) -> float:
        """The joules that this node has spent since the start; 0 if the network has no `energy`."""

    @abstractmethod
    def keep(self, state: type[S], of: Part | str = "") -> S:
        """The typed part of the node's state that a class declares.

        Args:
            state: the class.
            of: the part that owns the state, or another prefix of the entries' names; by default, the program.
        """

    @abstractmethod
    def rounds(self) -> AsyncIterator[int]:
        """Iterate over the numbers of the rounds. The end of each iteration commits the round."""

    @abstractmethod
    def send(
        self, to: NodeId | Sequence[NodeId], payload: "Payload | Content", *, tag: str = "", round: int | None = None
    ) -> Sending:
        """Send a snapshot of a payload to one or several nodes, without waiting."""

    @abstractmethod
    async def sampled(self, round: int) -> list[Pseudonym]:
        """The virtual nodes that this node acts for in a round, in order of their names."""

    @abstractmethod
    def withdraw(self, tag: str) -> int:
        """Withdraw all messages of a tag that have not left this node, and return the number of copies."""

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
        """Wait for a message of each of `senders`, or for `count` messages of any senders.

        Args:
            tag, round: the messages; without a round, those of the tag's queue. With several tags, messages of any of
                them count.
            senders: the senders to wait for. An empty sequence waits for nothing.
            count: the number of messages to wait for, of any senders.
            timeout: the seconds after which the messages so far are returned. `Inbox.missing` has the other senders.
            after: the tags of the round, or their beginnings, that senders send before these messages; all others they
                send later. If links keep order, a later message shows that an earlier one is lost, and `receive` does
                not wait for it. By default, only messages of later rounds with the same tag count as later.
        """

    @abstractmethod
    def arrived(self, *, tag: str = "", round: int | None = None) -> Inbox:
        """Take the messages that have arrived, without waiting."""

    @overload
    def usable(self, messages: Iterable[Message], content: type[C], /, **entries: Wanted) -> list[C]: ...
    @overload
    def usable(self, messages: Iterable[Message], /, **entries: Wanted) -> list[Message]: ...
    @abstractmethod
    def usable(self, messages: Iterable[Message], content: Any = None, /, **entries: Wanted) -> Any:
        """Select the messages whose payloads have the wanted entries, and reject the others.

        Args:
            messages: the messages.
            content: the class that declares the entries. The result is its objects in place of messages.
            entries: the type of entries that are required, if it is narrower than declared or there is no class: a type
                such as int (float includes int), a range such as range(100) for an int in it, `Numbers(10)`, or another
                `Expected`.
        """

    @abstractmethod
    def reject(self, message: "Message | Content", reason: str) -> None:
        """Count a message that the program cannot use, and record an event with its sender."""

    @abstractmethod
    def discard(self, message: "Message | Content") -> None:
        """Count a sound message that came too late as dropped, without an event."""

    @abstractmethod
    def messages(self, tag: str) -> AsyncIterator[Message]:
        """Iterate over the messages of a tag without a round, as they arrive."""

    @abstractmethod
    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Activity:
        """Start a second activity of this node. It ends with the program, and its exception is the node's."""

    @abstractmethod
    def serve(self, tag: str, handler: Callable[[Message], Coroutine[Any, Any, None]]) -> None:
        """Call `handler` for every message of a tag without a round, from now on, also after the program has ended.

        Handlers do not prolong a run: it ends when the programs of all nodes have ended.

        After a resume, a handler that had not finished begins again with its message. A node whose program had ended
        serves again: the program runs again without its completed rounds. Each of its answers is a commit. Such a node
        serves no more if the program had sent or taken messages after its last round, other than in handlers, or if
        checkpoints hold no mail, as those of a synchronous program that follows a graph.
        """

    @abstractmethod
    async def compute(
        self,
        function: Callable[..., T],
        *arguments: Any,
        samples: float | None = None,
        seconds: float | None = None,
    ) -> T:
        """Call a function, which takes time of the node.

        Args:
            function: a pure function: its result depends only on its arguments, and it changes nothing. It may be
                called in another thread and later. If it has a parameter `random`, it gets a generator of the node. If
                it has an attribute `together`, that is called with a list of arguments for many nodes, and returns a
                list.
            arguments: arrays and plain values, of which a snapshot is taken.
            samples: the work, in samples on which the node could train meanwhile.
            seconds: the duration, instead of `samples`.
        """

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds of the node's clock."""

    @abstractmethod
    def random(self, purpose: str, *key: int) -> np.random.Generator:
        """The node's own generator for (purpose, key). The same key gives the same numbers."""

    @abstractmethod
    def public_random(self, purpose: str, *key: int) -> np.random.Generator:
        """A generator for (purpose, key) that is the same at every node."""

    @abstractmethod
    def log(self, **metrics: float) -> None:
        """Record figures of this node under its round or, outside of rounds, in the table "log" with the time."""

    @abstractmethod
    def record(self, table: str, /, **columns: bool | int | float | str | bytes | None) -> None:
        """Add a row to a table of the run, for `run.table`. A column must have one type in all rows."""

    def measured(self, what: Literal["encoding", "mixing"]) -> AbstractContextManager[None]:
        """Measure the time within the context, which must not await. In virtual time it is zero."""
        return _UNMEASURED


_UNMEASURED = nullcontext()


class Program(Part):
    """A program, which every node runs. Its fields are its parameters. One object serves all nodes of a process, so
    values of one node must be in its state (`node.keep`)."""

    family: ClassVar[str] = "program"
    synchronous: ClassVar[bool] = False
    """True if nodes wait for messages of named senders, so that a resumed run has the models of an uninterrupted one. A
    checkpoint is taken at the end of a round or, while nodes go on without one that stays in its round, with mail."""
    needs: ClassVar[type] = Node
    """The class of node that it needs."""
    without_data: ClassVar[frozenset[str]] = frozenset()
    """The roles whose nodes hold no data."""
    evaluated_roles: ClassVar[frozenset[str] | None] = None
    """The roles whose models are evaluated, if nodes have models; None for all."""

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        """The ids of the nodes of each role. Every id has exactly one role."""
        return {"peer": range(nodes)}

    def judged_roles(self) -> frozenset[str] | None:
        """The roles whose models are evaluated with these parameters: by default, `evaluated_roles`."""
        return self.evaluated_roles

    def networks(self, setting: Setting) -> Mapping[str, Any]:
        """The further networks of a program that learns, by name."""
        return {}

    def graph(self, t: int) -> Graph | None:
        """The graph of round t, with the weights of merging if they do not depend on the models.

        None if the program has no graphs.
        """
        return None

    def overlay(self, nodes: int) -> "Overlay | None":
        """The virtual nodes that the nodes of a network act for; None without any."""
        return None

    def nodes_with_hosts_of_their_own(self, nodes: int) -> Sequence[int]:
        """The nodes that protect others only if no other node is on their host."""
        return ()

    has_one_graph: ClassVar[bool] = True
    """True if all rounds have the same graph."""

    @property
    def tolerates_loss(self) -> bool:
        """True if a node continues without a message that never arrives. By default, if `patience` is set."""
        return getattr(self, "patience", None) is not None

    def cycle(self) -> int:
        """The period of the program in rounds. Models are comparable at its multiples."""
        return 1

    def most_received(self) -> int:
        """The greatest number of messages that a node receives in a round, as far as it is known in advance."""
        graph = self.graph(0)
        return 1 if graph is None else int(graph.in_degrees.max())

    def linear(self, setting: Setting) -> "LinearRounds | None":
        """The rounds of the prepared program as linear maps of all models, which an engine may then compute as arrays.

        None if they are none, or not known beforehand.
        """
        return None

    def against_linear(self, setting: Setting) -> str | None:
        """The reason why `linear` gives None, as the end of a sentence; None if it does not."""
        return f"the program {self.title()} does not state its rounds as linear maps of models"

    async def run(self, node: Any) -> None:
        """Run the protocol at one node."""
        raise NotImplementedError
