"""What a node knows of public copies where messages may be missed: its own, and one of every neighbour.

A change of a copy comes with the mark of the copy that it changes. A node that knows another one, or did not hear its
neighbour, asks in its next message for the whole copy.
"""

from torch import Tensor

from covey.parts.nodes import NodeId
from covey.runtime.state import State

BEFORE, COPY, MARK, ASK = "before", "copy", "mark", "ask"
"""The entries of messages: the mark that a change begins from; a whole copy and its mark; whether that is asked for."""


class Followed(State):
    """The copies that a node knows."""

    at: int = -1
    """In which round `received` is to be used; below 0 where the node knows nothing yet."""
    copy: Tensor
    """The node's own."""
    mark: bytes
    copies: dict[NodeId, Tensor] = {}
    """Those of its neighbours."""
    marks: dict[NodeId, bytes] = {}
    behind: list[NodeId] = []
    """Whose copies the node must ask for."""
    asked: list[NodeId] = []
    """Who has asked for the node's own."""
    received: list[NodeId] = []
    """Whose copies are those of the round before `at`."""
