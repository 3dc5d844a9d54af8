"""The decoding of messages from untrusted peers."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from covey.parts.errors import WireError
from covey.runtime.content import Content
from covey.runtime.node import Message, Node

T = TypeVar("T")
M = TypeVar("M", bound=Message | Content)


def understood(node: Node, messages: Iterable[M], read: Callable[[M], T]) -> Iterator[tuple[M, T]]:
    """Decode messages with `read`, and reject those for which it raises a WireError."""
    for message in messages:
        try:
            found = read(message)
        except WireError as error:
            node.reject(message, error.detail)
        else:
            yield message, found
