"""The decoding of messages from untrusted peers."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from covey.parts.errors import WireError
from covey.runtime.node import Message, Node

T = TypeVar("T")


def understood(node: Node, messages: Iterable[Message], read: Callable[[Message], T]) -> Iterator[tuple[Message, T]]:
    """Decode messages with `read`, and reject those for which it raises a WireError."""
    for message in messages:
        try:
            found = read(message)
        except WireError as error:
            node.reject(message, error.detail)
        else:
            yield message, found
