"""The public copies that a node keeps if messages may be missed: its own, and one of every neighbour.

A change of a copy has the mark of the copy that it changes. A node that keeps another copy, or has missed a message of
its neighbour, asks in its next message for the whole copy.
"""

from typing import Annotated

from torch import Tensor

from covey.messages.compression import MARK_BYTES
from covey.parts.nodes import NodeId
from covey.runtime.content import Content
from covey.runtime.entries import Bytes
from covey.runtime.state import State


class Change(Content):
    """A change of a copy. The other entries of its message are the compressed vector."""

    before: Annotated[bytes, Bytes(MARK_BYTES)]
    """The mark of the copy that is changed."""
    ask: bool = False
    """True if its sender asks for the whole copy of the receiver."""


class WholeCopy(Content):
    """A whole copy."""

    copy: Tensor
    mark: Annotated[bytes, Bytes(MARK_BYTES)]
    ask: bool = False
    """True if its sender asks for the whole copy of the receiver."""


class Followed(State):
    """The copies that a node knows."""

    at: int = -1
    """The round in which `received` is used; below 0 if the node knows no copy yet."""
    copy: Tensor
    """The node's own copy."""
    mark: bytes
    copies: dict[NodeId, Tensor] = {}
    """The copies of its neighbours."""
    marks: dict[NodeId, bytes] = {}
    behind: list[NodeId] = []
    """The neighbours whose copies the node must ask for."""
    asked: list[NodeId] = []
    """The neighbours that have asked for the node's own."""
    received: list[NodeId] = []
    """The neighbours whose copies are those of the round before `at`."""
