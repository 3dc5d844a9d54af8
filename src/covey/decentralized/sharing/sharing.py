"""The part of gossip that says what is sent, and what a received message contributes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Literal, TypeVar, cast

import torch
from torch import Tensor

from covey.aggregation import Aggregation, Contribution
from covey.decentralized.sharing.shown import Shown
from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode
from covey.learning.selection import Selection
from covey.messages.payloads import Payload
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Part, Setting, param
from covey.runtime.node import Inbox, Message
from covey.runtime.patience import Hear
from covey.runtime.reading import understood

T = TypeVar("T")
_ALL_THE_WAY = 1.0 + 1e-5
"""How far a node goes to the mean of others; what is beyond 1 is room for rounding."""


class Sharing(Part):
    """Chooses what leaves a node; one object serves all nodes, so what belongs to one lives in `node.state`.

    A sharing is prepared with a setting, and called with nodes, whose model is the shared part alone: it need not know
    that models have anything else. A program calls it as `shown`, `messages` and `merged` have it.
    """

    family: ClassVar[str] = "sharing"
    by_change: ClassVar[bool] = False
    """Whether it chooses by what a round changed, and so asks for the model that the round began with."""
    several: ClassVar[bool] = False
    """Whether a round has several messages over an edge, which all nodes send and hear in the same order."""
    hides: ClassVar[bool] = False
    """Whether no receiver learns what one sender has. This holds for all that a node sends: a program sends models,
    gradients and updates by this sharing, or by the one that it gives for them (`beside`), or refuses it."""
    takes_buffers: ClassVar[bool] = False
    """Whether buffers may be among its numbers, of which it then has averages and nothing else. Otherwise they travel
    beside them, in full."""
    share: Literal["trained"] | list[str] = param(
        'What is shared: all that is trained, or the trained tensors whose names match patterns, such as ["body.*"]. '
        "What is frozen or not matched stays with its node.",
        default="trained",
    )
    buffers: Literal["average", "keep", "refuse"] = param(
        "What becomes of buffers, such as BatchNorm's statistics: averaged in full where their name or layer is "
        "shared, each node's own, or models that have any refused.",
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
                f"{self.named().capitalize()} hides models, and the buffers of this one would travel beside them as "
                f"they are. Set 'buffers' to 'keep'."
            )
        return self.selection.narrowed(setting)

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
        from covey.decentralized.sharing.full import Full

        if self.hides:
            raise ConfigurationError(f"{self.named().capitalize()} hides models alone, and {of} are to be sent, too.")
        return Full()

    # ------------------------------------------------------------------ what a program calls

    def shown(self, node: LearningNode) -> LearningNode:
        """A node as the sharing sees it in one round: the node itself where all of its model is shared."""
        return node if self.selection.is_whole else cast(LearningNode, Shown(node, self.selection))

    def messages(
        self, node: LearningNode, graph: Graph, t: int, start: Tensor
    ) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        """The messages of round t of a node, as `shown`: to whom, and what."""
        if not isinstance(node, Shown):
            return self.outgoing(node, graph, t, start)
        shown: Shown = node
        return [(receivers, shown.with_buffers(said)) for receivers, said in self.outgoing(node, graph, t, start)]

    def merged(
        self, node: LearningNode, graph: Graph, t: int, inbox: Inbox, aggregation: Aggregation
    ) -> Tensor | Mixture:
        """The whole model after round t of a node, as `shown`."""
        shown: Shown | None = node if isinstance(node, Shown) else None
        part = self.merge(node, graph, t, inbox if shown is None else shown.without_buffers(inbox), aggregation)
        reach = aggregation.reach(node.id, graph) if self.selection.buffered else 1.0
        if shown is None and reach <= _ALL_THE_WAY:
            return part
        whole = node.model if shown is None else shown.whole
        buffers = None if shown is None else shown.averaged_buffers(graph, aggregation)
        if reach > _ALL_THE_WAY:
            part, buffers = self._not_beyond(whole, part, buffers, reach)
        return self.selection.put(whole, part, buffers)

    def _not_beyond(
        self, whole: Tensor, part: Tensor | Mixture, buffers: Tensor | Mixture | None, reach: float
    ) -> tuple[Tensor | Mixture, Tensor]:
        """What is trained, and buffers no further than the mean of what was heard, however far models go: variances
        must not become negative."""
        if buffers is None:
            part, buffers = self.selection.split(part.tensor() if isinstance(part, Mixture) else part)
        moved = buffers.tensor() if isinstance(buffers, Mixture) else buffers
        return part, torch.lerp(self.selection.buffers(whole), moved, 1.0 / (reach * _ALL_THE_WAY))

    # ------------------------------------------------------------------ what a sharing is

    def check(self, topology: Topology, aggregation: Aggregation) -> None:
        """Raise ConfigurationError where this sharing makes no sense with the others; called once before every run."""

    async def agree(self, node: LearningNode, graph: Graph, t: int, start: Tensor, hear: Hear) -> None:
        """Whatever nodes must exchange before the messages of round t."""

    def outgoing(
        self, node: LearningNode, graph: Graph, t: int, start: Tensor
    ) -> Iterable[tuple[Sequence[NodeId], Payload]]:
        """The messages of round t: to whom, and what.

        Args:
            node: its model is the shared part.
            start: the model that the round began with, before its training, where `by_change` asks for it; else what
                `node.model` is.
        """
        raise NotImplementedError

    async def collect(self, node: LearningNode, graph: Graph, t: int, hear: Hear) -> Inbox:
        """The messages of round t, and whatever nodes must exchange after them."""
        return await hear("")

    def contribution(self, message: Message) -> Contribution:
        """What a received message contributes, whoever the receiver is.

        Raises:
            WireError: it is none of this sharing.
        """
        raise NotImplementedError

    def incoming(self, node: LearningNode, inbox: Inbox) -> list[Contribution]:
        """What the received messages contribute, in order of their senders; wrong ones are rejected."""
        contributions = [message.understood for message in inbox]
        if not all(contributions):
            new = [message for message in inbox if message.understood is None]
            for message, contribution in self.understand(node, new):
                message.understood = contribution
            contributions = [message.understood for message in inbox if message.understood is not None]
        return contributions

    def understand(self, node: LearningNode, messages: Sequence[Message]) -> Iterator[tuple[Message, Contribution]]:
        """Messages with what each contributes; wrong ones are rejected."""
        return understood(node, messages, self.contribution)

    def merge(
        self, node: LearningNode, graph: Graph, t: int, inbox: Inbox, aggregation: Aggregation
    ) -> Tensor | Mixture:
        """The node's model, as far as it is shared, after round t."""
        return aggregation.merge(node, graph, node.model, self.incoming(node, inbox))
