"""The numbers of nodes."""

from typing import NewType

NodeId = NewType("NodeId", int)
"""The number of a node, from 0 on."""
