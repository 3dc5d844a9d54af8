"""The part of gossip that says what is sent, and what a received message contributes."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import ClassVar, Protocol, TypeVar

from torch import Tensor

from covey.aggregation import Aggregation, Contribution
from covey.errors import ConfigurationError, WireError
from covey.node import Inbox, Message, Mixture, Node, NodeId, Payload
from covey.parameters import Part, Setting
from covey.topology import Graph, Topology

T = TypeVar("T")


class Hear(Protocol):
    """Waits for messages of the round, as patiently as the program does."""

    def __call__(self, tag: str, senders: Sequence[NodeId] | None = None, /) -> Awaitable[Inbox]:
        """What some have sent under a tag; by default all senders of the round."""


class Sharing(Part):
    """Chooses what leaves a node; one object serves all nodes, so what belongs to one lives in `node.state`."""

    family: ClassVar[str] = "sharing"
    by_change: ClassVar[bool] = False
    """Whether it chooses by what a round changed, and so asks for the model that the round began with."""
    hides: ClassVar[bool] = False
    """Whether no receiver learns what one sender has. This holds for all that a node sends: a program sends models,
    gradients and updates by this sharing, or by the one that it gives for them (`beside`), or refuses it."""

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._setting = setting

    def beside(self, of: str) -> "Sharing":
        """A sharing for whole vectors beside the model, which promises of them what this one does of models.

        Args:
            of: what they are, as messages call it.

        Raises:
            ConfigurationError: there is none.
        """
        from covey.sharing.full import Full

        if self.hides:
            raise ConfigurationError(f"{self.named().capitalize()} hides models alone, and {of} are to be sent, too.")
        return Full()

    def check(self, topology: Topology, aggregation: Aggregation) -> None:
        """Raise ConfigurationError where this sharing makes no sense with the others; called once before every run."""

    async def agree(self, node: Node, graph: Graph, t: int, start: Tensor, hear: Hear) -> None:
        """Whatever nodes must exchange before the messages of round t."""

    def outgoing(self, node: Node, graph: Graph, t: int, start: Tensor) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        """The messages of round t: to whom, and what.

        Args:
            start: the model that the round began with, before its training, where `by_change` asks for it; else what
                `node.model` is.
        """
        raise NotImplementedError

    async def collect(self, node: Node, graph: Graph, t: int, hear: Hear) -> Inbox:
        """The messages of round t, and whatever nodes must exchange after them."""
        return await hear("")

    def contribution(self, message: Message) -> Contribution:
        """What a received message contributes, whoever the receiver is.

        Raises:
            WireError: it is none of this sharing.
        """
        raise NotImplementedError

    def incoming(self, node: Node, inbox: Inbox) -> list[Contribution]:
        """What the received messages contribute, in order of their senders; wrong ones are rejected."""
        contributions = [message.understood for message in inbox]
        if not all(contributions):
            new = [message for message in inbox if message.understood is None]
            for message, contribution in self.understand(node, new):
                message.understood = contribution
            contributions = [message.understood for message in inbox if message.understood is not None]
        return contributions

    def understand(self, node: Node, messages: Sequence[Message]) -> Iterator[tuple[Message, Contribution]]:
        """Messages with what each contributes; wrong ones are rejected."""
        return understood(node, messages, self.contribution)

    def merge(self, node: Node, graph: Graph, t: int, inbox: Inbox, aggregation: Aggregation) -> Tensor | Mixture:
        """The node's model after round t."""
        return aggregation.merge(node, graph, node.model, self.incoming(node, inbox))

    def message_bytes(self, model_bytes: int) -> float | None:
        """The expected size of one message, given that of a message with a whole model; a mean over all rounds.

        None where it depends on what models become.
        """
        raise NotImplementedError

    def largest_bytes(self, model_bytes: int) -> float:
        """The size of the largest message, given that of a message with a whole model; where all are alike, any's."""
        expected = self.message_bytes(model_bytes)
        assert expected is not None
        return expected


def understood(node: Node, messages: Iterable[Message], read: Callable[[Message], T]) -> Iterator[tuple[Message, T]]:
    """Messages with what `read` makes of them; those of which it raises a WireError are rejected."""
    for message in messages:
        try:
            found = read(message)
        except WireError as error:
            node.reject(message, error.detail)
        else:
            yield message, found
