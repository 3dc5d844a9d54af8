"""The part of gossip that makes messages, and reads the contributions of received ones."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, TypeAlias, cast

from torch import Tensor

from covey.aggregation.aggregation import Aggregation, Contribution
from covey.decentralized.sharing.round import Round
from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.selection import BUFFERS, Selection
from covey.learning.views import Adversary, Arrived, View
from covey.messages.payloads import Payload
from covey.parts.errors import ConfigurationError, ProgramError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Part, Setting, param
from covey.runtime.content import Content
from covey.runtime.node import Inbox, Node
from covey.runtime.patience import Receive
from covey.runtime.reading import understood

Messages: TypeAlias = Iterable[tuple[Sequence[NodeId], Payload | Content]]
"""Pairs of receivers and a payload."""


class Sharing(Part):
    """Makes the messages of a node. One object serves all nodes, so values of a node belong to its state (`node.keep`).

    A sharing is prepared with a setting, and called with rounds. The model of a round's node is the shared part, so a
    sharing need not know of anything else in models. A program makes a `round`, sends it (`send`), receives it
    (`receive`), and puts the merged part back into the model (`Round.whole`). Most sharings define only their messages
    (`outgoing`) and the contribution of a message (`contribution`).
    """

    family: ClassVar[str] = "sharing"
    by_change: ClassVar[bool] = False
    """Whether it chooses values by the change of a round, and so needs the model that the round began with."""
    several: ClassVar[bool] = False
    """Whether a round has several messages over an edge, which all nodes send and receive in the same order."""
    hides: ClassVar[bool] = False
    """Whether no receiver learns the values of a single sender. This holds for all messages of a node: a program sends
    models, gradients and updates by this sharing, or by the one that it gives for them (`beside`), or refuses it."""
    content: ClassVar[type[Content] | None] = None
    """The class that declares the entries of a message; None if `contribution` reads messages itself."""
    exact: ClassVar[bool] = False
    """Whether the result of a round is that of the aggregation for the shared parts of all senders."""
    by_fragments: ClassVar[bool] = False
    """Whether each fragment of a model travels along the graph that the topology draws for it."""
    takes_buffers: ClassVar[bool] = False
    """Whether buffers may be among the numbers that it averages. Otherwise they are sent beside them, in full."""
    share: Literal["trained"] | list[str] = param(
        "The shared tensors: all that are trained, or the trained ones whose names match patterns, such as "
        '["body.*"]. The others stay with their node.',
        default="trained",
    )
    buffers: Literal["average", "keep", "refuse"] = param(
        "The treatment of buffers, such as BatchNorm's statistics: average those whose name or layer is shared, keep "
        "each node's own, or refuse models that have buffers.",
        default="average",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.share:
            raise ConfigurationError(
                f"The 'share' of {self.named()} must be 'trained' or at least one pattern. Got [] instead."
            )

    def scope(self, setting: Setting) -> Setting:
        self.selection = Selection.of(
            setting, self.share, self.buffers, owner=self.named(), beside=not self.takes_buffers
        )
        if self.hides and self.selection.beside:
            raise ConfigurationError(
                f"{self.named().capitalize()} hides models, but would send the buffers of this one as they are. Set "
                "'buffers' to 'keep'."
            )
        return self.selection.narrowed(setting)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._setting = setting

    def beside(self, of: str) -> "Sharing":
        """A sharing for whole vectors beside the model, with the promises of this one for models.

        Args:
            of: the name of the vectors in messages.

        Raises:
            ConfigurationError: there is none.
        """
        from covey.decentralized.sharing.full import Full

        if self.hides:
            raise ConfigurationError(f"{self.named().capitalize()} hides models only, and {of} are sent, too.")
        return Full()

    def round(
        self,
        node: LearningNode,
        topology: Topology,
        t: int,
        aggregation: Aggregation,
        receive: Receive,
        start: Tensor | None,
    ) -> Round:
        """A round of a node, for `send` and `receive`.

        Args:
            start: the model that the round began with, before its training; None for the node's current one.
        """
        start = start if self.by_change else None
        return Round(node, topology, t, aggregation, receive, selection=self.selection, start=start)

    # ------------------------------------------------------------------ for every sharing

    def check_with(self, topology: Topology, aggregation: Aggregation) -> None:
        """Raise ConfigurationError if this sharing does not work with the others.

        It is called when the program is checked and, if graphs depend on labels, again when it is prepared.
        """

    def outgoing(self, round: Round) -> Messages:
        """The messages of a round: pairs of receivers and a payload."""
        raise NotImplementedError

    def contribution(self, message: Any) -> Contribution:
        """The contribution of a received message, the same for every receiver.

        Args:
            message: its `content` or, without such a class, the `Message`.

        Raises:
            WireError: it is none of this sharing.
        """
        raise NotImplementedError

    def message_of(self, model: Tensor) -> Payload | None:
        """The entries of the one message that a node with a model sends to all its receivers in a round.

        None if a round has other messages, or if a receiver merges anything else than the models that were sent.
        """
        return None

    # ------------------------------------------------------------------ for other rounds

    def merge(self, round: Round, inbox: Inbox) -> Tensor | Mixture:
        """The node's model, as far as it is shared, after a round."""
        return round.merge(round.node.model, self.contributions(round, inbox))

    async def send(self, round: Round) -> None:
        """Send the messages of a round, after all that nodes must exchange before them."""
        with round.node.measured("encoding"):
            messages = list(self.outgoing(round))
        for receivers, payload in messages:
            round.send(receivers, payload)

    async def receive(self, round: Round) -> Tensor | Mixture:
        """Receive the messages of a round, and all that nodes must exchange after them; the result of `merge`."""
        inbox = await round.receive()
        with round.node.measured("mixing"):
            return self.merge(round, inbox)

    # ------------------------------------------------------------------ for attacks

    def views(
        self, adversary: Adversary, topology: Topology, aggregation: Aggregation, messages: Iterable[Arrived]
    ) -> Iterator[View]:
        """The models that the messages to an observed node tell of; by default, the contribution of each message.

        Args:
            adversary: the observed node.
            topology: the graphs.
            aggregation: the rule that merges models.
            messages: all that it received, in the order of arrival.
        """
        reader = adversary.narrowed(self.selection)
        for message in messages:
            if message.tag:
                continue
            inner = self.without_buffers(message)
            usable: Iterable[Any] = [inner] if self.content is None else reader.usable([inner], self.content)
            for _, found in understood(cast(Node, reader), usable, self.contribution):
                yield self.view(adversary, message, found.shared_values, found.shared_indices)

    def without_buffers(self, message: Arrived) -> Arrived:
        """A message without the buffers beside its values."""
        if not self.selection.beside or BUFFERS not in message.shared:
            return message
        return message.renamed(message.tag, {name: e for name, e in message.shared.items() if name != BUFFERS})

    def view(
        self, adversary: Adversary, message: Arrived, values: Tensor, indices: Tensor | None = None, **facts: Any
    ) -> View:
        """A view of values of the shared part, in float32."""
        return adversary.view(message, values.float(), indices, selection=self.selection, **facts)

    # ------------------------------------------------------------------ for a sharing

    def contributions(self, round: Round, inbox: Inbox) -> list[Contribution]:
        """The contributions of the received messages, in order of their senders; wrong messages are rejected."""
        found = [message.understood for message in inbox]
        if not all(found):
            new = [message for message in inbox if message.understood is None]
            usable: Iterable[Any] = new if self.content is None else round.node.usable(new, self.content)
            for one, contribution in understood(round.node, usable, self.contribution):
                if not isinstance(contribution, Contribution):
                    raise ProgramError(
                        f"The contribution of a message by the sharing {type(self).__name__} must be a Contribution. "
                        f"Got a {type(contribution).__name__} instead."
                    )
                (one.message if isinstance(one, Content) else one).understood = contribution
            found = [message.understood for message in inbox if message.understood is not None]
        return found
