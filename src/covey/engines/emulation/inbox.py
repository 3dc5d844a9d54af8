"""The mailbox of a node that others can reach over sockets: no more than so many bytes wait in it."""

from collections.abc import Callable, Sequence

from covey.engines.mailbox import Key, Mailbox
from covey.node import Message


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
        """Bytes that wait, and those of dropped duplicates until the round ends."""

    def deliver(self, message: Message) -> None:
        if self.held + message.size > self._most:
            self.dropped += 1
            self._refused("inbox-full")
            return
        self.held += message.size
        super().deliver(message)

    def take(self, key: Key, senders: Sequence[int] | None = None, count: int | None = None) -> list[Message]:
        taken = super().take(key, senders, count)
        self.held -= sum(message.size for message in taken)
        return taken

    def open(self, round: int) -> None:
        super().open(round)
        self.held = sum(message.size for box in self._boxes.values() for message in box.values() if message is not None)

    def clear(self, *, dropped: bool) -> None:
        super().clear(dropped=dropped)
        self.held = 0
