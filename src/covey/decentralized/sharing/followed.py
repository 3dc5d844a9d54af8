"""What a node knows of public copies where messages may be missed: its own, and one of every neighbour.

A change of a copy comes with the mark of the copy that it changes. A node that knows another one, or did not hear its
neighbour, asks in its next message for the whole copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from covey.learning.node import LearningNode
from covey.messages.compression import MARK_BYTES
from covey.parts.nodes import NodeId

BEFORE, COPY, MARK, ASK = "before", "copy", "mark", "ask"
"""The entries of messages: the mark that a change begins from; a whole copy and its mark; whether that is asked for."""


@dataclass(slots=True)
class Followed:
    """The copies, as a node's state keeps them between rounds."""

    copy: Tensor
    mark: bytes
    copies: dict[NodeId, Tensor]
    """Of the neighbours, as far as they are known."""
    marks: dict[NodeId, bytes]
    behind: set[NodeId]
    """Whose copies must be told anew, as far as the node knows."""
    asked: set[NodeId]
    """Who has asked for the node's own."""
    received: list[NodeId]
    """Whose copies are those of the round before `at`."""
    at: int

    @classmethod
    def of(cls, node: LearningNode, senders: Sequence[NodeId], first: tuple[Tensor, bytes] | None = None) -> "Followed":
        """What a node knows.

        Args:
            node: which.
            senders: its neighbours.
            first: the copy that all begin with, and its mark, if the node may know nothing yet.
        """
        state = node.state
        if "public copy" not in state:
            assert first is not None
            copy, mark = first
            copies, marks = dict.fromkeys(senders, copy), dict.fromkeys(senders, mark)
            return cls(copy, mark, copies, marks, set(), set(), [], 0)
        joined = cast(bytes, state["marks of copies"])
        return cls(
            cast(Tensor, state["public copy"]),
            cast(bytes, state["mark of public copy"]),
            {peer: cast(Tensor, state[_name(peer)]) for peer in senders},
            {peer: joined[index * MARK_BYTES :][:MARK_BYTES] for index, peer in enumerate(senders)},
            set(map(NodeId, cast(list[int], state["copies to ask for"]))),
            set(map(NodeId, cast(list[int], state["asked"]))),
            list(map(NodeId, cast(list[int], state["copies received"]))),
            cast(int, state["copies at"]),
        )

    def keep(self, node: LearningNode) -> None:
        """Keep all this in a node's state."""
        node.state |= {
            "public copy": self.copy,
            "mark of public copy": self.mark,
            **{_name(peer): copy for peer, copy in self.copies.items()},
            "marks of copies": b"".join(self.marks.values()),
            "copies to ask for": sorted(int(peer) for peer in self.behind),
            "asked": sorted(int(peer) for peer in self.asked),
            "copies received": [int(peer) for peer in self.received],
            "copies at": self.at,
        }


def _name(peer: NodeId) -> str:
    """What a node's state calls the copy of a neighbour."""
    return f"public copy of {peer}"
