"""The mailbox of a node that others can reach over sockets: no more than so many bytes wait in it."""

from collections.abc import Callable, Sequence

from covey.engines.mailbox import Key, Mailbox
from covey.node import Message

_ENTRY, _ITEM = 1024, 64


def _memory(message: Message) -> int:
    """What a message takes in memory, about: objects for what are a few bytes in a frame."""
    lists = sum(len(value) for value in message.payload.values() if type(value) is list)
    return message.size + _ENTRY * (1 + len(message.payload)) + _ITEM * lists


class Inbox(Mailbox):
    """Drops what comes while it is full.

    Args:
        most: bytes.
        refused: told the reason of every message that is dropped for want of room.
        ordered: see `Mailbox`.
    """

    __slots__ = ("_most", "_refused", "held")

    def __init__(self, most: int, refused: Callable[[str], None], *, ordered: bool) -> None:
        super().__init__(ordered=ordered)
        self._most, self._refused = most, refused
        self.held = 0
        """The memory that waiting messages take, about."""

    def deliver(self, message: Message) -> None:
        needed, dropped = _memory(message), self.dropped
        if self.held + needed > self._most:
            self.dropped += 1
            self._refused("inbox-full")
            return
        self.held += needed
        super().deliver(message)
        if self.dropped > dropped:
            self.held -= needed

    def take(self, key: Key, senders: Sequence[int] | None = None, count: int | None = None) -> list[Message]:
        taken = super().take(key, senders, count)
        self.held -= sum(map(_memory, taken))
        return taken

    def open(self, round: int) -> None:
        super().open(round)
        self.held = sum(_memory(message) for box in self._boxes.values() for message in box.values() if message)

    def clear(self, *, dropped: bool) -> None:
        super().clear(dropped=dropped)
        self.held = 0
