"""Vectors beside the model, such as gradients: the mean of a node's vector and those of its neighbours.

They are sent in messages of their own by a sharing, whose promises for models hold for them.
"""

from collections.abc import Awaitable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any, TypeVar, cast

from torch import Tensor

from covey.aggregation.linear import Mean
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Sharing
from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.messages.payloads import Payload
from covey.parts.nodes import NodeId
from covey.parts.parameters import Part
from covey.runtime.content import Content, entries_of, usable
from covey.runtime.node import Entries, Inbox, Message, Node, Sending, Wanted
from covey.runtime.patience import Receive
from covey.runtime.state import State

S = TypeVar("S", bound=State)


async def averaged(
    sharing: Sharing, node: LearningNode, topology: Topology, t: int, vector: Tensor, receive: Receive, *, called: str
) -> Tensor:
    """The mean of a node's vector and those of its neighbours.

    Args:
        sharing: prepared with as many parameters as the vector has, and checked with the topology and the mean. It
            serves this alone.
        node: whose.
        topology: the graph of neighbours.
        t: the round, in which a node calls this once.
        vector: its own.
        receive: as patiently as the program does.
        called: the prefix of the names of messages, state entries and figures of the node.
    """
    own = cast(LearningNode, _Apart(node, vector, called))

    def receive_apart(tag: str, senders: Sequence[NodeId] | None = None) -> Awaitable[Inbox]:
        return receive(_tag(called, tag), senders)

    round = Round(own, topology, t, Mean(), receive_apart)
    await sharing.send(round)
    mean = await sharing.receive(round)
    return mean.tensor() if isinstance(mean, Mixture) else mean


def _tag(called: str, tag: str) -> str:
    return f"{called} {tag}" if tag else called


class _Apart:
    """A node whose model is another vector, with tags, state, figures and randomness of their own."""

    def __init__(self, node: LearningNode, vector: Tensor, called: str) -> None:
        self._node = node
        self._called = called
        self.model = vector
        self.shape = vector.shape
        self.state = _Named(node.state, f"{called} ")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def keep(self, state: type[S], of: Part | str = "") -> S:
        place = of if isinstance(of, str) else of.place
        return self._node.keep(state, f"{self._called} {place}".rstrip())

    def send(
        self, to: NodeId | Sequence[NodeId], payload: Payload | Content, *, tag: str = "", round: int | None = None
    ) -> Sending:
        return self._node.send(to, entries_of(payload, cast(Node, self)), tag=_tag(self._called, tag), round=round)

    def usable(self, messages: Iterable[Message], content: Any = None, /, **entries: Wanted) -> Any:
        return usable(cast(Node, self), messages, content, entries, copy=self.careful)

    def random(self, purpose: str, *key: int) -> Any:
        return self._node.random(f"{self._called} {purpose}", *key)

    def log(self, **metrics: float) -> None:
        self._node.log(**{f"{self._called} {name}": value for name, value in metrics.items()})


class _Named(MutableMapping[str, Any]):
    """The entries of a state whose names begin alike, without that."""

    def __init__(self, state: Entries, prefix: str) -> None:
        self._state = state
        self._prefix = prefix

    def __getitem__(self, name: str) -> Any:
        return self._state[self._prefix + name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._state[self._prefix + name] = value

    def __delitem__(self, name: str) -> None:
        del self._state[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._state if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)
